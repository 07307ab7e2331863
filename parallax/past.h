/* SPDX-License-Identifier: MIT */
/* past.h - the history of a disk, as the parts of a pool see it. Part of internal.h. */
#ifndef PARALLAX_PAST_H
#define PARALLAX_PAST_H

struct past_view;

#define PX_PAST_PAGES ((uint64_t)1 << 40)

/** struct past_note - whose and when: of the writes that a tree is being changed by. */
struct past_note {
    uint32_t slot;
    uint64_t time;
    char owner[PX_OWNER];
};

/** past_log() - the record of a disk's log, or NULL. */
static inline struct px_record *past_log(struct pool *pool, const struct px_record *r)
{
    return r->log ? catalog_record(pool, r->log - 1) : NULL;
}
/** past_pages() - how many a log has; none where there is no log. */
static inline uint64_t past_pages(const struct px_record *log)
{
    return log ? log->next - log->first : 0;
}
/** past_nodes() - how many blocks a change of @count blocks may need for it. */
static inline uint32_t past_nodes(const struct px_record *r, uint32_t count)
{
    return likely(!r->past_keep) ? 0
                                 : count / PX_PAST_ENTRIES + 2 + 2 * PX_MAX_LEVELS + 7u * r->levels;
}
/** past_journal() - bytes of the journal that a record of a write needs for it. */
static inline uint32_t past_journal(const struct px_record *r)
{
    return likely(!r->past_keep) ? 0 : sizeof(struct px_stamp);
}
static inline uint64_t past_index(const struct px_past_entry *e)
{
    return e->where & (((uint64_t)1 << PX_PAST_LEVEL) - 1);
}
static inline unsigned past_level(const struct px_past_entry *e)
{
    return (unsigned)(e->where >> PX_PAST_LEVEL);
}
/** past_whole() - the whole disk was replaced at once (past-branch.c). */
static inline bool past_whole(const struct px_past_entry *e)
{
    return past_level(e) > 0 && ptr_hole(e->old);
}

/* past.c */

/** past_begin() - a record of @bytes follows in the journal, and @t is changed by it; of a disk
 * that has a history. */
void past_begin(const struct disk *disk, struct tree *t, struct past_note *note, size_t bytes);
/** past_stamped(), past_replay() - the same when recovering. */
void past_stamped(struct pool *pool, struct past_note *note, const struct px_stamp *stamp);
void past_replay(struct pool *pool, struct tree *t, struct past_note *note, uint32_t slot);
/** past_add() - @old was at @index, at @level, until now. */
int past_add(struct pool *pool, const struct tree *t, uint64_t index, unsigned level,
             struct px_ptr old);
/** past_possible() - could this be a page? */
bool past_possible(const struct pool *pool, const struct px_past *page);
/** past_judge() - is this the record of a log? */
bool past_judge(const struct pool *pool, uint32_t slot);
/** past_page() - a page of @log, to be read. */
int past_page(struct pool *pool, struct px_record *log, uint64_t number,
              const struct px_past **page);
/** past_find() - the last page that begins with write @key, or at time @key, or before. There is
 * one at least. */
int past_find(struct pool *pool, struct px_record *log, uint64_t key, bool by_time, uint64_t *page);

int past_check(struct pool *pool, const struct px_change *c, struct dt_error *err);
int past_apply(struct pool *pool, const struct px_change *c);
/** past_kept_then() - @r has a history, or had one when a change that is replayed was made, which wants one with @count. */
static inline bool past_kept_then(const struct pool *pool, const struct px_record *r,
                                  uint64_t count)
{
    return r->past_keep || (pool->replaying && r->log && count);
}
/** past_goes_on() - in a replay: can more be added to the history of @slot, if it has one? Else it ends. */
bool past_goes_on(struct pool *pool, uint32_t slot);
/** past_replayed() - the replay is over: what it added to histories that ended goes, too. */
void past_replayed(struct pool *pool);
/** past_stop() - no history from now on; what there is goes in the background. */
void past_stop(struct pool *pool, uint32_t slot);
/** past_forget() - a snapshot has none. */
void past_forget(struct px_record *r);
/** past_anchor() - take a hidden snapshot. @snapshot: set to its slot, or NULL. */
int past_anchor(struct pool *pool, uint32_t slot, uint32_t *snapshot, struct dt_error *err);
/** past_drain() - give back histories that were ended. 1: there is more; 0; -errno. */
int past_drain(struct pool *pool, uint64_t budget);
/** past_yield() - let go the oldest of a disk's history now. False: there is none. */
bool past_yield(struct pool *pool, uint32_t slot);
/** past_turn() - what goes on in the background. True: there is more to do now. */
bool past_turn(struct pool *pool);
/** past_not_mounted() - -EBUSY while somebody looks at what @slot was. */
int past_not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err);

/* past-branch.c */

/**
 * past_branch() - with write @c, a disk with a history becomes its newest snapshot @fork again; what it was stays as a
 * branch, whose last snapshot gets slot @last. @by: what the log says of who did it.
 */
int past_branch(struct pool *pool, const struct px_change *c, uint32_t slot, uint32_t fork,
                uint32_t last, const char *by);
/** past_branch_check() - could it be? */
int past_branch_check(struct pool *pool, uint32_t slot, uint32_t fork, uint32_t last,
                      struct dt_error *err);
/** past_branch_possible() - can its history be gone on with? */
int past_branch_possible(struct pool *pool, uint32_t slot, struct dt_error *err);
/** past_allow_branches() - programs that know of none shall not open the pool from now on. A root tells it, before any journal tells
 * of one. Blocks, the first time. */
int past_allow_branches(struct pool *pool, struct dt_error *err);
/** past_replaced() - write @number, of which the entry is past_whole(), has made what the disk @was, which forked from
 * @fork, something else. False: that is not known any more. */
bool past_replaced(const struct pool *pool, uint32_t disk, uint64_t number, uint32_t *was,
                   uint32_t *fork);

/* past-limit.c */

/** past_count() - count what the log got, up to some cost, where it has a limit. True: there is more to do. */
bool past_count(struct pool *pool, uint32_t slot);
/** past_uncount() - its first page is about to go. */
void past_uncount(struct pool *pool, struct px_record *log);
/** past_excess() - has it more than it may? */
bool past_excess(const struct px_record *log);
/** past_anchor_due() - was so much replaced that a hidden snapshot should be taken? */
bool past_anchor_due(const struct px_record *log);
/** past_set_limit() - @most blocks from now on; 0: any. */
void past_set_limit(struct px_record *log, uint64_t most);
/** past_limit_possible() - could a store say so? */
bool past_limit_possible(const struct px_record *log);

/* past-view.c */

/** past_changed() - 1 if the write of @e, about many blocks, changed the one at @index; 0; -errno. */
int past_changed(struct pool *pool, uint32_t slot, const struct px_past_entry *e, uint64_t index);

/** past_views_resolve() - all of a root's nodes are known: let pointers in views tell their checksums. */
void past_views_resolve(struct pool *pool);
/** past_lookup() - as tree_lookup(), of what was. */
int past_lookup(struct past_view *view, uint64_t index, unsigned count, struct px_ptr *ptrs);
/** past_pinned() - writes after this number are needed by somebody who looks. */
uint64_t past_pinned(const struct pool *pool, uint32_t slot);
void past_view_free(struct past_view *view);
/** disk_lookup() - where the blocks of what is mounted are. */
int disk_lookup(struct disk *disk, uint64_t index, unsigned count, struct px_ptr *ptrs);

#endif
