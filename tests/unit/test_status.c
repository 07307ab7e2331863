/* SPDX-License-Identifier: MIT */
/*
 * test_status.c - what a running disk holds where: what each layer says of it, and what is said of layers that say
 * nothing. That what is called zeroes reads as zeroes is for conformance (test_conformance.c) to show.
 */
#include "ext_disk.h"
#include "scratch.h"

#define KIB      1024u
#define DISK_KIB 1024u

static uint8_t data[256 * KIB] __attribute__((aligned(4096)));

static int setup(void **state)
{
    scratch_make();
    return 0;
}

static int teardown(void **state)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

/* A sparse file of the disk's size, with bytes that are not zero where told, KiB. */
static void make_file(const char *name)
{
    empty_file(path_of(name), DISK_KIB * KIB);
}

static void put_data(const char *name, unsigned at, unsigned length)
{
    int fd = open(path_of(name), O_RDWR | O_CLOEXEC);

    memset(data, 0x5a, length * KIB);
    assert_int_equal(pwrite(fd, data, length * KIB, (off_t)at * KIB), (ssize_t)(length * KIB));
    close(fd);
}

static void punch(const char *name, unsigned at, unsigned length)
{
    int fd = open(path_of(name), O_RDWR | O_CLOEXEC);

    assert_int_equal(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at * KIB, length * KIB),
        0);
    close(fd);
}

/* Where the file system tells no holes, little can be tested. */
static void need_holes(void)
{
    int fd;
    off_t hole;

    make_file("probe");
    put_data("probe", 64, 64);
    fd = open(path_of("probe"), O_RDONLY | O_CLOEXEC);
    hole = lseek(fd, 0, SEEK_HOLE);
    close(fd);
    if (hole != 0)
        skip();
}

/* "hole 64 data 4 hole 956": lengths in KiB; the text lives until the next call. */
static const char *map_text(uint64_t start, uint64_t length)
{
    static char text[1024];
    json_t *map = NULL, *extent;
    uint64_t at = start;
    size_t i, used = 0;

    if (device_map(disk.dev, start, length, DT_S(10), &map, &disk.err) < 0)
        fail_msg("%s", disk.err.text);
    text[0] = '\0';
    json_array_foreach(json_object_get(map, "extents"), i, extent)
    {
        json_int_t n = json_integer_value(json_object_get(extent, "length"));

        assert_int_equal(json_integer_value(json_object_get(extent, "start")), at);
        assert_int_equal(n % KIB, 0);
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %lld", used ? " " : "",
                                 json_string_value(json_object_get(extent, "status")),
                                 (long long)(n / KIB));
        at += (uint64_t)n;
    }
    assert_int_equal(json_integer_value(json_object_get(map, "next")), at);
    assert_int_equal(json_integer_value(json_object_get(map, "size")), DISK_KIB * KIB);
    json_decref(map);
    return text;
}

static void write_kib(unsigned at, unsigned length, int value)
{
    memset(data, value, length * KIB);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, at * 2, length * 2, data), 0);
}

#define assert_map(expected) assert_string_equal(map_text(0, 0), expected)

/* ---- Backs ---- */

static void a_file_says_what_its_file_system_does(void **state)
{
    need_holes();
    make_file("disk");
    put_data("disk", 64, 16);
    disk_open("file path=%s", path_of("disk"));
    assert_map("hole 64 data 16 hole 944");
    write_kib(512, 4, 1);
    write_kib(1020, 4, 1);
    assert_map("hole 64 data 16 hole 432 data 4 hole 504 data 4");
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 128, 32, NULL), 0);
    assert_map("hole 512 data 4 hole 504 data 4");
    assert_string_equal(map_text(514 * KIB, 4 * KIB), "data 2 hole 2");
    assert_int_equal(truncate(path_of("disk"), 100 * KIB),
                     0); /* what is read behind it is zeroes */
    assert_map("hole 1024");
    disk_close();
}

static void memory_is_looked_at(void **state)
{
    disk_open("mem size=1M");
    assert_map("zero 1024");
    write_kib(10, 1, 1);
    write_kib(20, 4, 0);
    assert_map("zero 10 data 1 zero 1013");
    disk_close();
}

static void null_knows_nothing(void **state)
{
    disk_open("null size=1M");
    assert_map("data 1024");
    disk_close();
}

