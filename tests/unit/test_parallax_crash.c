/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_crash.c - pools brought to what crashes leave.
 *
 * An episode is some hundred random operations whose every write and flush is kept. Then the pool
 * is brought to what a crash at any of these points may leave: the process killed, or the power
 * failing, with any subset of what was not flushed, and of some of it only some sectors. It must
 * open, its check must find nothing, and what it holds must be one of the states that the model
 * went through: none before the last flush, and when the process was killed, none before the last
 * completed request. Some recoveries are crashed, too. Every other pool shares blocks, half of them are nearly full, others grow, and in
 * a third a flush fails in the end, after which nothing is promised that was not before. Every third is killed and
 * opened a few times meanwhile, and used before the root that ends its recovery is there; so are some that are judged. The clock
 * goes on by chance as well, slowly or fast, so an episode can be had again by its seed alone.
 *
 * PARALLAX_CRASHES sets how many states are tried: 5,000 otherwise, 100,000 before a release.
 */
#include "px_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define BLOCKS  512u
#define MOST    (BLOCKS + 160u) /* that it grows to */
#define JOURNAL PX_JOURNAL_MIN
#define STEPS   60u
#define STATES  100u  /* of each episode */
#define ENOUGH  5000u /* of all, for chance to have tried everything */
#define KILLS   20u   /* steps between them */

/* What is counted of states: @wrapped, @failed: where the journal had wrapped, or a flush had failed. @wraps: episodes with any of the
 * first. @resized to @full: as in struct rig_counts. */
struct crash {
    struct rig *rig;
    struct rig_store *into;
    uint8_t *base, *before;
    struct dt_rng rng;
    uint64_t at, least, most, blocks;
    enum rig_crash kind;
    const char *what;
    uint64_t seed; /* of the episode: PARALLAX_SEED begins there */
    uint64_t replayed, deep, merged, shared, pins_checked, pasts, branches, again;
    uint64_t wrapped, wraps, failed, resized, grown, refused, wide, full;
};

static struct {
    struct dt_rng rng;
    uint64_t now, step;
} clock_ = {.now = DT_S(1000)};

uint64_t __wrap_dt_clock_ns(void);
uint64_t __wrap_dt_clock_ns(void)
{
    return clock_.now += dt_rng_below(&clock_.rng, clock_.step + 1);
}

static void set_clock(uint64_t seed)
{
    static const uint64_t steps[] = {0, 100, DT_US(100), DT_MS(1), DT_MS(10), DT_MS(30)};

    dt_rng_seed(&clock_.rng, seed);
    clock_.step = steps[seed % ARRAY_SIZE(steps)];
}

static void refuse(const struct crash *c, const char *why)
{
    fail_msg("seed %llu: %s, %s at %llu of %llu: %s", (unsigned long long)c->seed, c->what,
             c->kind == RIG_KILL ? "killed" : "power failure", (unsigned long long)c->at,
             (unsigned long long)c->rig->store->log_n, why);
}

/* What is there must be among the states from the least to the most. If it is one from outside, the message tells which. */
static void look_up(const struct crash *c, uint64_t hash, const char *error)
{
    uint64_t most = MIN(c->most, c->rig->states), other = 0;
    char why[200];

    for (uint64_t i = c->least - 1; i < most; i++)
        if (rig_held(c->rig, i, hash))
            return;
    for (uint64_t i = 0; i < c->rig->states; i++)
        if (rig_held(c->rig, i, hash))
            other = i + 1;
    snprintf(why, sizeof(why), "the disks hold %s: state %llu of %llu, not one of %llu to %llu",
             !other             ? "what they never held"
             : other < c->least ? "what was there before, and something is lost"
                                : "what came later",
             (unsigned long long)other, (unsigned long long)c->rig->states,
             (unsigned long long)c->least, (unsigned long long)most);
    refuse(c, *error ? error : why);
}

