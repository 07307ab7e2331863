/* SPDX-License-Identifier: MIT */
/*
 * test_ext_twin.c - the extensions `copy` and `shadow`: a second chain becomes equal under a load,
 * whatever fails there; what differs is told; and it takes the disk's place with nothing lost.
 */
#include "ext_disk.h"
#include "scratch.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTORS 8192u /* 64 regions */
#define BYTES   (SECTORS * DT_SECTOR_SIZE)
#define DEPTH   64u

static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t image[2][BYTES];

static void make_file(const char *name, uint64_t bytes, int value)
{
    memset(image[0], value, BYTES);
    put_file(path_of(name), image[0], value ? BYTES / 2 : 0);
    assert_int_equal(truncate(path_of(name), (off_t)bytes), 0);
}

static bool same_files(void)
{
    get_file(path_of("old"), image[0], BYTES);
    get_file(path_of("new"), image[1], BYTES);
    return memcmp(image[0], image[1], BYTES) == 0;
}

/* @above: what stands before the files of the second chain and of the first. */
static void open_twin(const char *kind, const char *more, const char *above_new,
                      const char *above_old)
{
    disk_open("%s to='%sfile path=%s' %s | %sfile path=%s", kind, above_new, path_of("new"), more,
              above_old, path_of("old"));
}

static int write_at(int value, uint64_t sector, uint32_t sectors)
{
    memset(data, value, sizeof(data));
    return disk_do(DT_OP_WRITE, 0, sector, sectors, data);
}

/* ---- A load ---------------------------------------------------------------------------------- */

static struct {
    uint8_t bytes[DEPTH][16 << 10];
    struct disk_slot *slots[DEPTH];
    unsigned seed;
    bool discards;
} load;

static void submit_any(unsigned i)
{
    unsigned r = (unsigned)rand_r(&load.seed), kind = r % 20;
    uint32_t sectors = 8 * (1 + (r >> 8) % 4);
    /* A part of the disk is hot, so that requests meet. */
    uint64_t range = r & 1 ? 512 : SECTORS, sector = 8 * (((r >> 12) % (range - sectors)) / 8);

    memset(load.bytes[i], (int)(r >> 5), sizeof(load.bytes[i]));
    if (kind < 12)
        load.slots[i] = disk_submit(DT_OP_WRITE, 0, sector, sectors, load.bytes[i]);
    else if (kind < 16)
        load.slots[i] = disk_submit(DT_OP_READ, 0, sector, sectors, load.bytes[i]);
    else
        load.slots[i] = disk_submit(kind == 16 && load.discards ? DT_OP_DISCARD
                                    : kind <= 17                ? DT_OP_WRITE_ZEROES
                                                                : DT_OP_FLUSH,
                                    0, kind < 18 ? sector : 0, kind < 18 ? sectors : 0, NULL);
}

static void run_load(unsigned requests, unsigned seed, bool discards)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);
    unsigned begun = 0, busy = 0;

    memset(load.slots, 0, sizeof(load.slots));
    load.seed = seed;
    load.discards = discards;
    do {
        busy = 0;
        for (unsigned i = 0; i < DEPTH; i++) {
            if (load.slots[i] && !load.slots[i]->busy) {
                assert_int_equal(load.slots[i]->error, 0);
                load.slots[i] = NULL;
            }
            if (!load.slots[i] && begun < requests) {
                submit_any(i);
                begun++;
            }
            busy += load.slots[i] != NULL;
        }
        loop_turn(disk.loop, false);
        assert_true(dt_clock_ns() < deadline);
    } while (busy);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

static void test_copy(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "", "");
    run_load(3000, 1, true);
    disk_until("copy", "state", "in step");
    assert_true(same_files());
    run_load(2000, 2, true);
    disk_until("copy", "state", "in step"); /* discards made some of it dirty again */
    assert_true(same_files());
    assert_true(disk_counter("copy", "both") > 500);
    disk_rest_and_close();
}

/* Zeroes are not stored. */
static void test_sparse(void **state)
{
    struct stat st;

    make_file("old", BYTES, 0);
    make_file("new", BYTES, 0);
    open_twin("copy", "", "", "");
    disk_until("copy", "state", "in step");
    assert_int_equal(stat(path_of("new"), &st), 0);
    assert_true(st.st_blocks * 512 < BYTES / 4);
    disk_rest_and_close();
}

