/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the extension cache.
 *
 * The file is divided into slots of one block each, 64 to a set. A block can be in any slot of one
 * set, which follows from its number. What a slot holds is in `index`; a slot is
 *
 *   free      no entry;
 *   clean     the disk below has the same;
 *   dirty     the disk below has something older.
 *
 * The file has two maps of that. The *live map* is written with each change, before anyone is told
 * that a request is done, but never flushed: it is what a successor of a killed process goes by.
 * The *map* has what must outlive a loss of power: the dirty slots as of the last flush. A slot
 * that it names is *kept*: it holds that block and no other until the map on the medium does not
 * name it any more. devtap-cache(5) has the rules.
 */
#ifndef CACHE_INTERNAL_H
#define CACHE_INTERNAL_H

#include "base/fifo.h"
#include "blk/cache/format.h"
#include "blk/storefile/storefile.h"
#include <devtap/block.h>

enum cache_mode { CACHE_WRITETHROUGH, CACHE_WRITEBACK };

enum cache_counter {
    READ_HITS,
    READ_MISSES,
    WRITE_HITS,
    WRITE_MISSES,
    BYPASSED,
    EVICTIONS,
    DESTAGED,
    COMMITS,
    COPIED,
    READ_ERRORS,
    DIRTY,
    USED,
};

enum slot_flags {
    SLOT_REF = 1,      /* used since the hand came by */
    SLOT_KEPT = 2,     /* the map on the medium names it, or may */
    SLOT_LEAVING = 4,  /* the map that is being written names it no more */
    SLOT_BUSY = 8,     /* a job fills it: it is in no map yet */
    SLOT_DESTAGE = 16, /* on its way to the disk below */
    SLOT_AGAIN = 32,   /* written since that began */
    SLOT_SAFE = 64,    /* clean, and the disk below was flushed since */
};

#define SLOT_NONE    UINT32_MAX
#define USERS_MAX    60000u /* transfers of one slot at a time */
#define JOBS         48u
#define DESTAGERS    4u
#define BUFFER       (128u << 10)
#define MAX_SECTORS  2048u /* of a request */
#define MAX_BLOCKS   (MAX_SECTORS * DT_SECTOR_SIZE / CACHE_BLOCK_MIN + 1)
#define MAX_SLICES   (2 * MAX_BLOCKS)
#define MAX_RANGE    32768u /* sectors of a discard or write-zeroes */
#define STREAMS      8u
#define COMMIT_PAGES 128u

struct cache;
struct job;

/** struct cache_frame - of a request. */
struct cache_frame {
    struct dt_io io;
    struct cache *k;
    struct cache_frame *next; /* in a list of those that wait */
    struct job *job;          /* that forwarded it */
    uint32_t slot, count;     /* that a hit uses */
};

FIFO(frame_list, cache_frame)

/** struct job_io - one transfer between a job's data and a run of slots. */
struct job_io {
    struct dt_io io;
    struct job *job;
    struct iovec *iov;
    unsigned niov;
    uint64_t offset;
    uint32_t bytes;
    bool write;
};

/**
 * struct job - a request that is more than one transfer, or a piece of destaging.
 * @range: locked while the blocks' places may change.
 * @first, @blocks: the piece at hand; @slots of it, SLOT_NONE = not here.
 * @fresh: which of those were allocated for it; @late: which are written after the disk below;
 *         @want: which a transfer is about.
 * @at, @sectors: what of the piece the request covers. The buffer begins at the block @first.
 */
struct job {
    struct dt_range range;
    struct cache *k;
    struct job *next;
    struct dt_req *req;
    void (*step)(struct job *job); /* when nothing is pending */
    unsigned pending;
    int error;
    bool locked;
    uint64_t done; /* sectors of the request */
    uint64_t first, at;
    uint32_t blocks, sectors;
    uint32_t hull_from, hull_to; /* blocks of the piece that the disk below is asked for */
    uint8_t *buffer;
    struct iovec sub_iov;
    enum dt_op below_op;
    uint64_t below_sector; /* what is left to be asked of the disk below */
    uint32_t below_left;
    uint32_t slots[MAX_BLOCKS];
    uint8_t fresh[MAX_BLOCKS], late[MAX_BLOCKS], want[MAX_BLOCKS];
    unsigned nios;
    struct job_io ios[MAX_BLOCKS];
    struct iovec slices[MAX_SLICES];
    unsigned nslices;
};

