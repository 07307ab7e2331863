/* SPDX-License-Identifier: MIT */
/*
 * forward.c - equal blocks of data are stored once: devtap-pool(5), Shared blocks.
 *
 * Theory of operation: trees are shared by snapshots and clones, so to make two pointers one, each
 * copy of a leaf that holds them would have to be found and replaced. Instead pointers stay, and a
 * table, indexed by address, tells where those to an address lead. So a pointer still has one owner,
 * who gives back what it stands for once (map.c, reclaim.c, past.c); only what that means for the
 * store is decided here, by counting in the target's entry.
 *
 * The address of a block that was forwarded is free, although pointers to it live on. What is
 * written there is pointed to with another *life*, so the two are told apart. A target is forwarded
 * nowhere else, so there are no chains.
 *
 * Nothing of this is in the journal. A block that was freed is not given out before the next root is
 * durable, so over the last root all of the old pointers are still right.
 *
 * The table changes where blocks are given back, also when the pool is full: space_set_reserve()
 * leaves room for all of it.
 */
#include "parallax/internal.h"

#define TARGET_BITS (((uint64_t)1 << 40) - 1)
#define ALL_LIVES   ((1u << PX_LIVES) - 1)
#define LIFE_BITS   ((uint64_t)ALL_LIVES << PX_FORWARD_LIVE)

/* ---- The table ---- */

static uint64_t groups_of(const struct pool *pool)
{
    return (pool->space.blocks + PX_FORWARDS - 1) / PX_FORWARDS;
}

/* What the tables of all lives may have: pages of lives other than 0 have an entry each at least. */
static uint64_t nodes_of(const struct pool *pool)
{
    uint64_t groups = groups_of(pool), n = groups * PX_LIVES;
    uint64_t all = groups + MIN(pool->forwards.relived, groups * (PX_LIVES - 1));

    for (unsigned level = 0; level < pool->forwards.levels; level++) {
        n = (n + PX_FANOUT - 1) / PX_FANOUT;
        all += n;
    }
    return all;
}

static void count_nodes(struct pool *pool)
{
    pool->forwards.nodes = nodes_of(pool);
    space_set_reserve(pool);
}

bool forward_possible(const struct pool *pool, const struct px_forward *page)
{
    for (unsigned i = 0; i < PX_FORWARDS; i++) {
        uint64_t target = forward_target(page[i]);

        if ((page[i].where & ~(TARGET_BITS | LIFE_BITS | PX_FORWARD_KEPT)) ||
            page[i].refs > pool->space.blocks * PX_LIVES ||
            (target && (target < pool->space.first || target >= pool->space.blocks)) ||
            ((page[i].where & PX_FORWARD_KEPT) && page[i].refs == 0))
            return false;
    }
    return true;
}

void forward_begin(struct pool *pool)
{
    struct forwards *f = &pool->forwards;

    if (!pool->root.features)
        return;
    f->root = pool->root.forwards;
    f->levels = pool->root.forward_levels ?: (uint8_t)tree_levels_for(groups_of(pool) * PX_LIVES);
    f->shared = pool->root.shared;
    f->relived = pool->root.relived;
    count_nodes(pool);
}

int forward_grow(struct pool *pool)
{
    struct tree t = pool_forward_tree(pool);
    int ret;

    if (!pool->root.features)
        return 0;
    ret = tree_grow(pool, &t, groups_of(pool) * PX_LIVES);
    count_nodes(pool);
    return ret;
}

static uint64_t page_of(uint64_t addr, unsigned life)
{
    return addr / PX_FORWARDS * PX_LIVES + life;
}

/* A page of the table to be read; NULL where there is none. */
static int page_get(struct pool *pool, uint64_t number, struct node **page)
{
    struct tree t = pool_forward_tree(pool);
    struct px_ptr ptr;
    int ret = tree_lookup(pool, &t, number, 1, &ptr);

    *page = NULL;
    return ret < 0 || ptr_hole(ptr) ? ret : node_get(pool, ptr, TREE_FORWARD, 0, page);
}

int forward_entry(struct pool *pool, uint64_t addr, unsigned life, struct px_forward *entry)
{
    struct node *page;
    int ret = page_get(pool, page_of(addr, life), &page);

    *entry = ret == 0 && page ? page->forwards[addr % PX_FORWARDS] : (struct px_forward){0, 0};
    return ret;
}

