/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `compress` share. */
#ifndef COMPRESS_INTERNAL_H
#define COMPRESS_INTERNAL_H

#include "base/fifo.h"
#include "blk/compress/format.h"
#include "blk/compress/space.h"
#include "blk/shortage/shortage.h"
#include "blk/storefile/storefile.h"
#include <devtap/block.h>

#define COMPRESS_PARTS       1024u
#define COMPRESS_MAX_SECTORS 2048u /* of one read or write: 1 MiB, so 17 units */
#define COMPRESS_RECORD_IOS  32u
#define COMPRESS_COMMIT_IOS  32u

enum compress_counter {
    HITS,
    UNPACKED,
    PACKED,
    PACKED_BYTES,
    RAW,
    ZEROES,
    PARTIAL,
    MAP_MISSES,
    COMMITS,
    HELD,
    DAMAGED,
};

/**
 * struct compress - the layer.
 * @mapped: units that are not zeroes, and @stored their bytes before they were rounded up to
 * blocks.
 * @failed: a flush or the live map failed, so what is on the disk is not known: no more writes.
 */
struct compress {
    struct storefile file;
    uint64_t size, level, cache, map_cache;
    unsigned on_full;
    struct shortage shortage;

    struct dt_layer *layer;
    bool failed, no_punch;
    struct compress_header header;
    struct compress_layout at;
    uint8_t boot[BOOT_ID_SIZE];
    struct compress_space space;
    uint64_t mapped, stored;
};

/** struct compress_io - a request's frame. @pending: parts of it that are not done. */
struct compress_io {
    struct dt_ctx *c;
    struct compress_io *next; /* waiting for parts, for the range's turn, or for a commit */
    uint32_t pending;
    int32_t error;
};

FIFO(compress_ios, compress_io)

/** struct compress_part - what a request wants of one unit. @cio: NULL for that of a range
 * (range.c). */
struct compress_part {
    struct compress_part *next;
    struct compress_io *cio;
    uint64_t unit;
};

FIFO(compress_parts, compress_part)

struct compress_sector;

/** struct compress_wait - somebody who waits for a sector of the map, or for its being recorded. */
struct compress_wait {
    struct compress_wait *next;
    void (*ready)(struct compress_wait *wait, int error);
    uint64_t index;
    struct compress_sector *sector;
};

FIFO(compress_waits, compress_wait)

/**
 * struct compress_sector - a sector of the map in memory.
 * @now:    as it is; @stored: as it was when the commit under way began.
 * @pins:   by units and ranges at work, and one each for @dirty, @recording and a commit. Without
 * any it may be evicted, and is in the list of those.
 * @dirty:  @now is not in the stored map; @recording: nor in the live one.
 */
struct compress_sector {
    struct compress_map_sector now, stored;
    struct compress_ctx *cc;
    struct compress_sector *hash_next, *dirty_next, *record_next, *commit_next;
    struct list lru;
    struct compress_waits waiting;
    struct dt_io io;
    struct iovec iov;
    uint64_t index;
    uint32_t pins;
    bool loading, dirty, recording;
};

/**
 * struct compress_unit - a unit in memory.
 * @valid:   @data is what the map says. @fetched: just now, for the part that is served next.
 * @busy:    somebody's turn; others are @waiting.
 * @batch:   the writes that are being stored.
 * @packed:  for what is or will be in the store.
 */
struct compress_unit {
    struct compress_ctx *cc;
    struct compress_unit *hash_next;
    struct list lru;
    uint64_t index;
    bool valid, busy, fetched;
    struct compress_parts waiting, batch;
    struct compress_sector *sector;
    struct compress_wait wait;
    struct dt_io io;
    struct iovec iov;
    struct compress_entry entry;
    uint8_t *data, *packed;
};

/** struct compress_map_io - a write of one sector. */
struct compress_map_io {
    struct dt_io io;
    struct compress_ctx *cc;
    struct compress_sector *sector;
    struct iovec iov;
    struct compress_map_sector copy;
};

