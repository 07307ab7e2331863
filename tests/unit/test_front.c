/* SPDX-License-Identifier: MIT */
/*
 * test_front.c - the virtio-blk front as guests meet it: what it answers, what it refuses, and that a
 * hostile guest loses its own session while the disk beside it goes on.
 */
#include "raw_guest.h"
#include "soft_disk.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <cmocka.h>

#define MODIFY \
    (1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES)

static struct soft_disk disk, beside;
static struct raw_guest guest, neighbour;

static int setup(void **state)
{
    disk = beside = (struct soft_disk){0};
    soft_disk_start(&disk, "mem size=1M");
    soft_disk_start(&beside, "mem size=1M");
    raw_guest_attach(&guest, disk.socket, MODIFY);
    raw_guest_attach(&neighbour, beside.socket, MODIFY);
    return 0;
}

static int teardown(void **state)
{
    raw_guest_detach(&guest);
    raw_guest_detach(&neighbour);
    soft_disk_stop(&disk);
    soft_disk_stop(&beside);
    return 0;
}

#define HEADER RAW_DATA
#define BODY   (RAW_DATA + 0x1000)
#define STATUS (RAW_DATA + 0x800)

static struct virtq_buffer part(uint64_t offset, uint32_t len)
{
    return (struct virtq_buffer){RAW_GPA + offset, len};
}

/* A request in the usual framing. Return: its status, or a negative error. */
static int request(struct raw_guest *g, uint32_t type, uint64_t sector, uint32_t bytes, bool in)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    struct virtq_buffer bufs[3];
    unsigned n = 0;
    int64_t written;

    memcpy(g->memory + HEADER, &header, sizeof(header));
    g->memory[STATUS] = 0xff;
    bufs[n++] = part(HEADER, sizeof(header));
    if (bytes)
        bufs[n++] = part(BODY, bytes);
    bufs[n++] = part(STATUS, 1);
    written = raw_guest_run(g, bufs, in || !bytes ? 1 : 2, n - (in || !bytes ? 1 : 2), 5000);
    if (written < 0)
        return (int)written;
    assert_int_equal(written, in && g->memory[STATUS] == 0 ? bytes + 1 : 1);
    return g->memory[STATUS];
}

static int ranges(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags, unsigned count)
{
    struct virtio_blk_discard_write_zeroes range = {sector, sectors, flags};

    for (unsigned i = 0; i < count; i++)
        memcpy(guest.memory + BODY + i * sizeof(range), &range, sizeof(range));
    return request(&guest, type, 0, count * sizeof(range), false);
}

/* ---- What is asked in good order ------------------------------------------------------------- */

static void data_goes_there_and_back(void **state)
{
    memset(guest.memory + BODY, 0x3c, 4096);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_OUT, 8, 4096, false), VIRTIO_BLK_S_OK);
    memset(guest.memory + BODY, 0, 4096);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, 8, 4096, true), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(guest.memory[BODY + i], 0x3c);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
}

static void ranges_are_zeroed(void **state)
{
    memset(guest.memory + BODY, 0x3c, 4096);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_OUT, 0, 4096, false), VIRTIO_BLK_S_OK);
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 2, 4, 1, 1), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, 0, 4096, true), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(guest.memory[BODY + i], i >= 1024 && i < 3072 ? 0 : 0x3c);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 1), VIRTIO_BLK_S_OK);
}

static void the_serial_is_the_name(void **state)
{
    assert_int_equal(request(&guest, VIRTIO_BLK_T_GET_ID, 0, 20, true), VIRTIO_BLK_S_OK);
    assert_string_equal((char *)guest.memory + BODY, "test");
}

/* ---- What is refused and harms nobody ---- */

static void strange_requests_get_an_answer(void **state)
{
    assert_int_equal(request(&guest, 12345, 0, 512, true), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, 2048, 512, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, UINT64_MAX, 512, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, 0, 100, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_OUT, 0, 513, false), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_IN, 0, 0, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&guest, VIRTIO_BLK_T_GET_ID, 0, 19, true), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, 0, 8, 0, 2), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, 0, 8, 1, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, 2040, 9, 0, 1), VIRTIO_BLK_S_IOERR);
    data_goes_there_and_back(state);
}

