/* SPDX-License-Identifier: MIT */
/*
 * test_ext_compress.c - the back `compress` on real files: what it reads after what writes, how
 * much that takes, which stores it refuses, damage, a full file system, and the check of stores
 * that nobody uses. What crashes leave is tests/crash/'s.
 */
#include "blk/compress/offline.h"
#include "ext_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define MIB     (1u << 20)
#define SECTORS 8215u /* four MiB and a piece of a unit: more than two sectors of the map */
#define BYTES   ((size_t)SECTORS * 512)
#define STORE   "compress.tmp"
#define CREATE  "compress path=" STORE " create=on size=4206080"
#define CHAIN   "compress path=" STORE " "

static uint8_t *model, *data;

static int setup(void **state)
{
    disk.engine = LOOP_AUTO;
    model = xaligned(4096, BYTES);
    data = xaligned(4096, BYTES + 4096);
    unlink(STORE);
    return 0;
}

static int teardown(void **state)
{
    unlink(STORE);
    free(model);
    free(data);
    return 0;
}

static void assert_reads_as_model(void)
{
    for (uint32_t at = 0, n; at < SECTORS; at += n) {
        n = MIN(SECTORS - at, 2048u);
        assert_int_equal(disk_do(DT_OP_READ, 0, at, n, data + at * 512), 0);
    }
    assert_memory_equal(data, model, BYTES);
}

/* Bytes that compress to nothing, somewhat, or not at all. */
static void fill(uint8_t *to, size_t n, uint64_t seed)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++)
        to[i] = seed % 3 == 0   ? (uint8_t)dt_rng_next(&rng)
                : seed % 3 == 1 ? (uint8_t)(seed + i / 512)
                                : (uint8_t)("abcd"[dt_rng_next(&rng) % 4]);
}

static void put(enum dt_op op, uint8_t flags, uint64_t sector, uint32_t n, uint64_t seed)
{
    if (op == DT_OP_WRITE)
        fill(model + sector * 512, n * 512u, seed);
    else
        memset(model + sector * 512, 0, n * 512u);
    assert_int_equal(disk_do(op, flags, sector, n, op == DT_OP_WRITE ? model + sector * 512 : NULL),
                     0);
}

static void random_writes(unsigned count, uint64_t seed)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (unsigned i = 0; i < count; i++) {
        uint64_t sector = dt_rng_below(&rng, SECTORS);
        uint32_t n = (uint32_t)(1 + dt_rng_below(&rng, MIN(600u, SECTORS - sector)));

        put(dt_rng_below(&rng, 4) ? DT_OP_WRITE : DT_OP_WRITE_ZEROES,
            dt_rng_below(&rng, 8) ? 0 : DT_REQ_FUA, sector, n, seed + i);
    }
}

static void found(struct compress_found *what)
{
    struct compress_file file;
    struct dt_error err;

    *what = (struct compress_found){0};
    if (compress_file_open(&file, STORE, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(compress_file_check(&file, true, what, &err), 0);
    compress_file_close(&file);
}

static void assert_whole(void)
{
    struct compress_found what;

    found(&what);
    assert_int_equal(what.problems, 0);
}

static void reads_what_was_written(void **state)
{
    disk_open(CREATE);
    assert_int_equal(device_info(disk.dev)->sectors, SECTORS);
    assert_reads_as_model();
    put(DT_OP_WRITE, 0, 3, 1, 1);
    put(DT_OP_WRITE, 0, 100, 300, 2);
    put(DT_OP_WRITE, 0, 512, 128, 3);       /* a whole unit that does not compress */
    put(DT_OP_WRITE, 0, SECTORS - 1, 1, 4); /* the last, which is short */
    assert_int_equal(disk_counter("compress", "raw"), 1);
    assert_reads_as_model();
    random_writes(200, 7);
    assert_reads_as_model();
    disk_rest_and_close();
    assert_whole();
    disk_open(CHAIN);
    assert_reads_as_model();
    assert_int_equal(disk_counter("compress", "damaged"), 0);
    disk_rest_and_close();
}

static void evicts(void **state)
{
    disk_open(CREATE " cache=1M map-cache=8K");
    random_writes(300, 11);
    assert_reads_as_model();
    disk_rest_and_close();
    disk_open(CHAIN "map-cache=8K");
    assert_reads_as_model();
    disk_rest_and_close();
    assert_whole();
}

static void takes_less(void **state)
{
    struct compress_found what;

    disk_open(CREATE);
    for (unsigned at = 0; at < 8192; at += 128)
        put(DT_OP_WRITE, 0, at, 128, 2); /* two bits in eight */
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
    found(&what);
    assert_int_equal(what.units, 64);
    assert_int_equal(what.raw, 0);
    assert_in_range(what.taken << COMPRESS_BLOCK_SHIFT, 1, 3 * MIB / 2);
    disk_open(CHAIN);
    put(DT_OP_WRITE_ZEROES, 0, 0, 4096, 0);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 4096 + 5, 4091, NULL), 0);
    memset(model + (4096 + 128) * 512, 0,
           (size_t)(4096 - 128) * 512); /* the first is not all its */
    assert_reads_as_model();
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
    found(&what);
    assert_int_equal(what.units, 1);
}

