/* SPDX-License-Identifier: MIT */
/* attach.c - a channel for one process: a new one for each, so nothing of the old one's is left. */
#include "blk/channel/internal.h"

#include <sys/eventfd.h>

static void init_slots(struct proxy *p)
{
    p->free_slot = NO_SLOT;
    p->in_slots = p->sent = 0;
    for (uint32_t i = SLOTS; i-- > 0;) {
        p->slots[i] = (struct slot){.next_free = p->free_slot};
        p->free_slot = i;
    }
}

static uint32_t sub_window(const struct proxy *p)
{
    uint32_t share = p->nsubs ? SUB_BYTES / p->nsubs : 0;

    return MIN(ALIGN_DOWN(share, PAGE_SIZE_4K), SUB_WINDOW);
}

int proxy_attach(struct proxy *p, struct dt_error *err)
{
    const struct dt_block_ext *e = &p->w->ext;
    struct channel_shape shape = {
        .slots = SLOTS,
        .subs = p->nsubs,
        .sub_window = sub_window(p),
        .data_bytes = e->read_data || e->write_data ? DATA_BYTES : 0,
    };
    int memfd = channel_create(&p->map, &shape, err);

    if (memfd < 0)
        return memfd;
    p->kick_down = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->kick_up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->kick_down < 0 || p->kick_up < 0) {
        int ret = dt_fail(err, -errno, "cannot make an eventfd: %m");

        close(memfd);
        proxy_detach(p);
        return ret;
    }
    channel_producer_init(&p->down, p->map.down, &p->map.header->down, p->map.entries,
                          p->kick_down);
    channel_consumer_init(&p->up, p->map.up, &p->map.header->up, p->map.entries);
    if (shape.data_bytes)
        copypool_init_at(&p->pool, p->map.data, shape.data_bytes);
    init_slots(p);
    p->ping = p->pong = 0;
    p->cancels = p->cancels_then = 0;
    memset(p->counters_last, 0, sizeof(p->counters_last));
    return memfd;
}

void proxy_detach(struct proxy *p)
{
    if (!p->map.header)
        return;
    copypool_abandon(&p->pool);
    if (p->kick_down >= 0)
        close(p->kick_down);
    if (p->kick_up >= 0)
        close(p->kick_up);
    p->kick_down = p->kick_up = -1;
    channel_detach(&p->map);
    p->generation++;
}
