/* SPDX-License-Identifier: MIT */
/*
 * destage.c - dirty blocks go to the disk below, in the background.
 *
 * Only what the map on the medium names is destaged: then a guest's flush never waits for the disk
 * below, as what it flushed stays in the map until that disk has flushed it, too. The steps:
 * blocks that follow each other are read from the file and written below in one request; when
 * enough are, or nothing is left, the disk below is flushed; then a pass of commit.c takes their
 * entries out of the map, and the slots may be used for others. A block that is written meanwhile
 * stays dirty.
 */
#include "blk/cache/internal.h"

#define DONE_MAX 8192u
#define RETRY_NS DT_S(1)
#define BUSY_NS  DT_MS(5)

/* ---- Choosing ------------------------------------------------------------------------------- */

static bool may_go(const struct cache *k, uint32_t slot)
{
    return slot_dirty(k, slot) && k->users[slot] == 0 &&
           (k->flags[slot] & (SLOT_KEPT | SLOT_LEAVING | SLOT_DESTAGE)) == SLOT_KEPT;
}

static bool block_may_go(const struct cache *k, uint64_t block)
{
    uint32_t slot = index_find(k, block);

    return slot != SLOT_NONE && may_go(k, slot);
}

/* From the cursor on; SLOT_NONE when there is none, and *unkept whether a pass would make some. */
static uint32_t choose(struct cache *k, bool *unkept)
{
    struct destage *d = &k->destage;

    for (uint64_t n = 0; n < k->pages; n++, d->cursor = (d->cursor + 1) % k->pages) {
        uint64_t slot = d->cursor * CACHE_PAGE_SLOTS;
        uint64_t end = MIN(slot + CACHE_PAGE_SLOTS, k->slots);

        for (; k->page_dirty[d->cursor] && slot < end; slot++) {
            if (may_go(k, (uint32_t)slot))
                return (uint32_t)slot;
            *unkept |= slot_dirty(k, (uint32_t)slot) && !(k->flags[slot] & SLOT_KEPT);
        }
    }
    return SLOT_NONE;
}

/* ---- One stretch ---------------------------------------------------------------------------- */

static void arm(struct cache *k, uint64_t when)
{
    dt_timer_set(k->c, &k->destage.timer, when);
}

static void written(struct job *job)
{
    struct cache *k = job->k;
    struct destage *d = &k->destage;
    unsigned n = 0;

    for (uint32_t i = 0; i < job->blocks; i++) {
        uint32_t slot = job->slots[i];
        bool again = k->flags[slot] & SLOT_AGAIN;

        k->flags[slot] &= (uint8_t) ~(SLOT_DESTAGE | SLOT_AGAIN);
        if (job->error || again)
            continue;
        index_clean(k, slot);
        d->done[d->ndone++] = slot;
        n++;
    }
    dt_count(k->c, DESTAGED, n);
    if (job->error && !d->failed)
        dt_layer_event(k->layer, "destage-failed",
                       "dirty blocks cannot be written below: %s; they stay, and it is tried again",
                       strerror(-job->error));
    d->failed = job->error != 0;
    if (d->failed)
        d->not_before = dt_clock_ns() + RETRY_NS;
    d->running--;
    job_unpin(job);
    job_free(job);
    destage_kick(k);
}

static void gathered(struct job *job)
{
    struct cache *k = job->k;

    job_go(job, written);
    if (!job->error)
        job_below(job, DT_OP_WRITE, job->first << k->shift, job->blocks << k->shift);
    job_done(job, 0);
}

static void begin(struct cache *k, struct job *job, uint32_t slot)
{
    uint64_t first = cache_entry_block(k->index[slot]), end = first + 1;
    uint32_t most = BUFFER >> (k->shift + DT_SECTOR_SHIFT);
    uint64_t bytes;

    while (first > 0 && end - first < most && block_may_go(k, first - 1))
        first--;
    while (end - first < most && block_may_go(k, end))
        end++;
    job->first = first;
    job->blocks = (uint32_t)(end - first);
    job_find(job);
    for (uint32_t i = 0; i < job->blocks; i++) {
        k->flags[job->slots[i]] = (uint8_t)((k->flags[job->slots[i]] | SLOT_DESTAGE) & ~SLOT_AGAIN);
        job->want[i] = 1;
    }
    job_pin(job);
    bytes = (uint64_t)job->blocks << (k->shift + DT_SECTOR_SHIFT);
    if (k->destage_rate)
        k->destage.not_before =
            MAX(k->destage.not_before, dt_clock_ns()) + bytes * DT_S(1) / k->destage_rate;
    k->destage.running++;
    job_go(job, gathered);
    job_io_buffer(job, job->want, false, false);
    job_done(job, 0);
}

