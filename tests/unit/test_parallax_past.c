/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_past.c - histories: each state that a disk went through is there, as long as it is
 * kept, and no longer.
 *
 * After each request the model remembers what all blocks hold, under the number of the last write.
 * Then any of these states is mounted and compared, with snapshots taken and deleted, crashes and
 * roots on the way.
 */
#include "px_use.h"

#include "parallax/receive.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define POOL_BLOCKS 6000u
#define BLOCKS      600u /* three leaves */
#define STATES      600u

struct state {
    uint64_t number, time;
    uint8_t block[BLOCKS]; /* what each byte of it is */
};

/** struct taken - a snapshot that was. */
struct taken {
    uint32_t slot;
    uint8_t block[BLOCKS];
};

struct past {
    struct rig_store *store;
    struct pool *pool;
    struct disk *disk;
    struct state *states;
    struct taken taken[STATES];
    unsigned n, taken_n;
    uint8_t now[BLOCKS];
    uint64_t clock;
    bool branches; /* it is rolled back and received now and then */
    unsigned full;
    struct dt_rng rng;
};

static uint64_t the_time(void *arg)
{
    return ((struct past *)arg)->clock;
}

static void said(void *arg, uint32_t slot, const char *event, const char *text)
{
    if (strcmp(event, "full") == 0)
        ((struct past *)arg)->full++;
    else if (strcmp(event, "resumed"))
        fail_msg("%s: %s", event, text);
}

static uint32_t slot(struct past *p)
{
    struct dt_error err;
    uint32_t found = pool_find(p->pool, "d", &err);

    assert_int_not_equal(found, NO_SLOT);
    return found;
}

static void reopen(struct past *p, bool crash)
{
    struct pool_options o = {.event = said, .clock = the_time, .arg = p, .cache = 64 * 4200};
    struct dt_error err = {""};

    if (p->disk)
        disk_close(p->disk);
    if (p->pool && crash) {
        pool_turn(p->pool);
        p->store->pending_n = 0;
        pool_abandon(p->pool);
    } else if (p->pool) {
        while (!pool_idle(p->pool)) {
            rig_turn(p->store);
            pool_turn(p->pool);
        }
        assert_int_equal(pool_close(p->pool, &err), 0);
    }
    if (pool_open(&p->pool, &p->store->s, &o, &err) < 0)
        fail_msg("%s", err.text);
}

static void begin(struct past *p, uint64_t blocks, uint64_t seed)
{
    struct pool_create_options create = {0};
    struct dt_error err;

    *p = (struct past){.store = rig_store_new(blocks, seed), .clock = DT_S(1000000)};
    dt_rng_seed(&p->rng, seed);
    p->states = xcalloc(STATES, sizeof(*p->states));
    assert_int_equal(pool_create(&p->store->s, &create, &err), 0);
    reopen(p, false);
    assert_int_equal(pool_create_disk(p->pool, "d", (uint64_t)BLOCKS * PX_BLOCK, 512, &err), 0);
    assert_int_equal(disk_open(&p->disk, p->pool, slot(p), false, "writer", &err), 0);
}

static void end(struct past *p)
{
    disk_close(p->disk);
    p->store->pending_n = 0;
    pool_abandon(p->pool);
    rig_store_free(p->store);
    free(p->states);
}

/* ---- Requests ---- */

struct request {
    struct disk_req req;
    bool done;
};

static void done(struct disk_req *req)
{
    container_of(req, struct request, req)->done = true;
}

static void carry_out(struct past *p, struct disk *disk, enum disk_op op, unsigned first,
                      unsigned count, void *buf)
{
    struct request r = {.req = {.op = op,
                                .offset = (uint64_t)first * PX_BLOCK,
                                .length = (uint64_t)count * PX_BLOCK,
                                .buf = buf,
                                .done = done}};

    disk_submit(disk, &r.req);
    while (!r.done) {
        rig_turn(p->store);
        pool_turn(p->pool);
    }
    assert_int_equal(r.req.error, 0);
}

static void remember(struct past *p)
{
    struct state *s = &p->states[p->n++ % STATES];

    *s = (struct state){.number = pool_record(p->pool, slot(p))->writes, .time = p->clock};
    memcpy(s->block, p->now, sizeof(s->block));
}

