/* SPDX-License-Identifier: MIT */
/*
 * test_crash_compress.c - crash states of the back compress. The contents of the harness compress
 * to nothing, so level and size of what is stored differ little; what matters are its blocks, which
 * are few and used again soon, and with the small caches units and sectors of the map that are
 * evicted all the time.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <sys/stat.h>

static const char *const files[] = {"store", NULL};

#define SECTORS 1024u

static void make_store(const char *dir)
{
    disk_open("compress path=%s/store create=on size=512K", dir);
    disk_rest_and_close();
}

/* Some units in use, one of which no frame can be made of. */
static void make_used(const char *dir)
{
    static uint8_t data[SECTORS * 512] __attribute__((aligned(4096)));

    make_store(dir);
    crash_fill(data, 0, SECTORS, 1);
    disk_open("compress path=%s/store", dir);
    assert_int_equal(disk_submit(DT_OP_WRITE, DT_REQ_FUA, 0, SECTORS, data)->error, 0);
    while (crash_pump() || loop_turn(disk.loop, false))
        ;
    disk_rest_and_close();
}

/* Units of 64 sectors of the map: five. They do not fit into the memory for it. */
#define MANY_SECTORS (128u * 31 * 4 + 77)

static void make_many(const char *dir)
{
    disk_open("compress path=%s/store create=on size=%u", dir, MANY_SECTORS * 512u);
    disk_rest_and_close();
}

static struct crash_setup setup(const char *name, const char *chain, void (*prepare)(const char *))
{
    return (struct crash_setup){.name = name,
                                .chain = chain,
                                .files = files,
                                .sectors = SECTORS,
                                .block = 1,
                                .prepare = prepare,
                                .ops = 120,
                                .depth = 8};
}

static void empty_survives(void **state)
{
    struct crash_setup s = setup("compress", "compress path=@/store level=1", make_store);

    crash_test(&s, 400);
}

static void used_survives(void **state)
{
    struct crash_setup s = setup("compress used", "compress path=@/store level=1", make_used);

    s.initial = 1;
    crash_test(&s, 400);
}

static void many_survive(void **state)
{
    struct crash_setup s =
        setup("compress many", "compress path=@/store level=1 cache=1M map-cache=8K", make_many);

    s.sectors = MANY_SECTORS;
    crash_test(&s, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_survives),
        cmocka_unit_test(used_survives),
        cmocka_unit_test(many_survive),
    };

    if (disk_module(&blk_compress) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