int forward_pages(struct pool *pool, uint64_t addr, uint32_t *lives)
{
    struct tree t = pool_forward_tree(pool);
    struct px_ptr ptrs[PX_LIVES];
    int ret = tree_lookup(pool, &t, page_of(addr, 0), PX_LIVES, ptrs);

    *lives = 0;
    for (unsigned life = 0; ret == 0 && life < PX_LIVES; life++)
        *lives |= ptr_hole(ptrs[life]) ? 0 : 1u << life;
    return ret;
}

static int change(struct pool *pool, uint64_t addr, unsigned life, struct px_forward **entry)
{
    struct tree t = pool_forward_tree(pool);
    struct node *page;
    int ret = tree_page(pool, &t, page_of(addr, life), &page);

    pool->changes++;
    *entry = ret == 0 ? &page->forwards[addr % PX_FORWARDS] : NULL;
    return ret;
}

/* ---- Reading ---- */

/* @mark: of those whose block others lead to as well. */
static int follow(struct pool *pool, unsigned count, struct px_ptr *ptrs, uint32_t mark)
{
    uint64_t number = UINT64_MAX;
    struct node *page = NULL;

    for (unsigned i = 0; i < count; i++) {
        uint64_t addr = ptr_addr(ptrs[i]), needed = page_of(addr, ptr_life(ptrs[i])), target;

        if (ptr_hole(ptrs[i]))
            continue;
        if (needed != number) { /* consecutive blocks mostly have one page */
            int ret = page_get(pool, needed, &page);

            if (ret < 0)
                return ret;
            number = needed;
        }
        target = page ? forward_target(page->forwards[addr % PX_FORWARDS]) : 0;
        if (target)
            ptrs[i] = ptr_make(target, ptr_birth(ptrs[i]), mark, ptr_crc(ptrs[i]));
        else if (page && page->forwards[addr % PX_FORWARDS].refs)
            ptrs[i].hi |= (uint64_t)mark << 16;
    }
    return 0;
}

int forward_follow(struct pool *pool, unsigned count, struct px_ptr *ptrs)
{
    return follow(pool, count, ptrs, 0);
}

int forward_follow_marked(struct pool *pool, unsigned count, struct px_ptr *ptrs)
{
    return follow(pool, count, ptrs, PX_PTR_MERGED);
}

static bool forwarded(struct px_forward of_address, struct px_ptr ptr)
{
    return forward_lives(of_address) >> ptr_life(ptr) & 1;
}

int forward_shared(struct pool *pool, struct px_ptr ptr)
{
    struct px_forward f;
    int ret = forward_entry(pool, ptr_addr(ptr), 0, &f);

    return ret < 0 ? ret : forwarded(f, ptr) || f.refs > 0;
}

/* ---- Writing and giving back ---- */

static int damaged(struct pool *pool, uint64_t addr, const char *why)
{
    pool_say(pool, "damage", "%s: block %llu: %s", pool->store->name, (unsigned long long)addr,
             why);
    return -EBADMSG;
}

int forward_life(struct pool *pool, uint64_t addr, uint32_t *flags)
{
    struct px_forward f;
    int ret = forward_entry(pool, addr, 0, &f);

    *flags = 0;
    if (ret < 0)
        return ret;
    if (forward_lives(f) == ALL_LIVES)
        return damaged(pool, addr, "pointers of all its lives are forwarded");
    *flags = (uint32_t)__builtin_ctz(~forward_lives(f));
    return 0;
}

static void count_less(uint64_t *counter)
{
    *counter -= *counter > 0; /* a damaged pool may count too few */
}

/* One pointer less is forwarded to @addr. */
static int release(struct pool *pool, uint64_t addr)
{
    struct px_forward *f;
    int ret = change(pool, addr, 0, &f);

    if (ret < 0)
        return ret;
    if (f->refs == 0)
        return damaged(pool, addr, "more pointers are forwarded to it than were counted");
    if (--f->refs || !(f->where & PX_FORWARD_KEPT)) {
        count_less(&pool->forwards.shared);
        return 0;
    }
    f->where &= ~PX_FORWARD_KEPT;
    return space_free(pool, addr);
}

