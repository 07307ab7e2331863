/* SPDX-License-Identifier: MIT */
/*
 * space-lost.c - free maps that cannot be read.
 *
 * Theory of operation: a group whose map cannot be read counts as in use as a whole. So nothing of it is given out; what is freed
 * of it from now on comes back, as anywhere; and the next root has a map that says so. What was free in it before stays
 * marked as in use until the maps are made anew (cvd pool check --repair). How much that is follows from the
 * count of the whole pool, less what all other maps tell: so promises are not given of what cannot be given out. To know
 * it, all maps are read, once for each such event.
 *
 * A node above the maps is lost with all maps that are not in memory; then it is left out of the tree, and all below it are
 * written again.
 */
#include "parallax/internal.h"

#define WORDS (PX_BLOCK / sizeof(uint64_t))

/* How many blocks are free by the maps that can be read; the others are lost. */
static uint64_t count_known(struct pool *pool)
{
    uint64_t bits[WORDS], known = 0;

    for (uint64_t i = 0; i < pool->space.n; i++) {
        if (space_map(pool, i, bits) < 0) {
            space_fill(pool, i);
            continue;
        }
        for (unsigned word = 0; word < WORDS; word++)
            known += (uint64_t)__builtin_popcountll(~bits[word]);
    }
    return known;
}

void space_lose(struct pool *pool, uint64_t index)
{
    struct space *s = &pool->space;
    uint64_t before = s->lost, all = s->blocks - s->used, known, gone;

    space_fill(pool, index);
    known = count_known(pool);
    gone = MIN(all - MIN(all, known), s->free);
    s->used += gone;
    s->free -= gone;
    pool_say(
        pool, "damage",
        "%s: %llu of %llu free maps cannot be read: %llu blocks that are free are not given out "
        "until 'cvd pool check --repair'",
        pool->store->name, (unsigned long long)(s->lost - before), (unsigned long long)s->n,
        (unsigned long long)gone);
}

static int mend(struct pool *pool, const struct tree *t, uint64_t index)
{
    struct space *s = &pool->space;
    uint64_t bits[WORDS], first, count;
    int ret = 0;

    for (uint64_t i = 0; i < s->n; i++)
        if (!s->groups[i] && space_map(pool, i, bits) < 0)
            space_lose(pool, i);
    ret = tree_cut(pool, t, index, &first, &count);
    for (uint64_t i = first; ret == 0 && count && i < MIN(first + count, s->n); i++)
        space_touch(pool, i);
    return ret < 0 ? ret : count > 0;
}

int space_page(struct pool *pool, const struct tree *t, uint64_t index, struct node **page)
{
    int ret = tree_page(pool, t, index, page), more = 1;

    while (unlikely((ret == -EBADMSG || ret == -EIO) && more > 0)) {
        more = mend(pool, t, index);
        ret = more < 0 ? more : tree_page(pool, t, index, page);
    }
    return ret;
}

/* Before anything is promised. */
int space_begin(struct pool *pool, struct dt_error *err)
{
    struct space *s = &pool->space;
    uint64_t bits[WORDS], at[] = {s->hole_at, s->run_at, s->node_at};

    for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
        uint64_t index = MIN(at[i] >> PX_GROUP_SHIFT, s->n - 1);

        if (!s->groups[index] && space_map(pool, index, bits) < 0)
            space_lose(pool, index);
    }
    if (s->lost && s->free == 0)
        return dt_fail(
            err, -ENOSPC,
            "%s is damaged: no free map can be read: 'cvd pool check --repair' makes them anew",
            pool->store->name);
    return 0;
}
