/* SPDX-License-Identifier: MIT */
/*
 * usage.c - what has the space: a disk, each of its snapshots, or several of them together.
 *
 * Theory of operation: in a line of descent a block is in all snapshots from the first one after its birth to the last one before it
 * was replaced, without a gap. Its birth tells the first; a walk of each snapshot beside the next one (walk.c) finds those of which it
 * is the last. So one pass, in the order of what differs, tells of each block which snapshots would have to go for it to come back.
 * What two of them map differs by what that walk finds, so only the newest tree is gone through as a whole.
 *
 * What is being given back counts as gone. Hidden snapshots are the history's, which past-moment.c tells of.
 */
#include "parallax/internal.h"

/** struct span - of blocks in snapshots @first to @last, which are places in a line. */
struct span {
    uint32_t first, last;
    uint64_t blocks, nodes;
};

/**
 * struct count - of a line, the oldest first.
 * @slots, @epochs: of @n snapshots and, if it is there, the disk itself. @origin: what was born up to this is not the line's.
 * @at:     the one that is walked.
 * @spans:  what was found; of those that end at @at, @place tells where, by their beginning, if @seen is @at + 1.
 * @mapped, @shared: of @at less those of the next one.
 */
struct count {
    struct pool *pool;
    uint32_t *slots, *seen, *place;
    uint64_t *epochs, origin;
    uint32_t n, at, spans_n, spans_room;
    struct span *spans;
    int64_t mapped, shared;
};

/* 1: there are others that stand for the same block. */
static int is_shared(struct pool *pool, struct px_ptr ptr)
{
    return pool->root.features ? forward_shared(pool, ptr) : 0;
}

/* ---- One alone ---- */

static int held_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    int ret = is_shared(w->pool, a);

    ((struct disk_usage *)w->arg)->held += ret == 0;
    return MIN(ret, 0);
}

static int held_node(struct walk *w, struct px_ptr a)
{
    ((struct disk_usage *)w->arg)->held_nodes++;
    return 0;
}

static int count_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    struct disk_usage *usage = w->arg;
    int ret = is_shared(w->pool, a);

    usage->mapped++;
    usage->shared += ret == 1;
    return MIN(ret, 0);
}

static int read_failed(struct pool *pool, int ret, struct dt_error *err)
{
    return ret < 0 ? dt_fail(err, ret, "%s is damaged: a tree cannot be read (cvd pool check)",
                             pool->store->name)
                   : 0;
}

/* All that @slot reaches and was born after @after. */
static struct walk walk_all(struct pool *pool, uint32_t slot, uint64_t after)
{
    const struct px_record *r = catalog_record(pool, slot);

    return (struct walk){.pool = pool,
                         .a = r->root,
                         .a_levels = r->levels,
                         .b_levels = r->levels,
                         .after = after,
                         .budget = UINT64_MAX};
}

int pool_usage(struct pool *pool, uint32_t slot, struct disk_usage *usage, struct dt_error *err)
{
    struct walk all = walk_all(pool, slot, 0), held;
    int ret;

    *usage = (struct disk_usage){0};
    all.block = count_block;
    all.arg = usage;
    ret = walk_run(&all);
    walk_against(pool, slot, &held);
    held.block = held_block;
    held.node = held_node;
    held.arg = usage;
    ret = ret ?: walk_run(&held);
    return read_failed(pool, ret, err);
}

/* The next in its line that is not being given back. */
static uint32_t next_kept(const struct pool *pool, uint32_t slot)
{
    do
        slot = pool->catalog.info[slot].next;
    while (slot != NO_SLOT && (catalog_record(pool, slot)->flags & PX_DYING));
    return slot;
}

/* Epoch of the last one before it that people see; of what is in a branch, of the fork at least, which has its own place in the line. */
static uint64_t epoch_seen(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot), *before;

    for (; r->prev; r = before) {
        before = catalog_record(pool, r->prev - 1);
        if ((r->flags & PX_BRANCH) || !(before->flags & (PX_HIDDEN | PX_DYING)))
            return before->epoch;
    }
    return catalog_record(pool, r->parent)->origin_epoch;
}

int usage_hidden(struct pool *pool, uint32_t slot, struct disk_usage *usage)
{
    struct walk w = walk_all(pool, slot, epoch_seen(pool, slot));
    uint32_t next = next_kept(pool, slot);

    if (next != NO_SLOT) {
        w.b = catalog_record(pool, next)->root;
        w.b_levels = catalog_record(pool, next)->levels;
    }
    w.block = held_block;
    w.node = held_node;
    w.arg = usage;
    return walk_run(&w);
}

