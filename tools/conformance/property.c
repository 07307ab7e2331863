/* SPDX-License-Identifier: MIT */
/* property.c - what every layer promises: content, errors, quiesce, cancel, restart, threads. */
#include "tools/conformance/internal.h"

/* Load, until all of @ns is used up, in pieces so that what is between them happens often. */
static bool time_left(uint64_t end)
{
    return dt_clock_ns() < end;
}

static uint64_t requests_failed(const struct bench *b)
{
    uint64_t n = 0;

    for (unsigned t = 0; t < b->threads; t++)
        n += b->loads[t].failed;
    return n;
}

void property_content(struct bench *b)
{
    uint64_t done;

    bench_open(b, 1);
    bench_load(b, b->config->duration);
    bench_settle(b);
    done = b->loads[0].done;
    if (done == 0)
        bench_fail("no request was let in for %llu ms",
                   (unsigned long long)(b->config->duration / DT_MS(1)));
    if (requests_failed(b) == done && done > 100)
        bench_fail("all of %llu requests failed", (unsigned long long)done);
    bench_close(b);
}

void property_neutral(struct bench *b)
{
    char found[128];

    for (unsigned i = 0; i < b->user.count; i++)
        if (b->exts[i]->flags & DT_CONTENT_BEARING)
            bench_skip("%s declares itself content-bearing", b->exts[i]->name);
    if (b->has_back)
        bench_skip("the chain has a back of its own");
    bench_open(b, 1);
    bench_load(b, b->config->duration);
    bench_settle(b);
    bench_flush(b);
    for (uint64_t s = 0; s < b->sectors; s++) {
        const uint8_t *bytes = b->model.store + (s << DT_SECTOR_SHIFT);

        if (content_is(bytes, b->seed, s, b->versions[s]))
            continue;
        content_describe(bytes, b->seed, s, found, sizeof(found));
        bench_fail("the content changes below, so it needs DT_CONTENT_BEARING: sector %llu was "
                   "written, and below it holds %s",
                   (unsigned long long)s, found);
    }
    bench_close(b);
}

/* The write data right that decides for the chain: that of the first layer that looks. */
static bool writes_are_stable(const struct bench *b)
{
    for (unsigned i = 0; i < b->user.count; i++) {
        if (b->exts[i]->write_data == DT_DATA_STABLE)
            return true;
        if (b->exts[i]->write_data == DT_DATA_TRANSFORM)
            return false;
    }
    return false;
}

void property_stable(struct bench *b)
{
    if (!writes_are_stable(b))
        bench_skip("no layer declares DT_DATA_STABLE for writes");
    if (b->has_back)
        bench_skip("the chain has a back of its own");
    b->scribble = true;
    bench_open(b, 1);
    bench_load(b, b->config->duration);
    bench_settle(b);
    if (b->loads[0].scribbles == 0)
        bench_fail("no write got a private copy");
    bench_close(b);
}

/* Ranges fail and heal, and so do flushes; what succeeded must still be right. */
void property_errors(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;

    if (b->has_back)
        bench_skip("the chain has a back of its own");
    bench_open(b, 1);
    while (time_left(end)) {
        b->model.bad_sector = dt_rng_below(&b->rng, b->model.sectors);
        b->model.bad_sectors = dt_rng_below(&b->rng, b->model.sectors / 4);
        b->model.fail_flush = dt_rng_below(&b->rng, 2);
        bench_load(b, DT_MS(5));
        b->model.bad_sectors = 0;
        b->model.fail_flush = false;
        bench_load(b, DT_MS(5));
    }
    bench_settle(b);
    b->verdict->count = requests_failed(b);
    bench_close(b);
}

void property_quiesce(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;
    const char *late;

    bench_open(b, 1);
    do {
        bench_load(b, dt_rng_below(&b->rng, DT_MS(10)));
        late = bench_quiesce(b, b->config->patience / 2);
        if (late)
            bench_fail("quiesce: %llu ms were not enough: %s",
                       (unsigned long long)(b->config->patience / 2 / DT_MS(1)), late);
        b->verdict->count++;
    } while (time_left(end));
    bench_close(b);
}

/* Asks the holder of one request to cancel it, and checks that it did what it said. */
static void cancel_one(struct bench *b, struct slot *s)
{
    struct ctx *holder = s->request->holder;
    const struct dt_block_ext *ext;
    char text[64];
    int ret;

    if (!s->busy || !holder || !holder->pub.layer || !holder->pub.layer->ext->cancel)
        return;
    ext = holder->pub.layer->ext;
    load_describe(&s->request->pub, text, sizeof(text));
    ret = ext->cancel(&holder->pub, &s->request->pub);
    b->verdict->count++;
    if (ret != 0 && ret != -EBUSY)
        bench_fail("cancel() of layer %s returned %d: it must be 0 or -EBUSY", ext->name, ret);
    if (ret == 0 && s->busy)
        bench_fail("layer %s said that it cancelled a %s, but did not complete it", ext->name,
                   text);
    if (ret == 0 && s->request->pub.error != -ECANCELED)
        bench_fail("layer %s cancelled a %s with error %d, not -ECANCELED", ext->name, text,
                   s->request->pub.error);
}

void property_cancel(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;
    bool any = false;

    for (unsigned i = 0; i < b->user.count; i++)
        any |= b->exts[i]->cancel != NULL;
    if (!any)
        bench_skip("no layer has cancel()");
    bench_open(b, 1);
    while (time_left(end)) {
        bench_load(b, dt_rng_below(&b->rng, DT_MS(4)));
        for (unsigned i = 0; i < LOAD_SLOTS; i++)
            if (dt_rng_below(&b->rng, 2))
                cancel_one(b, &b->loads[0].slots[i]);
    }
    bench_settle(b);
    bench_close(b);
}

void property_restart(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;

    bench_open(b, 1);
    do {
        bench_load(b, dt_rng_below(&b->rng, DT_MS(20)));
        bench_settle(b);
        if (b->verdict->count++ % 2 == 0) {
            bench_stop(b);
            bench_start(b);
        } else if (!b->has_back) {
            bench_close(b);
            bench_open(b, 1);
        }
    } while (time_left(end));
    bench_settle(b);
    bench_close(b);
}

void property_threads(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;
    const char *late;

    for (unsigned i = 0; i < b->user.count; i++)
        if (!(b->exts[i]->flags & DT_PER_QUEUE))
            bench_skip("%s serves a disk on one thread", b->exts[i]->name);
    bench_open(b, BENCH_THREADS);
    do {
        bench_load(b, DT_MS(20));
        late = bench_quiesce(b, b->config->patience);
        if (late)
            bench_fail("quiesce of two threads: %s", late);
    } while (time_left(end));
    bench_close(b);
}
