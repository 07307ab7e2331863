/* SPDX-License-Identifier: MIT */
/* test_deadline.c - late requests are told of with the layer that has them, and cancelled where
 * that can be. */
#include "ext_disk.h"

static unsigned told;
static char last[256];

static void hear(const struct device_event *e)
{
    if (strcmp(e->event, "request-late"))
        return;
    told++;
    snprintf(last, sizeof(last), "%s", e->text);
}

static int setup(void **state)
{
    disk.deadline = DT_MS(40);
    told = 0;
    last[0] = '\0';
    device_events(hear);
    return 0;
}

static uint8_t data[8 * DT_SECTOR_SIZE];

static void test_cancelled(void **state)
{
    struct disk_slot *s, *quick;

    disk_open("delay time=1h ops=write | mem size=1M");
    s = disk_submit(DT_OP_WRITE, 0, 8, 8, data);
    quick = disk_submit(DT_OP_READ, 0, 0, 8, data);
    assert_int_equal(disk_wait(quick), 0);
    assert_int_equal(disk_wait(s), -ECANCELED);
    assert_int_equal(told, 1);
    if (!strstr(last, "write of 8 sectors at 8") || !strstr(last, "cancelled, it fails"))
        fail_msg("%s", last);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, data), 0);
    disk_close();
}

/* What cannot be cancelled is told of once, and goes on. */
static enum dt_verdict keep(struct dt_ctx *c, struct dt_req *req);
static struct dt_ctx *keeper;
static struct dt_req *kept;
static bool busy;

static int keep_cancel(struct dt_ctx *c, struct dt_req *req)
{
    busy = true;
    return -EBUSY;
}

static void keep_quiesce(struct dt_ctx *c, uint64_t deadline)
{
}

static const struct dt_block_ext keep_ext = {
    DT_BLOCK_EXT_HEADER, .name = "keep",          .summary = "keeps one",
    .request = keep,     .quiesce = keep_quiesce, .cancel = keep_cancel,
};
static const struct dt_block_ext dumb_ext = {
    DT_BLOCK_EXT_HEADER, .name = "dumb",          .summary = "keeps one, too",
    .request = keep,     .quiesce = keep_quiesce,
};

static enum dt_verdict keep(struct dt_ctx *c, struct dt_req *req)
{
    keeper = c;
    kept = req;
    return DT_HELD;
}

static void go_on_for(uint64_t ns)
{
    for (uint64_t end = dt_clock_ns() + ns; dt_clock_ns() < end;)
        loop_turn(disk.loop, true);
}

static void test_told_of(void **state)
{
    static const char *const chains[][2] = {{"keep | mem size=1M", "asked to let go of it"},
                                            {"dumb | mem size=1M", "this layer cannot cancel"}};

    for (unsigned i = 0; i < ARRAY_SIZE(chains); i++) {
        struct disk_slot *s;

        told = 0;
        disk_open("%s", chains[i][0]);
        s = disk_submit(DT_OP_READ, 0, 0, 8, data);
        while (!told)
            loop_turn(disk.loop, true);
        go_on_for(DT_MS(60));
        assert_true(s->busy);
        assert_int_equal(told, 1);
        if (!strstr(last, chains[i][1]))
            fail_msg("%s", last);
        dt_forward_one(keeper, kept);
        assert_int_equal(disk_wait(s), 0);
        disk_close();
    }
    assert_true(busy);
}

static void test_none(void **state)
{
    disk.deadline = 0;
    disk_open("delay time=80ms | mem size=1M");
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, data), 0);
    assert_int_equal(told, 0);
    disk_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cancelled, setup),
        cmocka_unit_test_setup(test_told_of, setup),
        cmocka_unit_test_setup(test_none, setup),
    };

    if (disk_module(&keep_ext) < 0 || disk_module(&dumb_ext) < 0)
        return 1;
    return cmocka_run_group_tests_name("deadline", tests, NULL, NULL);
}
