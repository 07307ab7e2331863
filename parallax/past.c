/* SPDX-License-Identifier: MIT */
/*
 * past.c - the history of a disk: what was written over is kept for some time.
 *
 * Theory of operation: where a disk has a history, a change of its map adds an entry to a log:
 * which write at what time, which place, and the pointer that was there. The log is a tree of pages
 * of its own (devtap-pool(5), History). It needs nothing in the journal but the time, because
 * replaying a write makes the same entry again.
 *
 * Who owns what was replaced? If it was born after the disk's last snapshot, nobody else has it: it
 * is the entry's, and is given back when the entry goes. Otherwise some snapshot has it. So that
 * this snapshot lives as long as the entry, one that is deleted while there is a history is only
 * hidden, until all entries up to the next snapshot have gone. And so that there is a next
 * snapshot, a hidden one is taken now and then (an anchor).
 *
 * Therefore the newest snapshot of a disk with a history is never being given back, and each state
 * between two snapshots is the later one (or the disk) with the entries since undone: past-view.c.
 */
#include "parallax/change.h"

#include <stdio.h>

#define LOOK_EVERY   DT_S(1)
#define TURN_PAGES   64u
#define LIMIT_PAGES  8u     /* of a turn while it is written */
#define ANCHOR_PARTS 8u     /* of the time that is kept */
#define ANCHOR_EVERY 65536u /* writes */

static struct tree past_tree(struct pool *pool, struct px_record *log)
{
    return (struct tree){
        .root = &log->root, .levels = &log->levels, .kind = TREE_PAST, .epoch = pool->root.seq + 1};
}

/* ---- Writing it ---- */

void past_begin(const struct disk *disk, struct tree *t, struct past_note *note, size_t bytes)
{
    struct pool *pool = disk->pool;
    struct px_stamp *stamp;

    pool->past_time = MAX(pool->past_time, change_clock(pool));
    *note = (struct past_note){.slot = disk->slot, .time = pool->past_time};
    memcpy(note->owner, disk->owner, sizeof(note->owner) - 1);
    journal_together(pool, sizeof(*stamp) + ALIGN_UP(bytes, (size_t)8));
    stamp = journal_add(pool, PX_STAMP, disk->slot, sizeof(*stamp));
    stamp->time = note->time;
    memcpy(stamp->owner, note->owner, sizeof(stamp->owner));
    disk->record->writes++;
    t->note = note;
}

void past_stamped(struct pool *pool, struct past_note *note, const struct px_stamp *stamp)
{
    *note = (struct past_note){.slot = stamp->head.slot, .time = stamp->time};
    memcpy(note->owner, stamp->owner, sizeof(note->owner) - 1);
    pool->past_time = MAX(pool->past_time, stamp->time);
}

void past_replay(struct pool *pool, struct tree *t, struct past_note *note, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    if (!r->past_keep)
        return;
    note->slot = slot;
    r->writes++;
    t->note = note;
}

/* The page to add to: the last one, if it is of the same owner and has room. */
static int last_page(struct pool *pool, struct px_record *log, const char *owner,
                     struct node **page)
{
    struct tree t = past_tree(pool, log);
    struct px_past *p;
    int ret;

    if (past_pages(log)) {
        ret = tree_page(pool, &t, log->next - 1, page);
        p = &(*page)->past;
        if (ret < 0 || (p->used < PX_PAST_ENTRIES && strcmp(p->owner, owner) == 0))
            return ret;
    }
    if (log->next >= PX_PAST_PAGES - 1)
        return -EFBIG;
    ret = tree_grow(pool, &t, log->next + 1);
    ret = ret ?: tree_page(pool, &t, log->next, page);
    if (ret < 0)
        return ret;
    p = &(*page)->past;
    *p = (struct px_past){.magic = PX_PAST_MAGIC, .page = log->next};
    memcpy(p->owner, owner, strlen(owner));
    log->next++;
    return 0;
}

int past_add(struct pool *pool, const struct tree *t, uint64_t index, unsigned level,
             struct px_ptr old)
{
    struct px_record *r = catalog_record(pool, t->note->slot), *log = past_log(pool, r);
    struct node *page;
    int ret = last_page(pool, log, t->note->owner, &page);

    catalog_touch(pool, r->log - 1);
    if (ret < 0)
        return ret;
    page->past.entries[page->past.used++] =
        (struct px_past_entry){.number = r->writes,
                               .time = t->note->time,
                               .where = index | (uint64_t)level << PX_PAST_LEVEL,
                               .old = old,
                               .since = t->since};
    if (log->most && (level || page->past.used == PX_PAST_ENTRIES))
        pool->past_due = t->note->slot + 1;
    return 0;
}

