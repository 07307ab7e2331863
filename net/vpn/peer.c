/* SPDX-License-Identifier: MIT */
/*
 * peer.c - the sessions with a peer, from one to the next: see vpn.h.
 *
 * Theory of operation: times are those of the paper (section 6), with three differences, all of which other
 * implementations put up with.
 *
 * A session is agreed on whenever there is none, not only when there is something to send, so that "up" means
 * something and the first frame is not lost. The first attempts come a second apart, and five or fifteen later on:
 * a peer that was started a moment after us, or whose worker was killed, is found at once.
 *
 * Who answered a handshake renews the session, too, though half a minute later than who began: when both begin at once
 * each may take the other for the one that did.
 *
 * A peer's address changes with what it sends within a session, not with an initiation, which somebody may have
 * recorded.
 */
#include "net/vpn/vpn.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <stdio.h>
#include <time.h>

#define RENEW_FIRST   DT_S(120) /* REKEY_AFTER_TIME, of who began */
#define RENEW_SECOND  DT_S(150)
#define LASTS         DT_S(180) /* REJECT_AFTER_TIME */
#define RENEW_COUNTER (1ull << 60)
#define ANSWER_WITHIN DT_S(5)
#define SIGN_OF_LIFE  DT_S(10) /* KEEPALIVE_TIMEOUT */
#define SILENCE       DT_S(15)
#define TRIES_LOST    3u /* and the peer is down */

static void schedule(struct vpn_peer *p, uint64_t when)
{
    if (!p->timer.heap_index || when < p->timer.deadline)
        dt_timer_set(p->vpn->c, &p->timer, when);
}

static void wipe(struct wg_session *s)
{
    sodium_memzero(s, sizeof(*s));
}

/* ---- Sending ---- */

static void account_sent(struct vpn_peer *p, bool frame)
{
    uint64_t now = dt_now(p->vpn->c);

    p->sent = now;
    p->owing = 0;
    if (frame && !p->unanswered) {
        p->unanswered = now;
        schedule(p, now + SILENCE);
    }
    if (unlikely(p->now.counter >= RENEW_COUNTER))
        schedule(p, now);
}

/* Into @message, where there is room. Returns the length, or 0: there is no session that could. */
static size_t seal(struct vpn_peer *p, uint8_t *message, const uint8_t *frame, uint32_t n)
{
    struct vpn *v = p->vpn;
    uint32_t head = n && p->tunnel ? VPN_GRE : 0;
    uint8_t *inner = message + WG_HEADER;

    if (!p->up || dt_now(v->c) - p->now.born >= LASTS)
        return 0;
    if (head) {
        vpn_gre_make(inner, v->mesh->tunnel, p->tunnel, n);
        memcpy(inner + head, frame, n);
    }
    return wg_session_seal(v->cipher, &p->now, message, head ? inner : frame, head + n);
}

int vpn_peer_send(struct vpn_peer *p, const uint8_t *frame, uint32_t n)
{
    struct vpn *v = p->vpn;
    size_t length = seal(p, v->sealed, frame, n);
    int ret = length ? vpn_send_to(v, v->sealed, length, &p->address) : -ENOTCONN;

    if (ret == 0)
        account_sent(p, n > 0);
    return ret;
}

int vpn_peer_gather(struct vpn_peer *p, const uint8_t *frame, uint32_t n)
{
    uint8_t *message = vpn_burst_room(p, n + (p->tunnel ? VPN_GRE : 0) + WG_OVERHEAD);
    size_t length;

    if (!message)
        return -EAGAIN;
    length = seal(p, message, frame, n);
    if (length == 0)
        return -ENOTCONN;
    vpn_burst_add(p, length);
    account_sent(p, true);
    return 0;
}

/* ---- Up and down ---- */

void vpn_address_text(const union vpn_address *a, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    bool v4 = a->any.sa_family == AF_INET;

    inet_ntop(a->any.sa_family, v4 ? (const void *)&a->v4.sin_addr : &a->v6.sin6_addr, host,
              sizeof(host));
    snprintf(text, size, v4 ? "%s:%u" : "[%s]:%u", host, ntohs(a->v4.sin_port));
}

