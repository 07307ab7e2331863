/* SPDX-License-Identifier: MIT */
/*
 * catalog-store.c - the catalogue on the store: how a root gets it, and how it is read and judged.
 *
 * Theory of operation: blocks of it that changed get pages in its tree before a root is begun, and copies of them at that moment
 * (checkpoint.c). Pointers that do not tell their checksums then are filled in when the trees are written. When a pool is opened, each record
 * is judged for itself, then the lines that records make with one another.
 */
#include "parallax/internal.h"

/* ---- A root ---- */

/* Where a node above it cannot be read, all blocks below that are written again, for they are in memory: from *@i on. */
static int get_page(struct pool *pool, const struct tree *t, uint32_t *i, struct node **page)
{
    struct catalog *c = &pool->catalog;
    int ret = tree_page(pool, t, *i, page);
    uint64_t first, count;

    while (unlikely(ret == -EBADMSG || ret == -EIO)) {
        ret = tree_cut(pool, t, *i, &first, &count);
        if (ret < 0 || count == 0)
            return ret ?: -EBADMSG;
        for (uint64_t k = first; k < MIN(first + count, (uint64_t)c->slots / PX_RECORDS); k++)
            c->state[k] |= CATALOG_DIRTY;
        *i = (uint32_t)MIN(first, (uint64_t)*i);
        ret = tree_page(pool, t, *i, page);
    }
    return ret;
}

int catalog_prepare(struct pool *pool, uint32_t *cursor, unsigned *budget)
{
    struct catalog *c = &pool->catalog;
    struct tree t = pool_catalog_tree(pool);
    int ret = tree_grow(pool, &t, c->slots / PX_RECORDS);

    for (; *cursor < c->slots / PX_RECORDS && ret == 0; ++*cursor) {
        struct node *page;

        if (!(c->state[*cursor] & CATALOG_DIRTY))
            continue;
        if (*budget == 0)
            return 1;
        --*budget;
        ret = get_page(pool, &t, cursor, &page);
    }
    return ret;
}

/* Pointers in copies of these records must not tell less than they can: node.c. */
static void resolve_block(struct pool *pool, uint32_t i)
{
    for (unsigned r = 0; r < PX_RECORDS; r++)
        node_resolve(pool, &pool->catalog.blocks[i][r].root);
}

int catalog_freeze(struct pool *pool)
{
    struct catalog *c = &pool->catalog;
    struct tree t = pool_catalog_tree(pool);
    int ret = tree_grow(pool, &t, c->slots / PX_RECORDS);

    for (uint32_t i = 0; i < c->slots / PX_RECORDS && ret == 0; i++) {
        struct node *page;

        if (!(c->state[i] & CATALOG_DIRTY))
            continue;
        ret = get_page(pool, &t, &i, &page);
        if (ret < 0)
            break;
        resolve_block(pool, i);
        memcpy(page->bytes, c->blocks[i], PX_BLOCK);
        c->state[i] = CATALOG_FROZEN;
    }
    pool->root.slots = c->slots;
    c->dead_frozen = c->dead_n;
    return ret;
}

bool catalog_resolve(struct pool *pool, uint32_t *cursor, unsigned *budget)
{
    struct catalog *c = &pool->catalog;

    for (; *cursor < c->slots / PX_RECORDS; ++*cursor) {
        if (!(c->state[*cursor] & CATALOG_FROZEN))
            continue;
        if (*budget == 0)
            return true;
        --*budget;
        resolve_block(pool, *cursor);
        c->state[*cursor] &= (uint8_t)~CATALOG_FROZEN;
    }
    return false;
}

/* ---- Opening ---- */

static int bad(struct pool *pool, uint32_t slot, const char *why, struct dt_error *err)
{
    return dt_fail(err, -EBADMSG, "%s is damaged: catalogue slot %u: %s", pool->store->name, slot,
                   why);
}

static bool name_ends(const struct px_record *r)
{
    return r->name[0] && memchr(r->name, 0, sizeof(r->name));
}

