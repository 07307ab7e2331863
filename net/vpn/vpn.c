/* SPDX-License-Identifier: MIT */
/* vpn.c - the back `vpn`: parameters, and frames to and from the socket. See vpn.h. */
#include "net/vpn/vpn.h"

#include <sodium.h>
#include <stdio.h>
#include <sys/epoll.h>

#define PATIENCE \
    DT_MS(20) /* for a guest that takes nothing, before what comes is read and dropped */

static const char *const unknowns[] = {[VPN_FLOOD] = "flood", [VPN_DROP] = "drop", NULL};

#define FIELD(t, field) .type = t, .offset = offsetof(struct vpn, field)
static const struct dt_param params[] = {
    {.name = "conf",
     FIELD(DT_PARAM_PATH, conf),
     .flags = DT_PARAM_REQUIRED,
     .help = "File with our private key and the peers, as wg(8) has it; mode 600."},
    {.name = "local",
     FIELD(DT_PARAM_STRING, local),
     .help = "HOST:PORT or [IPV6]:PORT where datagrams come to, instead of ListenPort on all "
             "addresses."},
    {.name = "path-mtu",
     FIELD(DT_PARAM_UINT, path_mtu),
     .initial = "1500",
     .unit = "bytes",
     .min = 576,
     .max = 65535,
     .help = "Largest IP packet on the way to the peers; the card's MTU follows from it."},
    {.name = "mtu",
     FIELD(DT_PARAM_UINT, mtu_given),
     .initial = "0",
     .unit = "bytes",
     .max = 65000,
     .help = "The card's MTU, 68 at least, if it is not to follow from path-mtu=; 0 = it is."},
    {.name = "unknown",
     FIELD(DT_PARAM_ENUM, unknown),
     .flags = DT_PARAM_LIVE,
     .initial = "flood",
     .choices = unknowns,
     .help =
         "Where frames go to an address that no peer was seen with: to all of them, or nowhere."},
    {.name = "hold",
     FIELD(DT_PARAM_DURATION, hold),
     .flags = DT_PARAM_LIVE,
     .initial = "10s",
     .help = "How long a MAC address stays its peer's after each frame from it."},
    {NULL},
};

#define DROPPED(help) "packets", "Dropped: " help "."
static const struct dt_counter counters[] = {
    [HANDSHAKES] = {"handshakes", "sessions", "Sessions that began."},
    [COOKIES] = {"cookies", "messages", "Handshakes that were answered with a cookie, under load."},
    [FLOODED] = {"flooded", "packets", "Copies of frames that went to several peers."},
    [TX_DOWN] = {"tx-down", DROPPED("there was no session, or no way to the peer")},
    [TX_FULL] = {"tx-full", DROPPED("the socket took nothing for a second")},
    [TX_FRAGMENTS] = {"tx-fragments", "packets",
                      "Longer than the card's MTU: they are sent in fragments."},
    [TX_LONG] = {"tx-long", DROPPED("longer than the card's MTU, and than 1500 bytes")},
    [TX_SOURCE] = {"tx-source", DROPPED("the guest sent with an address that is a peer's")},
    [RX_MALFORMED] = {"rx-malformed", DROPPED("no message of the protocol, or no frame in it")},
    [RX_STRANGER] = {"rx-stranger", DROPPED("of no peer, or of no session that there is now")},
    [RX_FORGED] = {"rx-forged", DROPPED("it does not prove that a peer sent it")},
    [RX_REPLAYED] = {"rx-replayed", DROPPED("it came before, or is too old to know")},
    [RX_SOURCE] = {"rx-source", DROPPED("a peer sent with an address that is another's")},
    [RX_CROWDED] = {"rx-crowded", DROPPED("a peer sent with more addresses than are remembered")},
    [RX_FULL] = {"rx-full", DROPPED("the guest took nothing")},
    [RX_MEMORY] = {"rx-memory", DROPPED("all memory for packets was in use")},
    {NULL},
};

/* ---- From the guest ---- */

static void end(struct vpn *v, struct dt_packet *p, int counter)
{
    if (counter < 0)
        dt_sent(v->c, &p, 1);
    else
        dt_drop_one(v->c, p, (unsigned)counter);
}

static void flood(struct vpn *v, struct dt_packet *p)
{
    unsigned sent = 0;

    for (unsigned i = 0; i < v->mesh->npeers; i++) {
        int ret = vpn_peer_send(&v->mesh->peers[i], p->data, p->length);

        sent += ret == 0;
        dt_count(v->c, TX_FULL, ret == -EAGAIN);
    }
    if (sent > 1)
        dt_count(v->c, FLOODED, sent - 1);
    end(v, p, sent ? -1 : TX_DOWN);
}

