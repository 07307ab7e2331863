/* SPDX-License-Identifier: MIT */
/* test_ext_mirror.c - the back `mirror`: legs that fail, come back, are old, foreign or at odds. */
#include "blk/mirror/meta.h"
#include "ext_disk.h"
#include "scratch.h"

#include <fcntl.h>
#include <sys/stat.h>

#define DATA    2048u
#define LEG     (DATA + META_SECTORS)
#define REGIONS (DATA / 8)

static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t back[64 << 10] __attribute__((aligned(4096)));

static void make_leg(const char *name, uint64_t sectors)
{
    empty_file(path_of(name), (off_t)(sectors * 512));
}

static void copy_file(const char *from, const char *to)
{
    static uint8_t all[LEG * 512];

    get_file(path_of(from), all, sizeof(all));
    put_file(path_of(to), all, sizeof(all));
}

static bool same_data(const char *a, const char *b)
{
    static uint8_t bytes[2][DATA * 512];

    get_file(path_of(a), bytes[0], sizeof(bytes[0]));
    get_file(path_of(b), bytes[1], sizeof(bytes[1]));
    return memcmp(bytes[0], bytes[1], sizeof(bytes[0])) == 0;
}

/* Legs by the names of their files; an error extension stands before each. */
static int try_mirror(const char *a, const char *b, const char *more)
{
    return disk_try(
        "mirror leg1='error probability=0 | file path=%s/%s' "
        "leg2='error probability=0 | file path=%s/%s' region=4K retry=10ms settle=10ms %s",
        dir, a, dir, b, more);
}

static void open_mirror(const char *a, const char *b, const char *more)
{
    if (try_mirror(a, b, more) < 0)
        fail_msg("%s", disk.err.text);
}

static int leg_verb(const char *verb, const char *leg)
{
    return disk_verb("mirror", verb, 1, &leg);
}

static void fill(int value, uint64_t sector, uint32_t sectors)
{
    memset(data, value, sizeof(data));
    assert_int_equal(disk_do(DT_OP_WRITE, 0, sector, sectors, data), 0);
}

static void expect(int value, uint64_t sector, uint32_t sectors)
{
    memset(back, 0x99, sizeof(back));
    assert_int_equal(disk_do(DT_OP_READ, 0, sector, sectors, back), 0);
    assert_true(all_bytes(back, sectors * 512, value));
}

/* Legs "a" and "b" with something on them. */
static void make_mirror(void)
{
    open_mirror("a", "b", "create=clean");
    fill(0x11, 0, 8);
    disk_rest_and_close();
}

/* In the end all legs have the same. */
static void end_complete(const char *a, const char *b)
{
    disk_until("mirror", "state", "complete");
    disk_rest_and_close();
    assert_true(same_data(a, b));
}

/* From the byte 4096 on, before there is a mirror. */
static void put_on_leg(const char *name, int value)
{
    int fd = open(path_of(name), O_RDWR | O_CLOEXEC);

    memset(data, value, sizeof(data));
    assert_int_equal(pwrite(fd, data, sizeof(data), 4096), sizeof(data));
    close(fd);
}

static int setup(void **state)
{
    scratch_make();
    make_leg("a", LEG);
    make_leg("b", LEG);
    return 0;
}

static int teardown(void **state)
{
    return scratch_remove((const char *const[]){"a", "b", "c", "old", "small", NULL});
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void both_legs_have_it(void **state)
{
    open_mirror("a", "b", "create=clean");
    assert_int_equal(device_info(disk.dev)->sectors, DATA);
    fill(0x11, 0, 128);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 8, 8, NULL), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    expect(0, 8, 8);
    expect(0x11, 16, 100);
    assert_string_equal(disk_status("mirror", "state"), "complete");
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
    open_mirror("a", "b", "");
    expect(0x11, 16, 100);
    disk_rest_and_close();
}

static void a_new_mirror_copies_the_first_leg(void **state)
{
    put_on_leg("a", 0x22);
    open_mirror("a", "b", "create=sync");
    expect(0x22, 8, 128);
    disk_until("mirror", "state", "complete");
    assert_true(disk_counter("mirror", "resynced") >= DATA * 512);
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
}

/* The process may end while the first copy is under way: the next one does it again. */
static void a_first_copy_that_was_cut_short_is_made_again(void **state)
{
    put_on_leg("a", 0x23);
    open_mirror("a", "b", "create=sync resync-rate=4K");
    expect(0x23, 8, 128);
    disk_rest_and_close();
    assert_false(same_data("a", "b"));
    open_mirror("a", "b", "create=sync");
    end_complete("a", "b");
}

static void bits_are_there_before_and_go_later(void **state)
{
    open_mirror("a", "b", "create=clean");
    fill(0x11, 0, 8);
    fill(0x11, 800, 8);
    assert_string_equal(disk_status("mirror", "regions-marked"), "2");
    disk_until("mirror", "regions-marked", "0");
    disk_rest_and_close();
}

