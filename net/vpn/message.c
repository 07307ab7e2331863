/* SPDX-License-Identifier: MIT */
/* message.c - messages from the network, which anybody may have sent: see vpn.h. */
#include "net/vpn/vpn.h"

#include <sodium.h>

#define TELL_EVERY DT_S(10)

static void count(struct vpn *v, enum vpn_counter counter)
{
    dt_count(v->c, counter, 1);
}

static struct vpn_peer *peer_of_number(struct vpn *v, uint32_t number)
{
    unsigned index = number & 63;

    return index < v->mesh->npeers ? &v->mesh->peers[index] : NULL;
}

static struct vpn_peer *peer_of_key(struct vpn *v, const uint8_t public_[WG_KEY])
{
    for (unsigned i = 0; i < v->mesh->npeers; i++)
        if (memcmp(v->mesh->peers[i].remote.public_, public_, WG_KEY) == 0)
            return &v->mesh->peers[i];
    return NULL;
}

/* ---- Handshakes ---- */

/** struct source - the bytes that a cookie is for: host, then port. */
struct source {
    uint8_t bytes[18];
    size_t n, host;
};

static struct source source_of(const union vpn_address *a)
{
    struct source s = {.host = a->any.sa_family == AF_INET ? 4 : 16};
    const void *host = s.host == 4 ? (const void *)&a->v4.sin_addr : &a->v6.sin6_addr;

    memcpy(s.bytes, host, s.host);
    memcpy(s.bytes + s.host, &a->v4.sin_port, 2);
    s.n = s.host + 2;
    return s;
}

/* May this message cost us something? If not it was answered, or counted. @sender: how its sender names itself. */
static bool admitted(struct vpn *v, const void *message, size_t n, uint32_t sender,
                     const union vpn_address *from)
{
    const struct source s = source_of(from);
    uint64_t now = dt_now(v->c);
    struct wg_cookie m;

    switch (
        wg_guard_judge(&v->mesh->guard, &v->mesh->self, message, n, s.bytes, s.n, s.host, now)) {
    case WG_GO_ON:
        return true;
    case WG_ASK_COOKIE:
        wg_cookie_make(&v->mesh->guard, &v->mesh->self, sender,
                       (const void *)((const uint8_t *)message + n - sizeof(struct wg_macs)),
                       s.bytes, s.n, now, &m);
        vpn_send_to(v, &m, sizeof(m), from);
        count(v, COOKIES);
        return false;
    default:
        count(v, RX_FORGED);
        return false;
    }
}

static void respond(struct vpn_peer *p, struct wg_handshake *hs, const union vpn_address *to)
{
    uint32_t local = hs->local = vpn_peer_number(p), remote = hs->remote;
    struct wg_response m;
    struct wg_keys keys;

    if (wg_response_make(&p->remote, hs, &m, &keys) == 0) {
        wg_stamp_macs(&p->pass, &p->remote, &m, sizeof(m), dt_now(p->vpn->c));
        vpn_peer_offered(p, &keys, local, remote);
        vpn_send_to(p->vpn, &m, sizeof(m), to);
    }
    sodium_memzero(&keys, sizeof(keys));
}

static void take_initiation(struct vpn *v, const struct wg_initiation *m,
                            const union vpn_address *from)
{
    uint8_t public_[WG_KEY], stamp[WG_STAMP];
    struct wg_handshake hs;
    struct vpn_peer *p;

    if (!admitted(v, m, sizeof(*m), m->sender, from))
        return;
    if (wg_initiation_read(&v->mesh->self, m, &hs, public_) < 0) {
        count(v, RX_FORGED);
    } else if (!(p = peer_of_key(v, public_))) {
        count(v, RX_STRANGER);
    } else if (wg_initiation_prove(&p->remote, m, &hs, stamp) < 0) {
        count(v, RX_FORGED);
    } else if (memcmp(stamp, p->latest, WG_STAMP) <= 0) {
        count(v, RX_REPLAYED);
    } else {
        memcpy(p->latest, stamp, WG_STAMP);
        respond(p, &hs, from);
        dt_layer_state_changed(v->layer);
    }
    sodium_memzero(&hs, sizeof(hs));
}

static void take_response(struct vpn *v, const struct wg_response *m, const union vpn_address *from)
{
    struct vpn_peer *p = peer_of_number(v, m->receiver);
    struct wg_keys keys;

    if (!admitted(v, m, sizeof(*m), m->sender, from))
        return;
    if (!p || !p->pending || p->handshake.local != m->receiver) {
        count(v, RX_STRANGER);
    } else if (wg_response_read(&v->mesh->self, &p->remote, &p->handshake, m, &keys) < 0) {
        count(v, RX_FORGED);
    } else {
        p->address = *from;
        vpn_peer_answered(p, &keys, m->sender);
    }
    sodium_memzero(&keys, sizeof(keys));
}

