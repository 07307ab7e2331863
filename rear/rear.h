/* SPDX-License-Identifier: MIT */
/*
 * rear.h - the tap's rear side: a session with somebody else's back end, the rear, kept alive. What
 * the backs `vhost-user` of disks (blk/rear/) and of network cards (net/rear/) have in common.
 *
 * Theory of operation: a control thread (control.c) owns the session with the rear, because its
 * questions wait for answers; it connects, agrees on features, gives memory and rings away
 * (session.c), and notices when the rear is gone. The device's threads own the rings, one part of
 * them each; what is done with these is the class's. Between the two there is a mailbox per thread, rung by an
 * eventfd: an order, and its acknowledgement (life.c).
 *
 * Memory: the rear gets one region of ours for each session, clear of the guest's, with rings and
 * whatever the class puts there. The guest's own regions it gets where the class wants its data not to be copied,
 * and while it has the guest's own rings (passthrough.c).
 *
 * The rear is a stranger. All that it returns is judged: ids, lengths, indices, the configuration
 * space. A lie ends the session with a reason. When a session ended, its region is given up with
 * it, so that what an old rear still writes lands nowhere.
 */
#ifndef REAR_REAR_H
#define REAR_REAR_H

#include "core/passthrough.h"
#include "vhost/frontend.h"

#include <pthread.h>

#define REAR_BIT(n)    (1ull << (n))
#define REAR_MAX_RINGS 2u

/* The first of each class's counters. */
enum rear_counter { REAR_LOSSES, REAR_LIES, REAR_OWN_COUNTERS };
#define REAR_COUNTERS                                                                              \
    [REAR_LOSSES] = {"rear-losses", "sessions", "Sessions with the back end that ended unasked."}, \
    [REAR_LIES] = {"rear-lies", "sessions",                                                        \
                   "Of these, sessions that were ended because it broke the protocol."}

struct rear;

/**
 * struct rear_map - guest memory as the rear may know it. Never changed once made.
 * @regions: sorted by @host; descriptors are the map's.
 */
struct rear_map {
    uint64_t generation;
    unsigned count;
    struct device_region regions[];
};

/** struct rear_ring - one virtqueue, whose driver we are. */
struct rear_ring {
    struct virtq_driver vq;
    int kick, call;
};

/**
 * struct rear_part - one thread's part of a session; the class's begins with it. Made and freed by the control
 * thread, used by the device's thread in between; threads change what is in theirs with each request, so no two share a line.
 * @base: where this part begins in the session's region; the rear sees it at @gpa.
 */
struct rear_part {
    uint8_t *base;
    uint64_t gpa;
    struct rear_ring rings[REAR_MAX_RINGS];
} CACHE_ALIGNED;

/** rear_gpa() - where the rear sees @p, which lies in this part. */
static inline uint64_t rear_gpa(const struct rear_part *part, const void *p)
{
    return part->gpa + (uint64_t)((const uint8_t *)p - part->base);
}

/**
 * struct rear_session - a connection to the rear and what it was given. The control thread's.
 * @parts: one for each thread, of the class's size.
 * @shared: the guest's memory that it has; NULL = nothing of it.
 */
struct rear_session {
    struct vhost_frontend *frontend;
    uint64_t features, protocol;
    int memory_fd;
    uint8_t *memory;
    size_t memory_size, part_bytes;
    uint64_t gpa;
    uint8_t *parts;
    const struct rear_map *shared;
};

/** rear_session_begun() - does it have memory and rings? */
static inline bool rear_session_begun(const struct rear_session *s)
{
    return s->memory;
}

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

/** struct rear_lane - the back on one thread; the class's context begins with it. */
struct rear_lane {
    struct dt_ctx *c;
    struct rear *rear;
    struct dt_watch mail;

    /* The mailbox; under the layer's lock. */
    enum rear_order order;
    struct rear_part *order_part;
    const struct rear_map *order_map;
};

