/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `mirror` share. */
#ifndef MIRROR_INTERNAL_H
#define MIRROR_INTERNAL_H

#include "base/fifo.h"
#include "base/patience.h"
#include "blk/branch/branch.h"
#include "blk/mirror/meta.h"
#include "core/core.h"

enum mirror_create { CREATE_OFF, CREATE_SYNC, CREATE_CLEAN };
enum mirror_missing { MISSING_KNOWN, MISSING_ANY };
enum mirror_counter { INTENTS, READ_RETRIES, LEGS_LOST, RESYNCED_BYTES, WAITED };

struct mirror;
struct leg;
struct fan;

/** enum leg_state - ABSENT: not opened. STALE: has missed writes. SYNCING: is written, and not
 * read. */
enum leg_state { LEG_ABSENT, LEG_STALE, LEG_SYNCING, LEG_IN_SYNC };

/**
 * struct leg - one of the copies: a device of its own, to which the mirror is the front.
 * @full:    all of it must be copied; else only what the bitmap says.
 * @removed: on purpose: not tried again.
 * @latency: of its reads, ns, weighted 7:1.
 */
struct leg {
    struct mirror *m;
    unsigned index;
    struct device *dev;
    struct lane *lane;
    enum leg_state state;
    bool full, removed;
    uint64_t latency, reads, writes;
    unsigned in_flight;
    uint8_t *block; /* META_BLOCK bytes, of its superblock */
};

/** struct leg_req - a request to a leg; see struct request for @frames. */
struct leg_req {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct fan *fan;
    struct leg *leg;
    uint64_t sent;
    struct iovec iov;
} CACHE_ALIGNED;

/**
 * struct fan - one thing asked of several legs: the guest's requests, and all that the mirror does
 * itself.
 * @ok, @failed: the legs that answered so, as bits; @error: the first.
 * @done: when all have answered.
 */
struct fan {
    struct leg_req lr[MIRROR_LEGS];
    struct mirror *m;
    unsigned left;
    uint32_t ok, failed;
    int error;
    bool own; /* the mirror's: a stop waits for it */
    void (*done)(struct fan *fan);
    struct fan *next;
    struct dt_req *req;    /* the guest's */
    uint32_t tried;        /* a READ: the legs that failed before */
    struct dt_range range; /* a write: locked (@locked) while it is under way */
    bool locked;
};

FIFO(fan_list, fan)

/** struct mirror_wait - a guest's request before it has a fan: its frame. */
struct mirror_wait {
    struct mirror_wait *next;
    struct dt_req *req;
};
FIFO(mirror_waits, mirror_wait)

/* Of each region. */
#define REGION_NEEDS 1u /* the primary's copy counts until it has been copied to the others */
#define REGION_OLD   2u /* not written since the last look */
#define REGION_IDLE  4u /* nor since the one before it: a flush lets its bit be cleared */

/** struct region_bits - a bit for each region, as they lie in the bitmap's sectors. */
struct region_bits {
    uint8_t sector[BITMAP_BLOCKS * 8][SECTOR_BITS / 8];
};

/**
 * struct mirror - the layer. One thread serves it.
 * @sb:        what the legs' superblocks have in common, as last written; @confirmed: its
 * generation when that last was on all legs in sync.
 * @running:   assembled: requests are served.
 * @changed:   who is in sync differs from what is recorded; no write is acknowledged until it is.
 * @unrecorded: the last try to do that failed.
 * @refused:   why it is not running.
 * @waiting:   requests before assembly, or without a fan: of the guest, by frame.
 * @intents:   writes that wait for a bit; @blocked: for a region that is being copied; @acks: for
 * the record.
 * @set:       regions whose bit is to be on the legs; @durable: those whose bit is there for
 * certain; @writing: what is being written of @intent_block.
 * @busy:      writes under way in each region.
 * @copying:   the region that is being copied, or NO_REGION.
 */
struct mirror {
    const char *specs[MIRROR_LEGS];
    uint64_t region_size, resync_rate, retry, settle;
    unsigned create, missing;

    struct dt_layer *layer;
    struct dt_ctx *c;
    struct leg legs[MIRROR_LEGS];
    unsigned count;
    struct dt_block_info info;
    uint64_t meta_at;
    struct superblock sb;
    uint64_t confirmed;
    struct leg_view views[MIRROR_LEGS];
    bool running, changed, recording, unrecorded, intent_busy, cleaning, copy_busy, finishing,
        probing;
    char refused[sizeof(((struct dt_error *)0)->text)];

