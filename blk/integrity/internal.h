/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the extension `integrity` share. */
#ifndef INTEGRITY_INTERNAL_H
#define INTEGRITY_INTERNAL_H

#include "base/fifo.h"
#include "blk/integrity/format.h"
#include "blk/storefile/storefile.h"
#include <devtap/block.h>

#define INTEGRITY_JOBS        64u
#define INTEGRITY_MAX_SECTORS 2048u /* of a read or write */
#define INTEGRITY_MAX_RANGE   8192u /* sectors of a discard or a write of zeroes */
#define INTEGRITY_SUMS        (INTEGRITY_MAX_RANGE / 8 + 1)
#define INTEGRITY_MAP_IOS     8u
#define INTEGRITY_SCRUB_BYTES (256u << 10)

enum integrity_counter { VERIFIED, UNKNOWN, REREAD, DAMAGED, TAKEN, OPENED, SCRUBBED };

/* OPEN: its bit is on the disk. SUSPECT: it was being written when all stopped. */
enum integrity_flag { REGION_OPEN = 1, REGION_SUSPECT = 2 };

/**
 * struct integrity - the layer.
 * @flags, @used, @busy: of each region: enum integrity_flag, the @era of its last write, and how
 *       many writes are under way.
 * @era:     begins anew with each flush; @settled: all of this era and before is durable.
 * @failed:  a flush of the checksums failed.
 */
struct integrity {
    struct storefile file; /* opened once: checksums and map are all there is in it */
    uint64_t region_size, open_max, scrub_rate;

    struct dt_layer *layer;
    struct integrity_header header;
    struct integrity_layout at;
    struct integrity_map_sector *map;
    uint8_t *flags;
    uint16_t *busy;
    uint64_t *used;
    uint32_t *open_list;
    uint64_t nopen, era, settled, nsuspect;
    bool failed;
};

struct integrity_job;

/** struct integrity_io - a request's frame. */
struct integrity_io {
    struct dt_io io;
    struct dt_ctx *c;
    union {
        struct integrity_io *next; /* waiting for a job */
        struct integrity_job *job;
        uint64_t era; /* of a flush */
    };
    int16_t error;
    uint8_t pending;
};
FIFO(integrity_ios, integrity_io)

/**
 * struct integrity_job - a read, write, discard or write of zeroes.
 * @first, @count: the blocks that it touches; @sums: their checksums.
 * @edge: the first and the last block where it covers them in part (@partial).
 * @again: a mismatch was seen, and all is read once more under the lock.
 */
struct integrity_job {
    struct integrity_job *next;
    struct integrity_io *iio;
    struct dt_range range;
    struct dt_io io;
    void (*then)(struct integrity_job *job);
    bool locked, again, busy, partial[2];
    unsigned pending;
    int error;
    uint64_t first, count;
    struct iovec iov, edge_iov[2];
    uint8_t *edge[2];
    uint64_t sums[INTEGRITY_SUMS];
};

FIFO(integrity_jobs, integrity_job)

struct integrity_map_io {
    struct dt_io io;
    struct integrity_ctx *ic;
    struct iovec iov;
};

/** struct integrity_scrub - reads the disk from the beginning, or what is suspect. */
struct integrity_scrub {
    struct dt_timer timer;
    struct dt_range range;
    struct dt_io io;
    struct iovec data_iov, sums_iov;
    bool running; /* a scrub, not only what is suspect */
    unsigned pending;
    int error;
    uint64_t at, length, damaged, learned, rest_until;
    uint8_t *data;
    uint64_t *sums;
};

struct integrity_ctx {
    struct dt_ctx *c;
    struct integrity_job *job_memory, *job_free;
    uint8_t *edge_memory;
    struct integrity_ios waiting;

    /* Regions (region.c): one round of writes to the map at a time. */
    struct integrity_jobs open_wait, open_round;
    struct integrity_map_io map_ios[INTEGRITY_MAP_IOS];
    struct dt_io sync;
    uint32_t *sectors; /* of the map, to be written in this round */
    uint64_t nsectors, next_sector;
    unsigned map_pending;
    int map_error;
    bool marking;

    /* A flush of our own, so that regions can be closed. */
    struct dt_io own_sync;
    uint64_t own_era;
    unsigned own_pending;
    int own_error;

