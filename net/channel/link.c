/* SPDX-License-Identifier: MIT */
/* link.c - a link's channel, and packets on their way into it: see link.h. */
#include "net/channel/link.h"

#include <sys/eventfd.h>

#define PAGE_BYTES (1u << CHANNEL_PAGE_SHIFT)

static void init_slots(struct packet_link *l, uint32_t n)
{
    l->slots = xcalloc(n, sizeof(*l->slots));
    l->nslots = n;
    l->free_slot = PACKETS_NO_SLOT;
    list_init(&l->order);
    for (uint32_t i = n; i-- > 0;) {
        l->slots[i].next_free = l->free_slot;
        l->free_slot = i;
    }
    l->late = l->out[DT_TX] = l->out[DT_RX] = 0;
    l->ping = l->pong = 0;
}

int packets_create(struct packet_link *l, uint32_t slots, uint32_t subs, uint64_t data_bytes,
                   struct dt_error *err)
{
    const struct channel_shape shape = {
        .slots = slots,
        .subs = subs,
        .sub_window = subs ? (uint32_t)ALIGN_UP(CHANNEL_FRAME_MAX, PAGE_BYTES) : 0,
        .data_bytes = ALIGN_UP(data_bytes, 1ull << COPYPOOL_MAX_SHIFT),
    };
    int memfd = channel_create(&l->map, &shape, err);

    if (memfd < 0)
        return memfd;
    init_slots(l, slots);
    copypool_init_at(&l->pool, l->map.data, shape.data_bytes);
    l->kick_down = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->kick_up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->kick_down < 0 || l->kick_up < 0) {
        int ret = dt_fail(err, -errno, "cannot make an eventfd: %m");

        close(memfd);
        packets_destroy(l);
        return ret;
    }
    channel_producer_init(&l->down, l->map.down, &l->map.header->down, l->map.entries,
                          l->kick_down);
    channel_consumer_init(&l->up, l->map.up, &l->map.header->up, l->map.entries);
    return memfd;
}

void packets_destroy(struct packet_link *l)
{
    if (!packets_linked(l))
        return;
    CHECK(list_empty(&l->order));
    copypool_abandon(&l->pool);
    if (l->kick_down >= 0)
        close(l->kick_down);
    if (l->kick_up >= 0)
        close(l->kick_up);
    channel_detach(&l->map);
    free(TAKE_PTR(l->slots));
    l->late = l->out[DT_TX] = l->out[DT_RX] = 0; /* nobody has any more */
}

bool packets_send(struct packet_link *l, struct dt_packet *p, enum dt_direction way, uint64_t now)
{
    uint32_t id = l->free_slot, captured = MIN(p->length, l->snap);
    uint8_t *data = id == PACKETS_NO_SLOT ? NULL : copypool_get(&l->pool, captured, 0);
    struct packet_slot *s;

    if (!data)
        return false;
    s = &l->slots[id];
    l->free_slot = s->next_free;
    s->p = p;
    s->data = data;
    s->sent_at = now;
    s->captured = captured;
    s->state = PACKET_OUT;
    s->way = (uint8_t)way;
    list_add_tail(&l->order, &s->node);
    l->out[way]++;
    memcpy(data, p->data, captured);
    *channel_push(&l->down) =
        (struct channel_msg){.kind = CHANNEL_PACKET,
                             .way = (uint8_t)way,
                             .needs = p->needs,
                             .id = id,
                             .when = p->when,
                             .length = p->length,
                             .captured = captured,
                             .data = (uint32_t)((data - l->map.data) >> CHANNEL_PAGE_SHIFT),
                             .queue = p->queue,
                             .segment = p->needs & DT_OFFLOAD_SUPER ? p->segment : 0};
    return true;
}

uint64_t packets_oldest(const struct packet_link *l)
{
    if (!packets_linked(l) || list_empty(&l->order))
        return UINT64_MAX;
    return list_entry(l->order.next, struct packet_slot, node)->sent_at;
}

struct dt_packet *packets_reclaim(struct packet_link *l, enum dt_direction *way)
{
    struct packet_slot *s;

    if (!packets_linked(l) || list_empty(&l->order))
        return NULL;
    s = list_entry(l->order.next, struct packet_slot, node);
    list_del(&s->node);
    s->state = PACKET_LATE;
    l->late++;
    *way = s->way;
    return TAKE_PTR(s->p);
}

void packets_ping(struct packet_link *l)
{
    if (packets_silent(l))
        return;
    *channel_push(&l->down) = (struct channel_msg){.kind = CHANNEL_PING, .id = ++l->ping};
    channel_publish(&l->down);
}
