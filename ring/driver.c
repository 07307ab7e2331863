/* SPDX-License-Identifier: MIT */
/*
 * driver.c - the driver's end of a virtqueue: what split and packed have in common.
 *
 * The device is a stranger too. Lengths, links and free lists are kept in private memory; of
 * what the device writes, ids, lengths and indices are checked and the rest is never read.
 */
#include "ring/internal.h"

#include <stdarg.h>
#include <stdio.h>

/* The areas lie apart by two cache lines: some processors fetch lines in pairs. */
#define AREA_ALIGN ((size_t)2 * CACHE_LINE)

static void driver_layout(struct virtq_driver *d)
{
    size_t driver = d->packed ? 4 : 6 + 2 * (size_t)d->size;
    size_t device = d->packed ? 4 : 6 + 8 * (size_t)d->size;

    d->desc_off = 0;
    d->driver_off = ALIGN_UP(16 * (size_t)d->size, AREA_ALIGN);
    d->device_off = ALIGN_UP(d->driver_off + driver, AREA_ALIGN);
    d->total = ALIGN_UP(d->device_off + device, AREA_ALIGN);
}

size_t virtq_driver_bytes(uint16_t size, bool packed)
{
    struct virtq_driver d = {.size = size, .packed = packed};

    driver_layout(&d);
    return d.total;
}

int virtq_driver_init(struct virtq_driver *d, uint16_t size, bool packed, bool event_idx, void *mem,
                      uint64_t addr)
{
    if (size == 0 || size > VIRTQ_MAX_SIZE || (!packed && (size & (size - 1)) != 0))
        return -EINVAL;
    *d = (struct virtq_driver){
        .size = size,
        .packed = packed,
        .event_idx = event_idx,
        .mem = mem,
        .addr = addr,
        .free_count = size,
        .avail_wrap = true,
        .used_wrap = true,
    };
    driver_layout(d);
    memset(mem, 0, d->total);
    d->entries = ring_array(size, sizeof(*d->entries));
    for (uint16_t i = 0; i + 1 < size; i++)
        d->entries[i].next = (uint16_t)(i + 1);
    return 0;
}

void virtq_driver_fini(struct virtq_driver *d)
{
    free(d->entries);
    *d = (struct virtq_driver){0};
}

int driver_fault(struct virtq_driver *d, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(d->fault, sizeof(d->fault), fmt, args);
    va_end(args);
    d->broken = true;
    return -EPROTO;
}

static uint32_t writable_bytes(const struct virtq_buffer *bufs, unsigned nread, unsigned n)
{
    uint64_t bytes = 0;

    for (unsigned i = nread; i < n; i++)
        bytes += bufs[i].len;
    return (uint32_t)MIN(bytes, UINT32_MAX);
}

int virtq_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                     unsigned nwrite)
{
    unsigned n = nread + nwrite;
    uint32_t max_len;

    if (n == 0)
        return -EINVAL;
    if (n > d->free_count)
        return -ENOSPC;
    max_len = writable_bytes(bufs, nread, n);
    return d->packed ? packed_driver_add(d, bufs, nread, n, max_len)
                     : split_driver_add(d, bufs, nread, n, max_len);
}

unsigned virtq_driver_ids(const struct virtq_driver *d, uint16_t *ids, unsigned max)
{
    unsigned n = MIN(max, d->free_count);
    uint16_t id = d->free_head;

    for (unsigned i = 0; i < n; i++) {
        ids[i] = id;
        id = d->entries[id].next;
    }
    return n;
}

void virtq_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n)
{
    CHECK(n <= d->free_count);
    if (d->packed)
        packed_driver_add_tables(d, tables, n);
    else
        split_driver_add_tables(d, tables, n);
}

bool virtq_driver_publish(struct virtq_driver *d)
{
    return d->packed ? packed_driver_publish(d) : split_driver_publish(d);
}

int virtq_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max)
{
    if (d->broken)
        return -EPROTO;
    return d->packed ? packed_driver_reap(d, ids, lens, max) : split_driver_reap(d, ids, lens, max);
}

static bool driver_pending(const struct virtq_driver *d)
{
    if (d->broken)
        return true;
    return d->packed ? packed_driver_pending(d) : split_driver_pending(d);
}

bool virtq_driver_arm(struct virtq_driver *d)
{
    uint16_t at = (uint16_t)(d->used | (d->packed ? d->used_wrap << 15 : 0));

    if (!d->notify_known || d->polling || (d->event_idx && d->armed_at != at)) {
        d->polling = false;
        d->armed_at = at;
        d->packed ? packed_driver_notify(d, true) : split_driver_notify(d, true);
        d->notify_known = true;
        /* Either the device sees our wish, or we see what it finished. */
        ring_full_fence();
    }
    return !driver_pending(d);
}

void virtq_driver_disarm(struct virtq_driver *d)
{
    if (d->notify_known && d->polling)
        return;
    d->polling = true;
    d->packed ? packed_driver_notify(d, false) : split_driver_notify(d, false);
    d->notify_known = true;
}
