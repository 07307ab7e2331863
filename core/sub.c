/* SPDX-License-Identifier: MIT */
/*
 * sub.c - requests that layers make themselves: copy-up, resync, the pieces of a split request.
 *
 * They come from a pool of the context, enter the chain below their owner at the end of the turn
 * (so a completion that starts the next one does not recurse), and are taken out of
 * the stream by the owner's `complete`, which is sub_complete().
 */
#include "core/internal.h"

void sub_init(struct ctx *c, unsigned count)
{
    if (count == 0)
        return;
    c->own_complete = c->complete;
    c->complete = sub_complete;
    if (c->sub_memory) /* linked anew */
        return;
    c->sub_memory = xaligned(CACHE_LINE, count * REQUEST_SIZE);
    for (unsigned i = 0; i < count; i++) {
        struct request *r = (struct request *)(c->sub_memory + i * REQUEST_SIZE);

        r->next = c->sub_free;
        c->sub_free = r;
    }
}

void sub_fini(struct ctx *c)
{
    free(c->sub_memory);
    c->sub_memory = NULL;
}

struct dt_req *dt_sub_new(struct dt_ctx *c, enum dt_op op, uint64_t sector, uint32_t sectors,
                          const struct iovec *iov, unsigned n,
                          void (*done)(struct dt_ctx *c, struct dt_req *sub), void *arg)
{
    struct ctx *ctx = ctx_of(c);
    struct request *r = ctx->sub_free;

    if (!r)
        return NULL;
    ctx->sub_free = r->next;
    *r = (struct request){
        .pub = {.sector = sector, .sectors = sectors, .op = (uint8_t)op, .flags = DT_REQ_SUB},
        .iov = (struct iovec *)iov,
        .niov = n,
        .sub_owner = ctx,
        .sub_arg = arg,
        .sub_done = done,
    };
    return &r->pub;
}

void dt_sub_submit(struct dt_ctx *c, struct dt_req *sub)
{
    struct request *r = request_of(sub);
    struct ctx *ctx = ctx_of(c);
    struct lane *lane = ctx->lane;

    CHECK(r->sub_owner == ctx && r->holder == NULL);
    CHECK(r->pub.sector + r->pub.sectors <= lane->dev->layers[ctx->index + 1]->info.sectors);
    r->pub.error = 0;
    r->holder = ctx;
    r->next = NULL;
    *lane->sub_tail = r;
    lane->sub_tail = &r->next;
    lane->subs++;
    loop_defer(lane->loop, &lane->deferred);
}

/* Start what is queued, in order; stop where memory for private data is short for now. */
void sub_run_queue(struct lane *lane)
{
    while (lane->sub_head) {
        struct request *r = lane->sub_head;
        struct ctx *owner = r->sub_owner;
        struct dt_req *req = &r->pub;

        if (lane->needs_data && !data_attach(lane, owner, r))
            return;
        lane->sub_head = r->next;
        if (!lane->sub_head)
            lane->sub_tail = &lane->sub_head;
        r->pub.started = loop_now(lane->loop);
        hold(owner, 1);
        edge_submit(owner, owner->down, &req, 1);
    }
}

static void sub_return(struct ctx *owner, struct request *r)
{
    struct lane *lane = owner->lane;

    hold(owner, -1u);
    r->holder = NULL;
    if (lane->needs_data)
        data_detach(lane, r);
    lane->subs--;
    r->sub_done(&owner->pub, &r->pub);
    if (unlikely(lane->quiescing))
        lane_drained(lane);
}

void sub_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct ctx *ctx = ctx_of(c);
    unsigned others = ctx->lane->subs ? 0 : n;

    for (unsigned i = others; i < n; i++) {
        struct request *r = request_of(reqs[i]);

        if (r->sub_owner == ctx && (r->pub.flags & DT_REQ_SUB))
            sub_return(ctx, r);
        else
            reqs[others++] = reqs[i];
    }
    if (others == 0)
        return;
    if (ctx->own_complete)
        ctx->own_complete(c, reqs, others);
    else
        dt_complete(c, reqs, others);
}

void dt_busy_begin(struct dt_ctx *c)
{
    ctx_of(c)->lane->subs++;
}

void dt_busy_end(struct dt_ctx *c)
{
    struct lane *lane = ctx_of(c)->lane;

    CHECK(lane->subs > 0);
    lane->subs--;
    if (unlikely(lane->quiescing))
        lane_drained(lane);
}

void *dt_sub_arg(const struct dt_req *sub)
{
    return container_of(sub, struct request, pub)->sub_arg;
}

void dt_sub_free(struct dt_ctx *c, struct dt_req *sub)
{
    struct request *r = request_of(sub);
    struct ctx *ctx = ctx_of(c);

    CHECK(r->sub_owner == ctx && r->holder == NULL);
    r->next = ctx->sub_free;
    ctx->sub_free = r;
}
