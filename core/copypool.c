/* SPDX-License-Identifier: MIT */
/*
 * copypool.c - private memory for copies: a buddy allocator (Knuth, TAOCP vol. 1, 2.5).
 *
 * The bookkeeping is an array beside the memory, not headers inside it, so pieces are whole
 * aligned pages that O_DIRECT takes, and untouched pages stay unmapped.
 *
 * Where there are large pieces, huge pages are asked for: pinning a piece takes the kernel a step for each page, and a device gets
 * as many segments. Small ones alone do not need the memory.
 */
#include "core/copypool.h"
#include <sys/mman.h>

#define PAGE_BYTES (1u << COPYPOOL_MIN_SHIFT)
#define HUGE_BYTES ((size_t)2 << 20)
#define LARGE      (64u << 10)

static void list_push(struct copypool *p, int32_t page, int order)
{
    p->pages[page].free_order = (int8_t)order;
    p->pages[page].prev = -1;
    p->pages[page].next = p->free_head[order];
    if (p->free_head[order] >= 0)
        p->pages[p->free_head[order]].prev = page;
    p->free_head[order] = page;
}

static void list_remove(struct copypool *p, int32_t page)
{
    struct copypool_page *pg = &p->pages[page];

    if (pg->prev >= 0)
        p->pages[pg->prev].next = pg->next;
    else
        p->free_head[pg->free_order] = pg->next;
    if (pg->next >= 0)
        p->pages[pg->next].prev = pg->prev;
    pg->free_order = -1;
}

void copypool_init_at(struct copypool *p, void *base, size_t bytes)
{
    size_t chunk = 1u << COPYPOOL_MAX_SHIFT, npages = bytes >> COPYPOOL_MIN_SHIFT;

    CHECK(bytes % chunk == 0);
    *p = (struct copypool){.base = base, .size = bytes, .free_bytes = bytes};
    p->pages = xcalloc(npages, sizeof(*p->pages));
    for (size_t i = 0; i < npages; i++)
        p->pages[i].free_order = p->pages[i].used_order = -1;
    for (unsigned o = 0; o < COPYPOOL_ORDERS; o++)
        p->free_head[o] = -1;
    for (size_t at = p->size; at > 0; at -= chunk)
        list_push(p, (int32_t)((at - chunk) >> COPYPOOL_MIN_SHIFT), COPYPOOL_ORDERS - 1);
}

int copypool_init(struct copypool *p, size_t bytes)
{
    size_t chunk = 1u << COPYPOOL_MAX_SHIFT, size = ALIGN_UP(MAX(bytes, chunk), chunk);
    size_t mapped = size + HUGE_BYTES;
    void *at = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return -errno;
    copypool_init_at(p, (void *)ALIGN_UP((uintptr_t)at, HUGE_BYTES), size);
    p->mapping = at;
    p->mapped = mapped;
    return 0;
}

/* A hint: without huge pages all is as well, and slower. */
static void make_huge(struct copypool *p)
{
    p->huge = true;
    if (p->mapping)
        madvise(p->base, p->size, MADV_HUGEPAGE);
}

void copypool_abandon(struct copypool *p)
{
    if (!p->base)
        return;
    if (p->mapping)
        munmap(p->mapping, p->mapped);
    free(p->pages);
    p->base = NULL;
}

void copypool_fini(struct copypool *p)
{
    CHECK(!p->base || p->free_bytes == p->size);
    copypool_abandon(p);
}

void *copypool_get(struct copypool *p, size_t bytes, size_t reserve)
{
    unsigned want = 0, order;
    int32_t page;

    while (want < COPYPOOL_ORDERS && ((size_t)PAGE_BYTES << want) < bytes)
        want++;
    CHECK(want < COPYPOOL_ORDERS);
    if (unlikely(bytes >= LARGE && !p->huge))
        make_huge(p);
    if (p->free_bytes < reserve + ((size_t)PAGE_BYTES << want))
        return NULL;
    for (order = want; order < COPYPOOL_ORDERS && p->free_head[order] < 0; order++)
        ;
    if (order == COPYPOOL_ORDERS)
        return NULL;

    page = p->free_head[order];
    list_remove(p, page);
    while (order > want) { /* give the upper half back at each step */
        order--;
        list_push(p, page + (1 << order), (int)order);
    }
    p->pages[page].used_order = (int8_t)want;
    p->free_bytes -= (size_t)PAGE_BYTES << want;
    return p->base + ((size_t)page << COPYPOOL_MIN_SHIFT);
}

void copypool_put(struct copypool *p, void *piece)
{
    size_t offset = (size_t)((uint8_t *)piece - p->base);
    int32_t page = (int32_t)(offset >> COPYPOOL_MIN_SHIFT);
    unsigned order;

    CHECK(offset < p->size && (offset & (PAGE_BYTES - 1)) == 0 && p->pages[page].used_order >= 0);
    order = (unsigned)p->pages[page].used_order;
    p->pages[page].used_order = -1;
    p->free_bytes += (size_t)PAGE_BYTES << order;
    while (order < COPYPOOL_ORDERS - 1) {
        int32_t buddy = page ^ (1 << order);

        if (p->pages[buddy].free_order != (int)order)
            break;
        list_remove(p, buddy);
        page = MIN(page, buddy);
        order++;
    }
    list_push(p, page, (int)order);
}
