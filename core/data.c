/* SPDX-License-Identifier: MIT */
/*
 * data.c - who sees which bytes of a request.
 *
 * A request's vectors describe the guest's own buffer, which the guest may be changing. Where a
 * layer needs bytes that stay as they are, the request gets one private copy on entry (writes), or
 * is filled in private memory and copied out last (reads). A layer that transforms data gives the
 * layers below a buffer of its own; all that a request can need is reserved when it enters, so
 * nothing fails half-way, and an exhausted pool stops intake instead.
 */
#include "core/internal.h"

#define XFORM_RECORDS 512u
/* Sub-requests let guest requests finish: a part of the pool is theirs alone. */
#define GUESTS_MAY_NOT_TAKE(size) ((size) / 4)

static uint8_t right_of(const struct dt_block_ext *ext, bool write)
{
    return write ? ext->write_data : ext->read_data;
}

/* A copy at the front is needed by the topmost stable layer, unless one that transforms stands
 * above it: what comes out of that is private already. */
static bool wants_copy(const struct lane *lane, bool write)
{
    for (unsigned i = 1; i < lane->nctxs; i++) {
        uint8_t right = right_of(lane->ctxs[i]->pub.layer->ext, write);

        if (right == DT_DATA_STABLE)
            return true;
        if (right == DT_DATA_TRANSFORM)
            return false;
    }
    return false;
}

static unsigned count_xforms(const struct lane *lane, const struct ctx *from, bool write)
{
    unsigned n = 0;

    for (unsigned i = from->index + 1; i < lane->nctxs; i++)
        n += right_of(lane->ctxs[i]->pub.layer->ext, write) == DT_DATA_TRANSFORM;
    return n;
}

size_t data_max_bytes(const struct lane *lane)
{
    size_t room = lane->pool.size - GUESTS_MAY_NOT_TAKE(lane->pool.size), bytes = LANE_COPY_MAX;
    unsigned pieces = 0;

    for (unsigned write = 0; write < 2; write++)
        pieces = MAX(pieces, lane->want_copy[write] + count_xforms(lane, lane->front, write));
    while (bytes > 1u << COPYPOOL_MIN_SHIFT && pieces * bytes > room)
        bytes /= 2;
    return bytes;
}

int data_init(struct lane *lane)
{
    int ret;

    lane->needs_data = false;
    for (unsigned write = 0; write < 2; write++) {
        lane->want_copy[write] = wants_copy(lane, write);
        if (lane->want_copy[write] || count_xforms(lane, lane->front, write))
            lane->needs_data = true;
    }
    if (!lane->needs_data || lane->xform_memory)
        return 0;
    ret = copypool_init(&lane->pool, lane->dev->copy_bytes);
    if (ret < 0)
        return ret;
    lane->xform_memory = xcalloc(XFORM_RECORDS, sizeof(struct xform));
    for (unsigned i = 0; i < XFORM_RECORDS; i++) {
        lane->xform_memory[i].next = lane->xform_free;
        lane->xform_free = &lane->xform_memory[i];
    }
    return 0;
}

void data_fini(struct lane *lane)
{
    copypool_fini(&lane->pool);
    free(lane->xform_memory);
}

static void release(struct lane *lane, struct request *r)
{
    while (r->xforms) {
        struct xform *x = r->xforms;

        r->xforms = x->next;
        copypool_put(&lane->pool, x->own.iov_base);
        x->next = lane->xform_free;
        lane->xform_free = x;
    }
    if (r->own_iov) {
        copypool_put(&lane->pool, r->copy.iov_base);
        r->iov = r->own_iov;
        r->niov = r->own_niov;
        r->own_iov = NULL;
    }
}

bool data_attach(struct lane *lane, struct ctx *from, struct request *r)
{
    bool write = r->pub.op == DT_OP_WRITE, sub = r->pub.flags & DT_REQ_SUB;
    size_t bytes = dt_req_bytes(&r->pub);
    size_t reserve = sub ? 0 : GUESTS_MAY_NOT_TAKE(lane->pool.size);

    if (!dt_req_has_data(&r->pub) || bytes == 0)
        return true;
    for (unsigned n = count_xforms(lane, from, write); n > 0; n--) {
        struct xform *x = lane->xform_free;
        void *piece = x ? copypool_get(&lane->pool, bytes, reserve) : NULL;

        if (!piece)
            goto fail;
        lane->xform_free = x->next;
        *x = (struct xform){.next = r->xforms, .own = {piece, bytes}};
        r->xforms = x;
    }
    if (lane->want_copy[write] && !sub) {
        void *piece = copypool_get(&lane->pool, bytes, reserve);

        if (!piece)
            goto fail;
        r->copy = (struct iovec){piece, bytes};
        r->own_iov = r->iov;
        r->own_niov = r->niov;
        r->iov = &r->copy;
        r->niov = 1;
        if (write)
            dt_iov_read(r->own_iov, r->own_niov, 0, piece, bytes);
    }
    return true;

fail:
    release(lane, r);
    return false;
}

void data_detach(struct lane *lane, struct request *r)
{
    if (r->own_iov && r->pub.op == DT_OP_READ && r->pub.error == 0)
        dt_iov_write(r->own_iov, r->own_niov, 0, r->copy.iov_base, r->copy.iov_len);
    release(lane, r);
    if (lane->wait_head || lane->sub_head)
        loop_defer(lane->loop, &lane->deferred);
}

unsigned dt_req_map(struct dt_ctx *c, struct dt_req *req, const struct iovec **iov)
{
    struct request *r = request_of(req);

    CHECK(dt_req_has_data(req));
    CHECK(right_of(c->layer->ext, req->op == DT_OP_WRITE) != DT_DATA_NONE);
    *iov = r->iov;
    return r->niov;
}

void *dt_req_transform(struct dt_ctx *c, struct dt_req *req, const struct iovec **from,
                       unsigned *from_n)
{
    struct request *r = request_of(req);
    struct ctx *ctx = ctx_of(c);
    struct xform *x;

    for (x = r->xforms; x && x->owner && x->owner != ctx; x = x->next)
        ;
    CHECK(x != NULL && r->holder == ctx); /* declared DT_DATA_TRANSFORM, and holds the request */
    if (!x->owner) {
        x->owner = ctx;
        x->above = r->iov;
        x->above_n = r->niov;
    }
    *from = x->above;
    *from_n = x->above_n;
    r->iov = &x->own;
    r->niov = 1;
    return x->own.iov_base;
}

void *dt_req_restore(struct dt_ctx *c, struct dt_req *req, const struct iovec **to, unsigned *to_n)
{
    struct request *r = request_of(req);
    struct ctx *ctx = ctx_of(c);
    struct xform *x;

    for (x = r->xforms; x && x->owner != ctx; x = x->next)
        ;
    CHECK(x != NULL && r->holder == ctx);
    *to = r->iov = x->above;
    *to_n = r->niov = x->above_n;
    return x->own.iov_base;
}
