/* SPDX-License-Identifier: MIT */
/*
 * test_iommu.c - a guest with a vIOMMU before the front: what it maps is reached and nothing else, and what it
 * took back is not touched any more when its VMM has the answer.
 */
#include "iommu_guest.h"
#include "soft_disk.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define RW (MEMMAP_READ | MEMMAP_WRITE)
/* I/O pages of a request; the memory behind them is elsewhere. */
#define HEADER 32u
#define DATA   40u
#define STATUS 48u
#define FROM   100u /* page of memory */

/* A back that serves nothing, and gives all back when it is asked to. */
static bool holds; /* else it serves at once */

struct holder {
    struct dt_req *held[IO_RING];
    unsigned count;
};

static int holder_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = 2048;
    info->can_flush = true;
    return 0;
}

static void holder_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct holder *h = c->data;

    for (unsigned i = 0; i < n; i++) {
        if (__atomic_load_n(&holds, __ATOMIC_ACQUIRE))
            h->held[h->count++] = reqs[i];
        else
            dt_complete_one(c, reqs[i], 0);
    }
}

static void holder_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct holder *h = c->data;

    while (h->count)
        dt_complete_one(c, h->held[--h->count], -ECANCELED);
}

static const struct dt_block_ext holder = {
    DT_BLOCK_EXT_HEADER,
    .name = "holder",
    .summary = "Holds requests",
    .flags = DT_BACK,
    .ctx_size = sizeof(struct holder),
    .info = holder_info,
    .submit = holder_submit,
    .quiesce = holder_quiesce,
};

static struct soft_disk disk;
static struct iommu_guest guest;

static void begin(const char *chain, bool packed)
{
    disk = (struct soft_disk){.iommu = true};
    soft_disk_start(&disk, chain);
    iommu_guest_attach(&guest, disk.socket, packed);
}

static int split(void **state)
{
    begin("mem size=1M", false);
    return 0;
}

static int packed(void **state)
{
    begin("mem size=1M", true);
    return 0;
}

static int slow(void **state)
{
    begin("delay time=400ms | mem size=1M", false);
    return 0;
}

static int slow_packed(void **state)
{
    begin("delay time=400ms | mem size=1M", true);
    return 0;
}

static int stalled(void **state)
{
    __atomic_store_n(&holds, true, __ATOMIC_RELEASE);
    begin("holder", false);
    return 0;
}

static int end(void **state)
{
    iommu_guest_detach(&guest);
    soft_disk_stop(&disk);
    return 0;
}

static uint8_t *page(unsigned at)
{
    return guest.memory + (size_t)guest.pages[at].to * IO_PAGE;
}

/* The pages of a request, in reverse order in memory. @data: pages, each with @access. */
static void map_request(unsigned data, unsigned access)
{
    iommu_guest_map(&guest, HEADER, FROM, MEMMAP_READ);
    iommu_guest_map(&guest, STATUS, FROM + 1, RW);
    for (unsigned i = 0; i < data; i++)
        iommu_guest_map(&guest, DATA + i, FROM + 20 - i, access);
}

static void offer(uint32_t type, uint64_t sector, uint32_t bytes)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    struct virtq_buffer bufs[3] = {{iommu_guest_io(HEADER, 64), sizeof(header)},
                                   {iommu_guest_io(DATA, 0), bytes},
                                   {iommu_guest_io(STATUS, 9), 1}};
    bool in = type == VIRTIO_BLK_T_IN;

    memcpy(page(HEADER) + 64, &header, sizeof(header));
    page(STATUS)[9] = 0xff;
    iommu_guest_offer(&guest, bufs, in ? 1 : 2, in ? 2 : 1);
}

static int request(uint32_t type, uint64_t sector, uint32_t bytes)
{
    int64_t written;

    offer(type, sector, bytes);
    written = iommu_guest_reap(&guest, 10000);
    return written < 0 ? (int)written : page(STATUS)[9];
}

/* ---- In good order --------------------------------------------------------------------------- */

static void what_is_mapped_is_reached(void **state)
{
    map_request(4, RW);
    for (unsigned i = 0; i < 4; i++)
        memset(page(DATA + i), 0x10 + (int)i, IO_PAGE);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 8, 4 * IO_PAGE), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 4; i++)
        memset(page(DATA + i), 0, IO_PAGE);
    assert_int_equal(request(VIRTIO_BLK_T_IN, 8, 4 * IO_PAGE), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 4; i++)
        for (unsigned b = 0; b < IO_PAGE; b++)
            assert_int_equal(page(DATA + i)[b], 0x10 + i);
}

