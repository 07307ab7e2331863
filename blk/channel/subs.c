/* SPDX-License-Identifier: MIT */
/*
 * subs.c - requests that the extension makes itself: copied into private memory, sent below by the
 * proxy in its name, and answered into the window that the extension has for each.
 */
#include "blk/channel/internal.h"

static void answer(struct link *l, struct sub *s, int error)
{
    s->busy = false;
    *channel_push(&l->down) =
        (struct channel_msg){.kind = CHANNEL_SUB_DONE, .id = s->id, .error = error};
    loop_defer(ctx_loop(l->c), &l->flush);
}

static uint8_t *window(struct link *l, const struct sub *s)
{
    return l->map.sub_data + (size_t)s->id * l->map.sub_window;
}

static size_t data_bytes(const struct channel_msg *m)
{
    return m->op <= DT_OP_WRITE ? (size_t)m->sectors << DT_SECTOR_SHIFT : 0;
}

static void release(struct link *l, struct sub *s)
{
    if (s->iov.iov_base)
        copypool_put(&l->sub_pool, s->iov.iov_base);
    s->iov = (struct iovec){0};
    s->req = NULL;
}

static void sub_done(struct dt_ctx *c, struct dt_req *req)
{
    struct sub *s = dt_sub_arg(req);
    struct link *l = s->link;
    bool orphan = s->generation != l->generation;

    if (!orphan && req->op == DT_OP_READ && req->error == 0)
        memcpy(window(l, s), s->iov.iov_base, s->iov.iov_len);
    if (!orphan)
        answer(l, s, req->error);
    s->busy = false;
    release(l, s);
    dt_sub_free(c, req);
    if (orphan)
        orphan_back(l);
    else
        link_start_subs(l);
}

/* false: not now, for want of memory or of a free request. */
static bool start(struct link *l, struct sub *s)
{
    const struct channel_msg *m = &s->msg;
    size_t bytes = data_bytes(m);

    if (bytes && !s->iov.iov_base) {
        s->iov.iov_base = copypool_get(&l->sub_pool, bytes, 0);
        s->iov.iov_len = bytes;
        if (!s->iov.iov_base)
            return false;
        if (m->op == DT_OP_WRITE)
            memcpy(s->iov.iov_base, window(l, s), bytes);
    }
    s->req = dt_sub_new(l->c, m->op, m->sector, m->sectors, &s->iov, bytes ? 1 : 0, sub_done, s);
    if (!s->req)
        return false;
    s->req->flags |= m->flags & (DT_REQ_FUA | DT_REQ_UNMAP | DT_REQ_REPLAYED);
    dt_sub_submit(l->c, s->req);
    return true;
}

void link_start_subs(struct link *l)
{
    while (l->sub_wait && start(l, l->sub_wait)) {
        l->sub_wait = l->sub_wait->next;
        if (!l->sub_wait)
            l->sub_wait_tail = &l->sub_wait;
    }
}

const char *link_take_sub(struct link *l, const struct channel_msg *m)
{
    const struct dt_block_info *below = dt_layer_info(l->p->layer);
    uint32_t mask = (below->logical_block >> DT_SECTOR_SHIFT) - 1;
    struct sub *s;

    if (m->id >= l->nsubs || l->subs[m->id].busy)
        return "it made a request of its own that is already under way";
    if (m->op >= DT_OP_COUNT || data_bytes(m) > l->map.sub_window)
        return "it made a request of its own that there is not";
    s = &l->subs[m->id];
    s->msg = *m;
    s->generation = l->generation;
    s->busy = true;
    if (m->sector > below->sectors || m->sectors > below->sectors - m->sector ||
        ((m->sector | m->sectors) & mask) || (m->op != DT_OP_FLUSH && m->sectors == 0)) {
        answer(l, s, -EINVAL);
        return NULL;
    }
    s->next = NULL;
    *l->sub_wait_tail = s;
    l->sub_wait_tail = &s->next;
    link_start_subs(l);
    return NULL;
}

int subs_init(struct link *l, struct dt_error *err)
{
    int ret;

    l->sub_wait = NULL;
    l->sub_wait_tail = &l->sub_wait;
    l->nsubs = l->p->w->ext.sub_requests;
    if (l->nsubs == 0)
        return 0;
    ret = copypool_init(&l->sub_pool, DATA_BYTES);
    if (ret < 0)
        return dt_fail(err, ret, "no memory for the extension's own requests: %s", strerror(-ret));
    l->subs = xcalloc(l->nsubs, sizeof(*l->subs));
    for (unsigned i = 0; i < l->nsubs; i++)
        l->subs[i] = (struct sub){.link = l, .id = i};
    return 0;
}

/* Those that were sent below end there; those that wait are forgotten with their process. */
void subs_orphan(struct link *l)
{
    for (unsigned i = 0; i < l->nsubs; i++) {
        struct sub *s = &l->subs[i];

        if (s->req) {
            count_orphan(l);
        } else if (s->busy) {
            release(l, s);
            s->busy = false;
        }
    }
    l->sub_wait = NULL;
    l->sub_wait_tail = &l->sub_wait;
}

void subs_fini(struct link *l)
{
    free(l->subs);
    l->subs = NULL;
    l->nsubs = 0;
    copypool_fini(&l->sub_pool);
}
