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
/** past_turn() - what goes on in the background. */
void past_turn(struct pool *pool);
/** past_not_mounted() - -EBUSY while somebody looks at what @slot was. */
int past_not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err);

/* past-view.c */

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
