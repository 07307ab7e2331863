/* SPDX-License-Identifier: MIT */
/*
 * check-forward.c - what a check finds of shared blocks: that each pointer which is forwarded belongs to one
 * owner, that each entry of the table has a pointer, and that all are counted right.
 *
 * Theory of operation: check.c goes through all pointers. Of each that is forwarded it notes here by whom, and
 * the target; of each other block of data, that it has a pointer of its own. Then the whole table is gone
 * through and compared with that.
 */
#include "parallax/check.h"

/** struct seen - a pointer that is forwarded: @key: address and life; 0 is empty. @print: where it stood. */
struct seen {
    uint64_t key;
    uint32_t print;
};

/** struct check_forwards - @to: of each block, how many pointers are forwarded to it; @own: it has its own. */
struct check_forwards {
    struct seen *seen;
    uint64_t n, mask, kept;
    uint32_t *to;
    uint8_t *own;
};

#define FIRST_SEEN 1024u

struct check_forwards *check_forwards_new(const struct pool *pool)
{
    struct check_forwards *f;

    if (!pool->root.features)
        return NULL;
    f = xcalloc(1, sizeof(*f));
    f->mask = FIRST_SEEN - 1;
    f->seen = xcalloc(FIRST_SEEN, sizeof(*f->seen));
    f->to = xcalloc(pool->space.blocks, sizeof(*f->to));
    f->own = xcalloc((pool->space.blocks + 7) / 8, 1);
    return f;
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

int check_forwarded(struct checking *k, struct px_ptr *ptr, uint32_t print)
{
    struct check_forwards *f = k->forwards;
    struct px_ptr at = *ptr;
    struct seen *seen;

    if (forward_follow(k->pool, 1, &at) < 0) {
        check_found(k, &k->c->damaged, "%s: where block %llu is cannot be told", k->where,
                    (unsigned long long)ptr_addr(*ptr));
        return 0;
    }
    if (ptr_addr(at) == ptr_addr(*ptr) && !ptr_flags(at) == !ptr_flags(*ptr)) {
        f->own[ptr_addr(*ptr) / 8] |= (uint8_t)(1u << ptr_addr(*ptr) % 8);
        return -1;
    }
    seen = find_seen(f, key_of(*ptr));
    if (seen->key) {
        if (seen->print != print)
            check_found(k, &k->c->doubly, "what was at block %llu has two owners; one is %s",
                        (unsigned long long)ptr_addr(*ptr), k->where);
        return 0;
    }
    *add_seen(f, key_of(*ptr)) = (struct seen){key_of(*ptr), print};
    f->to[ptr_addr(at)]++;
    *ptr = at;
    return 1;
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
    bool kept = f.where & PX_FORWARD_KEPT, own = k->forwards->own[addr / 8] >> addr % 8 & 1;

    if (f.refs != k->forwards->to[addr])
        check_found(k, &k->c->miscounted,
                    "%lu pointers are forwarded to block %llu, and %llu are counted",
                    (unsigned long)k->forwards->to[addr], (unsigned long long)addr,
                    (unsigned long long)f.refs);
    if (!f.refs)
        return;
    if (kept && k->prints[addr])
        check_found(k, &k->c->doubly, "block %llu is kept for others, and in use",
                    (unsigned long long)addr);
    else if (!kept && !own)
        check_found(k, &k->c->unmarked, "block %llu is needed by others, and has no owner",
                    (unsigned long long)addr);
    if (kept)
        k->prints[addr] = 1;
    k->forwards->kept += kept;
}

/* @lives: of which the table has pages there. */
static int check_address(struct checking *k, uint64_t addr, uint32_t lives, uint64_t *relived)
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
        *relived += forward_target(of_life) != 0;
        check_target(k, addr, life, forward_lives(f) >> life & 1, forward_target(of_life));
    }
    return 0;
}

void check_forwards(struct checking *k)
{
    uint64_t relived = 0, counted = k->pool->forwards.shared, first = k->pool->space.first;
    uint32_t lives = 0;
    int ret = 0;

    if (!k->forwards)
        return;
    for (uint64_t addr = first; addr < k->pool->space.blocks && ret == 0; addr++) {
        if (addr == first || addr % PX_FORWARDS == 0)
            ret = forward_pages(k->pool, addr, &lives);
        ret = ret ?: check_address(k, addr, lives, &relived);
        node_trim(k->pool);
    }
    if (ret < 0)
        check_found(k, &k->c->damaged, "the table of shared blocks cannot be read");
    else if (counted != k->forwards->n - k->forwards->kept || relived != k->pool->forwards.relived)
        check_found(k, &k->c->miscounted, "%llu blocks are shared, and counted as %llu",
                    (unsigned long long)(k->forwards->n - k->forwards->kept),
                    (unsigned long long)counted);
}