static void change(struct past *p)
{
    unsigned first = (unsigned)dt_rng_below(&p->rng, BLOCKS), most = MIN(BLOCKS - first, 40u);
    unsigned count = 1 + (unsigned)dt_rng_below(&p->rng, most);
    enum disk_op op = dt_rng_below(&p->rng, 4) ? DISK_WRITE : DISK_ZERO;
    uint8_t value = (uint8_t)(1 + dt_rng_below(&p->rng, 255));
    _cleanup_free_ uint8_t *buf = xaligned(PX_BLOCK, (size_t)count * PX_BLOCK);

    if (dt_rng_below(&p->rng, 12) == 0) { /* whole leaves go at once */
        op = DISK_DISCARD;
        first = first / 2;
        count = BLOCKS / 2;
    }
    for (unsigned i = 0; i < count; i++) {
        /* Some of it zeroes: a request becomes several records. */
        p->now[first + i] = op != DISK_WRITE || dt_rng_below(&p->rng, 8) == 0 ? 0 : value;
        if (op == DISK_WRITE)
            memset(buf + (size_t)i * PX_BLOCK, p->now[first + i], PX_BLOCK);
    }
    p->clock += DT_S(1) / 2;
    carry_out(p, p->disk, op, first, count, op == DISK_WRITE ? buf : NULL);
    remember(p);
}

/* ---- Becoming something else at once ---- */

static uint32_t snapshot(struct past *p, const char *name)
{
    struct taken *t = &p->taken[p->taken_n++ % STATES];
    uint32_t at = slot(p);
    struct dt_error err;

    assert_int_equal(pool_snapshot(p->pool, &at, 1, name ? &name : NULL, &t->slot, &err), 0);
    memcpy(t->block, p->now, sizeof(t->block));
    return t->slot;
}

/* The latest one, for slots are used again. */
static const struct taken *taken_at(const struct past *p, uint32_t at)
{
    for (unsigned i = p->taken_n; i-- > 0;)
        if (p->taken[i % STATES].slot == at)
            return &p->taken[i % STATES];
    fail_msg("there is a snapshot that nobody took");
    return NULL;
}

static void settle(struct past *p)
{
    while (!pool_idle(p->pool)) {
        rig_turn(p->store);
        pool_turn(p->pool);
    }
}

static void mount(struct past *p)
{
    struct dt_error err;

    assert_int_equal(disk_open(&p->disk, p->pool, slot(p), false, "writer", &err), 0);
}

static void roll_back(struct past *p)
{
    uint32_t newest = pool_snapshot_before(p->pool, slot(p));
    struct dt_error err = {""};

    disk_close(p->disk);
    settle(p);
    p->clock += DT_S(1) / 2;
    if (pool_rollback(p->pool, slot(p), newest, &err) < 0)
        fail_msg("%s", err.text);
    memcpy(p->now, taken_at(p, newest)->block, sizeof(p->now));
    mount(p);
    remember(p);
}