/* Each leg does two writes in an order of its own; in the end both must have the same. */
static void overlapping_writes_leave_equal_legs(void **state)
{
    static uint8_t other[8 << 10] __attribute__((aligned(4096)));
    const struct disk_slot *slots[2];

    assert_true(
        disk_try("mirror create=clean region=4K leg1='delay ops=write time=0s jitter=2ms seed=1 | "
                 "file path=%s' leg2='delay ops=write time=0s jitter=2ms seed=2 | file path=%s'",
                 path_of("a"), path_of("b")) == 0);
    for (unsigned i = 0; i < 16; i++) {
        memset(data, (int)i + 1, sizeof(data));
        memset(other, (int)i + 101, sizeof(other));
        slots[0] = disk_submit(DT_OP_WRITE, 0, 64 + i * 16, 16, data);
        slots[1] = disk_submit(DT_OP_WRITE, 0, 68 + i * 16, 16, other);
        assert_int_equal(disk_wait(slots[0]), 0);
        assert_int_equal(disk_wait(slots[1]), 0);
    }
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
}

/* ---- Loss ------------------------------------------------------------------------------------ */

/* What the superblock on a leg says of leg @of. */
static unsigned recorded(const char *leg, unsigned of)
{
    uint8_t blocks[2][META_BLOCK];
    struct superblock sb[2];
    struct dt_error err;
    int fd = open(path_of(leg), O_RDONLY | O_CLOEXEC), ret[2];

    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pread(fd, blocks[i], META_BLOCK, (off_t)(DATA + i * META_SLOT) * 512),
                         META_BLOCK);
        ret[i] = superblock_decode(&sb[i], blocks[i], &err);
    }
    close(fd);
    if (ret[0] < 0)
        return sb[1].state[of];
    return sb[ret[1] == 0 && sb[1].generation > sb[0].generation].state[of];
}

/* A leg is in sync before the disk says so. */
static void until_recorded(const char *leg, unsigned of, unsigned state)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);

    while (recorded(leg, of) != state && dt_clock_ns() < deadline)
        loop_turn(disk.loop, false);
    assert_int_equal(recorded(leg, of), state);
}

static void a_lost_leg_is_recorded_first_and_caught_up(void **state)
{
    /* The second leg's own chain fails once, after what the start needs. */
    assert_true(disk_try("mirror leg1='file path=%s' leg2='error ops=write start=64 sectors=8 "
                         "times=1 | file path=%s' region=4K retry=1s settle=10ms create=clean",
                         path_of("a"), path_of("b")) == 0);
    fill(0x33, 0, 8);
    assert_string_equal(disk_status("mirror", "state"), "complete");
    memset(data, 0x44, sizeof(data));
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 64, 8, data), 0);
    assert_int_equal(recorded("a", 1), RECORD_STALE); /* by the time it was acknowledged */
    assert_int_equal(disk_counter("mirror", "legs-lost"), 1);
    expect(0x44, 64, 8);
    disk_until("mirror", "state", "complete");
    until_recorded("a", 1, RECORD_IN_SYNC);
    assert_true(disk_counter("mirror", "resynced") <= 16 * 4096); /* not all of it */
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
}

static void the_last_leg_is_not_given_up(void **state)
{
    open_mirror("a", "b", "create=clean");
    fill(0x11, 0, 8);
    assert_int_equal(leg_verb("remove", "leg1"), 0);
    assert_true(leg_verb("remove", "leg2") < 0);
    assert_error_says("the only one in sync");
    fill(0x22, 0, 8);
    expect(0x22, 0, 8);
    assert_string_equal(disk_status("mirror", "state"), "degraded");
    assert_int_equal(leg_verb("add", "leg1"), 0);
    end_complete("a", "b");
}

static void errors_of_all_legs_are_the_guests(void **state)
{
    assert_true(disk_try("mirror leg1='error ops=write start=64 sectors=8 | file path=%s' "
                         "leg2='error ops=write start=64 sectors=8 | file path=%s' region=4K "
                         "create=clean",
                         path_of("a"), path_of("b")) == 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 64, 8, data), -EIO);
    assert_string_equal(disk_status("mirror", "state"), "complete");
    assert_int_equal(disk_counter("mirror", "legs-lost"), 0);
    fill(0x11, 0, 8);
    disk_rest_and_close();
}

static void a_read_error_is_not_the_guests(void **state)
{
    assert_true(disk_try("mirror leg1='error ops=read start=64 sectors=8 | file path=%s' "
                         "leg2='delay time=2ms | file path=%s' region=4K create=clean retry=1s",
                         path_of("a"), path_of("b")) == 0);
    fill(0x55, 64, 8);
    for (unsigned i = 0; i < 8; i++)
        expect(0x55, 64, 8);
    assert_int_equal(disk_counter("mirror", "read-retries"), 1);
    disk_rest_and_close();
}

