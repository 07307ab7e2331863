/* SPDX-License-Identifier: MIT */
/* attach.c - a channel for one process: a new one for each, so nothing of the old one's is left. */
#include "blk/channel/internal.h"

#include <sys/eventfd.h>

static void init_slots(struct link *l)
{
    l->free_slot = NO_SLOT;
    l->in_slots = l->sent = 0;
    for (uint32_t i = SLOTS; i-- > 0;) {
        l->slots[i] = (struct slot){.next_free = l->free_slot};
        l->free_slot = i;
    }
}

static struct channel_shape shape_of(const struct proxy *p)
{
    const struct dt_block_ext *e = &p->w->ext;
    uint32_t share = e->sub_requests ? SUB_BYTES / e->sub_requests : 0;

    return (struct channel_shape){
        .slots = SLOTS,
        .subs = e->sub_requests,
        .sub_window = MIN(ALIGN_DOWN(share, PAGE_SIZE_4K), SUB_WINDOW),
        .data_bytes = e->read_data || e->write_data ? DATA_BYTES : 0,
    };
}

uint64_t link_memory(const struct proxy *p)
{
    const struct channel_shape shape = shape_of(p);

    return channel_size(&shape);
}

int link_attach(struct link *l, struct dt_error *err)
{
    const struct channel_shape shape = shape_of(l->p);
    int memfd = channel_create(&l->map, &shape, err);

    if (memfd < 0)
        return memfd;
    l->kick_down = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->kick_up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->kick_down < 0 || l->kick_up < 0) {
        int ret = dt_fail(err, -errno, "cannot make an eventfd: %m");

        close(memfd);
        link_detach(l);
        return ret;
    }
    channel_producer_init(&l->down, l->map.down, &l->map.header->down, l->map.entries,
                          l->kick_down);
    channel_consumer_init(&l->up, l->map.up, &l->map.header->up, l->map.entries);
    if (shape.data_bytes)
        copypool_init_at(&l->pool, l->map.data, shape.data_bytes);
    init_slots(l);
    l->ping = l->pong = 0;
    l->cancels = l->cancels_then = 0;
    memset(l->counters_last, 0, sizeof(l->counters_last));
    return memfd;
}

void link_detach(struct link *l)
{
    if (!l->map.header)
        return;
    copypool_abandon(&l->pool);
    if (l->kick_down >= 0)
        close(l->kick_down);
    if (l->kick_up >= 0)
        close(l->kick_up);
    l->kick_down = l->kick_up = -1;
    channel_detach(&l->map);
    l->generation++;
}
