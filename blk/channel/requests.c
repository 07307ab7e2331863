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

void link_enqueue(struct link *l, struct dt_req *req, bool first)
{
    struct frame *f = frame_of(l, req);

    set_queued(l, l->queued + 1);
    if (first) {
        f->next = l->queue;
        if (!l->queue)
            l->queue_tail = &f->next;
        l->queue = req;
        return;
    }
    f->next = NULL;
    *l->queue_tail = req;
    l->queue_tail = &f->next;
}

static struct dt_req *dequeue(struct link *l)
{
    struct dt_req *req = l->queue;

    set_queued(l, l->queued - 1);
    l->queue = frame_of(l, req)->next;
    if (!l->queue)
        l->queue_tail = &l->queue;
    return req;
}

/* ---- Sending ---- */

void slot_free(struct link *l, uint32_t id)
{
    struct slot *s = &l->slots[id];

    if (s->data)
        copypool_put(&l->pool, s->data);
    s->state = SLOT_FREE;
    s->req = NULL;
    s->data = NULL;
    s->next_free = l->free_slot;
    l->free_slot = id;
    l->in_slots--;
}

/* The process has the guest's memory: a list of where it is there. 0: it has not, or not all of it. */
static unsigned place_list(struct link *l, struct slot *s, struct dt_req *req)
{
    struct channel_vector list[CHANNEL_VECTORS];
    const struct iovec *iov;
    unsigned n = dt_req_map(l->c, req, &iov);

    n = proxy_vectors(l->p, iov, n, list);
    if (n == 0)
        return 0;
    s->data = copypool_get(&l->pool, PAGE_SIZE_4K + (s->parts - 1u) * dt_req_bytes(req), 0);
    if (s->data)
        memcpy(s->data, list, n * sizeof(list[0]));
    s->in_memory = s->data;
    return s->data ? n : 0;
}

/* Memory for the request's data, with the data of a write in it, or @vectors; false: none left now. */
static bool place_data(struct link *l, struct slot *s, struct dt_req *req, uint16_t *vectors)
{
    uint8_t right = proxy_right(l->p, req);
    const struct iovec *iov;
    unsigned n;

    s->parts = right == DT_DATA_NONE ? 0 : right == DT_DATA_TRANSFORM ? 2 : 1;
    s->data = NULL;
    s->in_memory = false;
    *vectors = 0;
    if (s->parts == 0)
        return true;
    if (l->p->granted)
        *vectors = (uint16_t)place_list(l, s, req);
    if (*vectors)
        return true;
    s->data = copypool_get(&l->pool, s->parts * dt_req_bytes(req), 0);
    if (!s->data)
        return false;
    if (req->op == DT_OP_WRITE) {
        n = dt_req_map(l->c, req, &iov);
        dt_iov_read(iov, n, 0, s->data, dt_req_bytes(req));
    }
    return true;
}

static uint32_t data_page(const struct link *l, const struct slot *s)
{
    return s->data ? (uint32_t)(((uint8_t *)s->data - l->map.data) >> CHANNEL_PAGE_SHIFT)
                   : CHANNEL_NO_DATA;
}

/* Pushes one request, unpublished; false when there is no room for it. */
static bool send(struct link *l, struct dt_req *req, uint64_t now)
{
    struct frame *f = frame_of(l, req);
    uint32_t id = l->free_slot;
    struct slot *s = &l->slots[id];
    uint16_t vectors;

    if (id == NO_SLOT || !place_data(l, s, req, &vectors))
        return false;
    l->free_slot = s->next_free;
    l->in_slots++;
    l->sent++;
    s->req = req;
    s->state = SLOT_SENT;
    s->cancelled = false;
    s->sent_at = now;
    s->order = ++l->sent_order;
    f->id = id;
    *channel_push(&l->down) =
        (struct channel_msg){.kind = CHANNEL_REQUEST,
                             .op = req->op,
                             .parts = s->parts,
                             .id = id,
                             .sector = req->sector,
                             .flags = (uint8_t)(req->flags | (f->replay ? DT_REQ_REPLAYED : 0)),
                             .sectors = req->sectors,
                             .data = data_page(l, s),
                             .queue = req->queue,
                             .vectors = vectors};
    return true;
}

/* Core splits what is longer than we said; what a layer above makes itself may be longer yet. */
static bool too_long(const struct link *l, const struct dt_req *req)
{
    uint64_t parts = proxy_right(l->p, req) == DT_DATA_TRANSFORM ? 2 : 1;

    return proxy_right(l->p, req) != DT_DATA_NONE &&
           parts * dt_req_bytes(req) > 1u << COPYPOOL_MAX_SHIFT;
}

/* Of those that are tried alone none is left: so it goes on as always, in time. */
static void end_trial(struct link *l)
{
    l->suspected = false;
    __atomic_store_n(&l->tried, true, __ATOMIC_RELEASE);
    proxy_turn_soon(l->p);
}