/** struct compress_ctx - the layer on its thread. */
struct compress_ctx {
    struct shortage_ctx shortage; /* first, for its callbacks */
    struct dt_ctx *c;
    struct compress_packer *packer;

    /* Requests and their parts (compress.c). */
    struct compress_part *part_memory, *part_free;
    unsigned parts;
    struct compress_ios part_wait;
    bool serving_requests;

    /* Units (unit.c). */
    struct compress_unit *units, **unit_hash;
    uint8_t *unit_memory;
    uint64_t nunits, units_used, unit_mask;
    struct list unit_lru; /* of the first @units_used, those that are not busy, the coldest first */
    struct compress_parts unit_wait;
    bool serving_units;

    /* Whole units that become zeroes (range.c): one request at a time. */
    struct compress_range {
        struct compress_ios queue;
        struct compress_io *now;
        uint64_t unit, end;
        struct compress_sector *sector;
        struct compress_wait wait;
        struct compress_part part;
        bool changed, running, waiting;
    } range;

    /* The map (map.c). */
    struct compress_sector *sectors, **sector_hash;
    uint64_t nsectors, sectors_used, sector_mask;
    struct list sector_lru; /* of the first @sectors_used, those that may be evicted */
    struct compress_waits sector_wait;
    struct compress_sector *dirty;
    uint64_t ndirty;

    /* The live map (record.c): one round at a time. */
    struct compress_sector *record_list, *record_next;
    struct compress_waits record_wait, record_round;
    struct compress_map_io *record_ios;
    unsigned record_pending;
    int record_error;
    bool recording, record_stalled;

    /* The stored map (commit.c): one round at a time. */
    struct compress_ios commit_wait, commit_round;
    struct compress_sector *commit_list, *commit_next;
    struct dt_io sync;
    struct compress_map_io *commit_ios;
    unsigned commit_pending;
    int commit_error;
    bool committing, commit_wanted, commit_stalled;

    /* Blocks on their way to be free: replaced in memory, being recorded, in no live map, being
     * committed. */
    struct compress_extents replaced, recorded, retired, ending;
    uint64_t punch_next;

    /* Parts for which there is no space: until a commit has freed some, or until there is some. */
    struct compress_parts starved, held;
};

static inline struct dt_req *compress_req(const struct compress_io *cio)
{
    return dt_frame_req(cio->c, cio);
}
static inline uint64_t compress_start(const struct dt_req *req)
{
    return req->sector << DT_SECTOR_SHIFT;
}
static inline uint64_t compress_end(const struct dt_req *req)
{
    return (req->sector + req->sectors) << DT_SECTOR_SHIFT;
}

/* compress.c */
void compress_finish(struct compress_io *cio, int error);
/** compress_part_done() - the part's memory is free; the request is done with its last part. */
void compress_part_done(struct compress_ctx *cc, struct compress_part *part, int error);
/** compress_done() - one thing less that the request waits for. */
void compress_done(struct compress_io *cio, int error);
/** compress_fail() - what is on the disk is not known any more: no more writes. */
void compress_fail(struct compress_ctx *cc, const char *what, int error);

/* unit.c */
int compress_units_start(struct compress_ctx *cc);
void compress_units_stop(struct compress_ctx *cc);
struct compress_unit *compress_unit_find(struct compress_ctx *cc, uint64_t index);
/** compress_unit_enter() - serve the part, when it is its turn. */
void compress_unit_enter(struct compress_ctx *cc, struct compress_part *part);
/** compress_unit_next() - the step that was under way is done; serve who waits, then rest. */
void compress_unit_next(struct compress_unit *u);
/** compress_fetched() - compress_fetch() has ended, later. */
void compress_fetched(struct compress_unit *u, int error);
/** compress_batch_done() - compress_store() has ended, later. */
void compress_batch_done(struct compress_unit *u, int error);

/* fetch.c, store.c */
/** compress_fetch() - read and unpack the unit. Return: true if that is done; else
 *  compress_fetched() is called later. */
