/* SPDX-License-Identifier: MIT */
/*
 * space.c - free blocks: found, used, and on their way to be free again.
 *
 * Next fit over the bits, with a budget: what is not found soon is taken behind the end, so that a
 * fragmented store costs space and not time. Where the end cannot move (a block device, a full file
 * system), all of it is searched.
 */
#include "blk/compress/space.h"

#include <sys/mman.h>

#define BUDGET 8192u /* blocks looked at before the store grows */
#define NONE   UINT64_MAX

static uint64_t map_bytes(const struct compress_space *s)
{
    return MAX((s->limit + 63) / 64 * 8, (uint64_t)8);
}

int compress_space_init(struct compress_space *s, uint64_t limit)
{
    void *at;

    *s = (struct compress_space){.limit = limit};
    at = mmap(NULL, map_bytes(s), PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    s->busy = at;
    return 0;
}

void compress_space_fini(struct compress_space *s)
{
    if (s->busy)
        munmap(s->busy, map_bytes(s));
    s->busy = NULL;
}

static bool is_busy(const struct compress_space *s, uint64_t block)
{
    return s->busy[block / 64] >> (block % 64) & 1;
}

bool compress_space_take(struct compress_space *s, uint64_t block, uint32_t count)
{
    for (uint64_t b = block; b < block + count; b++) {
        if (is_busy(s, b))
            return false;
        s->busy[b / 64] |= (uint64_t)1 << (b % 64);
    }
    s->used += count;
    s->end = MAX(s->end, block + count);
    return true;
}

void compress_space_free(struct compress_space *s, uint64_t block, uint32_t count)
{
    for (uint64_t b = block; b < block + count; b++) {
        CHECK(is_busy(s, b));
        s->busy[b / 64] &= ~((uint64_t)1 << (b % 64));
    }
    s->used -= count;
}

/* The first @count free ones in a row within [@from, @to), or NONE. */
static uint64_t find(const struct compress_space *s, uint64_t from, uint64_t to, uint32_t count)
{
    uint32_t run = 0;

    for (uint64_t b = from; b < to;) {
        if (b % 64 == 0 && s->busy[b / 64] == UINT64_MAX) {
            run = 0;
            b += 64;
            continue;
        }
        run = is_busy(s, b) ? 0 : run + 1;
        b++;
        if (run == count)
            return b - count;
    }
    return NONE;
}

/* From where the last search ended, for a while. */
static uint64_t find_near(struct compress_space *s, uint32_t count)
{
    uint64_t from = s->next < s->end ? s->next : 0, to = MIN(from + BUDGET, s->end), at;

    if (s->end - s->used < count)
        return NONE;
    at = find(s, from, to, count);
    s->next = at == NONE ? to : at + count;
    return at;
}

int compress_space_alloc(struct compress_space *s, uint32_t count, uint64_t *block)
{
    uint64_t at = s->tight ? find(s, 0, s->end, count) : find_near(s, count);

    if (at == NONE && count <= s->limit - s->end)
        at = s->end;
    if (at == NONE && !s->tight)
        at = find(s, 0, s->end, count);
    if (at == NONE)
        return -ENOSPC;
    CHECK(compress_space_take(s, at, count));
    *block = at;
    return 0;
}

/* ---- Extents ---- */

void compress_extents_add(struct compress_extents *e, struct compress_extent extent)
{
    struct compress_extent *last = e->n ? &e->at[e->n - 1] : NULL;

    e->blocks += extent.count;
    if (last && last->block + last->count == extent.block && last->discarded == extent.discarded &&
        last->count <= UINT32_MAX - extent.count) {
        last->count += extent.count;
        return;
    }
    if (e->n == e->room) {
        e->room = MAX((uint64_t)256, e->room * 2);
        e->at = realloc(e->at, e->room * sizeof(*e->at));
        CHECK(e->at);
    }
    e->at[e->n++] = extent;
}

void compress_extents_move(struct compress_extents *to, struct compress_extents *from)
{
    if (to->n == 0) { /* the usual case */
        struct compress_extents empty = *to;

        *to = *from;
        *from = empty;
        return;
    }
    for (uint64_t i = 0; i < from->n; i++)
        compress_extents_add(to, from->at[i]);
    from->n = from->blocks = 0;
}

void compress_extents_fini(struct compress_extents *e)
{
    free(e->at);
    *e = (struct compress_extents){0};
}
