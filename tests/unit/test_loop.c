/* SPDX-License-Identifier: MIT */
/* test_loop.c - timers, deferred work and pollers. */
#include "loop_common.h"

/* ---- timers ---- */

struct test_timer {
    struct dt_timer timer;
    struct loop *loop;
    struct test_timer *other;
    unsigned fired, rearm;
    uint64_t order;
};

static uint64_t fire_count, fire_last;

static void timer_fired(struct dt_timer *timer)
{
    struct test_timer *t = container_of(timer, struct test_timer, timer);

    assert_int_equal(timer->heap_index, 0);
    assert_true(dt_clock_ns() >= timer->deadline);
    t->fired++;
    t->order = ++fire_count;
    if (t->other)
        loop_timer_cancel(t->loop, &t->other->timer);
    if (t->rearm) {
        t->rearm--;
        loop_timer_set(t->loop, timer, timer->deadline);
    }
}

static void timer_sorted(struct dt_timer *timer)
{
    fire_count++;
    assert_true(timer->deadline >= fire_last);
    fire_last = timer->deadline;
}

static void test_timer_many(void **state)
{
    enum { N = 10000 };
    struct loop *loop = make_loop(state, 0);
    struct dt_timer *timers = xcalloc(N, sizeof(*timers));
    uint64_t start = dt_clock_ns(), cancelled = 0;
    struct dt_rng rng;

    dt_rng_seed(&rng, 7);
    fire_count = fire_last = 0;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < N; i++) {
            timers[i].fire = timer_sorted;
            loop_timer_set(loop, &timers[i], start + DT_MS(10) + dt_rng_below(&rng, DT_MS(30)));
        }
    for (int i = 0; i < N; i += 3, cancelled++)
        loop_timer_cancel(loop, &timers[i]);
    loop_timer_cancel(loop, &timers[0]);
    while (fire_count < N - cancelled)
        loop_turn(loop, true);
    assert_true(dt_clock_ns() >= fire_last);
    settle(loop);
    assert_int_equal(fire_count, N - cancelled);
    free(timers);
    loop_free(loop);
}

static void test_timer_callbacks(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_timer t[4];
    uint64_t now = dt_clock_ns();

    memset(t, 0, sizeof(t));
    fire_count = 0;
    for (int i = 0; i < 4; i++) {
        t[i].loop = loop;
        t[i].timer.fire = timer_fired;
    }
    t[0].other = &t[1]; /* due in the same turn */
    t[2].rearm = 5;
    for (int i = 0; i < 4; i++)
        loop_timer_set(loop, &t[i].timer, now);
    assert_true(loop_turn(loop, true));
    assert_int_equal(t[0].fired, 1);
    assert_int_equal(t[1].fired, 0);
    assert_int_equal(t[2].fired, 1); /* always due, but once per turn */
    assert_int_equal(t[3].fired, 1);
    assert_true(t[0].order < t[2].order && t[2].order < t[3].order);
    for (int i = 0; i < 5; i++)
        assert_true(loop_turn(loop, true));
    assert_int_equal(t[2].fired, 6);
    settle(loop);
    assert_int_equal(fire_count, 8);

    loop_timer_set(loop, &t[1].timer, 1);
    loop_timer_set(loop, &t[1].timer, dt_clock_ns() + DT_S(1000));
    settle(loop);
    assert_int_equal(t[1].fired, 0);
    loop_timer_cancel(loop, &t[1].timer);
    loop_timer_cancel(loop, &t[1].timer);
    loop_free(loop);
}

/* A timer that is always overdue must not keep another from its turn. */
static void test_timer_fair(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_timer greedy = {.timer.fire = timer_fired, .loop = loop, .rearm = 1000000};
    struct test_timer other = {.timer.fire = timer_fired, .loop = loop};

    loop_timer_set(loop, &greedy.timer, 0);
    loop_timer_set(loop, &other.timer, dt_clock_ns() + DT_MS(1));
    while (!other.fired)
        loop_turn(loop, true);
    assert_true(greedy.fired > 1 && greedy.rearm);
    loop_timer_cancel(loop, &greedy.timer);
    loop_free(loop);
}

/* ---- deferred work ---- */

struct test_deferred {
    struct loop_deferred deferred;
    struct loop *loop;
    struct loop_deferred *also;
    unsigned runs;
};

static void deferred_run(struct loop_deferred *deferred)
{
    struct test_deferred *d = container_of(deferred, struct test_deferred, deferred);

    d->runs++;
    if (d->also)
        loop_defer(d->loop, d->also);
}

