/* SPDX-License-Identifier: MIT */
/*
 * net-card.c - a card under test: its chain, a guest that sends and takes, and a wire.
 *
 * The guest's ring is a table of descriptors: one that comes back twice, or not at all, is what is looked for.
 */
#include "tools/conformance/net.h"

#include <time.h>

struct card card;

/* ---- The wire ---- */

static void judge_leaving(struct dt_packet *p)
{
    if (p->length < 14 || p->length > NET_MAX_FRAME)
        bench_fail("a packet of %u bytes left the chain", p->length);
    if (!card.plain)
        return;
    if (p->needs)
        bench_fail("a packet left with offloads (%#x) to a wire that takes none", p->needs);
    if (!packet_is_right(p))
        bench_fail("a packet of %u bytes left with a wrong checksum", p->length);
}

static void wire_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        judge_leaving(packets[i]);
    card.wired += n;
    dt_sent(c, packets, n);
}

static int wire_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

static int wire_start(struct dt_ctx *c, struct dt_error *err)
{
    card.wire = c;
    return 0;
}

#define WIRE(n, t)                                                                            \
    {                                                                                         \
        DT_NET_EXT_HEADER, .name = n, .summary = "the wire of a card under test",             \
                           .flags = DT_BACK | DT_SELF_CONTAINED, .takes = t,                  \
                           .transmit = wire_transmit, .info = wire_info, .start = wire_start, \
    }
const struct dt_net_ext card_wire = WIRE("test-wire", DT_OFFLOAD_ALL);
const struct dt_net_ext card_plain_wire = WIRE("test-plain-wire", 0);

/* ---- The guest ---- */

static void guest_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (packets[i]->length < 14 || packets[i]->length > NET_MAX_FRAME)
            bench_fail("a packet of %u bytes reached the guest", packets[i]->length);
        net_packet_free(lane, packet_of(packets[i]));
    }
    card.received += n;
}

static void take_back(struct card_slot *s)
{
    if (!s->busy)
        bench_fail("a descriptor came back that the chain did not have");
    if (card.log)
        card.log->records[s - card.slots].busy = 0;
    s->busy = false;
    s->next = card.free;
    card.free = s;
    card.outstanding--;
}

static void guest_sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        take_back(slots[i]);
}

static void guest_fetch(struct lane *lane, void *slot, struct dt_packet *p)
{
    const struct card_slot *s = slot;

    if (!s->busy)
        bench_fail("a packet is asked for that the chain does not have");
    memcpy(p->data + DT_PEEK_BYTES, s->frame + DT_PEEK_BYTES, p->length - DT_PEEK_BYTES);
}

static void guest_wake(struct lane *lane)
{
}

static const struct front_ops ops = {
    .receive = guest_receive, .sent = guest_sent, .fetch = guest_fetch, .wake = guest_wake};

/* ---- Life ---- */

void card_chain(struct bench *b, struct chain_spec *chain)
{
    static struct layer_spec layers[CHAIN_MAX_LAYERS + 1];

    memcpy(layers, b->user.layers, b->user.count * sizeof(layers[0]));
    *chain = (struct chain_spec){layers, b->user.count};
    if (!b->has_back)
        layers[chain->count++] = (struct layer_spec){
            .name = (char *)(uintptr_t)(card.plain ? card_plain_wire.name : card_wire.name)};
}

void card_build(struct bench *b)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct chain_spec chain;
    struct dt_error err = {""};

    card_chain(b, &chain);
    if (loop_new(&card.loop, &config, &err) < 0)
        bench_fail("%s", err.text);
    if (device_new(&card.dev,
                   &(struct device_config){.kind = DEVICE_NET,
                                           .name = "conformance",
                                           .chain = &chain,
                                           .loops = &card.loop,
                                           .blobs = card.blobs,
                                           .threads = 1},
                   &err) < 0)
        bench_fail("the card does not open: %s", err.text);
}

void card_start(void)
{
    struct dt_error err = {""};

    if (device_start(card.dev, &ops, NULL, &err) < 0)
        bench_fail("the card does not start: %s", err.text);
    card.lane = device_lane(card.dev, 0);
    card.free = NULL;
    card.outstanding = 0;
    for (unsigned i = 0; i < CARD_SLOTS; i++) {
        card.slots[i] = (struct card_slot){.next = card.free};
        card.free = &card.slots[i];
    }
    net_set_room(card.lane, true, CARD_SLOTS);
    net_set_ring(card.lane, CARD_SLOTS);
    net_guest_takes(card.lane, DT_OFFLOAD_ALL);
    card.started = true;
}

