/* SPDX-License-Identifier: MIT */
/*
 * test_ext_cow.c - the extension `cow` on real files: what it reads after what writes, which overlays it
 * refuses, a full file system, and overlays that are brought together with bases. What crashes
 * leave is tests/crash/'s.
 */
#include "blk/cow/offline.h"
#include "ext_disk.h"
#include "scratch.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define MIB     (1u << 20)
#define SECTORS 4099u /* two MiB and a piece of a granule */
#define BYTES   ((size_t)SECTORS * 512)
#define CHAIN   "cow overlay=cow.tmp %s | file path=cow-base.tmp read-only=on"

static uint8_t *model, *base, *data;

static int setup(void **state)
{
    struct dt_rng rng;

    disk.engine = LOOP_AUTO;
    dt_rng_seed(&rng, 1);
    model = xaligned(4096, BYTES);
    base = xaligned(4096, BYTES);
    data = xaligned(4096, BYTES + 4096);
    for (size_t i = 0; i < BYTES; i++)
        base[i] = (uint8_t)dt_rng_next(&rng);
    memcpy(model, base, BYTES);
    put_file("cow-base.tmp", base, BYTES);
    unlink("cow.tmp");
    return 0;
}

static int teardown(void **state)
{
    unlink("cow-base.tmp");
    unlink("cow.tmp");
    free(model);
    free(base);
    free(data);
    return 0;
}

static void assert_reads_as_model(void)
{
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 2048, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 2048, SECTORS - 2048, data + MIB), 0);
    assert_memory_equal(data, model, BYTES);
}

static void put(enum dt_op op, uint8_t flags, uint64_t sector, uint32_t n, unsigned misaligned,
                uint64_t seed)
{
    _cleanup_free_ uint8_t *bytes = xaligned(4096, n * 512u + 4096);
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (size_t i = 0; op == DT_OP_WRITE && i < n * 512u; i++)
        bytes[misaligned + i] = (uint8_t)dt_rng_next(&rng);
    assert_int_equal(disk_do(op, flags, sector, n, op == DT_OP_WRITE ? bytes + misaligned : NULL),
                     0);
    memcpy(model + sector * 512, bytes + misaligned, n * 512u);
}

static void random_writes(unsigned count, uint64_t seed)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (unsigned i = 0; i < count; i++) {
        uint64_t sector = dt_rng_below(&rng, SECTORS);
        uint32_t n = (uint32_t)(1 + dt_rng_below(&rng, MIN(100u, SECTORS - sector)));

        put(dt_rng_below(&rng, 4) ? DT_OP_WRITE : DT_OP_WRITE_ZEROES,
            dt_rng_below(&rng, 8) ? 0 : DT_REQ_FUA, sector, n,
            dt_rng_below(&rng, 3) ? 0 : (unsigned)dt_rng_below(&rng, 700), seed + i);
    }
}

static void reads_what_was_written(void **state)
{
    disk_open(CHAIN, "create=on");
    assert_false(device_info(disk.dev)->read_only);
    assert_reads_as_model();
    put(DT_OP_WRITE, 0, 3, 1, 0, 1);           /* a part of a granule: copied up */
    put(DT_OP_WRITE, 0, 8, 8, 0, 2);           /* a whole one */
    put(DT_OP_WRITE, 0, 21, 30, 0, 3);         /* both ends in part */
    put(DT_OP_WRITE, 0, SECTORS - 1, 1, 0, 4); /* the last, which is short */
    put(DT_OP_WRITE, 0, 22, 2, 0, 5);          /* in place */
    assert_int_equal(disk_counter("cow", "allocated"), 1 + 1 + 5 + 1);
    assert_int_equal(disk_counter("cow", "copied-up"), 1 + 2 + 1);
    put(DT_OP_WRITE_ZEROES, 0, 33, 40, 0, 0);
    assert_reads_as_model();
    assert_true(disk_counter("cow", "mixed-reads") >= 1);
    random_writes(200, 7);
    assert_reads_as_model();
    disk_close();
    disk_open(CHAIN, "");
    assert_reads_as_model();
    disk_close();
    get_file("cow-base.tmp", data, BYTES);
    assert_memory_equal(data, base, BYTES);
}

static void discards_show_no_base(void **state)
{
    disk_open(CHAIN, "create=on");
    put(DT_OP_WRITE, 0, 8, 16, 0, 1);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 64, NULL), 0);
    memset(model + 8 * 512, 0, 16 * 512);
    assert_reads_as_model(); /* what is the base's stays */
    disk_close();
}