static void test_defer(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_deferred d[4];

    memset(d, 0, sizeof(d));
    for (int i = 0; i < 4; i++) {
        d[i].deferred.run = deferred_run;
        d[i].loop = loop;
    }
    d[0].also = &d[1].deferred;
    loop_defer(loop, &d[0].deferred);
    loop_defer(loop, &d[0].deferred);
    loop_defer(loop, &d[2].deferred);
    loop_defer(loop, &d[3].deferred);
    loop_defer_cancel(loop, &d[3].deferred);
    loop_defer_cancel(loop, &d[3].deferred);
    loop_defer(loop, &d[3].deferred); /* the tail must be right */
    loop_defer_cancel(loop, &d[2].deferred);
    assert_true(loop_turn(loop, true));
    assert_int_equal(d[0].runs, 1);
    assert_int_equal(d[1].runs, 1); /* the same turn */
    assert_int_equal(d[2].runs, 0);
    assert_int_equal(d[3].runs, 1);
    assert_false(loop_turn(loop, false));
    /* One that defers itself holds neither the turn nor, when it stops, the loop. */
    d[0].also = &d[0].deferred;
    loop_defer(loop, &d[0].deferred);
    loop_turn(loop, true);
    assert_in_range(d[0].runs, 2, 10);
    d[0].also = NULL;
    settle(loop);
    assert_false(loop_turn(loop, false));
    loop_free(loop);
}

/* ---- pollers ---- */

struct test_poller {
    struct loop_poller poller;
    struct dt_watch watch;
    struct loop *loop;
    struct loop_poller *victim;
    unsigned work, polls, arms, refuse;
    bool wake_in_arm;
};

static unsigned poller_poll(struct loop_poller *poller)
{
    struct test_poller *p = container_of(poller, struct test_poller, poller);
    unsigned n = p->work;

    p->polls++;
    p->work = 0;
    if (p->victim)
        loop_poller_remove(p->loop, p->victim);
    return n;
}

static bool poller_arm(struct loop_poller *poller)
{
    struct test_poller *p = container_of(poller, struct test_poller, poller);

    p->arms++;
    if (p->wake_in_arm) {
        p->wake_in_arm = false;
        loop_poller_wake(p->loop, poller);
        return true;
    }
    if (p->refuse) {
        p->refuse--;
        return false;
    }
    return true;
}

static void poller_kick(struct dt_watch *watch, uint32_t events)
{
    struct test_poller *p = container_of(watch, struct test_poller, watch);
    eventfd_t value;

    eventfd_read(watch->fd, &value);
    loop_poller_wake(p->loop, &p->poller);
}

static void poller_init(struct test_poller *p, struct loop *loop)
{
    memset(p, 0, sizeof(*p));
    p->loop = loop;
    p->poller.poll = poller_poll;
    p->poller.arm = poller_arm;
    list_init(&p->poller.node);
}

static void test_poller_sleep_at_once(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_poller p;

    poller_init(&p, loop);
    loop_poller_wake(loop, &p.poller);
    loop_poller_wake(loop, &p.poller);
    p.work = 2;
    assert_true(loop_turn(loop, false));
    assert_int_equal(p.arms, 0);
    p.refuse = 2;
    for (unsigned i = 1; i <= 2; i++) {
        assert_false(loop_turn(loop, true));
        assert_int_equal(p.arms, i);
    }
    p.wake_in_arm = true; /* found something while it armed, and said so in this way */
    loop_turn(loop, true);
    assert_false(list_empty(&p.poller.node));
    loop_turn(loop, true);
    assert_int_equal(p.arms, 4);
    assert_true(list_empty(&p.poller.node));
    settle(loop);
    assert_int_equal(p.polls, 5);
    loop_poller_wake(loop, &p.poller);
    p.work = 1; /* of a driver that waits for it */
    assert_true(loop_turn(loop, false));
    assert_int_equal(p.arms, 5);
    assert_true(list_empty(&p.poller.node));
    loop_free(loop);
}

static void test_poller_spin(void **state)
{
    struct loop *loop = make_loop(state, DT_MS(2));
    struct test_poller p;
    uint64_t start;

    poller_init(&p, loop);
    p.watch = (struct dt_watch){.ready = poller_kick, .fd = make_eventfd(0), .events = EPOLLIN};
    assert_int_equal(loop_watch_add(loop, &p.watch), 0);
    for (unsigned round = 1; round < 4; round++) {
        p.work = 1;
        p.polls = 0;
        start = dt_clock_ns();
        kick(p.watch.fd);
        while (p.arms < round)
            loop_turn(loop, true);
        assert_true(dt_clock_ns() - start >= DT_MS(2));
        assert_int_equal(p.work, 0);
        assert_true(p.polls > 10);
        assert_true(list_empty(&p.poller.node));
    }
    loop_watch_remove(loop, &p.watch);
    close(p.watch.fd);
    loop_free(loop);
}

