/* SPDX-License-Identifier: MIT */
/*
 * limits.c - allowances of a card, and counters of what exceeded them, as clouds have them.
 *
 * Theory of operation: what exceeds an allowance is dropped and counted under that allowance's name. (Where the VM shall
 * wait instead, `rate` before this layer makes it.) A packet has to be within all of its allowances before any
 * is charged, so one that is dropped costs nothing. Rates are buckets (base/bucket.h): one that is not empty lets a
 * packet pass and goes into debt by the rest of it, so averages are exact.
 *
 * Connections are flows of IP, seen in either direction, by a keyed hash. They are in two tables, since an age
 * means something else for each: TCP that is open, and all the rest (UDP, ICMP, TCP of which an end was seen). In both
 * the oldest is first in line to expire, so that is all that is looked at. Only new connections are refused.
 */
#include "net/limits/internal.h"

#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define SAVE_EVERY DT_MS(200)

#define RATE(which, u)                             \
    .type = DT_PARAM_UINT, .flags = DT_PARAM_LIVE, \
    .offset = offsetof(struct limits, rates[which]), .initial = "0", .unit = u
#define TIME(field) \
    .type = DT_PARAM_DURATION, .flags = DT_PARAM_LIVE, .offset = offsetof(struct limits, field)
static const struct dt_param params[] = {
    {.name = "bw-in", RATE(BW_IN, "bits/s"), .help = "Bits per second to the guest; 0 = no limit."},
    {.name = "bw-out",
     RATE(BW_OUT, "bits/s"),
     .help = "Bits per second from the guest; 0 = no limit."},
    {.name = "pps",
     RATE(PPS, "packets/s"),
     .help = "Packets per second, both ways together; 0 = no limit."},
    {.name = "linklocal",
     RATE(LINKLOCAL, "packets/s"),
     .help =
         "Packets per second to link-local services (169.254.0.0/16, fe80::/10); 0 = no limit."},
    {.name = "burst",
     TIME(burst),
     .initial = "100ms",
     .max = DT_S(3600),
     .help = "What was not used of a rate in this time may be used at once."},
    {.name = "conntrack",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct limits, conntrack),
     .initial = "0",
     .max = CONNECTIONS_MAX,
     .unit = "connections",
     .help = "Connections at a time; 0 = no limit, and none is tracked."},
    {.name = "tcp-timeout",
     TIME(tcp_timeout),
     .initial = "350s",
     .min = DT_S(1),
     .max = DT_S(86400),
     .help = "An open TCP connection without a packet is forgotten after this time."},
    {.name = "timeout",
     TIME(timeout),
     .initial = "30s",
     .min = DT_S(1),
     .max = DT_S(86400),
     .help = "And so is anything else."},
    {NULL},
};

enum { CONNTRACK = RATES, TRACKED };
#define COUNTER(n, what)                                                            \
    {                                                                               \
        n "-allowance-exceeded", "packets", "Dropped because " what " was used up." \
    }
static const struct dt_counter counters[] = {
    [BW_IN] = COUNTER("bw-in", "the bandwidth to the guest"),
    [BW_OUT] = COUNTER("bw-out", "the bandwidth from the guest"),
    [PPS] = COUNTER("pps", "the number of packets"),
    [LINKLOCAL] = COUNTER("linklocal", "the number of packets to link-local services"),
    [CONNTRACK] = COUNTER("conntrack", "the number of connections"),
    [TRACKED] = {"connections", "connections", "Connections that began to be tracked."},
    {NULL},
};

/* ---- Connections ---- */