/* Space that was given back is used again, and holes are made for the file system. */
static void gives_back(void **state)
{
    struct stat before, after;

    disk_open(CREATE);
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned at = 0; at < 8192; at += 1024)
            put(DT_OP_WRITE, 0, at, 1024, 3 * round);
        assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    }
    assert_reads_as_model();
    assert_int_equal(stat(STORE, &before), 0);
    assert_in_range(before.st_blocks * 512, 4 * MIB, 13 * MIB);
    put(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 0, 8192, 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_int_equal(stat(STORE, &after), 0);
    assert_in_range(before.st_blocks - after.st_blocks, 4 * MIB / 512, 5 * MIB / 512);
    assert_reads_as_model();
    disk_rest_and_close();
}

/* Small writes that are under way together are packed together. */
static void packs_together(void **state)
{
    struct disk_slot *slots[128];

    disk_open(CREATE);
    fill(model, 64 << 10, 5);
    for (unsigned i = 0; i < 128; i++)
        slots[i] = disk_submit(DT_OP_WRITE, 0, i, 1, model + (size_t)i * 512);
    for (unsigned i = 0; i < 128; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    assert_in_range(disk_counter("compress", "packed"), 1, 4);
    assert_reads_as_model();
    disk_rest_and_close();
}

static void overlapping_requests(void **state)
{
    struct disk_slot *slots[200];
    struct dt_rng rng;

    disk_open(CREATE " cache=1M map-cache=8K");
    dt_rng_seed(&rng, 3);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 200; i++) {
            uint64_t n = dt_rng_below(&rng, 10), sector = dt_rng_below(&rng, SECTORS - 400);
            enum dt_op op = n < 5   ? DT_OP_WRITE
                            : n < 7 ? DT_OP_READ
                            : n < 8 ? DT_OP_DISCARD
                            : n < 9 ? DT_OP_WRITE_ZEROES
                                    : DT_OP_FLUSH;

            slots[i] = disk_submit(op, 0, op == DT_OP_FLUSH ? 0 : sector,
                                   op == DT_OP_FLUSH ? 0 : 1 + (uint32_t)dt_rng_below(&rng, 400),
                                   op == DT_OP_READ || op == DT_OP_WRITE ? data : NULL);
        }
        for (unsigned i = 0; i < 200; i++)
            assert_int_equal(disk_wait(slots[i]), 0);
    }
    disk_rest_and_close();
    assert_whole();
}

static void refuses(const char *chain, const char *why)
{
    assert_true(disk_try("%s", chain) < 0);
    assert_error_says(why);
}

static void poke(off_t offset, const void *bytes, size_t n)
{
    int fd = open(STORE, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, offset), (ssize_t)n);
    close(fd);
}

static void refuses_what_is_none(void **state)
{
    struct disk saved;
    int fd;

    refuses(CHAIN, "create=on size=... makes it");
    refuses("compress path=" STORE " create=on", "create=on needs size=");
    unlink(STORE);
    fd = open(STORE, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, 3 * MIB), 0);
    close(fd);
    refuses(CREATE, "is not a compressed store"); /* a sparse image, for one, is not overwritten */
    unlink(STORE);
    disk_open(CREATE);
    put(DT_OP_WRITE, 0, 0, 128, 1);
    saved = disk;
    refuses("compress path=" STORE " read-only=on", "in use");
    disk = saved;
    disk_rest_and_close();
    poke(20, "x", 1);
    refuses(CHAIN, "header is damaged");
}

/* As after a restart of the machine: the live map does not count. */
static void boot_again(void)
{
    struct compress_header header;
    int fd = open(STORE, O_RDONLY);

    assert_int_equal(pread(fd, &header, sizeof(header), 0), sizeof(header));
    close(fd);
    header.boot[3] ^= 1;
    compress_header_seal(&header);
    poke(0, &header, sizeof(header));
}

