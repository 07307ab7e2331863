/* SPDX-License-Identifier: MIT */
/* test_ext_simple.c - null, mem, readonly, throttle, error and delay, each in a chain. */
#include "blk/delay/heap.h"
#include "ext_disk.h"

#include <sys/mman.h>

static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t back[64 << 10] __attribute__((aligned(4096)));

static void null_is_done_at_once(void **state)
{
    disk_open("null size=1M");
    memset(back, 0x77, 4096);
    for (enum dt_op op = 0; op < DT_OP_COUNT; op++) {
        bool has_data = op == DT_OP_READ || op == DT_OP_WRITE;
        const struct disk_slot *s =
            disk_submit(op, 0, 0, op == DT_OP_FLUSH ? 0 : 8, has_data ? back : NULL);

        assert_false(s->busy); /* without a turn of the loop */
        assert_int_equal(s->error, 0);
    }
    assert_true(all_bytes(back, 4096, 0x77));
    assert_int_equal(device_info(disk.dev)->sectors, 2048);
    disk_close();
    assert_true(disk_try("null size=1000") < 0);
    assert_error_says("not a multiple of 512");
}

static void mem_keeps_and_forgets(void **state)
{
    disk_open("mem size=1M");
    assert_int_equal(disk_do(DT_OP_READ, 0, 2040, 8, back), 0);
    assert_true(all_bytes(back, 4096, 0));
    memset(data, 0x5a, sizeof(data));
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 3, 64, data), 0);
    /* From the middle of a page, over whole ones, into the middle of another. */
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 6, 40, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 128, back), 0);
    assert_true(all_bytes(back, 3 * 512, 0));
    assert_true(all_bytes(back + 3 * 512, 3 * 512, 0x5a));
    assert_true(all_bytes(back + 6 * 512, 40 * 512, 0));
    assert_true(all_bytes(back + 46 * 512, 21 * 512, 0x5a));
    assert_true(all_bytes(back + 67 * 512, 61 * 512, 0));
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 2048, NULL), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 128, back), 0);
    assert_true(all_bytes(back, sizeof(back), 0));
    disk_close();
}

static void readonly_refuses(void **state)
{
    disk_open("readonly | mem size=1M");
    assert_true(device_info(disk.dev)->read_only);
    assert_false(device_info(disk.dev)->can_discard);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), -EROFS);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EROFS);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 0, 8, NULL), -EROFS);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    disk_close();
}

/* ---- throttle -------------------------------------------------------------------------------- */

/* A front that always has work: what is admitted is submitted. Returns the requests in @time. */
static uint64_t saturate(uint64_t time, uint32_t sectors)
{
    uint64_t end = dt_clock_ns() + time, n = 0;

    while (dt_clock_ns() < end) {
        for (unsigned may = lane_admit(device_lane(disk.dev, 0), 32); may; may--, n++)
            assert_int_equal(disk_submit(DT_OP_READ, 0, 0, sectors, back)->error, 0);
        loop_turn(disk.loop, false);
    }
    return n;
}

/* Never more than the limit; how much less is for the machine to say, which may be busy. */
static void assert_limited(uint64_t got, uint64_t limit, uint64_t slack)
{
    assert_in_range(got, limit / 8, limit + slack);
}

static void throttle_limits(void **state)
{
    disk_open("throttle iops=5000 | null size=1M");
    assert_limited(saturate(DT_MS(200), 8), 1001, 25);
    assert_true(disk_counter("throttle", "stops") > 10);
    assert_true(disk_counter("throttle", "throttled-ns") > DT_MS(10));
    /* Live: what was asked for holds from now on, also for an intake that is closed. */
    disk_set("throttle", "iops", "1");
    saturate(DT_MS(10), 8);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 32), 0);
    disk.woken = 0;
    disk_set("throttle", "iops", "0");
    for (unsigned i = 0; i < 1000 && !disk.woken; i++)
        loop_turn(disk.loop, false);
    assert_true(disk.woken > 0);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 32), 32);
    disk_set("throttle", "bps", "10M");
    assert_limited(saturate(DT_MS(200), 128) * (64 << 10), 2 << 20, 256 << 10);
    disk_close();
}