/**
 * struct rear_class - what is peculiar to a class of devices.
 * @features: virtio features wanted of the rear, beside VERSION_1, which is needed. @protocol: protocol features.
 * @optional: of the guest's features, those that the rear can do without when it has the guest's rings.
 * @telling: of @features, those that only say what its configuration space has: it may come back without, or with others.
 * @shows_loss: without a rear the device is another one, so core is told when it goes.
 * @queue_rings: virtqueues that make one queue, as GET_QUEUE_NUM counts them.
 * @shares_memory: the rear gets the guest's memory always; else only while it has the guest's rings.
 * @keeps_log: the rear may keep an in-flight log, and then loses nothing. A class without may lose what was under
 *             way in rings that the rear served itself.
 * @part_size: of its struct, which begins with a struct rear_part.
 * @part_bytes: of shared memory that a part takes; whole MiBs.
 * @part_init: lay a zeroed part out, whose place is known: all of its rings, with their eventfds (rear_ring_init()).
 * @part_fini: what the class has besides rings.
 * @agreed: features are agreed on, or the configuration space of a rear that serves changed (rear_session_begun()):
 *          learn what the device is. @again: it must be what it was; rear.changed says that the guest has to be told
 *          all the same.
 * @parameters_changed: on each of the device's threads. May be NULL.
 * @obey: carry an order out, on the device's thread. @map: what of the guest's memory the rear knows.
 * @while_lost: what happens to what the guest wants while the rear is gone, for people.
 * @loss_accepted: true where somebody said that requests may be lost with a rear that keeps no log.
 * @promised: of a rear that connects to us: features to want, and those it must have, because the device said so when
 *            nobody was there yet. NULL where there is no such parameter.
 * @give: tell the rear what else it has to know to serve the guest's rings. May be NULL.
 */
struct rear_class {
    uint64_t features, protocol, optional, telling;
    unsigned queue_rings;
    bool shares_memory, keeps_log, shows_loss;
    size_t part_size;
    size_t (*part_bytes)(const struct rear *rear);
    int (*part_init)(struct rear *rear, uint64_t features, struct rear_part *part,
                     struct dt_error *err);
    void (*part_fini)(struct rear_part *part);
    int (*agreed)(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err);
    void (*parameters_changed)(struct rear_lane *lane);
    void (*obey)(struct rear_lane *lane, enum rear_order order, struct rear_part *part,
                 const struct rear_map *map);
    const char *(*while_lost)(const struct rear *rear);
    bool (*loss_accepted)(const struct rear *rear);
    void (*promised)(const struct rear *rear, uint64_t *wanted, uint64_t *needed);
    int (*give)(struct rear *rear, const struct passthrough *p, struct dt_error *err);
};

/** struct rear - the beginning of the layer's data. Parameters first. */
struct rear {
    const char *path;
    uint64_t queue_size, timeout;
    bool packed;
    bool listen; /* the rear connects to us */
    const char *socket_group, *socket_mode;

    bool wanted; /* passthrough, by a person */
    int listener;
    const struct rear_class *class;
    /* What comes before vhost-user on a new connection, or NULL. Takes at most @timeout_ms. */
    int (*greet)(struct rear *rear, int sock, int timeout_ms, struct dt_error *err);
    /* Called by the control thread when there is something to read at @aside, or NULL; -1: not now. */
    void (*heard)(struct rear *rear);
    int aside;
    struct dt_layer *layer;
    char address[DT_ADDRESS_MAX]; /* of @path */
    uint64_t features, protocol;  /* agreed on */
    unsigned queues;              /* the rear's */
    bool lost;                    /* it was there and is gone; atomic */

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
    bool changed;     /* what the guest was told of the device; the control thread's */
    uint64_t told_at; /* when core was told of it last */
    bool lied;
    bool complained; /* why it does not come back was logged */
    bool quit;

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t acknowledged;
    unsigned started;
    struct rear_lane **lanes;  /* by thread; NULL where stopped */
    struct rear_map *next_map; /* not yet taken note of */
    bool busy;                 /* an answer to REAR_PARK */
    enum rear_wish wish;
    struct passthrough *wish_rings;
    bool faulted;
    char fault[256];
};

