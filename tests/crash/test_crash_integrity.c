/* SPDX-License-Identifier: MIT */
/*
 * test_crash_integrity.c - crash states of a disk with checksums: a write that was torn is neither
 * an I/O error nor lost. Regions are small, and few are open at a time, so that they come and go.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <fcntl.h>

#define SECTORS 389u /* the last block is not whole */

static void make_disk(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/disk", dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT, 0600);

    assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
    disk_open("integrity sums=%s/sums region=16K create=on | file path=%s/disk", dir, dir);
    disk_close();
}

/* With all checksums known, which a new file has not: whatever changes, shows. */
static void make_known(const char *dir)
{
    _cleanup_free_ uint8_t *zeroes = xaligned(4096, SECTORS * 512);
    struct disk_slot *slot;

    make_disk(dir);
    disk_open("integrity sums=%s/sums | file path=%s/disk", dir, dir);
    slot = disk_submit(DT_OP_WRITE, DT_REQ_FUA, 0, SECTORS, zeroes);
    while (slot->busy)
        if (!crash_pump())
            loop_turn(disk.loop, false);
    assert_int_equal(slot->error, 0);
    slot = disk_submit(DT_OP_FLUSH, 0, 0, 0, NULL);
    while (slot->busy)
        if (!crash_pump())
            loop_turn(disk.loop, false);
    while (crash_pump() || loop_turn(disk.loop, false))
        ;
    disk_close();
}

static const char *const files[] = {"disk", "sums", NULL};

static void survives(void **state)
{
    static const struct crash_setup setup = {
        .name = "integrity",
        .chain = "integrity sums=@/sums regions=4 | file path=@/disk cache=writeback",
        .files = files,
        .prepare = make_known,
        .sectors = SECTORS,
        .block = 1,
        .ops = 80,
        .depth = 8};

    crash_test(&setup, 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
