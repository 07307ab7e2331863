/* SPDX-License-Identifier: MIT */
/*
 * life.c - the second chain is opened, begun and closed.
 *
 * The disk must start whatever became of the second chain: one that is not there, or not what it
 * was, makes the layer let everything pass.
 */
#include "blk/branch/branch.h"
#include "blk/twin/twin.h"

#include <stdio.h>

#define LEAST_SHIFT  7u           /* regions of 64 KiB */
#define MOST_REGIONS (1ull << 21) /* their map must fit twice into what is saved */

const struct dt_counter twin_counters[] = {
    [TWIN_BOTH] = {"both", "requests", "Writes that went to both chains."},
    [TWIN_MISSED] = {"missed", "requests", "Writes that the second chain did not get in time."},
    [TWIN_WAITED] = {"waited", "requests", "Writes that waited for a lock or for memory."},
    [TWIN_COPIED] = {"copied", "bytes", "Bytes copied to the second chain."},
    [TWIN_HOLES] = {"holes", "bytes", "Bytes that the disk said are zeroes: they were not read."},
    [TWIN_FAILURES] = {"failures", "requests", "Writes, flushes and copies that failed there."},
    [TWIN_COMPARED] = {"compared", "requests", "Reads whose data were compared."},
    [TWIN_MISMATCHES] = {"mismatches", "requests", "Of these, reads with other data."},
    [TWIN_DIFFERENT_ERRORS] = {"different-errors", "requests",
                               "Requests that failed on one side alone."},
    {NULL},
};

/* ---- What the second chain is ---------------------------------------------------------------- */

static int judge_info(struct twin *t, struct dt_error *err)
{
    const struct dt_block_info *here = dt_layer_info(t->layer), *there = device_info(t->dev);

    if (there->sectors != here->sectors)
        return dt_fail(err, -EINVAL, "it has %llu bytes, and the disk %llu",
                       (unsigned long long)there->sectors << DT_SECTOR_SHIFT,
                       (unsigned long long)here->sectors << DT_SECTOR_SHIFT);
    if (there->logical_block > here->logical_block)
        return dt_fail(err, -EINVAL, "its blocks have %u bytes, and the disk's %u",
                       there->logical_block, here->logical_block);
    if (there->read_only)
        return dt_fail(err, -EROFS, "it is read-only");
    t->can_zero = there->can_write_zeroes;
    t->max_zero = there->max_write_zeroes;
    return 0;
}

static void make_map(struct twin *t)
{
    t->sectors = dt_layer_info(t->layer)->sectors;
    t->shift = LEAST_SHIFT;
    while ((t->sectors - 1) >> t->shift >= MOST_REGIONS)
        t->shift++;
    t->regions = ((t->sectors - 1) >> t->shift) + 1;
    t->map = xcalloc((t->regions + 63) / 64, sizeof(uint64_t));
    t->judged = t->judges ? 0 : t->regions;
    t->wanted = NO_REGION;
    t->first_mismatch = t->differs = UINT64_MAX;
}

int twin_open(struct dt_layer *layer, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);
    struct chain_spec spec;
    struct dt_error why;
    int ret = chain_parse(&spec, t->to, err);

    if (ret < 0)
        return ret;
    chain_spec_free(&spec);
    t->layer = layer;
    t->compares = layer_ext(layer)->read_data != DT_DATA_NONE;
    ret = branch_open(&t->dev, layer, t->to, &why) ?: judge_info(t, &why);
    if (!t->compares)
        ret = ret ?: twin_judge_store(t, &why);
    if (ret < 0) {
        snprintf(t->absent, sizeof(t->absent), "%s", why.text);
        dt_layer_event(layer, "second-absent", "the disk goes on without '%.200s': %s", t->to,
                       why.text);
        device_free(t->dev);
        t->dev = NULL;
    }
    make_map(t);
    if (t->content == TWIN_COPY)
        twin_mark_all(t);
    for (unsigned i = 0; i < 2 * SIDES; i++)
        t->latency[i / SIDES][i % SIDES] = xcalloc(1, sizeof(struct histogram));
    layer_offer_handover(layer, &twin_handover);
    return 0;
}

void twin_close(struct dt_layer *layer)
{
    struct twin *t = dt_layer_data(layer);

    device_free(t->dev);
    free(t->map);
    for (unsigned i = 0; i < 2 * SIDES; i++)
        free(t->latency[i / SIDES][i % SIDES]);
}

/* The guest keeps the size that the second chain has. */
int twin_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct twin *t = dt_layer_data(layer);

    if (!t->absent[0])
        info->sectors = MIN(info->sectors, t->sectors);
    return 0;
}

