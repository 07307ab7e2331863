/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_switch.c - frames of any content into a switch: for each the port, its length, its bytes. Wherever one comes
 * out, it may come out: by its addresses and tag alone, judged here anew.
 */
#include "net/switch/fabric.h"

#include "base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    A,
    B,
    C,
    D,
    UP,
    PORTS
}; /* A and B are peers, C is alone, D has VLAN 10 without a tag and 20 with one */

static struct far {
    struct dt_ctx *c;
} fars[PORTS];
static unsigned started, from; /* where the present frame came in */
static struct loop *loop;
static struct fabric *fabric;

static unsigned owner(const uint8_t *mac)
{
    static const uint8_t prefix[] = {0x52, 0x54, 0, 0, 0};

    return memcmp(mac, prefix, 5) == 0 && mac[5] < UP ? mac[5] : PORTS;
}

/* Did what comes out at @at, which came in at @from, do so by right? */
static void check(unsigned at, const struct dt_packet *p)
{
    bool group = p->data[0] & 1, tagged = load_be16(p->data + 12) == 0x8100;

    CHECK(at != from && p->length >= 14);
    CHECK(owner(p->data + 6) == (from == UP ? (unsigned)PORTS : from));
    CHECK(!(p->data[6] & 1));
    CHECK(group || owner(p->data) == (at == UP ? (unsigned)PORTS : at));
    if (at != UP && from != UP)
        CHECK((at == A && from == B) || (at == B && from == A));
    if (at == A || at == B || at == C)
        CHECK(!tagged);
    if (tagged) {
        unsigned vid = load_be16(p->data + 14) & 0xfff;

        CHECK(p->length >= 18 && (at == D || from == D || from == UP));
        CHECK(at != D || vid == 20);
        CHECK(from != D || vid == 10 || vid == 20);
    }
}

static void far_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        check((unsigned)(*(struct far **)c->data - fars), packets[i]);
    dt_sent(c, packets, n);
}

static int far_start(struct dt_ctx *c, struct dt_error *err)
{
    *(struct far **)c->data = &fars[started];
    fars[started++].c = c;
    return 0;
}

static int far_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

static const struct dt_net_ext far_ext = {
    DT_NET_EXT_HEADER,
    .name = "far",
    .summary = "the other end, for tests",
    .flags = DT_BACK,
    .ctx_size = sizeof(struct far *),
    .start = far_start,
    .info = far_info,
    .transmit = far_transmit,
};

static void begin(void)
{
    static const char *const names[PORTS] = {"a", "b", "c", "d", "up"};
    const struct loop_config config = {.engine = LOOP_EPOLL};
    static struct fabric_config configs[PORTS];
    struct dt_error err;

    for (unsigned i = 0; i < PORTS; i++)
        configs[i] = (struct fabric_config){.name = names[i],
                                            .chain = "far",
                                            .uplink = i == UP,
                                            .macs = {{0x52, 0x54, 0, 0, 0, (uint8_t)i}},
                                            .nmacs = i != UP};
    configs[A].group = configs[B].group = "g";
    configs[D].vlan = 10;
    configs[D].trunk[20 / 8] = 1 << 20 % 8;
    CHECK(registry_add_net(&far_ext, &err) == 0 && loop_new(&loop, &config, &err) == 0);
    CHECK(fabric_new(&fabric, loop, configs, PORTS, &err) == 0 && fabric_start(fabric, &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!fabric)
        begin();
    while (size >= 2 + 14) {
        size_t length = MIN(MAX(data[1], (uint8_t)14), size - 2);
        struct dt_packet *p;

        from = data[0] % PORTS;
        p = dt_packet_new(fars[from].c, (uint32_t)length);
        CHECK(p);
        memcpy(p->data, data + 2, length);
        dt_receive_one(fars[from].c, p);
        loop_turn(loop, false);
        data += 2 + length;
        size -= 2 + length;
    }
    return 0;
}
