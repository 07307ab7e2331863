/* SPDX-License-Identifier: MIT */
/*
 * vpn_peers.h - peers of the back `vpn` that have their keys: how they are made, and what they make of all that the card sends.
 * It is a message of the protocol, and a frame that opens is what the guest sent last.
 */
#ifndef FUZZ_VPN_PEERS_H
#define FUZZ_VPN_PEERS_H

#include "net/vpn/vpn.h"
#include "tests/unit/net_rig.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <sys/socket.h>

#define PEERS    2u
#define SESSIONS 3u
#define LONGEST  1600u

/**
 * struct peer - @sock: its socket; the first peer's is in the card's configuration. @initiation: the card's last one, at
 * @came. @stamp: the newest that it put on one of its own; @accepted: the newest that the card took. @sessions: the newest first. @fresh: the first of them was agreed on within this pause.
 */
static struct peer {
    int sock;
    union vpn_address at;
    struct wg_self self;
    struct wg_remote remote; /* the card */
    struct wg_pass pass;
    struct wg_handshake handshake;
    struct wg_initiation initiation;
    uint64_t came, stamp, accepted;
    bool has_initiation, awaits, fresh;
    struct wg_session sessions[SESSIONS];
} peers[PEERS];

/* Of the card: its keys, the last frame that its guest sent, and how many initiations it answered. */
static struct wg_self own;
static struct frame guest;
static unsigned responses;
static struct wg_cipher *cipher;

/* ---- The same chance for each input ---- */

static uint64_t chance;

static const char *chance_name(void)
{
    return "fuzz";
}

static uint32_t chance_next(void)
{
    chance = chance * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(chance >> 32);
}

static void chance_fill(void *const bytes, const size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)chance_next();
}

static struct randombytes_implementation chances = {
    .implementation_name = chance_name, .random = chance_next, .buf = chance_fill};

/* ---- A peer ---- */

static void begin_peer(struct peer *p, uint8_t number)
{
    socklen_t size = sizeof(p->at.v4);

    p->at.v4 =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    p->sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(bind(p->sock, &p->at.any, size) == 0 && getsockname(p->sock, &p->at.any, &size) == 0);
    memset(p->self.private_, number, WG_KEY);
    wg_self_init(&p->self);
    memcpy(p->remote.public_, own.public_, WG_KEY);
    memset(p->remote.psk, number, WG_KEY);
    CHECK(wg_remote_init(&p->self, &p->remote) == 0);
}

/* ---- What the card sends ---- */

static void agreed(struct peer *p, const struct wg_keys *keys, uint32_t local, uint32_t remote)
{
    memmove(&p->sessions[1], &p->sessions[0], sizeof(p->sessions) - sizeof(p->sessions[0]));
    p->sessions[0] =
        (struct wg_session){.live = true, .local = local, .remote = remote, .keys = *keys};
}

static void came_initiation(const struct wg_initiation *m)
{
    uint8_t mac[WG_MAC];

    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];

        wg_mac(mac, p->self.mac1_key, WG_KEY, m, sizeof(*m) - sizeof(m->macs));
        if (memcmp(mac, m->macs.mac1, WG_MAC) != 0)
            continue;
        p->initiation = *m;
        p->came = test_clock;
        p->has_initiation = true;
        return;
    }
    CHECK(!"an initiation is for one of us");
}

static void came_response(const struct wg_response *m)
{
    struct wg_keys keys;

    responses++;
    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];

        if (!p->awaits || m->receiver != p->handshake.local)
            continue;
        CHECK(wg_response_read(&p->self, &p->remote, &p->handshake, m, &keys) == 0);
        agreed(p, &keys, m->receiver, m->sender);
        p->awaits = false;
        p->fresh = true;
    }
}

/* How we name ourselves may have been damaged: then it is nobody's. */
static void came_transport(uint8_t *bytes, size_t n)
{
    struct wg_session *s = NULL;
    uint32_t number;
    ssize_t length;

    memcpy(&number, bytes + 4, sizeof(number));
    for (unsigned i = 0; i < PEERS * SESSIONS && !s; i++) {
        s = &peers[i / SESSIONS].sessions[i % SESSIONS];
        s = s->live && s->local == number ? s : NULL;
    }
    if (!s)
        return;
    length = wg_session_open(cipher, s, bytes, n);
    CHECK(length == 0 ||
          (length == guest.n && memcmp(bytes + WG_HEADER, guest.bytes, guest.n) == 0));
}

static void came(uint8_t *bytes, size_t n)
{
    union {
        uint32_t type;
        struct wg_initiation initiation;
        struct wg_response response;
        struct wg_cookie cookie;
    } m;

    CHECK(n >= WG_OVERHEAD);
    memcpy(&m, bytes, MIN(n, sizeof(m)));
    if (m.type == WG_TRANSPORT) {
        came_transport(bytes, n);
    } else if (m.type == WG_INITIATION) {
        CHECK(n == sizeof(m.initiation));
        came_initiation(&m.initiation);
    } else if (m.type == WG_RESPONSE) {
        CHECK(n == sizeof(m.response));
        came_response(&m.response);
    } else {
        CHECK(m.type == WG_COOKIE && n == sizeof(m.cookie));
        for (unsigned i = 0; i < PEERS; i++) /* whose it is only the cookie itself tells */
            wg_cookie_read(&peers[i].pass, &peers[i].remote, &m.cookie, test_clock);
    }
}

static void read_all(void)
{
    static uint8_t bytes[LONGEST + WG_OVERHEAD];
    ssize_t n;

    for (unsigned i = 0; i < 3; i++)
        rig_turn();
    for (unsigned i = 0; i < PEERS; i++)
        while ((n = recv(peers[i].sock, bytes, sizeof(bytes), 0)) >= 0)
            came(bytes, (size_t)n);
}

static void forget_all(void)
{
    uint8_t byte;

    for (unsigned i = 0; i < PEERS; i++)
        while (recv(peers[i].sock, &byte, sizeof(byte), 0) >= 0)
            ;
}

#endif