/* What histories tell is there, too. */
static void look_back(struct crash *c, struct pool *pool)
{
    struct dt_error err = {""};
    int read;

    for (uint32_t slot = 0; slot < pool_slots(pool); slot++) {
        const struct px_record *r = pool_record(pool, slot);

        c->branches += r && (r->flags & PX_BRANCH) != 0;
    }
    if (dt_rng_below(&c->rng, 4))
        return;
    read = rig_read_past(c->into, pool, &c->rng, &err);
    if (read < 0)
        refuse(c, err.text);
    c->pasts += (uint64_t)read;
    rig_check(pool);
}

static struct pool_options options(const struct crash *c)
{
    return (struct pool_options){.lazy = c->rig->lazy && c->at % 2,
                                 .cache = 64 * 4200,
                                 .data_cache = DATA_CACHE_LEAST,
                                 .slice = 4};
}

/* Opens what a crash left, and judges it. */
static void open_and_judge(struct crash *c)
{
    struct pool_options o = options(c);
    struct dt_error err = {""};
    struct pool_share told;
    struct pool_info info;
    struct pool *pool;
    uint64_t hash;

    if (pool_open(&pool, &c->into->s, &o, &err) < 0)
        refuse(c, err.text);
    pool_info(pool, &info);
    c->replayed += info.recovered;
    c->again += info.again;
    pool_share(pool, &told);
    c->shared += told.shared > 0;
    hash = rig_hash_pool(c->into, pool, &err);
    look_up(c, hash, err.text);
    rig_check(pool);
    look_back(c, pool);
    /* And it goes on from there: what was deleted comes back, and nothing else changes. */
    if (dt_rng_below(&c->rng, 4) == 0) {
        while (c->rig->shares && pool_share_now(pool, 1 << 20) > 0)
            ;
        pool_share(pool, &told);
        c->merged += told.counters.merged;
        if (pool_reclaim_all(pool, &err) < 0)
            refuse(c, err.text);
        rig_check(pool);
        if (rig_hash_pool(c->into, pool, &err) != hash)
            refuse(c, "giving back what was deleted changed what was not");
    }
    c->into->pending_n = 0;
    pool_abandon(pool);
}

/* Between the root and the crash the journal went from the end of its place to the beginning. */
static bool wrapped(const struct crash *c, uint64_t journal)
{
    uint64_t from = 0, to = 0, first = PX_JOURNAL_AT;

    for (uint64_t i = 0; i < c->at; i++) {
        const struct rig_write *w = &c->rig->store->log[i];
        const struct px_journal *block = (const void *)w->data;
        const struct px_root *root = (const void *)w->data;

        if (w->count && w->addr >= PX_ROOT_AT && w->addr < PX_ROOT_AT + 2 * PX_ROOT_SLOTS)
            from = root->journal_seq;
        else if (w->count && w->addr >= first && w->addr < first + journal)
            to = block->seq;
    }
    return from && to > from && from / journal != to / journal;
}

/* The recovery is crashed in its turn; or what is left to do of it, while it is served. */
static void crash_recovery(struct crash *c)
{
    struct pool_options o = options(c);
    struct rig_store *second = rig_store_new(c->into->s.blocks, 7);
    struct dt_error err = {""};
    struct pool *pool;

    memcpy(c->before, c->into->bytes, c->into->s.blocks * PX_BLOCK);
    c->into->logging = true;
    if (pool_open(&pool, &c->into->s, &o, &err) < 0)
        refuse(c, err.text);
    for (uint64_t i = o.lazy ? dt_rng_below(&c->rng, 60) : 0; i > 0; i--)
        if (!rig_turn(c->into))
            pool_turn(pool);
    c->into->pending_n = 0;
    pool_abandon(pool);
    c->into->logging = false;
    rig_crash(second, c->before, c->into, dt_rng_below(&c->rng, c->into->log_n + 1),
              dt_rng_below(&c->rng, 2) ? RIG_KILL : RIG_POWER, &c->rng);
    rig_log_clear(c->into);
    memcpy(c->into->bytes, second->bytes, c->into->s.blocks * PX_BLOCK);
    rig_store_free(second);
    c->deep++;
}

