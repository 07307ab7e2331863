/* SPDX-License-Identifier: MIT */
/*
 * request.c - the guest's requests on their way to both chains. All of it runs on the first thread, but for what stands
 * under "Any thread".
 */
#include "blk/twin/twin.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BURST 64u

/* ---- On their way ---------------------------------------------------------------------------- */

static void go_loose(struct twin *t, struct dt_req *req)
{
    twin_holes_touch(t, req->sector, req->sectors);
    twin_frame(t, req)->job = TWIN_LOOSE;
    twin_frame(t, req)->next = t->loose;
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
    job = step && is_wanted(t, req) ? NULL : twin_job_begin(t, req, both);
    if (!job && step)
        return WAIT;
    if (!job) {
        go_loose(t, req);
        return DOWN;
    }
    twin_holes_touch(t, req->sector, req->sectors);
    if (!both)
        return DOWN; /* its lock keeps the copying away until it is done */
    if (job->buffer) {
        const struct iovec *iov;
        unsigned n = dt_req_map(t->c, req, &iov);

        dt_iov_read(iov, n, 0, job->buffer, job->io.iov.iov_len);
    }
    dt_count(t->c, TWIN_BOTH, 1);
    twin_send_second(job, req);
    return DOWN;
}

static enum way begin_flush(struct twin *t, struct dt_req *req)
{
    struct twin_job *job = t->dirty < t->regions ? twin_job_begin(t, req, true) : NULL;

    if (job)
        twin_send_second(job, req);
    else if (t->dirty < t->regions && twin_in_step(t))
        return WAIT;
    return DOWN;
}

static enum way begin_read(struct twin *t, struct dt_req *req)
{
    struct twin_job *job;

    if (t->compares && req->sectors && !twin_any_dirty(t, req->sector, req->sectors) &&
        (job = twin_job_begin(t, req, true)) != NULL)
        twin_send_second(job, req);
    return DOWN;
}

/* What other threads take from their rings was not admitted by the second chain. */
static bool is_admitted(struct twin *t, struct dt_req *req)
{
    return twin_frame(t, req)->c == t->c || !twin_in_step(t) || rests(&t->rest, t->c) ||
           lane_admit(t->lane, 1);
}

static enum way begin(struct twin *t, struct dt_req *req)
{
    twin_frame(t, req)->job = NULL;
    if (t->absent[0])
        return DOWN;
    if (req->op == DT_OP_READ)
        return begin_read(t, req);
    if (!is_admitted(t, req))
        return WAIT;
    return req->op == DT_OP_FLUSH ? begin_flush(t, req) : begin_write(t, req);
}

static void wait_add(struct twin *t, struct dt_req *req)
{
    dt_count(t->c, TWIN_WAITED, 1);
    twin_frame(t, req)->next = NULL;
    *t->wait_tail = req;
    t->wait_tail = &twin_frame(t, req)->next;
}

/* In order; the first that must wait on keeps the others. */
void twin_run_waiting(struct twin *t)
{
    if (t->running)
        return; /* from within itself: the loop goes on */
    t->running = true;
    while (t->wait_head) {
        struct dt_req *req = t->wait_head, *next = twin_frame(t, req)->next;
        enum way way = begin(t, req); /* its frame may link it elsewhere now */

        if (way == WAIT)
            break;
        t->wait_head = next;
        if (!next)
            t->wait_tail = &t->wait_head;
        if (way == DOWN)
            twin_forward(t, req);
        else
            twin_answer(t, req, req->error);
    }
    t->running = false;
}

/* The guest's requests come again: whoever wanted the device at rest has had it. */
static void look_at_rest(struct twin *t, const struct dt_req *req)
{
    if (unlikely(rest_ended_by(&t->rest, t->c, req)))
        twin_catch_up(t);
}

static enum way begin_in_turn(struct twin *t, struct dt_req *req)
{
    enum way way = t->wait_head && req->op != DT_OP_READ ? WAIT : begin(t, req);

    if (way == WAIT)
        wait_add(t, req);
    return way;
}

