/* SPDX-License-Identifier: MIT */
/*
 * map.c - changing trees.
 *
 * Theory of operation: before anything below a node is changed, the path to it is *owned* from the
 * root down: each node on it is made one that the next root may find changed. A dirty node that is
 * the owner's alone is changed in place. A clean one that is the owner's alone moves to a new
 * address, because the durable root reaches the old one. One that is shared with a snapshot is
 * copied, or with the root that is being made. So the thesis's writable link is a comparison: birth > since.
 *
 * What cannot be read fails a change before it begins (probe.c); or else, where nobody could be told, it is left out (@lost).
 *
 * The pointer to a dirty node bears no checksum yet (PX_PTR_PENDING); checkpoint.c fills them in
 * from the leaves up.
 */
#include "parallax/internal.h"

static unsigned slot_of(uint64_t index, unsigned level)
{
    return (unsigned)(index >> (PX_FAN_SHIFT * (level - 1))) & (PX_FANOUT - 1);
}

/* Where the range of the node at @level above @index ends. */
static uint64_t end_of(uint64_t index, unsigned level)
{
    uint64_t span = tree_span(level);

    return (index & ~(span - 1)) + span;
}

/* ---- Reading ---- */

/* Where it would have to wait, 1 and what for; with no @absent, it waits. */
static int find_leaf(struct pool *pool, const struct tree *t, uint64_t index, struct node **leaf,
                     struct absent *absent)
{
    struct px_ptr ptr = *t->root;

    *leaf = NULL;
    if (index >= tree_span(*t->levels))
        return 0;
    for (unsigned level = *t->levels; !ptr_hole(ptr); level--) {
        int ret = node_find(pool, ptr, t->kind, level, leaf);

        if (ret == -ENOENT && absent && fetch_possible(pool, ptr)) {
            *absent = (struct absent){ptr, level};
            return 1;
        }
        if (ret == -ENOENT)
            ret = node_get(pool, ptr, t->kind, level, leaf);
        if (ret < 0)
            return ret;
        if (level == 1)
            return 0;
        ptr = (*leaf)->ptrs[slot_of(index, level)];
        *leaf = NULL;
    }
    return 0;
}

int tree_look(struct pool *pool, const struct tree *t, uint64_t index, unsigned count,
              struct px_ptr *ptrs, struct absent *absent)
{
    while (count) {
        unsigned at = slot_of(index, 1), n = MIN(count, PX_FANOUT - at);
        struct node *leaf;
        int ret = find_leaf(pool, t, index, &leaf, absent);

        if (ret)
            return ret;
        if (leaf)
            memcpy(ptrs, &leaf->ptrs[at], n * sizeof(*ptrs));
        else
            memset(ptrs, 0, n * sizeof(*ptrs));
        index += n;
        ptrs += n;
        count -= n;
    }
    return 0;
}

int tree_lookup(struct pool *pool, const struct tree *t, uint64_t index, unsigned count,
                struct px_ptr *ptrs)
{
    return tree_look(pool, t, index, count, ptrs, NULL);
}

int tree_above(struct pool *pool, const struct tree *t, uint64_t index, unsigned level,
               struct px_ptr *ptr)
{
    *ptr = (struct px_ptr){0, 0};
    if (index >= tree_span(*t->levels) || level > *t->levels)
        return 0;
    *ptr = *t->root;
    for (unsigned at = *t->levels; at > level && !ptr_hole(*ptr); at--) {
        struct node *node;
        int ret = node_get(pool, *ptr, t->kind, at, &node);

        if (ret < 0)
            return ret;
        *ptr = node->ptrs[slot_of(index, at)];
    }
    return 0;
}

int tree_hint(struct pool *pool, const struct tree *t, uint64_t index, unsigned level)
{
    struct px_ptr ptr;
    int ret = tree_above(pool, t, index, level, &ptr);

    if (ret == 0 && node_wanted(pool, ptr) && pool->store->prefetch)
        pool->store->prefetch(pool->store, ptr_addr(ptr), 1);
    return ret;
}

/* ---- Owning ---- */

static int new_block(struct pool *pool, uint64_t *addr)
{
    int n = space_alloc(pool, 1, false, addr);

    return n < 0 ? n : space_use(pool, *addr, 1);
}

/* Of a catalogue block or free map nothing is needed: it is about to be replaced as a whole. */
static bool is_replaced(const struct tree *t, unsigned level)
{
    return level == 0 && (t->kind == TREE_CATALOG || t->kind == TREE_SPACE);
}

