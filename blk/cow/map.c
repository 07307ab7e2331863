/* SPDX-License-Identifier: MIT */
/*
 * map.c - granules become the overlay's.
 *
 * A granule's bit is written to the live map when its data are written, and only then is it set for
 * this process and the write acknowledged: whatever is acknowledged, a successor finds. Jobs that
 * come while a round of such writes is under way make up the next round together; so a sector of the
 * map is never written twice at a time, and many first writes share one.
 */
#include "blk/cow/internal.h"

static void round_begin(struct cow_ctx *cc);

void cow_map_start(struct cow_ctx *cc)
{
    cow_jobs_init(&cc->record_wait);
    cow_jobs_init(&cc->record_round);
}

void cow_map_dirty(struct cow *w, uint64_t sector)
{
    if (w->flags[sector] & COW_DIRTY)
        return;
    w->flags[sector] |= COW_DIRTY;
    w->dirty_list[w->ndirty++] = (uint32_t)sector;
}

/* ---- The end of a job ---- */

static void become_ours(struct cow_ctx *cc, const struct dt_req *req)
{
    struct cow *w = cc->c->layer_data;
    uint64_t fresh = 0;

    for (uint64_t g = cow_first(req); g < cow_last(req); g++) {
        if (cow_map_test(w->now, g))
            continue;
        cow_map_set(w->now, g);
        cow_map_dirty(w, g / COW_BITS);
        fresh++;
    }
    dt_count(cc->c, ALLOCATED, fresh);
}

static void job_done(struct cow_job *job, int error)
{
    struct cow_io *cio = job->cio;

    cow_job_end(job);
    if (error)
        cow_finish(cio, error);
    else
        cow_written(cio);
}

/* ---- A round ---- */

static void round_end(struct cow_ctx *cc)
{
    struct cow *w = cc->c->layer_data;
    struct cow_jobs round = cc->record_round;
    struct cow_job *job = round.head, *next;
    int error = cc->record_error;

    for (uint32_t i = 0; i < w->nrecord; i++)
        w->flags[w->record_list[i]] &= (uint8_t)~COW_RECORDING;
    w->nrecord = 0;
    cow_jobs_init(&cc->record_round);
    cc->recording = false;
    for (; job; job = next) {
        next = job->next;
        if (!error)
            become_ours(cc, cow_req(job->cio));
        if (shortage_is(error))
            cow_short(job, error);
        else
            job_done(job, error);
    }
    if (!cc->recording)
        round_begin(cc);
}

static void sector_written(struct dt_io *io, int result);

static void write_sector(struct cow_map_io *mio)
{
    struct cow_ctx *cc = mio->cc;
    struct cow *w = cc->c->layer_data;
    uint64_t sector = w->record_list[cc->record_next++];

    cow_map_seal(&w->live[sector], sector);
    mio->iov = (struct iovec){&w->live[sector], sizeof(w->live[sector])};
    mio->io.done = sector_written;
    cc->record_pending++;
    dt_io_writev(cc->c, &mio->io, w->file.map_fd, &mio->iov, 1,
                 w->at.live_offset + sector * sizeof(w->live[sector]));
}

static void sector_written(struct dt_io *io, int result)
{
    struct cow_map_io *mio = container_of(io, struct cow_map_io, io);
    struct cow_ctx *cc = mio->cc;
    const struct cow *w = cc->c->layer_data;

    if (result != (int)sizeof(struct cow_map_sector))
        cc->record_error = result < 0 ? result : -ENOSPC;
    cc->record_pending--;
    if (cc->record_next < w->nrecord && !cc->record_error)
        write_sector(mio);
    else if (cc->record_pending == 0)
        round_end(cc);
}

/* The bits of all jobs of the round, in the memory that is written: nothing is on its way there now. */
static void gather(struct cow *w, const struct dt_req *req)
{
    for (uint64_t g = cow_first(req); g < cow_last(req); g++) {
        uint64_t sector = g / COW_BITS;

        cow_map_set(w->live, g);
        if (w->flags[sector] & COW_RECORDING)
            continue;
        w->flags[sector] |= COW_RECORDING;
        w->record_list[w->nrecord++] = (uint32_t)sector;
    }
}

static void round_begin(struct cow_ctx *cc)
{
    struct cow *w = cc->c->layer_data;
    struct cow_job *job;

    if (!cc->record_wait.head)
        return;
    cc->recording = true;
    cc->record_next = 0;
    cc->record_error = 0;
    while ((job = cow_jobs_take(&cc->record_wait)) != NULL) {
        gather(w, cow_req(job->cio));
        cow_jobs_add(&cc->record_round, job);
    }
    for (unsigned i = 0; i < COW_MAP_IOS && cc->record_next < w->nrecord; i++) {
        cc->record_ios[i].cc = cc;
        write_sector(&cc->record_ios[i]);
    }
}

void cow_record(struct cow_job *job)
{
    struct cow_ctx *cc = job->cio->c->data;

    if (!job->locked) { /* it wrote in place */
        job_done(job, 0);
        return;
    }
    cow_jobs_add(&cc->record_wait, job);
    if (!cc->recording)
        round_begin(cc);
}
