/* SPDX-License-Identifier: MIT */
/*
 * capture.c - packets, as they pass, into a pcapng file or to a program that reads a FIFO.
 *
 * Theory of operation: each thread makes whole pcapng blocks in a ring of its own; a thread of the layer's writes the
 * rings out (out.c). The packets' way never waits for that: what finds no room in the ring is counted, and
 * the next block says how many are missing before it.
 *
 * Packets are complete. Where a checksum is left to the card the copy gets the right one, so that no reader
 * complains; super-frames are recorded as they are, as on any host.
 */
#include "net/capture/internal.h"

#include <time.h>

#define LARGEST 65600u

enum { BOTH, TX, RX };
static const char *const directions[] = {"both", "tx", "rx", NULL};

#define FIELD(t, field) .type = t, .offset = offsetof(struct capture, field)
static const struct dt_param params[] = {
    {.name = "out",
     FIELD(DT_PARAM_PATH, out),
     .flags = DT_PARAM_REQUIRED,
     .help = "File, to which a section is added, or FIFO, as made by mkfifo(1)."},
    {.name = "match",
     FIELD(DT_PARAM_STRING, match),
     .flags = DT_PARAM_LIVE,
     .initial = "",
     .unit = "expression",
     .help = "Only packets that match, as in pcap-filter(7); empty = all."},
    {.name = "direction",
     FIELD(DT_PARAM_ENUM, direction),
     .flags = DT_PARAM_LIVE,
     .initial = "both",
     .choices = directions,
     .help = "Only what the guest sends, or only what it receives."},
    {.name = "snaplen",
     FIELD(DT_PARAM_UINT, snaplen),
     .initial = "65600",
     .min = 14,
     .max = LARGEST,
     .unit = "bytes",
     .help = "Largest part of a packet that is recorded."},
    {.name = "buffer",
     FIELD(DT_PARAM_SIZE, buffer),
     .initial = "4M",
     .min = 256 << 10,
     .max = 1 << 30,
     .help = "Memory per thread for packets that are not written yet."},
    {.name = "limit",
     FIELD(DT_PARAM_SIZE, limit),
     .initial = "0",
     .help = "Stop when the file has reached this size; 0 = no limit."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [CAPTURED] = {"captured", "packets", "Packets that were recorded."},
    [DROPPED] = {"dropped", "packets", "Not recorded because the buffer was full."},
    [UNWRITTEN] =
        {"unwritten", "packets",
         "Recorded and lost: nobody reads the FIFO, the limit is reached, or writing failed."},
    {NULL},
};

/* ---- Blocks ---- */

static void ring_put(struct capture_ring *ring, uint64_t at, const void *bytes, uint64_t n)
{
    uint64_t from = at % ring->size, first = MIN(n, ring->size - from);

    memcpy(ring->bytes + from, bytes, first);
    memcpy(ring->bytes, (const uint8_t *)bytes + first, n - first);
}

/* Looks at the writer's progress only when it must. */
static bool has_room(struct capture_ring *ring, uint64_t n)
{
    if (ring->size - (ring->head - ring->tail_seen) >= n)
        return true;
    ring->tail_seen = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    return ring->size - (ring->head - ring->tail_seen) >= n;
}

/* In the copy at @data, of which the first @captured bytes are there. */
static void finish_checksum(struct capture_ring *ring, uint64_t data, uint32_t captured,
                            struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    uint32_t field = h->l4 + (h->flags & DT_HDR_TCP ? 16u : 6u);
    uint16_t sum = __builtin_bswap16(dt_transport_checksum(p));

    if (field + 2 <= captured)
        ring_put(ring, data + field, &sum, sizeof(sum));
}

static void publish(struct capture *w, struct capture_ring *ring, uint64_t head)
{
    uint64_t before = ring->head - ring->tail_seen;

    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    writer_published(&w->writer, before, head - ring->tail_seen, ring->size);
}

static void record(struct capture *w, struct capture_ring *ring, struct dt_packet *p,
                   enum dt_direction way)
{
    struct pcapng_frame frame = {.time = dt_now(ring->c) + w->epoch,
                                 .dropped = ring->missing,
                                 .captured = (uint32_t)MIN(p->length, w->snaplen),
                                 .length = p->length,
                                 .outbound = way == DT_TX};
    uint8_t front[PCAPNG_FRONT], back[PCAPNG_AROUND];
    uint64_t at = ring->head, length = pcapng_front(front, &frame);

    if (!has_room(ring, length)) {
        ring->missing++;
        dt_count(ring->c, DROPPED, 1);
        return;
    }
    ring_put(ring, at, front, PCAPNG_FRONT);
    ring_put(ring, at + PCAPNG_FRONT, p->data, frame.captured);
    ring_put(ring, at + PCAPNG_FRONT + frame.captured, back, pcapng_back(back, &frame));
    if (p->needs & DT_OFFLOAD_CSUM)
        finish_checksum(ring, at + PCAPNG_FRONT, frame.captured, p);
    ring->missing = 0;
    dt_count(ring->c, CAPTURED, 1);
    publish(w, ring, at + length);
}

static void record_all(struct dt_ctx *c, struct dt_packet **packets, unsigned n,
                       enum dt_direction way)
{
    struct capture *w = c->layer_data;
    struct capture_ring *ring = *(struct capture_ring **)c->data;

    if (w->direction == (way == DT_TX ? RX : TX))
        return;
    for (unsigned i = 0; i < n; i++)
        if (!w->match[0] || bpf_matches(&w->bpf, packets[i]))
            record(w, ring, packets[i], way);
}

static void transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    record_all(c, packets, n, DT_TX);
    dt_transmit(c, packets, n);
}