static void a_known_page_is_not_asked_for_again(void **state)
{
    unsigned asked;

    map_request(1, RW);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    asked = guest.asked;
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(request(VIRTIO_BLK_T_OUT, i, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(guest.asked, asked);
}

static void all_misses_of_a_request_are_asked_at_once(void **state)
{
    unsigned before;
    struct vhost_iotlb miss;

    map_request(8, RW);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
    iommu_guest_unmap(&guest, DATA, 8);
    map_request(8, RW);
    offer(VIRTIO_BLK_T_OUT, 0, 8 * IO_PAGE);
    for (before = 0; before < 8;)
        before += vhost_frontend_miss(guest.front, &miss) == 1; /* and no answer meanwhile */
    guest.mute = true;
    assert_int_equal(iommu_guest_reap(&guest, 50), -ETIMEDOUT);
    guest.mute = false;
}

static void a_page_taken_back_is_asked_for_and_may_be_another(void **state)
{
    map_request(1, RW);
    memset(page(DATA), 0xaa, IO_PAGE);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 20; i++) {
        uint8_t *old = page(DATA);

        iommu_guest_unmap(&guest, DATA, 1);
        memset(old, 0x55, IO_PAGE);
        iommu_guest_map(&guest, DATA, FROM + 40 + i, RW);
        assert_int_equal(request(VIRTIO_BLK_T_IN, 0, IO_PAGE), VIRTIO_BLK_S_OK);
        for (unsigned b = 0; b < IO_PAGE; b++) {
            assert_int_equal(old[b], 0x55);
            assert_int_equal(page(DATA)[b], 0xaa);
        }
    }
}

/* A full flush: the ring's own memory goes with the rest, and is asked for again. */
static void all_is_taken_back_at_once(void **state)
{
    struct vhost_iotlb all = {.type = VHOST_IOTLB_INVALIDATE};

    map_request(2, RW);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(request(i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 0, 2 * IO_PAGE),
                         VIRTIO_BLK_S_OK);
        all.size = i % 3 ? 0 : UINT64_MAX;
        assert_int_equal(vhost_frontend_iotlb(guest.front, &all, NULL), 0);
    }
}

static void the_ring_moves_under_the_device(void **state)
{
    map_request(1, RW);
    for (unsigned i = 0; i < 6; i++) {
        unsigned from = IO_RINGP + (i % 2 ? 60 : 0), to = IO_RINGP + (i % 2 ? 0 : 60);

        assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
        iommu_guest_unmap(&guest, IO_RINGP, IO_RING_PAGES);
        memcpy(guest.memory + to * IO_PAGE, guest.memory + from * IO_PAGE, IO_RING_PAGES * IO_PAGE);
        memset(guest.memory + from * IO_PAGE, 0xee, IO_RING_PAGES * IO_PAGE);
        guest.ring.mem = guest.memory + to * IO_PAGE;
        for (unsigned p = 0; p < IO_RING_PAGES; p++)
            iommu_guest_map(&guest, IO_RINGP + p, to + p, RW);
    }
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
}

