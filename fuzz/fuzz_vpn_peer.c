/* SPDX-License-Identifier: MIT */
/*
 * fuzz_vpn_peer.c - two peers of the back `vpn` that have their keys, and do what the input says: handshakes in any order, old
 * ones again, cookies, floods, frames under any counter, pauses, damage to any byte of it.
 *
 * What is damaged or was there before begins no session and brings the guest no frame; a handshake that is right does
 * begin one; and all that the card sends is a message of the protocol, which opens to what the guest sent.
 */
#include "fuzz/vpn_peers.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

extern const struct dt_net_ext net_vpn;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INITIATE, RESPOND, FRAME, COOKIE, PAUSE, GUEST, FLOOD, AGAIN, STEPS };

#define MOST     40u /* steps: fewer handshakes than ask for cookies */
#define FLOOD_OF 100u
#define STALE    DT_S(5)

/**
 * struct run - of one input. @last: the message that was given last, @taken: something came of it, @delivered: which
 * was a frame for the guest. @mixed: somebody used an address that is another's.
 */
static struct run {
    const uint8_t *in;
    size_t left;
    struct vpn *v;
    uint8_t last[LONGEST + WG_OVERHEAD];
    size_t nlast;
    union vpn_address from;
    bool taken, delivered, flooded, mixed;
} run;

static uint8_t take(void)
{
    if (run.left == 0)
        return 0;
    run.left--;
    return *run.in++;
}

/* ---- A card ---- */

static const char *base64(const uint8_t key[WG_KEY])
{
    static char text[45];

    return sodium_bin2base64(text, sizeof(text), key, WG_KEY, sodium_base64_VARIANT_ORIGINAL);
}

static void begin(void)
{
    struct dt_error err;
    int conf = memfd_create("vpn.conf", MFD_CLOEXEC);
    char chain[80];

    log_set_level(DT_LOG_ERROR);
    CHECK(randombytes_set_implementation(&chances) == 0 && sodium_init() == 0);
    CHECK(wg_hash_init(&err) == 0 && registry_add_net(&net_vpn, &err) == 0);
    cipher = wg_cipher_new();
    memset(own.private_, 0x77, WG_KEY);
    wg_self_init(&own);
    CHECK(conf >= 0 && fchmod(conf, 0600) == 0);
    dprintf(conf, "[Interface]\nPrivateKey = %s\n", base64(own.private_));
    for (unsigned i = 0; i < PEERS; i++) {
        begin_peer(&peers[i], (uint8_t)(i + 1));
        dprintf(conf, "[Peer]\nPublicKey = %s\n", base64(peers[i].self.public_));
        dprintf(conf, "PresharedKey = %s\n", base64(peers[i].remote.psk));
        if (i == 0)
            dprintf(conf, "Endpoint = 127.0.0.1:%u\nPersistentKeepalive = 25\n",
                    ntohs(peers[i].at.v4.sin_port));
    }
    test_clock = DT_S(1000);
    snprintf(chain, sizeof(chain), "vpn conf=/proc/self/fd/%d local=127.0.0.1:0", conf);
    rig_start(chain);
    close(conf);
    run.v = dt_layer_data(rig.dev->layers[rig.dev->nlayers]);
}

/* The card as it was at its start, with the first peer's address. */
static void begin_card(struct vpn *v)
{
    vpn_macs_init(&v->macs);
    memset(&v->mesh->guard, 0, sizeof(v->mesh->guard));
    for (unsigned i = 0; i < PEERS; i++) {
        struct vpn_peer *p = &v->mesh->peers[i];

        vpn_peer_stop(p);
        memset(&p->pass, 0, sizeof(p->pass));
        memset(p->latest, 0, sizeof(p->latest));
        p->tries = 0;
        p->initiated = p->retry = p->heard = p->sent = p->unanswered = p->owing = p->told = 0;
        p->address = peers[i].at;
        p->has_address = i == 0;
        vpn_peer_start(p);
    }
}