/* Most VMMs do not ask a card for its MTU, and a guest that was not told must not find a black hole. */
static bool too_long(struct vpn *v, const struct dt_packet *p)
{
    if (likely(p->length <= v->fits))
        return false;
    if (!v->told_mtu)
        dt_layer_event(
            v->layer, "mtu-exceeded",
            "the guest sends packets that are longer than the card's MTU, %u: give QEMU's "
            "device host_mtu=%u",
            v->mtu, v->mtu);
    v->told_mtu = true;
    dt_count(v->c, TX_FRAGMENTS, p->length <= v->limit);
    return p->length > v->limit;
}

/* Returns false if the socket takes nothing now. */
static bool forward(struct vpn *v, struct dt_packet *p)
{
    const uint8_t *to = p->data, *from = p->data + 6;
    uint64_t now = dt_now(v->c);
    unsigned owner;
    int ret;

    if (too_long(v, p)) {
        end(v, p, TX_LONG);
        return true;
    }
    if (from[0] & 1 || vpn_macs_learn(&v->macs, from, VPN_GUEST, now) == -EPERM) {
        end(v, p, TX_SOURCE);
        return true;
    }
    owner = to[0] & 1 ? MAC_NOBODY : vpn_macs_owner(&v->macs, to, now);
    if (owner == VPN_GUEST || (owner == MAC_NOBODY && !(to[0] & 1) && v->unknown == VPN_DROP)) {
        end(v, p, TX_DOWN);
        return true;
    }
    if (owner == MAC_NOBODY) {
        flood(v, p);
        return true;
    }
    ret = vpn_peer_gather(&v->mesh->peers[owner], p->data, p->length);
    if (ret == -EAGAIN)
        return false;
    end(v, p, ret == 0 ? -1 : TX_DOWN);
    return true;
}

/* What is left from before goes first; what is gathered goes now, or stays until the socket takes it. */
static unsigned vpn_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    struct vpn *v = container_of(out, struct vpn, out);
    unsigned done = 0;

    do {
        while (done < n && forward(v, packets[done]))
            done++;
        if (vpn_burst_flush(v) < 0) {
            out->blocked = true;
            break;
        }
    } while (done < n);
    return done;
}

static void vpn_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct vpn *v = c->layer_data;

    port_out_send(&v->out, packets, n);
}

/* ---- From the network ----
 *
 * Not by port_in: peers are answered whether there is a guest or not. While it takes nothing, datagrams wait in the socket
 * for a while, and are then read in gulps, of which its frames are dropped. */

static void watch(struct vpn *v)
{
    if (!v->watching)
        v->watching = dt_watch_add(v->c, &v->watch) == 0;
}

static void unwatch(struct vpn *v)
{
    if (v->watching)
        dt_watch_remove(v->c, &v->watch);
    v->watching = false;
}

static void run(struct vpn *v)
{
    unsigned room = MIN(dt_room(v->c), PORT_BURST), n = 0;
    struct dt_packet *packets[PORT_BURST];
    bool drain = v->draining;

    v->draining = false;
    if (room == 0 && !drain) {
        unwatch(v);
        v->waited = true;
        dt_timer_set(v->c, &v->drain, dt_now(v->c) + PATIENCE);
        return;
    }
    for (unsigned i = 0; i < PORT_BURST && (drain || n < room); i++) {
        uint8_t *message;
        ssize_t length = vpn_read(v, &message);
        struct dt_packet *p;

        if (length < 0)
            break;
        p = vpn_message(v, message, (size_t)length, &v->input.from);
        if (p && n < room)
            packets[n++] = p;
        else if (p)
            dt_drop_one(v->c, p, RX_FULL);
    }
    dt_receive(v->c, packets, n);
    if (v->input.at < v->input.end) /* of which the socket does not tell again */
        dt_timer_set(v->c, &v->drain, dt_now(v->c));
}

static void run_readable(struct dt_watch *watch, uint32_t events)
{
    run(container_of(watch, struct vpn, watch));
}

static void run_drain(struct dt_timer *timer)
{
    struct vpn *v = container_of(timer, struct vpn, drain);

    v->draining = v->waited;
    v->waited = false;
    watch(v);
    run(v);
}

