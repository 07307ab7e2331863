/* SPDX-License-Identifier: MIT */
/* job.c - what takes more than one transfer: its memory, its locks, its I/O. */
#include "blk/cache/internal.h"

/* ---- The pool ------------------------------------------------------------------------------- */

void jobs_init(struct cache *k)
{
    k->jobs = xaligned(CACHE_LINE, JOBS * sizeof(*k->jobs));
    for (unsigned i = 0; i < JOBS; i++) {
        k->jobs[i].k = k;
        k->jobs[i].buffer = xaligned(PAGE_SIZE_4K, BUFFER);
        k->jobs[i].next = k->free_jobs;
        k->free_jobs = &k->jobs[i];
    }
    frame_list_init(&k->waiting);
}

void jobs_fini(struct cache *k)
{
    CHECK(!k->waiting.head);
    for (unsigned i = 0; i < JOBS; i++)
        free(k->jobs[i].buffer);
    free(k->jobs);
    k->jobs = k->free_jobs = NULL;
}

struct job *job_take(struct cache *k, struct dt_req *req)
{
    struct job *job = k->free_jobs;

    if (!job) {
        if (req)
            frame_list_add(&k->waiting, dt_frame(k->c, req));
        return NULL;
    }
    k->free_jobs = job->next;
    job->req = req;
    job->done = 0;
    job->error = 0;
    job->locked = false;
    return job;
}

void job_free(struct job *job)
{
    struct cache *k = job->k;
    struct cache_frame *fr;

    job->next = k->free_jobs;
    k->free_jobs = job;
    fr = frame_list_take(&k->waiting);
    if (fr)
        cache_begin(k, frame_req(fr));
}

/* ---- Locks and steps ------------------------------------------------------------------------ */

static void range_granted(struct dt_ctx *c, struct dt_range *range)
{
    struct job *job = container_of(range, struct job, range);

    job->step(job);
}

void job_lock(struct job *job, void (*step)(struct job *job))
{
    struct cache *k = job->k;
    uint64_t first = job->req->sector >> k->shift;
    uint64_t end = (job->req->sector + job->req->sectors - 1) >> k->shift;

    job->step = step;
    job->locked = true;
    job->range.granted = range_granted;
    if (dt_range_lock(k->c, &job->range, first << k->shift, (end - first + 1) << k->shift))
        step(job);
}

void job_unlock(struct job *job)
{
    if (job->locked)
        dt_range_unlock(job->k->c, &job->range);
    job->locked = false;
}

void job_end(struct job *job)
{
    struct cache *k = job->k;
    struct dt_req *req = job->req;
    int error = job->error;

    job_unlock(job);
    job_free(job);
    cache_finish(k, req, error);
}

void job_go(struct job *job, void (*step)(struct job *job))
{
    job->step = step;
    job->pending = 1;
    job->nios = job->nslices = 0;
}

void job_done(struct job *job, int error)
{
    if (error && !job->error)
        job->error = error;
    if (--job->pending == 0)
        job->step(job);
}

/* ---- Blocks --------------------------------------------------------------------------------- */

void job_piece(struct job *job, uint32_t most)
{
    const struct cache *k = job->k;
    uint64_t end = job->req->sector + job->req->sectors, last;

    job->at = job->req->sector + job->done;
    job->first = job->at >> k->shift;
    last = MIN((end - 1) >> k->shift, job->first + most - 1);
    job->blocks = (uint32_t)(last - job->first + 1);
    job->sectors = (uint32_t)(MIN(end, (last + 1) << k->shift) - job->at);
}

unsigned job_find(struct job *job)
{
    unsigned missing = 0;

    for (uint32_t i = 0; i < job->blocks; i++) {
        job->slots[i] = index_find(job->k, job->first + i);
        job->fresh[i] = job->late[i] = 0;
        missing += job->slots[i] == SLOT_NONE;
    }
    return missing;
}

static bool pinned(const struct job *job, uint32_t i)
{
    return job->slots[i] != SLOT_NONE && !job->fresh[i] && !job->late[i];
}

void job_pin(struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (pinned(job, i)) {
            CHECK(++job->k->users[job->slots[i]]);
            job->k->flags[job->slots[i]] |= SLOT_REF;
        }
}

void job_unpin(struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (pinned(job, i))
            job->k->users[job->slots[i]]--;
}

/* ---- I/O on slots --------------------------------------------------------------------------- */

static void io_start(struct job_io *jio);

static void io_done(struct dt_io *io, int result)
{
    struct job_io *jio = container_of(io, struct job_io, io);
    struct job *job = jio->job;

    if (result == -EINTR || result == -EAGAIN) {
        io_start(jio);
        return;
    }
    if (jio->write)
        job->k->commit.unsynced = true;
    job_done(job, result == (int)jio->bytes ? 0 : result < 0 ? result : -EIO);
}

static void io_start(struct job_io *jio)
{
    struct cache *k = jio->job->k;

    jio->io.done = io_done;
    if (jio->write)
        dt_io_writev(k->c, &jio->io, k->file.fd, jio->iov, jio->niov, jio->offset);
    else
        dt_io_readv(k->c, &jio->io, k->file.fd, jio->iov, jio->niov, jio->offset);
}

