/* SPDX-License-Identifier: MIT */
/*
 * test_net_iommu.c - a guest with a vIOMMU before a network card: what it maps is reached and nothing else; what it takes
 * back is let go of at once, though its packets are still under way, and no layer has to hurry for it.
 */
#include "core/net.h"
#include "iommu_guest.h"
#include "net/vhost-user/front.h"
#include "soft_disk.h"

#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define RW     (MEMMAP_READ | MEMMAP_WRITE)
#define HEADER 12u
#define FRAME  600u
#define DATA   40u /* I/O page of the first frame */
#define FROM   100u

/* How often all packets under way were looked at. */
static unsigned looks;

void __real_net_take_back(struct lane *lane, bool (*wanted)(const void *slot));
void __wrap_net_take_back(struct lane *lane, bool (*wanted)(const void *slot));
void __wrap_net_take_back(struct lane *lane, bool (*wanted)(const void *slot))
{
    __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
    __real_net_take_back(lane, wanted);
}

/* ---- A wire in the test's hands ---------------------------------------------------------------- */

static struct {
    struct dt_ctx *c;
    struct dt_pending pending; /* while @holds */
    bool holds, peeks;
    unsigned hurried; /* times that it was asked to let go of what it holds */
    unsigned sent;
    uint8_t last[FRAME]; /* what it sent last */
} wire;

static void put_on_wire(struct dt_packet *p)
{
    dt_packet_fetch(p);
    memcpy(wire.last, p->data, MIN(p->length, FRAME));
    dt_sent(wire.c, &p, 1);
    __atomic_store_n(&wire.sent, wire.sent + 1, __ATOMIC_RELEASE);
}

static void wire_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (wire.holds)
            assert_true(dt_pending_add(&wire.pending, packets[i], 64));
        else
            put_on_wire(packets[i]);
    }
}

static void let_go(void *arg)
{
    while (wire.pending.count)
        put_on_wire(dt_pending_take(&wire.pending, NULL));
}

static void wire_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    wire.hurried++;
    let_go(NULL);
}

static int wire_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    *info = (struct dt_net_info){.mtu = 1500, .offloads = DT_OFFLOAD_ALL};
    return 0;
}

static int wire_start(struct dt_ctx *c, struct dt_error *err)
{
    wire.c = c;
    dt_pending_init(&wire.pending);
    dt_peek(c, wire.peeks);
    return 0;
}

static const struct dt_net_ext wire_ext = {
    DT_NET_EXT_HEADER,
    .name = "wire",
    .summary = "in the test's hands",
    .flags = DT_BACK,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .info = wire_info,
    .start = wire_start,
    .transmit = wire_transmit,
    .quiesce = wire_quiesce,
};

static unsigned held(void)
{
    return __atomic_load_n(&wire.pending.count, __ATOMIC_ACQUIRE);
}

/* From the wire to the guest. */
static void arrive(void *arg)
{
    struct dt_packet *p = dt_packet_new(wire.c, FRAME);

    memset(p->data, *(uint8_t *)arg, FRAME);
    dt_receive_one(wire.c, p);
}

/* ---- Life ------------------------------------------------------------------------------------------ */

static struct soft_disk card;
static struct iommu_guest guest;

static void begin(bool packed, unsigned ring)
{
    bool holds = wire.holds, peeks = wire.peeks;

    memset(&wire, 0, sizeof(wire));
    looks = 0;
    wire.holds = holds;
    wire.peeks = peeks;
    card = (struct soft_disk){.card = &card_front, .iommu = true};
    soft_disk_start(&card, "wire");
    iommu_guest_attach_card(&guest, card.socket, packed, ring);
}

#define SETUP(name, packed, ring, hold, peek) \
    static int name(void **state)             \
    {                                         \
        wire.holds = hold;                    \
        wire.peeks = peek;                    \
        begin(packed, ring);                  \
        return 0;                             \
    }
SETUP(sends_split, false, 1, false, false)
SETUP(sends_packed, true, 1, false, false)
SETUP(holds_split, false, 1, true, false)
SETUP(holds_packed, true, 1, true, false)
SETUP(peeks_split, false, 1, true, true)
SETUP(peeks_packed, true, 1, true, true)
SETUP(gets_split, false, 0, false, false)
SETUP(gets_packed, true, 0, false, false)

static int end(void **state)
{
    iommu_guest_detach(&guest);
    soft_disk_stop(&card);
    return 0;
}