/* @slot is in a node or record that may be changed. The path above was owned for @index. 1: it leads to what was left out. */
static int own(struct pool *pool, const struct tree *t, struct px_ptr *slot, unsigned level,
               uint64_t index, struct node **out)
{
    struct px_ptr old = *slot;
    bool alone = tree_owned(t, ptr_birth(old), end_of(index, level));
    struct node *node = NULL;
    uint64_t addr;
    int ret = ptr_hole(old) ? 0 : node_get(pool, old, t->kind, level, &node);

    if (unlikely(ret < 0 && t->lost)) {
        tree_spoil(t->lost, old);
        *slot = ptr_make(ptr_addr(old), ptr_birth(old), 0, PX_LOST_CRC);
        return 1;
    }
    if (unlikely(ret < 0 && is_replaced(t, level))) {
        alone = alone && !node_peek(pool, ptr_addr(old)); /* else it is another's, too */
        node = NULL;
        ret = 0;
    }
    if (ret < 0)
        return ret;
    if (node && alone && node_changeable(&pool->nodes, node)) {
        *slot = ptr_make(ptr_addr(old), t->epoch, PX_PTR_PENDING, 0);
        *out = node;
        return 0;
    }
    ret = new_block(pool, &addr);
    if (ret < 0)
        return ret;
    if (!node)
        node = node_new(pool, addr, t->kind, level);
    else if (alone && !node_frozen(&pool->nodes, node))
        node_move(pool, node, addr);
    else
        node = node_copy(pool, addr, node);
    if (alone && !ptr_hole(old)) {
        node_drop(pool, ptr_addr(old));
        ret = space_free(pool, ptr_addr(old));
    }
    *slot = ptr_make(addr, t->epoch, PX_PTR_PENDING, 0);
    *out = node;
    return ret;
}

int tree_leaf(struct pool *pool, const struct tree *t, uint64_t index, struct node **leaf)
{
    struct px_ptr *slot = t->root;

    if (index >= tree_span(*t->levels))
        return -EINVAL;
    for (unsigned level = *t->levels;; level--) {
        int ret = own(pool, t, slot, level, index, leaf);

        if (ret || level == 1)
            return ret;
        slot = &(*leaf)->ptrs[slot_of(index, level)];
    }
}

/* What was to be mapped where that was left out. */
static int give_up(struct pool *pool, uint64_t addr, unsigned count)
{
    int ret = 0;

    for (; ret == 0 && count; count--)
        ret = space_free(pool, addr++);
    return ret;
}

static int set_one(struct pool *pool, const struct tree *t, struct px_ptr *slot, uint64_t index,
                   uint64_t addr, uint32_t crc)
{
    uint32_t flags = 0;
    int ret = 0;

    if (unlikely(pool->root.features))
        ret = forward_life(pool, addr, &flags);
    if (unlikely(ret < 0 && t->lost)) { /* reads of it will fail, too */
        tree_spoil(t->lost, ptr_make(addr, t->epoch, 0, crc));
        ret = 0;
    }
    if (unlikely(t->note != NULL))
        ret = ret ?: past_add(pool, t, index, 0, *slot);
    if (!t->note && !ptr_hole(*slot) && tree_owned(t, ptr_birth(*slot), index + 1))
        ret = ret ?: data_free(pool, *slot);
    else if (t->charged)
        ++*t->charged;
    *slot = ptr_make(addr, t->epoch, flags, crc);
    return ret;
}

int tree_set(struct pool *pool, const struct tree *t, uint64_t index, unsigned count, uint64_t addr,
             const uint32_t *crc)
{
    while (count) {
        unsigned at = slot_of(index, 1), n = MIN(count, PX_FANOUT - at);
        struct node *leaf;
        int ret = tree_leaf(pool, t, index, &leaf);

        if (unlikely(ret > 0))
            ret = give_up(pool, addr, n);
        else
            for (unsigned i = 0; ret == 0 && i < n; i++)
                ret = set_one(pool, t, &leaf->ptrs[at + i], index + i, addr + i, crc[i]);
        if (ret < 0)
            return ret;
        index += n;
        addr += n;
        crc += n;
        count -= n;
    }
    return 0;
}

int tree_page(struct pool *pool, const struct tree *t, uint64_t index, struct node **page)
{
    struct node *leaf;
    int ret = tree_leaf(pool, t, index, &leaf);

    return ret ?: own(pool, t, &leaf->ptrs[slot_of(index, 1)], 0, index, page);
}

/* ---- Giving back ---- */

/* What is below @ptr, at @level, from index @base on, and it itself, as far as it is the owner's
 * alone. */
