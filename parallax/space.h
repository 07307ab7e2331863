/* SPDX-License-Identifier: MIT */
/* space.h - which blocks are in use (space.c), and what is given back to the file (punch.c). */
#ifndef PARALLAX_SPACE_H
#define PARALLAX_SPACE_H

#include "parallax/node.h"
#include "parallax/store.h"

/* ---- Space (space.c) ---- */

/**
 * struct group - what is in use of PX_GROUP_BLOCKS blocks, as bits.
 * @map:     reached by what the next root will reach.
 * @busy:    may not be given out: mapped, being written, mapped by the durable root, or being punched.
 * @freed:   unmapped since the last root was begun. @freeing: before, but that root is not durable
 * yet.
 * @dirty:   @map differs from what the last root has. @page: where the root being made will have it.
 * @stale:   words of blocks that are free, and have space in the file (punch.c). @young: of those, lately.
 * @born:    mapped since the pinned root was begun, so not reached by it. @held: free, but for that root.
 */
struct group {
    uint64_t index;
    uint64_t *map, *busy, *freed, *freeing, *born, *held;
    struct node *page;
    bool dirty, has_freed, has_freeing, has_held;
    struct list todo, release; /* in struct space */
    uint64_t stale[PX_GROUP_WORDS / 64], young[PX_GROUP_WORDS / 64];
    unsigned stale_n;
    uint64_t stale_since;
    struct list warm;
};

/** enum pin_state - of a pin: the next root that is begun; the one that is being made; a durable one. */
enum pin_state { PIN_NONE, PIN_WANTED, PIN_BEGUN, PIN_HOLDS };

/**
 * struct space
 * @dirty: groups, without a page yet. @paged: with one. @release: that have blocks which the durable root dropped.
 * @frozen: a root is being made, and has the maps of those that are paged as they are now.
 * @warm: groups with stale words, @stale in all; the first one's have been so for the longest time.
 */
struct space {
    struct group **groups;
    uint64_t n;
    uint64_t blocks, used, free; /* free: not busy */
    uint64_t pending;            /* freed or freeing */
    uint64_t data_at, node_at;   /* where to look next */
    uint64_t reserve, promised;  /* for metadata; for writes under way */
    uint64_t first;              /* block that may be given out at all */
    enum pin_state pin;
    uint64_t held; /* for the pin */
    struct list dirty, paged, release;
    bool frozen;
    struct list warm;
    uint64_t stale;
    struct punch {
        struct store_io sio;
        uint64_t addr, count, begun, next; /* @count 0: none is under way; @next: not before */
        uint64_t total;                    /* blocks */
    } punch;
};

int space_init(struct pool *pool, uint64_t blocks, uint64_t used);
void space_fini(struct pool *pool);
/** space_alloc() - up to @want consecutive blocks from @addr on, busy; how many, or -ENOSPC. */
int space_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr);
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

/* ---- Punching (punch.c) ---- */

/** punch_freed() - a word of a group is free, and may have space in the file. punch_used(): some of it is used now. */
void punch_freed(struct space *s, struct group *g, unsigned word);
void punch_used(struct space *s, struct group *g, unsigned first, unsigned last);
/** punch_warm() - where to go on giving out blocks, if it is not to be @at. */
uint64_t punch_warm(const struct space *s, uint64_t at, unsigned want);
/** punch_turn() - give space back to the file if it is time. */
void punch_turn(struct pool *pool);
/** punch_wait() - it is to be called after so many ns. */
uint64_t punch_wait(const struct pool *pool);
/** punch_all() - all that is stale. Blocks. */
void punch_all(struct pool *pool);

#endif