static void a_compressed_store_has_units(void **state)
{
    disk_open("compress path=%s create=on size=1M", path_of("store"));
    assert_map("hole 1024");
    write_kib(130, 4, 1);
    write_kib(512, 64, 0);
    assert_map("hole 128 data 64 hole 832");
    assert_string_equal(map_text(150 * KIB, 64 * KIB), "data 42 hole 22");
    disk_close();
    disk_open("compress path=%s", path_of("store")); /* its map is in the file alone */
    assert_map("hole 128 data 64 hole 832");
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 256, 128, NULL), 0);
    assert_map("hole 1024");
    disk_close();
}

static void a_mirror_says_what_all_legs_say(void **state)
{
    need_holes();
    for (unsigned i = 0; i < 2; i++) {
        make_file(i ? "leg2" : "leg1");
        assert_int_equal(truncate(path_of(i ? "leg2" : "leg1"), (DISK_KIB + 128) * KIB), 0);
    }
    disk_open("mirror leg1='file path=%s' leg2='file path=%s' create=clean", path_of("leg1"),
              path_of("leg2"));
    write_kib(64, 64, 1);
    assert_map("hole 64 data 64 hole 896");
    /* Both hold zeroes there, but one leg has space for them. */
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 128, 128, NULL), 0);
    put_data("leg2", 96, 16);
    assert_map("hole 96 data 16 hole 912");
    disk_rest_and_close();
}

/* ---- Extensions ---- */

static void what_changes_nothing_asks_below(void **state)
{
    need_holes();
    make_file("disk");
    put_data("disk", 64, 16);
    disk_open("readonly | throttle iops=1M | delay time=0s | error probability=0 | zero | "
              "trace out=%s | file path=%s",
              path_of("trace"), path_of("disk"));
    assert_map("hole 64 data 16 hole 944");
    disk_close();
}

static enum dt_verdict pass(struct dt_ctx *c, struct dt_req *req)
{
    return DT_PASS;
}

/* Of those that say nothing it counts what they declare. */
static void what_says_nothing_may_hide_anything(void **state)
{
    static const struct dt_block_ext exts[] = {
        {DT_BLOCK_EXT_HEADER, .name = "status-blind", .summary = "s", .request = pass},
        {DT_BLOCK_EXT_HEADER, .name = "status-peeks", .summary = "s", .request = pass,
         .write_data = DT_DATA_PEEK},
        {DT_BLOCK_EXT_HEADER, .name = "status-fills", .summary = "s", .request = pass,
         .read_data = DT_DATA_STABLE},
        {DT_BLOCK_EXT_HEADER, .name = "status-bears", .summary = "s", .request = pass,
         .flags = DT_CONTENT_BEARING},
    };
    static const char *const maps[] = {"zero 1024", "data 1024", "data 1024", "data 1024"};

    for (unsigned i = 0; i < ARRAY_SIZE(exts); i++) {
        assert_int_equal(registry_add(&exts[i], &disk.err), 0);
        disk_open("%s | mem size=1M", exts[i].name);
        assert_map(maps[i]);
        disk_close();
    }
}

static void an_overlay_is_asked_before_its_base(void **state)
{
    need_holes();
    make_file("base");
    put_data("base", 64, 64);
    disk_open("cow overlay=%s create=on | file path=%s read-only=on", path_of("overlay"),
              path_of("base"));
    assert_map("hole 64 data 64 hole 896");
    write_kib(512, 4, 1);                                                          /* new */
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 160, 32, NULL), 0); /* hides */
    assert_map("hole 64 data 16 hole 16 data 32 hole 384 data 4 hole 508");
    assert_string_equal(map_text(513 * KIB, 8 * KIB), "data 3 hole 5");
    disk_close();
}

static void what_is_cached_is_data(void **state)
{
    need_holes();
    make_file("disk");
    put_data("disk", 64, 64);
    disk_open("cache path=%s size=4M mode=writeback keep-dirty=100%% | file path=%s",
              path_of("cache"), path_of("disk"));
    assert_map("hole 64 data 64 hole 896");
    write_kib(512, 8, 1); /* not below yet */
    assert_map("hole 64 data 64 hole 384 data 8 hole 504");
    assert_string_equal(map_text(516 * KIB, 8 * KIB), "data 4 hole 4");
    assert_int_equal(disk_verb("cache", "drain", 0, NULL), 0);
    for (unsigned i = 0; i < 2000 && disk_counter("cache", "dirty"); i++) {
        loop_turn(disk.loop, false);
        usleep(1000);
    }
    assert_map("hole 64 data 64 hole 384 data 8 hole 504");
    disk_rest_and_close();
}