static void test_failing(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "error probability=2% ops=write | ", "");
    run_load(4000, 3, true);
    assert_true(disk_counter("copy", "failures") > 0);
    disk_set("copy", "rate", "0");
    disk_rest_and_close();
    /* It is never told to be equal while it is not. */
    open_twin("copy", "", "error probability=100% times=8 ops=write | ", "");
    disk_until("copy", "state", "in step");
    assert_true(same_files());
    assert_true(disk_counter("copy", "failures") > 0);
    disk_rest_and_close();
}

static void test_first_fails(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "", "error probability=0% ops=write | ");
    disk_until("copy", "state", "in step");
    disk_set("error", "probability", "100%");
    assert_int_equal(write_at(9, 64, 8), -EIO);
    disk_set("error", "probability", "0%");
    disk_until("copy", "state", "in step");
    assert_true(same_files());
    disk_rest_and_close();
}

/* A second chain that hangs holds the guest for `timeout`, and not longer. */
static void test_hanging(void **state)
{
    uint64_t start;

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "timeout=100ms", "", "");
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
    open_twin("copy", "timeout=100ms", "delay probability=20% time=2s ops=write | ", "");
    start = dt_clock_ns();
    for (unsigned i = 0; strcmp(disk_status("copy", "state"), "left behind") != 0; i++) {
        assert_int_equal(write_at((int)i, 8 * (i % 64), 8), 0);
        assert_true(dt_clock_ns() < start + DT_S(100));
    }
    start = dt_clock_ns();
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(write_at((int)i, 8 * i, 8), 0);
    assert_true(dt_clock_ns() <
                start + DT_S(5)); /* a fifth of them would have waited for 100 ms each */
    disk_rest_and_close();
}

static void test_absent(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES / 2, 0);
    open_twin("copy", "", "", "");
    assert_string_equal(disk_status("copy", "state"), "absent");
    assert_non_null(strstr(disk_status("copy", "reason"), "2097152 bytes"));
    assert_int_equal(write_at(5, 0, 8), 0);
    disk_rest_and_close();
    unlink(path_of("new"));
    open_twin("copy", "", "", "");
    assert_string_equal(disk_status("copy", "state"), "absent");
    disk_rest_and_close();
    disk_open("copy to='mem size=4M' | file path=%s", path_of("old"));
    assert_non_null(strstr(disk_status("copy", "reason"), "is gone"));
    disk_rest_and_close();
    assert_true(disk_try("copy to='nobody |' | file path=%s", path_of("old")) < 0);
}

static void test_rate(void **state)
{
    uint64_t start = dt_clock_ns();

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "rate=1M", "", "");
    while (dt_clock_ns() < start + DT_MS(500))
        loop_turn(disk.loop, false);
    assert_true(disk_counter("copy", "copied") < BYTES / 2);
    disk_set("copy", "rate", "0");
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
}

/* Region 0 is dirty, and written all the time; it can only be copied when its writes wait. */
static struct disk_slot *write_hot(unsigned i)
{
    memset(data, (int)i, sizeof(data));
    return disk_submit(DT_OP_WRITE, 0, 8 * (i % 16), 8, data);
}

static void turn_a_little(void)
{
    for (unsigned i = 0; i < 20; i++)
        loop_turn(disk.loop, false);
}

/* Such writes do not wait for the rate: here a region costs a minute, and the other one has just been copied. */
static void test_wanted(void **state)
{
    struct disk_slot *first, *second;

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "delay time=500ms ops=write | ", "delay time=1500ms ops=write | ");
    disk_set("delay", "time", "0ns");
    disk_until("copy", "state", "in step");
    disk_set("delay", "time", "1500ms");
    disk_set("copy", "rate", "1K");
    first = write_hot(0);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 256, 8, NULL), 0);
    turn_a_little();
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), 0);
    turn_a_little();
    second = write_hot(1);
    assert_int_equal(disk_counter("copy", "waited"), 1);
    assert_int_equal(disk_wait(first), 0);
    assert_int_equal(disk_wait(second), 0);
    disk_set("copy", "rate", "0");
    disk_until("copy", "state", "in step");
    assert_true(same_files());
    disk_rest_and_close();
}

