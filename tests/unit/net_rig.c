/* SPDX-License-Identifier: MIT */
/* net_rig.c - see net_rig.h. */
#include "tests/unit/net_rig.h"

#include "net/net.h"
#include <arpa/inet.h>
#include <stdio.h>

struct rig rig;

uint64_t test_clock;

/* Linked with --wrap=dt_clock_ns, where the test turns the clock. */
uint64_t __real_dt_clock_ns(void);
uint64_t __wrap_dt_clock_ns(void);
uint64_t __wrap_dt_clock_ns(void)
{
    return test_clock ? test_clock : __real_dt_clock_ns();
}

static void keep(struct rig_list *list, const struct dt_packet *p)
{
    struct rig_frame *f = &list->frames[list->n++];

    CHECK(list->n < RIG_FRAMES);
    *f = (struct rig_frame){.length = p->length,
                            .needs = p->needs,
                            .segment = p->segment,
                            .queue = p->queue,
                            .at = loop_now(rig.loop)};
    f->data = malloc(p->length + 1);
    memcpy(f->data, p->data, p->length);
}

/* ---- Both ends ---- */

static void wire_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        keep(&rig.wire, packets[i]);
    dt_sent(c, packets, n);
    if (rig.answer)
        rig.answer();
}

static int wire_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

#define WIRE(n, t)                                                           \
    {                                                                        \
        DT_NET_EXT_HEADER, .name = n, .summary = "the other end, for tests", \
                           .flags = DT_BACK | DT_SELF_CONTAINED, .takes = t, \
                           .transmit = wire_transmit, .info = wire_info      \
    }
static const struct dt_net_ext wires[] = {WIRE("wire", DT_OFFLOAD_ALL), WIRE("plain-wire", 0)};

static void guest_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        keep(&rig.guest, packets[i]);
        net_packet_free(lane, packet_of(packets[i]));
    }
}

/* What the guest's ring would have outstanding. */
struct outstanding {
    uint32_t length;
    uint8_t bytes[];
};

static void guest_sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (slots[i] != &rig) /* what a test itself puts there */
            free(slots[i]);
    rig.sent += n;
}

static void guest_fetch(struct lane *lane, void *slot, struct dt_packet *p)
{
    const struct outstanding *o = slot;

    CHECK(o->length == p->length);
    memcpy(p->data + DT_PEEK_BYTES, o->bytes + DT_PEEK_BYTES, o->length - DT_PEEK_BYTES);
    rig.fetched++;
}

static void guest_wake(struct lane *lane)
{
    rig.woken++;
}

static void guest_changed(void *front)
{
    rig.changed++;
}

static const struct front_ops ops = {.receive = guest_receive,
                                     .sent = guest_sent,
                                     .fetch = guest_fetch,
                                     .wake = guest_wake,
                                     .info_changed = guest_changed};

static uint8_t segmented_as(unsigned kind)
{
    if (!(kind & FRAME_TCP))
        return frame_fragments(kind) ? VIRTIO_NET_HDR_GSO_UDP : VIRTIO_NET_HDR_GSO_UDP_L4;
    return kind & FRAME_V6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
}

struct dt_vnet_header frame_kind(struct frame *f, unsigned kind, uint16_t port)
{
    bool v6 = kind & FRAME_V6, tcp = kind & FRAME_TCP, super = kind & FRAME_SUPER;

    frame_ether(f, v6 ? 0x86dd : 0x0800);
    if (v6)
        frame_ipv6(f, tcp ? 6 : 17, "2001:db8::7", "2001:db8::1");
    else
        frame_ipv4(f, tcp ? 6 : 17, "192.0.2.7", "198.51.100.1");
    if (tcp)
        frame_tcp(f, 1, port, 3, 0x10);
    else
        frame_udp(f, 1, port);
    return (struct dt_vnet_header){.flags =
                                       super || kind & FRAME_CSUM ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
                                   .gso_type = super ? segmented_as(kind) : 0,
                                   .gso_size = super ? 1000 : 0,
                                   .csum_start = v6 ? 54 : 34,
                                   .csum_offset = tcp ? 16 : 6};
}