/* ---- Reading it ---- */

bool past_possible(const struct pool *pool, const struct px_past *page)
{
    if (page->magic != PX_PAST_MAGIC || page->used == 0 || page->used > PX_PAST_ENTRIES ||
        page->page >= PX_PAST_PAGES || !memchr(page->owner, 0, sizeof(page->owner)))
        return false;
    for (unsigned i = 0; i < page->used; i++) {
        const struct px_past_entry *e = &page->entries[i];
        bool hole = ptr_hole(e->old);
        uint32_t life = pool->root.features && past_level(e) == 0 ? PX_PTR_LIFE : 0;

        if (past_level(e) > PX_MAX_LEVELS || past_index(e) > PX_MAX_SIZE >> PX_BLOCK_SHIFT ||
            past_index(e) % tree_span(past_level(e)) || (i && e->number < e[-1].number))
            return false;
        if (hole ? e->old.lo || e->old.hi
                 : (ptr_flags(e->old) & ~life) || ptr_addr(e->old) < pool->space.first ||
                       ptr_addr(e->old) >= pool->space.blocks || ptr_birth(e->old) == 0)
            return false;
    }
    return true;
}

bool past_judge(const struct pool *pool, uint32_t slot)
{
    const struct px_record *log = catalog_record(pool, slot), *r = pool_record(pool, log->parent);

    return log->flags == 0 && log->prev == 0 && log->first <= log->next &&
           log->next < PX_PAST_PAGES && log->levels > 0 && log->levels <= PX_MAX_LEVELS && r &&
           r->kind == PX_DISK && r->log == slot + 1 && past_limit_possible(log);
}

int past_page(struct pool *pool, struct px_record *log, uint64_t number,
              const struct px_past **page)
{
    struct tree t = past_tree(pool, log);
    struct px_ptr ptr;
    struct node *node;
    int ret = tree_lookup(pool, &t, number, 1, &ptr);

    if (ret == 0 && ptr_hole(ptr))
        ret = -EBADMSG;
    ret = ret ?: node_get(pool, ptr, TREE_PAST, 0, &node);
    if (ret == 0)
        *page = &node->past;
    return ret;
}

int past_find(struct pool *pool, struct px_record *log, uint64_t key, bool by_time, uint64_t *found)
{
    uint64_t low = log->first, high = log->next; /* the one looked for is in [low, high) */

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        const struct px_past *page = NULL;
        int ret = past_page(pool, log, middle, &page);

        if (ret < 0)
            return ret;
        if ((by_time ? page->entries[0].time : page->entries[0].number) <= key)
            low = middle;
        else
            high = middle;
        node_trim(pool);
    }
    *found = low;
    return 0;
}

/* ---- Letting it go ---- */

/* It is empty: so is its tree. */
static int empty_log(struct pool *pool, struct px_record *log)
{
    struct tree t = past_tree(pool, log);
    struct tree_lost lost = {0};
    int ret;

    t.lost = &lost;
    ret = tree_free_all(pool, &t);
    pool->lost += lost.nodes;
    log->root = (struct px_ptr){0, 0};
    log->levels = 1;
    log->first = log->next = 0;
    log->held = log->counted = 0;
    return ret;
}

/* The last write of the page that goes may have entries in the next one, too, but what was before it is not known any more.
 * Of one that could not be read, that may be the next one's first. */
static void raise_floor(struct pool *pool, struct px_record *log, const struct px_past *page)
{
    const struct px_past_entry *e = page ? &page->entries[page->used - 1] : NULL;

    if (!e && log->first + 1 < log->next && past_page(pool, log, log->first + 1, &page) == 0)
        e = &page->entries[0];
    log->floor = MAX(log->floor, e ? e->number : 0);
    log->begun = e ? e->time : 0;
}