    struct integrity_scrub scrub;
};

static inline struct dt_req *integrity_req(const struct integrity_io *iio)
{
    return dt_frame_req(iio->c, iio);
}
static inline uint64_t integrity_offset(const struct dt_req *req)
{
    return req->sector << DT_SECTOR_SHIFT;
}
static inline uint64_t integrity_end(const struct dt_req *req)
{
    return (req->sector + req->sectors) << DT_SECTOR_SHIFT;
}
/** integrity_bytes() - of this block: the last one of the disk may be shorter. */
static inline uint64_t integrity_bytes(const struct integrity *w, uint64_t block)
{
    return MIN((uint64_t)INTEGRITY_BLOCK, w->header.size - (block << INTEGRITY_SHIFT));
}
static inline uint64_t integrity_region(const struct integrity *w, uint64_t block)
{
    return (block << INTEGRITY_SHIFT) / w->header.region;
}
static inline uint64_t integrity_sum_at(const struct integrity *w, uint64_t block)
{
    return w->at.sums_offset + block * sizeof(uint64_t);
}

/* job.c */
void integrity_jobs_start(struct integrity_ctx *ic);
void integrity_jobs_stop(struct integrity_ctx *ic);
void integrity_job_begin(struct integrity_io *iio);
void integrity_job_finish(struct integrity_job *job, int error);
/** integrity_lock() - then @granted, with job->locked. */
void integrity_lock(struct integrity_job *job,
                    void (*granted)(struct dt_ctx *c, struct dt_range *range));
/** integrity_part_done() - one of job->pending; after the last one job->then. */
void integrity_part_done(struct integrity_job *job, int error);
/** integrity_gather() - read the checksums, and the blocks at the edges. */
void integrity_gather(struct integrity_job *job);
/** integrity_put_sums() - write job->sums, and @then. */
void integrity_put_sums(struct integrity_job *job, void (*then)(struct integrity_job *));

/* read.c */
void integrity_read_run(struct integrity_job *job);
void integrity_read_returned(struct integrity_job *job, int error);
/**
 * integrity_judge() - a block does not fit its checksum, and nobody writes to it.
 * Return: true if it was being written at a crash and is taken as it is; false: it is damaged.
 */
bool integrity_judge(struct dt_ctx *c, uint64_t block);

/* write.c */
void integrity_write_run(struct integrity_job *job);
void integrity_write_returned(struct integrity_job *job, int error);
/** integrity_opened() - its regions are, or job->error says why not. */
void integrity_opened(struct integrity_job *job);

/* region.c */
void integrity_regions_start(struct integrity_ctx *ic);
/** integrity_regions_open() - integrity_opened() when each of the job's has its bit on the disk. */
void integrity_regions_open(struct integrity_job *job);
/** integrity_regions_done() - the job does not write any more. */
void integrity_regions_done(struct integrity_job *job);
/** integrity_regions_suspect() - its data may be there without their checksums. */
void integrity_regions_suspect(struct integrity_job *job);
/** integrity_settled() - all of @era is durable. */
void integrity_settled(struct integrity_ctx *ic, uint64_t era);
/** integrity_suspect_open() - checksums of any open region may have been lost. */
void integrity_suspect_open(struct integrity *w);
/** integrity_regions_stop() - close what is settled, so that the next start need not look at it. */
void integrity_regions_stop(struct integrity_ctx *ic);

/* flush.c */
void integrity_flush(struct integrity_io *iio);
void integrity_flush_returned(struct integrity_io *iio, int error);
/** integrity_flush_own() - without the guest's asking. */
void integrity_flush_own(struct integrity_ctx *ic);

/* scrub.c */
void integrity_scrub_start(struct integrity_ctx *ic);
void integrity_scrub_stop(struct integrity_ctx *ic);
void integrity_scrub_quiesce(struct dt_ctx *c, uint64_t deadline);
extern const struct dt_verb integrity_verbs[];

/* status.c */
void integrity_status(struct dt_layer *layer, struct dt_extent *extent);

/* open.c */
int integrity_open(struct dt_layer *layer, struct dt_error *err);
void integrity_close(struct dt_layer *layer);
int integrity_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
/** integrity_load() - read which regions were being written. After the fence. */
int integrity_load(struct integrity *w, struct dt_error *err);

#endif