/* While a device is stopped its VMM tells nothing. */
static void a_ring_that_starts_again_knows_nothing_of_before(void **state)
{
    uint32_t base;

    map_request(1, RW);
    memset(page(DATA), 0x77, IO_PAGE);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    base = iommu_guest_stop(&guest);
    memset(page(DATA), 0x11, IO_PAGE);
    iommu_guest_map(&guest, DATA, FROM + 70, RW);
    iommu_guest_start(&guest, base);
    assert_int_equal(request(VIRTIO_BLK_T_IN, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    assert_int_equal(page(DATA)[0], 0x77);
    assert_int_equal(guest.memory[(FROM + 20) * IO_PAGE], 0x11);
}

/* ---- While requests are under way ------------------------------------------------------------- */

static void wait_until_taken(void)
{
    unsigned answered;

    do {
        answered = guest.answered;
        for (unsigned n = 0; n < 30; n++) {
            iommu_guest_answer(&guest);
            usleep(1000);
        }
    } while (guest.answered != answered || answered == 0);
}

static void an_invalidation_waits_for_who_uses_the_page(void **state)
{
    const unsigned pages[] = {DATA, STATUS, HEADER};

    map_request(1, RW);
    for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
        offer(i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0, IO_PAGE);
        wait_until_taken();
        iommu_guest_unmap(&guest, pages[i], 1);
        assert_int_equal(page(STATUS)[9], VIRTIO_BLK_S_OK);
        map_request(1, RW);
        assert_true(iommu_guest_reap(&guest, 10000) > 0);
    }
}

/* What a layer holds for ever goes back to the ring, and is served when its memory is there again. */
static void what_is_held_goes_back_to_the_ring(void **state)
{
    map_request(1, RW);
    offer(VIRTIO_BLK_T_OUT, 0, IO_PAGE);
    wait_until_taken();
    iommu_guest_unmap(&guest, DATA, 1);
    assert_int_equal(page(STATUS)[9], 0xff);
    assert_int_equal(iommu_guest_stop(&guest), 0); /* at once, although the page is unknown */
    assert_int_equal(page(STATUS)[9], 0xff);
    __atomic_store_n(&holds, false, __ATOMIC_RELEASE);
    map_request(1, RW);
    iommu_guest_start(&guest, 0);
    assert_true(iommu_guest_reap(&guest, 10000) > 0);
    assert_int_equal(page(STATUS)[9], VIRTIO_BLK_S_OK);
}

static void a_page_that_nobody_uses_is_not_waited_for(void **state)
{
    map_request(1, RW);
    iommu_guest_map(&guest, 90, 90, RW);
    offer(VIRTIO_BLK_T_OUT, 0, IO_PAGE);
    wait_until_taken();
    iommu_guest_unmap(&guest, 90, 1);
    assert_int_equal(page(STATUS)[9], 0xff);
    assert_int_equal(iommu_guest_reap(&guest, 100), -ETIMEDOUT); /* it is held as before */
    __atomic_store_n(&holds, false, __ATOMIC_RELEASE);
    iommu_guest_unmap(&guest, HEADER, 1); /* and this brings it back */
    map_request(1, RW);
    assert_true(iommu_guest_reap(&guest, 10000) > 0);
}

static void a_hang_up_while_the_ring_waits(void **state)
{
    guest.mute = true;
    map_request(1, RW);
    offer(VIRTIO_BLK_T_OUT, 0, IO_PAGE);
    assert_int_equal(iommu_guest_reap(&guest, 50), -ETIMEDOUT);
    iommu_guest_detach(&guest);
    iommu_guest_attach(&guest, disk.socket, false);
    what_is_mapped_is_reached(state);
}

/* ---- What is wrong ------------------------------------------------------------------------------- */

static void an_address_that_leads_nowhere_waits_and_harms_nobody(void **state)
{
    uint32_t base;

    map_request(0, 0);
    offer(VIRTIO_BLK_T_OUT, 0, 512);
    assert_int_equal(iommu_guest_reap(&guest, 100), -ETIMEDOUT);
    assert_true(guest.asked > guest.answered);
    base = iommu_guest_stop(&guest);
    iommu_guest_start(&guest, base);
    map_request(1, RW);
    assert_true(iommu_guest_reap(&guest, 10000) > 0);
    assert_int_equal(page(STATUS)[9], VIRTIO_BLK_S_OK);
}

static void session_ended(void)
{
    assert_true(iommu_guest_gone(&guest, 5000));
    iommu_guest_detach(&guest);
    iommu_guest_attach(&guest, disk.socket, false);
    what_is_mapped_is_reached(NULL);
}

static void a_page_for_reading_is_not_written(void **state)
{
    map_request(1, MEMMAP_READ);
    memset(page(DATA), 0x42, IO_PAGE);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    assert_int_equal(request(VIRTIO_BLK_T_IN, 8, IO_PAGE), -ECONNRESET);
    for (unsigned b = 0; b < IO_PAGE; b++)
        assert_int_equal(page(DATA)[b], 0x42);
    session_ended();
}

static void a_page_for_writing_is_not_read(void **state)
{
    map_request(1, MEMMAP_WRITE);
    assert_int_equal(request(VIRTIO_BLK_T_IN, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, IO_PAGE), -ECONNRESET);
    session_ended();
}

/* A right that was widened since: nobody had to say so. */
static void a_wider_right_is_asked_for(void **state)
{
    map_request(1, MEMMAP_READ);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, IO_PAGE), VIRTIO_BLK_S_OK);
    map_request(1, RW);
    assert_int_equal(request(VIRTIO_BLK_T_IN, 0, IO_PAGE), VIRTIO_BLK_S_OK);
}

