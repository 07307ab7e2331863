/* SPDX-License-Identifier: MIT */
/*
 * read.c - reads: data and checksums at the same time, without a lock. What does not fit is read once
 * more under the lock that writes take; what then does not fit is damaged. A block that the
 * request covers in part is read whole beside it, and what the guest gets of it comes from there.
 */
#include "blk/integrity/internal.h"

bool integrity_judge(struct dt_ctx *c, uint64_t block)
{
    struct integrity *w = c->layer_data;

    if (w->flags[integrity_region(w, block)] & REGION_SUSPECT) {
        dt_count(c, TAKEN, 1);
        return true;
    }
    dt_count(c, DAMAGED, 1);
    dt_layer_event(
        w->layer, "damaged",
        "the block at byte %llu of the disk (sector %llu) does not fit its checksum: it, "
        "or its checksum in %s, has changed",
        (unsigned long long)(block << INTEGRITY_SHIFT),
        (unsigned long long)(block << (INTEGRITY_SHIFT - DT_SECTOR_SHIFT)), w->file.path);
    return false;
}

/* The data of a block that the request covers whole, in one piece. */
static const uint8_t *block_data(const struct integrity_job *job, const struct iovec *iov,
                                 unsigned n, uint64_t offset, uint64_t bytes, uint8_t *scratch)
{
    for (unsigned i = 0; i < n; i++) {
        if (offset < iov[i].iov_len) {
            if (iov[i].iov_len - offset >= bytes)
                return (const uint8_t *)iov[i].iov_base + offset;
            dt_iov_read(iov + i, n - i, offset, scratch, bytes);
            return scratch;
        }
        offset -= iov[i].iov_len;
    }
    CHECK(!"a block lies outside of its request");
}

static uint64_t sum_of(struct integrity_job *job, uint64_t i)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;
    struct dt_req *req = integrity_req(job->iio);
    uint64_t block = job->first + i, bytes = integrity_bytes(w, block);
    uint8_t scratch[INTEGRITY_BLOCK];
    const struct iovec *iov;
    unsigned n;

    if (i == 0 && job->partial[0])
        return integrity_sum(job->edge[0], bytes, block);
    if (i == job->count - 1 && job->partial[1])
        return integrity_sum(job->edge[1], bytes, block);
    n = dt_req_map(c, req, &iov);
    return integrity_sum(
        block_data(job, iov, n, (block << INTEGRITY_SHIFT) - integrity_offset(req), bytes, scratch),
        bytes, block);
}

/* What was compared is what the guest gets. */
static void give_edges(struct integrity_job *job)
{
    struct dt_req *req = integrity_req(job->iio);
    uint64_t from = integrity_offset(req), to = integrity_end(req);
    uint64_t last = (job->first + job->count - 1) << INTEGRITY_SHIFT;
    const struct iovec *iov;
    unsigned n = dt_req_map(job->iio->c, req, &iov);

    if (job->partial[0])
        dt_iov_write(iov, n, 0, job->edge[0] + from % INTEGRITY_BLOCK,
                     MIN(to, ALIGN_DOWN(from, (uint64_t)INTEGRITY_BLOCK) + INTEGRITY_BLOCK) - from);
    if (job->partial[1])
        dt_iov_write(iov, n, last - from, job->edge[1], to - last);
}

static void learned(struct integrity_job *job)
{
    give_edges(job);
    integrity_job_finish(job, 0); /* that a checksum was not kept is no fault of the data */
}

/* Under the lock: what does not fit now is damaged, or was being written at a crash. */
static void judge_all(struct integrity_job *job)
{
    struct dt_ctx *c = job->iio->c;
    bool damaged = false, taken = false;

    for (uint64_t i = 0; i < job->count; i++) {
        uint64_t sum = sum_of(job, i);

        if (job->sums[i] == 0 || job->sums[i] == sum)
            continue;
        if (integrity_judge(c, job->first + i)) {
            job->sums[i] = sum;
            taken = true;
        } else {
            damaged = true;
        }
    }
    if (damaged) {
        integrity_job_finish(job, -EIO);
    } else if (taken) {
        integrity_put_sums(job, learned);
    } else {
        give_edges(job);
        integrity_job_finish(job, 0);
    }
}

static void again(struct dt_ctx *c, struct dt_range *range)
{
    integrity_read_run(container_of(range, struct integrity_job, range));
}

static void gathered(struct integrity_job *job)
{
    struct dt_ctx *c = job->iio->c;
    uint64_t known = 0;

    if (job->error) {
        integrity_job_finish(job, job->error);
        return;
    }
    if (job->again) {
        judge_all(job);
        return;
    }
    for (uint64_t i = 0; i < job->count; i++) {
        if (job->sums[i] == 0)
            continue;
        known++;
        if (job->sums[i] == sum_of(job, i))
            continue;
        dt_count(c, REREAD, 1);
        job->again = true;
        integrity_lock(job, again);
        return;
    }
    dt_count(c, VERIFIED, known);
    if (known < job->count)
        dt_count(c, UNKNOWN, job->count - known);
    give_edges(job);
    integrity_job_finish(job, 0);
}

void integrity_read_returned(struct integrity_job *job, int error)
{
    integrity_part_done(job, error);
}

void integrity_read_run(struct integrity_job *job)
{
    struct dt_req *req = integrity_req(job->iio);

    job->then = gathered;
    job->error = 0;
    job->pending = 2; /* the data, and this function */
    req->error = 0;
    integrity_gather(job);
    dt_forward_one(job->iio->c, req);
    integrity_part_done(job, 0);
}