/* An incremental stream: some blocks of it are others, and all of them are the disk's at once. */
static void receive(struct past *p)
{
    uint32_t base = snapshot(p, NULL);
    struct pool_received what = {.size = (uint64_t)BLOCKS * PX_BLOCK,
                                 .created = 1,
                                 .sector = 512,
                                 .base_name = pool_record(p->pool, base)->name};
    unsigned first = (unsigned)dt_rng_below(&p->rng, BLOCKS - 8);
    char name[32];
    uint8_t value = (uint8_t)(1 + dt_rng_below(&p->rng, 255));
    static _Alignas(4096) uint8_t buf[8 * PX_BLOCK];
    struct dt_error err = {""};
    uint64_t position;
    struct disk *d;

    snprintf(name, sizeof(name), "r%u", p->taken_n);
    what.name = name;
    memcpy(what.snapshot, &p->clock, sizeof(p->clock));
    memcpy(what.base, pool_record(p->pool, base)->uuid, sizeof(what.base));
    if (pool_receive_begin(p->pool, "d", &what, false, &position, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(disk_open(&d, p->pool, pool_find(p->pool, "d~", &err), false, "r", &err), 0);
    memset(buf, value, sizeof(buf));
    carry_out(p, d, DISK_WRITE, first, 8, buf);
    disk_close(d);
    disk_close(p->disk);
    settle(p);
    p->clock += DT_S(1) / 2;
    if (pool_receive_end(p->pool, "d", &what, &err) < 0)
        fail_msg("%s", err.text);
    memset(p->now + first, value, 8);
    p->taken[p->taken_n % STATES].slot = pool_snapshot_before(p->pool, slot(p));
    memcpy(p->taken[p->taken_n++ % STATES].block, p->now, sizeof(p->now));
    mount(p);
    remember(p);
}

/* Blocks of zeroes are not mapped, and all others are. */
static void compare_map(struct disk *view, const struct state *s)
{
    for (uint64_t at = 0, run = 0; at < BLOCKS; at += run) {
        int mapped = disk_map(view, at, BLOCKS - at, &run);

        assert_true(mapped >= 0 && run > 0 && run <= BLOCKS - at);
        for (uint64_t i = at; i < at + run; i++)
            assert_int_equal(s->block[i] != 0, mapped);
    }
}

static void compare(struct past *p, struct disk *view, const struct state *s)
{
    _cleanup_free_ uint8_t *buf = xaligned(PX_BLOCK, (size_t)50 * PX_BLOCK);

    for (unsigned first = 0; first < BLOCKS; first += 50) {
        carry_out(p, view, DISK_READ, first, 50, buf);
        for (size_t i = 0; i < (size_t)50 * PX_BLOCK; i += 512)
            if (buf[i] != s->block[first + i / PX_BLOCK])
                fail_msg("after write %llu block %zu is %u, not %u", (unsigned long long)s->number,
                         first + i / PX_BLOCK, buf[i], s->block[first + i / PX_BLOCK]);
    }
    compare_map(view, s);
}

/* By its number or by its time. */
static struct disk *look(struct past *p, const struct state *s)
{
    char name[64];
    struct dt_error err = {""};
    struct disk *view;
    uint64_t number;
    uint32_t at;

    if (dt_rng_below(&p->rng, 2))
        snprintf(name, sizeof(name), "d@{write %llu}", (unsigned long long)s->number);
    else
        snprintf(name, sizeof(name), "d@{1970-01-%02lluT%02llu:%02llu:%02llu.%03lluZ}",
                 (unsigned long long)(s->time / DT_S(86400) + 1),
                 (unsigned long long)(s->time / DT_S(3600) % 24),
                 (unsigned long long)(s->time / DT_S(60) % 60),
                 (unsigned long long)(s->time / DT_S(1) % 60),
                 (unsigned long long)(s->time % DT_S(1) / 1000000));
    if (pool_moment(p->pool, name, &at, &number, &err) < 0 ||
        disk_open_at(&view, p->pool, at, number, "looker", &err) < 0)
        fail_msg("%s: %s", name, err.text);
    assert_true(number <=
                s->number); /* a write that changes nothing is known by its number alone */
    return view;
}

static void disturb(struct past *p)
{
    unsigned what = (unsigned)dt_rng_below(&p->rng, 10);
    uint32_t at = slot(p), newest = pool_snapshot_before(p->pool, at);
    struct dt_error err = {""};

    if (what < 2) {
        snapshot(p, NULL);
    } else if (what < 4 && newest != NO_SLOT) {
        assert_int_equal(pool_delete_snapshot(p->pool, newest, &err), 0);
    } else if (what == 4) {
        pool_history_turn(p->pool);
    } else if (what == 5) {
        reopen(p, dt_rng_below(&p->rng, 2));
        assert_int_equal(disk_open(&p->disk, p->pool, slot(p), false, "another", &err), 0);
    } else if (what == 6 && pool_idle(p->pool)) {
        assert_int_equal(pool_checkpoint(p->pool, &err), 0);
    } else if (what == 7 && p->branches) {
        receive(p);
    } else if (what > 7 && p->branches && newest != NO_SLOT) {
        roll_back(p);
    }
    pool_turn(p->pool);
}

static void play(struct past *p, unsigned requests)
{
    for (unsigned i = 0; i < requests; i++) {
        change(p);
        if (dt_rng_below(&p->rng, 6) == 0)
            disturb(p);
    }
}

static void each_state_is_there(void **state)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct dt_error err;
        struct past p;

        begin(&p, 2 * POOL_BLOCKS, seed);
        play(&p, 5);
        p.branches = seed > 3;
        p.n = 0;
        assert_int_equal(pool_history(p.pool, slot(&p), 100000, 0, &err), 0);
        remember(&p);
        play(&p, 150);
        for (unsigned i = 0; i < 25; i++) {
            const struct state *s = &p.states[dt_rng_below(&p.rng, p.n)];
            struct disk *view = look(&p, s);

            compare(&p, view, s);
            change(&p); /* the disk goes on beside it */
            compare(&p, view, s);
            disk_close(view);
        }
        rig_check(p.pool);
        end(&p);
    }
}

