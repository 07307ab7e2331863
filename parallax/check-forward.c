/* SPDX-License-Identifier: MIT */
/*
 * check-forward.c - what a check finds of shared blocks: that each pointer which is forwarded belongs to one
 * owner, that each entry of the table has a pointer, and that all are counted right.
 *
 * Theory of operation: check.c goes through all pointers. Of each that is forwarded it notes here by whom, and
 * the target; of each other block of data, that it has a pointer of its own. Then the table is gone
 * through and compared with that. All of this is about the blocks of one pass (check.c): pointers from there, and
 * pointers to there.
 */
#include "parallax/check.h"

/** struct seen - a pointer that is forwarded: @key: address and life; 0 is empty. @print: where it stood. */
struct seen {
    uint64_t key;
    uint32_t print;
};

/**
 * struct check_forwards - @to: of each block, how many pointers are forwarded to it; @own: it has its own.
 * @n: of @seen; @all, @kept, @relived: counted in all passes, @unread: but for what cannot be read.
 */
struct check_forwards {
    struct seen *seen;
    uint64_t n, mask, all, kept, relived;
    uint32_t *to;
    uint8_t *own;
    bool unread;
};

#define FIRST_SEEN 1024u
#define SEEN_COST  ((uint64_t)64) /* of each, with the room that the table has when it has grown */

struct check_forwards *check_forwards_new(const struct pool *pool, uint64_t window)
{
    struct check_forwards *f;

    if (!pool->root.features)
        return NULL;
    f = xcalloc(1, sizeof(*f));
    f->mask = FIRST_SEEN - 1;
    f->seen = xcalloc(FIRST_SEEN, sizeof(*f->seen));
    f->to = xcalloc(window, sizeof(*f->to));
    f->own = xcalloc((window + 7) / 8, 1);
    return f;
}

uint64_t check_forwards_cost(const struct pool *pool)
{
    uint64_t blocks = pool->space.blocks;

    return pool->root.features
               ? 5 + SEEN_COST * MIN(pool->forwards.shared, blocks * PX_LIVES) / blocks
               : 0;
}

void check_forwards_begin(struct check_forwards *f, uint64_t window)
{
    if (!f)
        return;
    memset(f->seen, 0, (f->mask + 1) * sizeof(*f->seen));
    memset(f->to, 0, window * sizeof(*f->to));
    memset(f->own, 0, (window + 7) / 8);
    f->n = 0;
}

void check_forwards_free(struct check_forwards *f)
{
    if (!f)
        return;
    free(f->seen);
    free(f->to);
    free(f->own);
    free(f);
}

static uint64_t key_of(struct px_ptr ptr)
{
    return ptr_addr(ptr) * PX_LIVES + ptr_life(ptr);
}

static struct seen *find_seen(const struct check_forwards *f, uint64_t key)
{
    uint64_t at = key * 0x9e3779b97f4a7c15u >> 20;

    while (f->seen[at & f->mask].key && f->seen[at & f->mask].key != key)
        at++;
    return &f->seen[at & f->mask];
}

static struct seen *add_seen(struct check_forwards *f, uint64_t key)
{
    struct seen *old = f->seen;
    uint64_t n = f->mask + 1;

    if (2 * ++f->n > n) {
        f->mask = 2 * n - 1;
        f->seen = xcalloc(2 * n, sizeof(*f->seen));
        for (uint64_t i = 0; i < n; i++)
            if (old[i].key)
                *find_seen(f, old[i].key) = old[i];
        free(old);
    }
    return find_seen(f, key);
}

/* Trees that share no node may share a pointer: so it is remembered, whether it is it or its target that is here. */
int check_forwarded(struct checking *k, struct px_ptr *ptr, uint32_t print)
{
    struct check_forwards *f = k->forwards;
    bool here = check_here(k, ptr_addr(*ptr));
    struct px_ptr at = *ptr;
    struct seen *seen;

    if (forward_follow(k->pool, 1, &at) < 0) {
        if (here)
            check_found(k, &k->c->damaged, "%s: where block %llu is cannot be told", k->where,
                        (unsigned long long)ptr_addr(*ptr));
        return 0;
    }
    if (ptr_addr(at) == ptr_addr(*ptr) && !ptr_flags(at) == !ptr_flags(*ptr)) {
        uint64_t i = ptr_addr(*ptr) - k->first;

        if (here)
            f->own[i / 8] |= (uint8_t)(1u << i % 8);
        return -1;
    }
    if (!here && !check_here(k, ptr_addr(at)))
        return 0;
    seen = find_seen(f, key_of(*ptr));
    if (seen->key) {
        if (here && seen->print != print)
            check_found(k, &k->c->doubly, "what was at block %llu has two owners; one is %s",
                        (unsigned long long)ptr_addr(*ptr), k->where);
        return 0;
    }
    *add_seen(f, key_of(*ptr)) = (struct seen){key_of(*ptr), print};
    if (check_here(k, ptr_addr(at)))
        f->to[ptr_addr(at) - k->first]++;
    f->all += here;
    *ptr = at;
    return here;
}

