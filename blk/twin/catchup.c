/* SPDX-License-Identifier: MIT */
/*
 * catchup.c - how dirty regions become clean: some are copied at a time, each under a
 * lock. A write that went by without one (request.c) spoils the copy, and the region is copied
 * again. Regions that are to be compared come after them, in the same way but one after the other.
 *
 * Zeroes are not written as data where the second chain can write zeroes, so what is sparse stays
 * sparse; what the disk calls a hole is not even read (holes.c).
 */
#include "blk/twin/twin.h"

#include <stdio.h>

#define TRIES 16u /* regions that are looked at for one without a lock */

static void run_copier(struct twin_copier *k);

/* ---- One region ------------------------------------------------------------------------------ */

void twin_spoil(struct twin *t, uint64_t sector, uint32_t sectors)
{
    for (unsigned i = 0; i < TWIN_COPIERS; i++) {
        struct twin_copier *k = &t->copiers[i];

        if (k->busy && sector < twin_region_end(t, k->region) &&
            k->region << t->shift < sector + sectors)
            k->spoiled = true;
    }
}

static void again(struct twin *t, uint64_t when)
{
    if (!t->timer.heap_index || t->timer.deadline > when)
        dt_timer_set(t->c, &t->timer, when);
}

static void leave(struct twin_copier *k)
{
    struct twin *t = k->io.t;

    k->busy = false;
    dt_range_unlock(t->c, &k->range);
    twin_run_waiting(t);
    again(t, MAX(dt_now(t->c),
                 t->next_copy)); /* never from within itself: chains may answer at once */
}

static void failed(struct twin_copier *k, const char *what, int error)
{
    struct twin *t = k->io.t;

    if (error != -ECANCELED) {
        snprintf(t->failure, sizeof(t->failure), "%u sectors at %llu cannot be %s: %s", k->now,
                 (unsigned long long)k->at, what, strerror(-error));
        dt_count(t->c, TWIN_FAILURES, 1);
        dt_layer_event(t->layer, "copy-failed", "%s; tried again", t->failure);
    }
    t->next_copy = dt_now(t->c) + TWIN_RETRY_NS;
    t->wanted = NO_REGION; /* nobody is to wait for that */
    if (k->judges)
        t->judged = MIN(t->judged, k->region);
    leave(k);
}

static void count(const struct twin_copier *k, uint64_t bytes)
{
    struct twin *t = k->io.t;

    dt_count(t->c, k->hole ? TWIN_HOLES : TWIN_COPIED, bytes);
    if (k->hole)
        return;
    t->copied += bytes;
    if (t->live)
        WRITE_ONCE(t->live->copied, t->copied);
}

/* This piece is done. */
static void go_on(struct twin_copier *k)
{
    struct twin *t = k->io.t;
    uint64_t bytes = (uint64_t)k->now << DT_SECTOR_SHIFT;

    t->failure[0] = '\0';
    if (t->rate)
        t->next_copy = MAX(t->next_copy, dt_now(t->c)) + bytes * DT_MS(1) / MAX(t->rate / 1000, 1u);
    k->at += k->now;
    if (k->at < twin_region_end(t, k->region)) {
        run_copier(k);
        return;
    }
    if (!k->spoiled && !k->judges)
        twin_clean(t, k->region);
    leave(k);
}

static void was_written(struct twin_io *io, int error)
{
    struct twin_copier *k = container_of(io, struct twin_copier, io);

    if (error) {
        failed(k, "written to the second chain", error);
        return;
    }
    count(k, (uint64_t)k->now << DT_SECTOR_SHIFT);
    go_on(k);
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0;
}

static void write_piece(struct twin_copier *k, bool zero)
{
    k->io.done = was_written;
    twin_send(&k->io, zero ? DT_OP_WRITE_ZEROES : DT_OP_WRITE, zero ? DT_REQ_UNMAP : 0, k->at,
              k->now, zero ? 0 : 1);
}