static void test_poller_remove(void **state)
{
    struct loop *loop = make_loop(state, UINT64_MAX);
    struct test_poller p[4];

    for (int i = 0; i < 4; i++) {
        poller_init(&p[i], loop);
        loop_poller_wake(loop, &p[i].poller);
    }
    p[0].victim = &p[1].poller; /* the next one */
    p[2].victim = &p[2].poller; /* itself */
    p[3].victim = &p[0].poller; /* an earlier one */
    loop_turn(loop, true);
    loop_turn(loop, true);
    assert_int_equal(p[0].polls, 1);
    assert_int_equal(p[1].polls, 0);
    assert_int_equal(p[2].polls, 1);
    assert_int_equal(p[3].polls, 2);
    loop_poller_remove(loop, &p[3].poller);
    loop_free(loop);
}

/* Two that share what a limit lets through, and one that nothing limits. */
struct sharing_poller {
    struct loop_poller poller;
    unsigned *left, found;
    int i, *turn;
};

static unsigned sharing_poll(struct loop_poller *poller)
{
    struct sharing_poller *p = container_of(poller, struct sharing_poller, poller);
    unsigned n = MIN(*p->left, 4u);

    *p->left -= n;
    p->found += n;
    if (n && p->turn)
        *p->turn = !p->i;
    return n;
}

static bool sharing_arm(struct loop_poller *poller)
{
    return true;
}

/* @grant in each of @every turns; whoever rests is woken again, in turn. How much each of the two found. */
static void share(struct loop *loop, unsigned grant, unsigned every, unsigned found[2])
{
    unsigned left = 0, enough = UINT32_MAX;
    struct sharing_poller p[3];
    int next = 0;

    for (int i = 0; i < 3; i++) {
        p[i] = (struct sharing_poller){.left = i < 2 ? &left : &enough,
                                       .i = i,
                                       .turn = i < 2 ? &next : NULL,
                                       .poller = {.poll = sharing_poll, .arm = sharing_arm}};
        list_init(&p[i].poller.node);
    }
    for (unsigned turn = 0; turn < 4800; turn++) {
        for (int i = 0; i < 3; i++)
            loop_poller_wake(loop, &p[i < 2 ? i ^ next : i].poller);
        left = turn % every ? 0 : grant;
        loop_turn(loop, false);
    }
    for (int i = 0; i < 3; i++)
        loop_poller_remove(loop, &p[i].poller);
    found[0] = p[0].found;
    found[1] = p[1].found;
}

/* The first takes all that there is: it must not be the first for good. */
static void test_poller_fair(void **state)
{
    static const uint64_t spins[] = {0, DT_US(50), UINT64_MAX};
    static const unsigned periods[] = {1, 2, 3, 16, 17, 48};
    static const unsigned grants[] = {1, 4};

    for (unsigned i = 0; i < ARRAY_SIZE(spins) * ARRAY_SIZE(periods) * ARRAY_SIZE(grants); i++) {
        struct loop *loop = make_loop(state, spins[i % 3]);
        unsigned every = periods[i / 3 % ARRAY_SIZE(periods)];
        unsigned grant = grants[i / 3 / ARRAY_SIZE(periods)], found[2], all;

        share(loop, grant, every, found);
        all = found[0] + found[1];
        if (MIN(found[0], found[1]) < all / 4)
            fail_msg("spin %lu, %u in %u turns: %u and %u", spins[i % 3], grant, every, found[0],
                     found[1]);
        loop_free(loop);
    }
}

static void test_auto(void **state)
{
    struct loop_config config = {.engine = LOOP_AUTO};
    struct loop *loop;

    assert_int_equal(loop_new(&loop, &config, NULL), 0);
    print_message("# LOOP_AUTO chose %s\n", loop_engine_name(loop));
    assert_false(loop_turn(loop, false));
    loop_free(loop);
    loop_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_timer_many),    BOTH(test_timer_callbacks),      BOTH(test_timer_fair),
        BOTH(test_defer),         BOTH(test_poller_sleep_at_once), BOTH(test_poller_spin),
        BOTH(test_poller_remove), BOTH(test_poller_fair),          cmocka_unit_test(test_auto),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