/* The same whichever end sends: the lower one is first. */
static uint64_t hash_of(const struct limits *l, const struct dt_packet *p,
                        const struct dt_headers *h)
{
    struct end {
        uint8_t address[16], port[2];
    } ends[2] = {0};
    struct {
        struct end low, high;
        uint32_t kind;
    } key = {.kind = (uint32_t)(h->vlan[0] & 0xfff) << 16 | h->protocol};
    uint32_t bytes = h->flags & DT_HDR_IPV4 ? 4 : 16;
    const uint8_t *from = p->data + h->l3 + (bytes == 4 ? 12 : 8);
    int order;

    for (unsigned i = 0; i < 2; i++) {
        memcpy(ends[i].address, from + i * bytes, bytes);
        if (dt_packet_has_ports(p, h))
            memcpy(ends[i].port, p->data + h->l4 + i * 2, 2);
    }
    order = memcmp(&ends[0], &ends[1], sizeof(ends[0])) > 0;
    key.low = ends[order];
    key.high = ends[!order];
    return XXH3_64bits_withSeed(&key, sizeof(key), l->seed);
}

static enum kind kind_of(const struct dt_packet *p, const struct dt_headers *h)
{
    enum { FIN = 1, RST = 4 };

    return h->flags & DT_HDR_TCP && !(h->flags & DT_HDR_FRAGMENT) &&
                   !(p->data[h->l4 + 13] & (FIN | RST))
               ? OPEN
               : SHORT;
}

/* Ages are in seconds: once in each is enough. */
static void expire(struct limits *l, uint32_t now)
{
    const uint64_t timeouts[KINDS] = {[OPEN] = l->tcp_timeout, [SHORT] = l->timeout};

    if (l->looked == now)
        return;
    l->looked = now;
    for (enum kind k = OPEN; k < KINDS; k++) {
        struct table *t = &l->tables[k];

        while (t->oldest &&
               now - ((struct connection *)table_at(t, t->oldest))->seen > timeouts[k] / DT_S(1))
            table_remove(t, t->oldest);
    }
}

static void note(struct table *t, uint32_t entry, uint32_t now)
{
    struct connection *c = table_at(t, entry);

    if (c->seen == now)
        return;
    c->seen = now;
    table_touch(t, entry);
}

static uint64_t connections(const struct limits *l)
{
    return (uint64_t)l->tables[OPEN].count + l->tables[SHORT].count;
}

/* Is it of a connection that there is? Brings that up to date: one that ends is short from now on, for good. */
static bool known(struct limits *l, uint64_t hash, enum kind kind, uint32_t now)
{
    uint32_t entry = table_find(&l->tables[SHORT], hash);

    if (entry) {
        note(&l->tables[SHORT], entry, now);
        return true;
    }
    entry = table_find(&l->tables[OPEN], hash);
    if (!entry)
        return false;
    if (kind == OPEN || table_full(&l->tables[SHORT])) {
        note(&l->tables[OPEN], entry, now);
        return true;
    }
    table_remove(&l->tables[OPEN], entry);
    entry = table_add(&l->tables[SHORT], hash);
    note(&l->tables[SHORT], entry, now);
    return true;
}

/* False if there is no room for a new one. */
static bool track(struct dt_ctx *c, struct dt_packet *p, uint64_t now_ns)
{
    struct limits *l = c->layer_data;
    const struct dt_headers *h = dt_headers(p);
    uint32_t now = (uint32_t)(now_ns / DT_S(1)), entry;
    enum kind kind;
    uint64_t hash;

    if (!l->conntrack || !(h->flags & DT_HDR_IP))
        return true;
    hash = hash_of(l, p, h);
    kind = kind_of(p, h);
    expire(l, now);
    if (known(l, hash, kind, now))
        return true;
    if (connections(l) >= l->conntrack || table_full(&l->tables[kind]))
        return false;
    entry = table_add(&l->tables[kind], hash);
    note(&l->tables[kind], entry, now);
    dt_count(c, TRACKED, 1);
    return true;
}

/* ---- Packets ---- */

static bool is_linklocal(const struct dt_packet *p, const struct dt_headers *h)
{
    const uint8_t *ip = p->data + h->l3;

    if (h->flags & DT_HDR_IPV4)
        return ip[16] == 169 && ip[17] == 254;
    return h->flags & DT_HDR_IPV6 && ip[24] == 0xfe && (ip[25] & 0xc0) == 0x80;
}

