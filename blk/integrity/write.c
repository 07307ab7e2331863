/* SPDX-License-Identifier: MIT */
/*
 * write.c - what changes blocks, under a lock of theirs and with their regions open: the data go
 * down, then the checksums are written. Of a block that the request covers in part the rest is read and
 * compared first: a new checksum must not make damage look well.
 */
#include "blk/integrity/internal.h"

static const uint8_t zeroes[INTEGRITY_BLOCK];

/* ---- After the data ---- */

static void sums_synced(struct dt_io *io, int result)
{
    struct integrity_job *job = container_of(io, struct integrity_job, io);

    integrity_job_finish(job, result);
}

static void sums_written(struct integrity_job *job)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;

    if (job->error) {
        integrity_regions_suspect(job);
        integrity_job_finish(job, job->error);
    } else if (integrity_req(job->iio)->flags & DT_REQ_FUA) {
        job->io.done = sums_synced;
        dt_io_fdatasync(c, &job->io, w->file.map_fd);
    } else {
        integrity_job_finish(job, 0);
    }
}

void integrity_write_returned(struct integrity_job *job, int error)
{
    const struct dt_req *req = integrity_req(job->iio);

    if (error) {
        if (error != -EOPNOTSUPP)
            integrity_regions_suspect(job);
        integrity_job_finish(job, error);
        return;
    }
    if (req->op == DT_OP_DISCARD)
        memset(job->sums, 0, job->count * sizeof(job->sums[0]));
    integrity_put_sums(job, sums_written);
}

/* ---- The new checksums ---- */

/* The request's bytes of the block @i, into the edge that holds the rest. */
static void merge(struct integrity_job *job, unsigned which, uint64_t i)
{
    struct dt_req *req = integrity_req(job->iio);
    uint64_t start = (job->first + i) << INTEGRITY_SHIFT;
    uint64_t from = MAX(start, integrity_offset(req));
    uint64_t to = MIN(start + INTEGRITY_BLOCK, integrity_end(req));
    const struct iovec *iov;
    unsigned n;

    if (req->op == DT_OP_WRITE_ZEROES) {
        memset(job->edge[which] + (from - start), 0, to - from);
        return;
    }
    n = dt_req_map(job->iio->c, req, &iov);
    dt_iov_read(iov, n, from - integrity_offset(req), job->edge[which] + (from - start), to - from);
}

static uint64_t new_sum(struct integrity_job *job, uint64_t i)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;
    struct dt_req *req = integrity_req(job->iio);
    uint64_t block = job->first + i, bytes = integrity_bytes(w, block);
    uint8_t scratch[INTEGRITY_BLOCK];
    const struct iovec *iov;
    unsigned n;

    for (unsigned which = 0; which < 2; which++)
        if (job->partial[which] && i == (which ? job->count - 1 : 0)) {
            merge(job, which, i);
            return integrity_sum(job->edge[which], bytes, block);
        }
    if (req->op == DT_OP_WRITE_ZEROES)
        return integrity_sum(zeroes, bytes, block);
    n = dt_req_map(c, req, &iov);
    dt_iov_read(iov, n, (block << INTEGRITY_SHIFT) - integrity_offset(req), scratch, bytes);
    return integrity_sum(scratch, bytes, block);
}

static void send_down(struct integrity_job *job)
{
    struct dt_req *req = integrity_req(job->iio);

    for (uint64_t i = 0; req->op != DT_OP_DISCARD && i < job->count; i++)
        job->sums[i] = new_sum(job, i);
    dt_forward_one(job->iio->c, req);
}

static void gathered(struct integrity_job *job);

static void gather(struct integrity_job *job)
{
    job->then = gathered;
    job->pending = 0;
    integrity_gather(job);
}

static void gathered(struct integrity_job *job)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;

    for (unsigned which = 0; which < 2 && !job->error; which++) {
        uint64_t i = which ? job->count - 1 : 0, block = job->first + i;

        if (!job->partial[which] || job->sums[i] == 0 ||
            job->sums[i] == integrity_sum(job->edge[which], integrity_bytes(w, block), block))
            continue;
        if (!job->again) {
            dt_count(c, REREAD, 1);
            job->again = true;
            gather(job);
            return;
        }
        if (!integrity_judge(c, block))
            job->error = -EIO;
    }
    if (job->error)
        integrity_job_finish(job, job->error);
    else
        send_down(job);
}

/* ---- Before ---- */

void integrity_opened(struct integrity_job *job)
{
    if (job->error)
        integrity_job_finish(job, job->error);
    else if (job->partial[0] || job->partial[1])
        gather(job);
    else
        send_down(job);
}

static void granted(struct dt_ctx *c, struct dt_range *range)
{
    integrity_regions_open(container_of(range, struct integrity_job, range));
}

void integrity_write_run(struct integrity_job *job)
{
    const struct dt_req *req = integrity_req(job->iio);
    bool range = req->op == DT_OP_DISCARD || req->op == DT_OP_WRITE_ZEROES;

    /* A discard is a hint: of whole blocks, or none. */
    if (req->op == DT_OP_DISCARD &&
        (req->sectors > INTEGRITY_MAX_RANGE || job->partial[0] || job->partial[1]))
        integrity_job_finish(job, 0);
    else if (range && req->sectors > INTEGRITY_MAX_RANGE)
        integrity_job_finish(job, -EOPNOTSUPP);
    else
        integrity_lock(job, granted);
}