/* struct run - blocks @from..@to of the piece in slots that follow each other; sectors of the disk.
 */
struct run {
    uint32_t from, to;
    uint64_t sector, end;
};

static struct run run_at(const struct job *job, uint32_t i, const uint8_t *want, bool clip)
{
    struct run run = {.from = i, .to = i};

    while (run.to + 1 < job->blocks && job->slots[run.to + 1] == job->slots[run.to] + 1 &&
           (!want || want[run.to + 1]))
        run.to++;
    run.sector = (job->first + run.from) << job->k->shift;
    run.end = (job->first + run.to + 1) << job->k->shift;
    if (clip) {
        run.sector = MAX(run.sector, job->at);
        run.end = MIN(run.end, job->at + job->sectors);
    }
    return run;
}

static struct job_io *io_of_run(struct job *job, const struct run *run, bool write)
{
    struct job_io *jio = &job->ios[job->nios++];
    uint64_t within = run->sector - ((job->first + run->from) << job->k->shift);

    jio->job = job;
    jio->write = write;
    jio->bytes = (uint32_t)((run->end - run->sector) << DT_SECTOR_SHIFT);
    jio->offset = slot_offset(job->k, job->slots[run->from]) + (within << DT_SECTOR_SHIFT);
    job->pending++;
    return jio;
}

static uint8_t *in_buffer(const struct job *job, uint64_t sector)
{
    return job->buffer + ((sector - (job->first << job->k->shift)) << DT_SECTOR_SHIFT);
}

void job_entered(struct job *job, const uint8_t *which)
{
    for (uint32_t i = 0; i < job->blocks; i++) {
        if (!which[i])
            continue;
        if (job->error)
            index_give_back(job->k, job->slots[i]);
        else
            index_set(job->k, job->slots[i], job->first + i, false);
    }
}

void job_io_buffer(struct job *job, const uint8_t *want, bool write, bool clip)
{
    for (uint32_t i = 0; i < job->blocks; i++) {
        struct job_io *jio;
        struct run run;

        if (job->slots[i] == SLOT_NONE || !want[i])
            continue;
        run = run_at(job, i, want, clip);
        jio = io_of_run(job, &run, write);
        jio->iov = &job->slices[job->nslices++];
        jio->niov = 1;
        *jio->iov = (struct iovec){in_buffer(job, run.sector), jio->bytes};
        io_start(jio);
        i = run.to;
    }
}

bool job_io_guest(struct job *job, bool write)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(job->k->c, job->req, &iov);

    if (!cache_aligned(job->k, iov, n) || n + job->blocks > MAX_SLICES)
        return false;
    for (uint32_t i = 0; i < job->blocks; i++) {
        struct run run = run_at(job, i, NULL, true);
        struct job_io *jio = io_of_run(job, &run, write);
        int got;

        jio->iov = &job->slices[job->nslices];
        got = dt_iov_slice(iov, n, (run.sector - job->req->sector) << DT_SECTOR_SHIFT, jio->bytes,
                           jio->iov, MAX_SLICES - job->nslices);
        CHECK(got > 0);
        jio->niov = (unsigned)got;
        job->nslices += jio->niov;
        io_start(jio);
        i = run.to;
    }
    return true;
}

/* ---- The disk below ------------------------------------------------------------------------- */

static void below_next(struct job *job);

static void below_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct job *job = dt_sub_arg(sub);
    int error = sub->error;

    if (sub->op != DT_OP_READ && job->req) /* destaging flushes for itself */
        job->k->commit.below_unflushed = true;
    job->below_sector += sub->sectors;
    job->below_left -= sub->sectors;
    dt_sub_free(c, sub);
    if (error || job->below_left == 0)
        job_done(job, error);
    else
        below_next(job);
}

/* As much as the disk below takes at a time. */
static void below_next(struct job *job)
{
    struct cache *k = job->k;
    uint32_t most = dt_layer_info(k->layer)->max_sectors ?: UINT32_MAX;
    uint32_t sectors = MIN(job->below_left, most);
    struct dt_req *sub;

    job->sub_iov =
        (struct iovec){in_buffer(job, job->below_sector), (size_t)sectors << DT_SECTOR_SHIFT};
    sub = dt_sub_new(k->c, job->below_op, job->below_sector, sectors, &job->sub_iov, 1, below_done,
                     job);
    CHECK(sub); /* each job has one */
    dt_sub_submit(k->c, sub);
}

void job_below(struct job *job, enum dt_op op, uint64_t sector, uint32_t sectors)
{
    job->below_op = op;
    job->below_sector = sector;
    job->below_left = sectors;
    job->pending++;
    below_next(job);
}

void job_forward(struct job *job, void (*step)(struct job *job))
{
    struct cache_frame *fr = dt_frame(job->k->c, job->req);

    job->step = step;
    job->pending = 1;
    fr->job = job;
    dt_forward_one(job->k->c, job->req);
}
