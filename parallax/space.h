/* SPDX-License-Identifier: MIT */
/* space.h - which blocks are in use (space.c), what is given back to the file (punch.c), what it is to have before it
 * is used (prealloc.c), and what is kept for nodes (spare.c). */
#ifndef PARALLAX_SPACE_H
#define PARALLAX_SPACE_H

#include "parallax/node.h"
#include "parallax/store.h"
#include "parallax/tree.h"

/* ---- Space (space.c) ---- */

/**
 * struct group - what is in use of PX_GROUP_BLOCKS blocks, as bits.
 * @map:     reached by what the next root will reach.
 * @busy:    may not be given out: mapped, being written, mapped by the durable root, or being punched.
 * @freed:   unmapped since the last root was begun. @freeing: before, but that root is not durable
 * yet.
 * @dirty:   @map differs from what the last root has. @page: where the root being made will have it.
 * @stale:   words of blocks that are free, and have space in the file (punch.c). @young: of those, lately.
 * @lost:    it could not be read (space-lost.c).
 * @born:    mapped since the pinned root was begun, so not reached by it. @held: free, but for that root.
 */
struct group {
    uint64_t index;
    uint64_t *map, *busy, *freed, *freeing, *born, *held;
    struct node *page;
    bool lost, dirty, has_freed, has_freeing, has_held;
    struct list todo, release; /* in struct space */
    uint64_t stale[PX_GROUP_WORDS / 64], young[PX_GROUP_WORDS / 64];
    unsigned stale_n;
    uint64_t stale_since;
    struct list warm;
};

/** enum pin_state - of a pin: the next root that is begun; the one that is being made; a durable one. */
enum pin_state { PIN_NONE, PIN_WANTED, PIN_BEGUN, PIN_HOLDS };

/**
 * struct spare - free blocks that have space in the store, @blocks in @n runs (spare.c).
 * @promised:  of these, to writes under way.
 * @host_full: the store had no space at @shortage. It is asked again at @retry_at. @careful: and for little.
 * @seek_left: so many groups, from @seek_at on, have not been looked at since.
 * @count:     from @addr on: what the store is having space for now.
 * @full, @off: how it does that: by writing, or not at all.
 */
struct spare {
    struct spare_run {
        uint64_t addr, count;
    } * runs;
    size_t first, n, room;
    uint64_t blocks, promised;
    bool host_full, careful, full, off;
    uint64_t shortage, wait, retry_at;
    uint64_t seek_at, seek_left;
    struct store_io sio;
    uint64_t addr, count;
};

/**
 * struct space
 * @dirty: groups, without a page yet. @paged: with one. @release: that have blocks which the durable root dropped.
 * @frozen: a root is being made, and has the maps of those that are paged as they are now.
 * @lost: groups whose maps could not be read since the pool was opened.
 * @warm: groups with stale words, @stale in all; the first one's have been so for the longest time.
 */
struct space {
    struct group **groups;
    uint64_t n;
    uint64_t blocks, used, free;       /* free: not busy */
    uint64_t pending;                  /* freed or freeing */
    uint64_t hole_at, run_at, node_at; /* where to look next (place.c) */
    uint64_t reserve, promised;        /* for metadata; for writes under way */
    uint64_t first;                    /* block that may be given out at all */
    enum pin_state pin;
    uint64_t held; /* for the pin */
    uint64_t lost;
    struct list dirty, paged, release;
    bool frozen;
    struct list warm;
    uint64_t stale;
    struct punch {
        struct store_io sio;
        uint64_t addr, count, begun, next; /* @count 0: none is under way; @next: not before */
        uint64_t total;                    /* blocks */
    } punch;
    struct spare spare;
    struct prealloc {
        struct store_io sio;
        uint64_t addr, count, begun, next; /* as of a punch */
        int error;                         /* it was given up */
        bool forgotten;                    /* what is under way is for a mark that is no more */
    } prealloc;
};

int space_init(struct pool *pool, uint64_t blocks, uint64_t used);
void space_fini(struct pool *pool);
/** space_use() - these are mapped from now on. space_abandon(): they will not be. */
int space_use(struct pool *pool, uint64_t addr, unsigned count);
void space_abandon(struct pool *pool, uint64_t addr, unsigned count);
/** space_free() - not mapped any more. */
int space_free(struct pool *pool, uint64_t addr);
/** space_reserve_exact() - recovery: this block holds data of a write that will be replayed.
 * -EBADMSG: it is in use. */
int space_reserve_exact(struct pool *pool, uint64_t addr);
/** space_map() - the map of a group into @bits, of a block's size. */
int space_map(struct pool *pool, uint64_t index, uint64_t *bits);
/** space_touch() - the next root has the map of a group anew, if it is in memory. */
void space_touch(struct pool *pool, uint64_t index);
/** space_fill() - a group that is not in memory is taken to be in use as a whole. */
void space_fill(struct pool *pool, uint64_t index);
/** space_set() - the map of a group that is not in memory becomes @bits; those of blocks that are never given out may be clear.
 * How many of its blocks are in use then. */
