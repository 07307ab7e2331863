/* SPDX-License-Identifier: MIT */
/*
 * test_front_aside.c - what layers let go of because somebody wants the device at rest was not served, and the guest gets
 * no error for it: its ring goes on, and the request enters the chain again.
 */
#include "raw_guest.h"
#include "soft_disk.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define HEADER RAW_DATA
#define STATUS (RAW_DATA + 0x800)
#define LONG   DT_S(60) /* a deadline that does not come */

/* A back that holds a request until it is asked to let go of it, or told to. @refusals: so many it lets go of at once. */
static struct {
    struct dt_ctx *c;
    struct dt_req *req;
    bool holding;
    unsigned refusals;
} holder;

static struct soft_disk disk;
static struct raw_guest guest;

static int holder_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = 2048;
    info->can_flush = true;
    return 0;
}

static int holder_start(struct dt_ctx *c, struct dt_error *err)
{
    holder.c = c;
    return 0;
}

static void holder_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    CHECK(n == 1 && !holder.req);
    if (__atomic_load_n(&holder.holding, __ATOMIC_ACQUIRE))
        __atomic_store_n(&holder.req, reqs[0], __ATOMIC_RELEASE);
    else if (holder.refusals > 0 && holder.refusals--)
        dt_complete_one(c, reqs[0], -ECANCELED);
    else
        dt_complete_one(c, reqs[0], 0);
}

static void holder_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct dt_req *req = holder.req;

    holder.req = NULL;
    if (req)
        dt_complete_one(c, req, -ECANCELED);
}

static const struct dt_block_ext holder_ext = {
    DT_BLOCK_EXT_HEADER,     .name = "holder",          .summary = "Holds a request",
    .flags = DT_BACK,        .start = holder_start,     .info = holder_info,
    .submit = holder_submit, .quiesce = holder_quiesce,
};

static int setup(void **state)
{
    memset(&holder, 0, sizeof(holder));
    disk = (struct soft_disk){0};
    soft_disk_start(&disk, "holder");
    raw_guest_attach(&guest, disk.socket, 1ull << VIRTIO_BLK_F_FLUSH);
    return 0;
}

static int teardown(void **state)
{
    raw_guest_detach(&guest);
    soft_disk_stop(&disk);
    return 0;
}

static void hold(bool on)
{
    __atomic_store_n(&holder.holding, on, __ATOMIC_RELEASE);
}

/* A flush, which the layer has when this returns. */
static void offer_held(void)
{
    const struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_FLUSH};
    const struct virtq_buffer bufs[2] = {{RAW_GPA + HEADER, sizeof(header)}, {RAW_GPA + STATUS, 1}};

    hold(true);
    memcpy(guest.memory + HEADER, &header, sizeof(header));
    guest.memory[STATUS] = 0xff;
    assert_int_equal(raw_guest_run(&guest, bufs, 1, 1, 0), -ETIMEDOUT);
    while (!__atomic_load_n(&holder.req, __ATOMIC_ACQUIRE))
        usleep(100);
    hold(false);
}

static int answer(void)
{
    uint64_t end = dt_clock_ns() + DT_S(60);
    uint16_t id;

    while (virtq_driver_reap(&guest.ring, &id, NULL, 1) == 0)
        if (dt_clock_ns() > end)
            return -ETIMEDOUT;
    return guest.memory[STATUS];
}

static void rest(void)
{
    struct dt_error err = {""};

    if (device_hold(disk.dev, dt_clock_ns() + LONG, &err) < 0)
        fail_msg("%s", err.text);
}

static void cancel(void *arg)
{
    holder_quiesce(holder.c, 0);
}

static void what_is_let_go_of_for_a_rest_comes_again(void **state)
{
    offer_held();
    rest();
    assert_int_equal(guest.memory[STATUS], 0xff);
    device_let_go(disk.dev);
    assert_int_equal(answer(), VIRTIO_BLK_S_OK);
}

/* A layer may let go until the deadline it was told, though the device was at rest long before. */
static void and_so_does_what_is_let_go_of_late(void **state)
{
    rest();
    device_let_go(disk.dev);
    offer_held();
    loop_call(disk.loop, cancel, NULL);
    assert_int_equal(answer(), VIRTIO_BLK_S_OK);
}

static void again_and_again(void **state)
{
    rest();
    device_let_go(disk.dev);
    offer_held();
    holder.refusals = 2;
    loop_call(disk.loop, cancel, NULL);
    assert_int_equal(answer(), VIRTIO_BLK_S_OK);
    assert_int_equal(holder.refusals, 0);
}

static void what_nobody_asked_for_fails(void **state)
{
    offer_held();
    loop_call(disk.loop, cancel, NULL);
    assert_int_equal(answer(), VIRTIO_BLK_S_IOERR);
}

/* The guest goes while its request is put aside. */
static void a_stop_takes_it_back(void **state)
{
    offer_held();
    rest();
    raw_guest_detach(&guest);
    device_let_go(disk.dev);
    raw_guest_attach(&guest, disk.socket, 1ull << VIRTIO_BLK_F_FLUSH);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_let_go_of_for_a_rest_comes_again),
        TEST(and_so_does_what_is_let_go_of_late),
        TEST(again_and_again),
        TEST(what_nobody_asked_for_fails),
        TEST(a_stop_takes_it_back),
    };

    log_set_level(DT_LOG_ERROR);
    assert_int_equal(registry_add(&holder_ext, NULL), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
