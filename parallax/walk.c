/* SPDX-License-Identifier: MIT */
/*
 * walk.c - going through what one tree reaches and another does not.
 *
 * Theory of operation: two trees of one line of descent share all that was not written between
 * them, and what they share has the same address. So the walk goes down both at once and stops
 * where they point to the same block, or where what it finds is too old to matter: the birth of a
 * node is not before that of anything below. The nodes visited are in the order of what differs,
 * whatever the size of the disk. Nodes on the path are pinned, others may be evicted.
 *
 * A node that cannot be read ends a walk, or is left out with all below it (@lost): where that is of @b, nobody can tell what
 * of @a it has.
 */
#include "parallax/internal.h"

struct place {
    struct px_ptr a, b;
    unsigned level, b_level; /* b may be lower: then it is what lies first below */
    uint64_t base;
};

static int visit(struct walk *w, const struct place *p);

static int get_pinned(struct walk *w, struct px_ptr ptr, unsigned level, struct node **node)
{
    int ret = 0;

    *node = NULL;
    if (!ptr_hole(ptr))
        ret = node_get(w->pool, ptr, TREE_DISK, level, node);
    if (unlikely(ret < 0)) {
        *node = NULL;
        if (w->lost)
            w->lost->nodes++;
    } else if (*node) {
        (*node)->pins++;
    }
    return ret;
}

static void unpin(struct node *node)
{
    if (node)
        node->pins--;
}

static int children(struct walk *w, const struct place *p, const struct node *a,
                    const struct node *b)
{
    uint64_t span = tree_span(p->level - 1);
    bool higher = p->b_level < p->level;

    for (unsigned i = 0; i < PX_FANOUT; i++) {
        struct place child = {.level = p->level - 1, .base = p->base + i * span};
        int ret;

        if (child.base + span <= w->cursor)
            continue;
        if (child.base >= w->end)
            break;
        child.a = a ? a->ptrs[i] : (struct px_ptr){0, 0};
        child.b_level = higher ? p->b_level : p->level - 1;
        if (higher)
            child.b = i == 0 && p->base == 0 ? p->b : (struct px_ptr){0, 0};
        else
            child.b = b ? b->ptrs[i] : (struct px_ptr){0, 0};
        ret = visit(w, &child);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int visit_node(struct walk *w, const struct place *p)
{
    struct node *a, *b = NULL;
    bool out;
    int ret;

    if (p->level == 1) {
        if (w->budget == 0) {
            w->cursor = MAX(w->cursor, p->base);
            return -EAGAIN;
        }
        w->budget--;
    }
    node_trim(w->pool);
    ret = get_pinned(w, p->a, p->level, &a);
    if (ret == 0 && p->b_level == p->level)
        ret = get_pinned(w, p->b, p->level, &b);
    out = ret < 0 && w->lost;
    if (ret == 0)
        ret = children(w, p, a, b);
    unpin(a);
    unpin(b);
    if (ret < 0 && !out)
        return ret;
    w->cursor = MAX(w->cursor, MIN(p->base + tree_span(p->level), w->end));
    return w->node && !ptr_hole(p->a) && !out ? w->node(w, p->a) : 0;
}

static int visit(struct walk *w, const struct place *p)
{
    if (ptr_same(p->a, p->b) && p->b_level == p->level)
        return 0;
    if (ptr_hole(p->a) && (!w->holes || ptr_hole(p->b)))
        return 0;
    if (!ptr_hole(p->a) && ptr_birth(p->a) <= w->after)
        return 0;
    return p->level ? visit_node(w, p) : w->block(w, p->base, p->a, p->b);
}

int walk_run(struct walk *w)
{
    struct place top = {.a = w->a, .b = w->b, .level = w->a_levels, .b_level = w->b_levels};

    while (top.b_level > top.level) {
        struct node *node;
        int ret;

        if (ptr_hole(top.b)) {
            top.b_level = top.level;
            break;
        }
        ret = node_get(w->pool, top.b, TREE_DISK, top.b_level, &node);
        if (unlikely(ret < 0 && w->lost)) {
            w->lost->nodes++;
            return 0;
        }
        if (ret < 0)
            return ret;
        top.b = node->ptrs[0];
        top.b_level--;
    }
    if (!w->end)
        w->end = tree_span(w->a_levels);
    return visit(w, &top);
}

void walk_against(struct pool *pool, uint32_t slot, struct walk *w)
{
    const struct px_record *r = catalog_record(pool, slot);
    uint32_t next = pool->catalog.info[slot].next;

    *w = (struct walk){.pool = pool,
                       .a = r->root,
                       .a_levels = r->levels,
                       .b_levels = r->levels,
                       .after = catalog_epoch_before(pool, slot),
                       .budget = UINT64_MAX};
    if (next != NO_SLOT) { /* else a disk, or the end of a branch */
        w->b = catalog_record(pool, next)->root;
        w->b_levels = catalog_record(pool, next)->levels;
    }
}

/* ---- Questions ---- */

static int read_failed(struct pool *pool, int ret, struct dt_error *err)
{
    return ret < 0 ? dt_fail(err, ret, "%s is damaged: a tree cannot be read (cvd pool check)",
                             pool->store->name)
                   : 0;
}

struct diff {
    int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped);
    void *arg;
    uint64_t from, count;
    bool mapped;
};

static int diff_end(struct diff *d)
{
    int ret = d->count ? d->range(d->arg, d->from, d->count, d->mapped) : 0;

    d->count = 0;
    return ret;
}

static int diff_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    struct diff *d = w->arg;
    bool mapped = !ptr_hole(a);
    int ret;

    if (d->count && d->from + d->count == index && d->mapped == mapped) {
        d->count++;
        return 0;
    }
    ret = diff_end(d);
    d->from = index;
    d->count = 1;
    d->mapped = mapped;
    return ret;
}

int pool_diff(struct pool *pool, uint32_t older, uint32_t newer,
              int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped), void *arg,
              struct dt_error *err)
{
    const struct px_record *a = pool_record(pool, newer), *b = pool_record(pool, older);
    struct diff d = {.range = range, .arg = arg};
    struct walk w = {.pool = pool,
                     .a = a->root,
                     .a_levels = a->levels,
                     .b_levels = a->levels,
                     .budget = UINT64_MAX,
                     .holes = true,
                     .block = diff_block,
                     .arg = &d,
                     .end = a->size >> PX_BLOCK_SHIFT};
    int ret;

    if (b) {
        w.b = b->root;
        w.b_levels = b->levels;
    }
    ret = walk_run(&w);
    return read_failed(pool, ret ?: diff_end(&d), err);
}