/* ---- A line ---- */

static struct span *span_of(struct count *c, uint64_t birth)
{
    uint32_t low = 0, high = c->at; /* the first whose epoch is not before it is in [low, high] */

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (c->epochs[middle] >= birth)
            high = middle;
        else
            low = middle + 1;
    }
    if (c->seen[low] == c->at + 1)
        return &c->spans[c->place[low]];
    if (c->spans_n == c->spans_room) {
        c->spans_room = MAX(2 * c->spans_room, 64u);
        c->spans = realloc(c->spans, c->spans_room * sizeof(*c->spans));
        CHECK(c->spans);
    }
    c->seen[low] = c->at + 1;
    c->place[low] = c->spans_n;
    c->spans[c->spans_n] = (struct span){.first = low, .last = c->at};
    return &c->spans[c->spans_n++];
}

static int line_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    struct count *c = w->arg;
    int a_shared = ptr_hole(a) ? 0 : is_shared(w->pool, a);
    int b_shared = ptr_hole(b) ? 0 : is_shared(w->pool, b);

    c->mapped += !ptr_hole(a) - !ptr_hole(b);
    c->shared += (a_shared == 1) - (b_shared == 1);
    if (!ptr_hole(a) && a_shared == 0 && ptr_birth(a) > c->origin)
        span_of(c, ptr_birth(a))->blocks++;
    return MIN(MIN(a_shared, b_shared), 0);
}

static int line_node(struct walk *w, struct px_ptr a)
{
    struct count *c = w->arg;

    if (ptr_birth(a) > c->origin)
        span_of(c, ptr_birth(a))->nodes++;
    return 0;
}

static int count_one(struct count *c, bool mapped)
{
    struct walk w = walk_all(c->pool, c->slots[c->at], mapped ? 0 : c->origin);

    if (c->at + 1 < c->n) {
        const struct px_record *next = catalog_record(c->pool, c->slots[c->at + 1]);

        w.b = next->root;
        w.b_levels = next->levels;
    }
    w.holes = mapped;
    w.block = line_block;
    w.node = line_node;
    w.arg = c;
    return walk_run(&w);
}

/* What a tree that has grown since maps beyond the end of the older one is in no walk of that. */
static int fill_row(struct count *c, struct disk_usage *row, const struct disk_usage *next)
{
    const struct px_record *r = catalog_record(c->pool, c->slots[c->at]);
    struct walk w = walk_all(c->pool, c->slots[c->at], 0);

    if (!next || r->levels >= catalog_record(c->pool, c->slots[c->at + 1])->levels) {
        row->mapped = (next ? next->mapped : 0) + (uint64_t)c->mapped;
        row->shared = (next ? next->shared : 0) + (uint64_t)c->shared;
        return 0;
    }
    w.block = count_block;
    w.arg = row;
    return walk_run(&w);
}

/* From the newest on, as each is told by what it differs in from the next. */
static int count_line(struct count *c, struct disk_usage *rows, const struct pool_line *line)
{
    int ret = 0;

    for (c->at = c->n; ret == 0 && c->at-- > 0;) {
        c->mapped = c->shared = 0;
        ret = count_one(c, line->mapped);
        if (ret == 0 && line->mapped)
            ret = fill_row(c, &rows[c->at], c->at + 1 < c->n ? &rows[c->at + 1] : NULL);
        if (line->progress)
            line->progress(line->arg, c->n - c->at, c->n);
    }
    return ret;
}

/* ---- What it says ---- */

static bool is_hidden(const struct count *c, uint32_t at)
{
    return catalog_record(c->pool, c->slots[at])->flags & PX_HIDDEN;
}

/* The snapshots that people see: blocks that none of them has are the history's. False: so are these. */
static bool narrow(const struct count *c, struct span *s)
{
    while (s->first < s->last && is_hidden(c, s->first))
        s->first++;
    while (s->first < s->last && is_hidden(c, s->last))
        s->last--;
    return !is_hidden(c, s->first);
}

static int by_end(const void *a, const void *b)
{
    const struct span *x = a, *y = b;

    if (x->last != y->last)
        return x->last < y->last ? 1 : -1;
    return x->first < y->first ? 1 : x->first > y->first ? -1 : 0;
}