/** struct commit - bringing the map up to date (commit.c). */
struct commit {
    struct frame_list waiting, served; /* flushes: of the next pass, of this one */
    bool active, wanted;
    uint64_t cursor; /* page */
    unsigned npages, pending;
    uint64_t pages[COMMIT_PAGES];
    uint64_t *buffer;
    int error;
    bool unsure;                    /* destaged blocks were not flushed below when it ended */
    bool unsynced, below_unflushed; /* writes were completed since the last flush was sent */
    bool flushing_below;
    struct dt_io sync;
    struct commit_io {
        struct dt_io io;
        struct cache *k;
        struct iovec iov;
    } ios[COMMIT_PAGES];
};

/** struct destage - bringing dirty blocks to the disk below (destage.c). */
struct destage {
    bool active, drain, resting, flushing, failed;
    uint64_t cursor;
    unsigned running;
    uint32_t *done; /* slots destaged since the disk below was flushed */
    unsigned ndone, nflushing;
    struct dt_timer timer;
    uint64_t not_before;
};

struct stream {
    uint64_t end, bytes, used;
};

/** struct cache - the layer. All of it belongs to the device's only thread. */
struct cache {
    struct storefile file;
    const char *id_given, *id;
    uint64_t size, block_bytes, destage_rate, sequential;
    unsigned mode;
    double keep_dirty;

    struct dt_layer *layer;
    struct dt_ctx *c;     /* NULL before start() */
    bool serving, failed; /* a flush of the file failed: nothing can be promised any more */
    uint32_t align;
    unsigned shift; /* sectors of a block, as a power of two */
    struct cache_super super;
    uint64_t slots, sets, blocks, pages;

    uint64_t *index;
    uint8_t *flags, *hands;
    uint16_t *users;            /* transfers under way */
    uint16_t *page_dirty;       /* dirty slots of each page of the map */
    uint8_t *page_touched;      /* a slot of it may differ from the map on the medium */
    uint64_t dirty, used, keep; /* slots: keep = dirty ones that destaging leaves */

    struct job *jobs, *free_jobs;
    struct frame_list waiting; /* for a job */
    struct commit commit;
    struct destage destage;
    struct stream streams[STREAMS];
    uint64_t stream_clock;
    bool kicking; /* within destage_kick() */
};

static inline struct dt_req *frame_req(const struct cache_frame *fr)
{
    return dt_frame_req(fr->k->c, fr);
}

/* ---- index.c: what is where ---- */

static inline bool slot_valid(const struct cache *k, uint32_t slot)
{
    return k->index[slot] & CACHE_ENTRY_VALID;
}
static inline bool slot_dirty(const struct cache *k, uint32_t slot)
{
    return k->index[slot] & CACHE_ENTRY_DIRTY;
}
/** slot_bound() - what is written to its block must go to the slot, not below. */
static inline bool slot_bound(const struct cache *k, uint32_t slot)
{
    return slot_dirty(k, slot) || k->flags[slot] & (SLOT_KEPT | SLOT_LEAVING);
}
static inline uint64_t slot_offset(const struct cache *k, uint32_t slot)
{
    return k->super.data_offset + ((uint64_t)slot << (k->shift + DT_SECTOR_SHIFT));
}
/** index_find() - the slot of @block, or SLOT_NONE. */
uint32_t index_find(const struct cache *k, uint64_t block);
/** index_take() - a slot for @block, emptied and marked busy; SLOT_NONE when all of its set are in
 *  use or dirty. */
uint32_t index_take(struct cache *k, uint64_t block);
/** index_give_back() - of a busy slot that was not filled. */
void index_give_back(struct cache *k, uint32_t slot);
/** index_reuse() - a clean slot that nobody uses: free for all others, and busy for the caller. */
void index_reuse(struct cache *k, uint32_t slot);
/** index_set() - a busy slot holds @block now. */
void index_set(struct cache *k, uint32_t slot, uint64_t block, bool dirty);
/** index_dirty() - it is about to be written, or was. */
void index_dirty(struct cache *k, uint32_t slot);
/** index_clean() - the disk below has it, too. */
void index_clean(struct cache *k, uint32_t slot);
/** index_drop() - a clean slot that is not bound is free. */
void index_drop(struct cache *k, uint32_t slot);