static void go_up(struct vpn_peer *p)
{
    char text[80];

    p->tries = 0;
    p->heard = dt_now(p->vpn->c);
    p->unanswered = 0;
    dt_count(p->vpn->c, HANDSHAKES, 1);
    if (p->up)
        return;
    p->up = true;
    vpn_address_text(&p->address, text, sizeof(text));
    dt_layer_event(p->vpn->layer, "peer-up", "%s: at %s", p->name, text);
}

static void go_down(struct vpn_peer *p, const char *why)
{
    wipe(&p->now);
    wipe(&p->before);
    p->unanswered = p->owing = 0;
    if (!p->up)
        return;
    p->up = false;
    vpn_macs_release(&p->vpn->macs, p->index);
    dt_layer_event(p->vpn->layer, "peer-down", "%s: %s", p->name, why);
}

/* ---- Handshakes ---- */

uint32_t vpn_peer_number(const struct vpn_peer *p)
{
    return randombytes_random() << 6 | p->index;
}

struct wg_session *vpn_peer_session(struct vpn_peer *p, uint32_t number)
{
    struct wg_session *const sessions[] = {&p->now, &p->next, &p->before};

    for (unsigned i = 0; i < ARRAY_SIZE(sessions); i++)
        if (sessions[i]->live && sessions[i]->local == number &&
            dt_now(p->vpn->c) - sessions[i]->born < LASTS)
            return sessions[i];
    return NULL;
}

/* TAI64N; the constant is its second 0 in those of the host's clock. Always later than the one before. */
static void make_stamp(struct vpn_mesh *mesh, uint8_t stamp[WG_STAMP])
{
    struct timespec ts;
    uint64_t seconds;
    uint32_t ns;

    clock_gettime(CLOCK_REALTIME, &ts);
    mesh->stamp = MAX(mesh->stamp + 1, (uint64_t)ts.tv_sec * DT_S(1) + (uint64_t)ts.tv_nsec);
    seconds = __builtin_bswap64(0x400000000000000aull + mesh->stamp / DT_S(1));
    ns = __builtin_bswap32((uint32_t)(mesh->stamp % DT_S(1)));
    memcpy(stamp, &seconds, 8);
    memcpy(stamp + 8, &ns, 4);
}

static uint64_t pause_after(unsigned tries)
{
    uint64_t pause = tries <= 5 ? DT_S(1) : tries <= 20 ? DT_S(5) : DT_S(15);

    return pause + DT_MS(1) * randombytes_uniform(333);
}

static void initiate(struct vpn_peer *p)
{
    struct vpn *v = p->vpn;
    uint64_t now = dt_now(v->c);
    struct wg_initiation m;
    uint8_t stamp[WG_STAMP];

    p->tries++;
    p->initiated = now;
    p->retry = now + pause_after(p->tries);
    p->handshake.local = vpn_peer_number(p);
    make_stamp(v->mesh, stamp);
    if (wg_initiation_make(&v->mesh->self, &p->remote, &p->handshake, stamp, &m) < 0)
        return;
    p->pending = true;
    wg_stamp_macs(&p->pass, &p->remote, &m, sizeof(m), now);
    vpn_send_to(v, &m, sizeof(m), &p->address); /* what is lost is sent again */
}

void vpn_peer_answered(struct vpn_peer *p, const struct wg_keys *keys, uint32_t remote)
{
    if (p->now.live)
        p->before = p->now;
    p->now = (struct wg_session){.live = true,
                                 .initiator = true,
                                 .local = p->handshake.local,
                                 .remote = remote,
                                 .keys = *keys,
                                 .born = p->initiated};
    p->pending = false;
    sodium_memzero(&p->handshake, sizeof(p->handshake));
    go_up(p);
    vpn_peer_send(p, NULL, 0); /* the peer awaits a proof that we have the keys */
    dt_layer_state_changed(p->vpn->layer);
    schedule(p, dt_now(p->vpn->c));
}

void vpn_peer_offered(struct vpn_peer *p, const struct wg_keys *keys, uint32_t local,
                      uint32_t remote)
{
    p->next = (struct wg_session){
        .live = true, .local = local, .remote = remote, .keys = *keys, .born = dt_now(p->vpn->c)};
    schedule(p, p->next.born + LASTS);
}

