/* SPDX-License-Identifier: MIT */
/*
 * request.c - the guest's requests on their way to both chains.
 *
 * What the second chain gets is a private copy, because the guest's request may be over before that
 * has answered. A job is over when both sides have answered; until then its range is locked.
 */
#include "blk/twin/twin.h"

#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define LOOSE     ((struct twin_job *)1) /* a frame's: to the first chain alone, and without a lock */
#define BURST     64u
#define MAX_BYTES (1u << COPYPOOL_MAX_SHIFT)

static struct twin_frame *frame_of(const struct twin *t, struct dt_req *req)
{
    return dt_frame(t->c, req);
}

static bool writes(uint8_t op)
{
    return op == DT_OP_WRITE || op == DT_OP_WRITE_ZEROES;
}

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
static struct twin_job *job_begin(struct twin *t, struct dt_req *req, bool both)
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
    frame_of(t, req)->job = job;
    return job;
}

/* ---- Without a lock -------------------------------------------------------------------------- */

static void tie(struct twin *t, struct dt_req *req)
{
    struct dt_req **at = &t->loose;

    while (*at != req)
        at = &frame_of(t, *at)->next;
    *at = frame_of(t, req)->next;
}

bool twin_any_loose(const struct twin *t, uint64_t sector, uint64_t sectors)
{
    for (struct dt_req *req = t->loose; req; req = frame_of(t, req)->next)
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
    if (writes(job->op) && (job->error[FIRST] || job->error[SECOND]))
        twin_mark(t, job->sector, job->sectors);
    else if (job->op == DT_OP_FLUSH && job->error[SECOND])
        twin_mark_all(t); /* nobody knows what it did not keep */
}

void twin_job_end(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (!job->guest && writes(job->op))
        t->early--;
    if (job->locked)
        dt_range_unlock(t->c, &job->range);
    job_put(job);
}

