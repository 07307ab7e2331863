/* SPDX-License-Identifier: MIT */
/*
 * test_ext_integrity.c - the extension `integrity` on real files: damage is found wherever it is and
 * said where, and nothing else is called damage. What crashes leave is tests/crash/'s.
 */
#include "blk/integrity/offline.h"
#include "ext_disk.h"

#include <fcntl.h>

#define SECTORS 4099u
#define BYTES   ((size_t)SECTORS * 512)
#define CHAIN   "integrity sums=sums.tmp %s | file path=sums-disk.tmp cache=writeback"

static uint8_t *model, *data;
static char heard[512];

static void hear(const struct device_event *e)
{
    snprintf(heard, sizeof(heard), "%s: %s", e->event, e->text);
}

static int setup(void **state)
{
    int fd = open("sums-disk.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600);

    disk.engine = LOOP_AUTO;
    model = xaligned(4096, BYTES);
    data = xaligned(4096, BYTES + 4096);
    assert_int_equal(ftruncate(fd, (off_t)BYTES), 0);
    close(fd);
    unlink("sums.tmp");
    heard[0] = '\0';
    device_events(hear);
    disk_open(CHAIN, "create=on");
    return 0;
}

static int teardown(void **state)
{
    unlink("sums-disk.tmp");
    unlink("sums.tmp");
    free(model);
    free(data);
    return 0;
}

static void random_writes(unsigned count, uint64_t seed)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    for (unsigned i = 0; i < count; i++) {
        uint64_t sector = dt_rng_below(&rng, SECTORS);
        uint32_t n = (uint32_t)(1 + dt_rng_below(&rng, MIN(100u, SECTORS - sector)));
        bool zero = dt_rng_below(&rng, 5) == 0;

        for (size_t b = sector * 512; b < (sector + n) * 512; b++)
            model[b] = zero ? 0 : (uint8_t)dt_rng_next(&rng);
        assert_int_equal(disk_do(zero ? DT_OP_WRITE_ZEROES : DT_OP_WRITE,
                                 dt_rng_below(&rng, 8) ? 0 : DT_REQ_FUA, sector, n,
                                 zero ? NULL : model + sector * 512),
                         0);
    }
}

static void write_all(void)
{
    random_writes(20, 1);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 2048, model), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 2048, SECTORS - 2048, model + 2048 * 512), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
}

static void assert_reads_as_model(void)
{
    for (uint32_t at = 0, n; at < SECTORS; at += n) {
        n = MIN(SECTORS - at, 777u); /* neither end at a block's */
        assert_int_equal(disk_do(DT_OP_READ, 0, at, n, data + 1), 0);
        assert_memory_equal(data + 1, model + at * 512u, n * 512u);
    }
}

static void flip(uint64_t byte)
{
    int fd = open("sums-disk.tmp", O_RDWR);
    uint8_t value;

    assert_int_equal(pread(fd, &value, 1, (off_t)byte), 1);
    value ^= 1;
    assert_int_equal(pwrite(fd, &value, 1, (off_t)byte), 1);
    close(fd);
}

static void good_data_are_good(void **state)
{
    random_writes(200, 5);
    assert_reads_as_model();
    write_all();
    assert_reads_as_model();
    assert_int_equal(disk_counter("integrity", "damaged"), 0);
    assert_int_equal(disk_counter("integrity", "taken"), 0);
    disk_rest_and_close();
    disk_open(CHAIN, "");
    assert_reads_as_model();
    assert_int_equal(disk_counter("integrity", "unknown"), 0);
    assert_true(disk_counter("integrity", "verified") >= SECTORS / 8);
    disk_rest_and_close();
}

static void damage_is_found(void **state)
{
    write_all();
    disk_rest_and_close();
    flip(5 * 4096 + 700);
    flip(BYTES - 1);
    disk_open(CHAIN, "");
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 40, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 40, 8, data), -EIO);
    assert_non_null(strstr(heard, "damaged: the block at byte 20480 of the disk (sector 40)"));
    /* Its other sectors cannot be told from it. */
    assert_int_equal(disk_do(DT_OP_READ, 0, 47, 1, data), -EIO);
    assert_int_equal(disk_do(DT_OP_READ, 0, 48, 1, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, SECTORS - 3, 1, data), -EIO);
    /* A write of a part does not make it look well; of all of it does. */
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 41, 1, model), -EIO);
    assert_int_equal(disk_do(DT_OP_READ, 0, 40, 8, data), -EIO);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 40, 8, model + 40 * 512), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 40, 8, data), 0);
    assert_memory_equal(data, model + 40 * 512, 4096);
    disk_rest_and_close();
}

