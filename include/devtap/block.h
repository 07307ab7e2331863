/* SPDX-License-Identifier: MIT */
/*
 * devtap/block.h - the block extension API: put your own code under a virtual machine's disk.
 *
 * A soft disk is a front (where the VM attaches), a chain of extensions, and a back that serves
 * it. Extensions and backs are layers: one static struct dt_block_ext of a name and
 * callbacks, where NULL means "pass through". A layer without a callback is left out of that
 * path when the chain is built, and costs nothing.
 *
 *     guest -> front -> [request: submit ->] layer 1 -> layer 2 -> ... -> back
 *     guest <- front <- [response: <- complete] layer 1 <- layer 2 <- ... <- back
 *
 * A minimal extension is `request` (or `response`) and a struct of about ten lines; see
 * examples/. Callbacks come in two forms: for bursts (`submit`, `complete`) and per request
 * (`request`, `response`; core makes the loop).
 *
 * Threads: a device runs on one thread, unless every layer of its chain sets DT_PER_QUEUE.
 * A layer has one struct dt_ctx on each thread that serves the device; all callbacks with a
 * dt_ctx run on its thread and need no locks for what belongs to it.
 *
 * Ownership: inside `submit` and `complete` the layer owns the requests it was given. It hands each of
 * them on exactly once: down with dt_forward(), or up with dt_complete(), at once or
 * later. Core checks this at every crossing, and a violation ends the process.
 */
#ifndef DEVTAP_BLOCK_H
#define DEVTAP_BLOCK_H

#include <devtap/base.h>
#include <devtap/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Requests ------------------------------------------------------------------------- */

enum dt_op {
    DT_OP_READ,
    DT_OP_WRITE,
    DT_OP_FLUSH,        /* writes completed before it become durable; no range */
    DT_OP_DISCARD,      /* contents no longer matter; a hint */
    DT_OP_WRITE_ZEROES, /* the range reads as zeroes */
    DT_OP_COUNT,
};

enum dt_req_flags {
    DT_REQ_REPLAYED = 1, /* may already have been executed before a crash */
    DT_REQ_UNMAP = 2,    /* WRITE_ZEROES: space may be given back */
    DT_REQ_FUA = 4,      /* WRITE, WRITE_ZEROES: durable when completed */
    DT_REQ_SUB = 8,      /* made by a layer above, not by the guest */
};

/**
 * struct dt_req - one request as every layer sees it.
 * @sector: first sector, in units of 512 bytes whatever the disk's block size. A layer may move a request
 *          for those below (a header before the data); it moves it back when it comes up.
 * @sectors: how many; 0 for DT_OP_FLUSH. The range lies within the device: core has checked.
 * @op:      enum dt_op.
 * @flags:   enum dt_req_flags.
 * @queue:   the guest's queue it came from.
 * @error:   0 or -errno; set before dt_complete(). The guest sees OK, "unsupported" for
 *           -EOPNOTSUPP, and an I/O error for everything else.
 * @started: when its burst was taken, ns of dt_clock_ns().
 *
 * The data is opaque until dt_req_map().
 */
struct dt_req {
    uint64_t sector;
    uint32_t sectors;
    uint8_t op;
    uint8_t flags;
    uint16_t queue;
    int32_t error;
    uint32_t core_; /* private to core */
    uint64_t started;
};

/** dt_req_bytes() - length of the range in bytes. */
static inline uint64_t dt_req_bytes(const struct dt_req *req)
{
    return (uint64_t)req->sectors << DT_SECTOR_SHIFT;
}
/** dt_req_has_data() - does it carry a buffer (READ and WRITE do)? */
static inline bool dt_req_has_data(const struct dt_req *req)
{
    return req->op == DT_OP_READ || req->op == DT_OP_WRITE;
}
/** dt_req_overlaps() - does it touch any of @sectors from @sector on? No sum can overflow. */
static inline bool dt_req_overlaps(const struct dt_req *req, uint64_t sector, uint64_t sectors)
{
    if (req->sector < sector)
        return sector - req->sector < req->sectors;
    return req->sectors && req->sector - sector < sectors;
}
/** dt_op_name() - "read", "write", "flush", "discard", "write-zeroes". */
DT_PUBLIC const char *dt_op_name(enum dt_op op);
/** dt_op_parse() - the reverse; -1 if unknown. */
DT_PUBLIC int dt_op_parse(const char *name);

/* ---- The layer ------------------------------------------------------------------------- */

/** dt_frame() - this layer's private bytes in @req: frame_size, undefined at `submit`,
 *  kept until the request is completed. */