static void receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    record_all(c, packets, n, DT_RX);
    dt_receive(c, packets, n);
}

/* ---- Life ---- */

static int compile(struct dt_layer *layer, struct dt_error *err)
{
    struct capture *w = dt_layer_data(layer);

    return w->match[0] ? bpf_compile(&w->bpf, w->match, err) : 0;
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    return compile(layer, err);
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct capture *w = dt_layer_data(layer);
    struct timespec now;
    int ret = compile(layer, err);

    w->layer = layer;
    clock_gettime(CLOCK_REALTIME, &now);
    w->epoch = (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec - dt_clock_ns();
    if (ret < 0)
        return ret;
    ret = capture_out_open(w, err);
    if (ret < 0)
        bpf_free(&w->bpf);
    return ret;
}

static void close_layer(struct dt_layer *layer)
{
    struct capture *w = dt_layer_data(layer);

    capture_out_close(w);
    bpf_free(&w->bpf);
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct capture *w = c->layer_data;
    struct capture_ring *ring = xaligned(CACHE_LINE, sizeof(*ring));

    ring->size = w->buffer;
    ring->bytes = xaligned(PAGE_SIZE_4K, w->buffer);
    ring->c = c;
    *(struct capture_ring **)c->data = ring;
    writer_add(&w->writer, c->thread, ring);
    return 0;
}

/* The ring's counters belong to the context, which ends: nothing of it may be left. */
static void stop(struct dt_ctx *c)
{
    struct capture *w = c->layer_data;
    struct capture_ring *ring = *(struct capture_ring **)c->data;

    writer_remove(&w->writer, c->thread, capture_ring_end);
    free(ring->bytes);
    free(ring);
}

extern const struct dt_net_ext net_capture;
const struct dt_net_ext net_capture = {
    DT_NET_EXT_HEADER,
    .name = "capture",
    .summary = "Packets, as they pass, into a pcapng file, or live to Wireshark through a FIFO",
    .help = "Records whole packets with time and direction, in the format of Wireshark. Put it "
            "first to see what the "
            "guest sees, or further down to see what the layers above made of it. Packets never "
            "wait for the file: "
            "what it cannot take is counted, and marked in it.",
    .flags = DT_PER_QUEUE,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct capture),
    .ctx_size = sizeof(struct capture_ring *),
    .open = open_layer,
    .close = close_layer,
    .start = start,
    .stop = stop,
    .set = set,
    .transmit = transmit,
    .receive = receive,
};