static void a_ring_for_reading_only_ends_the_session(void **state)
{
    iommu_guest_unmap(&guest, IO_RINGP, IO_RING_PAGES);
    for (unsigned p = 0; p < IO_RING_PAGES; p++)
        iommu_guest_map(&guest, IO_RINGP + p, IO_RINGP + p, MEMMAP_READ);
    map_request(1, RW);
    assert_int_equal(request(VIRTIO_BLK_T_OUT, 0, 512), -ECONNRESET);
    session_ended();
}

static void hostile_messages_are_refused(void **state)
{
    const uint64_t in = (uintptr_t)guest.memory;
    const struct vhost_iotlb bad[] = {
        {.iova = 0, .size = 0, .uaddr = in, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = UINT64_MAX, .size = 2, .uaddr = in, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 2, .uaddr = UINT64_MAX, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 4096, .uaddr = in, .access = 0, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 4096, .uaddr = in, .access = 4, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = IO_MEMORY + 1, .uaddr = in, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 1, .uaddr = in - 1, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 1, .uaddr = IO_GPA, .access = RW, .type = VHOST_IOTLB_UPDATE},
        {.iova = 0, .size = 1, .uaddr = in, .access = RW, .type = VHOST_IOTLB_MISS},
        {.iova = 0, .size = 1, .uaddr = in, .access = RW, .type = 4},
        {.iova = 0, .size = 1, .uaddr = in, .access = RW, .type = 0},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct dt_error err = {""};
        int r = vhost_frontend_iotlb(guest.front, &bad[i], &err);

        if (r != -EIO)
            fail_msg("message %u: %d", i, r);
    }
    what_is_mapped_is_reached(state);
}

static void more_translations_than_there_is_room_for(void **state)
{
    map_request(1, RW);
    for (unsigned i = 0; i < IOTLB_ENTRIES + 500; i++) {
        struct vhost_iotlb update = {.iova = 0x100000000 + (uint64_t)i * 2 * IO_PAGE,
                                     .size = IO_PAGE,
                                     .uaddr = (uintptr_t)guest.memory,
                                     .access = RW,
                                     .type = VHOST_IOTLB_UPDATE};

        assert_int_equal(vhost_frontend_iotlb(guest.front, &update, NULL), 0);
    }
    what_is_mapped_is_reached(state);
}

int main(void)
{
#define WITH(f, setup) cmocka_unit_test_setup_teardown(f, setup, end)
#define BOTH(f)                             \
    {"split: " #f, f, split, end, NULL},    \
    {                                       \
        "packed: " #f, f, packed, end, NULL \
    }
    const struct CMUnitTest tests[] = {
        BOTH(what_is_mapped_is_reached),
        BOTH(a_known_page_is_not_asked_for_again),
        BOTH(a_page_taken_back_is_asked_for_and_may_be_another),
        BOTH(all_is_taken_back_at_once),
        BOTH(the_ring_moves_under_the_device),
        BOTH(a_ring_that_starts_again_knows_nothing_of_before),
        BOTH(a_hang_up_while_the_ring_waits),
        BOTH(an_address_that_leads_nowhere_waits_and_harms_nobody),
        BOTH(a_page_for_reading_is_not_written),
        BOTH(a_page_for_writing_is_not_read),
        BOTH(a_wider_right_is_asked_for),
        BOTH(a_ring_for_reading_only_ends_the_session),
        BOTH(hostile_messages_are_refused),
        WITH(all_misses_of_a_request_are_asked_at_once, split),
        WITH(more_translations_than_there_is_room_for, split),
        WITH(an_invalidation_waits_for_who_uses_the_page, slow),
        WITH(an_invalidation_waits_for_who_uses_the_page, slow_packed),
        WITH(what_is_held_goes_back_to_the_ring, stalled),
        WITH(a_page_that_nobody_uses_is_not_waited_for, stalled),
    };

    blk_register_builtin();
    assert_int_equal(registry_add(&holder, NULL), 0);
    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