static void refuses_damaged_maps(void **state)
{
    struct compress_map_sector sector = {.entries[3] = {.block = 1u << 20, .length = 77}};
    struct compress_found what;

    disk_open(CREATE);
    put(DT_OP_WRITE, DT_REQ_FUA, 0, 128 * 40, 1);
    disk_rest_and_close();
    poke(COMPRESS_MAP_OFFSET + 512 + 100, "xyz", 3);
    assert_whole(); /* by the live map */
    boot_again();
    refuses(CHAIN, "units 31 to 61 is damaged");
    found(&what);
    assert_int_equal(what.problems, 1);
    compress_map_seal(&sector, 1, 0);
    poke(COMPRESS_MAP_OFFSET + 512, &sector, sizeof(sector));
    refuses(CHAIN, "unit 34 where none can be");
    sector.entries[3] = (struct compress_entry){.block = 0, .length = 77};
    compress_map_seal(&sector, 1, 0);
    poke(COMPRESS_MAP_OFFSET + 512, &sector, sizeof(sector));
    refuses(CHAIN, "unit 34 in blocks of another one");
    found(&what);
    assert_int_equal(what.problems, 2); /* nor are the bytes its */
}

/* Only what was flushed is there. */
static void loses_what_was_not_flushed(void **state)
{
    disk_open(CREATE);
    put(DT_OP_WRITE, DT_REQ_FUA, 0, 128 * 40, 1);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 5, 400, data), 0);
    disk_rest_and_close();
    boot_again();
    disk_open(CHAIN);
    assert_reads_as_model();
    disk_rest_and_close();
}

static void finds_damage(void **state)
{
    struct compress_found what;
    struct compress_layout at;

    disk_open(CREATE);
    put(DT_OP_WRITE, DT_REQ_FUA, 0, 128, 2);
    put(DT_OP_WRITE, DT_REQ_FUA, 128, 128, 2);
    disk_rest_and_close();
    compress_layout(&at, BYTES);
    poke((off_t)at.data_offset + 77, "?", 1);
    found(&what);
    assert_int_equal(what.problems, 1);
    disk_open(CHAIN);
    assert_int_equal(disk_do(DT_OP_READ, 0, 5, 3, data), -EIO);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 5, 3, data), -EIO);
    assert_int_equal(disk_counter("compress", "damaged"), 2);
    assert_int_equal(disk_do(DT_OP_READ, 0, 128, 128, data), 0);
    put(DT_OP_WRITE, 0, 0, 128, 4); /* all of it: heals */
    assert_reads_as_model();
    disk_rest_and_close();
    assert_whole();
}

static void many_read_one(void **state)
{
    disk_open(CREATE);
    put(DT_OP_WRITE, 0, 0, 2048, 2);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
    disk_open(CHAIN "read-only=on");
    assert_true(device_info(disk.dev)->read_only);
    assert_reads_as_model();
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, model), -EROFS);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_rest_and_close();
}

/* What was never flushed is the next writer's to settle. */
static void unsettled_is_not_shared(void **state)
{
    disk_open(CREATE);
    put(DT_OP_WRITE, 0, 0, 2048, 2);
    disk_rest_and_close();
    refuses(CHAIN "read-only=on", "was killed before a flush");
    disk_open(CHAIN);
    disk_rest_and_close();
    disk_open(CHAIN "read-only=on");
    assert_reads_as_model();
    disk_rest_and_close();
}

/* For a layer above that is being opened: before the fence, and changing nothing. */
static void is_read_early(void **state)
{
    struct loop_config config = {.engine = LOOP_AUTO};
    struct device_config device = {.name = "early", .threads = 1};
    struct chain_spec spec;
    struct device *early;
    struct loop *loop;

    disk_open(CREATE);
    put(DT_OP_WRITE, 0, 0, 128, 3);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    put(DT_OP_WRITE, 0, 100, 300, 2); /* in the live map alone, and still served */
    assert_int_equal(loop_new(&loop, &config, &disk.err), 0);
    assert_int_equal(chain_parse(&spec, CHAIN, &disk.err), 0);
    device.chain = &spec;
    device.loops = &loop;
    assert_int_equal(device_new(&early, &device, &disk.err), 0);
    assert_int_equal(device_read_early(early, 3, 1000, data, &disk.err), 0);
    assert_memory_equal(data, model + 3 * 512, 1000 * 512);
    device_free(early);
    loop_free(loop);
    chain_spec_free(&spec);
    put(DT_OP_WRITE, 0, 90, 20, 5);
    assert_reads_as_model();
    disk_rest_and_close();
}

