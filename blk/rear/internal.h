/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the back `vhost-user`: what its files share with each other and with the back `cvd`,
 * which is one of these that has to say which disk it wants.
 *
 * Theory of operation: a control thread (control.c) owns the session with the rear, because its
 * questions wait for answers; it connects, agrees on features, gives memory and rings away
 * (session.c), and notices when the rear is gone. The device's threads own the rings (queue.c), one
 * each. Between the two there is a mailbox per thread, rung by an eventfd: an order, and its
 * acknowledgement.
 *
 * Memory: the rear gets the guest's regions as they are, and one of ours for each session, clear of
 * them, with rings, headers, status bytes, indirect tables and bounce buffers. What a request has
 * in guest memory is not copied. What lies elsewhere (private copies, requests of layers' own) is
 * copied through a bounce buffer: a rear that had our private memory could change it after it was
 * verified.
 *
 * The rear is a stranger. All that it returns is judged: ids, lengths, status bytes, indices,
 * the configuration space. A lie ends the session with a reason. When a session ended, its region
 * is given up with it, so that what an old rear still writes lands nowhere; requests in flight are
 * sent again in the next session, or fail, as on-rear-loss= says.
 */
#ifndef BLK_REAR_INTERNAL_H
#define BLK_REAR_INTERNAL_H

#include "base/patience.h"
#include "core/copypool.h"
#include "core/core.h"
#include "vhost/frontend.h"

#include <linux/virtio_blk.h>
#include <pthread.h>

#define REAR_SEGMENTS  126u /* data vectors of a request, at most: with header and status 128 */
#define REAR_BUFFERS   (REAR_SEGMENTS + 2)
#define REAR_BOUNCE    (4u << 20)                 /* bytes of each thread */
#define REAR_MAX_BYTES (1u << COPYPOOL_MAX_SHIFT) /* of one request: a bounce buffer's */
#define REAR_BURST     32u
#define REAR_NO_SLOT   UINT16_MAX

enum rear_loss { REAR_HOLD, REAR_FAIL };
enum rear_counter { REAR_LOSSES, REAR_LIES, REAR_REPLAYED, REAR_HELD, REAR_BOUNCED, REAR_INDIRECT };

/** struct rear_line - what a request shares with the rear, in one cache line. */
struct rear_line {
    struct virtio_blk_outhdr header;
    struct virtio_blk_discard_write_zeroes range;
    uint8_t status;
} CACHE_ALIGNED;

/** struct rear_slot - a request that the rear has. Private. */
struct rear_slot {
    struct dt_req *req; /* NULL = free */
    void *bounce;       /* its data, if they had to be copied */
    uint16_t next;      /* free list */
    bool flushing;      /* the write is done, and the flush that makes it durable under way */
};

/**
 * struct rear_map - guest memory as the rear knows it. Never changed once made.
 * @regions: sorted by @host; descriptors are the map's.
 */
struct rear_map {
    uint64_t generation;
    unsigned count;
    struct device_region regions[];
};

/**
 * struct rear_rings - one thread's part of a session: made and freed by the control thread, used by
 * the device's thread in between.
 * @base: where this part begins in the session's region; the rear sees it at @gpa.
 */
struct rear_rings {
    struct virtq_driver ring;
    uint8_t *base;
    uint64_t gpa;
    struct rear_line *lines;
    uint8_t *tables; /* REAR_BUFFERS descriptors for each slot; NULL without indirect ones */
    struct copypool bounce;
    struct rear_slot *slots;
    uint16_t *by_id; /* the ring's id -> slot */
    uint16_t nslots, free_slot;
    int kick, call;
};

/** struct rear_session - a connection to the rear and what it was given. The control thread's. */
struct rear_session {
    struct vhost_frontend *frontend;
    uint64_t features, protocol;
    struct virtio_blk_config disk;
    int memory_fd;
    uint8_t *memory;
    size_t memory_size, part_size;
    uint64_t gpa;
    struct rear_rings *rings;   /* one for each thread */
    const struct rear_map *map; /* what was shared */
};

/** enum rear_order - from the control thread to a device's thread. */
enum rear_order {
    REAR_NONE,
    REAR_UP,    /* these are your rings */
    REAR_REMAP, /* the rear knows this memory now */
    REAR_DOWN,  /* the session is over: let go of the rings */
    REAR_PARK,  /* let go of the rings if nothing is in flight; else rear.busy is set */
};

/** enum rear_wish - from the front to the control thread. */
enum rear_wish { REAR_CONTENT, REAR_ENTER, REAR_LEAVE };

/** struct rear_list - requests, linked through their frames, oldest first. */
struct rear_list {
    struct dt_req *head, **tail;
};

/** struct rear_ctx - the back on one thread. */
struct rear_ctx {
    struct dt_ctx *c;
    struct rear *rear;
    struct rear_rings *rings; /* NULL = no session */
    const struct rear_map *map;
    unsigned hint; /* region that matched last */
    unsigned in_flight;
    bool broken;              /* the rear lied: nothing is taken from its ring any more */
    struct rear_list waiting; /* for the rear, or for room */
    struct loop_poller poller;
    struct loop_deferred publish;
    struct dt_watch call, mail;
    struct dt_timer patience;
    uint64_t rest_by; /* when held requests fail because the device is to come to rest; 0 = never */

    /* The mailbox; under the layer's lock. */
    enum rear_order order;
    struct rear_rings *order_rings;
    const struct rear_map *order_map;
};

/** struct rear - the layer's data. Parameters first. */
struct rear {
    const char *path;
    uint64_t queue_size, timeout;
    bool packed;
    unsigned on_loss;
    bool wanted; /* passthrough, by a person */

    /* What comes before vhost-user on a new connection, or NULL. Takes at most @timeout_ms. */
    int (*greet)(struct rear *rear, int sock, int timeout_ms, struct dt_error *err);
    struct dt_layer *layer;
    char address[DT_ADDRESS_MAX]; /* of @path */
    struct dt_block_info info;    /* fixed but for the size */
    uint64_t sectors;
    struct virtio_blk_config disk; /* as first seen: a rear that comes back must be the same */
    uint64_t features, protocol;
    unsigned queues; /* the rear's */
    bool lost;       /* it was there and is gone; atomic */

    pthread_t thread;
    bool running;
    int wake; /* eventfd of the control thread */
    struct rear_session session;
    uint64_t generation; /* of guest memory, atomic: what lanes may translate by */

    uint64_t offered;                /* virtio features of the rear; atomic */
    const struct rear_map *map;      /* the control thread's */
    struct passthrough *passthrough; /* the guest's rings, while the rear has them */
    uint64_t lost_at;
    int retry_ms;
    bool lied;
    bool complained; /* why it does not come back was logged */
    bool quit;

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t acknowledged;
    unsigned started;
    struct rear_ctx **lanes;   /* by thread; NULL where stopped */
    struct rear_map *next_map; /* not yet shared */
    bool busy;                 /* an answer to REAR_PARK */
    enum rear_wish wish;
    struct passthrough *wish_rings;
    bool faulted;
    char fault[256];
};

/* rear.c: the callbacks of the layer. */
int rear_open(struct dt_layer *layer, struct dt_error *err);
void rear_close(struct dt_layer *layer);
int rear_start(struct dt_ctx *c, struct dt_error *err);
void rear_stop(struct dt_ctx *c);
int rear_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err);
int rear_set(struct dt_layer *layer, unsigned index, struct dt_error *err);
int64_t rear_save(struct dt_layer *layer, void *buf, size_t size);
int rear_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err);
int rear_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
/** rear_mode() - the verb `mode`. */
int rear_mode(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
              struct dt_error *err);
