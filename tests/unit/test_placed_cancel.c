/* SPDX-License-Identifier: MIT */
/*
 * test_placed_cancel.c - a deadline passes while an extension in a process has the request: it is
 * cancelled over there, or here while it waits for a process.
 */
#include "ext_disk.h"

#include "blk/channel/placed.h"

static uint8_t data[8 * DT_SECTOR_SIZE];

static int setup(void **state)
{
    disk.deadline = DT_MS(100);
    return 0;
}

static void wait_all(unsigned n)
{
    uint64_t end = dt_clock_ns() + DT_S(30);

    while (disk.completed < n && dt_clock_ns() < end)
        loop_turn(disk.loop, true);
    assert_int_equal(disk.completed, n);
}

/* More at once than there may be unread messages that nothing answers. */
static void test_in_the_process(void **state)
{
    struct disk_slot *slots[200];
    unsigned restarts;
    pid_t pid;

    disk_open("delay time=1h ops=write place=process mem-limit=0 | mem size=1M");
    pid = placed_pid(device_layer(disk.dev, 1), &restarts);
    for (unsigned i = 0; i < ARRAY_SIZE(slots); i++)
        slots[i] = disk_submit(DT_OP_WRITE, 0, 8 * i, 8, data);
    wait_all(ARRAY_SIZE(slots));
    for (unsigned i = 0; i < ARRAY_SIZE(slots); i++)
        assert_int_equal(slots[i]->error, -ECANCELED);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, data), 0);
    assert_int_equal(placed_pid(device_layer(disk.dev, 1), &restarts), pid);
    assert_int_equal(restarts, 0);
    disk_close();
}

/* Nobody will serve them: the extension was given up, and the policy is to hold. */
static void test_without_a_process(void **state)
{
    struct disk_slot *first, *second;
    pid_t pid;

    disk_open(
        "delay time=1h ops=write place=process tries=1 on-crash=hold mem-limit=0 | mem size=1M");
    pid = placed_pid(device_layer(disk.dev, 1), NULL);
    assert_true(pid > 0);
    kill(pid, SIGKILL);
    while (placed_pid(device_layer(disk.dev, 1), NULL) == pid)
        loop_turn(disk.loop, true);
    first = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    second = disk_submit(DT_OP_READ, 0, 8, 8, data);
    assert_int_equal(disk_wait(second), -ECANCELED);
    assert_int_equal(disk_wait(first), -ECANCELED);
    disk_close();
}

/* It passed all of it on: what is below is not the extension's to cancel, and comes back. */
static void test_below(void **state)
{
    disk.deadline = DT_MS(20);
    disk_open(
        "throttle iops=1M place=process mem-limit=0 | delay time=200ms ops=read | mem size=1M");
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, data), -ECANCELED); /* by `delay`, here */
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    disk_close();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_in_the_process, setup),
        cmocka_unit_test_setup(test_without_a_process, setup),
        cmocka_unit_test_setup(test_below, setup),
    };

    blk_register_builtin();
    placed_init(NULL);
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    return cmocka_run_group_tests_name("placed_cancel", tests, NULL, NULL);
}
