/* SPDX-License-Identifier: MIT */
/*
 * requests.c - the proxy's requests on their way to the extension's process, and back to it.
 *
 * Data cross in memory that both sides can write, so the layers below never see that memory: what
 * the extension passes on is copied into the request's own buffers first.
 */
#include "blk/channel/internal.h"

uint8_t proxy_right(const struct proxy *p, const struct dt_req *req)
{
    if (!dt_req_has_data(req) || req->sectors == 0)
        return DT_DATA_NONE;
    return req->op == DT_OP_WRITE ? p->w->ext.write_data : p->w->ext.read_data;
}

/* ---- The queue ---- */

void proxy_enqueue(struct proxy *p, struct dt_req *req, bool first)
{
    struct frame *f = frame_of(p, req);

    p->queued++;
    if (first) {
        f->next = p->queue;
        if (!p->queue)
            p->queue_tail = &f->next;
        p->queue = req;
        return;
    }
    f->next = NULL;
    *p->queue_tail = req;
    p->queue_tail = &f->next;
}

static struct dt_req *dequeue(struct proxy *p)
{
    struct dt_req *req = p->queue;

    p->queued--;
    p->queue = frame_of(p, req)->next;
    if (!p->queue)
        p->queue_tail = &p->queue;
    return req;
}

/* ---- Sending ---- */

void slot_free(struct proxy *p, uint32_t id)
{
    struct slot *s = &p->slots[id];

    if (s->data)
        copypool_put(&p->pool, s->data);
    s->state = SLOT_FREE;
    s->req = NULL;
    s->data = NULL;
    s->next_free = p->free_slot;
    p->free_slot = id;
    p->in_slots--;
}

/* Memory for the request's data, with the data of a write in it; false: none left now. */
static bool place_data(struct proxy *p, struct slot *s, struct dt_req *req)
{
    uint8_t right = proxy_right(p, req);
    const struct iovec *iov;
    unsigned n;

    s->parts = right == DT_DATA_NONE ? 0 : right == DT_DATA_TRANSFORM ? 2 : 1;
    s->data = NULL;
    if (s->parts == 0)
        return true;
    s->data = copypool_get(&p->pool, s->parts * dt_req_bytes(req), 0);
    if (!s->data)
        return false;
    if (req->op == DT_OP_WRITE) {
        n = dt_req_map(p->c, req, &iov);
        dt_iov_read(iov, n, 0, s->data, dt_req_bytes(req));
    }
    return true;
}

static uint32_t data_page(const struct proxy *p, const struct slot *s)
{
    return s->data ? (uint32_t)(((uint8_t *)s->data - p->map.data) >> CHANNEL_PAGE_SHIFT)
                   : CHANNEL_NO_DATA;
}

/* Pushes one request, unpublished; false when there is no room for it. */
static bool send(struct proxy *p, struct dt_req *req, uint64_t now)
{
    struct frame *f = frame_of(p, req);
    uint32_t id = p->free_slot;
    struct slot *s = &p->slots[id];

    if (id == NO_SLOT || !place_data(p, s, req))
        return false;
    p->free_slot = s->next_free;
    p->in_slots++;
    p->sent++;
    s->req = req;
    s->state = SLOT_SENT;
    s->cancelled = false;
    s->sent_at = now;
    s->order = ++p->order;
    f->id = id;
    *channel_push(&p->down) =
        (struct channel_msg){.kind = CHANNEL_REQUEST,
                             .op = req->op,
                             .parts = s->parts,
                             .id = id,
                             .sector = req->sector,
                             .flags = (uint8_t)(req->flags | (f->replay ? DT_REQ_REPLAYED : 0)),
                             .sectors = req->sectors,
                             .data = data_page(p, s),
                             .queue = req->queue};
    return true;
}

/* Core splits what is longer than we said; what a layer above makes itself may be longer yet. */
static bool too_long(const struct proxy *p, const struct dt_req *req)
{
    uint64_t parts = proxy_right(p, req) == DT_DATA_TRANSFORM ? 2 : 1;

    return proxy_right(p, req) != DT_DATA_NONE &&
           parts * dt_req_bytes(req) > 1u << COPYPOOL_MAX_SHIFT;
}

void proxy_send_queue(struct proxy *p)
{
    uint64_t now = p->queue ? dt_now(p->c) : 0;

    while (p->queue && p->state == PROXY_LIVE && !p->trying) {
        struct dt_req *req = p->queue;
        bool suspect = frame_of(p, req)->attempts > 0;

        /* A suspect is tried alone, so that the next crash convicts or clears it. */
        if ((suspect && p->in_slots) || !send(p, req, now))
            break;
        dequeue(p);
        p->trying = suspect;
        p->trial = suspect ? req : NULL;
    }
    channel_publish(&p->down);
    proxy_tick_start(p);
}