extern const char *const rear_losses[];
extern const struct dt_counter rear_counters[];

/* session.c: on the control thread, and from open(). */
/** rear_session_connect() - connect, agree, read what the disk is. @again: it must be what it was.
 */
int rear_session_connect(struct rear *rear, struct rear_session *s, bool again,
                         struct dt_error *err);
/** rear_session_begin() - give it memory and rings. */
int rear_session_begin(struct rear *rear, struct rear_session *s, const struct rear_map *map,
                       struct dt_error *err);
/** rear_session_remap() - @map instead of what was shared; -EADDRINUSE where our own region is in
 *  its way, and only a new session helps. */
int rear_session_remap(struct rear_session *s, const struct rear_map *map, struct dt_error *err);
int rear_session_read_config(struct rear *rear, struct rear_session *s, bool again,
                             struct dt_error *err);
/** rear_session_own_log() - have the rear keep its in-flight log, if it has one, in a region of its
 * own. */
int rear_session_own_log(struct rear *rear, struct rear_session *s, struct dt_error *err);
/** rear_session_restart_rings() - as they were at first. */
int rear_session_restart_rings(struct rear *rear, struct rear_session *s, struct dt_error *err);
void rear_session_end(struct rear *rear, struct rear_session *s);

/* map.c */
struct rear_map *rear_map_new(const struct device_region *regions, unsigned count,
                              uint64_t generation);
void rear_map_free(const struct rear_map *map);
/** rear_map_gpa() - where the rear sees [@host, @host + @len); false if it does not. */
bool rear_map_gpa(const struct rear_map *map, const void *host, size_t len, unsigned *hint,
                  uint64_t *gpa);