/* The earliest of its states that was remembered. */
static void compare_oldest(struct past *p, const struct pool_past *past)
{
    struct dt_error err = {""};
    struct disk *view;
    unsigned i = 0;

    while (i < p->n && p->states[i].number < past->first)
        i++;
    assert_true(i < p->n);
    if (disk_open_at(&view, p->pool, slot(p), p->states[i].number, "x", &err) < 0)
        fail_msg("%s", err.text);
    compare(p, view, &p->states[i]);
    disk_close(view);
}

/* What is too old goes, and nothing that is not; and at the end all of it comes back. */
static void it_is_let_go(void **state)
{
    struct pool_past past;
    struct dt_error err;
    struct state seen;
    struct past p;
    struct disk *view;

    begin(&p, 2 * POOL_BLOCKS, 77);
    p.branches = true;
    assert_int_equal(pool_history(p.pool, slot(&p), 60, 0, &err), 0);
    play(&p, 390); /* 195 s */
    for (unsigned i = 0; i < 40; i++) {
        pool_history_turn(p.pool);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    }
    assert_int_equal(pool_past_usage(p.pool, slot(&p), &past, &err), 0);
    assert_true(past.begin + DT_S(60) <= p.clock && past.begin + DT_S(80) > p.clock);
    compare_oldest(&p, &past);
    for (unsigned i = 0; i < p.n; i++) {
        const struct state *s = &p.states[i];

        if (s->time + DT_S(60) >= p.clock && dt_rng_below(&p.rng, 4) == 0) {
            view = look(&p, s);
            compare(&p, view, s);
            disk_close(view);
        } else if (s->number < past.first) {
            assert_int_equal(disk_open_at(&view, p.pool, slot(&p), s->number, "x", &err), -ENOENT);
        }
    }
    /* Somebody looks: then it stays, however old it gets. */
    seen = p.states[p.n - 1];
    view = look(&p, &seen);
    play(&p, 9);
    p.clock += DT_S(1000);
    for (unsigned i = 0; i < 9; i++)
        pool_history_turn(p.pool);
    assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    compare(&p, view, &seen);
    assert_int_equal(pool_history(p.pool, slot(&p), 0, 0, &err), -EBUSY);
    disk_close(view);
    assert_int_equal(pool_history(p.pool, slot(&p), 0, 0, &err), 0);
    assert_int_equal(disk_open_at(&view, p.pool, slot(&p), p.states[p.n - 1].number, "x", &err),
                     -ENOENT);
    while (pool_snapshot_before(p.pool, slot(&p)) != NO_SLOT)
        assert_int_equal(pool_delete_snapshot(p.pool, pool_snapshot_before(p.pool, slot(&p)), &err),
                         0);
    assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    {
        uint64_t mapped = 0;
        struct pool_info info;

        for (unsigned i = 0; i < BLOCKS; i++)
            mapped += p.now[i] != 0;
        assert_int_equal(pool_record(p.pool, slot(&p))->charged, mapped);
        pool_info(p.pool, &info);
        assert_int_equal(info.dying, 0);
        assert_int_equal(pool_past_usage(p.pool, slot(&p), &past, &err), 0);
        assert_int_equal(past.held + past.maps, 0);
    }
    rig_check(p.pool);
    end(&p);
}

static unsigned count_kind(const struct past *p, enum px_kind kind, uint32_t flags)
{
    unsigned n = 0;

    for (uint32_t s = 0; s < pool_slots(p->pool); s++) {
        const struct px_record *r = pool_record(p->pool, s);

        n += r && r->kind == kind && (r->flags & flags) == flags;
    }
    return n;
}

