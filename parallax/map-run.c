/* SPDX-License-Identifier: MIT */
/* map-run.c - what a disk holds where: a hole in its tree covers all that would be below it. */
#include "parallax/internal.h"

#define PAST_BLOCKS 256u /* of what was, at a time: each is looked up by itself */

/* Pointers that are holes, or are none, from the first one on. */
static uint64_t count_alike(const struct px_ptr *ptrs, uint64_t count)
{
    uint64_t n = 1;

    while (n < count && ptr_hole(ptrs[n]) == ptr_hole(ptrs[0]))
        n++;
    return n;
}

static int past_run(struct disk *disk, uint64_t index, uint64_t count, uint64_t *run)
{
    struct px_ptr ptrs[PAST_BLOCKS];
    int ret;

    count = MIN(count, (uint64_t)PAST_BLOCKS);
    ret = disk_lookup(disk, index, (unsigned)count, ptrs);
    if (ret < 0)
        return ret;
    *run = count_alike(ptrs, count);
    return !ptr_hole(ptrs[0]);
}

static int tree_run(struct pool *pool, const struct tree *t, uint64_t index, uint64_t count,
                    uint64_t *run)
{
    struct px_ptr ptr = *t->root;
    unsigned level = *t->levels;

    *run = count;
    if (index >= tree_span(level))
        return 0;
    for (; !ptr_hole(ptr); level--) {
        unsigned slot = (unsigned)(index >> (PX_FAN_SHIFT * (level - 1))) & (PX_FANOUT - 1);
        struct node *node;
        int ret = node_get(pool, ptr, t->kind, level, &node);

        if (ret < 0)
            return ret;
        if (level == 1) {
            *run = count_alike(&node->ptrs[slot], MIN(count, (uint64_t)(PX_FANOUT - slot)));
            return !ptr_hole(node->ptrs[slot]);
        }
        ptr = node->ptrs[slot];
    }
    *run = MIN(count, tree_span(level) - (index & (tree_span(level) - 1)));
    return 0;
}

int disk_map(struct disk *disk, uint64_t index, uint64_t count, uint64_t *run)
{
    struct tree t;
    int ret;

    if (disk->past)
        return past_run(disk, index, count, run);
    t = catalog_tree(disk->pool, disk->slot);
    ret = tree_run(disk->pool, &t, index, count, run);
    node_trim(disk->pool);
    return ret;
}
