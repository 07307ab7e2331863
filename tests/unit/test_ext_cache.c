/* SPDX-License-Identifier: MIT */
/* test_ext_cache.c - the extension cache before a file: what is where, in both modes; what is
 * refused. */
#include "blk/cache/format.h"
#include "ext_disk.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SECTORS 8192u /* of the disk: 4 MiB */
#define CACHE   "cache path=ext-cache.tmp id=t sequential=0 "
#define BELOW   " | file path=ext-disk.tmp"

static uint8_t data[1 << 20] __attribute__((aligned(4096)));
static uint8_t back[1 << 20] __attribute__((aligned(4096)));

static int fresh(void **state)
{
    int fd = open("ext-disk.tmp", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    unlink("ext-cache.tmp");
    return fd < 0 || ftruncate(fd, SECTORS * 512) < 0 || close(fd) < 0;
}

static int clean_up(void **state)
{
    unlink("ext-disk.tmp");
    unlink("ext-cache.tmp");
    return 0;
}

/* What the disk below has, past the cache. */
static bool below_has(uint64_t sector, uint32_t sectors, int value)
{
    _cleanup_close_ int fd = open("ext-disk.tmp", O_RDONLY | O_CLOEXEC);

    assert_int_equal(pread(fd, back, sectors * 512, (off_t)sector * 512), sectors * 512);
    return all_bytes(back, sectors * 512, value);
}

/* Turn until the counter is @value, for ten seconds at most. */
static void counter_becomes(const char *name, uint64_t value)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);

    while (disk_counter("cache", name) != value && dt_clock_ns() < deadline) {
        loop_turn(disk.loop, false);
        usleep(100);
    }
    assert_int_equal(disk_counter("cache", name), value);
}

static void write_all(uint64_t sector, uint32_t sectors, int value)
{
    memset(data, value, sectors * 512);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, sector, sectors, data), 0);
}

static bool reads_as(uint64_t sector, uint32_t sectors, int value)
{
    memset(back, 0xee, sectors * 512);
    assert_int_equal(disk_do(DT_OP_READ, 0, sector, sectors, back), 0);
    return all_bytes(back, sectors * 512, value);
}

/* ---- Modes ---------------------------------------------------------------------------------- */

static void what_was_read_is_here(void **state)
{
    disk_open(CACHE "size=4M | error ops=read times=0 after=1000000 | file path=ext-disk.tmp");
    assert_true(reads_as(8, 16, 0));
    assert_int_equal(disk_counter("cache", "read-misses"), 1);
    assert_int_equal(disk_counter("cache", "used"), 2);
    disk_set("error", "after", "0"); /* the disk below can be read no more */
    assert_true(reads_as(8, 16, 0));
    assert_true(reads_as(9, 3, 0));
    assert_int_equal(disk_counter("cache", "read-hits"), 2);
    assert_int_equal(disk_do(DT_OP_READ, 0, 64, 8, back), -EIO);
    assert_int_equal(disk_verb("cache", "drop", 0, NULL), 0);
    assert_int_equal(disk_counter("cache", "used"), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 8, 16, back), -EIO);
    disk_rest_and_close();
}

static void writethrough_is_below_at_once(void **state)
{
    disk_open(CACHE "size=4M" BELOW);
    assert_true(reads_as(0, 64, 0));
    write_all(4, 30, 0x11);   /* over blocks that are here, in part */
    write_all(4096, 8, 0x22); /* and over one that is not */
    assert_true(below_has(4, 30, 0x11));
    assert_true(below_has(4096, 8, 0x22));
    assert_int_equal(disk_counter("cache", "dirty"), 0);
    assert_true(reads_as(4, 30, 0x11));
    assert_true(reads_as(0, 4, 0));
    assert_true(reads_as(34, 30, 0));
    assert_int_equal(disk_counter("cache", "read-hits"), 3); /* they stayed, and are current */
    disk_rest_and_close();
}

static void writeback_is_below_later(void **state)
{
    disk_open(CACHE "size=4M mode=writeback keep-dirty=100%%" BELOW);
    write_all(0, 128, 0x33);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_counter("cache", "dirty"), 16);
    assert_true(below_has(0, 128, 0));
    assert_true(reads_as(0, 128, 0x33));
    write_all(4, 2, 0x44); /* part of a block that is here */
    assert_true(below_has(4, 2, 0));
    disk_rest_and_close();
    /* It is warm and dirty in the next life. */
    disk_open(CACHE "mode=writeback keep-dirty=100%%" BELOW);
    assert_int_equal(disk_counter("cache", "dirty"), 16);
    assert_true(reads_as(4, 2, 0x44));
    assert_true(reads_as(8, 120, 0x33));
    assert_int_equal(disk_verb("cache", "drain", 0, NULL), 0);
    counter_becomes("dirty", 0);
    assert_true(below_has(8, 120, 0x33));
    assert_true(below_has(4, 2, 0x44));
    disk_rest_and_close();
}