void twin_begin(struct twin *t, struct dt_req *req)
{
    enum way way;

    look_at_rest(t, req);
    way = begin_in_turn(t, req);
    if (way == DOWN)
        twin_forward(t, req);
    else if (way == FINISHED)
        twin_answer(t, req, req->error);
}

/* ---- Any thread ------------------------------------------------------------------------------ */

static uint64_t hash_of(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    for (unsigned i = 0; i < n; i++)
        XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
    return XXH3_64bits_digest(&state);
}

/* Only what the second chain gets, or lacks from then on. */
static bool concerns(const struct twin *t, const struct dt_req *req)
{
    return !t->absent[0] && (req->op != DT_OP_READ || t->compares);
}

static enum way submit_one(struct dt_ctx *c, struct dt_req *req)
{
    struct twin *t = c->layer_data;
    struct twin_frame *f = dt_frame(c, req);

    f->c = c;
    f->job = NULL;
    __atomic_store_n(&f->cancel, false, __ATOMIC_RELAXED);
    if (twin_at_home(c))
        return begin_in_turn(t, req);
    if (!concerns(t, req))
        return DOWN;
    twin_hop_begin(c, req);
    return WAIT;
}

void twin_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct dt_req *down[BURST];
    unsigned count = 0;

    if (twin_at_home(c))
        look_at_rest(c->layer_data, reqs[0]);
    for (unsigned i = 0; i < n; i++) {
        enum way way = submit_one(c, reqs[i]);

        if (way == FINISHED)
            dt_complete_one(c, reqs[i], reqs[i]->error);
        else if (way == DOWN)
            down[count++] = reqs[i];
        if (count == BURST) {
            dt_forward(c, down, count);
            count = 0;
        }
    }
    if (count)
        dt_forward(c, down, count);
}

void twin_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct twin *t = c->layer_data;
    unsigned up = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct twin_job *job = ((struct twin_frame *)dt_frame(c, req))->job;

        if (job && req->op == DT_OP_READ && !req->error)
            job->hash[FIRST] = hash_of(c, req);
        if (job && !twin_at_home(c))
            twin_hop_end(c, req);
        else if (!job || twin_first_answered(t, req))
            reqs[up++] = req;
    }
    if (up)
        dt_complete(c, reqs, up);
    if (twin_at_home(c)) {
        twin_run_waiting(t);
        twin_catch_up(t);
    }
}

unsigned twin_admit(struct dt_ctx *c, unsigned want)
{
    const struct twin *t = c->layer_data;

    if (!twin_at_home(c) || t->absent[0] || !twin_in_step(t))
        return want;
    return lane_admit(t->lane, want);
}

void twin_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    if (twin_at_home(c))
        twin_rest(c->layer_data, deadline);
    else
        twin_hop_rest(c, deadline);
}

/* Its own thread cannot take it out of the list: the first one does, at its next tick. */
int twin_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct twin *t = c->layer_data;

    __atomic_store_n(&((struct twin_frame *)dt_frame(c, req))->cancel, true, __ATOMIC_RELAXED);
    if (!twin_at_home(c))
        return -EBUSY;
    return twin_run_cancelled(t, req) ? 0 : -EBUSY; /* the chains have it */
}

/* ---- Rest ------------------------------------------------------------------------------------ */

/* While it rests nothing is copied, so nothing may wait for that either. */
void twin_rest(struct twin *t, uint64_t deadline)
{
    rest_begin(&t->rest, deadline);
    twin_give_up_stuck(t);
    t->wanted = NO_REGION;
    twin_run_waiting(t);
    if (!t->absent[0])
        lane_release(t->lane, deadline);
}

bool twin_run_cancelled(struct twin *t, const struct dt_req *wanted)
{
    struct dt_req **at = &t->wait_head;
    bool found = false;

    while (*at) {
        struct dt_req *req = *at;
        struct twin_frame *f = twin_frame(t, req);

        if (!__atomic_load_n(&f->cancel, __ATOMIC_RELAXED)) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        if (!*at)
            t->wait_tail = at;
        found |= req == wanted;
        twin_answer(t, req, -ECANCELED);
    }
    return found;
}