/* One block gets this value, and a hidden snapshot may follow. */
static void write_one(struct past *p, unsigned at, uint8_t value, bool anchor)
{
    static _Alignas(4096) uint8_t block[PX_BLOCK];

    memset(block, value, sizeof(block));
    p->now[at] = value;
    p->clock += DT_S(1);
    carry_out(p, p->disk, DISK_WRITE, at, 1, block);
    remember(p);
    if (anchor) {
        p->clock += DT_S(10001);
        pool_history_turn(p->pool);
    }
}

static int note_write(void *arg, const struct pool_write *w)
{
    uint64_t *seen = arg; /* how many, then the number of the last */

    seen[0]++;
    seen[1] = w->number;
    assert_true(strcmp(w->owner, "cvd rollback") || w->index + w->count == BLOCKS);
    return 0;
}

static void compare_all(struct past *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        struct disk *view = look(p, &p->states[i]);

        compare(p, view, &p->states[i]);
        disk_close(view);
    }
}

/* Hidden snapshots lie between the disk and what it returns to: they become branches, which have branches. */
static void rollbacks_are_moments(void **state)
{
    uint64_t seen[2] = {0}, rolled;
    struct dt_error err;
    struct disk *view;
    struct state was;
    struct past p;

    begin(&p, 2 * POOL_BLOCKS, 91);
    write_one(&p, 1, 1, false);
    snapshot(&p, "early");
    p.n = 0;
    assert_int_equal(pool_history(p.pool, slot(&p), 80000, 0, &err), 0);
    remember(&p);
    write_one(&p, 2, 2, true);
    snapshot(&p, "late");
    for (unsigned i = 3; i < 8; i++)
        write_one(&p, i % 3 + 1, (uint8_t)i, i % 2);
    was = p.states[p.n - 2];
    view = look(&p, &was);
    roll_back(&p);
    rolled = p.states[p.n - 1].number;
    assert_int_equal(count_kind(&p, PX_SNAPSHOT, PX_BRANCH), 1);
    compare(&p, view, &was); /* who looks at it goes on */
    disk_close(view);
    rig_check(p.pool);
    assert_int_equal(pool_past_writes(p.pool, slot(&p), 3, 4, note_write, seen, &err), 0);
    assert_int_equal(seen[1], rolled);
    seen[1] = 0;
    assert_int_equal(pool_past_writes(p.pool, slot(&p), 100, 101, note_write, seen, &err), 0);
    assert_int_equal(seen[1], 0); /* it was not changed by that */
    assert_int_equal(pool_past_writes(p.pool, slot(&p), 0, UINT64_MAX, note_write, seen, &err), 0);
    assert_true(seen[1] == rolled);

    reopen(&p, true);
    assert_int_equal(pool_root(p.pool)->version, PX_ROOT_BRANCH); /* others refuse it */
    mount(&p);
    write_one(&p, 9, 9, true);
    roll_back(&p);
    write_one(&p, 1, 10, true);
    assert_int_equal(pool_delete_snapshot(p.pool, pool_snapshot_before(p.pool, slot(&p)), &err), 0);
    roll_back(&p); /* to "early", so the others' fork becomes part of a branch */
    assert_int_equal(count_kind(&p, PX_SNAPSHOT, PX_BRANCH), 3);
    write_one(&p, 2, 11, false);
    compare_all(&p);
    rig_check(p.pool);
    reopen(&p, false);
    mount(&p);
    compare_all(&p);

    /* All of it goes when it is too old; then nothing but the disk and its last hidden snapshot is there. */
    assert_int_equal(pool_delete_snapshot(p.pool, pool_snapshot_before(p.pool, slot(&p)), &err), 0);
    for (unsigned i = 0; i < 12; i++) {
        write_one(&p, 2, (uint8_t)(20 + i), true);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
        rig_check(p.pool);
    }
    p.clock += DT_S(100000);
    pool_history_turn(p.pool);
    assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    assert_int_equal(count_kind(&p, PX_SNAPSHOT, 0), 1);
    rig_check(p.pool);
    end(&p);
}