static void level_is_live(void **state)
{
    uint64_t fast;

    disk_open(CREATE " level=1");
    put(DT_OP_WRITE, 0, 0, 128, 2);
    fast = disk_counter("compress", "packed-bytes");
    disk_set("compress", "level", "19");
    put(DT_OP_WRITE, 0, 128, 128, 2);
    assert_true(disk_counter("compress", "packed-bytes") - fast < fast);
    assert_int_equal(disk_verb("compress", "space", 0, NULL), 0);
    disk_rest_and_close();
}

/* ---- A full file system ---- */

static void small_file_system(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        (mkdir("small.tmp", 0700) < 0 && errno != EEXIST) ||
        mount("none", "small.tmp", "tmpfs", 0, "size=4m") < 0)
        skip();
}

static void make_ballast(size_t mib)
{
    int fd = open("small.tmp/ballast", O_RDWR | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, (off_t)(mib * MIB)), 0);
    close(fd);
}

#define HELD 20u /* units that do not compress, where there is space for 16 */

static void turn_until_held(void)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);

    while (disk_counter("compress", "held") == 0 && dt_clock_ns() < deadline)
        loop_turn(disk.loop, false);
    assert_true(disk_counter("compress", "held") > 0);
}

static void open_full(const char *more)
{
    small_file_system();
    make_ballast(2);
    disk_open("compress path=small.tmp/store create=on size=4206080%s", more);
    fill(model, HELD << 16, 3);
}

static void write_until_held(struct disk_slot *slots[HELD])
{
    for (unsigned i = 0; i < HELD; i++)
        slots[i] = disk_submit(DT_OP_WRITE, 0, i * 128, 128, model + ((size_t)i << 16));
    turn_until_held();
}

static void holds_when_full(void **state)
{
    struct disk_slot *slots[HELD];

    open_full("");
    write_until_held(slots);
    assert_int_equal(disk_do(DT_OP_READ, 0, 4096, 64, data), 0); /* is not stuck behind them */
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(unlink("small.tmp/ballast"), 0);
    for (unsigned i = 0; i < HELD; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    assert_reads_as_model();
    disk_rest_and_close();
}

static void discards_make_space(void **state)
{
    struct disk_slot *held;

    small_file_system();
    disk_open("compress path=small.tmp/store create=on size=4206080");
    for (unsigned i = 0; i < 40; i++)
        put(DT_OP_WRITE, 0, i * 128, 128, 3 * i);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    fill(model + 5120 * 512, 2048 * 512, 300);
    held = disk_submit(DT_OP_WRITE, 0, 5120, 2048, model + 5120 * 512);
    turn_until_held();
    put(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 0, 3000, 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_wait(held), 0);
    assert_reads_as_model();
    disk_rest_and_close();
}

static void fails_when_told_to(void **state)
{
    int failed = 0;

    open_full(" on-full=fail");
    for (unsigned i = 0; i < HELD; i++)
        failed += disk_do(DT_OP_WRITE, 0, i * 128, 128, model + ((size_t)i << 16)) == -ENOSPC;
    assert_in_range(failed, 1, HELD - 1);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 64, data), 0);
    disk_rest_and_close();
}

/* A stop cannot wait for space: what is held is not served. */
static void rests_when_full(void **state)
{
    struct disk_slot *slots[HELD];
    unsigned canceled = 0;

    open_full("");
    write_until_held(slots);
    assert_int_equal(disk_quiesce(DT_S(1)), 0);
    for (unsigned i = 0; i < HELD; i++)
        canceled += slots[i]->error == -ECANCELED;
    assert_in_range(canceled, 1, HELD - 1);
    disk_rest_and_close();
}

#define test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(reads_what_was_written),
        test(evicts),
        test(takes_less),
        test(gives_back),
        test(packs_together),
        test(overlapping_requests),
        test(refuses_what_is_none),
        test(refuses_damaged_maps),
        test(loses_what_was_not_flushed),
        test(finds_damage),
        test(many_read_one),
        test(unsettled_is_not_shared),
        test(level_is_live),
        test(is_read_early),
        test(holds_when_full),
        test(discards_make_space),
        test(fails_when_told_to),
        test(rests_when_full),
    };

    if (disk_module(&blk_compress) < 0)
        return 1;
    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
