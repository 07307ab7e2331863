/* SPDX-License-Identifier: MIT */
/*
 * past-limit.c - a history that is to occupy no more than so much.
 *
 * Theory of operation: what a history alone holds is not known without going through all trees. So what is counted is what was replaced:
 * each block of data that an entry of the log stands for, whether or not a snapshot that people see has it, too; and the log itself. A
 * history never holds more data than that, but for one thing. A block that a hidden snapshot has goes with that snapshot, not with its entry: when
 * all entries up to the next snapshot have gone. Therefore, where there is a limit, a hidden snapshot is taken after each eighth of it, and the
 * oldest page goes while more than seven eighths are counted.
 *
 * Entries are counted in the background, soon after they were made, for one entry may stand for a subtree of any size (a discard), which has to be
 * read. How far that got is in the record of the log, and goes to the store with the pages that were counted. When a page goes, its
 * entries are counted again: nothing that they stand for has changed.
 */
#include "parallax/internal.h"

#define PARTS     8u
#define COST      1024u /* of a turn: entries, and 64 blocks of a subtree each */
#define PAGE_COST 64u   /* of one that cannot be read */

static int add_one(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    ++*(uint64_t *)w->arg;
    return 0;
}

/* Blocks below @ptr that were born after @after. */
static int count_below(struct pool *pool, struct px_ptr ptr, unsigned level, uint64_t after,
                       uint64_t *blocks)
{
    struct walk w = {.pool = pool,
                     .a = ptr,
                     .a_levels = level,
                     .b_levels = level,
                     .after = after,
                     .budget = UINT64_MAX,
                     .block = add_one,
                     .arg = blocks};

    return walk_run(&w);
}

static int count_entry(struct pool *pool, uint32_t disk, const struct px_past_entry *e,
                       uint64_t *blocks)
{
    uint32_t was, fork;

    *blocks = 0;
    if (past_whole(e)) {
        const struct px_record *r;

        if (!past_replaced(pool, disk, e->number, &was, &fork))
            return 0;
        r = catalog_record(pool, was);
        return count_below(pool, r->root, r->levels, catalog_record(pool, fork)->epoch, blocks);
    }
    if (past_level(e))
        return count_below(pool, e->old, past_level(e), 0, blocks);
    *blocks = !ptr_hole(e->old);
    return 0;
}

/* Of the page that log->counted is in, from there on. True: it has more. */
static bool count_page(struct pool *pool, struct px_record *log, uint64_t *cost)
{
    unsigned at = log->counted & ((1u << PX_PAST_AT) - 1);
    const struct px_past *page = NULL;
    struct px_past copy;

    if (past_page(pool, log, log->counted >> PX_PAST_AT, &page) < 0) {
        *cost -= MIN(*cost, (uint64_t)PAGE_COST);
        return false; /* what it stands for will be leaked, and is not held */
    }
    copy = *page; /* the node may be evicted on the way */
    for (; at < copy.used && *cost; at++) {
        uint64_t blocks;

        if (count_entry(pool, log->parent, &copy.entries[at], &blocks) < 0)
            blocks = 0; /* the like */
        log->held += blocks;
        log->recent += blocks;
        log->counted++;
        *cost -= MIN(*cost, 1 + blocks / 64);
    }
    node_trim(pool);
    return at < copy.used;
}

bool past_count(struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);
    struct px_record *log = past_log(pool, r);
    uint64_t cost = COST;
    bool more = false;

    if (!log->most || !past_pages(log))
        return false;
    catalog_touch(pool, r->log - 1);
    log->counted = MAX(log->counted, log->first << PX_PAST_AT);
    while (log->counted >> PX_PAST_AT < log->next) {
        more = count_page(pool, log, &cost);
        if (more || (log->counted >> PX_PAST_AT) + 1 == log->next)
            break; /* the last page may still get more */
        log->counted = ((log->counted >> PX_PAST_AT) + 1) << PX_PAST_AT;
        if (cost == 0)
            return true;
    }
    return more;
}

void past_uncount(struct pool *pool, struct px_record *log)
{
    uint64_t at = log->first << PX_PAST_AT;
    const struct px_past *page = NULL;
    struct px_past copy;

    if (!log->most || past_page(pool, log, log->first, &page) < 0)
        return;
    copy = *page;
    for (unsigned i = 0; i < copy.used && at + i < log->counted; i++) {
        uint64_t blocks;

        if (count_entry(pool, log->parent, &copy.entries[i], &blocks) == 0)
            log->held -= MIN(log->held, blocks);
    }
}

bool past_excess(const struct px_record *log)
{
    return log->most && log->held + past_pages(log) > log->most - log->most / PARTS;
}

bool past_anchor_due(const struct px_record *log)
{
    return log->most && log->recent > log->most / PARTS;
}

void past_set_limit(struct px_record *log, uint64_t most)
{
    if (!log->most || !most)
        log->held = log->counted = log->recent = 0;
    log->most = most;
}

bool past_limit_possible(const struct px_record *log)
{
    return log->most <= PX_MAX_BLOCKS && log->counted >> PX_PAST_AT <= log->next &&
           (log->counted & ((1u << PX_PAST_AT) - 1)) <= PX_PAST_ENTRIES;
}