/* Ended with branches of branches, or deleted with them, it gives back all. */
static void branches_go_with_it(void **state)
{
    for (unsigned round = 0; round < 4; round++) {
        struct dt_error err;
        struct past p;
        uint32_t at;

        begin(&p, 2 * POOL_BLOCKS, 95 + round);
        snapshot(&p, "s");
        assert_int_equal(pool_history(p.pool, slot(&p), 80000, 0, &err), 0);
        for (unsigned i = 0; i < 12; i++) {
            write_one(&p, i, (uint8_t)(i + 1), i % 2);
            if (i == 4)
                snapshot(&p, "t");
            if (i == 9)
                assert_int_equal(
                    pool_delete_snapshot(p.pool, pool_snapshot_before(p.pool, slot(&p)), &err), 0);
            if (i % 3 == 2)
                roll_back(&p);
        }
        assert_true(count_kind(&p, PX_SNAPSHOT, PX_BRANCH) >= 3);
        at = slot(&p);
        if (round % 2)
            assert_int_equal(pool_label(p.pool, pool_snapshot_before(p.pool, at), NULL, &err), 0);
        disk_close(p.disk);
        p.disk = NULL;
        if (round < 2)
            assert_int_equal(pool_history(p.pool, at, 0, 0, &err), 0);
        else
            assert_int_equal(pool_delete_disk(p.pool, at, &err), 0);
        for (unsigned i = 0; i < round; i++)
            pool_turn(p.pool);
        reopen(&p, round % 2);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
        rig_check(p.pool);
        assert_int_equal(count_kind(&p, PX_LOG, 0), 0);
        assert_int_equal(count_kind(&p, PX_SNAPSHOT, 0), round == 2 ? 0 : 1);
        pool_abandon(p.pool);
        rig_store_free(p.store);
        free(p.states);
    }
}

/* It holds no more than it may, however what it holds came about. */
static void it_has_a_limit(void **state)
{
    const uint64_t most = 1200;
    uint64_t full = 0;
    struct pool_past past;
    struct dt_error err;
    struct past p;

    begin(&p, 2 * POOL_BLOCKS, 55);
    p.branches = true;
    assert_int_equal(pool_history(p.pool, slot(&p), 1000000, most * PX_BLOCK, &err), 0);
    for (unsigned i = 0; i < 200; i++) {
        change(&p);
        if (dt_rng_below(&p.rng, 6) == 0)
            disturb(&p);
        while (pool_turn(p.pool))
            ;
        pool_history_turn(p.pool);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
        assert_int_equal(pool_past_usage(p.pool, slot(&p), &past, &err), 0);
        assert_true(past.counted <= most * PX_BLOCK);
        if (past.held > most + BLOCKS / 2) /* a discard is in the oldest part, or not counted yet */
            fail_msg("%llu blocks are held, of %llu; %llu are counted",
                     (unsigned long long)past.held, (unsigned long long)most,
                     (unsigned long long)past.counted / PX_BLOCK);
        full += past.counted > most / 2 * PX_BLOCK;
        compare_oldest(&p, &past);
    }
    assert_true(full > 50); /* and not nothing */
    assert_true(past.first > p.states[0].number && past.first < past.last);
    rig_check(p.pool);

    /* Set later, it counts what is there. */
    assert_int_equal(pool_history(p.pool, slot(&p), 1000000, 0, &err), 0);
    play(&p, 40);
    assert_int_equal(pool_past(p.pool, slot(&p), &past, &err), 0);
    assert_int_equal(past.counted, 0);
    assert_int_equal(pool_history(p.pool, slot(&p), 1000000, most / 4 * PX_BLOCK, &err), 0);
    while (pool_turn(p.pool))
        ;
    assert_int_equal(pool_past(p.pool, slot(&p), &past, &err), 0);
    assert_true(past.counted && past.counted <= most / 4 * PX_BLOCK);
    rig_check(p.pool);
    end(&p);
}

/* A pool that is full lets go its histories before a write waits for anybody. */
static void writes_come_first(void **state)
{
    struct pool_past past;
    struct dt_error err;
    struct past p;

    begin(&p, 2000, 5);
    assert_int_equal(pool_history(p.pool, slot(&p), 1000000, 0, &err), 0);
    for (unsigned i = 0; i < 380; i++)
        change(&p);
    assert_int_equal(p.full, 0);
    assert_int_equal(pool_past(p.pool, slot(&p), &past, &err), 0);
    assert_true(past.first > p.states[0].number);
    rig_check(p.pool);
    end(&p);
}