static void begin_run(const uint8_t *data, size_t size)
{
    chance = 1;
    run.in = data;
    run.left = size;
    run.nlast = guest.n = responses = 0;
    run.taken = run.delivered = run.flooded = run.mixed = false;
    for (unsigned i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];

        memset(&p->pass, 0, sizeof(p->pass));
        memset(p->sessions, 0, sizeof(p->sessions));
        p->has_initiation = p->awaits = p->fresh = false;
        p->stamp = 1000;
        p->accepted = 0;
    }
    test_clock += DT_S(1000);
    begin_card(run.v);
}

/* ---- What it gets ---- */

static void give(void)
{
    uint64_t sessions = rig_counter("vpn", "handshakes");
    unsigned frames = rig.guest.n, answers = responses;
    uint8_t *copy = xcalloc(1, run.nlast); /* of its very size: what is read behind it is found */
    struct dt_packet *p;

    memcpy(copy, run.last, run.nlast);
    p = vpn_message(run.v, copy, run.nlast, &run.from);
    if (p)
        dt_receive_one(run.v->c, p);
    free(copy);
    read_all();
    run.delivered = rig.guest.n > frames;
    run.taken = run.delivered || responses > answers || rig_counter("vpn", "handshakes") > sessions;
}

/* One byte of the message, or none. Return: which, or -1. */
static int damage(size_t n)
{
    uint8_t flip = take();
    size_t at = flip ? take() % n : 0;

    run.last[at] ^= flip;
    return flip ? (int)at : -1;
}

/* A handshake message, which is answered or begins a session if it is right. */
static void give_handshake(struct peer *p, size_t n, bool right)
{
    int at = damage(n - sizeof(struct wg_macs));
    bool forged = at >= 0 && (at < 4 || at >= 8); /* how who sends it names itself is up to it */

    wg_stamp_macs(&p->pass, &p->remote, run.last, n, test_clock);
    run.nlast = n;
    run.from = p->at;
    give();
    CHECK(!forged || !run.taken);
    CHECK(forged || !right || run.flooded || run.taken);
}

static void initiate(struct peer *p)
{
    int8_t later = (int8_t)take();
    uint64_t number = p->stamp + (uint64_t)(int64_t)later, big = __builtin_bswap64(number);
    uint8_t stamp[WG_STAMP] = {0x40};
    struct wg_initiation m;

    memcpy(stamp + 4, &big, sizeof(big));
    p->stamp = MAX(p->stamp, number);
    p->fresh = false;
    p->handshake.local = randombytes_random();
    CHECK(wg_initiation_make(&p->self, &p->remote, &p->handshake, stamp, &m) == 0);
    memcpy(run.last, &m, sizeof(m));
    p->awaits = true;
    give_handshake(p, sizeof(m), later > 0);
    CHECK(!run.taken || number > p->accepted);
    if (run.taken)
        p->accepted = number;
}

static void respond(struct peer *p)
{
    bool in_time = p->has_initiation && test_clock - p->came < STALE;
    uint8_t public_[WG_KEY], stamp[WG_STAMP];
    struct wg_handshake hs;
    struct wg_response m;
    struct wg_keys keys;

    if (!p->has_initiation)
        return;
    p->has_initiation = p->fresh = false;
    CHECK(wg_initiation_read(&p->self, &p->initiation, &hs, public_) == 0);
    CHECK(memcmp(public_, own.public_, WG_KEY) == 0);
    CHECK(wg_initiation_prove(&p->remote, &p->initiation, &hs, stamp) == 0);
    hs.local = randombytes_random();
    CHECK(wg_response_make(&p->remote, &hs, &m, &keys) == 0);
    agreed(p, &keys, m.sender, m.receiver);
    memcpy(run.last, &m, sizeof(m));
    give_handshake(p, sizeof(m), in_time);
}

static void put_mac(uint8_t *at, uint8_t choice)
{
    static const uint8_t prefix[] = {0x52, 0x54, 0, 0, 0};

    memcpy(at, prefix, sizeof(prefix));
    at[5] = choice;
    if (choice == 0xff)
        memset(at, 0xff, 6);
}