static int drop_page(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot), *log = past_log(pool, r);
    struct tree t = past_tree(pool, log), disk = catalog_tree(pool, slot);
    struct tree_lost lost = {0};
    const struct px_past *page = NULL;
    int ret = 0;

    past_uncount(pool, log);
    if (past_page(pool, log, log->first, &page) < 0)
        lost.nodes++;
    catalog_touch(pool, slot);
    catalog_touch(pool, r->log - 1);
    disk.cursor = 0;
    t.lost = disk.lost = &lost;
    for (unsigned i = 0; ret == 0 && page && i < page->used; i++) {
        const struct px_past_entry *e = &page->entries[i];

        disk.since = disk.since_before = e->since;
        ret = tree_free_below(pool, &disk, e->old, past_level(e), past_index(e));
    }
    if (ret < 0)
        return pool_fail(pool, ret, "a history cannot be given back");
    raise_floor(pool, log, page);
    log->first++;
    if (!page) /* what it was counted for is not known: all that is left is counted anew */
        log->held = log->counted = 0;
    pool_lost(pool, slot, &lost);
    ret = past_pages(log) ? tree_zero(pool, &t, 0, log->first) : empty_log(pool, log);
    return ret < 0 ? pool_fail(pool, ret, "a history cannot be given back") : 0;
}

/* It was ended, and all of it is given back. */
static void release_log(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    catalog_release(pool, r->log - 1);
    r->log = 0;
    catalog_touch(pool, slot);
}

/* Of a snapshot that is hidden: all up to write @until has what is needed of it. */
static void release_one(struct pool *pool, uint32_t slot, uint64_t until, uint64_t oldest)
{
    if ((catalog_record(pool, slot)->flags & PX_HIDDEN) && until <= oldest &&
        !pool_mounted(pool, slot) && !pool->catalog.info[slot].branches)
        change_begin_dying(pool, slot);
}

/* What was deleted and is needed no longer: the snapshot after it is older than all that is kept; or at the end of a
 * branch, the write by which the disk became something else. */
static void release_hidden(struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot), *after = r;
    struct px_record *log = past_log(pool, r);
    uint64_t oldest = r->writes;
    const struct px_past *page = NULL;

    if (past_pages(log)) {
        if (past_page(pool, log, log->first, &page) < 0)
            return;
        oldest = page->entries[0].number - 1;
    }
    for (uint32_t at = r->prev; at; at = after->prev) {
        if (after != r)
            release_one(pool, at - 1, after->writes, oldest);
        after = catalog_record(pool, at - 1);
    }
    for (struct aside a = {0}; catalog_aside(pool, slot, &a);) {
        uint32_t next = pool->catalog.info[a.slot].next;
        uint64_t until = next == NO_SLOT ? catalog_record(pool, a.slot)->writes + 1
                                         : catalog_record(pool, next)->writes;

        release_one(pool, a.slot, until, oldest);
    }
}

/* Pages are let go while their last entry is older than @before, or all with @before UINT64_MAX, and while there are more than
 * there may be; at most @budget. */
static int let_go(struct pool *pool, uint32_t slot, uint64_t before, uint64_t *budget)
{
    struct px_record *log = past_log(pool, catalog_record(pool, slot));
    uint64_t pinned = past_pinned(pool, slot);
    int ret = 0;

    while (ret == 0 && past_pages(log) && *budget) {
        const struct px_past_entry *last;
        const struct px_past *page = NULL;

        /* One that cannot be read is of no use to anybody. */
        last = past_page(pool, log, log->first, &page) < 0 ? NULL : &page->entries[page->used - 1];
        if (last && (last->number > pinned ||
                     (last->time >= before && last->number > log->floor && !past_excess(log))))
            break;
        ret = drop_page(pool, slot);
        --*budget;
    }
    return ret;
}

/* Whose the @i-th log is. */
static uint32_t disk_of(const struct pool *pool, uint32_t i)
{
    return catalog_record(pool, pool->catalog.logs[i])->parent;
}

/* From the last on: the one that is released is replaced by the last. */
int past_drain(struct pool *pool, uint64_t budget)
{
    for (uint32_t i = pool->catalog.logs_n; i-- > 0;) {
        uint32_t slot = disk_of(pool, i);
        const struct px_record *r = catalog_record(pool, slot);
        int ret;

        if (r->past_keep)
            continue;
        ret = let_go(pool, slot, UINT64_MAX, &budget);
        if (ret < 0 || budget == 0)
            return ret ?: 1;
        if (past_pages(past_log(pool, r)) == 0)
            release_log(pool, slot);
    }
    return 0;
}

