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
 * Where both are said to hold the same (a copy with content=equal), nothing is dirty at first, and the background compares
 * each region once instead of copying it. What becomes dirty meanwhile is copied, which makes it equal, too.
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
 * Threads: all of this belongs to the disk's first thread, and so does the second chain. What it has to know of other
 * threads' requests comes there by message (hop.c); reads of a disk that is merely copied do not.
 *
 * Kills: the map, and the ranges of the writes under way, also stand in memory that outlives the worker (state.c). Its
 * successor takes for dirty what the map says and what was being written, and nothing else.
 */
#ifndef TWIN_H
#define TWIN_H

#include "base/histogram.h"
#include "blk/branch/branch.h"
#include "core/copypool.h"
#include "core/core.h"

#include <semaphore.h>

enum twin_counter {
    TWIN_BOTH,
    TWIN_MISSED,
    TWIN_WAITED,
    TWIN_COPIED,
    TWIN_HOLES,
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
#define HOLES_WINDOW  (1u << 17) /* regions that are asked about at once */

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

/**
 * struct twin_copier - one region on its way.
 * @spoiled: written meanwhile, so it stays dirty.
 * @hole:    the disk says that it reads as zeroes: it is not read.
 * @judges:  it is compared, not copied; what the second chain holds is in @other.
 */
struct twin_copier {
    struct twin_io io;
    struct dt_range range;
    uint64_t region, at;
    uint32_t now;
    bool busy, spoiled, hole, judges;
    uint8_t *bytes, *other;
};

/**
 * struct twin_frame - in each of the guest's requests.
 * @c:       of its own thread.
 * @message: between that and the first one (hop.c).
 * @cancel:  its thread wants it back; atomic.
 */
struct twin_frame {
    struct twin_job *job;
    struct dt_req *next;
    struct dt_ctx *c;
    struct loop_message message;
    bool cancel;
};

/** struct twin_ctx - of each thread but the first: its quiesce() on the way there. @posted: atomic, as is @deadline. */
struct twin_ctx {
    struct loop_message message;
    struct dt_ctx *c;
    uint64_t deadline;
    bool posted;
};

/**
 * struct twin_live - what a successor is to know after a kill; in memory that outlives the process, written in place.
 * @id:     0 = it says nothing; else what the last save() has, too.
 * @writes: where a write is under way, which one chain may have and the other not. @sectors 0: no write.
 * @map:    as struct twin's.
 */
struct twin_live {
    uint64_t id, copied;
    struct {
        uint64_t sector, sectors;
    } writes[TWIN_JOBS];
    uint64_t map[];
};

/**
 * struct twin_holes - where both chains say that they hold zeroes, so that these are neither read nor written (holes.c).
 * @asking:  the thread has a question: @first and @second are its. Else they are the answers, for regions from @begin to
 *           before @end.
 * @touched: regions that are, or were, under way since the question, from @begin on.
 * @step:    what is data is not asked about again for so many sectors.
 */
struct twin_holes {
    pthread_t thread;
    sem_t wake;
    struct loop_message answered;
    struct dt_extent first, second;
    uint64_t begin, end, step;
    uint64_t *touched;
    bool made, asking, stop;
};

/**
 * struct twin - the layer. Parameters first.
 * @absent:   why there is no second chain; then all passes through. Empty: there is one.
 * @compares: it is a shadow: replies are compared.
 * @judges:   it is compared whether both hold the same. @judged: regions before this one have been, or are under way.
 * @differs:  the first sector that does, UINT64_MAX = none was found.
 * @loose:    writes under way that the second chain does not get, and that have no lock, by frame.
 * @early:    writes answered already, and not yet by the second chain.
 * @lagging:  it answered nothing for too long: as beside, until it has answered all.
 * @equal:    nothing is dirty, nothing under way that could make it so, and flushed.
 * @wanted:   a region that cannot be copied because it is written all the time: writes wait for it, so neither the
 *            rate nor a rest may hold it up.
 * @resumes:  the id under which a process that was killed left its map; 0 = none did.
 * @before:   of @copied, what earlier processes did.
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
    bool compares, judges, can_zero;
    uint32_t max_zero;
    uint64_t judged, differs;

    struct twin_job *jobs, *job_free, *job_head; /* the latter: under way */
    struct dt_req *wait_head, **wait_tail;
    struct copypool pool;
    struct dt_req *loose;
    unsigned early, active;
    bool lagging, equal, told, flushing, running;
    uint64_t sealed_until;

    struct twin_copier *copiers;
    struct twin_io flush;
    struct rest rest;
    struct twin_holes holes;
    struct twin_live *live;
    uint64_t id, resumes;
    uint64_t cursor, wanted, next_copy, began, copied, before;
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

/** twin_frame() - of a request of any thread. */
static inline struct twin_frame *twin_frame(const struct twin *t, struct dt_req *req)
{
    return dt_frame(t->c, req);
}
static inline bool twin_writes(uint8_t op)
{
    return op == DT_OP_WRITE || op == DT_OP_WRITE_ZEROES;
}

/* life.c: callbacks of both extensions. */
int twin_open(struct dt_layer *layer, struct dt_error *err);
void twin_close(struct dt_layer *layer);
int twin_start(struct dt_ctx *c, struct dt_error *err);
void twin_stop(struct dt_ctx *c);
int twin_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err);
int twin_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
int twin_set(struct dt_layer *layer, unsigned index, struct dt_error *err);
extern const struct dt_counter twin_counters[];