/* Addresses of the peers and the guest are their numbers, 0 to 2; what follows is any. Return: it has its sender's. */
static bool make_frame(uint8_t *at, uint32_t *n, unsigned sender)
{
    uint8_t to = take(), from = take();
    bool honest = from == sender;

    *n = take();
    put_mac(at, to);
    put_mac(at + 6, from);
    run.mixed |= !honest;
    for (uint32_t i = 0; i < *n; i++)
        at[12 + i] = take();
    *n += 12;
    return honest && *n >= PORT_LEAST;
}

static void give_frame(struct peer *p, uint8_t how)
{
    struct wg_session *s = &p->sessions[how % SESSIONS];
    uint8_t jump = take(), plain[300];
    bool must = p->fresh && s == &p->sessions[0], damaged;
    uint32_t n = 0;

    if (!s->live)
        return;
    if (how & 0x40)
        must &= make_frame(plain, &n, (unsigned)(p - peers));
    else
        must = false; /* a sign of life */
    s->counter += jump == 255 ? WG_LAST_COUNTER / 2 : (uint64_t)jump * jump;
    run.nlast = wg_session_seal(cipher, s, run.last, plain, n);
    if (run.nlast == 0)
        return;
    damaged = damage(run.nlast) >= 0;
    run.from = how & 0x80 ? peers[0].at : p->at;
    give();
    if (run.delivered) {
        const struct rig_frame *f = &rig.guest.frames[rig.guest.n - 1];

        CHECK(!damaged && f->length == n && memcmp(f->data, plain, n) == 0);
    }
    CHECK(run.delivered || !must || damaged || run.mixed);
}

static void give_cookie(struct peer *p)
{
    static struct wg_guard guard;
    struct wg_cookie m;
    struct wg_self self = p->self;

    if (!p->has_initiation)
        return;
    wg_cookie_make(&guard, &self, p->initiation.sender, &p->initiation.macs, (uint8_t *)"fuzz", 4,
                   test_clock, &m);
    memcpy(run.last, &m, sizeof(m));
    run.nlast = sizeof(m);
    damage(sizeof(m));
    give();
}

static void pause_for(void)
{
    static const uint64_t lengths[] = {DT_MS(1), DT_MS(100), DT_S(1),   DT_S(4),
                                       DT_S(15), DT_S(60),   DT_S(115), DT_S(170)};

    uint64_t length = lengths[take() % ARRAY_SIZE(lengths)];

    test_clock += length;
    run.flooded &= length < DT_S(1);
    for (unsigned i = 0; i < PEERS; i++)
        peers[i].fresh = false;
    read_all();
}

/* As many handshakes as there may be in a second were there. */
static void flood(void)
{
    struct wg_guard *g = &run.v->mesh->guard;

    g->second = dt_now(run.v->c) / DT_S(1);
    g->seen = FLOOD_OF;
    run.flooded = true;
}

static void guest_sends(void)
{
    make_frame(guest.bytes, &guest.n, PEERS);
    if (guest.n >= PORT_LEAST)
        rig_send(guest.bytes, guest.n, NULL, 0);
    read_all();
}

static void again(void)
{
    bool before = run.taken;

    give();
    CHECK(!before || !run.taken);
    run.taken |= before;
}

/* A step is a byte: which, and in its upper bits who and how. */
static void step(uint8_t byte)
{
    struct peer *p = &peers[byte >> 3 & 1];

    switch (byte % STEPS) {
    case INITIATE:
        initiate(p);
        break;
    case RESPOND:
        respond(p);
        break;
    case FRAME:
        give_frame(p, (uint8_t)(byte & 0xc0) | (byte >> 4 & 3));
        break;
    case COOKIE:
        give_cookie(p);
        break;
    case PAUSE:
        pause_for();
        break;
    case GUEST:
        guest_sends();
        break;
    case FLOOD:
        flood();
        break;
    default:
        again();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!run.v)
        begin();
    begin_run(data, size);
    read_all();
    for (unsigned i = 0; i < MOST && run.left > 0; i++)
        step(take());
    forget_all();
    rig_clear();
    return 0;
}