int past_anchor(struct pool *pool, uint32_t slot, uint32_t *snapshot, struct dt_error *err)
{
    struct px_record *log = past_log(pool, catalog_record(pool, slot));
    struct px_change c;
    int ret;

    change_begin(&c, PX_SNAP, slot);
    c.hidden = 1;
    c.time = change_clock(pool);
    c.slot2 = catalog_free_run(pool, 1);
    snprintf(c.name, sizeof(c.name), "history");
    if (snapshot)
        *snapshot = c.slot2;
    ret = change_commit(pool, &c, 1, err);
    if (ret == 0 && log)
        log->recent = 0;
    return ret;
}

static void anchor_now_and_then(struct pool *pool, uint32_t slot, uint64_t now)
{
    const struct px_record *r = catalog_record(pool, slot), *s;
    struct dt_error err;

    s = r->prev ? catalog_record(pool, r->prev - 1) : NULL;
    if (s && s->writes == r->writes)
        return;
    if (!s || r->writes - s->writes > ANCHOR_EVERY || past_anchor_due(past_log(pool, r)) ||
        now > s->created + (uint64_t)r->past_keep * DT_S(1) / ANCHOR_PARTS)
        (void)past_anchor(pool, slot, NULL, &err); /* a busy journal: next time */
}

void pool_history_turn(struct pool *pool)
{
    uint64_t now = change_clock(pool);

    for (uint32_t i = 0; i < pool->catalog.logs_n; i++) {
        uint32_t slot = disk_of(pool, i);
        const struct px_record *r = catalog_record(pool, slot);
        uint64_t keep = (uint64_t)r->past_keep * DT_S(1), budget = TURN_PAGES;

        if (!keep || pool->failed)
            continue;
        (void)let_go(pool, slot, now > keep ? now - keep : 0, &budget);
        release_hidden(pool, slot);
        anchor_now_and_then(pool, slot, now);
        if (past_log(pool, r)->most)
            pool->past_due = slot + 1;
    }
}

/* A history that has a limit got a page more. Where several have, the others' turn comes with their next page, or
 * within a second. */
static bool limit_turn(struct pool *pool)
{
    uint32_t slot = pool->past_due - 1;
    const struct px_record *r = pool_record(pool, slot);
    uint64_t budget = LIMIT_PAGES;
    bool more;

    pool->past_due = 0;
    if (!r || !r->past_keep)
        return false;
    more = past_count(pool, slot);
    if (let_go(pool, slot, 0, &budget) < 0)
        return false;
    if (past_anchor_due(past_log(pool, r)))
        anchor_now_and_then(pool, slot, change_clock(pool));
    if (more || budget == 0)
        pool->past_due = slot + 1;
    return more || budget == 0;
}

/* What hidden snapshots alone hold goes back when there is a later one. */
bool past_yield(struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);
    uint64_t budget = TURN_PAGES, dying = pool->catalog.dying;
    struct dt_error err;

    if (past_pages(past_log(pool, r))) {
        (void)let_go(pool, slot, UINT64_MAX, &budget);
        release_hidden(pool, slot);
    } else if (r->past_keep) {
        if (r->prev && catalog_record(pool, r->prev - 1)->writes < r->writes)
            (void)past_anchor(pool, slot, NULL, &err);
        release_hidden(pool, slot);
    }
    return budget < TURN_PAGES || pool->catalog.dying > dying;
}

/* Writes wait for space: the oldest of all histories goes first. */
static void yield(struct pool *pool)
{
    uint64_t oldest = UINT64_MAX;
    uint32_t chosen = NO_SLOT;
    const struct px_past *page = NULL;

    for (uint32_t i = 0; i < pool->catalog.logs_n; i++) {
        struct px_record *log = catalog_record(pool, pool->catalog.logs[i]);
        uint32_t slot = log->parent;

        if (past_pages(log) && past_page(pool, log, log->first, &page) == 0 &&
            page->entries[0].number <= past_pinned(pool, slot) && page->entries[0].time < oldest) {
            oldest = page->entries[0].time;
            chosen = slot;
        }
    }
    if (chosen != NO_SLOT)
        (void)past_yield(pool, chosen);
    for (uint32_t i = 0; chosen == NO_SLOT && i < pool->catalog.logs_n; i++)
        (void)past_yield(pool, disk_of(pool, i));
}

bool past_turn(struct pool *pool)
{
    bool more = false;
    uint64_t now;

    if (likely(pool->catalog.logs_n == 0) || pool->failed || pool->o.read_only)
        return false;
    if (io_stalled(pool) && !pool->space.pending && !pool->reclaim_maybe &&
        pool->ckpt.state == CKPT_IDLE && pool->space.promised == 0 &&
        journal_has_room(pool, PX_BLOCK, JOURNAL_SPARE))
        yield(pool);
    if (unlikely(pool->past_due))
        more = limit_turn(pool);
    now = dt_clock_ns();
    if (now < pool->past_look + LOOK_EVERY)
        return more;
    pool->past_look = now;
    pool_history_turn(pool);
    return more;
}