/* Not at once: whoever made room may be in the middle of something. */
static void vpn_resume(struct dt_ctx *c)
{
    struct vpn *v = c->layer_data;

    v->waited = false;
    dt_timer_set(c, &v->drain, dt_now(c));
}

static void vpn_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct vpn *v = c->layer_data;

    port_out_let_go(&v->out);
}

/* ---- Verbs ---- */

static int run_key(struct dt_layer *layer, int argc, const char *const *argv,
                   struct dt_reply *reply, struct dt_error *err)
{
    const struct vpn *v = dt_layer_data(layer);
    char text[sodium_base64_ENCODED_LEN(WG_KEY, sodium_base64_VARIANT_ORIGINAL)];

    sodium_bin2base64(text, sizeof(text), v->mesh->self.public_, WG_KEY,
                      sodium_base64_VARIANT_ORIGINAL);
    dt_reply(reply, "public-key", "%s", text);
    return 0;
}

static int run_peers(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    const struct vpn *v = dt_layer_data(layer);
    uint64_t now = dt_clock_ns();

    for (unsigned i = 0; i < v->mesh->npeers; i++) {
        const struct vpn_peer *p = &v->mesh->peers[i];
        char at[80] = "nowhere yet";

        if (p->has_address)
            vpn_address_text(&p->address, at, sizeof(at));
        if (p->up)
            dt_reply(reply, p->name, "up at %s, session %llu s old, heard %llu s ago", at,
                     (unsigned long long)((now - p->now.born) / DT_S(1)),
                     (unsigned long long)((now - p->heard) / DT_S(1)));
        else
            dt_reply(reply, p->name, "down, at %s, %u attempts", at, p->tries);
    }
    return 0;
}

static const struct dt_verb verbs[] = {
    {"public-key", NULL, "Show our public key, for the peers' configurations.", run_key},
    {"peers", NULL, "Show where each peer is, and its session.", run_peers},
    {NULL},
};

/* ---- Life ---- */

static int vpn_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct vpn *v = dt_layer_data(layer);

    info->mtu = v->mtu;
    return 0;
}

static int vpn_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct vpn *v = dt_layer_data(layer);

    v->macs.hold = v->hold;
    return 0;
}

static void vpn_stop(struct dt_ctx *c)
{
    struct vpn *v = c->layer_data;

    unwatch(v);
    dt_timer_cancel(c, &v->drain);
    for (unsigned i = 0; i < v->mesh->npeers; i++)
        vpn_peer_stop(&v->mesh->peers[i]);
    port_out_close(&v->out);
    free(TAKE_PTR(v->input.bytes));
    free(TAKE_PTR(v->burst.bytes));
    free(TAKE_PTR(v->sealed));
    v->c = NULL;
}

static int vpn_start(struct dt_ctx *c, struct dt_error *err)
{
    struct vpn *v = c->layer_data;

    v->c = c;
    v->out = (struct port_out){.write = vpn_write, .c = c, .full = TX_FULL};
    v->watch = (struct dt_watch){.ready = run_readable, .fd = v->fd, .events = EPOLLIN};
    v->drain.fire = run_drain;
    v->input = (struct vpn_input){.bytes = xcalloc(1, VPN_BYTES)};
    v->burst = (struct vpn_burst){.bytes = xcalloc(2, VPN_BYTES)};
    v->sealed = xcalloc(2, VPN_BYTES);
    watch(v);
    if (!v->watching || port_out_open(&v->out, v->fd) < 0) {
        vpn_stop(c);
        return dt_fail(err, -EIO, "cannot watch the socket");
    }
    for (unsigned i = 0; i < v->mesh->npeers; i++)
        vpn_peer_start(&v->mesh->peers[i]);
    return 0;
}

const struct dt_net_ext net_vpn = {
    DT_NET_EXT_HEADER,
    .name = "vpn",
    .summary = "Encrypted Ethernet to the cards of other hosts, by the WireGuard protocol",
    .help = "Each card has a key and a list of peers: cards of other devtaps, or hosts with "
            "WireGuard and "
            "gretap. Frames go to the peer that has their destination, and never from one peer to "
            "another; without a session nothing is sent.",
    .flags = DT_BACK,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct vpn),
    .state_version = 1,
    .open = vpn_open,
    .close = vpn_close,
    .start = vpn_start,
    .stop = vpn_stop,
    .info = vpn_info,
    .transmit = vpn_transmit,
    .resume = vpn_resume,
    .quiesce = vpn_quiesce,
    .set = vpn_set,
    .save = vpn_save,
    .load = vpn_load,
};
