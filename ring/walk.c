/* SPDX-License-Identifier: MIT */
/*
 * walk.c - judging a chain, off the fast path: memory that spans regions, long lists, indirect
 * tables, and the words for what is wrong.
 *
 * virtio 1.2, 2.7.5.3 and 2.8.7: a chain is any number of descriptors and then at most one
 * indirect table, which holds no further table. A split table is walked by its next fields, a
 * packed one in order.
 */
#include "ring/internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

int virtq_fault(struct virtq *vq, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(vq->fault, sizeof(vq->fault), fmt, args);
    va_end(args);
    vq->broken = true;
    return -EPROTO;
}

int walk_abort(struct walk *w, int error)
{
    if (w->iov != w->chain->inline_iov)
        iovpool_put(w->vq->config.iovs, w->iov);
    if (w->vq->spans)
        walk_forget(w);
    return error;
}

int walk_fault(struct walk *w, unsigned at, const char *fmt, ...)
{
    char what[112];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    if (w->table)
        virtq_fault(w->vq, "descriptor %u, indirect entry %u: %s", w->parent, at, what);
    else
        virtq_fault(w->vq, "descriptor %u: %s", at, what);
    return walk_abort(w, -EPROTO);
}

/* Move to a long list; -EAGAIN when there is none now, -E2BIG when this is one already. */
static int walk_grow(struct walk *w)
{
    struct iovec *list;

    if (w->max == VIRTQ_MAX_IOV)
        return -E2BIG;
    list = iovpool_get(w->vq->config.iovs);
    if (!list)
        return -EAGAIN;
    memcpy(list, w->iov, w->n * sizeof(*list));
    w->iov = list;
    w->max = VIRTQ_MAX_IOV;
    return 0;
}

/* What keeps @d from being reached, in words; or the walk goes on to ask for what else is missing. */
static int walk_unreachable(struct walk *w, const struct ring_desc *d, unsigned at, int r)
{
    if (r == -EFAULT)
        return walk_fault(w, at,
                          "%" PRIu32 " bytes at 0x%" PRIx64 " are outside the guest's memory",
                          d->len, d->addr);
    if (r == -EACCES)
        return walk_fault(
            w, at, "the guest's IOMMU does not allow us to %s %" PRIu32 " bytes at 0x%" PRIx64,
            d->flags & VRING_DESC_F_WRITE ? "write" : "read", d->len, d->addr);
    if (r != -EAGAIN)
        return walk_abort(w, r);
    w->vq->spans->missing = true;
    return 0;
}

int walk_iov(struct virtq *vq, uint64_t addr, uint32_t len, enum memmap_access access,
             struct iovec *iov, unsigned max)
{
    unsigned before = vq->hint;
    int r = memmap_iov(vq->config.map, addr, len, access, iov, max, &vq->hint);

    if (vq->hint != before)
        vq->other = before;
    return r;
}

int walk_add_slow(struct walk *w, const struct ring_desc *d, unsigned at)
{
    bool write = d->flags & VRING_DESC_F_WRITE;
    int r;

    if (w->writable && !write)
        return walk_fault(w, at, "readable, but an earlier one is writable");
    w->writable = write;
    if (d->len == 0)
        return 0;
    if (w->vq->spans)
        walk_span(w, d->addr, d->len);
    for (;;) {
        r = walk_iov(w->vq, d->addr, d->len, write ? MEMMAP_WRITE : MEMMAP_READ, w->iov + w->n,
                     w->max - w->n);
        if (r != -E2BIG)
            break;
        r = walk_grow(w);
        if (r == -E2BIG)
            return walk_fault(w, at, "the chain has more than %u pieces", VIRTQ_MAX_IOV);
        if (r < 0)
            return walk_abort(w, r);
    }
    if (r < 0)
        return walk_unreachable(w, d, at, r);
    w->n += (unsigned)r;
    if (write) {
        w->write_len += d->len;
    } else {
        w->nread = w->n;
        w->read_len += d->len;
    }
    return 0;
}

/* An entry of a table that spans regions: gathered into private memory. */
static int table_gather(struct walk *w, uint64_t addr, uint64_t words[2])
{
    struct iovec iov[16]; /* a region has at least one byte */
    int r = walk_iov(w->vq, addr, 16, MEMMAP_READ, iov, ARRAY_SIZE(iov));

    if (r > 0)
        dt_iov_read(iov, (unsigned)r, 0, words, 16);
    return r;
}

/* Copy entry @i of the table at guest address @addr, or at @host where one region holds it. */
static int table_entry(struct walk *w, uint64_t addr, const uint8_t *host, unsigned i,
                       struct ring_desc *e)
{
    uint64_t words[2];
    int r;

    if (likely(host != NULL)) {
        const ring_word *word = (const ring_word *)(const void *)(host + 16 * (size_t)i);

        words[0] = word[0];
        words[1] = word[1];
    } else {
        r = table_gather(w, addr + 16 * (uint64_t)i, words);
        if (r == -EFAULT || r == -EACCES)
            return walk_fault(w, i, "the table at 0x%" PRIx64 " is outside %s", addr,
                              r == -EFAULT ? "the guest's memory" : "what we may read");
        if (r < 0) {
            w->vq->missing = true;
            return walk_abort(w, r);
        }
    }
    *e = w->vq->config.packed ? desc_packed(words[0], words[1]) : desc_split(words[0], words[1]);
    if (unlikely(e->flags & VRING_DESC_F_INDIRECT))
        return walk_fault(w, i, "indirect inside an indirect table");
    return walk_add(w, e, i);
}

static int table_walk(struct walk *w, uint64_t addr, const uint8_t *host, unsigned n)
{
    struct ring_desc e;
    int r;

    if (w->vq->config.packed) {
        for (unsigned i = 0; i < n; i++) {
            r = table_entry(w, addr, host, i, &e);
            if (r < 0)
                return r;
        }
        return 0;
    }
    for (unsigned i = 0, left = n;; i = e.next) {
        r = table_entry(w, addr, host, i, &e);
        if (r < 0)
            return r;
        if (!(e.flags & VRING_DESC_F_NEXT))
            return 0;
        if (unlikely(e.next >= n))
            return walk_fault(w, i, "next %u is outside the table of %u", e.next, n);
        if (unlikely(--left == 0))
            return walk_fault(w, i, "next %u makes a loop in the table of %u", e.next, n);
    }
}

int walk_indirect(struct walk *w, const struct ring_desc *d, unsigned at)
{
    const struct memmap_region *region;
    struct iovec table;
    const uint8_t *host = NULL;

    if (!w->vq->config.indirect)
        return walk_fault(w, at, "indirect, which was not negotiated");
    if (d->flags & VRING_DESC_F_NEXT)
        return walk_fault(w, at, "indirect and next at once (flags 0x%x)", d->flags);
    if (d->len == 0 || d->len % 16 != 0 || d->len / 16 > VIRTQ_MAX_IOV)
        return walk_fault(w, at,
                          "indirect table of %" PRIu32 " bytes (a multiple of 16, at most %u)",
                          d->len, VIRTQ_MAX_IOV * 16);
    w->table = true;
    w->parent = at;
    if (w->vq->spans)
        walk_span(w, d->addr, d->len);
    region = walk_region(w->vq, d->addr, d->len);
    if (likely(region != NULL))
        host = region->host + (d->addr - region->gpa);
    else if (walk_iov(w->vq, d->addr, d->len, MEMMAP_READ, &table, 1) == 1)
        host = table.iov_base;
    return table_walk(w, d->addr, host, d->len / 16);
}