static void begin_next(struct vpn_peer *p)
{
    if (p->now.live)
        p->before = p->now;
    p->now = p->next;
    wipe(&p->next);
    go_up(p);
    dt_layer_state_changed(p->vpn->layer);
    schedule(p, dt_now(p->vpn->c));
}

static bool same_address(const union vpn_address *a, const union vpn_address *b)
{
    if (a->any.sa_family != b->any.sa_family || a->v4.sin_port != b->v4.sin_port)
        return false;
    return a->any.sa_family == AF_INET
               ? a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr
               : memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof(a->v6.sin6_addr)) == 0 &&
                     a->v6.sin6_scope_id == b->v6.sin6_scope_id;
}

void vpn_peer_heard(struct vpn_peer *p, const struct wg_session *s, const union vpn_address *from,
                    bool frame)
{
    uint64_t now = dt_now(p->vpn->c);

    if (unlikely(!p->has_address || !same_address(&p->address, from))) {
        p->address = *from;
        p->has_address = true;
        dt_layer_state_changed(p->vpn->layer);
    }
    if (unlikely(s == &p->next))
        begin_next(p);
    p->heard = now;
    p->unanswered = 0;
    if (frame && !p->owing) {
        p->owing = now;
        schedule(p, now + SIGN_OF_LIFE);
    }
}

/* ---- Time ---- */

static void forget_old(struct vpn_peer *p, uint64_t now)
{
    if (p->before.live && now - p->before.born >= LASTS)
        wipe(&p->before);
    if (p->next.live && now - p->next.born >= LASTS)
        wipe(&p->next);
    if (p->pending && now - p->initiated >= ANSWER_WITHIN) {
        sodium_memzero(&p->handshake, sizeof(p->handshake));
        p->pending = false;
    }
    if (p->now.live && now - p->now.born >= LASTS)
        go_down(p, "the session is too old, and there is no new one");
    else if (p->up && p->tries >= TRIES_LOST && now - p->heard >= ANSWER_WITHIN)
        go_down(p, "it does not answer");
}

/* When a new session is due: now or earlier, if there is none. */
static uint64_t renewal(const struct vpn_peer *p)
{
    uint64_t at = p->now.born + (p->now.initiator ? RENEW_FIRST : RENEW_SECOND);

    if (!p->has_address)
        return UINT64_MAX;
    if (!p->up || p->now.counter >= RENEW_COUNTER)
        return 0;
    return p->unanswered ? MIN(at, p->unanswered + SILENCE) : at;
}

/* The next time that there is something to do. */
static uint64_t next_time(const struct vpn_peer *p)
{
    uint64_t at = MAX(renewal(p), p->retry);

    if (p->before.live)
        at = MIN(at, p->before.born + LASTS);
    if (p->next.live)
        at = MIN(at, p->next.born + LASTS);
    if (p->pending)
        at = MIN(at, p->initiated + ANSWER_WITHIN);
    if (!p->up)
        return at;
    at = MIN(at, p->now.born + LASTS);
    if (p->owing)
        at = MIN(at, p->owing + SIGN_OF_LIFE);
    if (p->keepalive)
        at = MIN(at, p->sent + p->keepalive);
    return at;
}

static void run_timer(struct dt_timer *timer)
{
    struct vpn_peer *p = container_of(timer, struct vpn_peer, timer);
    uint64_t now = dt_now(p->vpn->c), at;

    forget_old(p, now);
    if (now >= MAX(renewal(p), p->retry))
        initiate(p);
    if (p->up && ((p->owing && now >= p->owing + SIGN_OF_LIFE) ||
                  (p->keepalive && now >= p->sent + p->keepalive))) {
        p->owing = 0;
        p->sent = now; /* even if it could not be: no sooner again */
        vpn_peer_send(p, NULL, 0);
    }
    at = next_time(p);
    if (at != UINT64_MAX)
        schedule(p, at);
}

void vpn_peer_start(struct vpn_peer *p)
{
    p->timer.fire = run_timer;
    if (p->has_address)
        schedule(p, dt_clock_ns());
}

void vpn_peer_stop(struct vpn_peer *p)
{
    dt_timer_cancel(p->vpn->c, &p->timer);
    wipe(&p->now);
    wipe(&p->before);
    wipe(&p->next);
    sodium_memzero(&p->handshake, sizeof(p->handshake));
    p->up = p->pending = false;
}
