/* SPDX-License-Identifier: MIT */
/*
 * client-packets.c - packets of a network card on the extension's side of a channel, and the verdicts on them.
 *
 * A packet's bytes are in the area of data until there is a verdict. They may be changed in place, as far as the pages go
 * that they lie in; a packet of which only the beginning came keeps its length.
 */
#include "channel/client.h"

static uint32_t room_of(const struct client_request *r)
{
    if (r->captured < r->length)
        return r->captured;
    return (uint32_t)MIN(ALIGN_UP((uint64_t)r->captured, 1u << CHANNEL_PAGE_SHIFT),
                         CHANNEL_FRAME_MAX);
}

static bool judge_packet(const struct dt_channel *ch, const struct channel_msg *m)
{
    uint64_t at = (uint64_t)m->data << CHANNEL_PAGE_SHIFT;
    uint64_t pages = ALIGN_UP((uint64_t)m->captured, 1u << CHANNEL_PAGE_SHIFT);

    return m->id < ch->map.slots && ch->requests[m->id].state == REQUEST_IDLE && m->way <= 1 &&
           m->length >= CHANNEL_FRAME_MIN && m->length <= CHANNEL_FRAME_MAX &&
           m->captured >= CHANNEL_FRAME_MIN && m->captured <= m->length &&
           at <= ch->map.data_bytes && pages <= ch->map.data_bytes - at;
}

int client_take_packet(struct dt_channel *ch, const struct channel_msg *m,
                       struct dt_channel_event *e)
{
    if (!judge_packet(ch, m))
        return -EPROTO;
    ch->taken++;
    ch->requests[m->id] = (struct client_request){.state = REQUEST_PACKET,
                                                  .op = m->way,
                                                  .flags = m->needs,
                                                  .length = m->length,
                                                  .captured = m->captured,
                                                  .data = m->data};
    *e = (struct dt_channel_event){
        .type = DT_CHANNEL_PACKET,
        .id = m->id,
        .op = m->way,
        .flags = m->needs,
        .queue = m->queue,
        .bytes = m->captured,
        .data = ch->map.data + ((uint64_t)m->data << CHANNEL_PAGE_SHIFT),
        .length = m->length,
        .segment = m->segment,
        .when = m->when,
        .fd = -1,
    };
    return 1;
}

static struct client_request *packet_of(const struct dt_channel *ch, uint32_t id)
{
    bool there = id < ch->map.slots && ch->requests[id].state == REQUEST_PACKET;

    return there ? &ch->requests[id] : NULL;
}

void *dt_channel_packet(struct dt_channel *ch, uint32_t id, uint32_t *room)
{
    const struct client_request *r = packet_of(ch, id);

    if (!r)
        return NULL;
    if (room)
        *room = room_of(r);
    return ch->map.data + ((uint64_t)r->data << CHANNEL_PAGE_SHIFT);
}

/* What the worker would break the conversation for is refused here. */
int dt_channel_verdict(struct dt_channel *ch, const struct dt_channel_verdict *v)
{
    struct client_request *r = packet_of(ch, v->id);

    if (!r)
        return -ENOENT;
    if (v->decision > DT_CHANNEL_CHANGED || v->way > 1)
        return -EINVAL;
    if (v->decision == DT_CHANNEL_CHANGED &&
        (r->captured < r->length ? v->length != r->captured
                                 : v->length < CHANNEL_FRAME_MIN || v->length > room_of(r)))
        return -EMSGSIZE;
    r->state = REQUEST_IDLE;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_VERDICT,
                                                  .way = v->way,
                                                  .needs = v->needs,
                                                  .verdict = v->decision,
                                                  .id = v->id,
                                                  .length = v->length,
                                                  .segment = v->segment};
    return 0;
}

int dt_channel_inject(struct dt_channel *ch, const struct dt_channel_verdict *v, uint16_t queue)
{
    CHECK(v->id < ch->map.subs && ch->subs[v->id].state == SUB_MINE && v->way <= 1);
    if (v->length < CHANNEL_FRAME_MIN || v->length > MIN(ch->map.sub_window, CHANNEL_FRAME_MAX))
        return -EMSGSIZE;
    ch->subs[v->id].state = SUB_BELOW;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_INJECT,
                                                  .way = v->way,
                                                  .needs = v->needs,
                                                  .id = v->id,
                                                  .length = v->length,
                                                  .queue = queue,
                                                  .segment = v->segment};
    return 0;
}
