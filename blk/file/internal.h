/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `file` share. */
#ifndef FILE_INTERNAL_H
#define FILE_INTERNAL_H

#include "base/fifo.h"
#include "blk/shortage/shortage.h"
#include <devtap/block.h>

enum file_cache { CACHE_NONE, CACHE_WRITEBACK };
enum file_counter { BOUNCED, CONTINUED, PAST_END, HELD, ZEROED_BYTES };

/**
 * struct file - the layer.
 * @direct: opened with O_DIRECT: memory must be aligned to @mem_align, ranges to @block.
 * @block:  bytes of a logical block; requests are multiples of it.
 */
struct file {
    const char *path;
    uint64_t size, queue_depth, block_size;
    unsigned cache, on_full;
    bool read_only, create, discard, lock;

    int fd;
    bool direct, is_device;
    uint32_t mem_align, block;
    struct dt_block_info info; /* as opened; the size is @sectors */
    uint64_t sectors;          /* changes live: atomic */

    /* What the file system turned out not to have. Set by any thread, never cleared. */
    bool no_punch, no_zero_range;
    /* The page cache lost a write: no later flush may claim otherwise. */
    bool flush_failed;
    struct shortage shortage;
    struct dt_layer *layer;
};

struct bounce;

/**
 * struct file_io - a request's frame. Which step it is at shows in @io.done.
 * @moved: bytes done by the steps before.
 */
struct file_io {
    struct dt_io io;
    struct dt_ctx *c;
    union {
        struct file_io *next; /* held, or waiting for a bounce buffer */
        struct bounce *bounce;
    };
    uint64_t moved;
};

FIFO(file_list, file_io)

/** struct file_ctx - the layer on one thread. */
struct file_ctx {
    struct dt_ctx *c;
    unsigned in_flight;
    bool saturated; /* admit() said no */

    struct bounce *bounce_free;
    unsigned bounces;
    struct file_list bounce_waiting;

    struct dt_timer lifted; /* the limit that admit() had reached */

    /* The file system is full. */
    struct shortage_ctx shortage;
    struct file_list held;
};

static inline struct dt_req *file_req(const struct file_io *fio)
{
    return dt_frame_req(fio->c, fio);
}
static inline struct file_io *file_io_of(struct dt_io *io)
{
    return container_of(io, struct file_io, io);
}
static inline uint64_t file_offset(const struct file_io *fio)
{
    return file_req(fio)->sector << DT_SECTOR_SHIFT;
}

/* file.c: the steps of a request. */
/** file_begin() - (again) from its first step. */
void file_begin(struct file_io *fio);
/** file_finish() - it is done; up with @error. */
void file_finish(struct file_io *fio, int error);
/** file_written() - its bytes or zeroes are written: what FUA asks for, then done. */
void file_written(struct file_io *fio);
/** file_failed() - a step failed: hold it if the file system is full, else done. */
void file_failed(struct file_io *fio, int error);
/** file_past_end() - the file ended @from bytes into a READ: the rest is zeroes; done. */
void file_past_end(struct file_io *fio, uint64_t from);

/* bounce.c: what the fast path cannot do. */
bool file_aligned(const struct file *f, const struct iovec *iov, unsigned n);
/** file_bounce() - move the rest of a READ or WRITE, from @moved on, through an aligned buffer. */
void file_bounce(struct file_io *fio);
void file_bounce_fini(struct file_ctx *fc);

/* range.c */
void file_discard(struct file_io *fio);
void file_zero(struct file_io *fio);

/* open.c */
int file_open(struct dt_layer *layer, struct dt_error *err);
/** file_current_size() - of the file or device now, in bytes; checked. */
int file_current_size(const struct file *f, uint64_t *bytes, struct dt_error *err);

/* lock.c */
int file_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
/** file_lock_now() - what lock=off left undone at the start, now that nobody else serves it. */
int file_lock_now(struct dt_layer *layer, struct dt_error *err);

/* verbs.c */
extern const struct dt_verb file_verbs[];

#endif
