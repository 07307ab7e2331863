/* SPDX-License-Identifier: MIT */
/*
 * place.c - which of the free blocks are given out.
 *
 * Theory of operation: overwrites leave holes everywhere. A small write fits into any of them, and there the file has space that
 * was written before; what is large wants consecutive blocks, of which holes have few. So small writes go round in the first
 * part of the pool, which is a quarter larger than what is in use, and fill its holes: a pool does not grow by being
 * written over, and the rest of it stays in one piece. Larger ones get words of 64 blocks that are free as a whole, those first that
 * were in use lately (punch.c). Only where there is no such thing do they take holes, too.
 *
 * Nodes are given out from a place of their own, so that they stay together, and each place moves on, so that what is
 * written together lies together. In a file with holes they get spare blocks from there, which have space (spare.c).
 */
#include "parallax/internal.h"

#define SMALL       16u /* less than so many blocks */
#define WORD        64u
#define WORD_LOOKS  256u
#define GROUP_LOOKS 16u

static unsigned take_run(struct space *s, struct group *g, unsigned from, unsigned want)
{
    unsigned n = 0;

    for (; n < want && from + n < PX_GROUP_BLOCKS; n++) {
        uint64_t *word = &g->busy[(from + n) / WORD], bit = 1ull << ((from + n) % WORD);

        if (*word & bit)
            break;
        *word |= bit;
    }
    s->free -= n;
    if (g->stale_n)
        punch_used(s, g, from / WORD, (from + n - 1) / WORD);
    return n;
}

/* The first free block in the group from @from on, or PX_GROUP_BLOCKS. */
static unsigned first_free(const struct group *g, unsigned from)
{
    unsigned word = from / WORD;
    uint64_t bits;

    if (word >= PX_GROUP_WORDS)
        return PX_GROUP_BLOCKS;
    bits = ~g->busy[word] & ~0ull << (from % WORD);
    while (!bits && ++word < PX_GROUP_WORDS)
        bits = ~g->busy[word];
    return bits ? word * WORD + (unsigned)__builtin_ctzll(bits) : PX_GROUP_BLOCKS;
}

/* What is free from @at on, wherever that is. */
static int alloc_any(struct pool *pool, unsigned want, uint64_t *at, uint64_t *addr)
{
    const struct space *s = &pool->space;

    /* Once around, and the first group again from its beginning. */
    for (uint64_t turn = 0; turn <= s->n; turn++) {
        uint64_t index = *at >> PX_GROUP_SHIFT;
        struct group *g;
        unsigned i;
        int ret;

        if (index >= s->n) {
            *at = index = 0;
        }
        ret = space_group(pool, index, &g);
        if (ret < 0)
            return ret;
        i = first_free(g, (unsigned)(*at & (PX_GROUP_BLOCKS - 1)));
        if (i < PX_GROUP_BLOCKS) {
            unsigned n = take_run(&pool->space, g, i, want);

            *addr = (index << PX_GROUP_SHIFT) + i;
            *at = *addr + n;
            return (int)n;
        }
        *at = (index + 1) << PX_GROUP_SHIFT;
    }
    return -ENOSPC;
}

/* ---- Small writes ---- */

/* Where small writes turn back: behind what is in use, and as much again as a quarter of it. */
static uint64_t turning_point(const struct space *s)
{
    uint64_t busy = s->blocks - s->free;

    return MIN(s->blocks, busy + busy / 4 + PX_GROUP_BLOCKS / 4);
}

/* @want free blocks of a word from its block @from on, or WORD. */
static unsigned find_hole(uint64_t busy, unsigned from, unsigned want)
{
    uint64_t free = ~busy & ~0ull << from, begins = free;

    for (unsigned i = 1; i < want; i++)
        begins &= free >> i;
    return begins ? (unsigned)__builtin_ctzll(begins) : WORD;
}

