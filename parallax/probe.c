/* SPDX-License-Identifier: MIT */
/*
 * probe.c - can a map be changed here?
 *
 * Theory of operation: a change of a map is told to the journal and carried out at one and the same moment, so it must not
 * fail half way; and who replays the journal could tell nobody. So all nodes that the change will read are read
 * before. One that cannot be read fails the request that needs it, with nothing changed. What was read stays in memory
 * until nodes are trimmed, which no change does (node.c).
 *
 * Of the table of shared blocks only what a write needs is read: what cannot be given back there stays marked as in use.
 */
#include "parallax/internal.h"

/* Below @ptr, at @level, from index @base on: nodes across an end of [@from, @to) are changed, those within are given back. */
static int probe_below(struct pool *pool, const struct tree *t, struct px_ptr ptr, unsigned level,
                       uint64_t base, uint64_t from, uint64_t to)
{
    uint64_t span = tree_span(level);
    bool within = from <= base && base + span <= to;
    struct node *node;
    int ret;

    if (level == 0 || ptr_hole(ptr) || base >= to || base + span <= from)
        return 0;
    if (within && level < *t->levels && (t->note || !tree_owned(t, ptr_birth(ptr), base + 1)))
        return 0;
    ret = node_get(pool, ptr, t->kind, level, &node);
    span = tree_span(level - 1);
    for (unsigned i = 0; ret == 0 && i < PX_FANOUT; i++)
        ret = probe_below(pool, t, node->ptrs[i], level - 1, base + i * span, from, to);
    return ret;
}

int probe_past(struct pool *pool, uint32_t slot)
{
    struct px_record *log = past_log(pool, catalog_record(pool, slot));
    const struct px_past *page;

    return past_pages(log) ? past_page(pool, log, log->next - 1, &page) : 0;
}

int probe_zero(struct pool *pool, uint32_t slot, uint64_t from, uint64_t to)
{
    static const struct past_note some;
    bool past = catalog_record(pool, slot)->past_keep > 0;
    struct tree t = catalog_tree(pool, slot);
    int ret = past ? probe_past(pool, slot) : 0;

    t.note = past ? &some : NULL;
    return ret ?: probe_below(pool, &t, *t.root, *t.levels, 0, from, to);
}

int probe_set(struct pool *pool, uint32_t slot, uint64_t index, uint64_t count)
{
    struct tree t = catalog_tree(pool, slot);
    struct px_ptr ptrs[PX_FANOUT];
    int ret = unlikely(catalog_record(pool, slot)->past_keep) ? probe_past(pool, slot) : 0;

    for (uint64_t n; count && ret == 0; index += n, count -= n) {
        n = MIN(count, (uint64_t)PX_FANOUT);
        ret = tree_lookup(pool, &t, index, (unsigned)n, ptrs);
    }
    return ret;
}
