/* SPDX-License-Identifier: MIT */
/*
 * answers.c - what the extension's process sends, judged against what it may send.
 *
 * Anything else is answered by its end: the text says what it did, for the event.
 */
#include "blk/channel/internal.h"

#define BURST  64u
#define ROUNDS 8u /* bursts taken at a time, so that other layers get their turn */

/* Requests on their way down and up, handed on in bursts. */
struct batch {
    struct dt_req *down[BURST], *up[BURST];
    unsigned ndown, nup;
};

static void hand_on(struct proxy *p, struct batch *b)
{
    struct batch now = {.ndown = b->ndown, .nup = b->nup};

    memcpy(now.down, b->down, b->ndown * sizeof(b->down[0]));
    memcpy(now.up, b->up, b->nup * sizeof(b->up[0]));
    b->ndown = b->nup = 0;
    dt_complete(p->c, now.up, now.nup);
    dt_forward(p->c, now.down, now.ndown);
}

/* May the request of this slot go down as the message says? */
static const char *judge_forward(const struct proxy *p, const struct slot *s,
                                 const struct channel_msg *m)
{
    const struct dt_block_info *below = dt_layer_info(p->layer);
    uint32_t mask = (below->logical_block >> DT_SECTOR_SHIFT) - 1;
    const struct dt_req *req = s->req;

    if (s->state != SLOT_SENT)
        return "it forwarded a request that it did not have";
    if (m->sector != req->sector &&
        (m->sector > below->sectors || req->sectors > below->sectors - m->sector ||
         (m->sector & mask)))
        return "it forwarded a request to where the disk below has nothing";
    if ((m->flags & CHANNEL_LAST) && s->parts == 2)
        return "it forwarded changed data and wants no response";
    if (!(m->flags & CHANNEL_LAST) && !p->w->responds)
        return "it wants a response, which it did not declare";
    return NULL;
}

static void clear_trial(struct proxy *p, const struct dt_req *req)
{
    if (unlikely(p->trial == req)) {
        p->trial = NULL;
        p->trying = false;
    }
}

static const char *take_forward(struct proxy *p, const struct channel_msg *m, struct batch *b)
{
    struct slot *s = &p->slots[m->id];
    const char *why = judge_forward(p, s, m);
    struct dt_req *req = s->req;
    const struct iovec *from;
    struct frame *f;
    unsigned n;

    if (why)
        return why;
    f = frame_of(p, req);
    if (s->parts == 2) {
        size_t bytes = dt_req_bytes(req);
        void *own = dt_req_transform(p->c, req, &from, &n);

        if (req->op == DT_OP_WRITE)
            memcpy(own, (uint8_t *)s->data + bytes, bytes);
    }
    req->sector = m->sector;
    if (unlikely(f->replay))
        req->flags |= DT_REQ_REPLAYED;
    f->below = true;
    s->state = SLOT_BELOW;
    if (m->flags & CHANNEL_LAST) {
        f->id = NO_SLOT;
        clear_trial(p, req);
        slot_free(p, m->id);
    }
    b->down[b->ndown++] = req;
    return NULL;
}

static const char *take_done(struct proxy *p, const struct channel_msg *m, struct batch *b)
{
    struct slot *s = &p->slots[m->id];
    struct dt_req *req = s->req;
    const struct iovec *to;

    if (s->state != SLOT_SENT && s->state != SLOT_RETURNED)
        return "it answered a request that it did not have";
    if (m->error > 0 || m->error < -4095)
        return "it answered with what is no error number";
    if (req->op == DT_OP_READ && m->error == 0 && s->parts) {
        unsigned n = dt_req_map(p->c, req, &to);

        dt_iov_write(to, n, 0, s->data, dt_req_bytes(req));
    }
    req->sector = frame_of(p, req)->sector;
    req->error = m->error;
    clear_trial(p, req);
    slot_free(p, m->id);
    b->up[b->nup++] = req;
    return NULL;
}

static const char *take_one(struct proxy *p, const struct channel_msg *m, struct batch *b)
{
    switch (m->kind) {
    case CHANNEL_FORWARD:
        return m->id < SLOTS ? take_forward(p, m, b) : "it forwarded a request that there is not";
    case CHANNEL_DONE:
        return m->id < SLOTS ? take_done(p, m, b) : "it answered a request that there is not";
    case CHANNEL_SUB:
        return proxy_take_sub(p, m);
    case CHANNEL_PONG:
        return proxy_take_pong(p, m->id);
    case CHANNEL_OPEN:
        dt_wake(p->c);
        return NULL;
    default:
        return "it sent a message of an unknown kind";
    }
}

int proxy_take(struct proxy *p, const char **why)
{
    int available = channel_available(&p->up), taken = 0;
    struct batch batch = {.ndown = 0};

    *why = available < 0 ? "it claims more messages than there can be" : NULL;
    for (; taken < MIN(available, (int)(BURST * ROUNDS)) && !*why; taken++) {
        struct channel_msg m;

        channel_take(&p->up, &m);
        *why = take_one(p, &m, &batch);
        if (batch.ndown == BURST || batch.nup == BURST)
            hand_on(p, &batch);
    }
    hand_on(p, &batch);
    if (p->queue)
        proxy_send_queue(p);
    if (p->stopped && taken && !p->queue) {
        p->stopped = false;
        dt_wake(p->c);
    }
    return *why ? -EPROTO : taken;
}