int twin_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);
    struct dt_error why;

    if (t->dev && device_fence(t->dev, &why) < 0) {
        snprintf(t->absent, sizeof(t->absent), "%s", why.text);
        dt_layer_event(layer, "second-absent", "the disk goes on without '%.200s': %s", t->to,
                       why.text);
    }
    return 0;
}

/* ---- On its thread --------------------------------------------------------------------------- */

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct twin_io *io = container_of(reqs[i], struct twin_io, req);
        struct dt_ctx *c = io->t->c;

        io->done(io, reqs[i]->pub.error);
        ctx_busy(c, -1);
    }
}

static void on_wake(struct lane *lane)
{
    struct twin *t = lane_front(lane);

    if (!t || !t->c)
        return;
    dt_wake(t->c);
    twin_run_waiting(t); /* of other threads */
}

static void on_info_changed(void *front)
{
    struct twin *t = front;

    dt_layer_event(t->layer, "second-changed",
                   "'%.200s' has changed its size: the disk keeps its own", t->to);
}

static void run_timer(struct dt_timer *timer)
{
    twin_catch_up(container_of(timer, struct twin, timer));
}

static void run_tick(struct dt_timer *timer)
{
    struct twin *t = container_of(timer, struct twin, tick);
    uint64_t now = dt_clock_ns();

    dt_timer_set(t->c, timer, now + TWIN_TICK_NS);
    if (t->sealed_until && now > t->sealed_until)
        twin_unseal(t);
    twin_judge_pace(t);
    twin_run_cancelled(t, NULL);
    twin_run_waiting(t);
    twin_catch_up(t);
}

static int take_memory(struct twin *t, struct dt_error *err)
{
    if (copypool_init(&t->pool, ALIGN_UP(t->buffer_bytes, (uint64_t)1 << COPYPOOL_MAX_SHIFT)) < 0)
        return dt_fail(err, -ENOMEM, "no memory for its queue");
    t->jobs = xaligned(CACHE_LINE, TWIN_JOBS * sizeof(struct twin_job));
    t->copiers = xaligned(CACHE_LINE, TWIN_COPIERS * sizeof(struct twin_copier));
    t->job_free = t->job_head = NULL;
    for (unsigned i = 0; i < TWIN_JOBS; i++) {
        t->jobs[i].io.t = t;
        t->jobs[i].next = t->job_free;
        t->job_free = &t->jobs[i];
    }
    for (unsigned i = 0; i < TWIN_COPIERS; i++) {
        t->copiers[i].io.t = t;
        t->copiers[i].bytes = xaligned(PAGE_SIZE_4K, TWIN_CHUNK);
        t->copiers[i].other = t->judges ? xaligned(PAGE_SIZE_4K, TWIN_CHUNK) : NULL;
    }
    t->flush.t = t;
    return 0;
}

static void free_memory(struct twin *t)
{
    for (unsigned i = 0; t->copiers && i < TWIN_COPIERS; i++) {
        free(t->copiers[i].bytes);
        free(t->copiers[i].other);
    }
    free(t->jobs);
    free(t->copiers);
    t->jobs = NULL;
    t->copiers = NULL;
    copypool_fini(&t->pool);
}

int twin_start(struct dt_ctx *c, struct dt_error *err)
{
    static const struct front_ops ops = {on_complete, on_wake, on_info_changed};
    struct twin *t = c->layer_data;
    struct dt_error why;
    int ret = twin_at_home(c) ? take_memory(t, err) : 0;

    if (ret < 0 || !twin_at_home(c))
        return ret;
    t->wait_tail = &t->wait_head;
    t->timer.fire = run_timer;
    t->tick.fire = run_tick;
    t->c = c;
    if (!t->absent[0])
        t->lane = branch_start(t->dev, &ops, t, &ret, &why);
    if (ret < 0)
        snprintf(t->absent, sizeof(t->absent), "%s", why.text);
    t->began = dt_clock_ns();
    twin_live_begin(t);
    if (t->absent[0])
        return 0;
    dt_timer_set(c, &t->tick, t->began + TWIN_TICK_NS);
    dt_timer_set(c, &t->timer, t->began); /* not before all layers have started */
    return 0;
}

void twin_stop(struct dt_ctx *c)
{
    struct twin *t = c->layer_data;

    if (!twin_at_home(c))
        return;
    dt_timer_cancel(c, &t->timer);
    dt_timer_cancel(c, &t->tick);
    twin_holes_fini(t);
    if (t->dev)
        device_stop(t->dev);
    t->c = NULL;
    free_memory(t);
}

int twin_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);

    t->equal = t->told = false;
    t->next_copy = 0;
    t->wanted = NO_REGION;
    if (t->c)
        dt_timer_set(t->c, &t->timer, dt_clock_ns());
    return 0;
}