/* Sectors of one block, written and read at once: never a false alarm. */
static void neighbours_are_no_damage(void **state)
{
    struct disk_slot *writes[4], *reads[4];

    write_all();
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < 4; i++) {
            memset(model + i * 512, (int)(round + i), 512);
            writes[i] = disk_submit(DT_OP_WRITE, 0, i, 1, model + i * 512);
            reads[i] = disk_submit(DT_OP_READ, 0, 4 + i, 1, data + i * 512);
        }
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(disk_wait(writes[i]), 0);
            assert_int_equal(disk_wait(reads[i]), 0);
        }
        assert_memory_equal(data, model + 4 * 512, 4 * 512);
    }
    assert_int_equal(disk_counter("integrity", "damaged"), 0);
    disk_rest_and_close();
}

static void spend_until(const char *what)
{
    for (uint64_t end = dt_clock_ns() + DT_S(60); !strstr(heard, what) && dt_clock_ns() < end;)
        loop_turn(disk.loop, true);
    if (!strstr(heard, what))
        fail_msg("no event '%s', but: %s", what, heard);
}

static void scrub_finds_and_learns(void **state)
{
    const char *start[] = {"start"}, *wrong[] = {"now"};

    random_writes(1, 9);
    assert_int_equal(disk_verb("integrity", "scrub", 1, wrong), -EINVAL);
    disk_set("integrity", "scrub-rate", "1G");
    assert_int_equal(disk_verb("integrity", "scrub", 1, start), 0);
    assert_int_equal(disk_verb("integrity", "scrub", 1, start), -EALREADY);
    spend_until("scrubbed: the whole disk was read: 0 blocks damaged");
    assert_true(disk_counter("integrity", "scrubbed") >= BYTES);
    assert_reads_as_model();
    assert_int_equal(disk_counter("integrity", "unknown"), 0);
    flip(77 * 4096);
    heard[0] = '\0';
    assert_int_equal(disk_verb("integrity", "scrub", 1, start), 0);
    spend_until("scrubbed: the whole disk was read: 1 blocks damaged");
    assert_int_equal(disk_counter("integrity", "damaged"), 1);
    disk_rest_and_close();
}

static void discarded_is_unknown(void **state)
{
    write_all();
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 16, 32, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 16, 32, data), 0);
    assert_int_equal(disk_counter("integrity", "unknown"), 4);
    disk_rest_and_close();
}

static unsigned damage_seen;

static void count_damage(uint64_t byte)
{
    damage_seen++;
    assert_int_equal(byte, 9 * 4096);
}

static void is_compared_without_a_vm(void **state)
{
    struct integrity_found found = {.damaged = count_damage};
    struct integrity_file file;
    struct dt_error err;

    write_all();
    assert_int_equal(integrity_file_open(&file, "sums.tmp", &err), -EBUSY);
    disk_rest_and_close();
    flip(9 * 4096 + 1);
    assert_int_equal(integrity_file_open(&file, "sums.tmp", &err), 0);
    assert_int_equal(integrity_file_open_regions(&file), 0);
    assert_int_equal(integrity_file_check(&file, "sums-disk.tmp", &found, &err), 0);
    assert_int_equal(damage_seen, 1);
    assert_int_equal(found.damage, 1);
    assert_int_equal(found.fit, (BYTES + 4095) / 4096 - 1);
    integrity_file_close(&file);
}

static void others_are_refused(void **state)
{
    static const struct {
        const char *chain;
        int error;
        const char *says;
    } cases[] = {
        {"integrity sums=missing.tmp | mem size=1M", -ENOENT,
         "does not exist (create=on makes it)"},
        {"integrity sums=sums.tmp | mem size=1M", -EINVAL, "it has changed, or is another"},
        {"integrity sums=sums-disk.tmp | mem size=1M", -EINVAL, "has no checksums of devtap's"},
        {"integrity sums=new-sums.tmp create=on region=48K | mem size=1M", -EINVAL,
         "region is a power of two"},
    };

    disk_rest_and_close();
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(disk_try("%s", cases[i].chain), cases[i].error);
        assert_error_says(cases[i].says);
    }
    unlink("new-sums.tmp");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(good_data_are_good),     TEST(damage_is_found),      TEST(neighbours_are_no_damage),
        TEST(scrub_finds_and_learns), TEST(discarded_is_unknown), TEST(is_compared_without_a_vm),
        TEST(others_are_refused),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
