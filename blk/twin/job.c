/* SPDX-License-Identifier: MIT */
/*
 * job.c - requests that both chains get, until both have answered; and those that the first one gets alone.
 *
 * What the second chain gets is a private copy, because the guest's request may be over before that
 * has answered. A job is over when both sides have answered; until then its range is locked.
 */
#include "blk/twin/twin.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define MAX_BYTES (1u << COPYPOOL_MAX_SHIFT)

/* ---- Jobs ------------------------------------------------------------------------------------ */

static struct twin_job *job_get(struct twin *t)
{
    struct twin_job *job = t->job_free;

    if (!job)
        return NULL;
    t->job_free = job->next;
    job->prev = NULL;
    job->next = t->job_head;
    if (t->job_head)
        t->job_head->prev = job;
    t->job_head = job;
    t->active++;
    job->buffer = NULL;
    job->locked = job->sent_second = job->stuck = job->holds = false;
    job->error[FIRST] = job->error[SECOND] = 0;
    return job;
}

static void job_put(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (job->buffer)
        copypool_put(&t->pool, job->buffer);
    if (job->next)
        job->next->prev = job->prev;
    if (job->prev)
        job->prev->next = job->next;
    else
        t->job_head = job->next;
    job->next = t->job_free;
    t->job_free = job;
    t->active--;
}

/* A job with a buffer for the second chain, if that gets data, and unless it is a flush its lock;
 * NULL: not now. */
struct twin_job *twin_job_begin(struct twin *t, struct dt_req *req, bool both)
{
    size_t bytes = both && dt_req_has_data(req) ? dt_req_bytes(req) : 0;
    struct twin_job *job = bytes <= MAX_BYTES ? job_get(t) : NULL;

    if (!job)
        return NULL;
    job->buffer = bytes ? copypool_get(&t->pool, bytes, 0) : NULL;
    if (bytes && !job->buffer) {
        job_put(job);
        return NULL;
    }
    job->locked = req->sectors && dt_range_try(t->c, &job->range, req->sector, req->sectors);
    if (req->sectors && !job->locked) {
        job_put(job);
        return NULL;
    }
    job->io.iov = (struct iovec){job->buffer, bytes};
    job->guest = req;
    job->op = req->op;
    job->sector = req->sector;
    job->sectors = req->sectors;
    job->sent = dt_now(t->c);
    job->left = 1u << FIRST;
    job->holds = twin_in_step(t) && req->op != DT_OP_READ;
    twin_frame(t, req)->job = job;
    if (twin_writes(req->op))
        twin_live_write(t, job);
    return job;
}

/* ---- Without a lock -------------------------------------------------------------------------- */

static void tie(struct twin *t, struct dt_req *req)
{
    struct dt_req **at = &t->loose;

    while (*at != req)
        at = &twin_frame(t, *at)->next;
    *at = twin_frame(t, req)->next;
}

bool twin_any_loose(const struct twin *t, uint64_t sector, uint64_t sectors)
{
    for (struct dt_req *req = t->loose; req; req = twin_frame(t, req)->next)
        if (dt_req_overlaps(req, sector, sectors))
            return true;
    return false;
}

/* ---- What both have answered ----------------------------------------------------------------- */

static void note_latency(struct twin_job *job, enum twin_side side)
{
    if (job->op == DT_OP_READ || job->op == DT_OP_WRITE)
        histogram_add(job->io.t->latency[job->op == DT_OP_WRITE][side], dt_clock_ns() - job->sent);
}

static void compare(struct twin_job *job)
{
    struct twin *t = job->io.t;
    const int *error = job->error;

    if (!t->compares || error[FIRST] == -ECANCELED || error[SECOND] == -ECANCELED)
        return;
    if (!error[FIRST] != !error[SECOND]) {
        dt_count(t->c, TWIN_DIFFERENT_ERRORS, 1);
        dt_layer_event(t->layer, "shadow-differs",
                       "%s of %u sectors at %llu: the disk says '%s', its shadow '%s'",
                       dt_op_name(job->op), job->sectors, (unsigned long long)job->sector,
                       error[FIRST] ? strerror(-error[FIRST]) : "done",
                       error[SECOND] ? strerror(-error[SECOND]) : "done");
        return;
    }
    if (job->op != DT_OP_READ || error[FIRST] || twin_any_dirty(t, job->sector, job->sectors))
        return;
    dt_count(t->c, TWIN_COMPARED, 1);
    if (job->hash[FIRST] == job->hash[SECOND])
        return;
    if (t->first_mismatch == UINT64_MAX)
        t->first_mismatch = job->sector;
    dt_count(t->c, TWIN_MISMATCHES, 1);
    dt_layer_event(t->layer, "shadow-mismatch",
                   "%u sectors at %llu read differently from the disk and its shadow", job->sectors,
                   (unsigned long long)job->sector);
}