/* 0: none was found soon. */
static int alloc_hole(struct pool *pool, unsigned want, uint64_t *addr)
{
    struct space *s = &pool->space;
    uint64_t end = turning_point(s);

    for (unsigned looks = 0; looks < WORD_LOOKS; looks++) {
        uint64_t first = ALIGN_DOWN(s->hole_at, (uint64_t)WORD);
        unsigned word = (unsigned)(first % PX_GROUP_BLOCKS / WORD), i;
        struct group *g;
        int ret;

        if (s->hole_at >= end)
            s->hole_at = first = word = 0;
        ret = space_group(pool, first >> PX_GROUP_SHIFT, &g);
        if (ret < 0)
            return ret;
        i = find_hole(g->busy[word], (unsigned)(s->hole_at - first), want);
        if (i < WORD) {
            *addr = first + i;
            s->hole_at = *addr + want;
            return (int)take_run(s, g, word * WORD + i, want);
        }
        s->hole_at = first + WORD;
    }
    return 0;
}

/* ---- Large writes ---- */

/* The first of @n free words from @word on, or PX_GROUP_WORDS. */
static unsigned find_words(const struct group *g, unsigned word, unsigned n)
{
    unsigned found = 0;

    for (; word < PX_GROUP_WORDS; word++) {
        found = g->busy[word] ? 0 : found + 1;
        if (found == n)
            return word + 1 - n;
    }
    return PX_GROUP_WORDS;
}

/* Does it fit into the word that was begun? Neighbours stay together so. */
static bool fits(const struct group *g, uint64_t at, unsigned want)
{
    unsigned from = (unsigned)(at % WORD);

    return from && from + want <= WORD &&
           find_hole(g->busy[at % PX_GROUP_BLOCKS / WORD], from, want) == from;
}

/* Moves @at to where as much as is wanted is free. 0: it was not found soon. */
static int find_place(struct pool *pool, unsigned want, uint64_t *at)
{
    const struct space *s = &pool->space;
    unsigned words = MIN((want + WORD - 1) / WORD, PX_GROUP_WORDS);
    uint64_t from = *at;

    for (unsigned looks = 0; looks < MIN(GROUP_LOOKS, s->n + 1); looks++) {
        uint64_t index = from >> PX_GROUP_SHIFT;
        struct group *g;
        unsigned word;
        int ret;

        if (index >= s->n)
            from = index = 0;
        ret = space_group(pool, index, &g);
        if (ret < 0)
            return ret;
        if (looks == 0 && fits(g, from, want))
            return 1;
        word = find_words(g, (unsigned)((from % PX_GROUP_BLOCKS + WORD - 1) / WORD), words);
        if (word < PX_GROUP_WORDS) {
            *at = (index << PX_GROUP_SHIFT) + word * WORD;
            return 1;
        }
        from = (index + 1) << PX_GROUP_SHIFT;
    }
    return 0;
}

int space_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr)
{
    struct space *s = &pool->space;
    uint64_t *at = data ? &s->run_at : &s->node_at;
    int n = spare_alloc(pool, want, data, addr);

    if (n)
        return n;
    if (s->free == 0)
        return spare_last(pool, want, addr);
    if (data && want < SMALL)
        n = alloc_hole(pool, want, addr);
    if (n)
        return n;
    *at = punch_warm(s, *at, want);
    if (data)
        n = find_place(pool, want, at);
    return n < 0 ? n : alloc_any(pool, want, at, addr);
}

int space_lend(struct pool *pool, unsigned most, uint64_t *addr)
{
    struct group *g;
    int ret = space_group(pool, *addr >> PX_GROUP_SHIFT, &g);
    unsigned i;

    if (ret < 0)
        return ret;
    i = first_free(g, (unsigned)(*addr & (PX_GROUP_BLOCKS - 1)));
    if (i == PX_GROUP_BLOCKS)
        return 0;
    *addr = (g->index << PX_GROUP_SHIFT) + i;
    return (int)take_run(&pool->space, g, i, most);
}
