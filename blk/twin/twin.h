/* SPDX-License-Identifier: MIT */
/*
 * twin.h - what the extensions `copy` and `shadow` share: a second chain that is kept equal to what
 * the layer stands on, and may take its place.
 *
 * Theory of operation: the disk is divided into regions. A region is *dirty* where the second chain
 * lacks something, and clean where both hold the same. Writes to clean regions go to both chains,
 * others to the first alone; dirty regions are copied in the background (catchup.c). A range that
 * is being written, compared or copied is locked, so nothing overtakes anything on its way to
 * either chain.
 *
 * What happens where the second chain cannot follow is the difference between the two ways to run:
 *
 * in step (`copy`; a shadow with sync=on): a write is answered when both chains have it, and waits
 * for a lock. Only so do the two become equal for certain. A chain that answers nothing for
 * `timeout` is left behind until it has answered. beside (a shadow): a write is answered when the
 * first chain has it, and waits for nothing. With no room in the queue or a lock in the way it is
 * not sent to the second chain: its regions become dirty.
 *
 * Once both are equal and in step, the layer can be sealed: from then on nothing is answered
 * that both do not have, whatever happens, so whoever opens the second chain finds all that the
 * guest was told. That lasts until the layer is gone, or for SEAL_NS.
 *
 * All runs on one thread.
 */
#ifndef TWIN_H
#define TWIN_H

#include "base/histogram.h"
#include "core/copypool.h"
#include "core/core.h"

enum twin_counter {
    TWIN_BOTH,
    TWIN_MISSED,
    TWIN_WAITED,
    TWIN_COPIED,
    TWIN_FAILURES,
    TWIN_COMPARED,
    TWIN_MISMATCHES,
    TWIN_DIFFERENT_ERRORS,
};
enum twin_content { TWIN_COPY, TWIN_EQUAL };
enum twin_side { FIRST, SECOND, SIDES };

#define TWIN_JOBS     256u
#define TWIN_COPIERS  4u
#define TWIN_CHUNK    (256u << 10)
#define TWIN_TICK_NS  DT_MS(50)
#define TWIN_RETRY_NS DT_S(1)
#define SEAL_NS       DT_S(30) /* longer than it takes to replace a worker */
#define NO_REGION     UINT64_MAX

struct twin;

/** struct twin_io - a request to the second chain; see struct request for @frames. */
struct twin_io {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct twin *t;
    void (*done)(struct twin_io *io, int error);
    struct iovec iov;
} CACHE_ALIGNED;

/**
 * struct twin_job - one of the guest's requests that both chains get.
 * @guest: NULL: it has its answer.
 * @left:  sides that have not answered, as bits.
 * @holds: the guest's answer waits for the second chain.
 * @locked: @range is; flushes have none.
 * @stuck: sealed, and the second chain does not have it: it cannot be answered.
 */
struct twin_job {
    struct twin_io io;
    struct twin_job *next, *prev;
    struct dt_req *guest;
    struct dt_range range;
    uint64_t sent, sector, hash[SIDES];
    uint32_t sectors;
    int error[SIDES];
    uint8_t op, left;
    bool holds, locked, sent_second, stuck;
    void *buffer;
};

/** struct twin_copier - one region on its way. @spoiled: written meanwhile, so it stays dirty. */
struct twin_copier {
    struct twin_io io;
    struct dt_range range;
    uint64_t region, at;
    uint32_t now;
    bool busy, spoiled;
    uint8_t *bytes;
};

/** struct twin_frame - in each of the guest's requests. */
struct twin_frame {
    struct twin_job *job;
    struct dt_req *next;
};

/**
 * struct twin - the layer. Parameters first.
 * @absent:   why there is no second chain; then all passes through. Empty: there is one.
 * @compares: it is a shadow: replies are compared.
 * @loose:    writes under way that the second chain does not get, and that have no lock, by frame.
 * @early:    writes answered already, and not yet by the second chain.
 * @lagging:  it answered nothing for too long: as beside, until it has answered all.
 * @equal:    nothing is dirty, nothing under way that could make it so, and flushed.
 * @wanted:   a region that cannot be copied because it is written all the time: writes wait for it.
 */
struct twin {
    const char *to;
    uint64_t rate, buffer_bytes, timeout;
    bool sync;
    unsigned content;

    struct dt_layer *layer;
    struct dt_ctx *c;
    struct device *dev;
    struct lane *lane;
    uint64_t sectors;
    unsigned shift; /* sectors to regions */
    uint64_t regions, dirty;
    uint64_t *map; /* a bit for each region: it is dirty */
    char absent[sizeof(((struct dt_error *)0)->text)];
    bool compares, can_zero;
    uint32_t max_zero;

    struct twin_job *jobs, *job_free, *job_head; /* the latter: under way */
    struct dt_req *wait_head, **wait_tail;
    struct copypool pool;
    struct dt_req *loose;
    unsigned early, active;
    bool lagging, equal, told, flushing, running;
    uint64_t sealed_until;

    struct twin_copier *copiers;
    struct twin_io flush;
    uint64_t cursor, wanted, next_copy, rest_until, began, copied;
    char failure[160]; /* of the last region that could not be copied */
    struct dt_timer timer, tick;