static void the_mode_changes_live(void **state)
{
    disk_open(CACHE "size=4M mode=writeback keep-dirty=100%%" BELOW);
    write_all(512, 64, 0x55);
    assert_true(below_has(512, 64, 0));
    disk_set("cache", "mode", "writethrough");
    write_all(512, 8, 0x66); /* dirty here: it stays so until it was drained */
    counter_becomes("dirty", 0);
    assert_true(below_has(520, 56, 0x55));
    assert_true(below_has(512, 8, 0x66));
    write_all(1024, 8, 0x77);
    assert_true(below_has(1024, 8, 0x77));
    disk_rest_and_close();
}

static void zeroes_and_discards(void **state)
{
    disk_open(CACHE "size=4M mode=writeback keep-dirty=100%%" BELOW);
    write_all(0, 64, 0x10);
    assert_true(reads_as(512, 64, 0));
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 4, 600, NULL), 0);
    assert_true(reads_as(0, 4, 0x10));
    assert_true(reads_as(4, 600, 0));
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 64, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_FUA, 0, 4, NULL), 0);
    assert_true(reads_as(0, 4, 0));
    disk_rest_and_close();
}

static void sequences_pass_by(void **state)
{
    disk_open("cache path=ext-cache.tmp id=t size=4M sequential=256K mode=writeback" BELOW);
    for (unsigned i = 0; i < 128; i++)
        write_all(i * 64, 64, 0x21);
    assert_true(disk_counter("cache", "used") <= 16 * 9);
    assert_true(disk_counter("cache", "bypassed") > 100);
    for (unsigned i = 0; i < 128; i++)
        assert_true(reads_as(i * 64, 64, 0x21));
    disk_rest_and_close();
}

/* More than fits, in odd sizes and at odd addresses, beside a copy in memory. */
static void much_is_right(void **state)
{
    static uint8_t model[SECTORS * 512];
    struct dt_rng rng;

    dt_rng_seed(&rng, 7);
    memset(model, 0, sizeof(model));
    disk_open(CACHE "size=3M mode=writeback keep-dirty=5%%" BELOW);
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t sectors = 1 + (uint32_t)dt_rng_below(&rng, dt_rng_below(&rng, 4) ? 16 : 600);
        uint64_t sector = dt_rng_below(&rng, SECTORS - sectors);
        uint8_t *memory = data + dt_rng_below(&rng, 2) * 24;

        if (i % 500 == 250)
            disk_set("cache", "mode", i % 1000 == 250 ? "writethrough" : "writeback");
        if (dt_rng_below(&rng, 2)) {
            memset(memory, (int)i, sectors * 512);
            memcpy(model + sector * 512, memory, sectors * 512);
            assert_int_equal(disk_do(DT_OP_WRITE, 0, sector, sectors, memory), 0);
        } else {
            assert_int_equal(disk_do(DT_OP_READ, 0, sector, sectors, memory), 0);
            if (memcmp(memory, model + sector * 512, sectors * 512))
                fail_msg("request %u: %u sectors at %llu differ", i, sectors,
                         (unsigned long long)sector);
        }
    }
    assert_true(disk_counter("cache", "evictions") > 0);
    assert_int_equal(disk_verb("cache", "drain", 0, NULL), 0);
    counter_becomes("dirty", 0);
    disk_rest_and_close();
    _cleanup_close_ int fd = open("ext-disk.tmp", O_RDONLY | O_CLOEXEC);
    for (unsigned at = 0; at < sizeof(model); at += sizeof(back)) {
        assert_int_equal(pread(fd, back, sizeof(back), at), sizeof(back));
        assert_memory_equal(back, model + at, sizeof(back));
    }
}

/* ---- Trouble -------------------------------------------------------------------------------- */

static void destaging_is_tried_again(void **state)
{
    disk_open(CACHE
              "size=4M mode=writeback keep-dirty=0 | error ops=write | file path=ext-disk.tmp");
    write_all(0, 64, 0x31);
    for (unsigned i = 0; i < 200; i++)
        loop_turn(disk.loop, false);
    assert_true(disk_counter("cache", "dirty") == 8);
    disk_set("error", "ops", "read");
    counter_becomes("dirty", 0);
    assert_true(below_has(0, 64, 0x31));
    disk_rest_and_close();
}

