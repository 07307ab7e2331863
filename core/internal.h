/* SPDX-License-Identifier: MIT */
/* internal.h - what core's own files share: layers, contexts, lanes, private memory, statistics. */
#ifndef CORE_INTERNAL_H
#define CORE_INTERNAL_H

#include "base/histogram.h"
#include "core/copypool.h"
#include "core/core.h"
#include <pthread.h>

/* ---- Statistics (stats.c) ---------------------------------------------------------------- */

enum latency_kind { LATENCY_READ, LATENCY_WRITE, LATENCY_OTHER, LATENCY_KINDS };

struct op_stats {
    uint64_t requests, sectors, errors;
};
struct edge_stats {
    struct op_stats ops[DT_OP_COUNT];
    struct histogram *latency; /* by kind; apart, since pages never touched cost nothing */
};
json_t *stats_json(struct device *dev);

/* Counters have one writer; other threads read them whole. */
static inline void bump(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* ---- Layers and contexts ------------------------------------------------------------------ */

#define LAYER_MAGIC 0x4c617965u
#define CTX_MAGIC   0x43747800u

#define LAYER_ADDRESSES 16u

/** struct dt_layer - one extension or back of a chain, device-wide. */
struct dt_layer {
    uint32_t magic;
    const struct dt_block_ext *ext;
    struct device *dev;
    struct dt_layer *below; /* NULL for the back */
    char name[LAYER_NAME];
    unsigned ordinal; /* of those of the same extension: "#2" in its name */
    unsigned index;   /* 1 = right below the front */
    int slot;         /* of its state in the device's blobs; -1 = none yet */
    void *data;
    bool open;
    struct dt_block_info info;        /* as this layer presents it to the one above */
    struct dt_net_info net_info;      /* the same, of a network card */
    uint32_t takes[2];                /* the same: enum dt_offload, by direction, now */
    uint32_t may_take;                /* and at most */
    struct ctx **ctxs;                /* by thread; NULL before the start */
    int state_fd;                     /* its state directory, or -1 */
    bool state_changed;               /* since it was last saved to the device's blobs */
    size_t live_bytes;                /* of the room of what it saves (layer_live()) */
    const char *verb;                 /* the one that runs now */
    char *addresses[LAYER_ADDRESSES]; /* those announced (connect.c) */
    unsigned naddresses;
    bool loaded; /* its state was read, or there was none: it may be replaced */
    void (*memory_changed)(struct dt_layer *layer);
    const struct passthrough_ops *passthrough;
    const struct handover_ops *handover;
    uint64_t event_second; /* of the last event, and how many it had: the log is limited */
    uint32_t events;
};

/**
 * struct ctx - a layer on one thread. The front is context 0 of every lane, without a layer.
 * @down: next context below with a way to submit; @up: next above that wants completions.
 * @own_complete: behind sub_complete(), what the layer itself does; NULL = pass up.
 * @held: requests that are in this context now.
 */
struct ctx {
    struct dt_ctx pub;
    void (*submit)(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
    void (*complete)(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
    void (*own_complete)(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
    struct ctx *down, *up;
    struct lane *lane;
    uint32_t magic;
    uint32_t index;
    uint32_t held;
    bool started;
    /* Requests of its own, and range locks (sub.c, range.c). */
    struct request *sub_free;
    char *sub_memory;
    struct dt_range *range_head, **range_tail;
    struct edge_stats stats;
    struct net_ctx *net; /* of a network card (net.h) */
};
/* One writer, any readers: see stats_json(). */
static inline void set_relaxed(uint32_t *field, uint32_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}
/* @n requests came in; or went, as its two's complement. */
static inline void hold(struct ctx *c, uint32_t n)
{
    set_relaxed(&c->held, c->held + n);
}
static inline struct ctx *ctx_of(struct dt_ctx *c)
{
    struct ctx *ctx = container_of(c, struct ctx, pub);

    CHECK(ctx->magic == CTX_MAGIC);
    return ctx;
}
static inline struct request *request_of(struct dt_req *req)
{
    return container_of(req, struct request, pub);
}

/* ---- Lanes ---- */

#define LANE_MAGIC      0x4c616e65u
#define LANE_PIECES     16u /* oversize requests being split at a time */
#define LANE_PIECE_IOVS 1024u
#define LANE_COPY_MAX   (1u << COPYPOOL_MAX_SHIFT)

/** struct xform - other memory for one request below one transforming layer (data.c). */
struct xform {
    struct xform *next;
    struct ctx *owner; /* NULL = reserved, not yet used */
    struct iovec own;
    struct iovec *above;
    uint32_t above_n;
};

/** struct lane - a device on one thread. */
struct lane {
    uint32_t magic;
    unsigned thread;
    struct loop *loop;
    struct device *dev;
    struct ctx *front; /* context 0 */
    struct ctx *top;   /* where requests enter */
    struct ctx **ctxs; /* by layer index; [0] = front */
    unsigned nctxs;
    const struct front_ops *front_ops;
    void *front_arg;
    unsigned in_flight; /* requests of the guest within the chain */
    unsigned subs; /* requests of layers' own, submitted and not yet back; and dt_busy_begin() */

    /* What the chain needs per direction: a private copy, and transforming layers. */
    bool needs_data;
    bool want_copy[2];                  /* [0] reads, [1] writes */
    uint32_t max_sectors, max_segments; /* longer requests are split */
    uint32_t block_mask;                /* sectors of a logical block, less one */
    uint32_t emulated; /* bit per enum dt_op that is done without the chain (floor.c) */
    bool make_durable; /* the guest knows of no flush, and the chain needs one */
    struct copypool pool;
    struct xform *xform_memory, *xform_free;
    struct request *wait_head, **wait_tail; /* waiting for private memory */

    /* Sub-requests, and what waited for memory or a piece, start at the end of the turn. */
    struct request *sub_head, **sub_tail;
    struct loop_deferred deferred;
    struct request *split_head, **split_tail; /* oversize, waiting for a piece */
    struct split_piece *pieces;

    /* Admission (admit.c) and latency sampling. */
    struct ctx *admitters[CHAIN_MAX_LAYERS];
    unsigned nadmitters;
    uint32_t since_sample;
    uint64_t last_sample;
    bool sampling;
    uint64_t stamps[CHAIN_MAX_LAYERS + 1];

    struct dt_timer deadline_timer; /* deadline.c */
    uint64_t looked_at;
    struct net_lane *net; /* of a network card (net.h) */

    /* Quiesce (quiesce.c). */
    bool closed, refused; /* nothing is admitted; somebody asked meanwhile */
    bool quiescing;
    uint64_t release_by; /* the layers were asked to let go by then */
    char late[128];
    struct dt_timer quiesce_timer;
    struct loop_message quiesce_start, quiesce_report;
};

int lane_new(struct lane **lane, struct device *dev, unsigned thread, struct dt_error *err);
void lane_free(struct lane *lane);
/** lane_start() - start the contexts that are not; if one fails, those are stopped again. */
int lane_start(struct lane *lane, struct dt_error *err);
/** device_start_contexts() - the same, on the lane's own thread. */
int device_start_contexts(struct device *dev, unsigned thread, struct dt_error *err);
void lane_stop(struct lane *lane);
/** lane_link() - make a lane of the device's layers, each of which has its context; -ENOMEM. */
int lane_link(struct lane *lane);
struct ctx *ctx_new(struct lane *lane, struct dt_layer *layer);
void ctx_stop(struct ctx *c);
void ctx_free(struct ctx *c);
/** disk_link(), disk_unlink() - struct device_class, for disks (lane.c); disk_layer_stats() (stats.c), disk_show() (show.c). */
int disk_link(struct lane *lane);
void disk_unlink(struct lane *lane);
void disk_layer_stats(const struct dt_layer *layer, json_t *stats);
void disk_show(const struct device *dev, json_t *show);
/** lane_drained() - in_flight may have reached zero: tell whoever waits. */
void lane_drained(struct lane *lane);

/* Late requests (deadline.c). */
void deadline_start(struct lane *lane);
void deadline_stop(struct lane *lane);

/* The edges (ctx.c). */
void ctx_link(struct lane *lane);
void edge_submit(struct ctx *from, struct ctx *to, struct dt_req **reqs, unsigned n);
void sample_start(struct lane *lane, struct request *r);

/* Data (data.c). */
int data_init(struct lane *lane);
/** data_max_bytes() - the longest request whose private pieces the pool can hold all at once. */
size_t data_max_bytes(const struct lane *lane);
void data_fini(struct lane *lane);
/** data_attach() - reserve what the chain below @from needs; false: no memory now. */
bool data_attach(struct lane *lane, struct ctx *from, struct request *r);
void data_detach(struct lane *lane, struct request *r);

/* Requests of layers' own, and splitting (sub.c, split.c). */
void sub_init(struct ctx *c, unsigned count);
void sub_fini(struct ctx *c);
/** sub_complete() - the `complete` of a context that has requests of its own: takes them out. */
void sub_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void sub_run_queue(struct lane *lane);
void split_init(struct lane *lane);
void split_fini(struct lane *lane);
/** split_queue() - serve an oversize request in pieces, one after the other. */
void split_queue(struct lane *lane, struct request *r);
void split_run_queue(struct lane *lane);
/** lane_finish() - requests of the guest leave the chain. */
void lane_finish(struct lane *lane, struct request **reqs, unsigned n);

/* ---- Devices ---- */

/**
 * struct device_class - what is peculiar to one class of devices; the rest of core serves all alike.
 * @layer_info: what the device is as @layer shows it; the layers below have said theirs.
 * @opened:     the whole chain is open, for the first time.
 * @gather:     device_gather_info().
 * @judge:      can a chain of these @n layers, from 1, take the place of the one there is?
 * @keep:       for the next process, whenever the chain or the device changed.
 * @link, @unlink: make a lane of the device's layers; the lane ends.
 * @show, @layer_stats: add to what device_show() and device_stats() tell.
 */
struct device_class {
    enum device_kind kind;
    int (*layer_info)(struct dt_layer *layer, struct dt_error *err);
    int (*opened)(struct device *dev, struct dt_error *err);
    int (*gather)(struct device *dev, bool all, struct dt_error *err);
    int (*judge)(const struct device *dev, struct dt_layer *const *layers, unsigned n,
                 struct dt_error *err);
    int (*keep)(struct device *dev, struct dt_error *err);
    int (*link)(struct lane *lane);
    void (*unlink)(struct lane *lane);
    void (*show)(const struct device *dev, json_t *show);
    void (*layer_stats)(const struct dt_layer *layer, json_t *stats);
};
extern const struct device_class disk_class, net_class;

#define DEVICE_MAGIC 0x44657669u
struct device {
    uint32_t magic;
    const struct device_class *class;
    char name[64];
    uint32_t generation;
    struct dt_layer **layers; /* [0] unused (the front), 1..nlayers, top to bottom */
    unsigned nlayers;
    struct chain_spec spec;          /* as written, with the layers' numbers */
    struct dt_block_info info;       /* as the guest knows it: the floor, but for its size */
    struct dt_block_info chain_info; /* as the chain is now */
    struct dt_net_info net_info;     /* of a network card, as the guest knows it */
    struct loop **loops;
    unsigned threads;
    struct lane **lanes;
    const struct front_ops *front_ops;
    void *front_arg;
    char *state_dir;
    struct blob_area *blobs;
    uint64_t slots_taken; /* bit per slot of @blobs */
    size_t copy_bytes;
    uint64_t fence_ns, deadline;
    bool started, fenced;
    struct info_message *info_message; /* under way: the loop's, and may outlive the device */
    bool info_pending, info_told;      /* one is under way; there was one */
    bool closing;                      /* what layers say now changes nothing any more */
    pthread_mutex_t asking;            /* recursive: one thread at a time asks for status */
    struct device_region *regions;     /* of guest memory; their descriptors are ours */
    unsigned nregions;
    bool want_passthrough;
    bool in_passthrough; /* the guest's rings are at the back, or on their way */

    /* One quiesce at a time. */
    void (*quiesce_done)(void *arg, const char *late);
    void *quiesce_arg;
    uint64_t quiesce_deadline;
    bool quiesce_closes, held; /* by device_hold() */
    unsigned quiesce_left;
    char quiesce_late[256];
};
struct dt_layer *device_find_layer(struct device *dev, const char *name, struct dt_error *err);

/* Building the chain (chain.c). */
int chain_open(struct device *dev, const struct chain_spec *spec, struct dt_error *err);
void chain_close(struct device *dev);
struct dt_layer *layer_new(struct device *dev, const struct dt_block_ext *ext);
void layer_free(struct dt_layer *layer);
/** layer_open() - the layers below it are open. @fresh: it has no state of an earlier process. */
int layer_open(struct dt_layer *layer, const struct layer_spec *spec, bool fresh,
               struct dt_error *err);
/** chain_judge() - may these layers (from 1) be a chain of @dev? */
int chain_judge(const struct device *dev, struct dt_layer *const *layers, unsigned n,
                struct dt_error *err);
/** chain_name() - number and name those that have none yet, and note it in @spec. */
int chain_name(struct dt_layer *const *layers, struct chain_spec *spec, struct dt_error *err);
/** info_judge() - is this a possible disk? (disk.c) */
int info_judge(const struct dt_block_info *info, struct dt_error *err);

/* Handing a chain over (handover.c). */
/** handover_giver() - the layer of @dev that gives its place to the chain that @target ends with, all
 *  that decides above it what is read being as it was; or NULL. @layers: of @target, from 1. */
struct dt_layer *handover_giver(const struct device *dev, struct dt_layer *const *layers,
                                const struct chain_spec *target);
bool bears_content(const struct dt_layer *layer);

/* What the guest was promised (floor.c). */
/** floor_judge() - can a chain that is @now serve a guest that knows @dev as it was? */
int floor_judge(const struct device *dev, const struct dt_block_info *now, struct dt_error *err);
/** floor_settle() - for a new device: the floor of the process before, or else this chain's. */
int floor_settle(struct device *dev, struct dt_error *err);
/** floor_keep() - for the next process, whenever the chain or the disk's size changed. */
int floor_keep(struct device *dev, struct dt_error *err);
/** floor_chain_hash() - of the chain as it is written: the same one, or another? */
uint64_t floor_chain_hash(const struct device *dev);
/** floor_write() - a floor of either kind, as @fill makes it of the device; floor_read() - what there is of it, as long as expected. -ENOENT: nothing.
 */
int floor_write(struct device *dev, int64_t (*fill)(void *arg, void *bytes, size_t room),
                struct dt_error *err);
int floor_read(const struct device *dev, void *record, size_t size, struct dt_error *err);
/** net_floor_judge() and so on - the same of cards (net-floor.c): of @dev->net_info. net_floor_settle() returns 1 where a process
 *  before this one has served the card. */
int net_floor_judge(const struct device *dev, const struct dt_net_info *now, struct dt_error *err);
int net_floor_settle(struct device *dev, struct dt_error *err);
int net_floor_keep(struct device *dev, struct dt_error *err);
/** floor_fill() - what core does itself on this lane. */
void floor_fill(struct lane *lane);

/* Soft state on disk (state.c). */
#define BLOB_BYTES_MAX (1u << 20)
int state_load(struct dt_layer *layer, struct dt_error *err);
void state_save(struct dt_layer *layer);
/** state_find_slots() - where layers, from 1, saved their state in an earlier process. */
void state_find_slots(struct dt_layer **layers, unsigned n);
/** state_forget() - the layer is gone for good. */
void state_forget(struct dt_layer *layer);
/** state_inherit() - @heir, of the same extension and not yet started, gets what @from would save. */
void state_inherit(struct dt_layer *heir, struct dt_layer *from);

/** struct dt_reply - what a verb answers. */
struct dt_reply {
    json_t *object;
};

#endif
