/* SPDX-License-Identifier: MIT */
/*
 * hop.c - requests of the disk's other threads.
 *
 * All that the layer knows belongs to the first thread, so a write needs four hops: there, to be judged and sent to the
 * second chain; back, to be sent down by its own thread; there, when the first chain has answered; and back with the
 * answer. No request waits for a lock of another thread, and two writes that overlap are put in order in one place,
 * whichever queues they come from. A request is on one hop at a time, so its frame has the message.
 */
#include "blk/twin/twin.h"

static void hop(struct twin_frame *f, struct loop *to, void (*run)(struct loop_message *message))
{
    f->message.run = run;
    loop_post(to, &f->message);
}

static struct loop *home(const struct dt_ctx *c)
{
    return layer_loop(c->layer, 0);
}

static struct dt_req *arrived(struct loop_message *message, struct dt_ctx **c)
{
    struct twin_frame *f = container_of(message, struct twin_frame, message);

    *c = f->c;
    return dt_frame_req(f->c, f);
}

/* ---- To the first thread --------------------------------------------------------------------- */

static void run_begin(struct loop_message *message)
{
    struct dt_ctx *c;
    struct dt_req *req = arrived(message, &c);

    twin_begin(c->layer_data, req);
}

static void run_end(struct loop_message *message)
{
    struct dt_ctx *c;
    struct dt_req *req = arrived(message, &c);

    twin_end(c->layer_data, req);
}

void twin_hop_begin(struct dt_ctx *c, struct dt_req *req)
{
    hop(dt_frame(c, req), home(c), run_begin);
}

void twin_hop_end(struct dt_ctx *c, struct dt_req *req)
{
    hop(dt_frame(c, req), home(c), run_end);
}

static void run_rest(struct loop_message *message)
{
    struct twin_ctx *tc = container_of(message, struct twin_ctx, message);
    struct twin *t = tc->c->layer_data;

    __atomic_store_n(&tc->posted, false, __ATOMIC_RELEASE);
    if (t->c)
        twin_rest(t, __atomic_load_n(&tc->deadline, __ATOMIC_ACQUIRE));
}

void twin_hop_rest(struct dt_ctx *c, uint64_t deadline)
{
    struct twin_ctx *tc = c->data;

    __atomic_store_n(&tc->deadline, deadline, __ATOMIC_RELEASE);
    if (__atomic_exchange_n(&tc->posted, true, __ATOMIC_ACQ_REL))
        return;
    tc->c = c;
    tc->message.run = run_rest;
    loop_post(home(c), &tc->message);
}

/* ---- And from there -------------------------------------------------------------------------- */

static void run_forward(struct loop_message *message)
{
    struct dt_ctx *c;
    struct dt_req *req = arrived(message, &c);

    dt_forward_one(c, req);
}

static void run_answer(struct loop_message *message)
{
    struct dt_ctx *c;
    struct dt_req *req = arrived(message, &c);

    dt_complete_one(c, req, req->error);
}

void twin_forward(struct twin *t, struct dt_req *req)
{
    struct twin_frame *f = twin_frame(t, req);

    if (f->c == t->c)
        dt_forward_one(t->c, req);
    else
        hop(f, ctx_loop(f->c), run_forward);
}

void twin_answer(struct twin *t, struct dt_req *req, int error)
{
    struct twin_frame *f = twin_frame(t, req);

    req->error = error;
    if (f->c == t->c)
        dt_complete_one(t->c, req, error);
    else
        hop(f, ctx_loop(f->c), run_answer);
}