static void another_disk_is_refused(void **state)
{
    disk_open(CACHE "size=4M" BELOW);
    struct disk first = disk;
    assert_true(disk_try(CACHE BELOW) < 0); /* in use */
    struct dt_error err = disk.err;
    disk = first;
    disk.err = err;
    assert_error_says("is in use");
    disk_rest_and_close();
    assert_int_equal(disk_try("cache path=ext-cache.tmp id=other" BELOW), -EMEDIUMTYPE);
    assert_error_says("is the cache of 't', not of 'other'");
    assert_int_equal(truncate("ext-disk.tmp", SECTORS * 256), 0);
    assert_int_equal(disk_try(CACHE BELOW), -EMEDIUMTYPE);
    assert_error_says("of a disk of 8192 sectors, and the one below has 4096");
    assert_int_equal(disk_try("cache path=ext-disk.tmp" BELOW), -EINVAL);
    assert_error_says("it is not a cache");
    assert_int_equal(disk_try("cache path=ext-none.tmp" BELOW), -ENOENT);
    assert_error_says("size= makes it");
    assert_true(disk_try("cache path=ext-none.tmp size=1M" BELOW) < 0);
    assert_error_says("too small for a cache");
    assert_int_equal(access("ext-none.tmp", F_OK), -1);
}

static void damage_is_refused(void **state)
{
    struct cache_super super;
    struct dt_error err;
    uint64_t entry;

    disk_open(CACHE "size=4M mode=writeback keep-dirty=100%%" BELOW);
    write_all(0, 8, 0x41);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
    _cleanup_close_ int fd = open("ext-cache.tmp", O_RDWR | O_CLOEXEC);
    assert_int_equal(cache_super_read(fd, &super, &err), 0);
    assert_true(cache_super_closed(&super));
    assert_int_equal(pread(fd, &entry, 8, (off_t)super.map_offset), 8);
    assert_int_equal(cache_entry_block(entry), 0);
    entry ^= 1; /* block 1, with the check bits of block 0 */
    assert_int_equal(pwrite(fd, &entry, 8, (off_t)super.map_offset), 8);
    assert_int_equal(disk_try(CACHE BELOW), -EUCLEAN);
    assert_error_says("its check bits are wrong");
    entry = cache_entry(super.salt, 0, CACHE_ENTRY_VALID | CACHE_ENTRY_DIRTY | 16);
    assert_int_equal(pwrite(fd, &entry, 8, (off_t)super.map_offset), 8);
    assert_int_equal(disk_try(CACHE BELOW), -EUCLEAN);
    assert_error_says("belongs to another set");
    /* The other superblock serves when one is gone. */
    entry = cache_entry(super.salt, 0, CACHE_ENTRY_VALID | CACHE_ENTRY_DIRTY);
    assert_int_equal(pwrite(fd, &entry, 8, (off_t)super.map_offset), 8);
    assert_int_equal(pwrite(fd, &entry, 8, (off_t)(super.generation % 2 * CACHE_SUPER_SIZE)), 8);
    disk_open(CACHE BELOW);
    disk_rest_and_close();
}

static void a_grown_disk_goes_on(void **state)
{
    static const char *const size[] = {"8M"};

    disk_open(CACHE "size=4M mode=writeback keep-dirty=100%%" BELOW);
    assert_int_equal(disk_verb("file", "resize", 1, size), 0);
    for (unsigned i = 0; i < 100 && device_info(disk.dev)->sectors == SECTORS; i++)
        loop_turn(disk.loop, false);
    assert_int_equal(device_info(disk.dev)->sectors, 2 * SECTORS);
    write_all(SECTORS + 64, 64, 0x51);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
    disk_open(CACHE "mode=writeback keep-dirty=100%%" BELOW);
    assert_true(reads_as(SECTORS + 64, 64, 0x51));
    assert_int_equal(disk_counter("cache", "dirty"), 8);
    disk_rest_and_close();
}

int main(void)
{
#define CACHE_TEST(f) cmocka_unit_test_setup_teardown(f, fresh, clean_up)
    const struct CMUnitTest tests[] = {
        CACHE_TEST(what_was_read_is_here),
        CACHE_TEST(writethrough_is_below_at_once),
        CACHE_TEST(writeback_is_below_later),
        CACHE_TEST(the_mode_changes_live),
        CACHE_TEST(zeroes_and_discards),
        CACHE_TEST(sequences_pass_by),
        CACHE_TEST(much_is_right),
        CACHE_TEST(destaging_is_tried_again),
        CACHE_TEST(another_disk_is_refused),
        CACHE_TEST(damage_is_refused),
        CACHE_TEST(a_grown_disk_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
