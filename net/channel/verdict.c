/* SPDX-License-Identifier: MIT */
/*
 * verdict.c - what the other process sends, judged against what it may send: see link.h.
 *
 * Whatever is against the protocol ends the conversation, with a text that says what it was. A packet that was
 * changed into nonsense is another matter: it ends alone, as it would if a guest had sent it.
 */
#include "net/channel/link.h"

#define ROUND 256u /* messages taken at a time, so that other layers get their turn */

/* Packets that go on, by way, handed on in bursts. */
struct batch {
    struct dt_packet *packets[2][NET_BURST];
    unsigned n[2];
};

/* What is handed on may come back here, as the next packets of the guest's; so the batch is empty by then. */
static void hand_on(struct packet_link *l, struct batch *b, enum dt_direction way)
{
    struct dt_packet *now[NET_BURST];
    unsigned n = b->n[way];

    memcpy(now, b->packets[way], n * sizeof(now[0]));
    b->n[way] = 0;
    if (way == DT_TX)
        dt_transmit(l->c, now, n);
    else
        dt_receive(l->c, now, n);
}

static void pass(struct packet_link *l, struct batch *b, struct dt_packet *p, enum dt_direction way)
{
    b->packets[way][b->n[way]++] = p;
    if (b->n[way] == NET_BURST)
        hand_on(l, b, way);
}

static void free_slot(struct packet_link *l, struct packet_slot *s)
{
    copypool_put(&l->pool, s->data);
    l->out[s->way]--;
    l->late -= s->state == PACKET_LATE;
    if (s->state == PACKET_OUT)
        list_del(&s->node);
    s->state = PACKET_FREE;
    s->p = NULL;
    s->next_free = l->free_slot;
    l->free_slot = (uint32_t)(s - l->slots);
}

static const char *judge(const struct packet_link *l, const struct packet_slot *s,
                         const struct channel_msg *m)
{
    uint64_t pages = ALIGN_UP((uint64_t)s->captured, 1u << CHANNEL_PAGE_SHIFT);

    if (s->state == PACKET_FREE)
        return "it gave a verdict on a packet that it did not have";
    if (m->verdict > CHANNEL_CHANGED || m->way > DT_RX)
        return "it gave a verdict that there is not";
    if (m->way != s->way && m->verdict != CHANNEL_DROP && !l->turns)
        return "it sent a packet back to where it came from";
    if (m->verdict != CHANNEL_CHANGED || s->state == PACKET_LATE)
        return NULL;
    if (s->captured < s->p->length)
        return m->length == s->captured ? NULL
                                        : "it changed the length of a packet that it saw in part";
    if (m->length < CHANNEL_FRAME_MIN || m->length > MIN(pages, NET_MAX_FRAME))
        return "it made a packet longer than its buffer, or shorter than a frame";
    return NULL;
}

/* The bytes are the process's, who may be writing them now: what counts is the copy. */
static struct dt_packet *take_bytes(struct packet_link *l, struct dt_packet *p, const uint8_t *from,
                                    const struct channel_msg *m, bool whole)
{
    struct dt_packet *new = whole ? net_packet_resize(l->c, p, m->length) : p;

    if (!new) {
        l->drop(l, p, PACKET_MEMORY);
        return NULL;
    }
    memcpy(new->data, from, m->length);
    dt_packet_changed(new);
    new->flags &= (uint8_t)~DT_PACKET_CSUM_VALID;
    new->needs = m->needs;
    new->segment = m->segment;
    if (net_needs_fit(new))
        return new;
    l->drop(l, new, PACKET_UNFIT);
    return NULL;
}

static const char *take_verdict(struct packet_link *l, const struct channel_msg *m, struct batch *b)
{
    struct packet_slot *s;
    struct dt_packet *p;
    const char *why;

    if (m->id >= l->nslots)
        return "it gave a verdict on a packet that there is not";
    s = &l->slots[m->id];
    why = judge(l, s, m);
    if (why)
        return why;
    p = s->p;
    if (p && m->verdict == CHANNEL_CHANGED) {
        l->changed++;
        p = take_bytes(l, p, s->data, m, s->captured == p->length);
    } else if (p && m->verdict == CHANNEL_DROP) {
        l->drop(l, TAKE_PTR(p), PACKET_DENIED);
    }
    free_slot(l, s);
    if (p)
        pass(l, b, p, m->way);
    return NULL;
}

static const char *take_inject(struct packet_link *l, const struct channel_msg *m, struct batch *b)
{
    struct dt_packet *p;

    if (m->id >= l->map.subs)
        return "it sent a packet of its own that it did not declare";
    if (m->way > DT_RX || m->length < CHANNEL_FRAME_MIN || m->length > NET_MAX_FRAME)
        return "it sent a packet of its own that is no frame";
    p = dt_packet_new(l->c, m->length);
    if (p) {
        memcpy(p->data, l->map.sub_data + (size_t)m->id * l->map.sub_window, m->length);
        p->needs = m->needs;
        p->segment = m->segment;
        p->queue = m->queue;
        if (net_needs_fit(p))
            pass(l, b, p, m->way);
        else
            l->drop(l, p, PACKET_UNFIT);
    }
    *channel_push(&l->down) =
        (struct channel_msg){.kind = CHANNEL_SUB_DONE, .id = m->id, .error = p ? 0 : -ENOBUFS};
    return NULL;
}

static const char *take_pong(struct packet_link *l, uint32_t id)
{
    if (!packets_silent(l) || id != l->ping)
        return "it answered a ping that there was not";
    l->pong = id;
    return NULL;
}

static const char *take_one(struct packet_link *l, const struct channel_msg *m, struct batch *b)
{
    switch (m->kind) {
    case CHANNEL_VERDICT:
        return take_verdict(l, m, b);
    case CHANNEL_INJECT:
        return take_inject(l, m, b);
    case CHANNEL_PONG:
        return take_pong(l, m->id);
    case CHANNEL_OPEN:
        dt_wake(l->c);
        return NULL;
    default:
        return "it sent a message of an unknown kind";
    }
}

int packets_take(struct packet_link *l, const char **why)
{
    int available = channel_available(&l->up), taken = 0;
    struct batch batch = {.n = {0}};

    *why = available < 0 ? "it claims more messages than there can be" : NULL;
    for (; taken < MIN(available, (int)ROUND) && !*why; taken++) {
        struct channel_msg m;

        channel_take(&l->up, &m);
        *why = take_one(l, &m, &batch);
    }
    hand_on(l, &batch, DT_TX);
    hand_on(l, &batch, DT_RX);
    channel_publish(&l->down);
    return *why ? -EPROTO : taken;
}