static int free_forwarded(struct pool *pool, struct px_ptr ptr)
{
    struct px_forward *address, *own;
    uint64_t target;
    int ret = change(pool, ptr_addr(ptr), 0, &address);

    ret = ret ?: change(pool, ptr_addr(ptr), ptr_life(ptr), &own);
    if (ret < 0)
        return ret;
    target = forward_target(*own);
    own->where &= ~TARGET_BITS;
    address->where &= ~((uint64_t)1 << (PX_FORWARD_LIVE + ptr_life(ptr)));
    if (ptr_life(ptr)) {
        count_less(&pool->forwards.relived);
        count_nodes(pool);
    }
    return target ? release(pool, target)
                  : damaged(pool, ptr_addr(ptr), "pointers to it are forwarded to nowhere");
}

static int give_back(struct pool *pool, struct px_ptr ptr)
{
    struct px_forward now, *f;
    int ret = forward_entry(pool, ptr_addr(ptr), 0, &now);

    if (ret < 0)
        return ret;
    if (forwarded(now, ptr))
        return free_forwarded(pool, ptr);
    if (now.refs == 0)
        return space_free(pool, ptr_addr(ptr));
    if (now.where & PX_FORWARD_KEPT)
        return damaged(pool, ptr_addr(ptr), "it has been given back before");
    ret = change(pool, ptr_addr(ptr), 0, &f);
    if (ret < 0)
        return ret;
    f->where |= PX_FORWARD_KEPT;
    count_less(&pool->forwards.shared);
    return 0;
}

/* What is wrong with the table was said. It was found before anything was changed that would let a block go which is in use: so
 * the block stays marked as in use, and its owner need not care. */
int forward_free(struct pool *pool, struct px_ptr ptr)
{
    int ret = give_back(pool, ptr);

    return ret == -ENOSPC ? ret : 0;
}

/* ---- Merging ---- */

/** struct meeting - of two pointers, the one that may be forwarded, and where to. */
struct meeting {
    struct px_ptr from;
    uint64_t to;
};

/* One life more than this pointer's must be left for what is written there next. */
static bool may_leave(struct px_forward f, struct px_ptr ptr)
{
    return !forwarded(f, ptr) && f.refs == 0 &&
           __builtin_popcount(forward_lives(f)) < (int)PX_LIVES - 1;
}

static int meet(struct pool *pool, struct px_ptr a, struct px_ptr b, struct meeting *m)
{
    struct px_ptr at[] = {a, b};
    struct px_forward fa, fb = {0, 0};
    int ret = forward_entry(pool, ptr_addr(a), 0, &fa);

    ret = ret ?: forward_entry(pool, ptr_addr(b), 0, &fb);
    ret = ret ?: forward_follow(pool, 2, at);
    if (ret < 0)
        return ret;
    if (ptr_addr(at[0]) == ptr_addr(at[1]))
        return 0;
    if (may_leave(fa, a))
        *m = (struct meeting){a, ptr_addr(at[1])};
    else if (may_leave(fb, b))
        *m = (struct meeting){b, ptr_addr(at[0])};
    else
        return 0;
    return 1;
}

int forward_mergeable(struct pool *pool, struct px_ptr a, struct px_ptr b)
{
    struct meeting m;

    return meet(pool, a, b, &m);
}

int forward_merge(struct pool *pool, struct px_ptr a, struct px_ptr b)
{
    struct px_forward *address, *own = NULL, *to = NULL;
    struct meeting m;
    int ret = meet(pool, a, b, &m);

    if (ret <= 0)
        return ret;
    ret = change(pool, ptr_addr(m.from), 0, &address);
    ret = ret ?: change(pool, ptr_addr(m.from), ptr_life(m.from), &own);
    ret = ret ?: change(pool, m.to, 0, &to);
    ret = ret ?: space_free(pool, ptr_addr(m.from));
    if (ret < 0)
        return ret;
    address->where |= (uint64_t)1 << (PX_FORWARD_LIVE + ptr_life(m.from));
    own->where |= m.to;
    to->refs++;
    pool->forwards.shared++;
    if (ptr_life(m.from)) {
        pool->forwards.relived++;
        count_nodes(pool);
    }
    return 1;
}