int tree_free_below(struct pool *pool, const struct tree *t, struct px_ptr ptr, unsigned level,
                    uint64_t base)
{
    bool alone = tree_owned(t, ptr_birth(ptr), base + tree_span(level));
    struct node *node;
    int ret;

    /* Nothing below is younger than the node. But a node across the cursor is not the owner's alone
     * while parts of what is below it may be. */
    if (ptr_hole(ptr) || !tree_owned(t, ptr_birth(ptr), base + 1))
        return 0;
    if (level > 0) {
        ret = node_get(pool, ptr, t->kind, level, &node);
        if (unlikely(ret < 0 && t->lost)) {
            t->lost->nodes++;
            return 0;
        }
        for (unsigned i = 0; ret == 0 && i < PX_FANOUT; i++)
            ret =
                tree_free_below(pool, t, node->ptrs[i], level - 1, base + i * tree_span(level - 1));
        if (ret < 0)
            return ret;
        if (alone)
            node_drop(pool, ptr_addr(ptr));
    }
    if (!alone)
        return 0;
    if (level == 0 && t->kind == TREE_DISK) {
        tree_uncharge(t->charged);
        ret = data_free(pool, ptr);
    } else {
        if (level == 0)
            node_drop(pool, ptr_addr(ptr));
        ret = space_free(pool, ptr_addr(ptr));
    }
    return ret == -EBADMSG && t->lost ? 0 : ret; /* free already, which was said */
}

/* @node is owned, at @level, begins at index @base. */
static int zero_in(struct pool *pool, const struct tree *t, struct node *node, unsigned level,
                   uint64_t base, uint64_t from, uint64_t to)
{
    uint64_t span = tree_span(level - 1);
    unsigned i = from > base ? (unsigned)((from - base) / span) : 0;

    for (; i < PX_FANOUT && base + i * span < to; i++) {
        uint64_t start = base + i * span;
        struct node *child;
        int ret;

        if (ptr_hole(node->ptrs[i]))
            continue;
        if (from <= start && start + span <= to) {
            ret = t->note ? past_add(pool, t, start, level - 1, node->ptrs[i])
                          : tree_free_below(pool, t, node->ptrs[i], level - 1, start);
            node->ptrs[i] = (struct px_ptr){0, 0};
        } else {
            ret = own(pool, t, &node->ptrs[i], level - 1, start, &child);
            ret = ret ?: zero_in(pool, t, child, level - 1, start, from, to);
            ret = MIN(ret, 0);
        }
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Is anything mapped in [@from, @to)? Most discards of a new disk find nothing, and need no node.
 */
static int any_mapped(struct pool *pool, const struct tree *t, struct px_ptr ptr, unsigned level,
                      uint64_t base, uint64_t from, uint64_t to)
{
    uint64_t span = tree_span(level);
    struct node *node;
    int ret;

    if (ptr_hole(ptr) || base >= to || base + span <= from)
        return 0;
    if (level == 0)
        return 1;
    ret = node_get(pool, ptr, t->kind, level, &node);
    if (unlikely(ret < 0 && t->lost))
        return 1; /* for all that is known */
    for (unsigned i = 0; ret == 0 && i < PX_FANOUT; i++)
        ret = any_mapped(pool, t, node->ptrs[i], level - 1, base + i * tree_span(level - 1), from,
                         to);
    return ret;
}

int tree_zero(struct pool *pool, const struct tree *t, uint64_t from, uint64_t to)
{
    struct node *node;
    int ret;

    to = MIN(to, tree_span(*t->levels));
    if (from >= to)
        return 0;
    ret = any_mapped(pool, t, *t->root, *t->levels, 0, from, to);
    if (ret <= 0)
        return ret;
    ret = own(pool, t, t->root, *t->levels, 0, &node);
    if (ret)
        return MIN(ret, 0);
    return zero_in(pool, t, node, *t->levels, 0, from, to);
}

int tree_free_all(struct pool *pool, const struct tree *t)
{
    return tree_free_below(pool, t, *t->root, *t->levels, 0);
}

int tree_grow(struct pool *pool, const struct tree *t, uint64_t count)
{
    while (tree_span(*t->levels) < count) {
        struct px_ptr below = *t->root;
        struct node *top;
        int ret;

        if (*t->levels == PX_MAX_LEVELS)
            return -EFBIG;
        if (!ptr_hole(below)) {
            *t->root = (struct px_ptr){0, 0};
            ret = own(pool, t, t->root, *t->levels + 1u, 0, &top);
            if (ret < 0) {
                *t->root = below;
                return ret;
            }
            top->ptrs[0] = below;
        }
        (*t->levels)++;
    }
    return 0;
}

int tree_cut(struct pool *pool, const struct tree *t, uint64_t index, uint64_t *first,
             uint64_t *count)
{
    struct px_ptr *slot = t->root;

    *count = 0;
    for (unsigned level = *t->levels; level > 0; level--) {
        struct node *node = NULL;
        int ret = own(pool, t, slot, level, index, &node);

        if (ret == -ENOSPC)
            return ret;
        if (ret < 0) {
            uint64_t addr = ptr_addr(*slot);

            *slot = (struct px_ptr){0, 0};
            *first = index & ~(tree_span(level) - 1);
            *count = tree_span(level);
            return node_peek(pool, addr) ? 0 : space_free(pool, addr);
        }
        slot = &node->ptrs[slot_of(index, level)];
    }
    return 0;
}