/* Nor for one that is not copied because the device comes to rest; and when it goes on, so does the copying. */
static void test_rest(void **state)
{
    struct disk_slot *first, *second;
    uint64_t start;

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "", "delay time=300ms ops=write | ");
    disk_until("copy", "state", "in step");
    first = write_hot(0);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), 0);
    turn_a_little();
    second = write_hot(1);
    assert_int_equal(disk_counter("copy", "waited"), 1);
    start = dt_clock_ns();
    assert_int_equal(disk_quiesce(DT_S(30)), 0);
    assert_true(dt_clock_ns() < start + DT_S(20));
    assert_false(first->busy || second->busy);
    assert_true(first->error == 0 && second->error == 0);
    assert_string_equal(disk_status("copy", "state"), "copying");
    assert_int_equal(write_at(5, 512, 8), 0);
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
    assert_true(same_files());
}

/* ---- Shadows --------------------------------------------------------------------------------- */

static void test_shadow(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("shadow", "rate=0", "", "");
    run_load(4000, 5, false);
    assert_true(disk_counter("shadow", "compared") > 100);
    assert_true(disk_counter("shadow", "both") > 100);
    assert_int_equal(disk_counter("shadow", "mismatches"), 0);
    assert_true(atoll(disk_status("shadow", "shadow-read-p99-ns")) > 0);
    assert_true(atoll(disk_status("shadow", "disk-write-p50-ns")) > 0);
    disk_set("shadow", "sync", "on");
    disk_until("shadow", "state", "in step");
    assert_true(same_files());
    disk_rest_and_close();
}

/* Slow, with little room: it misses, the guest does not wait, and nobody is accused. */
static void test_slow_shadow(void **state)
{
    uint64_t start;

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("shadow", "rate=0 buffer=2M", "delay time=300ms | ", "");
    start = dt_clock_ns();
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(write_at((int)i, 8 * (i % 64), 64), 0);
    assert_true(dt_clock_ns() < start + DT_S(45)); /* one after the other, they would take 90 */
    assert_true(disk_counter("shadow", "missed") > 0);
    run_load(1000, 6, false);
    assert_int_equal(disk_counter("shadow", "mismatches"), 0);
    assert_int_equal(disk_counter("shadow", "different-errors"), 0);
    disk_rest_and_close();
}

static void test_lying_shadow(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 8);
    open_twin("shadow", "", "", "");
    assert_int_equal(disk_do(DT_OP_READ, 0, 128, 8, data), 0);
    assert_true(all_bytes(data, 4096, 7));
    assert_int_equal(disk_quiesce(DT_S(5)), 0); /* the shadow has answered, too */
    assert_int_equal(write_at(1, 128, 8), 0);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 128, 8, data), 0);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_int_equal(disk_counter("shadow", "compared"), 2);
    assert_int_equal(disk_counter("shadow", "mismatches"), 1);
    assert_string_equal(disk_status("shadow", "first-mismatch-sector"), "128");
    disk_close();
    make_file("new", BYTES, 7);
    open_twin("shadow", "", "error probability=100% ops=read | ", "");
    assert_int_equal(disk_do(DT_OP_READ, 0, 128, 8, data), 0);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_int_equal(disk_counter("shadow", "different-errors"), 1);
    disk_close();
}

/* ---- In the disk's place --------------------------------------------------------------------- */

static void *serve(void *arg)
{
    loop_run(arg);
    return NULL;
}

/* While another thread serves, as it has to be. */
static int change_chain(const char *step, bool confined, bool force)
{
    struct change change = {.patience = DT_S(60), .confined = confined, .force = force};
    struct chain_edit edit;
    pthread_t thread;
    int ret;

    device_edit(disk.dev, &edit);
    assert_int_equal(chain_edit_step(&edit, step, &disk.err), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve, disk.loop), 0);
    while (!loop_is_foreign(disk.loop))
        usleep(100);
    ret = device_change(disk.dev, &edit.spec, &change, &disk.err);
    loop_stop(disk.loop);
    pthread_join(thread, NULL);
    chain_spec_free(&edit.spec);
    return ret;
}

