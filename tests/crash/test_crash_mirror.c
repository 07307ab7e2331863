/* SPDX-License-Identifier: MIT */
/* test_crash_mirror.c - crash states of the back `mirror` over two files. */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <fcntl.h>

#define SECTORS 512u

static const char *const files[] = {"a", "b", NULL};

/* Two legs of zeroes: data, and room for the metadata that the first start makes. */
static void make_files(const char *dir)
{
    for (unsigned i = 0; files[i]; i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, files[i]);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0 && ftruncate(fd, (SECTORS + 256) * 512) == 0);
    }
}

#define CHAIN(more)                                                                               \
    "mirror leg1='file path=@/a cache=writeback' leg2='file path=@/b cache=writeback' region=4K " \
    "retry=1ms settle=1ms " more

static void survives(void **state)
{
    static const struct crash_setup setup = {.name = "mirror",
                                             .chain = CHAIN("create=clean"),
                                             .files = files,
                                             .sectors = SECTORS,
                                             .block = 1,
                                             .prepare = make_files,
                                             .ops = 80,
                                             .depth = 6};

    crash_test(&setup, 300);
}

/* The first start copies everything; states before that are made, too. */
static void survives_the_first_copy(void **state)
{
    static const struct crash_setup setup = {.name = "mirror-sync",
                                             .chain = CHAIN("create=sync"),
                                             .files = files,
                                             .sectors = SECTORS,
                                             .block = 1,
                                             .prepare = make_files,
                                             .ops = 40,
                                             .depth = 6};

    crash_test(&setup, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives),
        cmocka_unit_test(survives_the_first_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