static void throttle_wakes(void **state)
{
    disk_open("throttle iops=100 | null size=1M");
    saturate(DT_MS(20), 1);
    disk.woken = 0;
    while (!disk.woken)
        loop_turn(disk.loop, true); /* asleep until its timer: were there none, for ever */
    disk_close();
}

static void flushes_are_not_limited(void **state)
{
    disk_open("throttle iops=1 | null size=1M");
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(lane_admit(device_lane(disk.dev, 0), 1), 1);
    disk_close();
}

/* ---- error ---- */

static void errors_hit_what_they_should(void **state)
{
    disk_open("error ops=write start=100 sectors=10 errno=ENOSPC | mem size=1M");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 92, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 93, 8, data), -ENOSPC);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 109, 8, data), -ENOSPC);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 110, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 100, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_counter("error", "failed"), 2);
    disk_set("error", "after", "2");
    disk_set("error", "times", "3");
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(disk_do(DT_OP_WRITE, 0, 100, 1, data), i < 2 || i >= 5 ? 0 : -ENOSPC);
    assert_int_equal(disk_verb("error", "reset", 0, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 100, 1, data), 0);
    disk_close();
}

static void draw(char *sequence, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sequence[i] = disk_do(DT_OP_READ, 0, i % 2048, 1, back) ? 'x' : '.';
    sequence[n] = '\0';
}

static void errors_are_reproducible(void **state)
{
    char dir[] = "ext-state-XXXXXX", once[101], again[101];

    disk_open("error probability=30%% seed=7 | null size=1M");
    draw(once, 100);
    assert_non_null(strchr(once, 'x'));
    assert_non_null(strchr(once, '.'));
    disk_close();
    /* The same in two lives of the device, with the state carried over. */
    disk.state_dir = mkdtemp(dir);
    disk_open("error probability=30%% seed=7 | null size=1M");
    draw(again, 40);
    disk_close();
    disk_open("error probability=30%% seed=7 | null size=1M");
    draw(again + 40, 60);
    assert_string_equal(again, once);
    disk_close();
    /* Another seed begins anew. */
    disk_open("error probability=30%% seed=8 | null size=1M");
    draw(again, 100);
    assert_string_not_equal(again, once);
    disk_close();
    disk.state_dir = NULL;
    _cleanup_free_ char *remove = xasprintf("rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

/* A start that refuses a damaged state must not replace it by a fresh one on its way out. */
static void damaged_state_stays(void **state)
{
    char dir[] = "ext-state-XXXXXX";

    disk.state_dir = mkdtemp(dir);
    disk_open("error probability=30%% seed=7 | null size=1M");
    disk_close();
    _cleanup_free_ char *damage = xasprintf("echo x >> %s/t/error/state", dir);
    assert_int_equal(system(damage), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(disk_try("error probability=30%% seed=7 | null size=1M"), -EBADMSG);
    disk.state_dir = NULL;
    _cleanup_free_ char *remove = xasprintf("rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

static void writes_are_torn(void **state)
{
    unsigned parts = 0;

    disk_open("error ops=write mode=torn | mem size=1M");
    memset(data, 0xee, sizeof(data));
    for (unsigned i = 0; i < 20; i++) {
        uint64_t at = i * 64;
        unsigned k = 0;

        struct iovec iov[3] = {{data, 100}, {data + 100, 5000}, {data + 5100, 16 * 512 - 5100}};
        assert_int_equal(disk_wait(disk_submit_iov(DT_OP_WRITE, 0, at, 16, iov, 3)), -EIO);
        disk_do(DT_OP_READ, 0, at, 16, back);
        while (k < 16 && all_bytes(back + k * 512, 512, 0xee))
            k++;
        assert_true(k < 16);
        assert_true(all_bytes(back + k * 512, (16 - k) * 512, 0));
        parts += k;
    }
    assert_true(parts > 0);
    assert_int_equal(disk_counter("error", "torn"), 20);
    disk_close();
}

static void changes_are_lost(void **state)
{
    disk_open("error mode=lost times=3 | mem size=1M");
    memset(data, 0x11, 4096);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    assert_true(all_bytes(back, 4096, 0));
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, 0, 0, 8, NULL), 0);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    assert_true(all_bytes(back, 4096, 0x11));
    assert_int_equal(disk_counter("error", "lost"), 3);
    disk_close();
}

/* ---- delay ---- */

static void the_heap_sorts(void **state)
{
    struct heap_node nodes[1000], *root = NULL;
    struct dt_rng rng;
    uint64_t last = 0;
    unsigned n = 0;

    dt_rng_seed(&rng, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++)
        heap_push(&root, &nodes[i], 1 + dt_rng_below(&rng, 300));
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i += 3)
        heap_remove(&root, &nodes[i]);
    for (; root; n++) {
        struct heap_node *node = heap_pop(&root);

        assert_true(node->due >= last);
        assert_true((node - nodes) % 3 != 0);
        last = node->due;
    }
    assert_int_equal(n, 666);
}

static void delays_are_kept(void **state)
{
    uint64_t before = dt_clock_ns();

    disk_open("delay ops=read time=5ms | null size=1M");
    assert_false(disk_submit(DT_OP_WRITE, 0, 0, 8, data)->busy);
    const struct disk_slot *r = disk_submit(DT_OP_READ, 0, 0, 8, back);

    assert_true(r->busy);
    assert_int_equal(disk_wait(r), 0);
    assert_in_range(dt_clock_ns() - before, DT_MS(5), DT_S(60));
    disk_set("delay", "time", "0s");
    assert_false(disk_submit(DT_OP_READ, 0, 0, 8, back)->busy);
    disk_close();
}

static void delays_are_counted(void **state)
{
    static const bool waits[] = {false, false, true, true, true, false, false};

    disk_open("delay ops=read after=2 times=3 time=1h | null size=1M");
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < ARRAY_SIZE(waits); i++) {
            assert_false(disk_submit(DT_OP_WRITE, 0, 0, 8, data)->busy); /* is not counted */
            assert_int_equal(disk_submit(DT_OP_READ, 0, 0, 8, back)->busy, waits[i]);
        }
        disk_set("delay", "times", "3"); /* counting starts again */
    }
    assert_int_equal(disk_counter("delay", "delayed"), 6);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    disk_close();
}

