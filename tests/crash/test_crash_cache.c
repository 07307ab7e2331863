/* SPDX-License-Identifier: MIT */
/*
 * test_crash_cache.c - crash states of the extension cache, in both modes, with a file so small that
 * blocks are evicted and destaged all the time.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <fcntl.h>

static const char *const files[] = {"disk", "cache", NULL};

/* The disk, and a cache that was opened and closed once. */
static void make_files(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/disk", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1024 * 512), 0);
    close(fd);
    disk_open("cache path=%s/cache size=4M id=crash | file path=%s/disk cache=writeback", dir, dir);
    disk_rest_and_close();
}

static struct crash_setup setup(const char *name, const char *chain)
{
    return (struct crash_setup){.name = name,
                                .chain = chain,
                                .files = files,
                                .sectors = 1024,
                                .block = 1,
                                .prepare = make_files,
                                .ops = 120,
                                .depth = 6};
}

static void writeback_survives(void **state)
{
    struct crash_setup s =
        setup("writeback", "cache path=@/cache id=crash mode=writeback keep-dirty=0 "
                           "sequential=0 | file path=@/disk cache=writeback");

    crash_test(&s, 400);
}

static void lazy_writeback_survives(void **state)
{
    struct crash_setup s =
        setup("lazy", "cache path=@/cache id=crash mode=writeback keep-dirty=90% "
                      "| file path=@/disk cache=writeback");

    crash_test(&s, 300);
}

static void writethrough_survives(void **state)
{
    struct crash_setup s = setup("writethrough", "cache path=@/cache id=crash sequential=0 | "
                                                 "file path=@/disk cache=writeback");

    crash_test(&s, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writeback_survives),
        cmocka_unit_test(lazy_writeback_survives),
        cmocka_unit_test(writethrough_survives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