/* ---- Life ---- */

int rig_try(const char *chain)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    static bool registered;
    struct chain_spec spec;
    int ret;

    net_register_builtin();
    for (unsigned i = 0; !registered && i < ARRAY_SIZE(wires); i++)
        CHECK(registry_add_net(&wires[i], &rig.err) == 0);
    registered = true;
    CHECK(loop_new(&rig.loop, &config, &rig.err) == 0);
    ret = chain_parse(&spec, chain, &rig.err);
    if (ret == 0) {
        ret = device_new(&rig.dev,
                         &(struct device_config){.kind = DEVICE_NET,
                                                 .name = "card",
                                                 .chain = &spec,
                                                 .blobs = rig.blobs,
                                                 .loops = &rig.loop,
                                                 .threads = 1},
                         &rig.err);
        chain_spec_free(&spec);
    }
    if (ret == 0 && (ret = device_start(rig.dev, &ops, NULL, &rig.err)) < 0)
        device_free(rig.dev);
    if (ret < 0) {
        loop_free(rig.loop);
        return ret;
    }
    rig.lane = device_lane(rig.dev, 0);
    rig.sent = rig.woken = rig.fetched = rig.changed = 0;
    net_set_room(rig.lane, true, 256);
    net_guest_takes(rig.lane, DT_OFFLOAD_ALL);
    return 0;
}

void rig_start(const char *chain)
{
    if (rig_try(chain) < 0) {
        fprintf(stderr, "%s: %s\n", chain, rig.err.text);
        abort();
    }
}

void rig_refuses(const struct rig_refusal *cases, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        bool taken = rig_try(cases[i].chain) == 0;

        if (!taken && strstr(rig.err.text, cases[i].says))
            continue;
        fprintf(stderr, "%s: %s\n", cases[i].chain, taken ? "was taken" : rig.err.text);
        abort();
    }
}

static void quiet(void *arg, const char *late)
{
    *(bool *)arg = true;
    CHECK(!late);
}

void rig_stop(void)
{
    bool done = false;

    test_clock += test_clock ? DT_S(1) : 0;
    device_quiesce(rig.dev, dt_clock_ns() + DT_S(5), quiet, &done);
    while (!done)
        loop_turn(rig.loop, false);
    device_stop(rig.dev);
    device_free(rig.dev);
    loop_free(rig.loop);
    rig_clear();
}

static void clear(struct rig_list *list)
{
    while (list->n > 0)
        free(list->frames[--list->n].data);
}

void rig_clear(void)
{
    clear(&rig.wire);
    clear(&rig.guest);
}

static void nothing(struct loop_message *message)
{
}

/* A loop looks at the clock after a turn that did something, and else now and then only. */
void rig_turn(void)
{
    static struct loop_message message = {.run = nothing};

    loop_post(rig.loop, &message);
    loop_turn(rig.loop, false);
    loop_turn(rig.loop, false);
}

static struct batch {
    struct dt_packet *packets[NET_BURST];
    unsigned n;
} gathered[2];
static bool gathers;

static void gather(enum dt_direction way, struct dt_packet *p)
{
    struct batch *b = &gathered[way];

    CHECK(b->n < NET_BURST);
    b->packets[b->n++] = p;
    if (!gathers)
        rig_let_go();
}

void rig_gather(void)
{
    gathers = true;
}

void rig_let_go(void)
{
    struct dt_layer *back = rig.dev->layers[rig.dev->nlayers];
    struct batch tx = gathered[DT_TX], rx = gathered[DT_RX];

    gathers = false;
    gathered[DT_TX].n = gathered[DT_RX].n = 0;
    if (tx.n)
        net_transmit(rig.lane, tx.packets, tx.n);
    if (rx.n)
        dt_receive(dt_layer_ctx(back, 0), rx.packets, rx.n);
}

