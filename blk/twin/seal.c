/* SPDX-License-Identifier: MIT */
/*
 * seal.c - the second chain takes the layer's place.
 *
 * Theory of operation: a worker that is confined cannot open the second chain's stores for itself,
 * so a successor does, and the worker may be killed on the way there. The seal is what makes that
 * safe at any moment: what the guest was told is in both chains, and what it was not told is sent
 * again by the keeper. The first chain stays the truth until the successor serves.
 */
#include "blk/twin/twin.h"

#include <stdio.h>

static const char *chain_of(const struct dt_layer *layer)
{
    const struct twin *t = dt_layer_data((struct dt_layer *)(uintptr_t)layer);

    return t->to;
}

static uint64_t count_of(const struct twin *t, enum twin_counter counter)
{
    return t->c->counters[counter];
}

/* A store that lives in this process is empty in the next. */
int twin_judge_store(const struct twin *t, struct dt_error *err)
{
    const struct dt_block_ext *ext = NULL;
    struct chain_spec spec;
    int ret = chain_parse(&spec, t->to, err);

    if (ret < 0)
        return ret;
    ext = registry_find(spec.layers[spec.count - 1].name, err);
    chain_spec_free(&spec);
    if (!ext)
        return -ENOENT;
    return ext->flags & DT_SELF_CONTAINED
               ? dt_fail(err, -EINVAL, "what '%s' holds is gone when it is opened again", ext->name)
               : 0;
}

static int seal(struct dt_layer *layer, bool force, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);
    int ret = 0;

    if (t->absent[0])
        ret = dt_fail(err, -ENODEV, "there is no second chain: %s", t->absent);
    else if (!t->c)
        ret = dt_fail(err, -EBUSY, "it is not running");
    ret = ret ?: twin_judge_store(t, err);
    if (ret < 0 || force)
        return ret;
    if (t->differs != UINT64_MAX)
        return dt_fail(err, -EPERM, "it holds something else than the disk, first in sector %llu",
                       (unsigned long long)t->differs);
    if (!t->equal && !twin_in_step(t) && !t->dirty)
        return dt_fail(err, -EBUSY, "it is not in step: 'devtap set DEVICE %s sync=on' first",
                       dt_layer_name(layer));
    if (!t->equal)
        return dt_fail(err, -EBUSY, "%llu KiB are still to be %s",
                       (unsigned long long)(twin_bytes_left(t) >> 10),
                       twin_judges(t) ? "compared" : "copied");
    if (count_of(t, TWIN_MISMATCHES) || count_of(t, TWIN_DIFFERENT_ERRORS))
        return dt_fail(err, -EPERM,
                       "it answered differently from the disk, %llu times with other data and %llu "
                       "times with other errors (--force if you know why)",
                       (unsigned long long)count_of(t, TWIN_MISMATCHES),
                       (unsigned long long)count_of(t, TWIN_DIFFERENT_ERRORS));
    t->sealed_until = dt_clock_ns() + SEAL_NS;
    return 0;
}

static void end_stuck(struct twin *t, bool served)
{
    struct twin_job *job, *next;

    for (job = t->job_head; job; job = next) {
        struct dt_req *guest = job->guest;

        next = job->next;
        if (!job->stuck)
            continue;
        twin_mark(t, job->sector, job->sectors);
        twin_job_end(job);
        twin_answer(t, guest, served ? 0 : -ECANCELED);
    }
}

void twin_unseal(struct twin *t)
{
    t->sealed_until = 0;
    end_stuck(t, true);
    twin_run_waiting(t);
    twin_catch_up(t);
}

void twin_give_up_stuck(struct twin *t)
{
    end_stuck(t, false);
}

static void let_go(struct dt_layer *layer)
{
    struct twin *t = dt_layer_data(layer);

    if (!t->dev)
        return;
    twin_live_end(t);
    device_stop(t->dev);
    device_free(t->dev);
    t->dev = NULL;
    t->lane = NULL;
    snprintf(t->absent, sizeof(t->absent), "it was handed over, and that failed");
}

/* Nothing was written meanwhile; yet who tried to open it may have changed it. */
static void take_back(struct dt_layer *layer)
{
    struct twin *t = dt_layer_data(layer);

    t->sealed_until = 0;
    t->equal = false;
    dt_layer_event(layer, "handover-failed",
                   "the disk stays where it is; to try again, remove '%s' and begin anew",
                   dt_layer_name(layer));
}

const struct handover_ops twin_handover = {
    .chain = chain_of, .seal = seal, .let_go = let_go, .take_back = take_back};