/* ---- store.c: the file ---- */

int cache_open_file(struct cache *k, struct dt_error *err);
int cache_load(struct cache *k, struct dt_error *err);
/** cache_live_write() - entries of the live map from @slot on are as in the index. */
void cache_live_write(struct cache *k, uint32_t slot);
/** cache_resized() - the disk below has this size now. */
int cache_resized(struct cache *k, uint64_t sectors, struct dt_error *err);
void cache_close_file(struct cache *k);

/* ---- cache.c ---- */

void cache_begin(struct cache *k, struct dt_req *req);
/** cache_finish() - a request is done, but for the flush that FUA asks for. */
void cache_finish(struct cache *k, struct dt_req *req, int error);
/** cache_aligned() - may the kernel move these bytes between guest and file by itself? */
bool cache_aligned(const struct cache *k, const struct iovec *iov, unsigned n);
static inline void cache_gauge(struct cache *k, enum cache_counter counter, uint64_t value)
{
    if (k->c)
        __atomic_store_n(&k->c->counters[counter], value, __ATOMIC_RELAXED);
}

/* ---- job.c, read.c, write.c ---- */

void jobs_init(struct cache *k);
void jobs_fini(struct cache *k);
/** job_take() - NULL when all are in use: the request waits in k->waiting. */
struct job *job_take(struct cache *k, struct dt_req *req);
void job_free(struct job *job);
/** job_lock() - @step runs when the blocks of the request are locked. */
void job_lock(struct job *job, void (*step)(struct job *job));
void job_unlock(struct job *job);
/** job_end() - its request is done. */
void job_end(struct job *job);
/** job_wait() - one more thing is pending; job_done(): it has ended. */
void job_go(struct job *job, void (*step)(struct job *job));
void job_done(struct job *job, int error);
/** job_piece() - set first, at, blocks and sectors to what is left, @most blocks of it. */
void job_piece(struct job *job, uint32_t most);
/** job_find() - fill @slots; the number that are not here. */
unsigned job_find(struct job *job);
/** job_pin(), job_unpin() - keep the slots that are set from being evicted. */
void job_pin(struct job *job);
void job_unpin(struct job *job);
/** job_entered() - what was written to the slots that @which says is a clean copy; or, if the job failed, is not. */
void job_entered(struct job *job, const uint8_t *which);
/** job_io_buffer() - move the buffer's sectors of blocks @from..@to, where @want says so, to or
 * from their slots; @clip: only those of the request. */
void job_io_buffer(struct job *job, const uint8_t *want, bool write, bool clip);
/** job_io_guest() - move the request's data straight. False if it has too many pieces. */
bool job_io_guest(struct job *job, bool write);
/** job_below() - read or write @sectors from @sector on below, from or to the buffer. */
void job_below(struct job *job, enum dt_op op, uint64_t sector, uint32_t sectors);
/** job_forward() - send the request itself; @step runs when it came back. */
void job_forward(struct job *job, void (*step)(struct job *job));

/** cache_streams() - is the request part of a long sequence, which is not worth a place? */
bool cache_streams(struct cache *k, const struct dt_req *req);
void read_begin(struct cache *k, struct dt_req *req);
void write_begin(struct cache *k, struct dt_req *req);
void range_begin(struct cache *k, struct dt_req *req);

/* ---- commit.c ---- */

void commit_init(struct cache *k);
void commit_fini(struct cache *k);
/** commit_flush() - all that was completed before must outlive a loss of power. */
void commit_flush(struct cache *k, struct dt_req *req);
/** commit_want() - a pass without anyone who waits. */
void commit_want(struct cache *k);
/** commit_now() - synchronously, when nothing is under way. */
int commit_now(struct cache *k);

/* ---- early.c ---- */

int cache_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                     struct dt_error *err);

/* ---- status.c ---- */

void cache_status(struct dt_layer *layer, struct dt_extent *extent);

/* ---- destage.c ---- */

void destage_init(struct cache *k);
void destage_fini(struct cache *k);
/** destage_kick() - look whether there is something to do. */
void destage_kick(struct cache *k);
/** destage_rest() - come to rest: nothing new. */
void destage_rest(struct cache *k);

#endif