static void overlapping_first_writes(void **state)
{
    struct disk_slot *slots[8];

    disk_open(CHAIN, "create=on");
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 8; i++) { /* eight sectors of one granule at once */
            uint64_t sector = round * 8 + i;

            memset(model + sector * 512, (int)(round + i + 1), 512);
            slots[i] = disk_submit(DT_OP_WRITE, 0, sector, 1, model + sector * 512);
        }
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(disk_wait(slots[i]), 0);
    }
    assert_int_equal(disk_counter("cow", "allocated"), 20);
    assert_reads_as_model();
    disk_close();
}

static void overlays_stack(void **state)
{
    disk_open(CHAIN, "create=on");
    random_writes(50, 1);
    disk_close();
    unlink("cow-top.tmp");
    disk_open("cow overlay=cow-top.tmp create=on | cow overlay=cow.tmp read-only=on | "
              "file path=cow-base.tmp read-only=on");
    assert_reads_as_model();
    random_writes(50, 2);
    assert_reads_as_model();
    disk_close();
    unlink("cow-top.tmp");
}

static void others_are_refused(void **state)
{
    static const struct {
        const char *chain;
        int error;
        const char *says;
    } cases[] = {
        {"cow overlay=missing.tmp | file path=cow-base.tmp read-only=on", -ENOENT,
         "missing.tmp does not exist (create=on makes it)"},
        {"cow overlay=cow.tmp | file path=cow-base.tmp", -EINVAL, "the base could be written to"},
        {"cow overlay=cow.tmp base-id=green | file path=cow-base.tmp read-only=on", -EINVAL,
         "cow.tmp is for the base 'blue', not 'green'"},
        {"cow overlay=cow.tmp | readonly | mem size=4M", -EINVAL, "it has changed, or is another"},
        {"cow overlay=cow-base.tmp | file path=cow-base.tmp read-only=on lock=off", -EINVAL,
         "is not an overlay of devtap's"},
        {"cow overlay=/dev/null | file path=cow-base.tmp read-only=on", -EINVAL,
         "not a regular file"},
        {"cow overlay=cow.tmp create=on read-only=on | file path=cow-base.tmp read-only=on",
         -EINVAL, "exclude each other"},
    };
    struct cow_header header;

    disk_open(CHAIN, "create=on base-id=blue");
    disk_close();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(disk_try("%s", cases[i].chain), cases[i].error);
        assert_error_says(cases[i].says);
    }
    disk_open(CHAIN, "base-id=blue");
    disk_close();
    get_file("cow.tmp", &header, sizeof(header));
    header.size ^= 512;
    int fd = open("cow.tmp", O_RDWR);

    assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
    assert_int_equal(disk_try(CHAIN, ""), -EBADMSG);
    assert_error_says("the header is damaged");
    header.size ^= 512;
    assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
    assert_int_equal(pwrite(fd, "x", 1, COW_MAP_OFFSET), 1);
    assert_int_equal(disk_try(CHAIN, ""), -EBADMSG);
    assert_error_says("the map of granules 0 to 4031 is damaged");
    assert_int_equal(ftruncate(fd, MIB), 0);
    assert_int_equal(disk_try(CHAIN, ""), -EBADMSG);
    assert_error_says("was cut");
    close(fd);
}

/* Its content is what tells it, where nobody gave it a name. */
static void another_base_is_noticed(void **state)
{
    struct cow_file file;
    struct dt_error err;

    put_file("cow-new.tmp", base, BYTES);
    disk_open(CHAIN, "create=on");
    random_writes(5, 6);
    disk_close();
    disk_open("cow overlay=cow.tmp | file path=cow-new.tmp read-only=on"); /* a copy */
    assert_reads_as_model();
    disk_close();
    memcpy(data, base, BYTES);
    data[BYTES - 1] ^= 1;
    put_file("cow-new.tmp", data, BYTES);
    assert_int_equal(disk_try("cow overlay=cow.tmp | file path=cow-new.tmp read-only=on"), -EINVAL);
    assert_error_says("cow.tmp is for another base, or this one has changed");
    assert_int_equal(
        disk_try("cow overlay=cow.tmp read-only=on | file path=cow-new.tmp read-only=on"), -EINVAL);
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    assert_int_equal(cow_file_reset(&file, &err), 0);
    cow_file_close(&file);
    disk_open(
        "cow overlay=cow.tmp | file path=cow-new.tmp read-only=on"); /* holds nothing: any will do */
    disk_close();
    assert_int_equal(disk_try(CHAIN, ""), -EINVAL); /* and now this one alone */
    unlink("cow-new.tmp");
}