static void test_adopt(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "rate=1K", "", "");
    assert_int_equal(write_at(1, 0, 8), 0);
    assert_int_equal(change_chain("adopt copy", false, false), -EBUSY);
    assert_error_says("still to be copied");
    disk_set("copy", "rate", "0");
    disk_until("copy", "state", "in step");
    assert_int_equal(write_at(2, 4096, 8), 0);
    assert_int_equal(change_chain("adopt copy", false, false), 0);
    assert_int_equal(write_at(3, 2048, 8), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 4096, 8, data), 0);
    assert_true(all_bytes(data, 4096, 2));
    disk_close();
    get_file(path_of("old"), image[0], BYTES);
    get_file(path_of("new"), image[1], BYTES);
    assert_int_equal(image[1][2048 * 512], 3);
    assert_int_equal(image[0][2048 * 512], 7);
}

/* It cannot be opened again: the disk stays where it is, and works. */
static void test_adopt_fails(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "", "");
    disk_until("copy", "state", "in step");
    unlink(path_of("new"));
    assert_true(change_chain("adopt copy", false, false) < 0);
    assert_int_equal(write_at(3, 2048, 8), 0);
    assert_string_equal(disk_status("copy", "state"), "absent");
    assert_int_equal(change_chain("remove copy", false, false), 0);
    assert_int_equal(write_at(4, 2048, 8), 0);
    disk_close();
}

/* Sealed for a successor that does not come: what the second chain refuses then is not
 * acknowledged, and is let go of when the device comes to rest. */
static void test_seal(void **state)
{
    struct disk_slot *slot;

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    open_twin("copy", "", "", "");
    disk_until("copy", "state", "in step");
    assert_int_equal(change_chain("adopt copy", true, false), 1); /* a successor has to do it */
    assert_string_equal(disk_status("copy", "state"), "handing over");
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), 0);
    assert_string_equal(disk_status("copy", "state"), "handing over");
    assert_int_equal(write_at(3, 8, 8), 0);
    disk_rest_and_close();
    assert_true(same_files());

    make_file("new", BYTES, 3);
    open_twin("copy", "", "error probability=100% after=1 start=256 sectors=8 ops=write | ", "");
    disk_until("copy", "state", "in step"); /* the one that was let through was the copying */
    assert_int_equal(change_chain("adopt copy", true, false), 1);
    memset(data, 9, sizeof(data));
    slot = disk_submit(DT_OP_WRITE, 0, 256, 8, data);
    assert_int_equal(write_at(3, 8, 8), 0); /* others go on */
    for (unsigned i = 0; i < 1000; i++)
        loop_turn(disk.loop, false);
    assert_true(slot->busy);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_false(slot->busy);
    assert_int_equal(slot->error, -ECANCELED);
    disk_close();
}

static void test_promote(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("shadow", "", "", "");
    assert_int_equal(write_at(1, 0, 8), 0);
    assert_int_equal(change_chain("adopt shadow", false, false), -EBUSY);
    assert_error_says("sync=on");
    disk_set("shadow", "sync", "on");
    disk_until("shadow", "state", "in step");
    assert_int_equal(change_chain("adopt shadow", false, false), 0);
    disk_close();
    assert_true(same_files());

    make_file("new", BYTES, 8);
    open_twin("shadow", "sync=on", "", "");
    disk_until("shadow", "state", "in step");
    assert_int_equal(disk_do(DT_OP_READ, 0, 256, 8, data), 0);
    assert_int_equal(disk_quiesce(DT_S(5)), 0); /* the shadow has answered, too */
    assert_int_equal(change_chain("adopt shadow", false, false), -EPERM);
    assert_error_says("answered differently");
    assert_int_equal(change_chain("adopt shadow", false, true), 0);
    disk_close();
}

/* A chain that is not the one that was kept equal is as strange as any. */
/* A copy of the disk to itself cannot be; taking it out again is not a handover. */
static void test_self(void **state)
{
    make_file("old", BYTES, 7);
    disk_open("copy to='file path=%s' | file path=%s", path_of("old"), path_of("old"));
    assert_string_equal(disk_status("copy", "state"), "absent");
    assert_int_equal(change_chain("remove copy", false, false), 0);
    disk_close();
}