static inline void *dt_frame(struct dt_ctx *c, struct dt_req *req)
{
    return (char *)req + c->frame_offset;
}
/** dt_frame_req() - the request that has these private bytes of this layer. */
static inline struct dt_req *dt_frame_req(const struct dt_ctx *c, const void *frame)
{
    return (struct dt_req *)((uintptr_t)frame - c->frame_offset);
}
/** dt_forward() - hand @n requests down to the next layer. Not for backs. */
DT_PUBLIC void dt_forward(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
/** dt_complete() - hand @n finished requests up, @error set in each. */
DT_PUBLIC void dt_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
static inline void dt_forward_one(struct dt_ctx *c, struct dt_req *req)
{
    dt_forward(c, &req, 1);
}
static inline void dt_complete_one(struct dt_ctx *c, struct dt_req *req, int error)
{
    req->error = error;
    dt_complete(c, &req, 1);
}
/* ---- Data --------------------------------------------------------------------------------- */

/**
 * enum dt_data - what a layer does with the data of one direction; it declares the most it needs.
 * @DT_DATA_NONE:   never looks (the default; costs nothing).
 * @DT_DATA_PEEK:   reads or fills the guest's own buffer, which the guest may be changing.
 * @DT_DATA_STABLE: needs bytes that cannot change: core takes one private copy for the chain.
 * @DT_DATA_TRANSFORM: passes different data on, out of place, with dt_req_transform().
 *
 * For reads, STABLE and TRANSFORM mean that the data arrives in private memory, is seen by
 * `complete` there, and reaches the guest's buffer last.
 */
enum dt_data {
    DT_DATA_NONE,
    DT_DATA_PEEK,
    DT_DATA_STABLE,
    DT_DATA_TRANSFORM,
};

/**
 * dt_req_map() - look at the data of a READ or WRITE.
 * @iov: set to the vectors, valid until the request leaves this layer.
 *
 * A layer that declared DT_DATA_NONE for the direction may not call this.
 * Return: number of vectors; their bytes equal dt_req_bytes().
 */
DT_PUBLIC unsigned dt_req_map(struct dt_ctx *c, struct dt_req *req, const struct iovec **iov);
/**
 * dt_req_transform() - give the layers below other memory for this request.
 * @from: set to the vectors as the layers above see them (@from_n entries).
 *
 * WRITE: fill the returned buffer from @from in `submit`, then forward. READ: forward; in
 * `complete` call dt_req_restore(), which returns the buffer that was filled, and turn it into
 * @from there. The buffer is taken from a pool that was reserved with the request: this never fails.
 * Needs DT_DATA_TRANSFORM for the direction.
 *
 * Return: a contiguous private buffer of dt_req_bytes().
 */
DT_PUBLIC void *dt_req_transform(struct dt_ctx *c, struct dt_req *req, const struct iovec **from,
                                 unsigned *from_n);
/** dt_req_restore() - undo dt_req_transform() when the request comes back: the layers above
 *  see their own buffer again (@to). Call for both directions. Return: the private buffer, valid until this
 *  request is completed. */
DT_PUBLIC void *dt_req_restore(struct dt_ctx *c, struct dt_req *req, const struct iovec **to,
                               unsigned *to_n);

/* ---- Requests of a layer's own ------------------------------------------------------------- */

/**
 * dt_sub_new() - make a request that enters the chain below this layer.
 * @iov, @n: its data in memory of the layer (READ, WRITE), in place until @done.
 * @done: runs on this thread when it came back; sub->error tells; free it with dt_sub_free().
 * @arg: for @done, by dt_sub_arg().
 *
 * Declare how many a thread may need at once in .sub_requests.
 * Return: NULL when all are in use: try again from a @done.
 */
DT_PUBLIC struct dt_req *dt_sub_new(struct dt_ctx *c, enum dt_op op, uint64_t sector,
                                    uint32_t sectors, const struct iovec *iov, unsigned n,
                                    void (*done)(struct dt_ctx *c, struct dt_req *sub), void *arg);
/** dt_sub_submit() - send it; it starts at the end of this turn, so that a chain of
 *  sub-requests does not recurse. */
DT_PUBLIC void dt_sub_submit(struct dt_ctx *c, struct dt_req *sub);
DT_PUBLIC void *dt_sub_arg(const struct dt_req *sub);
DT_PUBLIC void dt_sub_free(struct dt_ctx *c, struct dt_req *sub);

/**
 * struct dt_range - an exclusive lock on a range of sectors within a layer and thread (so for layers
 * without DT_PER_QUEUE: the device). Embed it; a request's frame is the usual place.
 * @granted: called when the lock was obtained later than dt_range_lock() returned.
 */
struct dt_range {
    void (*granted)(struct dt_ctx *c, struct dt_range *range);
    uint64_t sector, sectors;
    struct dt_range *next_; /* private to core */
    bool held_;
};
/** dt_range_lock() - true: locked at once. false: @granted will be called; first come, first served. */
DT_PUBLIC bool dt_range_lock(struct dt_ctx *c, struct dt_range *range, uint64_t sector,
                             uint64_t sectors);
/** dt_range_try() - as dt_range_lock(), but false means that nothing was done: somebody has it, or waits. */
DT_PUBLIC bool dt_range_try(struct dt_ctx *c, struct dt_range *range, uint64_t sector,
                            uint64_t sectors);
DT_PUBLIC void dt_range_unlock(struct dt_ctx *c, struct dt_range *range);

/* ---- Description ----------------------------------------------------------------------------- */

/**
 * struct dt_block_info - what a disk is. The back fills it; extensions may change it on the way
 * up (`info`). The guest sees the result. Sizes of transfers are in sectors, 0 = no limit of its own.
 */
struct dt_block_info {
    uint64_t sectors;
    uint32_t logical_block;    /* bytes: 512 or 4096 */
    uint32_t physical_block;   /* bytes, a power of two >= logical_block */
    uint32_t optimal_io;       /* bytes, or 0 */
    uint32_t max_sectors;      /* of one READ or WRITE; core splits what is longer */
    uint32_t max_segments;     /* vectors of one READ or WRITE */
    uint32_t max_discard;      /* sectors */
    uint32_t discard_align;    /* sectors */
    uint32_t max_write_zeroes; /* sectors */
    bool read_only;
    bool rotational;
    bool can_flush; /* false: every write is durable when completed */
    bool can_discard;
    bool can_write_zeroes;
    bool write_zeroes_unmaps;
};

/**
 * enum dt_status - what a read of a range would find.
 * @DT_STATUS_DATA: anything. It is what whoever does not know says, and never wrong.
 * @DT_STATUS_ZERO: zeroes, in space that is taken for them, or may be.
 * @DT_STATUS_HOLE: zeroes, for which no space is taken.
 */
enum dt_status {
    DT_STATUS_DATA,
    DT_STATUS_ZERO,
    DT_STATUS_HOLE,
};

/**
 * struct dt_extent - a question what a range holds, and the answer.
 * @sector:  where it begins, on the disk as the layer that is asked shows it; the answer has the same.
 * @sectors: how many, not 0, within that disk. An answer about the beginning alone makes it smaller.
 * @status:  DT_STATUS_DATA until somebody says otherwise.
 * @deadline: ns of dt_clock_ns(), less than a second away: who has no answer by then leaves it at data.
 */
struct dt_extent {
    uint64_t sector, sectors;
    enum dt_status status;
    uint64_t deadline;
};

/**
 * struct dt_block_ext - an extension or a back. Zero what you do not use.
 *
 * @abi, @size: DT_ABI and sizeof(struct dt_block_ext): use DT_BLOCK_EXT_HEADER.
 * @name:    lower case, as in a chain: "throttle".
 * @summary: one line for `devtap extensions`.
 * @help:    a paragraph for `devtap help NAME`, or NULL.
 * @flags:   enum dt_ext_flags.
 * @read_data, @write_data: enum dt_data for the two directions.
 * @params:  declared parameters; core parses and checks them into the layer's data, prints them in
 *           help and applies defaults. Ends with a NULL name. See <devtap/param.h>.
 * @counters, @verbs: may be NULL.
 * @layer_size, @ctx_size: bytes of the device-wide and of each thread's state, zeroed.
 * @frame_size: bytes kept in each request; all layers of a chain share DT_FRAME_BUDGET.
 * @sub_requests: of its own that may be outstanding on each thread.
 * @state_version: of the blob of @save; @load refuses what it does not know.
 */
struct dt_block_ext {
    uint32_t abi;
    uint32_t size;
    const char *name;
    const char *summary;
    const char *help;
    uint32_t flags;
    uint8_t read_data;
    uint8_t write_data;
    const struct dt_param *params;
    const struct dt_counter *counters;
    const struct dt_verb *verbs;
    size_t layer_size;
    size_t ctx_size;
    size_t frame_size;
    unsigned sub_requests;
    uint32_t state_version;

    /* Life. open(): parameters are in place, the layers below are open; check them, take resources.
     * start(), stop(): the layer on one thread, on that thread; no request is in it at stop(). */
    int (*open)(struct dt_layer *layer, struct dt_error *err);
    void (*close)(struct dt_layer *layer);
    int (*start)(struct dt_ctx *c, struct dt_error *err);
    void (*stop)(struct dt_ctx *c);
    /* What the disk is: backs fill all of it, extensions change what they change. */
    int (*info)(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err);

    /* Requests going down, responses going up; in burst form or per request, never both. */
    void (*submit)(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
    void (*complete)(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
    enum dt_verdict (*request)(struct dt_ctx *c, struct dt_req *req);
    enum dt_verdict (*response)(struct dt_ctx *c, struct dt_req *req);

    /* Before requests are taken from a ring: how many of @want may be? The others stay in the
     * guest's ring; call dt_wake() when that changes. For rate limits: a stop never waits. */
    unsigned (*admit)(struct dt_ctx *c, unsigned want);
    /* Let go of every held request by @deadline (ns): forward or complete it. A layer that holds
     * requests for a time of its own must have this. One that it cannot serve by then is completed with
     * -ECANCELED: the front leaves it in the guest's ring for whoever serves that next, or submits it
     * again, and fails it where it can do neither. Layers with requests of their own are always
     * asked: until then they must begin nothing new. */
    void (*quiesce)(struct dt_ctx *c, uint64_t deadline);
    /* Complete this held request now, with -ECANCELED; -EBUSY if it cannot be. */
    int (*cancel)(struct dt_ctx *c, struct dt_req *req);

    /* Live parameter @index (one flagged DT_PARAM_LIVE) has the new value in the layer's data.
     * No thread is inside the layer. An error restores the old value. */
    int (*set)(struct dt_layer *layer, unsigned index, struct dt_error *err);
    /* Soft state for the next process: bytes written to @buf, or -errno. load() comes between open() and the
     * first info(). */
    int64_t (*save)(struct dt_layer *layer, void *buf, size_t size);
    int (*load)(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err);
    /* Layers with files or peers of their own: no I/O of an earlier, dead process can land any more
     * once this returns 0. Called before start(), the back first. What open() read of such a file
     * may have changed until then. */
    int (*fence)(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
    /* For layers with files of their own that say what the disk holds: read for a layer above that is in
     * open() (dt_layer_read_below), where start() and fence() have not been yet. May wait. A predecessor may be
     * serving the disk, so nothing may change, on the medium or in the layer. Its own
     * dt_layer_read_below() has what lies below. */
    int (*read_early)(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                      struct dt_error *err);
    /* What does the beginning of a range hold? Runs on a thread that serves no device and may wait, but not beyond the
     * deadline; what the device's threads change is looked at in dt_layer_exclusive(). The guest may be
     * writing: all that was acknowledged before the question counts; what is under way may or may not.
     * NULL: what the layers below say, for an extension that looks at no data (DT_DATA_NONE) and is not
     * DT_CONTENT_BEARING; data, for all others. dt_status_below, for one that looks and changes nothing. */
    void (*status)(struct dt_layer *layer, struct dt_extent *extent);
};

/** enum dt_verdict - what a per-request callback decided.
 * @DT_PASS:  go on: down from `request`, up from `response`.
 * @DT_DONE:  `request` only: finished here with req->error; goes up from this layer.
 * @DT_HELD:  the layer keeps it and will hand it on itself. */
enum dt_verdict {
    DT_PASS,
    DT_DONE,
    DT_HELD,
};

#define DT_FRAME_BUDGET     256u
#define DT_BLOCK_EXT_HEADER .abi = DT_ABI, .size = sizeof(struct dt_block_ext)

/**
 * DT_BLOCK_EXTENSION() - the entry of a shared object: `DT_BLOCK_EXTENSION(my_ext)` once.
 */
#define DT_BLOCK_EXTENSION(ext)                                    \
    DT_PUBLIC const struct dt_block_ext *dt_block_extension(void); \
    DT_PUBLIC const struct dt_block_ext *dt_block_extension(void)  \
    {                                                              \
        return &(ext);                                             \
    }

/* ---- The layer's surroundings ---- */

/** dt_layer_info() - the disk as the layer below describes it (valid from open() on). */
DT_PUBLIC const struct dt_block_info *dt_layer_info(const struct dt_layer *layer);
/**
 * dt_layer_read_below() - read from the layers below; for open() alone, which may wait.
 * @data: room for @sectors; the caller's again afterwards, but never again after -ETIMEDOUT.
 *
 * A dead predecessor's writes may still land after this: read again, once the disk is
 * served, what is written then.
 * Return: 0; -EINVAL for what is not within the disk below; -EBUSY for a disk that is served already;
 * -ETIMEDOUT; what the read failed with.
 */
DT_PUBLIC int dt_layer_read_below(struct dt_layer *layer, uint64_t sector, uint32_t sectors,
                                  void *data, struct dt_error *err);
/** dt_status_below() - within `status`: what do the layers below say of @extent? What lies behind their end is data. */
DT_PUBLIC void dt_status_below(struct dt_layer *layer, struct dt_extent *extent);
/** dt_layer_exclusive() - within `status`: run @fn while none of the device's threads does anything, so keep it
 *  short. */
DT_PUBLIC void dt_layer_exclusive(struct dt_layer *layer, void (*fn)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
