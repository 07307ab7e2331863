/* SPDX-License-Identifier: MIT */
/*
 * state.c - what the next process should know: where each peer was last, so that it can begin, and the newest initiation
 * of each, so that older ones that somebody recorded are refused still. Addresses and times, and no keys but public
 * ones: a copy of this is of no use to anybody, and two processes with the same one agree on different sessions.
 */
#include "net/vpn/vpn.h"

#define MAGIC 0x316e7076u /* "vpn1" */

struct saved {
    uint32_t magic, peers;
    uint64_t stamp;
};
struct saved_peer {
    uint8_t public_[WG_KEY], latest[WG_STAMP];
    uint32_t has_address;
    union vpn_address address;
};

int64_t vpn_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct vpn *v = dt_layer_data(layer);
    const struct vpn_mesh *mesh = v->mesh;
    const struct saved h = {.magic = MAGIC, .peers = mesh->npeers, .stamp = mesh->stamp};
    uint8_t *at = buf;

    if (size < sizeof(h) + mesh->npeers * sizeof(struct saved_peer))
        return -ENOSPC;
    memcpy(at, &h, sizeof(h));
    at += sizeof(h);
    for (unsigned i = 0; i < mesh->npeers; i++, at += sizeof(struct saved_peer)) {
        const struct vpn_peer *p = &mesh->peers[i];
        struct saved_peer s = {.has_address = p->has_address, .address = p->address};

        memcpy(s.public_, p->remote.public_, WG_KEY);
        memcpy(s.latest, p->latest, WG_STAMP);
        memcpy(at, &s, sizeof(s));
    }
    return at - (uint8_t *)buf;
}

/* A peer that is not in the configuration any more is forgotten; an address of the wrong family does not suit the socket. */
static void load_peer(struct vpn_mesh *mesh, const struct saved_peer *s, int family)
{
    for (unsigned i = 0; i < mesh->npeers; i++) {
        struct vpn_peer *p = &mesh->peers[i];

        if (memcmp(p->remote.public_, s->public_, WG_KEY) != 0)
            continue;
        memcpy(p->latest, s->latest, WG_STAMP);
        if (s->has_address && s->address.any.sa_family == family) {
            p->address = s->address;
            p->has_address = true;
        }
    }
}

int vpn_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err)
{
    const uint8_t *at = (const uint8_t *)buf + sizeof(struct saved);
    struct vpn *v = dt_layer_data(layer);
    struct sockaddr_storage own = {0};
    socklen_t length = sizeof(own);
    struct saved_peer s;
    struct saved h;

    if (size < sizeof(h) || version != 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of vpn", size, version);
    memcpy(&h, buf, sizeof(h));
    if (h.magic != MAGIC || h.peers > VPN_PEERS || size != sizeof(h) + h.peers * sizeof(s))
        return dt_fail(err, -EBADMSG, "%u peers do not fill the %zu bytes that there are", h.peers,
                       size);
    v->mesh->stamp = h.stamp;
    getsockname(v->fd, (struct sockaddr *)&own, &length);
    for (unsigned i = 0; i < h.peers; i++, at += sizeof(s)) {
        memcpy(&s, at, sizeof(s));
        load_peer(v->mesh, &s, own.ss_family);
    }
    return 0;
}
