/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_cut.c - what a snapshot of several disks at one cut holds, while all of them are being written.
 *
 * It promises every write completed before the call and none submitted after its return; if write B was submitted after A
 * completed, B in it implies A in it; and that all of that is durable when it returns. So each write is one block with a
 * number of its own, and it is noted when it was submitted and when it was completed. One place of a disk has one
 * write under way at most: then what is found there tells which of its writes are in.
 */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS  2048u
#define DISKS   4u
#define PLACES  24u
#define WRITES  4000u
#define CUTS    5u
#define CRASHES 8u
#define ROUNDS  40u

/** struct put - a write: @submitted and @completed are moments of this test; 0: not yet. */
struct put {
    struct disk_req req;
    struct cutting *c;
    unsigned disk, place;
    uint64_t number, submitted, completed;
};

/** struct cut - @holds: the numbers that were found. @log: entries of the store's log at its return. */
struct cut {
    struct pool_waiter waiter;
    struct cutting *c;
    char name[16];
    uint64_t called, returned, log;
    uint64_t holds[DISKS][PLACES];
};

/**
 * struct cutting - a pool that is written, and what is known of it. @last: the write under way at each place.
 * @early: writes that were in a snapshot before they were completed; @late: that were under way, and not in.
 */
struct cutting {
    struct px_use u;
    struct disk *disk[DISKS];
    struct put put[WRITES];
    struct put *last[DISKS][PLACES];
    struct cut cut[CUTS];
    struct dt_rng rng;
    uint64_t puts, now, under_way;
    uint8_t *base;
};

static uint64_t early, late, present, absent;

/* ---- Writing ---- */

static void put_done(struct disk_req *req)
{
    struct put *p = container_of(req, struct put, req);

    if (req->op == DISK_WRITE) {
        assert_int_equal(req->error, 0);
        p->completed = ++p->c->now;
        p->c->last[p->disk][p->place] = NULL;
        p->c->under_way--;
    }
    free(req->buf);
    req->buf = NULL;
}

static void flush_done(struct disk_req *req)
{
    assert_int_equal(req->error, 0);
    free(req);
}

static void write_somewhere(struct cutting *c)
{
    unsigned d = (unsigned)dt_rng_below(&c->rng, DISKS),
             at = (unsigned)dt_rng_below(&c->rng, PLACES);
    struct put *p = &c->put[c->puts];

    if (c->last[d][at] || c->puts == WRITES)
        return;
    *p = (struct put){.c = c, .disk = d, .place = at, .number = ++c->puts, .submitted = ++c->now};
    p->req = (struct disk_req){.op = DISK_WRITE,
                               .fua = dt_rng_below(&c->rng, 8) == 0,
                               .offset = (uint64_t)at * PX_BLOCK,
                               .length = PX_BLOCK,
                               .buf = xaligned(PX_BLOCK, PX_BLOCK),
                               .done = put_done};
    for (unsigned i = 0; i < PX_BLOCK / 8; i++)
        ((uint64_t *)p->req.buf)[i] = p->number;
    c->last[d][at] = p;
    c->under_way++;
    disk_submit(c->disk[d], &p->req);
}

static void flush_somewhere(struct cutting *c)
{
    struct disk_req *req = xcalloc(1, sizeof(*req));

    req->op = DISK_FLUSH;
    req->done = flush_done;
    disk_submit(c->disk[dt_rng_below(&c->rng, DISKS)], req);
}

static void go_on(struct cutting *c)
{
    unsigned what = (unsigned)dt_rng_below(&c->rng, 16);

    if (what < 6)
        write_somewhere(c);
    else if (what < 12)
        rig_turn(c->u.store);
    else if (what == 12 && dt_rng_below(&c->rng, 4) == 0)
        flush_somewhere(c);
    else
        pool_turn(c->u.pool);
}

/* ---- Cutting ---- */

static void returned(struct pool_waiter *waiter, int error)
{
    struct cut *cut = container_of(waiter, struct cut, waiter);

    assert_int_equal(error, 0);
    cut->returned = ++cut->c->now;
    cut->log = cut->c->u.store->log_n;
}

/* As the pool's process does it: whoever asked hears of it when it is durable. */
static void take(struct cutting *c, unsigned number)
{
    struct cut *cut = &c->cut[number];
    const char *names[DISKS];
    uint32_t slots[DISKS];
    struct dt_error err;

    snprintf(cut->name, sizeof(cut->name), "cut%u", number);
    for (unsigned d = 0; d < DISKS; d++) {
        slots[d] = disk_slot(c->disk[d]);
        names[d] = cut->name;
    }
    cut->c = c;
    cut->called = ++c->now;
    cut->waiter.done = returned;
    assert_int_equal(pool_snapshot(c->u.pool, slots, DISKS, names, NULL, &err), 0);
    pool_when_durable(c->u.pool, &cut->waiter);
}

/* ---- Judging ---- */

static struct disk *snapshot_of(struct pool *pool, unsigned disk, const struct cut *cut)
{
    char name[2 * PX_NAME];
    struct disk *snapshot;
    struct dt_error err;
    uint32_t slot;

    snprintf(name, sizeof(name), "d%u@%s", disk, cut->name);
    slot = pool_find(pool, name, &err);
    if (slot == NO_SLOT)
        return NULL;
    assert_int_equal(disk_open(&snapshot, pool, slot, true, "judge", &err), 0);
    return snapshot;
}