/* The store's size at the crash. What was added to it may be there before anything was written to it. */
static uint64_t size_then(struct crash *c)
{
    const struct rig_store *r = c->rig->store;
    uint64_t before = c->at ? r->log[c->at - 1].blocks : c->blocks;
    uint64_t after = c->at < r->log_n ? r->log[c->at].blocks : r->s.blocks;

    return dt_rng_below(&c->rng, 2) ? before : after;
}

static bool flush_failed(const struct crash *c)
{
    for (uint64_t i = 0; i < c->at; i++)
        if (c->rig->store->log[i].failed)
            return true;
    return false;
}

static void one_state(struct crash *c)
{
    struct rig *rig = c->rig;

    c->at = dt_rng_below(&c->rng, rig->store->log_n + 1);
    if (rig->store->flush_failed && dt_rng_below(&c->rng, 4) == 0)
        c->at = rig->store->log_n; /* much is lost, and people look at it then */
    c->kind = dt_rng_below(&c->rng, 4) == 0 ? RIG_KILL : RIG_POWER;
    if (flush_failed(c)) {
        c->kind = RIG_POWER;
        c->failed++;
    }
    c->wrapped += wrapped(c, JOURNAL);
    c->into->s.blocks = size_then(c);
    c->least = rig_durable_at(rig, c->at);
    if (c->kind == RIG_KILL && c->at)
        c->least = MAX(c->least, rig->store->log[c->at - 1].states);
    /* What was under way may be there, too: a few requests of some blocks. */
    c->most = (c->at < rig->store->log_n ? rig->store->log[c->at].states : rig->states) + 80;
    rig_crash(c->into, c->base, rig->store, c->at, c->kind, &c->rng);
    c->what = "recovery";
    if (dt_rng_below(&c->rng, 5) == 0) {
        c->what = "recovery after a crash of the recovery";
        crash_recovery(c);
    }
    open_and_judge(c);
}

static void add_counts(struct crash *c, const struct rig_counts *more)
{
    c->resized += more->larger + more->smaller;
    c->grown += more->grown;
    c->refused += more->refused;
    c->wide += more->wide;
    c->full += more->full;
}

static void episode(struct crash *c, uint64_t seed, uint64_t states)
{
    bool full = seed / 4 % 2, fails = seed / 8 % 3 == 1;
    uint64_t before;
    struct rig rig;

    c->seed = seed;
    dt_rng_seed(&c->rng, seed);
    dt_rng_seed(&c->into->rng, seed + 2);
    set_clock(seed + 3);
    rig_new(&rig, BLOCKS, JOURNAL, seed);
    rig.lazy = seed % 3 == 0;
    if (seed % 2)
        rig_share(&rig);
    for (unsigned i = 0; i < dt_rng_below(&c->rng, 60); i++)
        rig_step(&rig);
    if (full)
        rig_fill(&rig, 20);
    else
        rig.most = MOST;
    rig_reopen(&rig, false);
    c->rig = &rig;
    c->blocks = rig.store->s.blocks;
    memset(c->base, 0, MOST * PX_BLOCK);
    memcpy(c->base, rig.store->bytes, c->blocks * PX_BLOCK);
    rig.counts = (struct rig_counts){0};
    rig.store->logging = true;
    rig.marks_n = 0;
    rig.drops_n = 0;
    rig.hashes[0] = rig.hash;
    rig.states = rig.kept = 1;
    rig.durable = 1;
    for (unsigned i = 0; i < STEPS && !rig.store->flush_failed; i++) {
        if (full && i == STEPS / 3) /* again, after what was deleted meanwhile */
            rig_fill(&rig, 20);
        if (fails && i == STEPS / 2)
            rig.store->fail_flush = 1 + (int)dt_rng_below(&c->rng, 6);
        if (rig.lazy && i % KILLS == KILLS - 1)
            rig_reopen(&rig, true);
        rig_step(&rig);
    }
    assert_int_equal(rig.errors, 0);
    add_counts(c, &rig.counts);
    before = c->wrapped;
    for (uint64_t i = 0; i < states; i++)
        one_state(c);
    c->wraps += c->wrapped > before;
    c->pins_checked += rig.pins_checked;
    rig_free(&rig);
}

