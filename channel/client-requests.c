/* SPDX-License-Identifier: MIT */
/*
 * client-requests.c - what comes and goes through a channel's rings, on the extension's side.
 *
 * Whatever the worker writes is judged against the private table of requests: an id must be
 * in the state that the message presumes, and data must lie within the area. A worker that breaks
 * the protocol ends the conversation: DT_CHANNEL_END, and nothing is read any more.
 */
#include "channel/client.h"

#define CONTROL_EVERY 256u /* polls of the ring between two looks at the control socket */
#define SECTOR_LIMIT  (UINT64_MAX >> DT_SECTOR_SHIFT)

/* ---- From the worker ---- */

static bool data_fits(const struct dt_channel *ch, const struct channel_msg *m)
{
    uint64_t bytes = (uint64_t)m->sectors << DT_SECTOR_SHIFT;
    uint64_t at = (uint64_t)m->data << CHANNEL_PAGE_SHIFT;
    uint64_t first = m->vectors ? 1u << CHANNEL_PAGE_SHIFT : bytes;

    if (m->parts == 0)
        return m->vectors == 0;
    return m->parts <= 2 && m->op <= 1 && bytes && at <= ch->map.data_bytes &&
           first + bytes * (m->parts - 1u) <= ch->map.data_bytes - at;
}

static bool vectors_fit(struct dt_channel *ch, const struct channel_msg *m)
{
    const void *list = ch->map.data + ((uint64_t)m->data << CHANNEL_PAGE_SHIFT);

    return m->vectors == 0 ||
           (m->vectors <= CHANNEL_VECTORS &&
            memory_vectors(ch->memory, list, m->vectors, (uint64_t)m->sectors << DT_SECTOR_SHIFT,
                           &ch->vectors[m->id * CHANNEL_VECTORS]));
}

static bool judge_request(struct dt_channel *ch, const struct channel_msg *m)
{
    return m->id < ch->map.slots && ch->requests[m->id].state == REQUEST_IDLE &&
           m->sector <= SECTOR_LIMIT && data_fits(ch, m) && vectors_fit(ch, m);
}

uint32_t dt_channel_data(struct dt_channel *ch, uint32_t id, void **data, void **below)
{
    const struct client_request *r = &ch->requests[id];
    uint32_t bytes = r->sectors << DT_SECTOR_SHIFT;

    CHECK(id < ch->map.slots);
    *data = *below = NULL;
    if (r->parts == 0)
        return 0;
    *data = ch->map.data + ((uint64_t)r->data << CHANNEL_PAGE_SHIFT);
    if (r->parts == 2)
        *below = (uint8_t *)*data + (r->vectors ? 1u << CHANNEL_PAGE_SHIFT : bytes);
    if (r->vectors)
        *data = NULL;
    return bytes;
}

unsigned dt_channel_vectors(struct dt_channel *ch, uint32_t id, const struct iovec **iov)
{
    CHECK(id < ch->map.slots);
    *iov = &ch->vectors[id * CHANNEL_VECTORS];
    return ch->requests[id].vectors;
}

static void fill_event(struct dt_channel *ch, uint32_t id, struct dt_channel_event *e)
{
    const struct client_request *r = &ch->requests[id];

    *e = (struct dt_channel_event){.id = id,
                                   .sector = r->sector,
                                   .sectors = r->sectors,
                                   .op = r->op,
                                   .flags = r->flags,
                                   .queue = r->queue,
                                   .fd = -1};
    e->bytes = dt_channel_data(ch, id, &e->data, &e->below);
}

static int take_request(struct dt_channel *ch, const struct channel_msg *m,
                        struct dt_channel_event *e)
{
    if (!judge_request(ch, m))
        return -EPROTO;
    ch->taken++;
    ch->requests[m->id] = (struct client_request){.state = REQUEST_HERE,
                                                  .op = m->op,
                                                  .flags = m->flags,
                                                  .parts = m->parts,
                                                  .sectors = m->sectors,
                                                  .sector = m->sector,
                                                  .data = m->data,
                                                  .queue = m->queue,
                                                  .vectors = m->vectors};
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_REQUEST;
    return 1;
}

static int take_returned(struct dt_channel *ch, const struct channel_msg *m,
                         struct dt_channel_event *e)
{
    if (m->id >= ch->map.slots || ch->requests[m->id].state != REQUEST_BELOW)
        return -EPROTO;
    ch->requests[m->id].state = REQUEST_BACK;
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_RESPONSE;
    e->error = m->error;
    return 1;
}

static int take_sub_done(struct dt_channel *ch, const struct channel_msg *m,
                         struct dt_channel_event *e)
{
    if (m->id >= ch->map.subs || ch->subs[m->id].state != SUB_BELOW)
        return -EPROTO;
    ch->subs[m->id].state = SUB_MINE;
    *e = (struct dt_channel_event){.type = DT_CHANNEL_SUB,
                                   .id = m->id,
                                   .error = m->error,
                                   .op = ch->subs[m->id].op,
                                   .fd = -1,
                                   .data = ch->map.sub_data + (size_t)m->id * ch->map.sub_window};
    return 1;
}

/* It may have crossed our answer: then there is nothing to cancel any more. */
static int take_cancel(struct dt_channel *ch, const struct channel_msg *m,
                       struct dt_channel_event *e)
{
    if (m->id >= ch->map.slots)
        return -EPROTO;
    if (ch->requests[m->id].state != REQUEST_HERE && ch->requests[m->id].state != REQUEST_BACK)
        return 0;
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_CANCEL;
    return 1;
}