/* Nothing more is begun then; but an earlier region may be under way still. */
static void note_difference(struct twin_copier *k)
{
    struct twin *t = k->io.t;
    size_t at = 0;

    while (memcmp(k->bytes + at, k->other + at, DT_SECTOR_SIZE) == 0)
        at += DT_SECTOR_SIZE;
    t->differs = MIN(t->differs, k->at + (at >> DT_SECTOR_SHIFT));
    t->wanted = NO_REGION;
    dt_layer_event(t->layer, "second-differs",
                   "sector %llu of '%.200s' holds something else than the disk",
                   (unsigned long long)k->at + (at >> DT_SECTOR_SHIFT), t->to);
    leave(k);
}

static void was_read_there(struct twin_io *io, int error)
{
    struct twin_copier *k = container_of(io, struct twin_copier, io);

    if (error)
        failed(k, "read from the second chain", error);
    else if (!k->spoiled && memcmp(k->bytes, k->other, io->iov.iov_len) != 0)
        note_difference(k);
    else
        go_on(k);
}

static void read_there(struct twin_copier *k)
{
    k->io.iov.iov_base = k->other;
    k->io.done = was_read_there;
    twin_send(&k->io, DT_OP_READ, 0, k->at, k->now, 1);
}

static bool zeroes_at_once(const struct twin *t, uint32_t sectors)
{
    return t->can_zero && (!t->max_zero || sectors <= t->max_zero);
}

static void was_read(struct dt_ctx *c, struct dt_req *sub)
{
    struct twin_copier *k = dt_sub_arg(sub);
    int error = sub->error;

    dt_sub_free(c, sub);
    if (error)
        failed(k, "read", error);
    else if (k->judges)
        read_there(k);
    else
        write_piece(k, zeroes_at_once(k->io.t, k->now) &&
                           all_zero(k->bytes, (size_t)k->now << DT_SECTOR_SHIFT));
}

static void run_copier(struct twin_copier *k)
{
    struct twin *t = k->io.t;
    struct dt_req *sub;

    k->now = (uint32_t)MIN(twin_region_end(t, k->region) - k->at, TWIN_CHUNK >> DT_SECTOR_SHIFT);
    k->io.iov = (struct iovec){k->bytes, (size_t)k->now << DT_SECTOR_SHIFT};
    if (k->hole) {
        write_piece(k, true);
        return;
    }
    sub = dt_sub_new(t->c, DT_OP_READ, k->at, k->now, &k->io.iov, 1, was_read, k);
    CHECK(sub); /* there is one for each */
    dt_sub_submit(t->c, sub);
}

/* ---- Which ----------------------------------------------------------------------------------- */

bool twin_under_way(const struct twin *t, uint64_t region)
{
    for (unsigned i = 0; i < TWIN_COPIERS; i++)
        if (t->copiers[i].busy && t->copiers[i].region == region)
            return true;
    return false;
}

static uint64_t next_dirty(struct twin *t)
{
    for (uint64_t seen = 0; seen <= t->regions; seen++) {
        uint64_t r = t->cursor;

        if (t->map[r / 64] == 0 && r % 64 == 0 && seen + 64 <= t->regions) {
            t->cursor = r + 64 < t->regions ? r + 64 : 0;
            seen += 63;
            continue;
        }
        t->cursor = r + 1 < t->regions ? r + 1 : 0;
        if (twin_is_dirty(t, r) && !twin_under_way(t, r))
            return r;
    }
    return NO_REGION;
}

static bool try_region(struct twin_copier *k, uint64_t region)
{
    struct twin *t = k->io.t;
    uint64_t at = region << t->shift, sectors = twin_region_end(t, region) - at;

    if (twin_under_way(t, region) || twin_any_loose(t, at, sectors) ||
        !dt_range_try(t->c, &k->range, at, sectors))
        return false;
    k->region = region;
    k->at = at;
    k->busy = true;
    k->spoiled = false;
    k->judges = t->judges && !twin_is_dirty(t, region);
    if (k->judges)
        t->judged = MAX(t->judged, region + 1);
    k->hole =
        !k->judges && zeroes_at_once(t, TWIN_CHUNK >> DT_SECTOR_SHIFT) && twin_is_hole(t, region);
    if (t->wanted == region)
        t->wanted = NO_REGION;
    return true;
}

