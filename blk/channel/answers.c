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

static void hand_on(struct link *l, struct batch *b)
{
    struct batch now = {.ndown = b->ndown, .nup = b->nup};

    memcpy(now.down, b->down, b->ndown * sizeof(b->down[0]));
    memcpy(now.up, b->up, b->nup * sizeof(b->up[0]));
    b->ndown = b->nup = 0;
    dt_complete(l->c, now.up, now.nup);
    dt_forward(l->c, now.down, now.ndown);
}

/* May the request of this slot go down as the message says? */
static const char *judge_forward(const struct link *l, const struct slot *s,
                                 const struct channel_msg *m)
{
    const struct dt_block_info *below = dt_layer_info(l->p->layer);
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
    if (!(m->flags & CHANNEL_LAST) && !l->p->w->responds)
        return "it wants a response, which it did not declare";
    return NULL;
}

static void clear_trial(struct link *l, const struct dt_req *req)
{
    if (unlikely(l->trial == req)) {
        l->trial = NULL;
        l->trying = false;
    }
}

static const char *take_forward(struct link *l, const struct channel_msg *m, struct batch *b)
{
    struct slot *s = &l->slots[m->id];
    const char *why = judge_forward(l, s, m);
    struct dt_req *req = s->req;
    const struct iovec *from;
    struct frame *f;
    unsigned n;

    if (why)
        return why;
    f = frame_of(l, req);
    if (s->parts == 2) {
        size_t bytes = dt_req_bytes(req);
        void *own = dt_req_transform(l->c, req, &from, &n);

        if (req->op == DT_OP_WRITE)
            memcpy(own, part_below(s), bytes);
    }
    req->sector = m->sector;
    if (unlikely(f->replay))
        req->flags |= DT_REQ_REPLAYED;
    f->below = true;
    s->state = SLOT_BELOW;
    if (m->flags & CHANNEL_LAST) {
        f->id = NO_SLOT;
        clear_trial(l, req);
        slot_free(l, m->id);
    }
    b->down[b->ndown++] = req;
    return NULL;
}

static const char *take_done(struct link *l, const struct channel_msg *m, struct batch *b)
{
    struct slot *s = &l->slots[m->id];
    struct dt_req *req = s->req;
    const struct iovec *to;

    if (s->state != SLOT_SENT && s->state != SLOT_RETURNED)
        return "it answered a request that it did not have";
    if (m->error > 0 || m->error < -4095)
        return "it answered with what is no error number";
    if (req->op == DT_OP_READ && m->error == 0 && s->parts && !s->in_memory) {
        unsigned n = dt_req_map(l->c, req, &to);

        dt_iov_write(to, n, 0, s->data, dt_req_bytes(req));
    }
    req->sector = frame_of(l, req)->sector;
    req->error = m->error;
    clear_trial(l, req);
    slot_free(l, m->id);
    b->up[b->nup++] = req;
    return NULL;
}

static const char *take_one(struct link *l, const struct channel_msg *m, struct batch *b)
{
    switch (m->kind) {
    case CHANNEL_FORWARD:
        return m->id < SLOTS ? take_forward(l, m, b) : "it forwarded a request that there is not";
    case CHANNEL_DONE:
        return m->id < SLOTS ? take_done(l, m, b) : "it answered a request that there is not";
    case CHANNEL_SUB:
        return link_take_sub(l, m);
    case CHANNEL_PONG:
        return link_take_pong(l, m->id);
    case CHANNEL_OPEN:
        dt_wake(l->c);
        return NULL;
    default:
        return "it sent a message of an unknown kind";
    }
}

int link_take(struct link *l, const char **why)
{
    int available = channel_available(&l->up), taken = 0;
    struct batch batch = {.ndown = 0};

    *why = available < 0 ? "it claims more messages than there can be" : NULL;
    for (; taken < MIN(available, (int)(BURST * ROUNDS)) && !*why; taken++) {
        struct channel_msg m;

        channel_take(&l->up, &m);
        *why = take_one(l, &m, &batch);
        if (batch.ndown == BURST || batch.nup == BURST)
            hand_on(l, &batch);
    }
    hand_on(l, &batch);
    if (l->queue || l->state == LINK_TRYING)
        link_send_queue(l);
    if (l->stopped && taken && !l->queue) {
        l->stopped = false;
        dt_wake(l->c);
    }
    return *why ? -EPROTO : taken;
}