    struct histogram *latency[2][SIDES]; /* of reads, of writes */
    uint64_t first_mismatch;
};

/** twin_in_step() - are writes answered when both chains have them? */
static inline bool twin_in_step(const struct twin *t)
{
    return t->sealed_until || (t->sync && !t->lagging);
}

/* life.c: callbacks of both extensions. */
int twin_open(struct dt_layer *layer, struct dt_error *err);
void twin_close(struct dt_layer *layer);
int twin_start(struct dt_ctx *c, struct dt_error *err);
void twin_stop(struct dt_ctx *c);
int twin_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err);
int twin_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
int twin_set(struct dt_layer *layer, unsigned index, struct dt_error *err);
int64_t twin_save(struct dt_layer *layer, void *buf, size_t size);
int twin_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err);
extern const struct dt_counter twin_counters[];

/* Parameters of both, whose help speaks of a copy or of a shadow. */
#define TWIN_FIELD(field) .offset = offsetof(struct twin, field)
#define TWIN_PARAM_TO(text)                                                                \
    {                                                                                      \
        .name = "to", .type = DT_PARAM_STRING, .flags = DT_PARAM_REQUIRED, TWIN_FIELD(to), \
        .help = text                                                                       \
    }
#define TWIN_PARAM_RATE(preset, text)                                                    \
    {                                                                                    \
        .name = "rate", .type = DT_PARAM_SIZE, .flags = DT_PARAM_LIVE, TWIN_FIELD(rate), \
        .initial = preset, .unit = "bytes/s", .help = text                               \
    }
#define TWIN_PARAM_BUFFER(text)                                                             \
    {                                                                                       \
        .name = "buffer", .type = DT_PARAM_SIZE, TWIN_FIELD(buffer_bytes), .initial = "8M", \
        .min = 2 << 20, .max = 1 << 30, .help = text                                        \
    }
#define TWIN_PARAM_TIMEOUT(text)                                                                   \
    {                                                                                              \
        .name = "timeout", .type = DT_PARAM_DURATION, .flags = DT_PARAM_LIVE, TWIN_FIELD(timeout), \
        .initial = "5s", .min = DT_MS(1), .max = DT_S(3600), .help = text                          \
    }

/* All of a struct dt_block_ext but its names, its parameters, what it does with reads, and open().
 */
#define TWIN_EXTENSION                                                                         \
    .flags = DT_STATE_OF_RUN, .write_data = DT_DATA_STABLE, .counters = twin_counters,         \
    .verbs = twin_verbs, .layer_size = sizeof(struct twin),                                    \
    .frame_size = sizeof(struct twin_frame), .sub_requests = TWIN_COPIERS, .state_version = 1, \
    .close = twin_close, .start = twin_start, .stop = twin_stop, .info = twin_info,            \
    .submit = twin_submit, .complete = twin_complete, .admit = twin_admit,                     \
    .quiesce = twin_quiesce, .cancel = twin_cancel, .set = twin_set, .save = twin_save,        \
    .load = twin_load, .fence = twin_fence, .status = dt_status_below

/* seal.c */
extern const struct handover_ops twin_handover;
/** twin_judge_store() - would another process find there what this one wrote? */
int twin_judge_store(const struct twin *t, struct dt_error *err);
/** twin_unseal() - what could not be answered is, and its regions are dirty. */
void twin_unseal(struct twin *t);
/** twin_give_up_stuck() - the device comes to rest: whoever serves next serves them. */
void twin_give_up_stuck(struct twin *t);

/* request.c: the guest's requests. */
void twin_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void twin_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
unsigned twin_admit(struct dt_ctx *c, unsigned want);
void twin_quiesce(struct dt_ctx *c, uint64_t deadline);
int twin_cancel(struct dt_ctx *c, struct dt_req *req);
void twin_run_waiting(struct twin *t);
/** twin_any_loose() - is there a write without a lock in this range? */
bool twin_any_loose(const struct twin *t, uint64_t sector, uint64_t sectors);
/** twin_judge_pace() - is the second chain too slow, or does it follow again? */
void twin_judge_pace(struct twin *t);
/** twin_job_end() - both sides have answered, or it is given up. */
void twin_job_end(struct twin_job *job);
void twin_send(struct twin_io *io, enum dt_op op, uint8_t flags, uint64_t sector, uint32_t sectors,
               unsigned niov);

/* catchup.c: regions. */
bool twin_any_dirty(const struct twin *t, uint64_t sector, uint32_t sectors);
bool twin_all_dirty(const struct twin *t, uint64_t sector, uint32_t sectors);
void twin_mark(struct twin *t, uint64_t sector, uint32_t sectors);
void twin_mark_all(struct twin *t);
/** twin_spoil() - a write without a lock: what is being copied there must be copied again. */
void twin_spoil(struct twin *t, uint64_t sector, uint32_t sectors);
void twin_catch_up(struct twin *t);
uint64_t twin_bytes_left(const struct twin *t);

/* verbs.c */
extern const struct dt_verb twin_verbs[];

#endif