static uint64_t wanted(const char *name, uint64_t initial)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : initial;
}

/* Of what an episode need not have come to. @least: so many. */
static void happened(const char *what, uint64_t times, uint64_t least)
{
    if (times < least)
        fail_msg("%s: %llu times, and %llu are the least", what, (unsigned long long)times,
                 (unsigned long long)least);
}

/* Else the states were none worth trying. */
static void judge_chance(const struct crash *c, uint64_t n)
{
    uint64_t episodes = n / STATES;

    happened("a journal was replayed", c->replayed, n / 4);
    happened("a recovery was crashed", c->deep, n / 10);
    happened("a journal of two generations was replayed", c->again, n / 32);
    happened("blocks were shared", c->shared, n / 8);
    happened("blocks were merged", c->merged, n / 8);
    happened("a pinned root was checked", c->pins_checked, episodes / 2);
    happened("a history was read", c->pasts, n / 50);
    happened("a history had a branch", c->branches, n / 50);
    happened("the journal wrapped before a crash", c->wrapped, n / 20);
    happened("it did so in an episode", c->wraps, episodes / 4);
    happened("a flush failed before a crash", c->failed, n / 60);
    happened("a disk got another size", c->resized, episodes);
    happened("a pool grew", c->grown, episodes / 10);
    happened("a quota failed a write", c->refused, episodes / 5);
    happened("sectors of 4096 bytes were written", c->wide, episodes * 4);
    happened("a pool was full", c->full, episodes);
}

static void every_crash_leaves_a_pool(void **state)
{
    struct crash c = {.base = xaligned(PX_BLOCK, MOST * PX_BLOCK),
                      .before = xaligned(PX_BLOCK, MOST * PX_BLOCK)};
    struct rig_store *const into[] = {rig_store_new(MOST, 3), rig_store_new(MOST, 3)};
    uint64_t n = wanted("PARALLAX_CRASHES", 5000), seed = wanted("PARALLAX_SEED", 100);

    rig_limit(into[1], MOST);
    for (uint64_t done = 0; done < n; seed++, done += STATES) {
        c.into = into[seed / 2 % 2];
        episode(&c, seed, MIN(n - done, (uint64_t)STATES));
    }
    if (n >= ENOUGH)
        judge_chance(&c, n);
    rig_store_free(into[0]);
    rig_store_free(into[1]);
    free(c.base);
    free(c.before);
}

/* After a flush failed nothing is promised any more, and what was promised before is there. */
static void a_failed_flush_ends_promises(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct dt_error err;
        struct rig rig;

        rig_new(&rig, BLOCKS, JOURNAL, seed);
        for (unsigned i = 0; i < 30; i++)
            rig_step(&rig);
        while (!pool_idle(rig.pool)) {
            rig_turn(rig.store);
            pool_turn(rig.pool);
        }
        assert_int_equal(pool_sync(rig.pool, &err), 0);
        rig.store->fail_flush = 1;
        assert_int_equal(pool_sync(rig.pool, &err), -EIO);
        assert_int_equal(pool_sync(rig.pool, &err), -EIO);
        assert_int_equal(pool_checkpoint(rig.pool, &err), -EIO);
        assert_true(pool_create_disk(rig.pool, "another", 4096, 512, &err) < 0);
        rig_reopen(&rig, true);
        rig_compare(&rig);
        rig_check(rig.pool);
        rig_free(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_crash_leaves_a_pool),
        cmocka_unit_test(a_failed_flush_ends_promises),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