/* ---- The disk below is flushed -------------------------------------------------------------- */

static void flushed(struct cache *k, int error)
{
    struct destage *d = &k->destage;

    for (unsigned i = 0; i < d->nflushing; i++) {
        uint32_t slot = d->done[i];

        if (slot_dirty(k, slot) || !(k->flags[slot] & SLOT_KEPT))
            continue;
        if (error) { /* what was written may be lost: once more */
            index_dirty(k, slot);
            continue;
        }
        k->flags[slot] |= SLOT_SAFE;
        k->page_touched[slot / CACHE_PAGE_SLOTS] = true;
    }
    d->ndone -= d->nflushing;
    memmove(d->done, d->done + d->nflushing, d->ndone * sizeof(*d->done));
    d->nflushing = 0;
    d->flushing = false;
    if (error)
        d->not_before = dt_clock_ns() + RETRY_NS;
    else
        commit_want(k);
}

static void below_flushed(struct dt_ctx *c, struct dt_req *sub)
{
    struct cache *k = dt_sub_arg(sub);
    int error = sub->error;

    dt_sub_free(c, sub);
    flushed(k, error);
    destage_kick(k);
}

static void flush(struct cache *k)
{
    struct destage *d = &k->destage;
    struct dt_req *sub;

    d->nflushing = d->ndone;
    if (!dt_layer_info(k->layer)->can_flush) {
        flushed(k, 0); /* what it has completed is durable */
        return;
    }
    sub = dt_sub_new(k->c, DT_OP_FLUSH, 0, 0, NULL, 0, below_flushed, k);
    CHECK(sub); /* one is always left for it */
    d->flushing = true;
    dt_sub_submit(k->c, sub);
}

/* ---- When ----------------------------------------------------------------------------------- */

static uint64_t leave_alone(const struct cache *k)
{
    return k->destage.drain || k->mode == CACHE_WRITETHROUGH ? 0 : k->keep;
}

static void start_some(struct cache *k)
{
    struct destage *d = &k->destage;
    uint32_t most = BUFFER >> (k->shift + DT_SECTOR_SHIFT);

    while (k->dirty > leave_alone(k) && d->running < DESTAGERS &&
           d->ndone + (d->running + 1) * most <= DONE_MAX) {
        uint64_t now = dt_clock_ns();
        bool unkept = false;
        struct job *job;
        uint32_t slot;

        if (now < d->not_before) {
            arm(k, d->not_before);
            return;
        }
        slot = choose(k, &unkept);
        if (slot == SLOT_NONE) {
            if (unkept && !k->commit.active)
                commit_want(k);
            else if (!d->running && !k->commit.active && !d->ndone)
                arm(k, now + BUSY_NS); /* all are in use just now */
            return;
        }
        job = job_take(k, NULL);
        if (!job) {
            arm(k, now + BUSY_NS);
            return;
        }
        begin(k, job, slot);
    }
}

static void account(struct cache *k)
{
    struct destage *d = &k->destage;
    bool active = d->running || d->flushing || d->timer.heap_index || k->commit.active;

    if (active == d->active)
        return;
    d->active = active;
    if (active)
        dt_busy_begin(k->c);
    else
        dt_busy_end(k->c);
}

void destage_kick(struct cache *k)
{
    struct destage *d = &k->destage;

    if (!k->kicking) {
        k->kicking = true; /* commit_want() may come back here at once */
        if (!d->resting && !k->failed)
            start_some(k);
        if (!d->resting && d->ndone && !d->flushing && !k->failed &&
            (!d->running || d->ndone > DONE_MAX / 2))
            flush(k);
        if (k->dirty == 0)
            d->drain = false;
        k->kicking = false;
    }
    account(k);
}

static void timer_fired(struct dt_timer *timer)
{
    destage_kick(container_of(timer, struct cache, destage.timer));
}

void destage_rest(struct cache *k)
{
    k->destage.resting = true;
    dt_timer_cancel(k->c, &k->destage.timer);
    account(k);
}

void destage_init(struct cache *k)
{
    k->destage = (struct destage){.timer.fire = timer_fired};
    k->destage.done = xcalloc(DONE_MAX, sizeof(*k->destage.done));
}

void destage_fini(struct cache *k)
{
    CHECK(!k->destage.running && !k->destage.flushing);
    dt_timer_cancel(k->c, &k->destage.timer);
    k->commit.unsure = k->destage.ndone > 0;
    free(k->destage.done);
}