/* True: the guest may have its answer. */
static bool both_done(struct twin_job *job)
{
    struct twin *t = job->io.t;

    if (t->sealed_until && job->guest && job->error[SECOND] && !job->error[FIRST]) {
        if (dt_clock_ns() >= t->rest_until) {
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
        dt_complete_one(t->c, guest, guest->error);
    twin_run_waiting(t);
    twin_catch_up(t);
}

static uint64_t hash_of(struct twin *t, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(t->c, req, &iov);
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    for (unsigned i = 0; i < n; i++)
        XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
    return XXH3_64bits_digest(&state);
}

/* True: the guest gets its answer now. */
static bool first_done(struct twin_job *job, struct dt_req *req)
{
    struct twin *t = job->io.t;

    job->error[FIRST] = req->error;
    job->left &= (uint8_t) ~(1u << FIRST);
    if (job->sent_second)
        note_latency(job, FIRST);
    if (job->op == DT_OP_READ && !req->error)
        job->hash[FIRST] = hash_of(t, req);
    if (!job->left)
        return both_done(job);
    if (job->holds)
        return false;
    job->guest = NULL;
    t->early += writes(job->op);
    return true;
}

void twin_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct twin *t = c->layer_data;
    unsigned up = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct twin_job *job = frame_of(t, req)->job;

        if (job == LOOSE)
            tie(t, req);
        else if (job && !first_done(job, req))
            continue;
        reqs[up++] = req;
    }
    if (up)
        dt_complete(c, reqs, up);
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

static void send_second(struct twin_job *job, const struct dt_req *req)
{
    job->io.done = second_done;
    job->left |= 1u << SECOND;
    job->sent_second = true;
    twin_send(&job->io, (enum dt_op)req->op,
              req->flags & (DT_REQ_REPLAYED | DT_REQ_UNMAP | DT_REQ_FUA), req->sector, req->sectors,
              dt_req_has_data(req) ? 1 : 0);
}

static void go_loose(struct twin *t, struct dt_req *req)
{
    frame_of(t, req)->job = LOOSE;
    frame_of(t, req)->next = t->loose;
    t->loose = req;
    if (!twin_all_dirty(t, req->sector, req->sectors))
        dt_count(t->c, TWIN_MISSED, 1);
    twin_mark(t, req->sector, req->sectors);
    twin_spoil(t, req->sector, req->sectors);
}

static bool is_wanted(const struct twin *t, const struct dt_req *req)
{
    return t->wanted != NO_REGION && dt_req_overlaps(req, t->wanted << t->shift, 1ull << t->shift);
}

enum way { DOWN, WAIT, FINISHED };

/* What a discard leaves is nobody's to tell, so it is read from the first chain and copied. */
static enum way begin_hint(struct twin *t, struct dt_req *req)
{
    if (!t->sealed_until) {
        go_loose(t, req);
        return DOWN;
    }
    req->error = req->op == DT_OP_DISCARD ? 0 : -EOPNOTSUPP;
    return FINISHED;
}

static enum way begin_write(struct twin *t, struct dt_req *req)
{
    bool step = twin_in_step(t), both;
    struct twin_job *job;

    if (req->sectors == 0)
        return FINISHED;
    if (req->op == DT_OP_DISCARD || (req->op == DT_OP_WRITE_ZEROES &&
                                     (!t->can_zero || (t->max_zero && req->sectors > t->max_zero))))
        return begin_hint(t, req);
    both = !twin_all_dirty(t, req->sector, req->sectors);
    job = step && is_wanted(t, req) ? NULL : job_begin(t, req, both);
    if (!job && step)
        return WAIT;
    if (!job) {
        go_loose(t, req);
        return DOWN;
    }
    if (!both)
        return DOWN; /* its lock keeps the copying away until it is done */
    if (job->buffer) {
        const struct iovec *iov;
        unsigned n = dt_req_map(t->c, req, &iov);

        dt_iov_read(iov, n, 0, job->buffer, job->io.iov.iov_len);
    }
    dt_count(t->c, TWIN_BOTH, 1);
    send_second(job, req);
    return DOWN;
}

static enum way begin_flush(struct twin *t, struct dt_req *req)
{
    struct twin_job *job = t->dirty < t->regions ? job_begin(t, req, true) : NULL;

    if (job)
        send_second(job, req);
    else if (t->dirty < t->regions && twin_in_step(t))
        return WAIT;
    return DOWN;
}

static enum way begin_read(struct twin *t, struct dt_req *req)
{
    struct twin_job *job;

    if (t->compares && req->sectors && !twin_any_dirty(t, req->sector, req->sectors) &&
        (job = job_begin(t, req, true)) != NULL)
        send_second(job, req);
    return DOWN;
}

static enum way begin(struct twin *t, struct dt_req *req)
{
    frame_of(t, req)->job = NULL;
    if (t->absent[0])
        return DOWN;
    if (req->op == DT_OP_READ)
        return begin_read(t, req);
    return req->op == DT_OP_FLUSH ? begin_flush(t, req) : begin_write(t, req);
}

static void wait_add(struct twin *t, struct dt_req *req)
{
    dt_count(t->c, TWIN_WAITED, 1);
    frame_of(t, req)->next = NULL;
    *t->wait_tail = req;
    t->wait_tail = &frame_of(t, req)->next;
}

/* In order; the first that must wait on keeps the others. */
void twin_run_waiting(struct twin *t)
{
    if (t->running)
        return; /* from within itself: the loop goes on */
    t->running = true;
    while (t->wait_head) {
        struct dt_req *req = t->wait_head, *next = frame_of(t, req)->next;
        enum way way = begin(t, req); /* its frame may link it elsewhere now */

        if (way == WAIT)
            break;
        t->wait_head = next;
        if (!next)
            t->wait_tail = &t->wait_head;
        if (way == DOWN)
            dt_forward_one(t->c, req);
        else
            dt_complete_one(t->c, req, req->error);
    }
    t->running = false;
}

void twin_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct twin *t = c->layer_data;
    struct dt_req *down[BURST];
    unsigned count = 0;

    for (unsigned i = 0; i < n; i++) {
        bool reads = reqs[i]->op == DT_OP_READ;
        enum way way = t->wait_head && !reads ? WAIT : begin(t, reqs[i]);

        if (way == WAIT)
            wait_add(t, reqs[i]);
        else if (way == FINISHED)
            dt_complete_one(c, reqs[i], reqs[i]->error);
        else
            down[count++] = reqs[i];
        if (count == BURST) {
            dt_forward(c, down, count);
            count = 0;
        }
    }
    if (count)
        dt_forward(c, down, count);
}

/* ---- Pace, and rest -------------------------------------------------------------------------- */

/* The disk does without a chain that answers nothing; what it had not answered is dirty. */
static void leave_behind(struct twin *t)
{
    struct twin_job *job, *next;

    t->lagging = true;
    t->equal = false;
    dt_layer_event(t->layer, "lagging", "'%.200s' has not answered for %llu ms: it is left behind",
                   t->to, (unsigned long long)(t->timeout / DT_MS(1)));
    for (job = t->job_head; job; job = next) {
        struct dt_req *guest = job->guest;

        next = job->next;
        if (!guest || !job->holds || job->left != 1u << SECOND)
            continue;
        if (writes(job->op))
            twin_mark(t, job->sector, job->sectors);
        job->guest = NULL;
        t->early += writes(job->op);
        dt_complete_one(t->c, guest, job->error[FIRST]);
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

unsigned twin_admit(struct dt_ctx *c, unsigned want)
{
    const struct twin *t = c->layer_data;

    if (t->absent[0] || !twin_in_step(t))
        return want;
    return lane_admit(t->lane, want);
}

void twin_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct twin *t = c->layer_data;

    t->rest_until = deadline;
    twin_give_up_stuck(t);
    if (!t->absent[0])
        lane_release(t->lane, deadline);
}

int twin_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct twin *t = c->layer_data;

    for (struct dt_req **at = &t->wait_head; *at; at = &frame_of(t, *at)->next)
        if (*at == req) {
            *at = frame_of(t, req)->next;
            if (t->wait_tail == &frame_of(t, req)->next)
                t->wait_tail = at;
            dt_complete_one(c, req, -ECANCELED);
            return 0;
        }
    return -EBUSY; /* the chains have it */
}
