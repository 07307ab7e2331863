/* SPDX-License-Identifier: MIT */
/*
 * iotlb.c - translations of I/O virtual addresses, as a vIOMMU's VMM gave them to one thread.
 *
 * Theory of operation: the entries lie in one array sorted by address, no two overlapping, and are looked
 * up by a binary search behind a hint. What is not there is noted as a *miss*; its owner takes the misses
 * out and has the VMM asked, and tries again when an answer came. A miss is asked for once a second at
 * most, so a ring that waits may be polled as often as one likes.
 *
 * An entry may go at any time to make room (the table is bounded), and goes when any of it is
 * invalidated. Who still uses memory that it was given says so by address, not by entry: virtq_uses().
 *
 * An answer that lacks the right that was asked for is final: the entry remembers what it denied, and the next
 * try fails. An entry that merely lacks it is asked for again, since a guest that widens a right need not
 * tell anybody.
 */
#include "ring/internal.h"

#define ASK_AGAIN_NS DT_S(1)

struct iotlb_entry {
    uint64_t iova, size;
    uint8_t *host;
    uint64_t region; /* guest-physical address of the region that holds it */
    uint8_t access, denied;
};

struct iotlb_miss {
    uint64_t iova;
    uint64_t noted; /* when; 0 = free */
    uint8_t access;
    bool told;
};

struct iotlb {
    struct memmap view;
    const struct memmap *memory;
    uint64_t generation; /* of @memory, when the entries were made */
    struct iotlb_entry *entries;
    unsigned count, hint, victim;
    struct iotlb_miss misses[IOTLB_MISSES];
    struct iotlb_stats stats;
};

struct iotlb *iotlb_new(void)
{
    struct iotlb *tlb = xcalloc(1, sizeof(*tlb));

    memmap_init(&tlb->view);
    tlb->view.iotlb = tlb;
    tlb->entries = xcalloc(IOTLB_ENTRIES, sizeof(*tlb->entries));
    return tlb;
}

void iotlb_free(struct iotlb *tlb)
{
    if (!tlb)
        return;
    free(tlb->entries);
    free(tlb);
}

static void forget_all(struct iotlb *tlb)
{
    tlb->count = tlb->hint = tlb->victim = 0;
    memset(tlb->misses, 0, sizeof(tlb->misses));
}

/* Memory that changed may have moved under any entry. */
static bool still_bound(struct iotlb *tlb)
{
    if (!tlb->memory)
        return false;
    if (tlb->generation != tlb->memory->generation) {
        forget_all(tlb);
        tlb->generation = tlb->memory->generation;
    }
    return true;
}

void iotlb_bind(struct iotlb *tlb, const struct memmap *memory)
{
    tlb->memory = memory;
    still_bound(tlb);
}

const struct memmap *iotlb_view(const struct iotlb *tlb)
{
    return &tlb->view;
}

const struct memmap *iotlb_memory(const struct iotlb *tlb)
{
    return tlb->memory;
}

bool iotlb_faulted(const struct iotlb *tlb)
{
    return tlb->memory && READ_ONCE(tlb->memory->faulted);
}

unsigned iotlb_count(const struct iotlb *tlb)
{
    return READ_ONCE(tlb->count);
}

const struct iotlb_stats *iotlb_stats(const struct iotlb *tlb)
{
    return &tlb->stats;
}

static void count_up(uint64_t *counter)
{
    WRITE_ONCE(*counter, *counter + 1);
}

/* ---- The table ------------------------------------------------------------------------------- */

static bool holds(const struct iotlb_entry *e, uint64_t iova)
{
    return iova - e->iova < e->size;
}

