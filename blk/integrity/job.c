/* SPDX-License-Identifier: MIT */
/* job.c - what a request needs while it is under way: checksums, edges, a lock. Others wait. */
#include "blk/integrity/internal.h"

void integrity_jobs_start(struct integrity_ctx *ic)
{
    integrity_ios_init(&ic->waiting);
    ic->job_memory = xcalloc(INTEGRITY_JOBS, sizeof(*ic->job_memory));
    ic->edge_memory = xaligned(INTEGRITY_BLOCK, INTEGRITY_JOBS * 2 * INTEGRITY_BLOCK);
    for (unsigned i = 0; i < INTEGRITY_JOBS; i++) {
        struct integrity_job *job = &ic->job_memory[i];

        job->edge[0] = ic->edge_memory + (size_t)i * 2 * INTEGRITY_BLOCK;
        job->edge[1] = job->edge[0] + INTEGRITY_BLOCK;
        job->next = ic->job_free;
        ic->job_free = job;
    }
}

void integrity_jobs_stop(struct integrity_ctx *ic)
{
    free(ic->job_memory);
    free(ic->edge_memory);
}

/* Which blocks, and which of them it covers in part. */
static void measure(struct integrity_job *job)
{
    const struct integrity *w = job->iio->c->layer_data;
    const struct dt_req *req = integrity_req(job->iio);
    uint64_t from = integrity_offset(req), to = integrity_end(req), last;

    job->first = from >> INTEGRITY_SHIFT;
    job->count = ((to + INTEGRITY_BLOCK - 1) >> INTEGRITY_SHIFT) - job->first;
    last = job->first + job->count - 1;
    job->partial[0] = from % INTEGRITY_BLOCK != 0;
    job->partial[1] = to < (last << INTEGRITY_SHIFT) + integrity_bytes(w, last);
    /* Both ends within one block: it is the first edge's. */
    if (job->count == 1 && job->partial[1]) {
        job->partial[0] = true;
        job->partial[1] = false;
    }
}

void integrity_job_begin(struct integrity_io *iio)
{
    struct integrity_ctx *ic = iio->c->data;
    struct integrity_job *job = ic->job_free;

    if (!job) {
        integrity_ios_add(&ic->waiting, iio);
        return;
    }
    ic->job_free = job->next;
    job->iio = iio;
    job->again = false;
    job->error = 0;
    iio->job = job;
    measure(job);
    if (integrity_req(iio)->op == DT_OP_READ)
        integrity_read_run(job);
    else
        integrity_write_run(job);
}

void integrity_job_finish(struct integrity_job *job, int error)
{
    struct integrity_io *iio = job->iio, *waiting;
    struct dt_ctx *c = iio->c;
    struct integrity_ctx *ic = c->data;

    if (job->busy)
        integrity_regions_done(job);
    if (job->locked)
        dt_range_unlock(c, &job->range);
    job->busy = job->locked = false;
    job->next = ic->job_free;
    ic->job_free = job;
    waiting = integrity_ios_take(&ic->waiting);
    if (waiting)
        integrity_job_begin(waiting);
    dt_complete_one(c, integrity_req(iio), error);
}

void integrity_lock(struct integrity_job *job,
                    void (*granted)(struct dt_ctx *c, struct dt_range *range))
{
    unsigned shift = INTEGRITY_SHIFT - DT_SECTOR_SHIFT;

    job->range.granted = granted;
    job->locked = true; /* from now on it has to be unlocked; nothing ends before it is granted */
    if (dt_range_lock(job->iio->c, &job->range, job->first << shift, job->count << shift))
        granted(job->iio->c, &job->range);
}

/* ---- Checksums and edges ---- */

void integrity_part_done(struct integrity_job *job, int error)
{
    if (error && !job->error)
        job->error = error;
    if (--job->pending == 0)
        job->then(job);
}

static void sums_moved(struct dt_io *io, int result)
{
    struct integrity_job *job = container_of(io, struct integrity_job, io);
    int wanted = (int)job->iov.iov_len;

    integrity_part_done(job, result == wanted ? 0 : result < 0 ? result : -EIO);
}

static void edge_read(struct dt_ctx *c, struct dt_req *sub)
{
    struct integrity_job *job = dt_sub_arg(sub);
    int error = sub->error;

    dt_sub_free(c, sub);
    integrity_part_done(job, error);
}

static void read_edge(struct integrity_job *job, unsigned which)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;
    uint64_t block = which ? job->first + job->count - 1 : job->first;
    uint64_t bytes = integrity_bytes(w, block);
    struct dt_req *sub;

    job->edge_iov[which] = (struct iovec){job->edge[which], bytes};
    sub =
        dt_sub_new(c, DT_OP_READ, block << (INTEGRITY_SHIFT - DT_SECTOR_SHIFT),
                   (uint32_t)(bytes >> DT_SECTOR_SHIFT), &job->edge_iov[which], 1, edge_read, job);
    CHECK(sub);
    dt_sub_submit(c, sub);
}

static struct dt_io *sums_begin(struct integrity_job *job)
{
    job->iov = (struct iovec){job->sums, job->count * sizeof(job->sums[0])};
    job->io.done = sums_moved;
    return &job->io;
}

void integrity_gather(struct integrity_job *job)
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;

    job->pending += 1u + job->partial[0] + job->partial[1];
    dt_io_readv(c, sums_begin(job), w->file.map_fd, &job->iov, 1, integrity_sum_at(w, job->first));
    for (unsigned i = 0; i < 2; i++)
        if (job->partial[i])
            read_edge(job, i);
}

void integrity_put_sums(struct integrity_job *job, void (*then)(struct integrity_job *))
{
    struct dt_ctx *c = job->iio->c;
    const struct integrity *w = c->layer_data;

    job->then = then;
    job->pending = 1;
    dt_io_writev(c, sums_begin(job), w->file.map_fd, &job->iov, 1, integrity_sum_at(w, job->first));
}
