/* SPDX-License-Identifier: MIT */
/*
 * read.c - reads that touch granules of base and overlay, or whose memory O_DIRECT refuses: one run
 * of granules after the other, through the job's buffer where it must be.
 */
#include "blk/cow/internal.h"

static void next_run(struct cow_job *job);

static void run_done(struct cow_job *job)
{
    job->at += job->length;
    if (job->at < cow_end(cow_req(job->cio)))
        next_run(job);
    else
        cow_job_finish(job, 0);
}

static void base_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct cow_job *job = dt_sub_arg(sub);
    int error = sub->error;

    dt_sub_free(c, sub);
    if (error)
        cow_job_finish(job, error);
    else
        run_done(job);
}

static void overlay_done(struct dt_io *io, int result)
{
    struct cow_part *part = container_of(io, struct cow_part, io);
    struct cow_job *job = part->job;
    struct dt_ctx *c = job->cio->c;
    struct dt_req *req = cow_req(job->cio);

    if (result == -EINTR || result == -EAGAIN) {
        next_run(job);
        return;
    }
    if (result != part->wanted) {
        cow_job_finish(job, result < 0 ? result : -EIO);
        return;
    }
    if (part->iov.iov_base) {
        const struct iovec *iov;
        unsigned n = dt_req_map(c, req, &iov);

        dt_iov_write(iov, n, job->at - cow_offset(req), job->bounce, job->length);
    }
    run_done(job);
}

/* @n vectors of the guest's in job->iov, or the job's own buffer where they do not suit. */
static void read_overlay(struct cow_job *job, unsigned n)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    struct cow_part *part = &job->parts[0];
    uint64_t offset = w->at.data_offset + job->at;

    part->job = job;
    part->io.done = overlay_done;
    part->wanted = (int)job->length;
    part->iov = (struct iovec){0};
    if (cow_aligned(w, job->iov, n)) {
        dt_io_readv(c, &part->io, w->file.fd, job->iov, n, offset);
        return;
    }
    dt_count(c, BOUNCED, 1);
    if (!job->bounce)
        job->bounce = xaligned(COW_GRANULE, COW_MAX_SECTORS * DT_SECTOR_SIZE);
    part->iov = (struct iovec){job->bounce, job->length};
    dt_io_readv(c, &part->io, w->file.fd, &part->iov, 1, offset);
}

static void next_run(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    struct dt_req *req = cow_req(job->cio), *sub;
    uint64_t granule = job->at >> COW_SHIFT, run;
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);
    bool set;
    int used;

    run = cow_map_run(w->now, granule, cow_last(req), &set);
    job->length = MIN((granule + run) << COW_SHIFT, cow_end(req)) - job->at;
    used = dt_iov_slice(iov, n, job->at - cow_offset(req), job->length, job->iov, COW_SEGMENTS);
    CHECK(used > 0);
    if (set) {
        read_overlay(job, (unsigned)used);
        return;
    }
    sub = dt_sub_new(c, DT_OP_READ, job->at >> DT_SECTOR_SHIFT,
                     (uint32_t)(job->length >> DT_SECTOR_SHIFT), job->iov, (unsigned)used,
                     base_done, job);
    CHECK(sub);
    dt_sub_submit(c, sub);
}

void cow_read_run(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;

    if (!cow_all(w, cow_req(job->cio)))
        dt_count(c, MIXED_READS, 1);
    next_run(job);
}