/* state.c */
int64_t twin_save(struct dt_layer *layer, void *buf, size_t size);
int twin_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err);
/** twin_live_begin() - after the fence: take over what a killed process left, and have the same kept of this one. */
void twin_live_begin(struct twin *t);
/** twin_live_end() - from here on writes may pass the second chain by. */
void twin_live_end(struct twin *t);
/** twin_live_write() - a write begins; twin_live_written(): both chains have it, or it is in the map. */
void twin_live_write(struct twin *t, const struct twin_job *job);
void twin_live_written(struct twin *t, const struct twin_job *job);

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
#define TWIN_EXTENSION                                                                          \
    .flags = DT_STATE_OF_RUN | DT_PER_QUEUE, .write_data = DT_DATA_STABLE,                      \
    .counters = twin_counters, .verbs = twin_verbs, .layer_size = sizeof(struct twin),          \
    .ctx_size = sizeof(struct twin_ctx), .frame_size = sizeof(struct twin_frame),               \
    .sub_requests = TWIN_COPIERS, .state_version = 2, .close = twin_close, .start = twin_start, \
    .stop = twin_stop, .info = twin_info, .submit = twin_submit, .complete = twin_complete,     \
    .admit = twin_admit, .quiesce = twin_quiesce, .cancel = twin_cancel, .set = twin_set,       \
    .save = twin_save, .load = twin_load, .fence = twin_fence, .status = dt_status_below

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
/** twin_run_cancelled() - those that wait and that their threads want back go up; is @req among them? */
bool twin_run_cancelled(struct twin *t, const struct dt_req *req);
/** twin_begin() - a request of another thread, on the first one. */
void twin_begin(struct twin *t, struct dt_req *req);
/** twin_rest() - by @deadline. */
void twin_rest(struct twin *t, uint64_t deadline);

/* job.c */
#define TWIN_LOOSE \
    ((struct twin_job *)1) /* a frame's: to the first chain alone, and without a lock */
/** twin_job_begin() - with a buffer if @both get data, and unless it is a flush with its lock; NULL: not now. */
struct twin_job *twin_job_begin(struct twin *t, struct dt_req *req, bool both);
/** twin_job_end() - both sides have answered, or it is given up. */
void twin_job_end(struct twin_job *job);
void twin_send_second(struct twin_job *job, const struct dt_req *req);
void twin_send(struct twin_io *io, enum dt_op op, uint8_t flags, uint64_t sector, uint32_t sectors,
               unsigned niov);
/** twin_first_answered() - by the first chain: does the guest get its answer now? */
bool twin_first_answered(struct twin *t, struct dt_req *req);
/** twin_end() - the same, of a request of another thread, and all that follows. */
void twin_end(struct twin *t, struct dt_req *req);
/** twin_any_loose() - is there a write without a lock in this range? */
bool twin_any_loose(const struct twin *t, uint64_t sector, uint64_t sectors);
/** twin_judge_pace() - is the second chain too slow, or does it follow again? */
void twin_judge_pace(struct twin *t);

/* hop.c: from thread to thread. */
static inline bool twin_at_home(const struct dt_ctx *c)
{
    return c->thread == 0;
}
/** twin_hop_begin(), twin_hop_end(), twin_hop_rest() - what is called so above is to be done on the first thread. */
void twin_hop_begin(struct dt_ctx *c, struct dt_req *req);
void twin_hop_end(struct dt_ctx *c, struct dt_req *req);
void twin_hop_rest(struct dt_ctx *c, uint64_t deadline);
/** twin_forward(), twin_answer() - on the first thread: by the request's own, it goes down, or up. */
void twin_forward(struct twin *t, struct dt_req *req);
void twin_answer(struct twin *t, struct dt_req *req, int error);

/* holes.c */
void twin_holes_fini(struct twin *t);
/** twin_holes_touch() - what was answered of this range is out of date. */
void twin_holes_touch(struct twin *t, uint64_t sector, uint64_t sectors);
/** twin_holes_unknown() - is an answer to come that tells of this region? Asks if need be. */
bool twin_holes_unknown(struct twin *t, uint64_t region);
/** twin_is_hole() - does this region, which is locked, read as zeroes for certain? */
bool twin_is_hole(const struct twin *t, uint64_t region);

/* map.c: dirty regions. */
bool twin_is_dirty(const struct twin *t, uint64_t region);
void twin_clean(struct twin *t, uint64_t region);
uint64_t twin_region_end(const struct twin *t, uint64_t region);
uint64_t twin_last_region(const struct twin *t, uint64_t sector, uint64_t sectors);
bool twin_any_dirty(const struct twin *t, uint64_t sector, uint32_t sectors);
bool twin_all_dirty(const struct twin *t, uint64_t sector, uint32_t sectors);
void twin_mark(struct twin *t, uint64_t sector, uint32_t sectors);
void twin_mark_all(struct twin *t);
uint64_t twin_bytes_left(const struct twin *t);

/* catchup.c: how they become clean. */
/** twin_under_way() - is it being copied, or compared? */
bool twin_under_way(const struct twin *t, uint64_t region);
/** twin_judges() - is it not known yet whether both hold the same? */
bool twin_judges(const struct twin *t);
/** twin_spoil() - a write without a lock: what is being copied there must be copied again. */
void twin_spoil(struct twin *t, uint64_t sector, uint32_t sectors);
void twin_catch_up(struct twin *t);

/* verbs.c */
extern const struct dt_verb twin_verbs[];

#endif
