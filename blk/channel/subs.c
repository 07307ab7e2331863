/* SPDX-License-Identifier: MIT */
/*
 * subs.c - requests that the extension makes itself: copied into private memory, sent below by the
 * proxy in its name, and answered into the window that the extension has for each.
 */
#include "blk/channel/internal.h"

static void answer(struct proxy *p, struct sub *s, int error)
{
    s->busy = false;
    *channel_push(&p->down) =
        (struct channel_msg){.kind = CHANNEL_SUB_DONE, .id = s->id, .error = error};
    loop_defer(ctx_loop(p->c), &p->flush);
}

static uint8_t *window(struct proxy *p, const struct sub *s)
{
    return p->map.sub_data + (size_t)s->id * p->map.sub_window;
}

static size_t data_bytes(const struct channel_msg *m)
{
    return m->op <= DT_OP_WRITE ? (size_t)m->sectors << DT_SECTOR_SHIFT : 0;
}

static void release(struct proxy *p, struct sub *s)
{
    if (s->iov.iov_base)
        copypool_put(&p->sub_pool, s->iov.iov_base);
    s->iov = (struct iovec){0};
    s->req = NULL;
}

static void sub_done(struct dt_ctx *c, struct dt_req *req)
{
    struct sub *s = dt_sub_arg(req);
    struct proxy *p = s->proxy;
    bool orphan = s->generation != p->generation;

    if (!orphan && req->op == DT_OP_READ && req->error == 0)
        memcpy(window(p, s), s->iov.iov_base, s->iov.iov_len);
    if (!orphan)
        answer(p, s, req->error);
    else
        p->orphans--;
    s->busy = false;
    release(p, s);
    dt_sub_free(c, req);
    if (orphan)
        proxy_drained(p);
    else
        proxy_start_subs(p);
}

/* false: not now, for want of memory or of a free request. */
static bool start(struct proxy *p, struct sub *s)
{
    const struct channel_msg *m = &s->msg;
    size_t bytes = data_bytes(m);

    if (bytes && !s->iov.iov_base) {
        s->iov.iov_base = copypool_get(&p->sub_pool, bytes, 0);
        s->iov.iov_len = bytes;
        if (!s->iov.iov_base)
            return false;
        if (m->op == DT_OP_WRITE)
            memcpy(s->iov.iov_base, window(p, s), bytes);
    }
    s->req = dt_sub_new(p->c, m->op, m->sector, m->sectors, &s->iov, bytes ? 1 : 0, sub_done, s);
    if (!s->req)
        return false;
    s->req->flags |= m->flags & (DT_REQ_FUA | DT_REQ_UNMAP | DT_REQ_REPLAYED);
    dt_sub_submit(p->c, s->req);
    return true;
}

void proxy_start_subs(struct proxy *p)
{
    while (p->sub_wait && start(p, p->sub_wait)) {
        p->sub_wait = p->sub_wait->next;
        if (!p->sub_wait)
            p->sub_wait_tail = &p->sub_wait;
    }
}

const char *proxy_take_sub(struct proxy *p, const struct channel_msg *m)
{
    const struct dt_block_info *below = dt_layer_info(p->layer);
    uint32_t mask = (below->logical_block >> DT_SECTOR_SHIFT) - 1;
    struct sub *s;

    if (m->id >= p->nsubs || p->subs[m->id].busy)
        return "it made a request of its own that is already under way";
    if (m->op >= DT_OP_COUNT || data_bytes(m) > p->map.sub_window)
        return "it made a request of its own that there is not";
    s = &p->subs[m->id];
    s->msg = *m;
    s->generation = p->generation;
    s->busy = true;
    if (m->sector > below->sectors || m->sectors > below->sectors - m->sector ||
        ((m->sector | m->sectors) & mask) || (m->op != DT_OP_FLUSH && m->sectors == 0)) {
        answer(p, s, -EINVAL);
        return NULL;
    }
    s->next = NULL;
    *p->sub_wait_tail = s;
    p->sub_wait_tail = &s->next;
    proxy_start_subs(p);
    return NULL;
}

int subs_init(struct proxy *p, struct dt_error *err)
{
    int ret;

    p->sub_wait = NULL;
    p->sub_wait_tail = &p->sub_wait;
    p->nsubs = p->w->ext.sub_requests;
    if (p->nsubs == 0)
        return 0;
    ret = copypool_init(&p->sub_pool, DATA_BYTES);
    if (ret < 0)
        return dt_fail(err, ret, "no memory for the extension's own requests: %s", strerror(-ret));
    p->subs = xcalloc(p->nsubs, sizeof(*p->subs));
    for (unsigned i = 0; i < p->nsubs; i++)
        p->subs[i] = (struct sub){.proxy = p, .id = i};
    return 0;
}

/* Those that were sent below end there; those that wait are forgotten with their process. */
void subs_orphan(struct proxy *p)
{
    for (unsigned i = 0; i < p->nsubs; i++) {
        struct sub *s = &p->subs[i];

        if (s->req) {
            p->orphans++;
        } else if (s->busy) {
            release(p, s);
            s->busy = false;
        }
    }
    p->sub_wait = NULL;
    p->sub_wait_tail = &p->sub_wait;
}

void subs_fini(struct proxy *p)
{
    free(p->subs);
    p->subs = NULL;
    p->nsubs = 0;
    copypool_fini(&p->sub_pool);
}
