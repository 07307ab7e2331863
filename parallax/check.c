/* SPDX-License-Identifier: MIT */
/*
 * check.c - reading the whole pool and comparing what is reached with what is marked as in use.
 *
 * Theory of operation: from the root, every tree is gone through. A node that several trees share
 * is gone through once. For each block reached, a fingerprint of where it stands and what is said
 * of it (its index, birth and checksum) is kept: a block that is reached again must have the same
 * one, because what trees share stands at the same index. What is reached twice otherwise has two
 * owners. Blocks that are shared for their contents: check-forward.c. At the end the blocks reached and the free maps must agree. Each block of data is counted for
 * the disk whose line it was born in, and the counts must be what the disks are charged for.
 *
 * Where there is no memory for the fingerprints of all blocks, the maps are gone through in several passes, each of
 * which is about the blocks of one part of the pool, and of nodes elsewhere only notes that it went through them.
 *
 * The pool may be another process's, which holds the root. When it does not any more (struct pool_check), what is read
 * may be anything, so this is asked after something was found, and before it is said.
 */
#include "parallax/check.h"

#include <stdarg.h>
#include <stdio.h>

void check_found(struct checking *k, uint64_t *counter, const char *fmt, ...)
{
    char text[768];
    va_list args;

    k->ended = k->ended || (k->c->holds && !k->c->holds(k->c->arg));
    if (k->ended)
        return;
    (*counter)++;
    if (!k->c->say)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    k->c->say(k->c->arg, text);
}

static uint32_t print_of(struct px_ptr ptr, unsigned kind, unsigned level, uint64_t index)
{
    uint64_t words[4] = {ptr.lo, ptr.hi, index, (uint64_t)kind << 8 | level};

    return crc32c(0, words, sizeof(words)) | 1;
}

/* True if it is reached for the first time. Here: */
static bool reach(struct checking *k, struct px_ptr ptr, unsigned kind, unsigned level,
                  uint64_t index)
{
    uint32_t *print = &k->prints[ptr_addr(ptr) - k->first], now = print_of(ptr, kind, level, index);

    if (*print == 0) {
        *print = now;
        return true;
    }
    if (*print != now)
        check_found(k, &k->c->doubly, "block %llu has two owners; one is %s",
                    (unsigned long long)ptr_addr(ptr), k->where);
    return false;
}

/* ...or elsewhere, which is another pass's; but the way to what is here may be below it. */
static bool visit(struct checking *k, uint64_t addr)
{
    uint64_t *word = &k->visited[addr / 64], bit = 1ull << addr % 64;
    bool first = !(*word & bit);

    *word |= bit;
    return first;
}

/* Lines of descent may be damaged; they are acyclic (catalog.c), but for the origins of disks. */
static void count_charge(struct checking *k, struct px_ptr ptr)
{
    const struct px_record *r = catalog_record(k->pool, k->slot);
    uint32_t disk = k->slot;

    for (uint32_t i = 0; i < k->pool->catalog.slots; i++) {
        if (r->kind == PX_SNAPSHOT)
            disk = r->parent;
        r = catalog_record(k->pool, disk);
        if (ptr_birth(ptr) > r->origin_epoch || !r->parent)
            break;
        r = catalog_record(k->pool, r->parent - 1);
    }
    k->charges[disk]++;
}

static void check_block(struct checking *k, struct px_ptr ptr, uint64_t index)
{
    struct px_ptr at = ptr;
    int ret = -1;

    if (k->forwards)
        ret = check_forwarded(k, &at, print_of(ptr, TREE_DISK, 0, index));
    if (ret == 0 ||
        (ret < 0 && (!check_here(k, ptr_addr(ptr)) || !reach(k, ptr, TREE_DISK, 0, index))))
        return;
    k->c->blocks++;
    count_charge(k, ptr);
    if (k->c->data)
        check_data(k, ptr, ptr_addr(at), index);
}

/* Where we are, and whether to go on. */
static bool go_on(struct checking *k)
{
    const struct px_root *root = &k->pool->root;

    if (k->c->progress)
        k->c->progress(k->c->arg, k->c->nodes + k->c->blocks, root->used + root->shared);
    k->ended = k->ended || (k->c->holds && !k->c->holds(k->c->arg));
    return !k->ended;
}

/* The node lacks what the journal told of it: PX_LOST_CRC. Others may reach it as it was. */
static void spoilt(struct checking *k, struct px_ptr ptr, unsigned level, uint64_t index)
{
    if (!check_here(k, ptr_addr(ptr)))
        return;
    k->spoilt++;
    check_found(k, &k->c->damaged,
                "%s: what was last written to the %llu bytes at %llu is lost, for block %llu "
                "of its map could not "
                "be read then",
                k->where, (unsigned long long)(tree_span(level) << PX_BLOCK_SHIFT),
                (unsigned long long)(index * tree_span(level) << PX_BLOCK_SHIFT),
                (unsigned long long)ptr_addr(ptr));
}