bool rig_send(const void *frame, uint32_t length, const struct dt_vnet_header *v, uint32_t allowed)
{
    static const struct dt_vnet_header nothing_left;
    struct outstanding *o;
    struct packet *p;
    struct dt_packet *packet;
    bool peeked = net_peeks(rig.lane) && length > DT_PEEK_BYTES;

    if (net_admit(rig.lane, 1) == 0)
        return false;
    p = net_packet_new(rig.lane, length);
    packet = &p->pub;
    memset(packet->data, 0xee, length);
    memcpy(packet->data, frame, peeked ? DT_PEEK_BYTES : length);
    peeked = peeked && net_peekable(packet, v ?: &nothing_left);
    if (!peeked) {
        memcpy(packet->data, frame, length);
        dt_packet_changed(packet);
    }
    packet->queue = 0;
    if (v && dt_vnet_read(packet, v, allowed) < 0) {
        net_packet_free(rig.lane, p);
        return false;
    }
    if (peeked)
        packet->needs |= DT_OFFLOAD_FETCH;
    p->slot = o = malloc(sizeof(*o) + length);
    o->length = length;
    memcpy(o->bytes, frame, length);
    gather(DT_TX, packet);
    return true;
}

void rig_arrive(const void *frame, uint32_t length, const struct dt_vnet_header *v)
{
    struct dt_layer *back = rig.dev->layers[rig.dev->nlayers];
    struct dt_ctx *c = dt_layer_ctx(back, 0);
    struct dt_packet *p = dt_packet_new(c, length);

    CHECK(p);
    memcpy(p->data, frame, length);
    if (v)
        CHECK(dt_vnet_read(p, v, DT_OFFLOAD_ALL) == 0);
    gather(DT_RX, p);
}

static json_t *layer_stats(json_t *stats, const char *name)
{
    json_t *layer;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i,
                       layer) if (strcmp(json_string_value(json_object_get(layer, "name")), name) ==
                                  0) return layer;
    CHECK(!"no such layer");
    return NULL;
}

uint64_t rig_counter(const char *layer, const char *counter)
{
    json_t *stats = device_stats(rig.dev);
    json_t *n = json_object_get(json_object_get(layer_stats(stats, layer), "counters"), counter);
    uint64_t value = (uint64_t)json_integer_value(n);

    CHECK(n);
    json_decref(stats);
    return value;
}

uint64_t rig_ops(const char *layer, const char *way, const char *what)
{
    json_t *stats = device_stats(rig.dev);
    json_t *ops_of = json_object_get(json_object_get(layer_stats(stats, layer), "ops"), way);
    uint64_t value = (uint64_t)json_integer_value(json_object_get(ops_of, what));

    json_decref(stats);
    return value;
}

/* ---- Frames ---- */

void frame_bytes(struct frame *f, const void *bytes, uint32_t n)
{
    CHECK(f->n + n <= sizeof(f->bytes));
    if (n)
        memcpy(f->bytes + f->n, bytes, n);
    f->n += n;
}

void frame_pattern(struct frame *f, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        f->bytes[f->n++] = (uint8_t)(i * 7 + i / 251);
}

void frame_ether(struct frame *f, uint16_t type)
{
    static const uint8_t addresses[] = {0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1};

    f->n = 0;
    frame_bytes(f, addresses, sizeof(addresses));
    frame_bytes(f, "\0", 2);
    store_be16(f->bytes + 12, type);
}

void frame_vlan(struct frame *f, uint16_t tpid, uint16_t tci, uint16_t type)
{
    store_be16(f->bytes + f->n - 2, tpid);
    store_be16(f->bytes + f->n, tci);
    store_be16(f->bytes + f->n + 2, type);
    f->n += 4;
}