uint64_t space_set(struct pool *pool, uint64_t index, const uint64_t *bits);
/** space_unpin() - what is held may be given out. */
void space_unpin(struct pool *pool);
/** space_prepare() - have pages for the maps of up to *@budget changed groups. 1: there are more. */
int space_prepare(struct pool *pool, unsigned *budget);
/** space_freeze() - the rest; the root being made has the maps as they are now. */
int space_freeze(struct pool *pool);
/** space_capture() - put up to *@budget of these maps into their pages. True: there are more. */
bool space_capture(struct pool *pool, unsigned *budget);
/** space_durable() - that root is durable: what it dropped may be given out. Of up to *@budget groups; true: there are
 * more. */
bool space_durable(struct pool *pool, unsigned *budget);
int space_grow(struct pool *pool, uint64_t blocks);
/** space_set_reserve() - what writes leave free, as the pool's size and features are now. */
void space_set_reserve(struct pool *pool);

/* ---- Maps that cannot be read (space-lost.c) ---- */

/** space_begin() - read the maps of where blocks are given out first. -ENOSPC: no map is left. */
int space_begin(struct pool *pool, struct dt_error *err);
/** space_lose() - that of a group cannot. */
void space_lose(struct pool *pool, uint64_t index);
/** space_page() - as tree_page(), of a free map; what cannot be read on the way is made anew. */
int space_page(struct pool *pool, const struct tree *t, uint64_t index, struct node **page);

/** space_group() - the group with this index, its map read from the tree if it is not in memory. Always 0. */
int space_group(struct pool *pool, uint64_t index, struct group **group);

/* ---- Which blocks are given out (place.c) ---- */

/** space_alloc() - up to @want consecutive blocks from @addr on, busy; how many, or -ENOSPC. */
int space_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr);
/** space_lend() - the first run of up to @most free blocks from *@addr on in the same group is busy, and *@addr is where it
 * begins; its length. 0: there is none. space_abandon() gives it back. */
int space_lend(struct pool *pool, unsigned most, uint64_t *addr);
/** space_free_now() - blocks that may be given out, to whomever. */
static inline uint64_t space_free_now(const struct space *s)
{
    return s->free + s->spare.blocks + s->spare.count;
}

/* ---- Spare blocks (spare.c) ---- */

void spare_fini(struct pool *pool);
/** spare_alloc() - as space_alloc(), of what has space; 0: from anywhere. */
int spare_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr);
/** spare_last() - the same where nothing else is free. */
int spare_last(struct pool *pool, unsigned want, uint64_t *addr);
/** spare_allows() - may @blocks be promised to a write that has @data, or to what gives space back? */
bool spare_allows(struct pool *pool, uint64_t blocks, bool data);
/** spare_ensure() - there are so many, or nothing can be done about it now: false. Blocks. */
bool spare_ensure(struct pool *pool, uint64_t wanted);
/** spare_keep() - what a pool that is opened again needs at least will not be punched. Blocks. */
void spare_keep(struct pool *pool);
/** spare_verb() - is there enough for a change of the catalogue that adds up to @blocks to it? */
int spare_verb(struct pool *pool, uint64_t blocks, struct dt_error *err);
/** spare_give() - these busy blocks have space, and nobody needs them. */
void spare_give(struct pool *pool, uint64_t addr, uint64_t count);
/** spare_absorb() - of what a group (from @base on) may give out again from now on, keep as much as is needed. */
void spare_absorb(struct pool *pool, uint64_t base, uint64_t *bits);
/** spare_shortage() - the store had no space. spare_seek_at(): it may have kept a part of what it was to have there. */
void spare_shortage(struct pool *pool);
void spare_seek_at(struct pool *pool, uint64_t addr);
/** spare_tight() - so few are left that a root should be made before anything else is changed. */
bool spare_tight(const struct pool *pool);
/** spare_turn() - have more of them, if it is time. True: there is more to do. */
bool spare_turn(struct pool *pool);
/** spare_wait() - it is to be called after so many ns. */
uint64_t spare_wait(const struct pool *pool);

/* ---- Punching (punch.c) ---- */

/** punch_freed() - a word of a group is free, and may have space in the file. punch_used(): some of it is used now.
 * punch_never(): all of that is to stay as it is. */
void punch_freed(struct space *s, struct group *g, unsigned word);
void punch_never(struct space *s);
void punch_used(struct space *s, struct group *g, unsigned first, unsigned last);
/** punch_warm() - where to go on giving out blocks, if it is not to be @at. */
uint64_t punch_warm(const struct space *s, uint64_t at, unsigned want);
/** punch_turn() - give space back to the file if it is time. */
void punch_turn(struct pool *pool);
/** punch_wait() - it is to be called after so many ns. */
uint64_t punch_wait(const struct pool *pool);
/** punch_all() - all that is stale. Blocks. */
void punch_all(struct pool *pool);

/* ---- Preallocation (prealloc.c) ---- */

/** prealloc_turn() - a piece of it, if it is time. prealloc_wait(): it is to be called after so many ns. */
void prealloc_turn(struct pool *pool);
uint64_t prealloc_wait(const struct pool *pool);

/** space_found() - all words of the group that are free may have space in the file. */
int space_found(struct pool *pool, uint64_t index);

#endif