/* ---- life.c: for the callbacks of the layer ---- */

/** rear_open() - of a layer whose data begins with a struct rear: connect. */
int rear_open(struct dt_layer *layer, const struct rear_class *class, struct dt_error *err);
void rear_close(struct dt_layer *layer);
/** rear_lane_start() - @lane begins this thread's context, and may get orders from now on. */
int rear_lane_start(struct rear_lane *lane, struct dt_ctx *c, struct dt_error *err);
/** rear_lane_stop() - it gets none any more; its last one is REAR_DOWN. */
void rear_lane_stop(struct rear_lane *lane);
int rear_set(struct dt_layer *layer, unsigned index, struct dt_error *err);
int64_t rear_save(struct dt_layer *layer, void *buf, size_t size);
int rear_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err);
/** rear_mode() - the verb `mode`. */
int rear_mode(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
              struct dt_error *err);
/** rear_gone() - it was there, and is not now. From any thread. */
static inline bool rear_gone(const struct rear *rear)
{
    return __atomic_load_n(&rear->lost, __ATOMIC_RELAXED);
}

/* ---- listen.c ---- */

/** rear_listen() - wait for a rear at the path, with the rights that the parameters say. */
int rear_listen(struct rear *rear, struct dt_error *err);
/** rear_accept() - the rear that connected, or -EAGAIN. Nobody is waited for. */
int rear_accept(struct rear *rear, struct dt_error *err);

/* ---- control.c ---- */

int rear_control_start(struct rear *rear);
void rear_control_stop(struct rear *rear);
/** rear_control_wake() - there is something to do. From any thread. */
void rear_control_wake(struct rear *rear);
/** rear_order_all() - on the control thread: tell all threads, and wait until each has done it. */
void rear_order_all(struct rear *rear, enum rear_order order);
/** rear_lose() - on the control thread: the session is over, unasked. */
void rear_lose(struct rear *rear, const char *reason, bool lied);
/** rear_fault() - the rear broke its promise: end the session. From any thread. */
void rear_fault(struct rear *rear, const char *fmt, ...) DT_PRINTF(2, 3);

/* ---- session.c: on the control thread, and from open() ---- */

/** rear_session_connect() - connect, agree, learn what the device is. @again: it must be what it was.
 */
int rear_session_connect(struct rear *rear, struct rear_session *s, bool again,
                         struct dt_error *err);
/** rear_session_begin() - give it memory and rings. */
int rear_session_begin(struct rear *rear, struct rear_session *s, const struct rear_map *map,
                       struct dt_error *err);
/** rear_session_share() - the rear is to have @map of the guest's memory, instead of what it has; NULL =
 *  nothing. -EADDRINUSE where our own region is in its way, and only a new session helps. */
int rear_session_share(struct rear_session *s, const struct rear_map *map, struct dt_error *err);
/** rear_session_clear_of() - is our region out of @map's way? */
bool rear_session_clear_of(const struct rear_session *s, const struct rear_map *map);
/** rear_session_own_log() - have the rear keep its in-flight log, if it has one, in a region of its
 * own. */
int rear_session_own_log(struct rear *rear, struct rear_session *s, struct dt_error *err);
/** rear_session_restart_rings() - as they were at first. */
int rear_session_restart_rings(struct rear *rear, struct rear_session *s, struct dt_error *err);
void rear_session_end(struct rear *rear, struct rear_session *s);
/** rear_session_part() - thread @t's. */
struct rear_part *rear_session_part(const struct rear *rear, const struct rear_session *s,
                                    unsigned t);

/* ---- ring.c ---- */

