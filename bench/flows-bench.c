/* SPDX-License-Identifier: MIT */
/*
 * flows-bench.c - what extensions of a card take of the processor for a packet and its answer, with few flows and with a
 * million; and memory.
 *
 *     build/bench/flows-bench [CHAIN [FLOWS [PACKETS]]]
 *
 * CHAIN goes before a wire that answers every packet, and is by default `symmetry flows=1M`. No ring, no system call: what is
 * measured is the chain, beside the wire alone, in the thread's own time. Each flow sends one packet in its turn, by a constant stride, another one in each pass:
 * what comes one after the other lies far apart in memory. FLOWS are by default 1,024 and then 1,048,576;
 * of PACKETS a few thousand are enough where instructions are counted (valgrind --tool=callgrind --toggle-collect=send_all).
 */
#include "base/bytes.h"
#include "core/net.h"
#include "net/net.h"

#include <stdio.h>
#include <time.h>

#define FRAME_BYTES 64u
#define BURST       32u
#define PASSES      3u

static uint64_t answered;
static uint32_t packets_a_pass = 1u << 20;
static uint64_t stride = 1; /* from flow to flow; prime, so that all have their turn */

/* ---- The wire ---- */

static void answer(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct dt_packet *back[BURST];
    unsigned m = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_packet *p = dt_packet_copy(c, packets[i]);

        CHECK(p);
        memcpy(p->data, packets[i]->data + 6, 6);
        memcpy(p->data + 6, packets[i]->data, 6);
        memcpy(p->data + 26, packets[i]->data + 30, 4);
        memcpy(p->data + 30, packets[i]->data + 26, 4);
        memcpy(p->data + 34, packets[i]->data + 36, 2);
        memcpy(p->data + 36, packets[i]->data + 34, 2);
        back[m++] = p;
    }
    dt_sent(c, packets, n);
    dt_receive(c, back, m);
}

static int info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

static const struct dt_net_ext wire = {
    DT_NET_EXT_HEADER,
    .name = "answers",
    .summary = "a wire that answers",
    .flags = DT_BACK | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .transmit = answer,
    .info = info,
};

/* ---- The guest ---- */

static void guest_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    answered += n;
    for (unsigned i = 0; i < n; i++)
        net_packet_free(lane, packet_of(packets[i]));
}

static void guest_wake(struct lane *lane)
{
}

static const struct front_ops ops = {.receive = guest_receive, .wake = guest_wake};

/* UDP from 10.254.0.0, port 1000, to 10.0.0.0 + @flow, port 1001: as testpmd's flowgen. */
static void make_frame(uint8_t *f, uint32_t flow)
{
    static const uint8_t start[] = {0, 1, 2,  3, 4, 1,    0, 1,  2,  3, 4, 0,  0x08, 0x00, 0x45,
                                    0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 254,  0,    0};

    memset(f, 0, FRAME_BYTES);
    memcpy(f, start, sizeof(start));
    store_be32(f + 30, 0x0a000000u + flow);
    store_be16(f + 34, 1000);
    store_be16(f + 36, 1001);
    store_be16(f + 38, 30);
}

/* Of the flows from @first on, each a packet. */
static void send_burst(struct lane *lane, uint32_t first, uint32_t flows, unsigned n)
{
    struct dt_packet *packets[BURST];

    n = net_admit(lane, n);
    for (unsigned i = 0; i < n; i++) {
        struct packet *p = net_packet_new(lane, FRAME_BYTES);

        make_frame(p->pub.data, (uint32_t)((first + i) * stride % flows));
        p->pub.queue = 0;
        packets[i] = &p->pub;
    }
    net_transmit(lane, packets, n);
}

/* Nobody's first packets have answers yet: one after the other, or `symmetry` delays them. */
static void begin(struct lane *lane, struct loop *loop, uint32_t flows)
{
    for (unsigned i = 0; i < 1024; i++) {
        send_burst(lane, i, flows, 1);
        loop_turn(loop, false);
    }
}

static void at_rest(void *arg, const char *late)
{
    *(bool *)arg = true;
}

/* A function of its own, for profilers: the loop's turns are in it, too. */
static __attribute__((noinline)) void send_all(struct lane *lane, struct loop *loop, uint32_t flows)
{
    for (uint32_t sent = 0; sent < packets_a_pass; sent += BURST) {
        send_burst(lane, sent, flows, BURST);
        loop_turn(loop, false);
    }
}

/* ---- The bench ---- */

static uint64_t own_time(void)
{
    struct timespec t;

    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * DT_S(1) + (uint64_t)t.tv_nsec;
}

static uint64_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    CHECK(f && fscanf(f, "%*u %lu", &pages) == 1);
    fclose(f);
    return (uint64_t)pages * PAGE_SIZE_4K;
}

/* @chain: its bars become commas, for the table. */
static void measure(char *chain, uint32_t flows)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct dt_error err = {""};
    struct chain_spec spec;
    struct device *dev;
    struct loop *loop;
    uint64_t before, best = UINT64_MAX;
    bool rests = false;

    CHECK(loop_new(&loop, &config, &err) == 0);
    if (chain_parse(&spec, chain, &err) < 0 ||
        device_new(
            &dev,
            &(struct device_config){
                .kind = DEVICE_NET, .name = "card", .chain = &spec, .loops = &loop, .threads = 1},
            &err) < 0 ||
        device_start(dev, &ops, NULL, &err) < 0) {
        fprintf(stderr, "%s: %s\n", chain, err.text);
        exit(1);
    }
    chain_spec_free(&spec);
    net_set_room(device_lane(dev, 0), true, 4096);
    net_guest_takes(device_lane(dev, 0), DT_OFFLOAD_ALL);
    before = resident_bytes();
    begin(device_lane(dev, 0), loop, flows);
    answered = 0;
    for (unsigned pass = 0; pass < PASSES; pass++) {
        static const uint64_t strides[PASSES] = {1000003, 15485863, 32452843};
        uint64_t start = own_time();

        stride = strides[pass];
        send_all(device_lane(dev, 0), loop, flows);
        best = MIN(best, own_time() - start);
    }
    for (char *bar = chain; (bar = strchr(bar, '|')) != NULL;)
        *bar = ',';
    printf("| %s | %u | %.0f | %.1f | %.1f |\n", chain, flows, (double)best / packets_a_pass,
           (double)(resident_bytes() - before) / 1e6,
           100.0 * (double)answered / (PASSES * (double)packets_a_pass));
    device_quiesce(dev, dt_clock_ns() + DT_S(1), at_rest, &rests);
    while (!rests)
        loop_turn(loop, false);
    device_stop(dev);
    device_free(dev);
    loop_free(loop);
}

static void compare(const char *chain, uint32_t flows)
{
    char bare[] = "answers", whole[1024];

    snprintf(whole, sizeof(whole), "%s | %s", chain, bare);
    measure(bare, flows);
    measure(whole, flows);
}

int main(int argc, char **argv)
{
    const char *chain = argc > 1 ? argv[1] : "symmetry flows=1M";
    uint32_t flows = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    struct dt_error err;

    net_register_builtin();
    CHECK(registry_add_net(&wire, &err) == 0);
    if (argc > 3)
        packets_a_pass = MAX(ALIGN_UP((uint32_t)strtoul(argv[3], NULL, 10), BURST), BURST);
    printf("| chain | flows | ns for a packet and its answer | MB more | answered, %% "
           "|\n|---|---|---|---|---|\n");
    if (flows) {
        compare(chain, flows);
        return 0;
    }
    compare(chain, 1024);
    compare(chain, 1 << 20);
    return 0;
}