void frame_ipv4(struct frame *f, uint8_t protocol, const char *from, const char *to)
{
    uint8_t h[20] = {0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol};

    CHECK(inet_pton(AF_INET, from, h + 12) == 1 && inet_pton(AF_INET, to, h + 16) == 1);
    frame_bytes(f, h, sizeof(h));
}

void frame_ipv6(struct frame *f, uint8_t next, const char *from, const char *to)
{
    uint8_t h[40] = {0x60, 0, 0, 0, 0, 0, next, 64};

    CHECK(inet_pton(AF_INET6, from, h + 8) == 1 && inet_pton(AF_INET6, to, h + 24) == 1);
    frame_bytes(f, h, sizeof(h));
}

void frame_tcp(struct frame *f, uint16_t from, uint16_t to, uint32_t seq, uint8_t flags)
{
    uint8_t h[20] = {0};

    store_be16(h, from);
    store_be16(h + 2, to);
    store_be32(h + 4, seq);
    h[12] = 0x50;
    h[13] = flags;
    store_be16(h + 14, 65535);
    frame_bytes(f, h, sizeof(h));
}

void frame_udp(struct frame *f, uint16_t from, uint16_t to)
{
    uint8_t h[8] = {0};

    store_be16(h, from);
    store_be16(h + 2, to);
    frame_bytes(f, h, sizeof(h));
}

static uint32_t sum_words(const uint8_t *p, uint32_t n, uint32_t sum)
{
    for (uint32_t i = 0; i + 1 < n; i += 2)
        sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    if (n & 1)
        sum += (uint32_t)p[n - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t transport_sum(const struct dt_headers *h, const uint8_t *data)
{
    const uint8_t *ip = data + h->l3;
    bool v4 = h->flags & DT_HDR_IPV4;
    uint32_t sum = sum_words(v4 ? ip + 12 : ip + 8, v4 ? 8 : 32, h->protocol);

    return sum_words(data + h->l4, h->end - h->l4, sum + (h->end - h->l4));
}

void frame_end(struct frame *f)
{
    struct dt_headers h;
    uint32_t l3 = 14;
    uint8_t *ip;

    while (f->bytes[l3 - 2] == 0x81 || f->bytes[l3 - 2] == 0x88)
        l3 += 4;
    ip = f->bytes + l3;
    if (ip[0] >> 4 == 4) {
        store_be16(ip + 2, f->n - l3);
        store_be16(ip + 10, 0);
        store_be16(ip + 10, ~sum_words(ip, (ip[0] & 15u) * 4, 0));
    } else {
        store_be16(ip + 4, f->n - l3 - 40);
    }
    if (ip[0] >> 4 == 4 && ip[9] == 17)
        store_be16(ip + (ip[0] & 15u) * 4 + 4, f->n - l3 - (ip[0] & 15u) * 4);
    else if (ip[0] >> 4 == 6 && ip[6] == 17)
        store_be16(ip + 44, f->n - l3 - 40);
    dt_parse(&h, f->bytes, f->n);
    if (h.flags & (DT_HDR_TCP | DT_HDR_UDP)) {
        uint8_t *field = f->bytes + h.l4 + (h.flags & DT_HDR_TCP ? 16 : 6);

        store_be16(field, 0);
        store_be16(field, ~transport_sum(&h, f->bytes));
    }
}

bool frame_sums_right(const uint8_t *data, uint32_t length)
{
    struct dt_headers h;

    dt_parse(&h, data, length);
    if (h.flags & DT_HDR_IPV4 && sum_words(data + h.l3, (data[h.l3] & 15u) * 4, 0) != 0xffff)
        return false;
    if (h.flags & (DT_HDR_TCP | DT_HDR_UDP) && !(h.flags & DT_HDR_FRAGMENT))
        return transport_sum(&h, data) == 0xffff;
    return true;
}