static void merge_spans(struct count *c)
{
    uint32_t n = 0;

    if (c->spans_n == 0)
        return;
    for (uint32_t i = 0; i < c->spans_n; i++)
        if (narrow(c, &c->spans[i]))
            c->spans[n++] = c->spans[i];
    qsort(c->spans, n, sizeof(*c->spans), by_end);
    c->spans_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct span *to = c->spans_n ? &c->spans[c->spans_n - 1] : NULL;

        if (to && to->first == c->spans[i].first && to->last == c->spans[i].last) {
            to->blocks += c->spans[i].blocks;
            to->nodes += c->spans[i].nodes;
        } else {
            c->spans[c->spans_n++] = c->spans[i];
        }
    }
}

static void tell(struct count *c, const struct disk_usage *rows, struct pool_line *line)
{
    uint32_t *row_of = c->place; /* it has done its work */

    line->rows = xcalloc(c->n, sizeof(*line->rows));
    line->together = xcalloc(c->spans_n, sizeof(*line->together));
    for (uint32_t at = c->n; at-- > 0;) {
        row_of[at] = line->rows_n;
        if (!is_hidden(c, at))
            line->rows[line->rows_n++] =
                (struct pool_line_row){.slot = c->slots[at], .usage = rows[at]};
    }
    for (uint32_t i = 0; i < c->spans_n; i++) {
        const struct span *s = &c->spans[i];
        struct pool_together *to = &line->together[line->together_n];

        line->blocks += s->blocks;
        line->nodes += s->nodes;
        if (s->first == s->last) {
            line->rows[row_of[s->last]].usage.held = s->blocks;
            line->rows[row_of[s->last]].usage.held_nodes = s->nodes;
            continue;
        }
        *to = (struct pool_together){row_of[s->first], row_of[s->last], s->blocks, s->nodes};
        line->together_n++;
    }
}

static void find_line(struct count *c, uint32_t disk)
{
    const struct px_record *r = catalog_record(c->pool, disk);
    bool there = !(r->flags & (PX_DYING | PX_HEADLESS));
    uint32_t at;

    c->origin = r->origin_epoch;
    c->n = there;
    for (at = r->prev; at; at = catalog_record(c->pool, at - 1)->prev)
        c->n += !(catalog_record(c->pool, at - 1)->flags & PX_DYING);
    c->slots = xcalloc(c->n, sizeof(*c->slots));
    c->seen = xcalloc(c->n, sizeof(*c->seen));
    c->place = xcalloc(c->n, sizeof(*c->place));
    c->epochs = xcalloc(c->n, sizeof(*c->epochs));
    c->at = c->n;
    if (there)
        c->slots[--c->at] = disk;
    for (at = r->prev; at; at = catalog_record(c->pool, at - 1)->prev)
        if (!(catalog_record(c->pool, at - 1)->flags & PX_DYING))
            c->slots[--c->at] = at - 1;
    for (at = 0; at < c->n; at++)
        c->epochs[at] = catalog_record(c->pool, c->slots[at])->epoch;
}

int pool_line(struct pool *pool, uint32_t disk, struct pool_line *line, struct dt_error *err)
{
    struct count c = {.pool = pool};
    struct disk_usage *rows;
    int ret;

    CHECK_MAGIC(pool, POOL_MAGIC);
    find_line(&c, disk);
    rows = xcalloc(c.n, sizeof(*rows));
    ret = count_line(&c, rows, line);
    if (ret == 0) {
        merge_spans(&c);
        tell(&c, rows, line);
    }
    free(rows);
    free(c.slots);
    free(c.seen);
    free(c.place);
    free(c.epochs);
    free(c.spans);
    return read_failed(pool, ret, err);
}

void pool_line_free(struct pool_line *line)
{
    free(line->rows);
    free(line->together);
    line->rows = NULL;
    line->together = NULL;
}

int pool_held_between(const struct pool_line *line, uint32_t first, uint32_t last, uint64_t *blocks,
                      uint64_t *nodes)
{
    uint32_t from = line->rows_n, to = line->rows_n;

    *blocks = *nodes = 0;
    for (uint32_t i = 0; i < line->rows_n; i++) {
        from = line->rows[i].slot == first ? i : from;
        to = line->rows[i].slot == last ? i : to;
    }
    if (from == line->rows_n || to > from)
        return -EINVAL;
    for (uint32_t i = to; i <= from; i++) {
        *blocks += line->rows[i].usage.held;
        *nodes += line->rows[i].usage.held_nodes;
    }
    for (uint32_t i = 0; i < line->together_n; i++)
        if (line->together[i].first <= from && line->together[i].last >= to) {
            *blocks += line->together[i].blocks;
            *nodes += line->together[i].nodes;
        }
    return 0;
}