/* @ptr leads to a block that is kept in a node. NULL: it has been here, or it is damaged. */
static const struct node *enter(struct checking *k, struct px_ptr ptr, enum tree_kind kind,
                                unsigned level, uint64_t index)
{
    bool here = check_here(k, ptr_addr(ptr));
    struct node *node;

    if (unlikely(ptr_crc(ptr) == PX_LOST_CRC) && node_get(k->pool, ptr, kind, level, &node) < 0) {
        spoilt(k, ptr, level, index);
        return NULL;
    }
    if (here ? !reach(k, ptr, kind, level, index) : !visit(k, ptr_addr(ptr)))
        return NULL;
    k->c->nodes += here;
    node_trim(k->pool);
    if (!go_on(k))
        return NULL;
    if (node_get(k->pool, ptr, kind, level, &node) == 0)
        return node;
    if (here)
        check_found(k, &k->c->damaged, "%s: the node in block %llu is damaged%s", k->where,
                    (unsigned long long)ptr_addr(ptr),
                    kind == TREE_DISK ? check_others(k, ptr, level, index) : "");
    return NULL;
}

static void check_past(struct checking *k, const struct px_past *page);

/* @bottom: the level of what the tree maps, as far as it is kept in nodes: 0, or 1 for disks. */
static void check_tree(struct checking *k, struct px_ptr ptr, enum tree_kind kind, unsigned level,
                       uint64_t index)
{
    uint64_t span = tree_span(level);
    struct px_ptr ptrs[PX_FANOUT];
    const struct node *node;

    if (ptr_hole(ptr) || (index + 1) * span <= k->cursor || ptr_birth(ptr) <= k->after)
        return;
    if (ptr_addr(ptr) < k->pool->space.first || ptr_addr(ptr) >= k->pool->space.blocks) {
        if (k->first == 0)
            check_found(k, &k->c->damaged, "%s points outside of the pool", k->where);
        return;
    }
    if (level == 0 && kind == TREE_DISK) {
        check_block(k, ptr, index);
        return;
    }
    node = enter(k, ptr, kind, level, index);
    if (!node)
        return;
    if (level == 0) {
        if (kind == TREE_PAST)
            check_past(k, &node->past);
        return;
    }
    memcpy(ptrs, node->ptrs, sizeof(ptrs));
    for (unsigned i = 0; i < PX_FANOUT && !k->ended; i++)
        check_tree(k, ptrs[i], kind, level - 1, index * PX_FANOUT + i);
}

/* What was replaced belongs to the entry, as far as it was born after the snapshot before it. */
static void check_past(struct checking *k, const struct px_past *page)
{
    struct px_past copy = *page; /* the node may be evicted on the way */

    for (unsigned i = 0; i < copy.used && !k->ended; i++) {
        const struct px_past_entry *e = &copy.entries[i];
        unsigned level = past_level(e);

        k->after = e->since;
        check_tree(k, e->old, TREE_DISK, level, past_index(e) >> (PX_FAN_SHIFT * level));
    }
    k->after = 0;
}

static uint64_t line_begins(const struct pool *pool, const struct px_record *r)
{
    return r->kind == PX_SNAPSHOT ? catalog_record(pool, r->parent)->origin_epoch : r->origin_epoch;
}

enum pass { LIVE, DYING, HALF_GONE, PASSES };

static enum pass pass_of(const struct px_record *r)
{
    return !(r->flags & PX_DYING) ? LIVE : r->cursor ? HALF_GONE : DYING;
}

/* Those that are being deleted come last: of a node that they share with others they may have only
 * a part. */
static void check_disks(struct checking *k, enum pass pass)
{
    char name[2 * PX_NAME];

    k->where = name;
    for (uint32_t slot = 0; slot < k->pool->catalog.slots && !k->ended; slot++) {
        const struct px_record *r = catalog_record(k->pool, slot);

        if (r->kind == PX_FREE || r->kind == PX_LOG || pass_of(r) != pass)
            continue;
        pool_full_name(k->pool, slot, name);
        k->slot = slot;
        /* What lies before the cursor is another's, or nobody's; and so is what its disk's origin had:
         * a disk that is being deleted keeps its origin no longer. */
        k->cursor = pass == LIVE ? 0 : r->cursor;
        k->after = pass == LIVE ? 0 : line_begins(k->pool, r);
        check_tree(k, r->root, TREE_DISK, r->levels, 0);
        k->cursor = k->after = 0;
        if (r->log)
            check_tree(k, catalog_record(k->pool, r->log - 1)->root, TREE_PAST,
                       catalog_record(k->pool, r->log - 1)->levels, 0);
        check_data_now(k);
    }
    k->where = NULL;
}

static void compare_charges(struct checking *k)
{
    for (uint32_t slot = 0; slot < k->pool->catalog.slots; slot++) {
        const struct px_record *r = catalog_record(k->pool, slot);

        if (r->kind == PX_DISK && r->charged != k->charges[slot])
            check_found(k, &k->c->mischarged, "%s is charged for %llu blocks and has %llu", r->name,
                        (unsigned long long)r->charged, (unsigned long long)k->charges[slot]);
    }
}