static bool spent(struct bucket *b, uint64_t now)
{
    if (!b->rate)
        return false;
    bucket_refill(b, now);
    return bucket_empty(b);
}

static enum dt_net_verdict judge(struct dt_ctx *c, struct dt_packet *p, enum dt_direction way)
{
    struct limits *l = c->layer_data;
    enum allowance bandwidth = way == DT_TX ? BW_OUT : BW_IN;
    bool linklocal = way == DT_TX && l->rates[LINKLOCAL] && is_linklocal(p, dt_headers(p));
    uint64_t now = dt_now(c), segments = dt_packet_segments(p);

    if (linklocal && spent(&l->buckets[LINKLOCAL], now))
        return dt_drop_as(p, LINKLOCAL);
    if (spent(&l->buckets[PPS], now))
        return dt_drop_as(p, PPS);
    if (spent(&l->buckets[bandwidth], now))
        return dt_drop_as(p, bandwidth);
    if (!track(c, p, now))
        return dt_drop_as(p, CONNTRACK);
    if (linklocal)
        bucket_take(&l->buckets[LINKLOCAL], segments);
    bucket_take(&l->buckets[PPS], segments);
    bucket_take(&l->buckets[bandwidth], dt_packet_wire_bytes(p) * 8);
    if (now - l->saved_at >= SAVE_EVERY) {
        l->saved_at = now;
        dt_layer_state_changed(c->layer);
    }
    return DT_ACCEPT;
}

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_TX);
}

static enum dt_net_verdict rx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_RX);
}

/* ---- Life ---- */

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct limits *l = dt_layer_data(layer);

    for (unsigned i = 0; i < RATES; i++)
        bucket_set(&l->buckets[i], l->rates[i], l->burst, dt_clock_ns());
    l->looked = 0; /* timeouts may be shorter now */
    return 0;
}

static void close_layer(struct dt_layer *layer)
{
    struct limits *l = dt_layer_data(layer);

    for (enum kind k = OPEN; k < KINDS; k++)
        table_fini(&l->tables[k]);
}

/* The tables are as large as conntrack may become: memory is touched as connections come. */
static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct limits *l = dt_layer_data(layer);
    int ret = 0;

    if (getrandom(&l->seed, sizeof(l->seed), 0) != sizeof(l->seed))
        return dt_fail(err, -EIO, "no random numbers: %s", strerror(errno));
    for (enum kind k = OPEN; ret == 0 && k < KINDS; k++)
        ret = table_init(&l->tables[k], CONNECTIONS_MAX, sizeof(struct connection));
    if (ret < 0) {
        close_layer(layer);
        return dt_fail(err, ret,
                       "no room for the tables of connections: in a process of its own they "
                       "need mem-limit=1G, of addresses, not of memory");
    }
    return set(layer, 0, err);
}

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    struct limits *l = dt_layer_data(layer);

    expire(l, (uint32_t)(dt_clock_ns() / DT_S(1)));
    dt_reply_u64(reply, "connections", connections(l));
    dt_reply_u64(reply, "conntrack-allowance-available",
                 l->conntrack > connections(l) ? l->conntrack - connections(l) : 0);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "How many connections there are, and how many more there may be.", run_status},
    {NULL},
};

const struct dt_net_ext net_limits = {
    DT_NET_EXT_HEADER,
    .name = "limits",
    .summary = "Allowances as clouds have them: bandwidth, packets, connections, link-local; "
               "counted where exceeded",
    .help = "What exceeds an allowance is dropped, and counted under its name: bw-in, bw-out, pps, "
            "conntrack, "
            "linklocal. Existing connections go on when there may be no new ones.",
    .flags = DT_SELF_CONTAINED | DT_STATE_OF_RUN,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct limits),
    .state_version = 1,
    .open = open_layer,
    .close = close_layer,
    .set = set,
    .tx = tx,
    .rx = rx,
    .save = limits_save,
    .load = limits_load,
};