static void note_differences(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (!job->sent_second)
        return;
    compare(job);
    if (job->error[SECOND] && job->op != DT_OP_READ)
        dt_count(t->c, TWIN_FAILURES, 1);
    if (twin_writes(job->op) && (job->error[FIRST] || job->error[SECOND]))
        twin_mark(t, job->sector, job->sectors);
    else if (job->op == DT_OP_FLUSH && job->error[SECOND])
        twin_mark_all(t); /* nobody knows what it did not keep */
}

void twin_job_end(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (!job->guest && twin_writes(job->op))
        t->early--;
    if (twin_writes(job->op))
        twin_live_written(t, job);
    if (job->locked)
        dt_range_unlock(t->c, &job->range);
    job_put(job);
}

/* True: the guest may have its answer. */
static bool both_done(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (t->sealed_until && job->guest && job->error[SECOND] && !job->error[FIRST]) {
        if (!rests(&t->rest, t->c)) {
            job->stuck = true;
            return false;
        }
        job->guest->error = -ECANCELED; /* left to whoever serves next */
    }
    note_differences(job);
    twin_job_end(job);
    return true;
}

static void second_done(struct twin_io *io, int error)
{
    struct twin_job *job = container_of(io, struct twin_job, io);
    struct twin *t = io->t;
    struct dt_req *guest;

    job->error[SECOND] = error;
    job->left &= (uint8_t) ~(1u << SECOND);
    note_latency(job, SECOND);
    if (job->op == DT_OP_READ && !error)
        job->hash[SECOND] = XXH3_64bits(job->buffer, io->iov.iov_len);
    if (job->left)
        return;
    guest = job->guest;
    if (!both_done(job))
        return;
    if (guest)
        twin_answer(t, guest, guest->error);
    twin_run_waiting(t);
    twin_catch_up(t);
}

/* True: the guest gets its answer now. */
static bool first_done(struct twin_job *job, struct dt_req *req)
{
    struct twin *t = job->io.t;

    job->error[FIRST] = req->error;
    job->left &= (uint8_t) ~(1u << FIRST);
    if (job->sent_second)
        note_latency(job, FIRST);
    if (!job->left)
        return both_done(job);
    if (job->holds)
        return false;
    job->guest = NULL;
    t->early += twin_writes(job->op);
    return true;
}

/* True: the guest gets its answer now. */
bool twin_first_answered(struct twin *t, struct dt_req *req)
{
    struct twin_job *job = twin_frame(t, req)->job;

    if (job == TWIN_LOOSE)
        tie(t, req);
    return job == TWIN_LOOSE || !job || first_done(job, req);
}

void twin_end(struct twin *t, struct dt_req *req)
{
    if (twin_first_answered(t, req))
        twin_answer(t, req, req->error);
    twin_run_waiting(t);
    twin_catch_up(t);
}

/* ---- On their way ---------------------------------------------------------------------------- */

void twin_send(struct twin_io *io, enum dt_op op, uint8_t flags, uint64_t sector, uint32_t sectors,
               unsigned niov)
{
    struct request *r = &io->req;

    r->pub =
        (struct dt_req){.op = (uint8_t)op, .flags = flags, .sector = sector, .sectors = sectors};
    r->iov = &io->iov;
    r->niov = niov;
    ctx_busy(io->t->c, 1);
    lane_submit(io->t->lane, &r, 1);
}

void twin_send_second(struct twin_job *job, const struct dt_req *req)
{
    job->io.done = second_done;
    job->left |= 1u << SECOND;
    job->sent_second = true;
    twin_send(&job->io, (enum dt_op)req->op,
              req->flags & (DT_REQ_REPLAYED | DT_REQ_UNMAP | DT_REQ_FUA), req->sector, req->sectors,
              dt_req_has_data(req) ? 1 : 0);
}

/* ---- Pace ------------------------------------------------------------------------------------ */

/* The disk does without a chain that answers nothing; what it had not answered is dirty. */
static void leave_behind(struct twin *t)
{
    struct twin_job *job, *next;

    t->lagging = true;
    t->equal = false;
    t->wanted = NO_REGION;
    dt_layer_event(t->layer, "lagging", "'%.200s' has not answered for %llu ms: it is left behind",
                   t->to, (unsigned long long)(t->timeout / DT_MS(1)));
    for (job = t->job_head; job; job = next) {
        struct dt_req *guest = job->guest;

        next = job->next;
        if (!guest || !job->holds || job->left != 1u << SECOND)
            continue;
        if (twin_writes(job->op))
            twin_mark(t, job->sector, job->sectors);
        job->guest = NULL;
        t->early += twin_writes(job->op);
        twin_answer(t, guest, job->error[FIRST]);
    }
    twin_run_waiting(t);
}

void twin_judge_pace(struct twin *t)
{
    uint64_t now = dt_clock_ns();

    if (t->sealed_until || t->absent[0])
        return;
    if (t->lagging) {
        t->lagging = t->active > 0;
        return;
    }
    for (struct twin_job *job = t->job_head; t->sync && job; job = job->next)
        if (job->holds && job->left == 1u << SECOND && now - job->sent > t->timeout) {
            leave_behind(t);
            return;
        }
}