/* Deleted with its history, in the middle of whatever. */
static void a_disk_goes_with_it(void **state)
{
    for (uint64_t seed = 20; seed < 25; seed++) {
        struct dt_error err;
        struct past p;
        uint32_t at;

        begin(&p, 2 * POOL_BLOCKS, seed);
        p.branches = true;
        assert_int_equal(pool_history(p.pool, slot(&p), 1000, 0, &err), 0);
        play(&p, 60);
        at = slot(&p);
        disk_close(p.disk);
        assert_int_equal(pool_delete_disk(p.pool, at, &err), 0);
        for (unsigned i = 0; i < seed; i++)
            pool_turn(p.pool);
        p.disk = NULL;
        reopen(&p, true);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
        rig_check(p.pool);
        for (uint32_t s = 0; s < pool_slots(p.pool); s++)
            assert_null(pool_record(p.pool, s));
        assert_int_equal(pool_create_disk(p.pool, "d", (uint64_t)BLOCKS * PX_BLOCK, 512, &err), 0);
        assert_int_equal(disk_open(&p.disk, p.pool, slot(&p), false, "writer", &err), 0);
        end(&p);
    }
}

/* What a view points to is written by a root that is made later, and then it is not kept in memory. */
static void views_outlive_roots(void **state)
{
    static _Alignas(4096) uint8_t block[PX_BLOCK], was[PX_BLOCK];
    struct disk *big, *view;
    struct dt_error err;
    uint64_t number;
    struct past p;

    begin(&p, 2 * POOL_BLOCKS, 30);
    assert_int_equal(pool_history(p.pool, slot(&p), 1000, 0, &err), 0);
    memset(block, 7, sizeof(block));
    carry_out(&p, p.disk, DISK_WRITE, 300, 1, block);
    number = pool_record(p.pool, slot(&p))->writes;
    carry_out(&p, p.disk, DISK_DISCARD, 256, 256, NULL); /* all that its leaf has */
    assert_int_equal(disk_open_at(&view, p.pool, slot(&p), number, "reader", &err), 0);

    assert_int_equal(
        pool_create_disk(p.pool, "big", (uint64_t)1000 * PX_FANOUT * PX_BLOCK, 512, &err), 0);
    assert_int_equal(disk_open(&big, p.pool, pool_find(p.pool, "big", &err), false, "writer", &err),
                     0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned leaf = 0; leaf < 300; leaf++) /* more than are kept in memory */
            carry_out(&p, big, DISK_WRITE, (300 * round + leaf) * PX_FANOUT, 1, block);
        assert_int_equal(pool_checkpoint(p.pool, &err), 0);
    }
    carry_out(&p, view, DISK_READ, 300, 1, was);
    assert_memory_equal(was, block, PX_BLOCK);
    disk_close(view);
    disk_close(big);
    end(&p);
}

static void moments(void **state)
{
    static const char *const bad[] = {"d@{}",
                                      "d@{write}",
                                      "d@{write -1}",
                                      "d@{-5}",
                                      "d@{yesterday}",
                                      "d@{2026-13-40T00:00:00}",
                                      "d@{write 1",
                                      "d@{1969-01-01T00:00:00}",
                                      "d@{2999-01-01T00:00:00}",
                                      "d@{-99999999999999999999s}"};
    struct dt_error err;
    uint64_t number;
    struct past p;
    uint32_t at;

    begin(&p, POOL_BLOCKS, 3);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), -ENOENT);
    assert_non_null(strstr(err.text, "has no history"));
    assert_int_equal(pool_history(p.pool, slot(&p), 1000, 0, &err), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(pool_moment(p.pool, bad[i], &at, &number, &err), -EINVAL);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), -ENOENT);
    assert_int_equal(pool_moment(p.pool, "none@{-5min}", &at, &number, &err), -ENOENT);
    change(&p);
    change(&p);
    p.clock += DT_S(300);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), 0);
    assert_int_equal(number, p.states[1].number);
    assert_int_equal(pool_moment(p.pool, "d", &at, &number, &err), 0);
    assert_int_equal(number, PRESENT);
    end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_state_is_there),   cmocka_unit_test(it_is_let_go),
        cmocka_unit_test(writes_come_first),     cmocka_unit_test(a_disk_goes_with_it),
        cmocka_unit_test(views_outlive_roots),   cmocka_unit_test(moments),
        cmocka_unit_test(rollbacks_are_moments), cmocka_unit_test(branches_go_with_it),
        cmocka_unit_test(it_has_a_limit),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