static void one_at_a_time(void **state)
{
    struct cow_file file;
    struct disk first;
    struct dt_error err;

    disk_open(CHAIN, "create=on");
    first = disk;
    assert_int_equal(
        disk_try_named("other", "cow overlay=cow.tmp | file path=cow-base.tmp read-only=on"),
        -EBUSY);
    err = disk.err;
    disk = first;
    assert_non_null(strstr(err.text, "cow.tmp is in use"));
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), -EBUSY);
    disk_close();
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    cow_file_close(&file);
}

/* ---- Without a VM ---- */

static void is_committed_and_reset(void **state)
{
    struct cow_file file;
    struct dt_error err;

    disk_open(CHAIN, "create=on");
    random_writes(100, 3);
    disk_close(); /* and no flush: the live map alone knows */
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    assert_true(cow_file_count(&file) > 100);
    assert_int_equal(cow_file_commit(&file, "cow-base.tmp", &err), 0);
    get_file("cow-base.tmp", data, BYTES);
    assert_memory_equal(data, model, BYTES);
    assert_int_equal(cow_file_reset(&file, &err), 0);
    assert_int_equal(cow_file_count(&file), 0);
    cow_file_close(&file);
    disk_open(CHAIN, "");
    assert_reads_as_model();
    disk_close();
}

static void is_rebased(void **state)
{
    struct cow_file file;
    struct dt_error err;
    uint64_t copied;

    disk_open(CHAIN, "create=on base-id=old");
    random_writes(20, 4);
    disk_close();
    memcpy(data, base, BYTES);
    memset(data + 5 * 4096 + 17, 0x55, 3 * 4096);
    memset(data + BYTES - 7, 0x55, 7);
    put_file("cow-new.tmp", data, BYTES);
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    assert_int_equal(cow_file_rebase(&file, "cow-base.tmp", "cow-new.tmp", "new", &copied, &err),
                     0);
    assert_true(copied >= 1 && copied <= 5);
    cow_file_close(&file);
    disk_open("cow overlay=cow.tmp base-id=new | file path=cow-new.tmp read-only=on");
    assert_reads_as_model();
    disk_close();
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    assert_int_equal(cow_file_rebase(&file, "cow-new.tmp", "cow-base.tmp", NULL, &copied, &err), 0);
    cow_file_close(&file);
    disk_open(CHAIN, "");
    assert_reads_as_model();
    disk_close();
    assert_int_equal(disk_try("cow overlay=cow.tmp | file path=cow-new.tmp read-only=on"), -EINVAL);
    put_file("cow-new.tmp", data, MIB);
    assert_int_equal(cow_file_open(&file, "cow.tmp", true, NULL, &err), 0);
    assert_int_equal(cow_file_rebase(&file, "cow-base.tmp", "cow-new.tmp", "new", &copied, &err),
                     -EINVAL);
    cow_file_close(&file);
    unlink("cow-new.tmp");
}

/* ---- No space ---- */

static void writes_wait_for_space(void **state)
{
    struct disk_slot *slots[16];
    unsigned held = 0;

    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        skip();
    mkdir("cow-tiny.tmp", 0700);
    if (mount("tmpfs", "cow-tiny.tmp", "tmpfs", 0, "size=1M") < 0)
        skip();
    disk_open("cow overlay=cow-tiny.tmp/o create=on | file path=cow-base.tmp read-only=on");
    for (unsigned i = 0; i < 16; i++) {
        memset(model + i * 65536, (int)i + 1, 65536);
        slots[i] = disk_submit(DT_OP_WRITE, 0, i * 128, 128, model + i * 65536);
    }
    for (uint64_t end = dt_clock_ns() + DT_S(60);
         !disk_counter("cow", "held") && dt_clock_ns() < end;)
        loop_turn(disk.loop, false);
    for (unsigned i = 0; i < 16; i++)
        held += slots[i]->busy;
    assert_true(held > 0);
    assert_int_equal(mount("tmpfs", "cow-tiny.tmp", "tmpfs", MS_REMOUNT, "size=8M"), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(disk_wait(slots[i]), 0);
    assert_reads_as_model();
    disk_close();
    umount("cow-tiny.tmp");
    rmdir("cow-tiny.tmp");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_what_was_written), TEST(discards_show_no_base),   TEST(overlapping_first_writes),
        TEST(overlays_stack),         TEST(another_base_is_noticed), TEST(others_are_refused),
        TEST(one_at_a_time),          TEST(is_committed_and_reset),  TEST(is_rebased),
        TEST(writes_wait_for_space),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