static int judge_record(struct pool *pool, uint32_t slot, struct dt_error *err)
{
    const struct px_record *r = catalog_record(pool, slot), *p;

    if (r->kind == PX_FREE) {
        memset(catalog_record(pool, slot), 0, sizeof(*r)); /* whatever was there */
        return 0;
    }
    if (ptr_flags(r->root))
        return bad(pool, slot, "a pointer that cannot be", err);
    if (r->kind == PX_LOG)
        return past_judge(pool, slot) && name_ends(r)
                   ? 0
                   : bad(pool, slot, "a history that cannot be", err);
    if (r->kind > PX_SNAPSHOT || (r->flags & ~PX_RECORD_FLAGS) || !name_ends(r))
        return bad(pool, slot, "no valid kind, flags or name", err);
    if (r->levels == 0 || r->levels > PX_MAX_LEVELS || r->size > PX_MAX_SIZE ||
        (r->sector != 512 && r->sector != 4096) || r->size == 0 || r->size % PX_BLOCK ||
        tree_span(r->levels) < r->size >> PX_BLOCK_SHIFT)
        return bad(pool, slot, "a size that cannot be", err);
    if (!ptr_hole(r->root) && ptr_birth(r->root) > r->epoch)
        return bad(pool, slot, "a tree from its future", err);
    if (r->policy >= PX_POLICIES || r->quota > PX_MAX_BLOCKS || r->charged > pool->space.blocks ||
        r->weight > DISK_MAX_WEIGHT || (r->kind != PX_DISK && (r->quota || r->charged)))
        return bad(pool, slot, "a quota, charge or weight that cannot be", err);
    if (r->rules > PX_RULES || !schedule_rules_good(r->rule, r->rules) ||
        (r->kind != PX_DISK && (r->every || r->rules)))
        return bad(pool, slot, "a schedule that cannot be", err);
    p = r->log ? pool_record(pool, r->log - 1) : NULL;
    if (((r->flags & PX_HIDDEN) && r->kind != PX_SNAPSHOT) ||
        (r->log && (r->kind != PX_DISK || !p || p->kind != PX_LOG || p->parent != slot)) ||
        (r->past_keep && !r->log))
        return bad(pool, slot, "a history that cannot be", err);
    if ((r->flags & PX_BRANCH) && (!r->prev || r->kind != PX_SNAPSHOT || !pool->root.branched ||
                                   !(r->flags & (PX_HIDDEN | PX_DYING))))
        return bad(pool, slot, "a branch that cannot be", err);
    if (r->epoch == 0 || r->epoch >> 40 || r->since > r->epoch || r->origin_epoch > r->epoch)
        return bad(pool, slot, "epochs that cannot be", err);
    p = r->prev ? pool_record(pool, r->prev - 1) : NULL;
    if (r->prev && (!p || p->kind != PX_SNAPSHOT || p->epoch >= r->epoch ||
                    p->parent != (r->kind == PX_DISK ? slot : r->parent)))
        return bad(pool, slot, "the snapshot before it is not one", err);
    if (r->kind == PX_SNAPSHOT) {
        p = pool_record(pool, r->parent);
        return p && p->kind == PX_DISK ? 0 : bad(pool, slot, "its disk is none", err);
    }
    p = r->parent ? pool_record(pool, r->parent - 1) : NULL;
    if (r->parent && (!p || p->kind != PX_SNAPSHOT || p->epoch != r->origin_epoch))
        return bad(pool, slot, "its origin is no snapshot", err);
    return 0;
}

/* From its beginning on, it is hidden snapshots and nothing else. */
static bool is_branch(const struct pool *pool, uint32_t slot)
{
    for (; slot != NO_SLOT; slot = pool->catalog.info[slot].next)
        if (!(catalog_record(pool, slot)->flags & (PX_HIDDEN | PX_DYING)) ||
            catalog_record(pool, slot)->kind != PX_SNAPSHOT)
            return false;
    return true;
}

/* The last one of a branch, which has a beginning. */
static bool ends_branch(const struct pool *pool, const struct px_record *r)
{
    while (!(r->flags & PX_BRANCH) && r->prev)
        r = catalog_record(pool, r->prev - 1);
    return r->flags & PX_BRANCH;
}

/* Each snapshot is before exactly one other thing of its disk, but for branches; else lines would join or make a
 * ring. */
static int judge_line(struct pool *pool, uint32_t slot, struct dt_error *err)
{
    const struct px_record *r = catalog_record(pool, slot);
    uint32_t next = pool->catalog.info[slot].next;

    if (r->kind == PX_SNAPSHOT &&
        (next == NO_SLOT ? !ends_branch(pool, r) : catalog_record(pool, next)->prev != slot + 1))
        return bad(pool, slot, "no snapshot and no disk follows it", err);
    if ((r->flags & PX_BRANCH) && !is_branch(pool, slot))
        return bad(pool, slot, "a branch that cannot be", err);
    if (r->prev && !(r->flags & PX_BRANCH) && pool->catalog.info[r->prev - 1].next != slot)
        return bad(pool, slot, "two follow the same snapshot", err);
    return 0;
}

static int read_block(struct pool *pool, const struct tree *t, uint32_t i, struct dt_error *err)
{
    struct px_ptr ptr;
    struct node *page;
    int ret = tree_lookup(pool, t, i, 1, &ptr);

    if (ret == 0 && !ptr_hole(ptr)) {
        ret = node_get(pool, ptr, TREE_CATALOG, 0, &page);
        if (ret == 0)
            memcpy(pool->catalog.blocks[i], page->bytes, PX_BLOCK);
    }
    node_trim(pool);
    return ret < 0 ? dt_fail(err, ret, "%s: its catalogue cannot be read", pool->store->name) : 0;
}

/* All blocks of it at once; what cannot be read shows when it is. */
static void hint_blocks(struct pool *pool, const struct tree *t, uint32_t blocks)
{
    for (unsigned level = 2; level-- > 0;)
        for (uint32_t i = 0; i < blocks; i += level ? PX_FANOUT : 1)
            if (tree_hint(pool, t, i, level) < 0)
                return;
}

int catalog_load(struct pool *pool, struct dt_error *err)
{
    struct catalog *c = &pool->catalog;
    struct tree t = pool_catalog_tree(pool);
    uint64_t slots = pool->root.slots;
    int ret = 0;

    if (slots >= NO_SLOT - PX_RECORDS || slots % PX_RECORDS ||
        slots / PX_RECORDS > pool->space.blocks)
        return dt_fail(err, -EBADMSG, "%s is damaged: it claims %llu catalogue slots",
                       pool->store->name, (unsigned long long)slots);
    catalog_extend(c, (uint32_t)slots);
    hint_blocks(pool, &t, (uint32_t)(slots / PX_RECORDS));
    for (uint32_t i = 0; i < slots / PX_RECORDS && ret == 0; i++)
        ret = read_block(pool, &t, i, err);
    for (uint32_t slot = 0; slot < slots && ret == 0; slot++)
        ret = judge_record(pool, slot, err);
    if (ret < 0)
        return ret;
    for (uint32_t slot = 0; slot < slots; slot++)
        catalog_link(pool, slot);
    for (uint32_t slot = 0; slot < slots && ret == 0; slot++)
        ret = judge_line(pool, slot, err);
    catalog_rehash(pool);
    return ret;
}
