/* SPDX-License-Identifier: MIT */
/*
 * read.c - reads that are more than one transfer from the file.
 *
 * All here, in several runs of slots: straight to the guest, without a lock, as the slots are
 * pinned. Something missing: under the lock of its blocks, piece by piece, in memory of ours: what
 * is missing is read from below in one stretch, whole blocks of it; what is dirty, or outside of
 * that stretch, comes from the file. The guest gets a copy, and the file what was missing. It
 * cannot be filled from the guest's own buffer: the guest may change that, and the cache would keep
 * it.
 */
#include "blk/cache/internal.h"

static void read_piece(struct job *job);

/* ---- Straight ------------------------------------------------------------------------------- */

static void straight_done(struct job *job)
{
    job_unpin(job);
    if (!job->error) {
        job_end(job);
        return;
    }
    /* The file cannot be read: piece by piece the disk below may help. */
    dt_count(job->k->c, READ_ERRORS, 1);
    job->error = 0;
    job_lock(job, read_piece);
}

/* ---- In pieces ------------------------------------------------------------------------------ */

static void filled(struct job *job)
{
    job_entered(job, job->fresh);
    job->error = 0; /* the guest has its data */
    job->done += job->sectors;
    if (job->done < job->req->sectors)
        read_piece(job);
    else
        job_end(job);
}

static void populate(struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++) {
        if (job->slots[i] != SLOT_NONE)
            continue;
        job->slots[i] = index_take(job->k, job->first + i);
        job->fresh[i] = job->slots[i] != SLOT_NONE;
    }
    job_go(job, filled);
    job_io_buffer(job, job->fresh, true, false);
    job_done(job, 0);
}

/* Clean slots that cannot be read are given up; the piece is tried again without them. */
static bool give_up_unreadable(struct job *job)
{
    bool any = false;

    for (uint32_t i = 0; i < job->blocks; i++) {
        if (!job->want[i] || slot_bound(job->k, job->slots[i]) ||
            !slot_valid(job->k, job->slots[i]))
            continue;
        index_drop(job->k, job->slots[i]);
        any = true;
    }
    dt_count(job->k->c, READ_ERRORS, 1);
    return any;
}

static void gathered(struct job *job)
{
    struct cache *k = job->k;
    const struct iovec *iov;
    unsigned n = dt_req_map(k->c, job->req, &iov);
    uint64_t skip = job->at - (job->first << k->shift);

    if (job->error) {
        bool again = give_up_unreadable(job);

        job_unpin(job);
        if (!again) {
            job_end(job);
            return;
        }
        job->error = 0;
        read_piece(job);
        return;
    }
    job_unpin(job);
    dt_iov_write(iov, n, job->done << DT_SECTOR_SHIFT, job->buffer + (skip << DT_SECTOR_SHIFT),
                 (size_t)job->sectors << DT_SECTOR_SHIFT);
    dt_count(k->c, COPIED, 1);
    populate(job);
}

static void read_slots(struct job *job)
{
    if (job->error) {
        job_unpin(job);
        job_end(job);
        return;
    }
    job_go(job, gathered);
    job_io_buffer(job, job->want, false, false);
    job_done(job, 0);
}

/* The stretch from the first to the last block that is missing, and what the file has to give. */
static void plan(struct job *job)
{
    job->hull_from = job->hull_to = 0;
    for (uint32_t i = 0; i < job->blocks; i++) {
        if (job->slots[i] != SLOT_NONE)
            continue;
        if (job->hull_to == 0)
            job->hull_from = i;
        job->hull_to = i + 1;
    }
    /* Judged before the disk below is read: a block that is dirty now may be clean by the time that
     * has come back, with what was there before. */
    for (uint32_t i = 0; i < job->blocks; i++) {
        bool below = i >= job->hull_from && i < job->hull_to;

        job->want[i] = job->slots[i] != SLOT_NONE && (!below || slot_bound(job->k, job->slots[i]));
    }
}

static void read_piece(struct job *job)
{
    struct cache *k = job->k;
    uint64_t from, until;

    job_piece(job, BUFFER >> (k->shift + DT_SECTOR_SHIFT));
    job_find(job);
    job_pin(job);
    plan(job);
    job_go(job, read_slots);
    if (job->hull_to) {
        from = (job->first + job->hull_from) << k->shift;
        until = MIN((job->first + job->hull_to) << k->shift, dt_layer_info(k->layer)->sectors);
        job_below(job, DT_OP_READ, from, (uint32_t)(until - from));
    }
    job_done(job, 0);
}

/* ---- Which way ------------------------------------------------------------------------------ */

static bool any_bound(const struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (job->slots[i] != SLOT_NONE && slot_bound(job->k, job->slots[i]))
            return true;
    return false;
}

void read_begin(struct cache *k, struct dt_req *req)
{
    struct job *job = job_take(k, req);
    unsigned missing;

    if (!job)
        return;
    job_piece(job, MAX_BLOCKS);
    missing = job_find(job);
    dt_count(k->c, missing ? READ_MISSES : READ_HITS, 1);
    if (missing == 0) {
        job_go(job, straight_done);
        job_pin(job);
        if (job_io_guest(job, false)) {
            job_done(job, 0);
            return;
        }
        job_unpin(job);
    } else if (!any_bound(job) && (dt_req_bytes(req) > BUFFER || cache_streams(k, req))) {
        dt_count(k->c, BYPASSED, 1);
        job_free(job);
        dt_forward_one(k->c, req);
        return;
    }
    job_lock(job, read_piece);
}