/* The first entry that ends above @iova: it holds @iova, or lies behind it. */
static unsigned entry_at(const struct iotlb *tlb, uint64_t iova)
{
    unsigned low = 0, high = tlb->count;

    if (tlb->hint < tlb->count && holds(&tlb->entries[tlb->hint], iova))
        return tlb->hint;
    while (low < high) {
        unsigned mid = low + (high - low) / 2;
        const struct iotlb_entry *e = &tlb->entries[mid];

        if (e->iova + (e->size - 1) < iova)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void remove_entries(struct iotlb *tlb, unsigned at, unsigned n)
{
    struct iotlb_entry *e = &tlb->entries[at];

    memmove(e, e + n, (tlb->count - at - n) * sizeof(*e));
    WRITE_ONCE(tlb->count, tlb->count - n);
}

static void remove_range(struct iotlb *tlb, uint64_t first, uint64_t last)
{
    unsigned at = entry_at(tlb, first), n = 0;

    while (at + n < tlb->count && tlb->entries[at + n].iova <= last)
        n++;
    remove_entries(tlb, at, n);
}

static void make_room(struct iotlb *tlb)
{
    if (tlb->count < IOTLB_ENTRIES)
        return;
    tlb->victim = (tlb->victim + 1) % tlb->count;
    remove_entries(tlb, tlb->victim, 1);
    count_up(&tlb->stats.evictions);
}

/* ---- Misses ------------------------------------------------------------------------------------- */

static void note_miss(struct iotlb *tlb, uint64_t iova, unsigned access)
{
    uint64_t page = ALIGN_DOWN(iova, (uint64_t)PAGE_SIZE_4K), now = dt_clock_ns();
    struct iotlb_miss *place = NULL;

    for (unsigned i = 0; i < IOTLB_MISSES; i++) {
        struct iotlb_miss *m = &tlb->misses[i];
        bool old = m->noted == 0 || now - m->noted > ASK_AGAIN_NS;

        if (m->noted && m->iova == page) {
            if (old || (access & ~m->access))
                *m = (struct iotlb_miss){page, now, m->access | (uint8_t)access, false};
            return;
        }
        if (!place && old)
            place = m;
    }
    if (place) /* else so many are open that an answer will bring the ring here again */
        *place = (struct iotlb_miss){page, now, (uint8_t)access, false};
}

bool iotlb_next_miss(struct iotlb *tlb, uint64_t *iova, unsigned *access)
{
    for (unsigned i = 0; i < IOTLB_MISSES; i++) {
        struct iotlb_miss *m = &tlb->misses[i];

        if (m->noted == 0 || m->told)
            continue;
        m->told = true;
        *iova = m->iova;
        *access = m->access;
        count_up(&tlb->stats.misses);
        return true;
    }
    return false;
}

/* Misses that the range answers are over; returns the rights that they asked for. */
static unsigned end_misses(struct iotlb *tlb, uint64_t first, uint64_t last)
{
    unsigned asked = 0;

    for (unsigned i = 0; i < IOTLB_MISSES; i++) {
        struct iotlb_miss *m = &tlb->misses[i];

        if (m->noted == 0 || m->iova + (PAGE_SIZE_4K - 1) < first || m->iova > last)
            continue;
        asked |= m->access;
        *m = (struct iotlb_miss){0};
    }
    return asked;
}

/* ---- What the VMM says ----------------------------------------------------------------------- */

static const struct memmap_region *region_of(const struct memmap *map, uint64_t uva, uint64_t size)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct memmap_region *r = &map->regions[i];
        uint64_t off = uva - r->uva;

        if (off < r->size && size <= r->size - off)
            return r;
    }
    return NULL;
}

int iotlb_update(struct iotlb *tlb, uint64_t iova, uint64_t size, uint64_t uva, unsigned access)
{
    const struct memmap_region *r;
    struct iotlb_entry e = {.iova = iova, .size = size, .access = (uint8_t)access};
    uint64_t last = iova + (size - 1);
    unsigned at;

    if (size == 0 || last < iova || access == 0 || access > (MEMMAP_READ | MEMMAP_WRITE))
        return -EINVAL;
    if (!still_bound(tlb))
        return 0; /* no ring of this thread: it will ask */
    r = region_of(tlb->memory, uva, size);
    if (!r)
        return -EFAULT;
    e.host = r->host + (uva - r->uva);
    e.region = r->gpa;
    e.denied = (uint8_t)(end_misses(tlb, iova, last) & ~access);
    remove_range(tlb, iova, last);
    make_room(tlb);
    at = entry_at(tlb, iova);
    memmove(&tlb->entries[at + 1], &tlb->entries[at], (tlb->count - at) * sizeof(e));
    tlb->entries[at] = e;
    WRITE_ONCE(tlb->count, tlb->count + 1);
    count_up(&tlb->stats.updates);
    return 0;
}