static void reads_go_to_the_fastest(void **state)
{
    unsigned long long fast, slow;

    assert_true(disk_try("mirror leg1='delay time=5ms | file path=%s' leg2='file path=%s' "
                         "create=clean",
                         path_of("a"), path_of("b")) == 0);
    for (unsigned i = 0; i < 100; i++)
        expect(0, 64, 8);
    assert_int_equal(sscanf(strstr(disk_status("mirror", "leg1"), ", ") + 2, "%llu", &slow), 1);
    assert_int_equal(sscanf(strstr(disk_status("mirror", "leg2"), ", ") + 2, "%llu", &fast), 1);
    assert_true(fast > 5 * slow);
    disk_rest_and_close();
}

/* ---- Judgement ------------------------------------------------------------------------------- */

static void an_old_copy_is_found_out(void **state)
{
    make_mirror();
    copy_file("b", "old");
    open_mirror("a", "b", "");
    fill(0x22, 0, 8);
    disk_rest_and_close();
    copy_file("old", "b");
    open_mirror("a", "b", "");
    for (unsigned i = 0; i < 10; i++)
        expect(0x22, 0, 8);
    disk_until("mirror", "state", "complete");
    assert_true(disk_counter("mirror", "resynced") >= DATA * 512);
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
}

static void split_brain_is_refused_and_resolved(void **state)
{
    const struct disk_slot *s;

    make_mirror();
    open_mirror("a", "none", "missing=any");
    fill(0x22, 0, 8);
    disk_rest_and_close();
    open_mirror("none", "b", "missing=any");
    fill(0x33, 0, 8);
    disk_rest_and_close();
    open_mirror("a", "b", "");
    disk_until("mirror", "state", "split brain");
    s = disk_submit(DT_OP_READ, 0, 0, 8, back);
    assert_true(s->busy);
    assert_int_equal(leg_verb("use", "leg2"), 0);
    assert_int_equal(disk_wait(s), 0);
    assert_true(all_bytes(back, 4096, 0x33));
    end_complete("a", "b");
}

static void what_may_be_newer_is_waited_for(void **state)
{
    const struct disk_slot *s;

    make_mirror();
    open_mirror("none", "b", "");
    disk_until("mirror", "state", "leg1 is not there and may have newer data");
    s = disk_submit(DT_OP_READ, 0, 0, 8, back);
    assert_int_equal(disk_quiesce(DT_MS(100)), 0);
    assert_int_equal(s->error, -ECANCELED);
    disk_close();
    /* That leg 2 is behind is known to leg 1: it needs nobody's leave. */
    open_mirror("a", "none", "missing=any");
    fill(0x22, 0, 8);
    disk_rest_and_close();
    open_mirror("a", "none", "");
    expect(0x22, 0, 8);
    disk_rest_and_close();
    open_mirror("a", "b", "");
    expect(0x22, 0, 8);
    disk_until("mirror", "state", "complete");
    assert_true(disk_counter("mirror", "resynced") < DATA * 512);
    disk_rest_and_close();
    assert_true(same_data("a", "b"));
}

static void foreign_legs_are_not_overwritten(void **state)
{
    make_mirror();
    make_leg("c", LEG);
    open_mirror("a", "c", "missing=any create=clean");
    disk_until("mirror", "leg2", "stale (removed)");
    fill(0x22, 0, 8);
    assert_int_equal(leg_verb("add", "leg2"), 0);
    end_complete("a", "c");
    open_mirror("c", "a", "");
    disk_until("mirror", "state", "leg1 is leg2 of 2");
    disk_close();
}

static void the_start_says_what_is_wrong(void **state)
{
    make_leg("small", LEG - 64);
    assert_true(try_mirror("a", "small", "create=clean") < 0);
    assert_error_says("must be of the same size");
    assert_true(disk_try("mirror leg1='mem size=1M' leg2='nope'") < 0);
    assert_true(disk_try("mirror leg1='mem size=1M' leg2='mem size=1M' leg4='null'") < 0);
    assert_error_says("leg3 is missing before leg4");
    open_mirror("a", "b", "");
    disk_until("mirror", "state", "no leg has metadata");
    disk_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(both_legs_have_it),
        TEST(a_new_mirror_copies_the_first_leg),
        TEST(a_first_copy_that_was_cut_short_is_made_again),
        TEST(bits_are_there_before_and_go_later),
        TEST(overlapping_writes_leave_equal_legs),
        TEST(a_lost_leg_is_recorded_first_and_caught_up),
        TEST(the_last_leg_is_not_given_up),
        TEST(errors_of_all_legs_are_the_guests),
        TEST(a_read_error_is_not_the_guests),
        TEST(reads_go_to_the_fastest),
        TEST(an_old_copy_is_found_out),
        TEST(split_brain_is_refused_and_resolved),
        TEST(what_may_be_newer_is_waited_for),
        TEST(foreign_legs_are_not_overwritten),
        TEST(the_start_says_what_is_wrong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