static void a_request_without_room_for_a_status_is_given_back(void **state)
{
    struct virtq_buffer bufs[1] = {part(HEADER, 16)};

    assert_int_equal(raw_guest_run(&guest, bufs, 1, 0, 5000), 0);
    data_goes_there_and_back(state);
}

/* ---- What ends the session, and only that ---- */

static void session_ended(void)
{
    assert_true(raw_guest_gone(&guest, 5000));
    assert_int_equal(request(&neighbour, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
    raw_guest_detach(&guest);
    raw_guest_attach(&guest, disk.socket, MODIFY); /* the disk is there for the next */
    data_goes_there_and_back(NULL);
}

static void an_address_outside_ends_the_session(void **state)
{
    struct virtq_buffer bufs[2] = {part(HEADER, 16), {0x10, 513}};

    raw_guest_run(&guest, bufs, 1, 1, 100);
    session_ended();
}

static void an_index_that_jumps_ends_the_session(void **state)
{
    struct vring_avail *avail = (void *)(guest.memory + guest.ring.driver_off);

    WRITE_ONCE(avail->idx, 1000);
    raw_guest_kick(&guest);
    session_ended();
}

static void truncated_memory_ends_the_session(void **state)
{
    struct virtq_buffer bufs[2] = {part(HEADER, 16), part(BODY, 513)};

    memmap_guard_install(); /* cmocka puts a handler of its own before each test */
    assert_true(virtq_driver_add(&guest.ring, bufs, 1, 1) >= 0);
    virtq_driver_publish(&guest.ring);
    assert_int_equal(ftruncate(guest.memory_fd, 4096), 0); /* the ring stays, the header goes */
    raw_guest_kick(&guest);
    assert_true(raw_guest_gone(&guest, 5000));
    assert_int_equal(ftruncate(guest.memory_fd, RAW_MEMORY), 0);
    session_ended();
}

static void a_full_call_eventfd_blocks_nobody(void **state)
{
    uint64_t most = UINT64_MAX - 1, spurious;

    if (read(guest.call, &spurious, sizeof(spurious)) < 0)
        assert_int_equal(errno, EAGAIN);
    assert_int_equal(write(guest.call, &most, sizeof(most)), sizeof(most));
    for (unsigned i = 0; i < 100; i++)
        data_goes_there_and_back(state);
}

static void a_second_vm_is_refused(void **state)
{
    struct vhost_frontend *second;
    struct dt_error err;
    uint64_t features = 0, protocol = 0;
    unsigned queues;

    assert_int_equal(vhost_frontend_connect(&second, disk.socket, 2000, &err), 0);
    assert_true(vhost_frontend_negotiate(second, &features, &protocol, 0, &queues, &err) < 0);
    vhost_frontend_free(second);
    data_goes_there_and_back(state);
}

/* A thread rewrites the descriptors and the header while requests are served. */
static bool scribbling;

static void *scribble(void *arg)
{
    struct vring_desc *desc = (void *)(guest.memory + guest.ring.desc_off);
    struct dt_rng rng;

    dt_rng_seed(&rng, 7);
    while (__atomic_load_n(&scribbling, __ATOMIC_RELAXED)) {
        uint64_t r = dt_rng_next(&rng);
        volatile struct vring_desc *d = &desc[r % RAW_RING];

        switch (r >> 32 & 3) {
        case 0:
            d->addr = RAW_GPA + (r >> 40) % RAW_MEMORY;
            break;
        case 1:
            d->len = (uint32_t)(r >> 40);
            break;
        case 2:
            d->flags = (uint16_t)(r >> 50 & 3);
            break;
        default:
            WRITE_ONCE(*(uint64_t *)(void *)(guest.memory + HEADER + (r >> 34 & 1) * 8), r >> 48);
        }
    }
    return NULL;
}

static void descriptors_may_be_rewritten_while_they_are_read(void **state)
{
    unsigned sessions = 0;

    for (unsigned round = 0; round < 50; round++) {
        pthread_t thread;

        __atomic_store_n(&scribbling, true, __ATOMIC_RELAXED);
        pthread_create(&thread, NULL, scribble, NULL);
        for (unsigned i = 0; i < 200 && !raw_guest_gone(&guest, 0); i++) {
            struct virtq_buffer bufs[3] = {part(HEADER, 16), part(BODY, 4096), part(STATUS, 1)};

            if (guest.ring.free_count < 3 || raw_guest_run(&guest, bufs, 1, 2, 20) < 0)
                break;
        }
        __atomic_store_n(&scribbling, false, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        assert_int_equal(request(&neighbour, VIRTIO_BLK_T_FLUSH, 0, 0, false), VIRTIO_BLK_S_OK);
        sessions += raw_guest_gone(&guest, 0);
        raw_guest_detach(&guest);
        raw_guest_attach(&guest, disk.socket, MODIFY);
    }
    print_message("# %u of 50 sessions were broken\n", sessions);
    data_goes_there_and_back(state);
}

/* Two rings that always have something, and a chain that lets one through at a time: each ring has its turn. */
static void check_shares(const char *chain, uint64_t spin_ns)
{
    enum { DEPTH = 8 };
    struct soft_disk limited = {.spin_ns = spin_ns};
    struct vblk_config config = {.queues = 2, .depth = DEPTH, .bytes = 4096, .timeout_ms = 60000};
    unsigned done[2] = {0};
    struct vblk *driver;
    struct dt_error err;

    soft_disk_start(&limited, chain);
    config.path = limited.socket;
    if (vblk_open(&driver, &config, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < 2 * DEPTH; i++) {
        struct vblk_queue *q = vblk_queue(driver, i % 2);
        struct vblk_request *req = vblk_request(q, i / 2);

        req->type = VIRTIO_BLK_T_IN;
        req->bytes = 4096;
        req->sector = 0;
        vblk_submit(q, req);
    }
    for (unsigned i = 0; i < 2; i++) {
        vblk_poll(vblk_queue(driver, i));
        vblk_publish(vblk_queue(driver, i));
    }
    while (done[0] + done[1] < 100) {
        for (unsigned i = 0; i < 2; i++) {
            struct vblk_queue *q = vblk_queue(driver, i);
            struct vblk_request *back[DEPTH];
            int n = vblk_reap(q, back, DEPTH);

            assert_true(n >= 0);
            done[i] += (unsigned)n;
            for (int k = 0; k < n; k++)
                vblk_submit(q, back[k]);
            vblk_publish(q);
        }
        usleep(100);
    }
    vblk_close(driver);
    soft_disk_stop(&limited);
    if (done[0] < 25 || done[1] < 25)
        fail_msg("%s: %u and %u requests", chain, done[0], done[1]);
}

static void a_limit_is_shared_by_rings(void **state)
{
    check_shares("throttle iops=500 | mem size=1M", 0);
}

/* Each request is woken for twice: where the first limit opens, and where the second does. Rings rest in between. */
static void two_limits_are_shared_by_rings(void **state)
{
    check_shares("throttle iops=100 burst=1ms | throttle iops=50 burst=1ms | mem size=1M", 1);
}

/* Neither rests between two requests, so nobody is woken. */
static void a_limit_is_shared_by_rings_that_are_always_polled(void **state)
{
    check_shares("throttle iops=500 | mem size=1M", DT_S(1));
}

int main(void)
{
#define FRONT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        FRONT_TEST(data_goes_there_and_back),
        FRONT_TEST(ranges_are_zeroed),
        FRONT_TEST(the_serial_is_the_name),
        FRONT_TEST(strange_requests_get_an_answer),
        FRONT_TEST(a_request_without_room_for_a_status_is_given_back),
        FRONT_TEST(an_address_outside_ends_the_session),
        FRONT_TEST(an_index_that_jumps_ends_the_session),
        FRONT_TEST(truncated_memory_ends_the_session),
        FRONT_TEST(a_full_call_eventfd_blocks_nobody),
        FRONT_TEST(a_second_vm_is_refused),
        FRONT_TEST(descriptors_may_be_rewritten_while_they_are_read),
        cmocka_unit_test(a_limit_is_shared_by_rings),
        cmocka_unit_test(two_limits_are_shared_by_rings),
        cmocka_unit_test(a_limit_is_shared_by_rings_that_are_always_polled),
    };

    blk_register_builtin();
    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
