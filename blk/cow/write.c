/* SPDX-License-Identifier: MIT */
/*
 * write.c - writes, and writes of zeroes, that make granules the overlay's.
 *
 * The whole granules from first to last are locked, so that two first writes into one granule do not
 * copy it up beside each other. Writes into granules that are the overlay's already take no lock: a bit is set
 * when all of its data has been written, and never cleared. A granule that the request covers
 * in part is read from the base first. Then everything is written at once: what is copied up on
 * either side, and the request's own bytes in the guest's memory (or a hole for zeroes).
 */
#include "blk/cow/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>

static const uint8_t zeroes[COW_GRANULE] __attribute__((aligned(4096)));

enum part { HEAD, TAIL, BODY };

static bool is_zero(const struct cow_job *job)
{
    return cow_req(job->cio)->op == DT_OP_WRITE_ZEROES;
}

/* ---- All is written ---- */

static void written(struct cow_job *job)
{
    if (shortage_is(job->error))
        cow_short(job, job->error);
    else if (job->error == -EAGAIN)
        cow_job_run(job);
    else if (job->error)
        cow_job_finish(job, job->error);
    else
        cow_record(job);
}

static void part_done(struct dt_io *io, int result)
{
    struct cow_part *part = container_of(io, struct cow_part, io);
    struct cow_job *job = part->job;

    if (result == -EINTR)
        result = -EAGAIN;
    else if (result >= 0 && result != part->wanted)
        result = -ENOSPC; /* what a file system does with the last of its space */
    if (result < 0 && !job->error)
        job->error = result;
    if (--job->pending == 0)
        written(job);
}

static struct cow_part *part_begin(struct cow_job *job, enum part which, uint64_t length)
{
    struct cow_part *part = &job->parts[which];

    part->job = job;
    part->io.done = part_done;
    part->wanted = (int)length;
    job->pending++;
    return part;
}

static void write_part(struct cow_job *job, enum part which, const uint8_t *from, uint64_t at,
                       uint64_t length)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    struct cow_part *part = part_begin(job, which, length);

    part->iov = (struct iovec){(void *)(uintptr_t)from, length};
    dt_io_writev(c, &part->io, w->file.fd, &part->iov, 1, w->at.data_offset + at);
}

/* ---- The parts ---- */

/* The granules at the request's two ends, where it does not cover them. The disk may end within one. */
static void bounds(const struct cow_job *job, uint64_t *start, uint64_t *end)
{
    const struct cow *w = job->cio->c->layer_data;
    const struct dt_req *req = cow_req(job->cio);

    *start = ALIGN_DOWN(cow_offset(req), (uint64_t)COW_GRANULE);
    *end = MIN(ALIGN_UP(cow_end(req), (uint64_t)COW_GRANULE), w->header.size);
}

static void write_body(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    struct dt_req *req = cow_req(job->cio);
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);
    struct cow_part *part;

    if (!cow_aligned(w, iov, n)) {
        dt_count(c, BOUNCED, 1);
        if (!job->bounce)
            job->bounce = xaligned(COW_GRANULE, COW_MAX_SECTORS * DT_SECTOR_SIZE);
        dt_iov_read(iov, n, 0, job->bounce, dt_req_bytes(req));
        write_part(job, BODY, job->bounce, cow_offset(req), dt_req_bytes(req));
        return;
    }
    part = part_begin(job, BODY, dt_req_bytes(req));
    dt_io_writev(c, &part->io, w->file.fd, iov, n, w->at.data_offset + cow_offset(req));
}

/* Whole granules become a hole; at the ends zeroes are written, into what was copied up or in place. */
static void zero_body(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    const struct dt_req *req = cow_req(job->cio);
    uint64_t from = cow_offset(req), to = cow_end(req);
    uint64_t inner = ALIGN_UP(from, (uint64_t)COW_GRANULE);
    uint64_t outer = to == w->header.size ? ALIGN_UP(to, (uint64_t)COW_GRANULE)
                                          : ALIGN_DOWN(to, (uint64_t)COW_GRANULE);

    if (inner > outer) { /* within one granule */
        write_part(job, HEAD, zeroes, from, to - from);
        return;
    }
    if (from < inner)
        write_part(job, HEAD, zeroes, from, inner - from);
    if (outer < to)
        write_part(job, TAIL, zeroes, outer, to - outer);
    if (inner < outer) {
        struct cow_part *part = part_begin(job, BODY, 0);

        dt_io_fallocate(c, &part->io, w->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        w->at.data_offset + inner, outer - inner);
    }
}