void link_send_queue(struct link *l)
{
    uint64_t now = l->queue ? dt_now(l->c) : 0;

    while (l->queue && link_is_up(l) && !l->trying) {
        struct dt_req *req = l->queue;
        bool suspect = frame_of(l, req)->attempts > 0;

        if (!suspect && l->state == LINK_TRYING)
            break;
        /* A suspect is tried alone, so that the next crash convicts or clears it. */
        if ((suspect && l->in_slots) || !send(l, req, now))
            break;
        dequeue(l);
        l->trying = suspect;
        l->trial = suspect ? req : NULL;
    }
    channel_publish(&l->down);
    link_tick_start(l);
    if (l->state == LINK_TRYING && l->suspected && !l->trying && l->in_slots == 0)
        end_trial(l);
}

/* No process will serve it: the placement's policy does. */
static void submit_given_up(struct link *l, struct dt_req *req)
{
    if (l->p->on_crash == ON_CRASH_BYPASS)
        dt_forward_one(l->c, req);
    else if (l->p->on_crash == ON_CRASH_FAIL)
        dt_complete_one(l->c, req, -EIO);
    else
        link_enqueue(l, req, false);
}

void proxy_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct link *l = link_of(c);
    uint64_t now = dt_now(c);

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];

        *frame_of(l, req) = (struct frame){.id = NO_SLOT, .sector = req->sector};
        if (unlikely(too_long(l, req)))
            dt_complete_one(c, req, -EINVAL);
        else if (unlikely(l->state == LINK_GIVEN_UP))
            submit_given_up(l, req);
        else if (l->state != LINK_LIVE || l->queue || l->trying || !send(l, req, now))
            link_enqueue(l, req, false);
    }
    if (likely(l->state == LINK_LIVE))
        channel_publish(&l->down);
    link_tick_start(l);
}

/* How many more the extension would take now. */
static uint32_t allowed(const struct link *l)
{
    uint32_t n = __atomic_load_n(&l->map.header->limit, __ATOMIC_SEQ_CST) - l->sent;

    return n <= INT32_MAX ? n : 0;
}

unsigned link_allowed(struct link *l, unsigned asked)
{
    struct channel_header *h = l->map.header;
    unsigned want = asked;

    if (!__atomic_load_n(&h->limited, __ATOMIC_ACQUIRE))
        return want;
    want = MIN(want, allowed(l));
    if (want == 0) {
        __atomic_store_n(&h->waiting, 1, __ATOMIC_SEQ_CST);
        want = MIN(asked, allowed(l)); /* unless it was changed just now */
    }
    return want;
}

/* Requests that cannot be sent at once are best left in the guest's ring. */
unsigned proxy_admit(struct dt_ctx *c, unsigned asked)
{
    struct link *l = link_of(c);
    unsigned want = asked;

    if (l->state == LINK_GIVEN_UP && l->p->on_crash != ON_CRASH_HOLD)
        return want;
    if (l->state != LINK_LIVE)
        return 0; /* its life begins with a wake */
    if (l->queue) {
        l->stopped = true;
        return 0;
    }
    want = link_allowed(l, asked);
    if (want == 0)
        return 0;
    want = MIN(want, SLOTS - l->in_slots);
    if (want == 0)
        l->stopped = true;
    return want;
}

/* ---- What comes back from below ---- */

/* Lets the layers above see their own buffer again; the one that was below, or NULL. */
static void *restore(struct link *l, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n;

    if (proxy_right(l->p, req) != DT_DATA_TRANSFORM)
        return NULL;
    return dt_req_restore(l->c, req, &iov, &n);
}

static void return_data(struct link *l, struct slot *s)
{
    struct dt_req *req = s->req;
    size_t bytes = dt_req_bytes(req);
    const struct iovec *iov;
    void *below = restore(l, req);
    unsigned n;

    if (req->op != DT_OP_READ || req->error || s->parts == 0)
        return;
    if (below) {
        memcpy(part_below(s), below, bytes);
    } else if (!s->in_memory) {
        n = dt_req_map(l->c, req, &iov);
        dt_iov_read(iov, n, 0, s->data, bytes);
    }
}

/* Whoever forwarded it is dead, so nobody knows what to make of the response: once more from the
 * start. */
static void adopt(struct link *l, struct dt_req *req)
{
    struct frame *f = frame_of(l, req);

    f->orphan = false;
    f->below = false;
    restore(l, req);
    req->sector = f->sector;
    if (l->state != LINK_GIVEN_UP || l->p->on_crash == ON_CRASH_HOLD)
        link_enqueue(l, req, true);
    else if (l->p->on_crash == ON_CRASH_BYPASS)
        dt_complete_one(l->c, req, req->error);
    else
        dt_complete_one(l->c, req, -EIO);
    orphan_back(l);
}

void proxy_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct link *l = link_of(c);
    uint64_t now = dt_now(c);
    unsigned up = 0, returned = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct frame *f = frame_of(l, req);
        struct slot *s;

        if (unlikely(f->orphan)) {
            adopt(l, req);
            continue;
        }
        if (f->id == NO_SLOT) {
            req->sector = f->sector;
            reqs[up++] = req;
            continue;
        }
        s = &l->slots[f->id];
        CHECK(s->state == SLOT_BELOW && s->req == req);
        f->below = false;
        return_data(l, s);
        s->state = SLOT_RETURNED;
        s->sent_at = now;
        *channel_push(&l->down) =
            (struct channel_msg){.kind = CHANNEL_RETURNED, .id = f->id, .error = req->error};
        returned++;
    }
    if (returned)
        channel_publish(&l->down);
    dt_complete(c, reqs, up);
}