/* No process will serve it: the placement's policy does. */
static void submit_given_up(struct proxy *p, struct dt_req *req)
{
    if (p->on_crash == ON_CRASH_BYPASS)
        dt_forward_one(p->c, req);
    else if (p->on_crash == ON_CRASH_FAIL)
        dt_complete_one(p->c, req, -EIO);
    else
        proxy_enqueue(p, req, false);
}

void proxy_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct proxy *p = c->layer_data;
    uint64_t now = dt_now(c);

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];

        *frame_of(p, req) = (struct frame){.id = NO_SLOT, .sector = req->sector};
        if (unlikely(too_long(p, req)))
            dt_complete_one(c, req, -EINVAL);
        else if (unlikely(p->state == PROXY_GIVEN_UP))
            submit_given_up(p, req);
        else if (p->state != PROXY_LIVE || p->queue || p->trying || !send(p, req, now))
            proxy_enqueue(p, req, false);
    }
    if (likely(p->state == PROXY_LIVE))
        channel_publish(&p->down);
    proxy_tick_start(p);
}

/* How many more the extension would take now. */
static uint32_t allowed(const struct proxy *p)
{
    uint32_t n = __atomic_load_n(&p->map.header->limit, __ATOMIC_SEQ_CST) - p->sent;

    return n <= INT32_MAX ? n : 0;
}

/* Requests that cannot be sent at once are best left in the guest's ring. */
unsigned proxy_admit(struct dt_ctx *c, unsigned asked)
{
    struct proxy *p = c->layer_data;
    struct channel_header *h = p->map.header;
    unsigned want = asked;

    if (p->state == PROXY_GIVEN_UP && p->on_crash != ON_CRASH_HOLD)
        return want;
    if (p->state != PROXY_LIVE)
        return 0; /* its life begins with a wake */
    if (p->queue) {
        p->stopped = true;
        return 0;
    }
    if (__atomic_load_n(&h->limited, __ATOMIC_ACQUIRE)) {
        want = MIN(want, allowed(p));
        if (want == 0) {
            __atomic_store_n(&h->waiting, 1, __ATOMIC_SEQ_CST);
            want = MIN(asked, allowed(p)); /* unless it was changed just now */
        }
        if (want == 0)
            return 0;
    }
    want = MIN(want, SLOTS - p->in_slots);
    if (want == 0)
        p->stopped = true;
    return want;
}

/* ---- What comes back from below ---- */

/* Lets the layers above see their own buffer again; the one that was below, or NULL. */
static void *restore(struct proxy *p, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n;

    if (proxy_right(p, req) != DT_DATA_TRANSFORM)
        return NULL;
    return dt_req_restore(p->c, req, &iov, &n);
}

static void return_data(struct proxy *p, struct slot *s)
{
    struct dt_req *req = s->req;
    size_t bytes = dt_req_bytes(req);
    const struct iovec *iov;
    void *below = restore(p, req);
    unsigned n;

    if (req->op != DT_OP_READ || req->error || s->parts == 0)
        return;
    if (below) {
        memcpy((uint8_t *)s->data + bytes, below, bytes);
    } else {
        n = dt_req_map(p->c, req, &iov);
        dt_iov_read(iov, n, 0, s->data, bytes);
    }
}

/* Whoever forwarded it is dead, so nobody knows what to make of the response: once more from the
 * start. */
static void adopt(struct proxy *p, struct dt_req *req)
{
    struct frame *f = frame_of(p, req);

    f->orphan = false;
    f->below = false;
    p->orphans--;
    restore(p, req);
    req->sector = f->sector;
    if (p->state != PROXY_GIVEN_UP || p->on_crash == ON_CRASH_HOLD)
        proxy_enqueue(p, req, true);
    else if (p->on_crash == ON_CRASH_BYPASS)
        dt_complete_one(p->c, req, req->error);
    else
        dt_complete_one(p->c, req, -EIO);
    proxy_drained(p);
}

void proxy_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct proxy *p = c->layer_data;
    uint64_t now = dt_now(c);
    unsigned up = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct frame *f = frame_of(p, req);
        struct slot *s;

        if (unlikely(f->orphan)) {
            adopt(p, req);
            continue;
        }
        if (f->id == NO_SLOT) {
            req->sector = f->sector;
            reqs[up++] = req;
            continue;
        }
        s = &p->slots[f->id];
        CHECK(s->state == SLOT_BELOW && s->req == req);
        f->below = false;
        return_data(p, s);
        s->state = SLOT_RETURNED;
        s->sent_at = now;
        *channel_push(&p->down) =
            (struct channel_msg){.kind = CHANNEL_RETURNED, .id = f->id, .error = req->error};
    }
    if (p->map.header)
        channel_publish(&p->down);
    dt_complete(c, reqs, up);
}