/* What is dirty will be equal, because it is copied. */
static uint64_t next_unjudged(struct twin *t)
{
    while (t->judged < t->regions && twin_is_dirty(t, t->judged))
        t->judged++;
    return t->judged < t->regions ? t->judged : NO_REGION;
}

static uint64_t next_region(struct twin *t)
{
    uint64_t region = t->dirty ? next_dirty(t) : NO_REGION;

    return region == NO_REGION ? next_unjudged(t) : region;
}

static bool take_region(struct twin_copier *k)
{
    struct twin *t = k->io.t;
    uint64_t region = NO_REGION;

    if (t->wanted != NO_REGION)
        return try_region(k, t->wanted);
    for (unsigned i = 0; i < TRIES; i++) {
        region = next_region(t);
        if (region == NO_REGION)
            return false;
        if (twin_holes_unknown(t, region)) {
            t->cursor = region;
            return false;
        }
        if (try_region(k, region))
            return true;
    }
    if (twin_in_step(t)) /* else nothing waits, and the others go first */
        t->wanted = region;
    return false;
}

bool twin_judges(const struct twin *t)
{
    bool under_way = false;

    for (unsigned i = 0; t->copiers && i < TWIN_COPIERS; i++)
        under_way |= t->copiers[i].busy && t->copiers[i].judges;
    return under_way || (t->judged < t->regions && t->differs == UINT64_MAX);
}

/* ---- All clean ------------------------------------------------------------------------------- */

static bool settled(const struct twin *t)
{
    if (t->dirty || t->judged < t->regions || t->loose || t->early || !twin_in_step(t))
        return false;
    for (unsigned i = 0; i < TWIN_COPIERS; i++)
        if (t->copiers[i].busy)
            return false;
    for (const struct twin_job *job = t->job_head; job; job = job->next)
        if (!job->holds && job->op != DT_OP_READ)
            return false; /* begun when it was beside: its guest may be told too early */
    return true;
}

static void was_flushed(struct twin_io *io, int error)
{
    struct twin *t = io->t;

    t->flushing = false;
    if (error && error != -ECANCELED) {
        snprintf(t->failure, sizeof(t->failure), "it cannot be flushed: %s", strerror(-error));
        twin_mark_all(t);
    }
    if (error)
        t->next_copy = dt_now(t->c) + TWIN_RETRY_NS;
    else if (settled(t))
        t->equal = true;
    if (t->equal && !t->told) {
        t->told = true;
        dt_layer_event(t->layer, "in-step",
                       "all that the disk holds is on '%.200s' as well; %llu MiB copied", t->to,
                       (unsigned long long)(t->copied >> 20));
    }
}

static void flush_it(struct twin *t)
{
    t->flushing = true;
    t->flush.done = was_flushed;
    twin_send(&t->flush, DT_OP_FLUSH, 0, 0, 0, 0);
}

void twin_catch_up(struct twin *t)
{
    uint64_t now = dt_now(t->c);

    if (t->absent[0] || t->equal || t->flushing || t->sealed_until || rests(&t->rest, t->c))
        return;
    if (t->differs != UINT64_MAX)
        return; /* it is given up */
    if (t->dirty == 0 && t->judged == t->regions) {
        t->wanted = NO_REGION;
        if (settled(t) && now >= t->next_copy)
            flush_it(t);
        return;
    }
    if (t->lagging)
        return; /* the tick calls again */
    if (now < t->next_copy && t->wanted == NO_REGION) {
        again(t, t->next_copy);
        return;
    }
    for (unsigned i = 0; i < TWIN_COPIERS; i++) {
        struct twin_copier *k = &t->copiers[i];

        if (k->busy)
            continue;
        if (!take_region(k))
            return;
        run_copier(k);
        if (t->rate)
            return; /* each is paid for before the next */
    }
}