static uint8_t *page(unsigned at)
{
    return guest.memory + (size_t)guest.pages[at].to * IO_PAGE;
}

/* Turns of the test until @cond: the VMM answers meanwhile. */
#define UNTIL(cond)                                    \
    do {                                               \
        uint64_t end_ = dt_clock_ns() + DT_S(20);      \
                                                       \
        while (!(cond)) {                              \
            if (dt_clock_ns() > end_)                  \
                fail_msg("waited in vain for " #cond); \
            iommu_guest_answer(&guest);                \
            usleep(50);                                \
        }                                              \
    } while (0)

/* ---- What the guest sends ------------------------------------------------------------------------- */

/* A UDP datagram, so that a layer may peek at it; header and frame lie on two pages. */
static void offer(unsigned at, uint8_t seed)
{
    struct virtq_buffer bufs[2] = {{iommu_guest_io(at, 64), HEADER + 100},
                                   {iommu_guest_io(at + 1, 0), FRAME - 100}};
    static const uint8_t start[] = {2,
                                    0,
                                    0,
                                    0,
                                    0,
                                    1,
                                    2,
                                    0,
                                    0,
                                    0,
                                    0,
                                    2,
                                    8,
                                    0,
                                    0x45,
                                    0,
                                    (FRAME - 14) >> 8,
                                    (FRAME - 14) & 255,
                                    0,
                                    0,
                                    0,
                                    0,
                                    64,
                                    17,
                                    0,
                                    0,
                                    10,
                                    0,
                                    0,
                                    1,
                                    10,
                                    0,
                                    0,
                                    2,
                                    0,
                                    5,
                                    0,
                                    6,
                                    (FRAME - 34) >> 8,
                                    (FRAME - 34) & 255,
                                    0,
                                    0};
    uint8_t *first = page(at) + 64;

    memset(first, 0, HEADER);
    memset(first + HEADER, seed, 100);
    memcpy(first + HEADER, start, sizeof(start));
    memset(page(at + 1), seed, FRAME - 100);
    iommu_guest_offer(&guest, bufs, 2, 0);
}

static void map_frame(unsigned at, unsigned to)
{
    iommu_guest_map(&guest, at, to, MEMMAP_READ);
    iommu_guest_map(&guest, at + 1, to + 7, MEMMAP_READ);
}

static void expect_last(uint8_t seed)
{
    for (unsigned i = 42; i < FRAME; i++)
        assert_int_equal(wire.last[i], seed);
}

static void what_is_mapped_is_sent(void **state)
{
    for (uint8_t i = 1; i <= 20; i++) {
        map_frame(DATA, FROM + i);
        offer(DATA, i);
        assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
        UNTIL(__atomic_load_n(&wire.sent, __ATOMIC_ACQUIRE) == i);
        expect_last(i);
        iommu_guest_unmap(&guest, DATA, 2);
    }
    assert_true(guest.answered >= 40);
    assert_int_equal(looks, 0);
}

static void all_is_taken_back_at_once(void **state)
{
    struct vhost_iotlb all = {.type = VHOST_IOTLB_INVALIDATE};

    map_frame(DATA, FROM);
    for (unsigned i = 0; i < 20; i++) {
        offer(DATA, (uint8_t)i);
        if (i % 3) /* else it is under way */
            assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
        all.size = i % 2 ? 0 : UINT64_MAX;
        assert_int_equal(vhost_frontend_iotlb(guest.front, &all, NULL), 0);
        if (i % 3 == 0)
            assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
    }
    assert_int_equal(wire.hurried, 0);
}

/* A copy is the layer's: its page may go, and the guest waits for the descriptor as before. */
static void a_page_of_a_copy_is_not_waited_for(void **state)
{
    uint16_t id;
    uint32_t written;

    map_frame(DATA, FROM);
    offer(DATA, 1);
    UNTIL(held() == 1);
    iommu_guest_unmap(&guest, DATA, 2);
    assert_int_equal(looks, 0);
    memset(guest.memory + FROM * IO_PAGE, 0xee, 8 * IO_PAGE);
    assert_int_equal(virtq_driver_reap(&guest.ring, &id, &written, 1), 0);
    assert_int_equal(held(), 1);
    loop_call(card.loop, let_go, NULL);
    assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
    expect_last(1);
    assert_int_equal(wire.hurried, 0);
}

/* Of one that was peeked at the rest is copied now, and the guest has its descriptor. */
static void a_page_of_a_peeked_packet_is_copied(void **state)
{
    map_frame(DATA, FROM);
    offer(DATA, 2);
    UNTIL(held() == 1);
    assert_true(wire.pending.first->needs & DT_OFFLOAD_FETCH);
    iommu_guest_map(&guest, DATA + 9, FROM + 9, MEMMAP_READ);
    iommu_guest_unmap(&guest, DATA + 9, 1);
    assert_int_equal(looks, 0); /* it is not in there */
    iommu_guest_unmap(&guest, DATA + 1, 1);
    assert_int_equal(looks, 1);
    memset(guest.memory + FROM * IO_PAGE, 0xee, 8 * IO_PAGE);
    assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
    assert_int_equal(held(), 1);
    loop_call(card.loop, let_go, NULL);
    expect_last(2);
    assert_int_equal(wire.hurried, 0);
}

/* The ring's own memory goes while a layer holds what came from it. */
static void a_ring_that_goes_has_its_descriptors_back(void **state)
{
    for (unsigned i = 0; i < 6; i++) {
        unsigned from = IO_RINGP + (i % 2 ? 60 : 0), to = IO_RINGP + (i % 2 ? 0 : 60);

        map_frame(DATA, FROM);
        offer(DATA, (uint8_t)i);
        UNTIL(held() == i + 1);
        iommu_guest_unmap(&guest, IO_RINGP, IO_RING_PAGES);
        assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
        memcpy(guest.memory + to * IO_PAGE, guest.memory + from * IO_PAGE, IO_RING_PAGES * IO_PAGE);
        memset(guest.memory + from * IO_PAGE, 0xee, IO_RING_PAGES * IO_PAGE);
        guest.ring.mem = guest.memory + to * IO_PAGE;
        for (unsigned p = 0; p < IO_RING_PAGES; p++)
            iommu_guest_map(&guest, IO_RINGP + p, to + p, RW);
    }
    assert_int_equal(wire.hurried, 0);
    loop_call(card.loop, let_go, NULL);
    assert_int_equal(wire.sent, 6);
    expect_last(5);
}

static void a_page_that_leads_nowhere_waits_and_harms_nobody(void **state)
{
    uint32_t base;

    map_frame(DATA, FROM);
    offer(DATA, 3);
    iommu_guest_unmap(&guest, DATA + 1, 1); /* before or after it was taken */
    base = iommu_guest_stop(&guest);
    iommu_guest_start(&guest, base);
    iommu_guest_map(&guest, DATA + 1, FROM + 7, MEMMAP_READ);
    assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
    UNTIL(__atomic_load_n(&wire.sent, __ATOMIC_ACQUIRE) == 1);
    expect_last(3);
}

/* ---- What the guest gets -------------------------------------------------------------------------- */

static void give(unsigned at, unsigned to)
{
    struct virtq_buffer buf = {iommu_guest_io(at, 0), 2048};

    iommu_guest_map(&guest, at, to, MEMMAP_WRITE);
    memset(guest.memory + to * IO_PAGE, 0, IO_PAGE);
    iommu_guest_offer(&guest, &buf, 0, 1);
}

static void packet(uint8_t seed)
{
    loop_call(card.loop, arrive, &seed);
}

static void look_at_ring(void *arg)
{
    *(bool *)arg = net_takes(wire.c);
}

static bool ring_opened(void)
{
    bool open;

    loop_call(card.loop, look_at_ring, &open);
    return open;
}

static void expect_at(unsigned to, uint8_t seed)
{
    const uint8_t *at = guest.memory + (size_t)to * IO_PAGE;

    for (unsigned i = 0; i < FRAME; i++)
        assert_int_equal(at[HEADER + i], seed);
    assert_int_equal(at[HEADER + FRAME], 0);
}

static void what_comes_is_where_the_guest_wants_it(void **state)
{
    UNTIL(ring_opened());
    for (uint8_t i = 1; i <= 20; i++) {
        give(DATA + i, FROM + 40 - i);
        packet(i);
        assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
        expect_at(FROM + 40u - i, i);
        iommu_guest_unmap(&guest, DATA + i, 1);
    }
}

/* Four buffers on one page, which the first packet has translated for all. */
#define QUARTER 1000u
static void give_four(unsigned at, unsigned to)
{
    iommu_guest_map(&guest, at, to, MEMMAP_WRITE);
    memset(guest.memory + to * IO_PAGE, 0, IO_PAGE);
    for (unsigned i = 0; i < 4; i++)
        iommu_guest_offer(&guest, &(struct virtq_buffer){iommu_guest_io(at, i * QUARTER), QUARTER},
                          0, 1);
}

/* Buffers that were taken ahead go back to the ring, and are looked up anew. */
static void buffers_ahead_are_given_back(void **state)
{
    const uint8_t *old = guest.memory + FROM * IO_PAGE, *new = old + 20 * IO_PAGE;

    UNTIL(ring_opened());
    give_four(DATA, FROM);
    packet(1);
    assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
    assert_int_equal(old[HEADER], 1);
    iommu_guest_unmap(&guest, DATA, 1);
    iommu_guest_map(&guest, DATA, FROM + 20, MEMMAP_WRITE);
    for (unsigned i = 1; i < 4; i++) {
        packet((uint8_t)(i + 1));
        assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
        assert_int_equal(new[i * QUARTER + HEADER + FRAME - 1], i + 1);
        assert_int_equal(old[i * QUARTER + HEADER], 0);
    }
}

/* While the ring cannot be reached packets wait: the guest is there all the same. */
static void packets_wait_for_the_ring(void **state)
{
    UNTIL(ring_opened());
    give(DATA, FROM);
    packet(1);
    assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
    for (unsigned i = 1; i <= 5; i++)
        give(DATA + i, FROM + i);
    iommu_guest_unmap(&guest, IO_RINGP, IO_RING_PAGES);
    for (uint8_t i = 1; i <= 5; i++)
        packet(i);
    for (unsigned p = 0; p < IO_RING_PAGES; p++)
        iommu_guest_map(&guest, IO_RINGP + p, IO_RINGP + p, RW);
    for (unsigned i = 1; i <= 5; i++) {
        assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
        expect_at(FROM + i, (uint8_t)i);
    }
}

/* Where the available ring may only be read, nothing can be put back into it: a buffer comes back empty. */
static void a_ring_for_reading_gets_them_back_empty(void **state)
{
    uint32_t base = iommu_guest_stop(&guest);

    guest.apart = 1;
    iommu_guest_map(&guest, IO_RINGP + 1, IO_RINGP, MEMMAP_READ);
    iommu_guest_start(&guest, base);
    UNTIL(ring_opened());
    give_four(DATA, FROM);
    packet(1);
    assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
    iommu_guest_unmap(&guest, DATA, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(iommu_guest_reap(&guest, 10000), 0);
    give(DATA + 8, FROM + 8);
    packet(2);
    assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
    expect_at(FROM + 8, 2);
}

static void a_hang_up_while_packets_wait(void **state)
{
    unsigned asked;

    UNTIL(ring_opened());
    asked = guest.asked;
    guest.mute = true;
    give(DATA, FROM);
    packet(1);
    UNTIL(guest.asked > asked);
    iommu_guest_detach(&guest);
    iommu_guest_attach_card(&guest, card.socket, false, 0);
    UNTIL(ring_opened());
    give(DATA, FROM);
    packet(9);
    assert_int_equal(iommu_guest_reap(&guest, 10000), HEADER + FRAME);
    expect_at(FROM, 9);
}

int main(void)
{
#define BOTH(f, s)                              \
    {"split: " #f, f, s##_split, end, NULL},    \
    {                                           \
        "packed: " #f, f, s##_packed, end, NULL \
    }
    const struct CMUnitTest tests[] = {
        BOTH(what_is_mapped_is_sent, sends),
        BOTH(all_is_taken_back_at_once, sends),
        BOTH(a_page_that_leads_nowhere_waits_and_harms_nobody, sends),
        BOTH(a_page_of_a_copy_is_not_waited_for, holds),
        BOTH(a_page_of_a_peeked_packet_is_copied, peeks),
        BOTH(a_ring_that_goes_has_its_descriptors_back, holds),
        BOTH(what_comes_is_where_the_guest_wants_it, gets),
        BOTH(buffers_ahead_are_given_back, gets),
        BOTH(packets_wait_for_the_ring, gets),
        {"split: a_ring_for_reading_gets_them_back_empty", a_ring_for_reading_gets_them_back_empty,
         gets_split, end, NULL},
        {"split: a_hang_up_while_packets_wait", a_hang_up_while_packets_wait, gets_split, end,
         NULL},
    };
    struct dt_error err;

    log_set_level(DT_LOG_ERROR);
    blk_register_builtin();
    if (registry_add_net(&wire_ext, &err) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