void iotlb_invalidate(struct iotlb *tlb, uint64_t iova, uint64_t size)
{
    uint64_t last = span_last(iova, size);

    if (!still_bound(tlb))
        return;
    end_misses(tlb, iova, last);
    remove_range(tlb, iova, last);
    count_up(&tlb->stats.invalidations);
}

/* ---- Lookups -------------------------------------------------------------------------------------- */

/* The entry that allows @access at @iova: 0, or -EAGAIN with the miss noted, or -EACCES. */
static int lookup(struct iotlb *tlb, uint64_t iova, unsigned access,
                  const struct iotlb_entry **found)
{
    unsigned at = entry_at(tlb, iova);
    const struct iotlb_entry *e = &tlb->entries[at];
    bool there = at < tlb->count && holds(e, iova);

    if (likely(there && (access & ~e->access) == 0)) {
        tlb->hint = at;
        *found = e;
        return 0;
    }
    if (there && (access & e->denied))
        return -EACCES;
    note_miss(tlb, iova, access);
    return -EAGAIN;
}

/* Where one entry leads, beside what came before: one vector where memory and region go on. */
static unsigned append(struct iovec *iov, unsigned n, const struct iotlb_entry *e, uint64_t off,
                       uint64_t len, uint64_t *region)
{
    uint8_t *host = e->host + off;

    if (n > 0 && *region == e->region &&
        (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == host) {
        iov[n - 1].iov_len += len;
        return n;
    }
    *region = e->region;
    iov[n] = (struct iovec){host, len};
    return n + 1;
}

/* A range that is not there is asked for page by page, and the rest of the range at the same time. */
int iotlb_iov(struct iotlb *tlb, uint64_t iova, uint32_t len, unsigned access, struct iovec *iov,
              unsigned max)
{
    uint64_t region = 0;
    unsigned n = 0;
    int waits = 0;

    if (!still_bound(tlb) || (len && iova + (len - 1) < iova))
        return -EFAULT;
    while (len > 0) {
        const struct iotlb_entry *e;
        uint64_t part = PAGE_SIZE_4K - iova % PAGE_SIZE_4K;
        int r = lookup(tlb, iova, access, &e);

        if (r == -EACCES)
            return r;
        if (r == 0)
            part = e->size - (iova - e->iova);
        part = MIN(part, len);
        if (r < 0)
            waits = r;
        else if (!waits && n == max)
            return -E2BIG;
        else if (!waits)
            n = append(iov, n, e, iova - e->iova, part, &region);
        iova += part;
        len -= (uint32_t)part;
    }
    return waits ?: (int)n;
}

int iotlb_host(struct iotlb *tlb, uint64_t iova, uint64_t len, unsigned access, void **host)
{
    struct iovec iov[2];
    int r;

    if (len == 0 || len > UINT32_MAX)
        return -EFAULT;
    r = iotlb_iov(tlb, iova, (uint32_t)len, access, iov, ARRAY_SIZE(iov));
    if (r == -E2BIG || r > 1)
        return -EFAULT;
    if (r < 0)
        return r;
    *host = iov[0].iov_base;
    return 0;
}

bool iotlb_allows(const struct iotlb *tlb, uint64_t iova, uint64_t len, unsigned access)
{
    while (len > 0) {
        unsigned at = entry_at(tlb, iova);
        const struct iotlb_entry *e = &tlb->entries[at];
        uint64_t part;

        if (at == tlb->count || !holds(e, iova) || (access & ~e->access))
            return false;
        part = MIN(len, e->size - (iova - e->iova));
        iova += part;
        len -= part;
    }
    return true;
}