bool compress_fetch(struct compress_unit *u);
/** compress_store() - pack, store and record the unit. Then, or before this returns,
 * compress_batch_done() is called; or the batch was taken away, and compress_unit_next() is. */
void compress_store(struct compress_unit *u);
/** compress_retry_starved() - a commit has freed blocks, or will not. */
void compress_retry_starved(struct compress_ctx *cc, int error);
bool compress_again(struct shortage_ctx *s, int error);

/* range.c */
void compress_range_start(struct compress_ctx *cc);
/** compress_range_add() - the whole units of the request become zeroes, in their turn. */
void compress_range_add(struct compress_ctx *cc, struct compress_io *cio);
/** compress_range_turn() - the range's part has come up in a unit, which nobody uses now. */
void compress_range_turn(struct compress_ctx *cc);

/* map.c */
void compress_map_start(struct compress_ctx *cc);
void compress_map_stop(struct compress_ctx *cc);
/**
 * compress_map_get() - find or read the sector @index, and pin it.
 * Return: 1: it is in wait->sector; 0: wait->ready() is called later, with it there or an error; or
 * an error.
 */
int compress_map_get(struct compress_ctx *cc, uint64_t index, struct compress_wait *wait);
/** compress_map_give_up() - nothing will be evicted any more: those who wait for it get the error.
 */
void compress_map_give_up(struct compress_ctx *cc, int error);
void compress_map_put(struct compress_sector *s);
/** compress_map_peek() - a copy of the sector @index, if it is in memory. */
bool compress_map_peek(struct compress_ctx *cc, uint64_t index, struct compress_map_sector *copy);
/** compress_map_change() - the unit is where @to says from now on. The sector will be recorded.
 *  @discarded: the blocks it had are given back to the file system. */
void compress_map_change(struct compress_sector *s, uint64_t unit, struct compress_entry to,
                         bool discarded);
static inline struct compress_entry *compress_entry_of(struct compress_sector *s, uint64_t unit)
{
    return &s->now.entries[unit % COMPRESS_ENTRIES];
}

/* record.c */
void compress_record_start(struct compress_ctx *cc);
void compress_record_stop(struct compress_ctx *cc);
/** compress_record() - wait->ready() is called once all that has changed by now is in the live map.
 */
void compress_record(struct compress_ctx *cc, struct compress_wait *wait);
/** compress_record_again() - there may be space now. Return: was anything waiting for it? */
bool compress_record_again(struct compress_ctx *cc, int error);

/* commit.c */
void compress_commit_start(struct compress_ctx *cc);
void compress_commit_stop(struct compress_ctx *cc);
/** compress_commit() - make durable what was done; then the request is finished. */
void compress_commit(struct compress_io *cio);
/** compress_commit_soon() - for its own sake: blocks or memory are needed. */
void compress_commit_soon(struct compress_ctx *cc);
/** compress_commit_again() - there may be space now. Return: was anything waiting for it? */
bool compress_commit_again(struct compress_ctx *cc, int error);

/* codec.c */
struct compress_packer *compress_packer_new(void);
void compress_packer_free(struct compress_packer *p);
/** compress_pack() - one frame of a unit's bytes, in @packed. Return: its length; 0: it would save
 * no block. */
uint32_t compress_pack(struct compress_packer *p, const uint8_t *data, uint8_t *packed, int level);
/** compress_unpack() - false if that is no frame of a unit. */
bool compress_unpack(struct compress_packer *p, const uint8_t *packed, uint32_t length,
                     uint8_t *data);

/* early.c, open.c, load.c, status.c, verbs.c */
int compress_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                        struct dt_error *err);
void compress_status(struct dt_layer *layer, struct dt_extent *extent);
int compress_open(struct dt_layer *layer, struct dt_error *err);
void compress_close(struct dt_layer *layer);
int compress_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
/** compress_load() - after the fence: read the maps, and make the live one ours. */
int compress_load(struct compress *w, struct dt_error *err);
/** compress_distrust() - a successor must not believe the live map. */
void compress_distrust(struct compress *w);
extern const struct dt_verb compress_verbs[];

#endif