/* Few blocks are looked for one by one, many by going through the cache. */
static void a_cache_is_searched_both_ways(void **state)
{
    need_holes();
    make_file("disk");
    disk_open("cache path=%s size=4M mode=writeback keep-dirty=100%% block=4K | file path=%s",
              path_of("cache"), path_of("disk"));
    for (unsigned at = 1000; at >= 40; at -= 40)
        write_kib(at, 4, 1);
    for (unsigned at = 0; at + 40 <= DISK_KIB; at += 40) {
        assert_string_equal(map_text((at + 36) * KIB, 4 * KIB), "hole 4");
        assert_string_equal(map_text((at + 36) * KIB, 8 * KIB), "hole 4 data 4");
    }
    assert_non_null(strstr(map_text(0, 0), "hole 40 data 4 hole 36 data 4 hole 36"));
    disk_rest_and_close();
}

static void zeroes_that_do_not_fit_their_checksum_are_data(void **state)
{
    need_holes();
    make_file("disk");
    disk_open("integrity sums=%s create=on | file path=%s cache=writeback", path_of("sums"),
              path_of("disk"));
    write_kib(64, 16, 1);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 256, 32, NULL), 0);
    assert_map("hole 64 data 16 hole 944");
    punch("disk", 72, 4); /* lost, and to be found */
    assert_map("hole 64 data 16 hole 944");
    punch("disk", 0, 32);
    assert_map("hole 64 data 16 hole 944");
    disk_rest_and_close();
}

/* ---- The question ---- */

static void neighbours_are_joined_and_pieces_end(void **state)
{
    json_t *map = NULL;

    disk_open("mem size=16M"); /* which says something of 4 MiB at a time */
    assert_int_equal(device_map(disk.dev, 0, 0, DT_S(10), &map, &disk.err), 0);
    assert_int_equal(json_array_size(json_object_get(map, "extents")), 1);
    json_decref(map);
    assert_int_equal(device_map(disk.dev, 0, 0, 0, &map, &disk.err), 0); /* no patience */
    assert_int_equal(json_integer_value(json_object_get(map, "next")), 4 << 20);
    json_decref(map);
    assert_int_equal(device_map(disk.dev, 16 << 20, 0, 0, &map, &disk.err), 0);
    assert_int_equal(json_integer_value(json_object_get(map, "next")), 16 << 20);
    assert_int_equal(json_array_size(json_object_get(map, "extents")), 0);
    json_decref(map);
    disk_close();
}

static void what_is_no_range_is_refused(void **state)
{
    json_t *map;

    disk_open("mem size=1M");
    assert_int_equal(device_map(disk.dev, 5, 0, 0, &map, &disk.err), -EINVAL);
    assert_string_equal(disk.err.text, "start 5 and length 0 must be multiples of 512");
    assert_int_equal(device_map(disk.dev, 0, 1, 0, &map, &disk.err), -EINVAL);
    assert_int_equal(device_map(disk.dev, (1 << 20) + 512, 0, 0, &map, &disk.err), -EINVAL);
    assert_non_null(strstr(disk.err.text, "behind the end of t"));
    assert_int_equal(device_map(disk.dev, UINT64_MAX - 511, 512, 0, &map, &disk.err), -EINVAL);
    assert_string_equal(map_text(1023 * KIB, UINT64_MAX - 511), "zero 1");
    disk_close();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

extern const struct dt_block_ext blk_compress;

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_says_what_its_file_system_does),
        TEST(memory_is_looked_at),
        TEST(null_knows_nothing),
        TEST(a_compressed_store_has_units),
        TEST(a_mirror_says_what_all_legs_say),
        TEST(what_changes_nothing_asks_below),
        TEST(what_says_nothing_may_hide_anything),
        TEST(an_overlay_is_asked_before_its_base),
        TEST(what_is_cached_is_data),
        TEST(a_cache_is_searched_both_ways),
        TEST(zeroes_that_do_not_fit_their_checksum_are_data),
        TEST(neighbours_are_joined_and_pieces_end),
        TEST(what_is_no_range_is_refused),
    };

    if (disk_module(&blk_compress) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