/* ---- Turning it on and off ---- */

void past_forget(struct px_record *r)
{
    r->log = r->past_keep = 0;
}

void past_stop(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    if (!r->log)
        return;
    r->past_keep = 0;
    for (uint32_t at = r->prev; at; at = catalog_record(pool, at - 1)->prev)
        if (catalog_record(pool, at - 1)->flags & PX_HIDDEN)
            change_begin_dying(pool, at - 1);
    for (struct aside a = {0}; catalog_aside(pool, slot, &a);)
        if (catalog_record(pool, a.slot)->flags & PX_HIDDEN)
            change_begin_dying(pool, a.slot);
    catalog_touch(pool, slot);
    pool->reclaim_maybe = true;
}

/* Without its log, nobody can tell what was there before. */
bool past_goes_on(struct pool *pool, uint32_t slot)
{
    char name[2 * PX_NAME];

    if (likely(!catalog_record(pool, slot)->past_keep) || probe_past(pool, slot) == 0)
        return true;
    pool_full_name(pool, slot, name);
    pool_say_of(pool, slot, "damage", "%s: the history of %s cannot be read: it ends",
                pool->store->name, name);
    past_stop(pool, slot);
    return false;
}

void past_replayed(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->catalog.logs_n; i++) {
        uint32_t slot = disk_of(pool, i);

        if (!catalog_record(pool, slot)->past_keep)
            past_stop(pool, slot);
    }
}

int past_check(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_DISK);

    if (!r || change_staging(r))
        return dt_fail(err, -EINVAL, "only a disk can have a history");
    if (c->count && !r->log && !change_slot_free(pool, c->slot2))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->slot2);
    if (c->size % PX_BLOCK || c->size >> PX_BLOCK_SHIFT > PX_MAX_BLOCKS)
        return dt_fail(err, -EINVAL, "a limit is a multiple of 4 KiB, up to 4 PiB");
    return c->count > UINT32_MAX ? dt_fail(err, -EBADMSG, "a history of that length cannot be") : 0;
}

static int begin_log(struct pool *pool, const struct px_change *c)
{
    struct px_record log = {
        .kind = PX_LOG, .parent = c->head.slot, .levels = 1, .created = c->time, .name = "history"};
    int ret = catalog_claim(pool, c->slot2, &log);

    if (ret == 0)
        catalog_record(pool, c->head.slot)->log = c->slot2 + 1;
    return ret;
}

/* What was written while there was none is in no log: so states from before are not looked for. An earlier
 * log may not have gone yet, and then it is gone on with. */
int past_apply(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);
    int ret = 0;

    catalog_touch(pool, c->head.slot);
    if (c->count == 0) {
        past_stop(pool, c->head.slot);
        return 0;
    }
    if (!r->log)
        ret = begin_log(pool, c);
    if (ret < 0)
        return ret;
    if (!r->past_keep) {
        past_log(pool, r)->floor = ++r->writes;
        past_log(pool, r)->begun = c->time;
    }
    past_set_limit(past_log(pool, r), c->size >> PX_BLOCK_SHIFT);
    pool->past_due = c->head.slot + 1;
    catalog_touch(pool, r->log - 1);
    r->past_keep = (uint32_t)c->count;
    return 0;
}

int pool_history(struct pool *pool, uint32_t disk, uint32_t seconds, uint64_t most,
                 struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    bool begins = r && seconds && !r->past_keep;
    struct px_change c[2];
    int ret = seconds ? 0 : past_not_mounted(pool, disk, err);

    if (ret < 0)
        return ret;
    change_begin(&c[0], PX_HISTORY, disk);
    c[0].time = change_clock(pool);
    c[0].count = seconds;
    c[0].size = seconds ? ALIGN_UP(most, (uint64_t)PX_BLOCK) : 0;
    c[0].slot2 = catalog_free_run(pool, 2);
    change_begin(&c[1], PX_SNAP, disk);
    c[1].hidden = 1;
    c[1].time = c[0].time;
    c[1].slot2 = c[0].slot2 + 1;
    snprintf(c[1].name, sizeof(c[1].name), "history");
    return change_commit(pool, c, begins ? 2 : 1, err);
}
