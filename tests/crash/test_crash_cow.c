/* SPDX-License-Identifier: MIT */
/*
 * test_crash_cow.c - crash states of an overlay: with a base that is full of content, so that
 * a granule that is the overlay's too early or too late shows; on top of another overlay; and with a base that
 * ends within a granule.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <fcntl.h>

#define SECTORS 389u /* the last granule is not whole */
#define BASE_ID 7u

static void make_base(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/base", dir);
    _cleanup_free_ uint8_t *data = xaligned(4096, SECTORS * 512);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT, 0600);

    crash_fill(data, 0, SECTORS, BASE_ID);
    assert_int_equal(pwrite(fd, data, SECTORS * 512, 0), SECTORS * 512);
}

static void make_overlay(const char *dir)
{
    make_base(dir);
    disk_open("cow overlay=%s/overlay create=on base-id=b | file path=%s/base read-only=on", dir,
              dir);
    disk_close();
}

/* The lower one has content of its own in every third granule: the same, so that the model holds. */
static void make_two(const char *dir)
{
    uint8_t data[4096];

    make_overlay(dir);
    disk_open("cow overlay=%s/overlay | file path=%s/base read-only=on", dir, dir);
    for (unsigned s = 0; s + 8 <= SECTORS; s += 24) {
        struct disk_slot *slot;

        crash_fill(data, s, 8, BASE_ID);
        slot = disk_submit(DT_OP_WRITE, DT_REQ_FUA, s, 8, data);
        while (slot->busy)
            if (!crash_pump())
                loop_turn(disk.loop, false);
        assert_int_equal(slot->error, 0);
    }
    disk_close();
    disk_open("cow overlay=%s/top create=on base-id=o | cow overlay=%s/overlay read-only=on | "
              "file path=%s/base read-only=on",
              dir, dir, dir);
    disk_close();
}

#define SETUP .sectors = SECTORS, .block = 1, .initial = BASE_ID, .ops = 80, .depth = 8

static void survives(void **state)
{
    static const char *const files[] = {"overlay", "base", NULL};
    static const struct crash_setup setup = {
        .name = "cow",
        .chain = "cow overlay=@/overlay | file path=@/base read-only=on",
        .files = files,
        .prepare = make_overlay,
        SETUP};

    crash_test(&setup, 500);
}

static void survives_on_another(void **state)
{
    static const char *const files[] = {"top", "overlay", "base", NULL};
    static const struct crash_setup setup = {
        .name = "cow on cow",
        .chain = "cow overlay=@/top | cow overlay=@/overlay read-only=on | "
                 "file path=@/base read-only=on",
        .files = files,
        .prepare = make_two,
        SETUP};

    crash_test(&setup, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives),
        cmocka_unit_test(survives_on_another),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