/* False: there is none. */
static bool read_cut(struct px_use *u, unsigned disk, const struct cut *cut, uint64_t *holds)
{
    struct disk *snapshot = snapshot_of(u->pool, disk, cut);
    struct px_io *io;
    const uint64_t *words;

    if (!snapshot)
        return false;
    io = px_submit(snapshot, DISK_READ, 0, PLACES);
    px_run(u);
    words = io->req.buf;
    for (unsigned at = 0; at < PLACES; at++) {
        holds[at] = words[(size_t)at * PX_BLOCK / 8];
        for (unsigned i = 1; i < PX_BLOCK / 8; i++)
            assert_int_equal(words[(size_t)at * PX_BLOCK / 8 + i], holds[at]);
    }
    assert_int_equal(px_finish(io), 0);
    disk_close(snapshot);
    return true;
}

static bool is_in(const struct cut *cut, const struct put *p)
{
    return p->number <= cut->holds[p->disk][p->place];
}

static void judge(const struct cutting *c, const struct cut *cut)
{
    uint64_t latest = 0; /* when one that is in was submitted */

    for (unsigned d = 0; d < DISKS; d++)
        for (unsigned at = 0; at < PLACES; at++) {
            uint64_t number = cut->holds[d][at];

            assert_true(number <= c->puts);
            assert_true(!number ||
                        (c->put[number - 1].disk == d && c->put[number - 1].place == at));
        }
    for (uint64_t i = 0; i < c->puts; i++) {
        const struct put *p = &c->put[i];

        if (is_in(cut, p))
            latest = MAX(latest, p->submitted);
        assert_true(is_in(cut, p) || p->completed > cut->called);
        assert_true(!is_in(cut, p) || p->submitted < cut->returned);
        early += is_in(cut, p) && p->completed > cut->called;
        late += !is_in(cut, p) && p->submitted < cut->called;
    }
    for (uint64_t i = 0; i < c->puts; i++)
        assert_true(is_in(cut, &c->put[i]) || c->put[i].completed > latest);
}

/* One that had returned is there, as it was; of any other there is all of it or nothing. */
static void judge_after_crash(struct cutting *c, struct px_use *after, uint64_t at)
{
    uint64_t holds[PLACES];

    for (unsigned i = 0; i < CUTS; i++) {
        const struct cut *cut = &c->cut[i];
        unsigned n = 0;

        for (unsigned d = 0; d < DISKS; d++) {
            if (!read_cut(after, d, cut, holds))
                continue;
            assert_memory_equal(holds, cut->holds[d], sizeof(holds));
            n++;
        }
        assert_true(n == DISKS || (n == 0 && cut->log > at));
        present += n > 0;
        absent += n == 0;
    }
    rig_check(after->pool);
}

static void crash(struct cutting *c)
{
    /* Often just after one has returned. */
    const struct rig_store *store = c->u.store;
    uint64_t at = dt_rng_below(&c->rng, 2) ? c->cut[dt_rng_below(&c->rng, CUTS)].log
                                           : dt_rng_below(&c->rng, store->log_n + 1);
    struct px_use after = {.store = rig_store_new(BLOCKS, 9)};

    rig_crash(after.store, c->base, store, at, dt_rng_below(&c->rng, 3) ? RIG_POWER : RIG_KILL,
              &c->rng);
    px_reopen(&after);
    judge_after_crash(c, &after, at);
    px_end(&after);
}

/* ---- Tests ---- */

static void begin(struct cutting *c, uint64_t seed)
{
    char name[8];

    memset(c, 0, sizeof(*c));
    dt_rng_seed(&c->rng, seed);
    px_begin(&c->u, BLOCKS);
    dt_rng_seed(&c->u.store->rng, seed);
    for (unsigned d = 0; d < DISKS; d++) {
        snprintf(name, sizeof(name), "d%u", d);
        c->disk[d] = px_create(&c->u, name, PLACES);
    }
    px_run(&c->u);
    c->base = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);
    memcpy(c->base, c->u.store->bytes, BLOCKS * PX_BLOCK);
    c->u.store->logging = true;
}

static void end(struct cutting *c)
{
    for (unsigned d = 0; d < DISKS; d++)
        disk_close(c->disk[d]);
    px_end(&c->u);
    free(c->base);
}

static void a_round(struct cutting *c, uint64_t seed)
{
    begin(c, seed);
    for (unsigned i = 0; i < CUTS; i++) {
        for (uint64_t n = 50 + dt_rng_below(&c->rng, 150); n || !c->under_way; n -= n > 0)
            go_on(c);
        take(c, i);
    }
    for (unsigned n = 0; n < 100; n++)
        go_on(c);
    px_run(&c->u);
    for (unsigned i = 0; i < CUTS; i++) {
        assert_true(c->cut[i].returned > 0);
        for (unsigned d = 0; d < DISKS; d++)
            assert_true(read_cut(&c->u, d, &c->cut[i], c->cut[i].holds[d]));
        judge(c, &c->cut[i]);
    }
    for (unsigned i = 0; i < CRASHES; i++)
        crash(c);
    end(c);
}

static void snapshots_hold_what_they_promise(void **state)
{
    struct cutting *c = xcalloc(1, sizeof(*c));

    for (uint64_t seed = 1; seed <= ROUNDS; seed++)
        a_round(c, seed);
    free(c);
    /* Else they were cut where nothing was under way, and no crash came near one. */
    assert_true(early > ROUNDS && late > ROUNDS);
    assert_true(present > ROUNDS * CRASHES && absent > ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshots_hold_what_they_promise),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
