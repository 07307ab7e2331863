/* SPDX-License-Identifier: MIT */
/*
 * range.c - exclusive locks on ranges of sectors, first come first served: a range waits for
 * every earlier one that it overlaps, held or waiting, so nobody starves.
 *
 * The list is as long as a layer's requests that lock, so a scan beats a tree.
 */
#include "core/internal.h"

static bool overlap(const struct dt_range *a, const struct dt_range *b)
{
    return a->sector < b->sector + b->sectors && b->sector < a->sector + a->sectors;
}

/* Is anything before @range, which need not be in the list, in its way? */
static bool blocked(const struct ctx *c, const struct dt_range *range)
{
    for (const struct dt_range *r = c->range_head; r && r != range; r = r->next_)
        if (overlap(r, range))
            return true;
    return false;
}

bool dt_range_lock(struct dt_ctx *pub, struct dt_range *range, uint64_t sector, uint64_t sectors)
{
    struct ctx *c = ctx_of(pub);

    if (!c->range_head)
        c->range_tail = &c->range_head;
    range->sector = sector;
    range->sectors = sectors;
    range->next_ = NULL;
    *c->range_tail = range;
    c->range_tail = &range->next_;
    range->held_ = !blocked(c, range);
    return range->held_;
}

bool dt_range_try(struct dt_ctx *pub, struct dt_range *range, uint64_t sector, uint64_t sectors)
{
    struct ctx *c = ctx_of(pub);

    range->sector = sector;
    range->sectors = sectors;
    range->next_ = NULL;
    return !blocked(c, range) && dt_range_lock(pub, range, sector, sectors);
}

/* One range that may go now, in order of arrival; the callbacks may change the list. */
static struct dt_range *next_grantable(struct ctx *c)
{
    for (struct dt_range *r = c->range_head; r; r = r->next_)
        if (!r->held_ && !blocked(c, r))
            return r;
    return NULL;
}

void dt_range_unlock(struct dt_ctx *pub, struct dt_range *range)
{
    struct ctx *c = ctx_of(pub);
    struct dt_range **link = &c->range_head, *r;

    CHECK(range->held_);
    while (*link && *link != range)
        link = &(*link)->next_;
    CHECK(*link == range);
    *link = range->next_;
    if (!*link)
        c->range_tail = link;
    range->held_ = false;
    while ((r = next_grantable(c))) {
        r->held_ = true;
        r->granted(pub, r);
    }
}