static void test_not_vouched(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 3);
    make_file("other", BYTES, 3);
    open_twin("copy", "", "", "");
    disk_until("copy", "state", "in step");
    {
        _cleanup_free_ char *step = xasprintf("replace file file path=%s", path_of("other"));

        assert_int_equal(change_chain(step, false, false), -EPERM);
    }
    assert_error_says("could read other data");
    disk_rest_and_close();
}

/* ---- Comparisons ----------------------------------------------------------------------------- */

/* Equal already: under a load nothing is copied but what a discard left. */
static void test_compare(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("copy", "content=equal", "", "");
    assert_string_equal(disk_status("copy", "bytes-left"), "4194304");
    run_load(3000, 8, false);
    disk_until("copy", "state", "in step");
    assert_int_equal(disk_counter("copy", "copied"), 0);
    run_load(2000, 9, true);
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
    assert_true(same_files());
}

static void spoil_new(off_t sector)
{
    int fd = open(path_of("new"), O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, "x", 1, sector * DT_SECTOR_SIZE + 3), 1);
    close(fd);
}

/* The first that differs is told, nothing is put right, and the disk goes on as it was. */
static void test_compare_different(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    spoil_new(5003);
    spoil_new(5200); /* of another region, which may be read at the same time */
    spoil_new(8191);
    open_twin("copy", "content=equal", "", "");
    disk_until("copy", "state", "different");
    assert_string_equal(disk_status("copy", "different-sector"), "5003");
    assert_int_equal(write_at(1, 5000, 8), 0);
    assert_int_equal(change_chain("adopt copy", false, false), -EPERM);
    assert_error_says("first in sector 5003");
    assert_int_equal(disk_counter("copy", "copied"), 0);
    assert_int_equal(change_chain("remove copy", false, false), 0);
    assert_int_equal(write_at(1, 5000, 8), 0);
    disk_close();
    get_file(path_of("new"), image[1], BYTES);
    assert_int_equal(image[1][5200 * 512 + 3], 'x');
}

/* Where reading fails it is tried again; where a flush does, nobody knows what is there, and all is compared again. */
static void test_compare_failing(void **state)
{
    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("copy", "content=equal", "error probability=100% times=2 ops=read | ", "");
    run_load(1000, 10, false);
    disk_until("copy", "state", "in step");
    assert_true(disk_counter("copy", "failures") > 0);
    disk_rest_and_close();
    assert_true(same_files());

    make_file("old", BYTES, 7);
    make_file("new", BYTES, 7);
    open_twin("copy", "content=equal", "error probability=100% after=1 times=1 ops=flush | ", "");
    disk_until("copy", "state", "in step");
    spoil_new(4100);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_until("copy", "state", "different");
    assert_string_equal(disk_status("copy", "different-sector"), "4100");
    disk_rest_and_close();
}

/* Threads take turns with the loop, which io_uring does not allow. */
static int use_epoll(void **state)
{
    disk.engine = LOOP_EPOLL;
    return 0;
}

static int use_best(void **state)
{
    disk.engine = LOOP_AUTO;
    return 0;
}

static int make_dir(void **state)
{
    scratch_make();
    return 0;
}

static int remove_dir(void **state)
{
    return scratch_remove((const char *const[]){"old", "new", "other", NULL});
}

#define ADOPTS(test) cmocka_unit_test_setup_teardown(test, use_epoll, use_best)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_failing),
        cmocka_unit_test(test_first_fails),
        cmocka_unit_test(test_hanging),
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_wanted),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_shadow),
        cmocka_unit_test(test_slow_shadow),
        cmocka_unit_test(test_lying_shadow),
        ADOPTS(test_adopt),
        ADOPTS(test_adopt_fails),
        ADOPTS(test_seal),
        ADOPTS(test_promote),
        ADOPTS(test_self),
        ADOPTS(test_not_vouched),
        cmocka_unit_test(test_compare),
        ADOPTS(test_compare_different),
        cmocka_unit_test(test_compare_failing),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
