/* SPDX-License-Identifier: MIT */
/*
 * split.c - requests longer than the chain's limits are served in pieces.
 *
 * A request that waits here owns a piece slot; its pieces are sub-requests of the front's context, one
 * at a time, so that a flood of huge requests cannot take all memory. It finishes with the
 * first error, or when all of it is done.
 */
#include "core/internal.h"

struct split_piece {
    struct request *whole; /* NULL = free */
    uint32_t done;         /* sectors finished */
    uint32_t now;          /* sectors of the piece under way */
    struct iovec *iov;
};

static void piece_done(struct dt_ctx *c, struct dt_req *sub);

void split_init(struct lane *lane)
{
    if (lane->max_sectors == UINT32_MAX && lane->max_segments == UINT32_MAX)
        return;
    if (!lane->pieces) {
        lane->pieces = xcalloc(LANE_PIECES, sizeof(*lane->pieces));
        for (unsigned i = 0; i < LANE_PIECES; i++)
            lane->pieces[i].iov = xcalloc(LANE_PIECE_IOVS, sizeof(struct iovec));
    }
    sub_init(lane->front, LANE_PIECES);
}

void split_fini(struct lane *lane)
{
    for (unsigned i = 0; lane->pieces && i < LANE_PIECES; i++)
        free(lane->pieces[i].iov);
    free(lane->pieces);
}

/* How much of the rest fits: by length, and by vectors, in whole logical blocks. */
static uint32_t piece_length(struct lane *lane, struct split_piece *p)
{
    struct request *w = p->whole;
    uint32_t block = lane->dev->info.logical_block >> DT_SECTOR_SHIFT;
    uint32_t n = MIN(w->pub.sectors - p->done, lane->max_sectors);
    unsigned max = MIN(lane->max_segments, LANE_PIECE_IOVS);

    for (;;) {
        size_t offset = (size_t)p->done << DT_SECTOR_SHIFT;
        int iovs = dt_iov_slice(w->iov, w->niov, offset, (size_t)n << DT_SECTOR_SHIFT, p->iov, max);

        if (iovs > 0) {
            p->now = n;
            return (uint32_t)iovs;
        }
        if (n <= block)
            return 0;
        n = MAX(n / 2 / block * block, block);
    }
}

static void whole_done(struct lane *lane, struct split_piece *p, int error)
{
    struct request *w = p->whole;

    p->whole = NULL;
    w->pub.error = error;
    w->holder = NULL;
    lane_finish(lane, &w, 1);
    if (lane->split_head)
        loop_defer(lane->loop, &lane->deferred);
}

static void piece_start(struct lane *lane, struct split_piece *p)
{
    struct request *w = p->whole;
    struct dt_ctx *front = &lane->front->pub;
    uint32_t iovs = piece_length(lane, p);
    struct dt_req *sub;

    if (iovs == 0) {
        whole_done(lane, p, -EINVAL);
        return;
    }
    sub =
        dt_sub_new(front, w->pub.op, w->pub.sector + p->done, p->now, p->iov, iovs, piece_done, p);
    CHECK(sub != NULL);
    sub->flags |= w->pub.flags & (DT_REQ_REPLAYED | DT_REQ_FUA);
    sub->queue = w->pub.queue;
    dt_sub_submit(front, sub);
}

static void piece_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct split_piece *p = dt_sub_arg(sub);
    struct lane *lane = ctx_of(c)->lane;
    int error = sub->error;

    dt_sub_free(c, sub);
    p->done += p->now;
    if (error || p->done == p->whole->pub.sectors)
        whole_done(lane, p, error);
    else
        piece_start(lane, p);
}

void split_queue(struct lane *lane, struct request *r)
{
    r->next = NULL;
    *lane->split_tail = r;
    lane->split_tail = &r->next;
    loop_defer(lane->loop, &lane->deferred);
}

void split_run_queue(struct lane *lane)
{
    bool waited = lane->split_head;

    for (unsigned i = 0; lane->split_head && i < LANE_PIECES; i++) {
        struct split_piece *p = &lane->pieces[i];

        if (p->whole)
            continue;
        p->whole = lane->split_head;
        p->done = 0;
        lane->split_head = p->whole->next;
        if (!lane->split_head)
            lane->split_tail = &lane->split_head;
        piece_start(lane, p);
    }
    if (waited && !lane->split_head)
        lane->front_ops->wake(lane);
}
