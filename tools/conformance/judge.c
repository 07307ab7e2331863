/* SPDX-License-Identifier: MIT */
/*
 * judge.c - what comes back to the front: is the data right, was the guest's memory left alone,
 * what does the disk hold now, and what must survive a kill?
 */
#include "tools/conformance/internal.h"

static void judge_read(struct load *load, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    struct bench *b = load->bench;
    char text[64], found[128];

    dt_iov_read(s->iov, s->niov, 0, load->scratch, dt_req_bytes(req));
    for (uint32_t i = 0; i < req->sectors; i++) {
        uint64_t sector = req->sector + i;
        const uint8_t *bytes = load->scratch + i * DT_SECTOR_SIZE;

        if (content_is(bytes, b->seed, sector, b->versions[sector]))
            continue;
        content_describe(bytes, b->seed, sector, found, sizeof(found));
        if (b->versions[sector] == VERSION_ZERO)
            bench_fail("wrong data: %s: sector %llu must read as zeroes, but holds %s",
                       load_describe(req, text, sizeof(text)), (unsigned long long)sector, found);
        bench_fail("wrong data: %s: sector %llu must hold its version %u, but holds %s",
                   load_describe(req, text, sizeof(text)), (unsigned long long)sector,
                   b->versions[sector], found);
    }
}

/* A write's buffer belongs to the guest: a layer that scrambles it in place destroys its data. */
static void judge_write_buffer(struct load *load, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    char text[64];

    if (s->scribbled)
        return;
    dt_iov_read(s->iov, s->niov, 0, load->scratch, dt_req_bytes(req));
    for (uint32_t i = 0; i < req->sectors; i++)
        if (!content_is(load->scratch + i * DT_SECTOR_SIZE, load->bench->seed, req->sector + i,
                        s->version))
            bench_fail("the guest's own buffer of a %s was changed",
                       load_describe(req, text, sizeof(text)));
}

static void set_versions(struct bench *b, const struct dt_req *req, uint32_t version)
{
    for (uint32_t i = 0; i < req->sectors; i++)
        b->versions[req->sector + i] = version;
}

/* What the disk holds after this request. */
static void judge_outcome(struct load *load, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    bool refused = req->error == -EROFS || req->error == -EOPNOTSUPP;

    if (req->op == DT_OP_READ && !req->error && !load->bench->unjudged)
        judge_read(load, s);
    if (req->op == DT_OP_WRITE)
        judge_write_buffer(load, s);
    if (req->op == DT_OP_READ || req->op == DT_OP_FLUSH || refused)
        return;
    if (req->error || req->op == DT_OP_DISCARD)
        set_versions(load->bench, req, VERSION_UNKNOWN);
    else
        set_versions(load->bench, req, req->op == DT_OP_WRITE ? s->version : VERSION_ZERO);
}

/* A flush covers what was acknowledged before it was sent; FUA covers itself. */
static void log_end(struct load *load, struct slot *s)
{
    struct kill_log *log = load->bench->kill_log;
    const struct dt_req *req = &s->request->pub;

    if (!log)
        return;
    for (uint32_t i = 0; req->op == DT_OP_WRITE && i < req->sectors; i++) {
        log->acked_at[req->sector + i] = ++log->clock;
        if (req->error)
            log->flushed[req->sector + i] = 0; /* it may hold anything */
        else if (req->flags & DT_REQ_FUA)
            log->flushed[req->sector + i] = s->version;
    }
    for (uint64_t i = 0; !req->error && req->op == DT_OP_FLUSH && i < load->bench->sectors; i++)
        if (log->acked_at[i] <= s->flush_mark && load->bench->versions[i] < VERSION_ZERO)
            log->flushed[i] = load->bench->versions[i];
    log->records[s - load->slots].busy = 0;
}

void judge_done(struct load *load, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    const uint8_t *red = (const uint8_t *)s->request + REQUEST_SIZE;
    char text[64];

    load_describe(req, text, sizeof(text));
    if (!s->busy)
        bench_fail("a %s was completed twice", text);
    for (unsigned i = 0; i < RED_ZONE; i++)
        if (red[i] != POISON)
            bench_fail("a layer wrote behind the end of a request");
    if (req->sector != s->sector || req->sectors != s->sectors)
        bench_fail("a %s came back moved: it was sent to %u sectors at %llu", text, s->sectors,
                   (unsigned long long)s->sector);
    if (req->error > 0 || req->error < -4095)
        bench_fail("a %s ended with error %d: it must be 0 or a negative errno", text, req->error);
    judge_outcome(load, s);
    log_end(load, s);
    s->busy = false;
    __atomic_fetch_sub(&load->busy, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&load->done, 1, __ATOMIC_RELAXED);
    if (req->error)
        __atomic_fetch_add(&load->failed, 1, __ATOMIC_RELAXED);
}