    struct fan *fans, *fan_free;
    struct mirror_waits waits;
    struct fan_list intents, blocked, acks;

    struct region_bits *set, *durable, *writing;
    uint8_t *flags;
    uint32_t *busy;
    uint64_t regions, needs;
    uint32_t blocks_dirty; /* of the bitmap, as bits */
    unsigned intent_block;
    uint8_t *bitmap; /* META_BLOCK bytes: the block under way */

    uint64_t copying, cursor, copied, copy_started, copy_at;
    uint32_t copy_now;
    unsigned copy_from, probed;
    /* How often a leg has become active: who began before it has not reached it. */
    unsigned joins, intent_joins, copy_joins;
    uint8_t *copy;
    struct dt_timer copy_timer, tick;
    struct rest rest;
    uint64_t next_probe, next_clean;
    struct patience patience; /* with legs that are not there */
    /* What the mirror does itself, one of each at a time. */
    struct fan record, intent, cleaner, copier, probe;
    uint8_t *scratch; /* META_SECTORS for each leg: what assembly reads */
};
#define NO_REGION   UINT64_MAX
#define COPY_BYTES  (256u << 10)
#define MIRROR_FANS 256u

/* leg.c */
int leg_open(struct leg *leg, struct dt_error *err);
int leg_start(struct leg *leg, struct dt_error *err);
void fan_begin(struct fan *fan, struct mirror *m, bool own, void (*done)(struct fan *fan));
void fan_send(struct fan *fan, struct leg *leg, enum dt_op op, uint8_t flags, uint64_t sector,
              uint32_t sectors, const struct iovec *iov, unsigned n);
/** fan_send_bytes() - the same from or to memory of the mirror. */
void fan_send_bytes(struct fan *fan, struct leg *leg, enum dt_op op, uint8_t flags, uint64_t sector,
                    void *bytes, size_t n);
/** fan_end() - all is sent. */
void fan_end(struct fan *fan);
static inline bool leg_active(const struct leg *leg)
{
    return leg->state >= LEG_SYNCING;
}
unsigned legs_in(const struct mirror *m, enum leg_state least);
/** leg_primary() - whose copy counts where copies may differ. */
struct leg *leg_primary(struct mirror *m);
/** leg_lost() - it has failed, or is taken out: false if it is the last. */
bool leg_lost(struct leg *leg, const char *why);

/* assemble.c: who is in sync. */
void mirror_assemble(struct mirror *m);
/** mirror_use() - the data of this leg counts, whatever the others have. */
int mirror_use(struct mirror *m, unsigned leg, struct dt_error *err);
/** mirror_record() - write down who is in sync. */
void mirror_record(struct mirror *m);
/** mirror_probe() - is a leg that was lost there again? */
void mirror_probe(struct mirror *m);
void leg_readmit(struct leg *leg);

/* intent.c: the bitmap. */
void intent_kick(struct mirror *m);
/** intent_ready() - may these regions be written? Sets what is missing. */
bool intent_ready(struct mirror *m, uint64_t first, uint64_t last);
void intent_rewrite(struct mirror *m);
bool region_test(struct region_bits *bits, uint64_t region);
void region_mark(struct mirror *m, uint64_t region);
void intent_clean(struct mirror *m);

/* request.c */
void mirror_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void mirror_run_waiting(struct mirror *m);
/** mirror_let_go() - what waits for a mirror that does not serve. */
void mirror_let_go(struct mirror *m);
/** mirror_run_intents() - a block of the bitmap is written, or could not be. */
void mirror_run_intents(struct mirror *m, int error);
void mirror_run_list(struct mirror *m, struct fan_list *list);
/** mirror_acknowledge() - what waited for the record; @error: it failed. */
void mirror_acknowledge(struct mirror *m, int error);
int mirror_cancel(struct dt_ctx *c, struct dt_req *req);

/* status.c */
void mirror_status(struct dt_layer *layer, struct dt_extent *extent);

/* early.c */
int mirror_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                      struct dt_error *err);

/* resync.c */
void resync_kick(struct mirror *m);
void resync_forget(struct mirror *m);
/** resync_hurry() - a write waits for the region under way: its rest is copied without regard to the rate. */
void resync_hurry(struct mirror *m);

extern const struct dt_verb mirror_verbs[];

#endif