/* Are both ends of the same granule? */
static bool reads_once(const struct cow_job *job)
{
    const struct dt_req *req = cow_req(job->cio);

    return job->copies[HEAD] && job->copies[TAIL] && cow_first(req) == cow_last(req) - 1;
}

static void copies_done(struct dt_io *io, int result);

static void write_all(struct cow_job *job)
{
    const struct dt_req *req = cow_req(job->cio);
    uint64_t start, end;

    bounds(job, &start, &end);
    job->pending = 1;
    if (job->copies[HEAD] && start < cow_offset(req))
        write_part(job, HEAD, job->edge[HEAD], start, cow_offset(req) - start);
    if (job->copies[TAIL] && cow_end(req) < end) {
        const uint8_t *edge = job->edge[reads_once(job) ? HEAD : TAIL];

        write_part(job, TAIL, edge + (cow_end(req) & (COW_GRANULE - 1)), cow_end(req),
                   end - cow_end(req));
    }
    /* A job has one HEAD and one TAIL, and zeroes need them for themselves: after the copies. */
    if (is_zero(job) && job->pending > 1) {
        for (unsigned i = HEAD; i <= TAIL; i++)
            job->parts[i].io.done = copies_done;
    } else if (is_zero(job)) {
        zero_body(job);
    } else {
        write_body(job);
    }
    if (--job->pending == 0)
        written(job);
}

static void copies_done(struct dt_io *io, int result)
{
    struct cow_part *part = container_of(io, struct cow_part, io);
    struct cow_job *job = part->job;

    if (result != part->wanted && !job->error)
        job->error = result < 0 ? (result == -EINTR ? -EAGAIN : result) : -ENOSPC;
    if (--job->pending > 0)
        return;
    if (job->error)
        written(job);
    else
        zero_body(job);
}

/* ---- What the request does not cover ---- */

static void base_read(struct dt_ctx *c, struct dt_req *sub)
{
    struct cow_job *job = dt_sub_arg(sub);

    if (sub->error && !job->error)
        job->error = sub->error;
    dt_sub_free(c, sub);
    if (--job->pending > 0)
        return;
    if (job->error)
        cow_job_finish(job, job->error);
    else
        write_all(job);
}

static void read_edge(struct cow_job *job, enum part which, uint64_t granule)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    struct cow_part *part = &job->parts[which];
    uint64_t at = granule << COW_SHIFT, length = MIN(COW_GRANULE, w->header.size - at);
    struct dt_req *sub;

    dt_count(c, COPIED_UP, 1);
    part->iov = (struct iovec){job->edge[which], length};
    sub = dt_sub_new(c, DT_OP_READ, at >> DT_SECTOR_SHIFT, (uint32_t)(length >> DT_SECTOR_SHIFT),
                     &part->iov, 1, base_read, job);
    CHECK(sub);
    job->pending++;
    dt_sub_submit(c, sub);
}

static void with_lock(struct cow_job *job)
{
    const struct cow *w = job->cio->c->layer_data;
    const struct dt_req *req = cow_req(job->cio);
    uint64_t first = cow_first(req), last = cow_last(req) - 1, start, end;

    bounds(job, &start, &end);
    job->copies[HEAD] = start < cow_offset(req) && !cow_map_test(w->now, first);
    job->copies[TAIL] = cow_end(req) < end && !cow_map_test(w->now, last);
    job->pending = 1;
    if (job->copies[HEAD])
        read_edge(job, HEAD, first);
    if (job->copies[TAIL] && !reads_once(job))
        read_edge(job, TAIL, last);
    if (--job->pending == 0)
        write_all(job);
}

static void granted(struct dt_ctx *c, struct dt_range *range)
{
    struct cow_job *job = container_of(range, struct cow_job, range);

    job->locked = true;
    with_lock(job);
}

void cow_write_run(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    const struct cow *w = c->layer_data;
    const struct dt_req *req = cow_req(job->cio);
    uint64_t first = cow_first(req), end = cow_last(req);

    if (job->locked || cow_all(w, req)) {
        with_lock(job);
        return;
    }
    job->range.granted = granted;
    if (dt_range_lock(c, &job->range, first << (COW_SHIFT - DT_SECTOR_SHIFT),
                      (end - first) << (COW_SHIFT - DT_SECTOR_SHIFT)))
        granted(c, &job->range);
}