/** rear_ring_bytes() - shared memory that a ring takes, in whole pages. */
size_t rear_ring_bytes(const struct rear *rear);
/** rear_ring_init() - @ring of @part, at @at within it. */
int rear_ring_init(struct rear_part *part, unsigned ring, const struct rear *rear,
                   uint64_t features, uint8_t *at, struct dt_error *err);
/** rear_ring_kick() - show what was added, and kick if the rear wants that. Return: did it? */
bool rear_ring_kick(struct rear *rear, struct rear_ring *ring);

/* ---- map.c ---- */

struct rear_map *rear_map_new(const struct device_region *regions, unsigned count,
                              uint64_t generation);
void rear_map_free(const struct rear_map *map);
static inline bool rear_region_gpa(const struct device_region *r, const void *host, size_t len,
                                   uint64_t *gpa)
{
    uint64_t at = (uint64_t)((uintptr_t)host - (uintptr_t)r->host);

    if (at >= r->size || len > r->size - at)
        return false;
    *gpa = r->gpa + at;
    return true;
}
/** rear_map_find() - rear_map_gpa() where the hint was wrong. */
bool rear_map_find(const struct rear_map *map, const void *host, size_t len, unsigned *hint,
                   uint64_t *gpa);
/** rear_map_gpa() - where the rear sees [@host, @host + @len); false if it does not. @hint: the region that had
 *  the last one. */
static inline bool rear_map_gpa(const struct rear_map *map, const void *host, size_t len,
                                unsigned *hint, uint64_t *gpa)
{
    if (likely(*hint < map->count && rear_region_gpa(&map->regions[*hint], host, len, gpa)))
        return true;
    return rear_map_find(map, host, len, hint, gpa);
}

/* ---- passthrough.c: on the control thread ---- */

extern const struct passthrough_ops rear_passthrough_ops;
void rear_passthrough_enter(struct rear *rear, struct passthrough *p);
void rear_passthrough_leave(struct rear *rear);

/* ---- Parameters of the backs that begin with a struct rear ---- */

#define REAR_PARAM_QUEUE_SIZE(least)                                                              \
    {                                                                                             \
        .name = "queue-size", .type = DT_PARAM_UINT, .offset = offsetof(struct rear, queue_size), \
        .initial = "256", .min = least, .max = 1024, .unit = "entries",                           \
        .help = "Size of each ring shared with it: a power of two."                               \
    }
#define REAR_PARAM_PACKED                                                                 \
    {                                                                                     \
        .name = "packed", .type = DT_PARAM_BOOL, .offset = offsetof(struct rear, packed), \
        .initial = "off", .help = "Use packed rings, which it must offer."                \
    }
#define REAR_PARAMS_LISTEN                                                                    \
    {.name = "listen",                                                                        \
     .type = DT_PARAM_BOOL,                                                                   \
     .offset = offsetof(struct rear, listen),                                                 \
     .initial = "off",                                                                        \
     .help = "Make the socket and wait there for the back end to connect."},                  \
        {.name = "socket-group",                                                              \
         .type = DT_PARAM_STRING,                                                             \
         .offset = offsetof(struct rear, socket_group),                                       \
         .unit = "group",                                                                     \
         .help = "Group of that socket."},                                                    \
    {                                                                                         \
        .name = "socket-mode", .type = DT_PARAM_STRING,                                       \
        .offset = offsetof(struct rear, socket_mode), .initial = "600", .unit = "octal mode", \
        .help = "Who may connect to that socket: 660 for its group, too."                     \
    }
#define REAR_PARAM_TIMEOUT(text)                                                                \
    {                                                                                           \
        .name = "timeout", .type = DT_PARAM_DURATION, .offset = offsetof(struct rear, timeout), \
        .initial = "5s", .min = DT_MS(10), .max = DT_S(600), .help = text                       \
    }
#define REAR_VERB_MODE                                                                            \
    {                                                                                             \
        .name = "mode", .args = "passthrough|interpose",                                          \
        .help = "Give the guest's rings to the back end, or take them back; see devtap-mode(1).", \
        .run = rear_mode                                                                          \
    }

#endif