void card_open(struct bench *b)
{
    card_build(b);
    card_start();
}

void card_stop(void)
{
    device_stop(card.dev);
    card.started = false;
}

void card_close(void)
{
    if (card.started)
        card_stop();
    device_free(card.dev);
    loop_free(card.loop);
}

/* ---- Load ---- */

static struct packet *fill(struct packet *p, const uint8_t *frame, uint8_t needs, uint16_t segment)
{
    memcpy(p->pub.data, frame, p->pub.length);
    p->pub.needs = needs;
    p->pub.segment = segment;
    p->pub.queue = 0;
    return p;
}

/* What a layer that peeks does not see yet is in the slot, and something else in its place. */
static void hide(struct packet *p, struct card_slot *s)
{
    const struct dt_vnet_header nothing = {0};

    if (!net_peeks(card.lane) || p->pub.length <= DT_PEEK_BYTES || !net_peekable(&p->pub, &nothing))
        return;
    memcpy(s->frame, p->pub.data, p->pub.length);
    memset(p->pub.data + DT_PEEK_BYTES, 0xee, p->pub.length - DT_PEEK_BYTES);
    p->pub.needs |= DT_OFFLOAD_FETCH;
}

static struct card_record *record_of(const struct card_slot *s)
{
    return card.log ? &card.log->records[s - card.slots] : NULL;
}

struct dt_packet *card_send(const uint8_t *frame, uint32_t length, uint8_t needs, uint16_t segment)
{
    struct packet *p = fill(net_packet_new(card.lane, length), frame, needs, segment);
    struct card_slot *s = card.free;
    struct card_record *r = record_of(s);

    card.free = s->next;
    s->busy = true;
    card.outstanding++;
    if (r) {
        memcpy(r->frame, frame, length);
        r->length = length;
        r->needs = needs;
        r->segment = segment;
        __atomic_store_n(&r->busy, 1, __ATOMIC_RELEASE);
    }
    p->slot = s;
    hide(p, s);
    return &p->pub;
}

static void send_burst(struct bench *b, unsigned n)
{
    struct dt_packet *packets[CARD_BURST];
    unsigned want = net_admit(card.lane, n), sent = 0;

    if (want > n)
        bench_fail("a layer's admit lets %u packets in, of %u", want, n);
    for (; sent < want && card.free; sent++) {
        uint8_t frame[PACKET_MOST], needs;
        uint16_t segment;
        uint32_t length = random_packet(&b->rng, frame, &needs, &segment);

        packets[sent] = card_send(frame, length, needs, segment);
    }
    card.fed += sent;
    if (sent)
        net_transmit(card.lane, packets, sent);
}

static void arrive_burst(struct bench *b, unsigned n)
{
    struct dt_packet *packets[CARD_BURST];
    unsigned m = 0;

    for (; !b->has_back && m < n && m < dt_room(card.wire); m++) {
        uint8_t frame[PACKET_MOST], needs;
        uint16_t segment;
        uint32_t length = random_packet(&b->rng, frame, &needs, &segment);
        struct dt_packet *p = dt_packet_new(card.wire, length);

        if (!p)
            break;
        packets[m] = &fill(packet_of(p), frame, needs, segment)->pub;
    }
    card.arrived += m;
    if (m)
        dt_receive(card.wire, packets, m);
}

void card_burst(struct bench *b, unsigned n)
{
    send_burst(b, n);
    arrive_burst(b, n);
    loop_turn(card.loop, false);
}

void card_load(struct bench *b, uint64_t ns)
{
    uint64_t end = dt_clock_ns() + ns, before = card.fed + card.arrived;

    for (unsigned idle = 0; dt_clock_ns() < end; idle++) {
        uint64_t had = card.fed;

        card_burst(b, 1 + (unsigned)dt_rng_below(&b->rng, CARD_BURST));
        if (card.fed != had)
            idle = 0;
        else if (idle > 10) /* a timer of the extension's is awaited */
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    b->verdict->count += card.fed + card.arrived - before;
}

static void at_rest(void *arg, const char *late)
{
    static char text[256];

    snprintf(text, sizeof(text), "%s", late ?: "");
    *(const char **)arg = text;
}

const char *card_rest(uint64_t ns)
{
    const char *late = NULL;

    device_quiesce(card.dev, dt_clock_ns() + ns, at_rest, &late);
    while (!late)
        loop_turn(card.loop, true);
    if (*late)
        return late;
    if (card.outstanding)
        bench_fail("%u descriptors of the guest's did not come back", card.outstanding);
    return NULL;
}