static void take_cookie(struct vpn *v, const struct wg_cookie *m)
{
    struct vpn_peer *p = peer_of_number(v, m->receiver);

    if (!p || !((p->pending && p->handshake.local == m->receiver) ||
                (p->next.live && p->next.local == m->receiver)))
        count(v, RX_STRANGER);
    else if (wg_cookie_read(&p->pass, &p->remote, m, dt_now(v->c)) < 0)
        count(v, RX_FORGED);
}

/* ---- Frames ---- */

static bool source_is_its_own(struct vpn_peer *p, const uint8_t *mac)
{
    static const uint8_t nobody[6];
    struct vpn *v = p->vpn;
    uint64_t now = dt_now(v->c);
    int ret = mac[0] & 1 || memcmp(mac, nobody, 6) == 0
                  ? -EPERM
                  : vpn_macs_learn(&v->macs, mac, p->index, now);

    if (likely(ret == 0))
        return true;
    count(v, ret == -ENOSPC ? RX_CROWDED : RX_SOURCE);
    if (ret == -EPERM && (!p->told || now - p->told >= TELL_EVERY)) {
        p->told = now;
        dt_layer_event(v->layer, "address-taken",
                       "%s sends as %02x:%02x:%02x:%02x:%02x:%02x, which is not its own; dropped",
                       p->name, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    }
    return false;
}

static struct dt_packet *take_frame(struct vpn_peer *p, const uint8_t *plain, size_t n)
{
    struct vpn *v = p->vpn;
    ssize_t length =
        p->tunnel ? vpn_gre_read(plain, n, p->tunnel, v->mesh->tunnel, &plain) : (ssize_t)n;
    struct dt_packet *packet;

    if (length < (ssize_t)PORT_LEAST || length > (ssize_t)PORT_LARGEST) {
        count(v, RX_MALFORMED);
        return NULL;
    }
    if (!source_is_its_own(p, plain + 6))
        return NULL;
    packet = dt_packet_new(v->c, (uint32_t)length);
    if (packet)
        memcpy(packet->data, plain, (size_t)length);
    else
        count(v, RX_MEMORY);
    return packet;
}

static struct dt_packet *take_transport(struct vpn *v, uint8_t *message, size_t n,
                                        const union vpn_address *from)
{
    uint32_t number;
    struct vpn_peer *p;
    struct wg_session *s;
    ssize_t length;

    memcpy(&number, message + 4, sizeof(number));
    p = peer_of_number(v, number);
    s = p ? vpn_peer_session(p, number) : NULL;
    if (!s) {
        count(v, RX_STRANGER);
        return NULL;
    }
    length = wg_session_open(v->cipher, s, message, n);
    if (length < 0) {
        count(v, length == -EALREADY ? RX_REPLAYED : RX_FORGED);
        return NULL;
    }
    vpn_peer_heard(p, s, from, length > 0);
    return length > 0 ? take_frame(p, message + WG_HEADER, (size_t)length) : NULL;
}

/* Copied, since datagrams that came together are not aligned. */
static void take_handshake(struct vpn *v, const uint8_t *message, size_t n,
                           const union vpn_address *from)
{
    union {
        uint32_t type;
        struct wg_initiation initiation;
        struct wg_response response;
        struct wg_cookie cookie;
    } m = {0};

    if (n >= sizeof(m.type) && n <= sizeof(m))
        memcpy(&m, message, n);
    if (m.type == WG_INITIATION && n == sizeof(m.initiation))
        take_initiation(v, &m.initiation, from);
    else if (m.type == WG_RESPONSE && n == sizeof(m.response))
        take_response(v, &m.response, from);
    else if (m.type == WG_COOKIE && n == sizeof(m.cookie))
        take_cookie(v, &m.cookie);
    else
        count(v, RX_MALFORMED);
}

struct dt_packet *vpn_message(struct vpn *v, uint8_t *message, size_t n,
                              const union vpn_address *from)
{
    uint32_t type = 0;

    if (n >= WG_OVERHEAD)
        memcpy(&type, message, sizeof(type));
    if (likely(type == WG_TRANSPORT))
        return take_transport(v, message, n, from);
    take_handshake(v, message, n, from);
    return NULL;
}
