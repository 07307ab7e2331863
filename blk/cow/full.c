/* SPDX-License-Identifier: MIT */
/*
 * full.c - no space left for the overlay: writes wait, with what they have locked, an event tells,
 * and once a second all of them are tried again. Guests would take an error for a broken disk.
 */
#include "blk/cow/internal.h"

#define RETRY         DT_S(1)
#define RETRY_QUIESCE DT_MS(50)

static bool giving_up(struct cow_ctx *cc, uint64_t now)
{
    if (cc->give_up && now >= cc->deadline)
        cc->give_up = 0;
    return cc->give_up && now >= cc->give_up;
}

bool cow_hold(struct cow_job *job)
{
    struct dt_ctx *c = job->cio->c;
    struct cow_ctx *cc = c->data;
    struct cow *w = c->layer_data;

    if (w->on_full == FULL_FAIL || giving_up(cc, dt_clock_ns()))
        return false;
    dt_count(c, HELD, 1);
    cow_jobs_add(&cc->held, job);
    if (!cc->full)
        dt_layer_event(w->layer, "full",
                       "no space left for %s: writes are held and tried again every second",
                       w->overlay);
    cc->full = true;
    if (!cc->retry.heap_index)
        dt_timer_set(c, &cc->retry, dt_now(c) + (cc->give_up ? RETRY_QUIESCE : RETRY));
    return true;
}

static void retry(struct dt_timer *timer)
{
    struct cow_ctx *cc = container_of(timer, struct cow_ctx, retry);
    struct cow *w = cc->c->layer_data;
    struct cow_job *job = cc->held.head, *next;
    bool fail = w->on_full == FULL_FAIL || giving_up(cc, dt_now(cc->c));

    if (!cc->full)
        return;
    if (!job) {
        cc->full = false;
        dt_layer_event(w->layer, "resumed", "%s takes writes again", w->overlay);
        return;
    }
    dt_timer_set(cc->c, timer, dt_now(cc->c) + (cc->give_up ? RETRY_QUIESCE : RETRY));
    cow_jobs_init(&cc->held);
    for (; job; job = next) {
        next = job->next;
        if (fail)
            cow_job_finish(job, -ENOSPC);
        else
            cow_job_run(job);
    }
}

void cow_full_start(struct cow_ctx *cc)
{
    cow_jobs_init(&cc->held);
    cc->retry.fire = retry;
}

/* Space may still appear until shortly before the deadline; then the guest must be told. */
void cow_full_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct cow_ctx *cc = c->data;
    uint64_t now = dt_clock_ns();
    uint64_t left = deadline > now ? deadline - now : 0;

    cc->deadline = deadline;
    cc->give_up = MAX(1u, deadline - MIN(deadline, MIN(left / 4, DT_MS(200))));
    if (cc->full)
        dt_timer_set(c, &cc->retry, now);
}