static void compare_block(struct checking *k, uint64_t addr, bool marked)
{
    bool reached = k->prints[addr - k->first] != 0;

    k->used += marked;
    if (marked && !reached)
        check_found(k, &k->c->leaked, "block %llu is marked as in use, and nothing points to it",
                    (unsigned long long)addr);
    if (reached && !marked)
        check_found(k, &k->c->unmarked, "block %llu is in use, and marked as free",
                    (unsigned long long)addr);
}

/* What cannot be read of the maps was found when their tree was gone through. */
static void compare_maps(struct checking *k)
{
    uint64_t bits[PX_BLOCK / sizeof(uint64_t)], from = MAX(k->first, k->pool->space.first);
    bool read = false;

    for (uint64_t addr = from; addr < k->end && !k->ended; addr++) {
        uint64_t i = addr & (PX_GROUP_BLOCKS - 1);

        if (addr == from || i == 0) {
            read = space_map(k->pool, addr >> PX_GROUP_SHIFT, bits) == 0;
            k->unread |= !read;
            node_trim(k->pool);
        }
        if (read)
            compare_block(k, addr, bits[i / 64] >> i % 64 & 1);
    }
}

static void compare_used(struct checking *k)
{
    uint64_t used = k->used + k->pool->space.first;

    if (k->unread || used == k->pool->space.used)
        return;
    k->of_maps++;
    check_found(k, &k->c->damaged, "%llu blocks are marked as in use, but counted as %llu",
                (unsigned long long)used, (unsigned long long)k->pool->space.used);
}

/* ---- Passes ---- */

static void one_pass(struct checking *k)
{
    const struct pool *pool = k->pool;
    uint64_t before;

    k->where = "the catalogue";
    check_tree(k, pool->root.catalog, TREE_CATALOG, pool->root.catalog_levels, 0);
    k->where = "the free maps";
    before = k->c->damaged;
    check_tree(k, pool->root.spacemap, TREE_SPACE, pool->root.spacemap_levels, 0);
    k->of_maps += k->c->damaged - before;
    k->where = "the table of shared blocks";
    check_tree(k, pool->forwards.root, TREE_FORWARD, MAX(pool->forwards.levels, 1), 0);
    for (enum pass pass = LIVE; pass < PASSES; pass++)
        check_disks(k, pass);
    check_forwards(k);
    compare_maps(k);
}

/* How many blocks a pass is about. */
static uint64_t choose_window(const struct pool *pool, uint64_t memory)
{
    uint64_t blocks = pool->space.blocks, cost = sizeof(uint32_t) + check_forwards_cost(pool);
    uint64_t visited = blocks / 8;

    if (!memory || memory / cost >= blocks)
        return blocks;
    return MIN(MAX(memory - MIN(memory, visited), memory / 4) / cost + 1, blocks);
}

static void all_passes(struct checking *k, uint64_t window)
{
    uint64_t blocks = k->pool->space.blocks;

    for (k->first = 0; k->first < blocks && !k->ended; k->first = k->end) {
        k->end = MIN(k->first + window, blocks);
        memset(k->prints, 0, window * sizeof(*k->prints));
        if (k->visited)
            memset(k->visited, 0, (blocks + 63) / 64 * sizeof(*k->visited));
        check_forwards_begin(k->forwards, window);
        one_pass(k);
    }
    compare_charges(k);
    check_forwards_end(k);
    compare_used(k);
}

int check_then(struct pool *pool, struct pool_check *check,
               int (*then)(struct checking *k, struct dt_error *err), struct dt_error *err)
{
    struct checking k = {.pool = pool, .c = check};
    uint64_t window = choose_window(pool, check->memory);
    int ret = 0;

    k.prints = calloc(window, sizeof(*k.prints));
    if (window < pool->space.blocks)
        k.visited = calloc((pool->space.blocks + 63) / 64, sizeof(*k.visited));
    if (!k.prints || (window < pool->space.blocks && !k.visited)) {
        free(k.prints);
        return dt_fail(err, -ENOMEM, "a check of %s needs %llu bytes of memory", pool->store->name,
                       (unsigned long long)(window * sizeof(*k.prints) + pool->space.blocks / 8));
    }
    k.charges = xcalloc(pool->catalog.slots + 1ull, sizeof(*k.charges));
    k.run.buffer = xaligned(PX_BLOCK, (size_t)CHECK_RUN * PX_BLOCK);
    k.forwards = check_forwards_new(pool, window);
    all_passes(&k, window);
    if (!k.ended && check->holds)
        k.ended = !check->holds(check->arg);
    if (then && !k.visited)
        ret = then(&k, err);
    check_forwards_free(k.forwards);
    free(k.prints);
    free(k.visited);
    free(k.charges);
    free(k.run.buffer);
    return k.ended ? dt_fail(err, -ESTALE, "%s is not held any more", pool->store->name) : ret;
}

int pool_check(struct pool *pool, struct pool_check *check, struct dt_error *err)
{
    int ret = 0;

    if (!pool->o.read_only) /* so that all is on the store, and no pointer waits for its checksum */
        ret = pool_checkpoint(pool, err);
    return ret ?: check_then(pool, check, NULL, err);
}
