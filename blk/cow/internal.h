/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the extension `cow` share. */
#ifndef COW_INTERNAL_H
#define COW_INTERNAL_H

#include "base/fifo.h"
#include "blk/cow/format.h"
#include "blk/shortage/shortage.h"
#include "blk/storefile/storefile.h"
#include <devtap/block.h>

#define COW_JOBS        32u
#define COW_SEGMENTS    254u
#define COW_MAX_SECTORS 2048u /* of one read or write: 1 MiB */
#define COW_MAP_IOS     32u

enum cow_counter { ALLOCATED, COPIED_UP, MIXED_READS, BOUNCED, HELD, COMMITS };

/**
 * struct cow - the layer.
 * @direct: data go past the page cache.
 * @now:    which granules the overlay holds.
 * @live:   the live map as it is in the file or on its way there; @stored: the stored one.
 * @flags:  of each sector of the maps: enum cow_flag. @dirty_list, @record_list: which have them.
 * @print:  of the base's content, where no other name of it is known; empty if it cannot be read.
 * @failed: a flush failed, so what is on the disk is not known: no more writes.
 */
struct cow {
    struct storefile file;
    const char *base_id;
    unsigned on_full;
    struct shortage shortage;

    struct dt_layer *layer;
    bool direct, failed, no_punch;
    uint64_t mem_align;
    struct cow_header header;
    char print[COW_ID_SIZE];
    struct cow_layout at;
    uint8_t boot[BOOT_ID_SIZE];
    struct cow_map_sector *now, *live, *stored;
    uint8_t *flags;
    uint32_t *dirty_list, *commit_list, *record_list;
    uint32_t ndirty, ncommit, nrecord;
};

/* DIRTY: in @now and not in @stored. RECORDING: to be written to the live map in this round. */
enum cow_flag { COW_DIRTY = 1, COW_RECORDING = 2 };

struct cow_job;

/** struct cow_io - a request's frame. */
struct cow_io {
    struct dt_io io;
    struct dt_ctx *c;
    struct cow_io *next; /* waiting for a job, or for a commit */
};

FIFO(cow_list, cow_io)

/** struct cow_part - one I/O of a job. */
struct cow_part {
    struct dt_io io;
    struct cow_job *job;
    struct iovec iov;
    int wanted;
};

/**
 * struct cow_job - what a request needs that is more than one I/O.
 * @range:  locked, while granules become the overlay's (@locked).
 * @edge:   the first and last granule where the request covers them in part: read from the base.
 * @copies: which of them are to be copied up.
 * @at:     how far a read or a discard has come, bytes of the disk.
 */
struct cow_job {
    struct cow_job *next;
    struct cow_io *cio;
    struct dt_range range;
    bool locked, copies[2];
    unsigned pending;
    int error;
    uint64_t at, length;
    uint8_t *edge[2], *bounce;
    struct cow_part parts[3];
    struct iovec iov[COW_SEGMENTS];
};

FIFO(cow_jobs, cow_job)

struct cow_map_io {
    struct dt_io io;
    struct cow_ctx *cc;
    struct iovec iov;
};

/** struct cow_ctx - the layer on its thread. */
struct cow_ctx {
    struct shortage_ctx shortage; /* first, for its callbacks */
    struct dt_ctx *c;
    struct cow_job *job_memory, *job_free;
    uint8_t *edge_memory;
    struct cow_list job_wait;

    /* The live map (map.c): one round at a time. */
    struct cow_jobs record_wait, record_round;
    struct cow_map_io record_ios[COW_MAP_IOS];
    unsigned record_pending, record_next;
    int record_error;
    bool recording;

    /* The stored map (commit.c): one round at a time. */
    struct cow_list commit_wait, commit_round;
    struct dt_io sync;
    struct cow_map_io commit_ios[COW_MAP_IOS];
    unsigned commit_pending, commit_next;
    int commit_error;
    bool committing;

    struct cow_jobs held; /* the overlay's file system is full */
};

static inline struct dt_req *cow_req(const struct cow_io *cio)
{
    return dt_frame_req(cio->c, cio);
}
static inline uint64_t cow_offset(const struct dt_req *req)
{
    return req->sector << DT_SECTOR_SHIFT;
}
static inline uint64_t cow_end(const struct dt_req *req)
{
    return (req->sector + req->sectors) << DT_SECTOR_SHIFT;
}
static inline uint64_t cow_first(const struct dt_req *req)
{
    return cow_offset(req) >> COW_SHIFT;
}
/* One past the last granule that it touches. */
static inline uint64_t cow_last(const struct dt_req *req)
{
    return (cow_end(req) + COW_GRANULE - 1) >> COW_SHIFT;
}
/** cow_all() - does the overlay hold all of it? */
static inline bool cow_all(const struct cow *w, const struct dt_req *req)
{
    bool set;
    uint64_t first = cow_first(req), end = cow_last(req);

    return cow_map_run(w->now, first, end, &set) == end - first && set;
}

/* cow.c */
void cow_finish(struct cow_io *cio, int error);
/** cow_written() - data and map are there: what FUA asks for, then done. */
void cow_written(struct cow_io *cio);
bool cow_aligned(const struct cow *w, const struct iovec *iov, unsigned n);

/* job.c */
int cow_jobs_start(struct cow_ctx *cc);
void cow_jobs_stop(struct cow_ctx *cc);
/** cow_job_begin() - serve the request by a job, now or when one is free. */
void cow_job_begin(struct cow_io *cio);
/** cow_job_end() - the job is free, its lock gone. The request remains the caller's. */
void cow_job_end(struct cow_job *job);
void cow_job_finish(struct cow_job *job, int error);
/** cow_job_run() - (again) from its first step; a lock that it has stays. */
void cow_job_run(struct cow_job *job);

/* read.c, write.c, discard.c: the steps of jobs. */
void cow_read_run(struct cow_job *job);
void cow_write_run(struct cow_job *job);
void cow_discard_run(struct cow_job *job);

/* map.c */
/** cow_record() - the job's data are written: its granules become the overlay's, then it ends. */
void cow_record(struct cow_job *job);
void cow_map_start(struct cow_ctx *cc);
/** cow_map_dirty() - the stored map does not have all of this sector. */
void cow_map_dirty(struct cow *w, uint64_t sector);

/* commit.c */
/** cow_commit() - make durable what was done; then the request is finished. */
void cow_commit(struct cow_io *cio);
void cow_commit_start(struct cow_ctx *cc);

/** cow_short() - there is no space for the job's data or map: hold it with what it has locked, or end it. */
void cow_short(struct cow_job *job, int error);
bool cow_again(struct shortage_ctx *s, int error);

/* status.c */
void cow_status(struct dt_layer *layer, struct dt_extent *extent);

/* open.c */
int cow_open(struct dt_layer *layer, struct dt_error *err);
void cow_close(struct dt_layer *layer);
int cow_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
/** cow_load() - read the maps, and make the live one ours. After the fence. */
int cow_load(struct cow *w, struct dt_error *err);
/** cow_distrust() - a successor must not believe the live map. */
void cow_distrust(struct cow *w);

/* base.c */
/** cow_base_print() - fill in @print. In open() alone. */
void cow_base_print(struct cow *w);
/** cow_judge_base() - is the overlay, whose header was read, one of this base? */
int cow_judge_base(struct cow *w, struct dt_error *err);
/** cow_adopt_base() - an overlay that holds nothing and was of no base in particular is of this one now: true,
 *  the header is to be written. */
bool cow_adopt_base(struct cow *w);

/* early.c */
int cow_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                   struct dt_error *err);

#endif