static void earlier_ones_overtake(void **state)
{
    disk_open("delay time=1h | null size=1M");
    const struct disk_slot *slow = disk_submit(DT_OP_READ, 0, 0, 8, back);
    disk_set("delay", "time", "2ms");
    const struct disk_slot *fast = disk_submit(DT_OP_READ, 0, 0, 8, back);

    assert_int_equal(disk_wait(fast), 0);
    assert_true(slow->busy);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_false(slow->busy);
    disk_close();
}

static void quiesce_lets_all_go(void **state)
{
    disk_open("delay time=1h jitter=1h probability=1 | null size=1M");
    for (unsigned i = 0; i < 100; i++)
        assert_true(disk_submit(DT_OP_READ, 0, i, 1, back)->busy);
    assert_int_equal(disk_quiesce(DT_S(5)), 0);
    assert_int_equal(disk.completed, 100);
    assert_int_equal(disk_counter("delay", "delayed"), 100);
    disk_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_is_done_at_once),
        cmocka_unit_test(mem_keeps_and_forgets),
        cmocka_unit_test(readonly_refuses),
        cmocka_unit_test(throttle_limits),
        cmocka_unit_test(throttle_wakes),
        cmocka_unit_test(flushes_are_not_limited),
        cmocka_unit_test(errors_hit_what_they_should),
        cmocka_unit_test(errors_are_reproducible),
        cmocka_unit_test(damaged_state_stays),
        cmocka_unit_test(writes_are_torn),
        cmocka_unit_test(changes_are_lost),
        cmocka_unit_test(the_heap_sorts),
        cmocka_unit_test(delays_are_kept),
        cmocka_unit_test(delays_are_counted),
        cmocka_unit_test(earlier_ones_overtake),
        cmocka_unit_test(quiesce_lets_all_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