/* One message: 1 event, 0 none, or -EPROTO. */
static int take(struct dt_channel *ch, struct dt_channel_event *e)
{
    struct channel_msg m;

    channel_take(&ch->down, &m);
    switch (m.kind) {
    case CHANNEL_REQUEST:
        return take_request(ch, &m, e);
    case CHANNEL_RETURNED:
        return take_returned(ch, &m, e);
    case CHANNEL_SUB_DONE:
        return take_sub_done(ch, &m, e);
    case CHANNEL_CANCEL:
        return take_cancel(ch, &m, e);
    case CHANNEL_PACKET:
        return client_take_packet(ch, &m, e);
    case CHANNEL_PING:
        *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_PONG, .id = m.id};
        channel_publish(&ch->up);
        return 0;
    default:
        return -EPROTO;
    }
}

static unsigned poll_ring(struct dt_channel *ch, struct dt_channel_event *events, unsigned max)
{
    int available = channel_available(&ch->down), ret = MIN(available, 0);
    unsigned n = 0;

    for (; available > 0 && n < max && ret >= 0; available--) {
        ret = take(ch, &events[n]);
        n += ret == 1;
    }
    if (ret < 0)
        client_end(ch, ret);
    return n;
}

unsigned dt_channel_poll(struct dt_channel *ch, struct dt_channel_event *events, unsigned max)
{
    unsigned n = 0;

    if (ch->map.header && !ch->ended)
        n = poll_ring(ch, events, max);
    if (n < max && ch->polls++ % CONTROL_EVERY == 0)
        n += dt_channel_poll_control(ch, &events[n]);
    if (n < max && ch->ended && !ch->end_told) {
        ch->end_told = true;
        events[n++] =
            (struct dt_channel_event){.type = DT_CHANNEL_END, .error = ch->end_error, .fd = -1};
    }
    return n;
}

/* ---- To the worker ---- */

void dt_channel_forward(struct dt_channel *ch, uint32_t id, uint64_t sector, bool last)
{
    CHECK(id < ch->map.slots && ch->requests[id].state == REQUEST_HERE);
    ch->requests[id].state = last ? REQUEST_IDLE : REQUEST_BELOW;
    *channel_push(&ch->up) = (struct channel_msg){
        .kind = CHANNEL_FORWARD, .id = id, .sector = sector, .flags = last ? CHANNEL_LAST : 0};
}

void dt_channel_complete(struct dt_channel *ch, uint32_t id, int error)
{
    CHECK(id < ch->map.slots &&
          (ch->requests[id].state == REQUEST_HERE || ch->requests[id].state == REQUEST_BACK));
    ch->requests[id].state = REQUEST_IDLE;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_DONE, .id = id, .error = error};
}

int dt_channel_sub_new(struct dt_channel *ch, void **data, uint32_t *size)
{
    uint32_t id = ch->sub_free - 1;

    if (ch->sub_free == 0)
        return -EAGAIN;
    ch->sub_free = ch->subs[id].next;
    ch->subs[id].state = SUB_MINE;
    if (data)
        *data = ch->map.sub_data + (size_t)id * ch->map.sub_window;
    if (size)
        *size = ch->map.sub_window;
    return (int)id;
}

int dt_channel_sub_submit(struct dt_channel *ch, uint32_t id, uint8_t op, uint8_t flags,
                          uint64_t sector, uint32_t sectors)
{
    CHECK(id < ch->map.subs && ch->subs[id].state == SUB_MINE);
    if (op <= 1 && (uint64_t)sectors << DT_SECTOR_SHIFT > ch->map.sub_window)
        return -EMSGSIZE;
    ch->subs[id].state = SUB_BELOW;
    ch->subs[id].op = op;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_SUB,
                                                  .id = id,
                                                  .op = op,
                                                  .flags = flags,
                                                  .sector = sector,
                                                  .sectors = sectors};
    return 0;
}

void dt_channel_sub_free(struct dt_channel *ch, uint32_t id)
{
    CHECK(id < ch->map.subs && ch->subs[id].state == SUB_MINE);
    ch->subs[id].state = SUB_FREE;
    ch->subs[id].next = ch->sub_free;
    ch->sub_free = id + 1;
}

void dt_channel_flush(struct dt_channel *ch)
{
    if (ch->map.header)
        channel_publish(&ch->up);
}

void dt_channel_counter(struct dt_channel *ch, unsigned index, uint64_t value)
{
    if (ch->map.header && index < CHANNEL_COUNTERS)
        __atomic_store_n(&ch->map.header->counters[index], value, __ATOMIC_RELAXED);
}

void dt_channel_allow(struct dt_channel *ch, uint32_t n)
{
    struct channel_header *h = ch->map.header;

    if (!h)
        return;
    __atomic_store_n(&h->limit, ch->taken + n, __ATOMIC_RELAXED);
    __atomic_store_n(&h->limited, n != UINT32_MAX, __ATOMIC_SEQ_CST);
    if (n == 0 || !__atomic_exchange_n(&h->waiting, 0, __ATOMIC_SEQ_CST))
        return;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_OPEN};
    channel_publish(&ch->up);
}
