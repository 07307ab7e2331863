/* SPDX-License-Identifier: MIT */
/*
 * macs.c - which peer has which Ethernet address: see vpn.h.
 *
 * Theory of operation: an address belongs to whoever sends from it. A peer cannot take one that another peer, or the
 * guest, was seen with less than `hold` ago: a host that was broken into must not draw others' frames to itself. An
 * address that the configuration lists is its owners' for ever, and moves between them at once, as a guest
 * that migrates does. The guest may take unlisted ones from anybody: what it calls itself is for
 * antispoof to judge, and it must be able to arrive.
 *
 * Entries are found in a bucket by a product with a random number, which nobody outside can aim at. No owner has more
 * than QUOTA unlisted ones, and none pushes out one that is fresh.
 */
#include "net/vpn/vpn.h"

#include <sodium.h>

#define FORGOTTEN DT_S(300)
#define QUOTA     1024u

static uint64_t number_of(const uint8_t mac[6])
{
    uint64_t n = 0;

    memcpy(&n, mac, 6);
    return n;
}

static unsigned bucket_of(const struct vpn_macs *m, uint64_t mac)
{
    return (unsigned)(mac * m->multiplier >> 55);
}
_Static_assert(MACS_BUCKETS == 1u << (64 - 55), "the product's upper bits");

static const struct mac_entry *find(const struct vpn_macs *m, uint64_t mac)
{
    const struct mac_entry *bucket = m->entries[bucket_of(m, mac)];

    for (unsigned i = 0; i < MACS_WAYS; i++)
        if (bucket[i].mac == mac)
            return &bucket[i];
    return NULL;
}

static bool is_fresh(const struct vpn_macs *m, const struct mac_entry *e, uint64_t now)
{
    return e->allowed || (e->seen && now - e->seen < m->hold);
}

static void give(struct vpn_macs *m, struct mac_entry *e, uint8_t owner)
{
    if (!e->allowed && e->owner != MAC_NOBODY)
        m->count[e->owner]--;
    if (!e->allowed && owner != MAC_NOBODY)
        m->count[owner]++;
    e->owner = owner;
}

/* An entry that is nobody's, or else the one that was not seen for longest. */
static struct mac_entry *make_room(struct vpn_macs *m, uint64_t mac, uint64_t now)
{
    struct mac_entry *bucket = m->entries[bucket_of(m, mac)], *best = NULL;

    for (unsigned i = 0; i < MACS_WAYS; i++)
        if (!bucket[i].mac)
            return &bucket[i];
        else if (!is_fresh(m, &bucket[i], now) && (!best || bucket[i].seen < best->seen))
            best = &bucket[i];
    if (best)
        give(m, best, MAC_NOBODY);
    return best;
}

static struct mac_entry *add(struct vpn_macs *m, uint64_t mac, uint64_t now)
{
    struct mac_entry *e = make_room(m, mac, now);

    if (e)
        *e = (struct mac_entry){.mac = mac, .owner = MAC_NOBODY};
    return e;
}

void vpn_macs_init(struct vpn_macs *m)
{
    randombytes_buf(&m->multiplier, sizeof(m->multiplier));
    m->multiplier |= 1;
}

int vpn_macs_list(struct vpn_macs *m, const struct vpn_macs_list *list, unsigned owner)
{
    for (unsigned i = 0; i < list->n; i++) {
        uint64_t mac = number_of(list->mac[i]);
        struct mac_entry *e = (struct mac_entry *)find(m, mac) ?: add(m, mac, 0);

        if (!e)
            return -ENOSPC;
        /* Where one owner alone may have it, it is known before it is seen. */
        e->owner = e->allowed ? MAC_NOBODY : (uint8_t)owner;
        e->allowed |= 1ull << owner;
    }
    if (list->n)
        m->listed |= 1ull << owner;
    return 0;
}

/* An entry whose owner is, or becomes, @owner. */
static struct mac_entry *claim(struct vpn_macs *m, uint64_t mac, unsigned owner, uint64_t now)
{
    struct mac_entry *e = (struct mac_entry *)find(m, mac);

    if (e && e->owner == owner)
        return e;
    if (m->count[owner] >= QUOTA && !(e && e->allowed))
        return NULL;
    e = e ?: add(m, mac, now);
    if (e)
        give(m, e, (uint8_t)owner);
    return e;
}

int vpn_macs_learn(struct vpn_macs *m, const uint8_t mac[6], unsigned owner, uint64_t now)
{
    const struct mac_entry *e = find(m, number_of(mac));
    bool may = e && e->allowed >> owner & 1;
    struct mac_entry *own;

    if (!may && (m->listed >> owner & 1 || (e && e->allowed)))
        return -EPERM;
    if (!may && e && e->owner != owner && owner != VPN_GUEST && is_fresh(m, e, now))
        return -EPERM;
    own = claim(m, number_of(mac), owner, now);
    if (!own)
        return -ENOSPC;
    own->seen = now;
    return 0;
}

unsigned vpn_macs_owner(const struct vpn_macs *m, const uint8_t mac[6], uint64_t now)
{
    const struct mac_entry *e = find(m, number_of(mac));

    if (!e || !e->mac || (!e->allowed && (!e->seen || now - e->seen >= FORGOTTEN)))
        return MAC_NOBODY;
    return e->owner;
}

void vpn_macs_release(struct vpn_macs *m, unsigned owner)
{
    for (unsigned i = 0; i < MACS_BUCKETS * MACS_WAYS; i++) {
        struct mac_entry *e = &m->entries[0][0] + i;

        if (e->mac && e->owner == owner && !e->allowed)
            e->seen = 0;
    }
}