/* rings.c: a thread's part of the session's region */
size_t rear_rings_bytes(const struct rear *rear);
int rear_rings_init(struct rear_rings *q, const struct rear *rear, uint64_t features, uint8_t *base,
                    uint64_t gpa, struct dt_error *err);
void rear_rings_fini(struct rear_rings *q);

/* control.c */
int rear_control_start(struct rear *rear);
void rear_control_stop(struct rear *rear);
/** rear_control_wake() - there is something to do. From any thread. */
void rear_control_wake(struct rear *rear);
/** rear_order_all() - on the control thread: tell all threads, and wait until each has done it. */
void rear_order_all(struct rear *rear, enum rear_order order, const struct rear_map *map);
/** rear_lose() - on the control thread: the session is over, unasked. */
void rear_lose(struct rear *rear, const char *reason, bool lied);
/** rear_fault() - the rear broke its promise: end the session. From any thread. */
void rear_fault(struct rear *rear, const char *fmt, ...) DT_PRINTF(2, 3);

/* passthrough.c: on the control thread */
extern const struct passthrough_ops rear_passthrough_ops;
void rear_passthrough_enter(struct rear *rear, struct passthrough *p);
void rear_passthrough_leave(struct rear *rear);

/* queue.c: on the device's threads */
void rear_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void rear_quiesce(struct dt_ctx *c, uint64_t deadline);
int rear_cancel(struct dt_ctx *c, struct dt_req *req);
void rear_ctx_init(struct rear_ctx *rc, struct dt_ctx *c);
/** rear_obey() - carry an order out. */
void rear_obey(struct rear_ctx *rc, enum rear_order order, struct rear_rings *rings,
               const struct rear_map *map);
/** rear_give_up() - fail what is held: nobody is to wait for the rear. */
void rear_give_up(struct rear_ctx *rc);

/* request.c: a request in the rear's words */
/** rear_send() - put @req on the ring; false: there is no room now. */
bool rear_send(struct rear_ctx *rc, struct dt_req *req);
/** rear_received() - the rear returned @id with @len bytes written: judge it. Return: the request
 * if it is finished, else NULL. */
struct dt_req *rear_received(struct rear_ctx *rc, uint16_t id, uint32_t len);
/** rear_slot_release() - its request is not the rear's any more. */
void rear_slot_release(struct rear_rings *q, struct rear_slot *slot);

/* Lists. */
static inline struct dt_req **rear_next(struct rear_ctx *rc, struct dt_req *req)
{
    return dt_frame(rc->c, req);
}
static inline void rear_list_init(struct rear_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}
static inline void rear_list_add(struct rear_ctx *rc, struct rear_list *list, struct dt_req *req)
{
    struct dt_req **next = rear_next(rc, req);

    *next = NULL;
    *list->tail = req;
    list->tail = next;
}
static inline struct dt_req *rear_list_take(struct rear_ctx *rc, struct rear_list *list)
{
    struct dt_req *req = list->head;

    if (req) {
        list->head = *rear_next(rc, req);
        if (!list->head)
            list->tail = &list->head;
    }
    return req;
}

/* Parameters of the backs that begin with a struct rear. */
#define REAR_FIELD(field) .offset = offsetof(struct rear, field)
#define REAR_PARAM_LOSS(param, text)                                                       \
    {                                                                                      \
        .name = param, .type = DT_PARAM_ENUM, .flags = DT_PARAM_LIVE, REAR_FIELD(on_loss), \
        .initial = "hold", .choices = rear_losses, .help = text                            \
    }
#define REAR_PARAM_QUEUE_SIZE                                                                  \
    {                                                                                          \
        .name = "queue-size", .type = DT_PARAM_UINT, REAR_FIELD(queue_size), .initial = "256", \
        .min = 16, .max = 1024, .unit = "entries",                                             \
        .help = "Size of each ring shared with it: a power of two."                            \
    }
#define REAR_PARAM_TIMEOUT(text)                                                            \
    {                                                                                       \
        .name = "timeout", .type = DT_PARAM_DURATION, REAR_FIELD(timeout), .initial = "5s", \
        .min = DT_MS(10), .max = DT_S(600), .help = text                                    \
    }

/* All of their struct dt_block_ext but names, content, parameters, verbs, open() and close(). */
#define REAR_EXTENSION                                                                        \
    .read_data = DT_DATA_PEEK, .write_data = DT_DATA_PEEK, .counters = rear_counters,         \
    .state_version = 1, .ctx_size = sizeof(struct rear_ctx),                                  \
    .frame_size = sizeof(struct dt_req *), .start = rear_start, .stop = rear_stop,            \
    .info = rear_info, .submit = rear_submit, .quiesce = rear_quiesce, .cancel = rear_cancel, \
    .set = rear_set, .save = rear_save, .load = rear_load, .fence = rear_fence

#endif