/* ---- The table ---- */

static void check_target(struct checking *k, uint64_t addr, unsigned life, bool flagged,
                         uint64_t target)
{
    struct px_ptr ptr = ptr_make(addr, 1, life, 0);

    if (flagged != (target != 0))
        check_found(k, &k->c->damaged, "the forwards of block %llu contradict each other",
                    (unsigned long long)addr);
    else if (target && !find_seen(k->forwards, key_of(ptr))->key)
        check_found(k, &k->c->leaked, "block %llu is forwarded, and nothing points to it",
                    (unsigned long long)addr);
}

static void check_kept(struct checking *k, uint64_t addr, struct px_forward f)
{
    uint64_t i = addr - k->first;
    bool kept = f.where & PX_FORWARD_KEPT, own = k->forwards->own[i / 8] >> i % 8 & 1;

    if (f.refs != k->forwards->to[i])
        check_found(k, &k->c->miscounted,
                    "%lu pointers are forwarded to block %llu, and %llu are counted",
                    (unsigned long)k->forwards->to[i], (unsigned long long)addr,
                    (unsigned long long)f.refs);
    if (!f.refs)
        return;
    if (kept && k->prints[i])
        check_found(k, &k->c->doubly, "block %llu is kept for others, and in use",
                    (unsigned long long)addr);
    else if (!kept && !own)
        check_found(k, &k->c->unmarked, "block %llu is needed by others, and has no owner",
                    (unsigned long long)addr);
    if (kept)
        k->prints[i] = 1;
    k->forwards->kept += kept;
}

/* @lives: of which the table has pages there. */
static int check_address(struct checking *k, uint64_t addr, uint32_t lives)
{
    struct px_forward f = {0, 0}, of_life;
    int ret = lives ? forward_entry(k->pool, addr, 0, &f) : 0;

    if (ret < 0)
        return ret;
    check_kept(k, addr, f);
    check_target(k, addr, 0, forward_lives(f) & 1, forward_target(f));
    for (lives = (lives | forward_lives(f)) & ~1u; lives; lives &= lives - 1) {
        unsigned life = (unsigned)__builtin_ctz(lives);

        ret = forward_entry(k->pool, addr, life, &of_life);
        if (ret < 0)
            return ret;
        k->forwards->relived += forward_target(of_life) != 0;
        check_target(k, addr, life, forward_lives(f) >> life & 1, forward_target(of_life));
    }
    return 0;
}

void check_forwards(struct checking *k)
{
    uint64_t from = MAX(k->first, k->pool->space.first);
    uint32_t lives = 0;
    int ret = 0;

    if (!k->forwards)
        return;
    for (uint64_t addr = from; addr < k->end && ret == 0 && !k->ended; addr++) {
        if (addr == from || addr % PX_FORWARDS == 0)
            ret = forward_pages(k->pool, addr, &lives);
        ret = ret ?: check_address(k, addr, lives);
        node_trim(k->pool);
    }
    if (ret < 0 && !k->forwards->unread)
        check_found(k, &k->c->damaged, "the table of shared blocks cannot be read");
    k->forwards->unread |= ret < 0;
}

void check_forwards_end(struct checking *k)
{
    const struct check_forwards *f = k->forwards;
    uint64_t counted = k->pool->forwards.shared;

    if (f && !f->unread && (counted != f->all - f->kept || f->relived != k->pool->forwards.relived))
        check_found(k, &k->c->miscounted, "%llu blocks are shared, and counted as %llu",
                    (unsigned long long)(f->all - f->kept), (unsigned long long)counted);
}
