/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the back `vhost-user` of a disk: what its files share with each other and with the back `cvd`,
 * which is one of these that has to say which disk it wants.
 *
 * Theory of operation: sessions with the rear are rear/rear.h's. Here are requests: each of the device's threads
 * has one ring (queue.c), and a part of the session's region with headers, status bytes, indirect
 * tables and bounce buffers.
 *
 * Whatever a request needs belongs to the ring's id that it gets: a slot of ours, and a line that the rear sees, with an indirect
 * table whose descriptors of header and status were written when the session began. So a request with its
 * data in one piece costs a header and one descriptor. Longer ones have a table elsewhere, and a rear
 * that does not know of indirect tables gets all descriptors in the ring.
 *
 * The rear gets the guest's memory. What a request has in it is not copied. What lies elsewhere (private
 * copies, requests of layers' own) is copied through a bounce buffer: a rear that had our private
 * memory could change it after it was verified.
 *
 * Requests in flight when a session ends are sent again in the next session, or fail, as
 * on-rear-loss= says.
 */
#ifndef BLK_REAR_INTERNAL_H
#define BLK_REAR_INTERNAL_H

#include "base/patience.h"
#include "core/copypool.h"
#include "core/core.h"
#include "rear/rear.h"

#include <linux/virtio_blk.h>

#define REAR_SEGMENTS  126u /* data vectors of a request, at most: with header and status 128 */
#define REAR_BUFFERS   (REAR_SEGMENTS + 2)
#define REAR_BOUNCE    (4u << 20)                 /* bytes of each thread */
#define REAR_MAX_BYTES (1u << COPYPOOL_MAX_SHIFT) /* of one request: a bounce buffer's */
#define REAR_BURST     32u

/* The rear may lack any of these; the disk then has less to offer. */
#define DISK_REAR_FEATURES                                                                        \
    (REAR_BIT(VIRTIO_RING_F_EVENT_IDX) | REAR_BIT(VIRTIO_RING_F_INDIRECT_DESC) |                  \
     REAR_BIT(VIRTIO_BLK_F_SIZE_MAX) | REAR_BIT(VIRTIO_BLK_F_SEG_MAX) |                           \
     REAR_BIT(VIRTIO_BLK_F_RO) | REAR_BIT(VIRTIO_BLK_F_BLK_SIZE) | REAR_BIT(VIRTIO_BLK_F_FLUSH) | \
     REAR_BIT(VIRTIO_BLK_F_TOPOLOGY) | REAR_BIT(VIRTIO_BLK_F_MQ) |                                \
     REAR_BIT(VIRTIO_BLK_F_DISCARD) | REAR_BIT(VIRTIO_BLK_F_WRITE_ZEROES))
#define DISK_REAR_PROTOCOL                                                                \
    (REAR_BIT(VHOST_F_MQ) | REAR_BIT(VHOST_F_REPLY_ACK) | REAR_BIT(VHOST_F_BACKEND_REQ) | \
     REAR_BIT(VHOST_F_CONFIG) | REAR_BIT(VHOST_F_INFLIGHT_SHMFD) |                        \
     REAR_BIT(VHOST_F_CONFIGURE_MEM_SLOTS))

enum rear_loss { REAR_HOLD, REAR_FAIL };
enum disk_rear_counter {
    REAR_REPLAYED = REAR_OWN_COUNTERS,
    REAR_HELD,
    REAR_BOUNCED,
    REAR_KICKS,
    REAR_CALLS
};

/** struct rear_line - what a request shares with the rear: a cache line to be read, and one to be written. */
struct rear_line {
    struct virtio_blk_outhdr header;
    struct vring_desc table[3]; /* of header, one piece of data or a range, status */
    uint8_t status CACHE_ALIGNED;
    struct virtio_blk_discard_write_zeroes range;
};
_Static_assert(offsetof(struct rear_line, status) == CACHE_LINE, "header and table fill a line");

/** struct rear_slot - a request that the rear has. Private. */
struct rear_slot {
    struct dt_req *req; /* NULL = free */
    void *bounce;       /* its data, if they had to be copied */
    bool flushing;      /* the write is done, and the flush that makes it durable under way */
};

/*
 * For one request, REAR_BUFFERS are needed. It is an odd number of cache lines, so that the tables' beginnings do not
 * all compete for the same few places of a cache.
 */
#define REAR_TABLE (REAR_BUFFERS + CACHE_LINE / (unsigned)sizeof(struct vring_desc))

/** struct rear_rings - one thread's part of a session. Arrays by the ring's id. */
struct rear_rings {
    struct rear_part part;
    struct rear_line *lines;
    struct vring_desc *tables; /* REAR_TABLE each; NULL: the rear knows of no indirect tables */
    struct copypool bounce;
    struct rear_slot *slots;
    uint16_t nslots;
};
static inline struct virtq_driver *rear_vq(struct rear_rings *q)
{
    return &q->part.rings[0].vq;
}

/** struct rear_list - requests, linked through their frames, oldest first. */
struct rear_list {
    struct dt_req *head, **tail;
};

/** struct rear_ctx - the back on one thread. */
struct rear_ctx {
    struct rear_lane lane;
    struct dt_ctx *c;
    struct disk_rear *rear;
    struct rear_rings *rings; /* NULL = no session */
    const struct rear_map *map;
    unsigned hint; /* region that matched last */
    unsigned in_flight;
    bool broken;              /* the rear lied: nothing is taken from its ring any more */
    struct rear_list waiting; /* for the rear, or for room */
    struct loop_poller poller;
    struct loop_deferred publish;
    struct dt_watch call;
    struct dt_timer patience;
    uint64_t rest_by; /* when held requests fail because the device is to come to rest; 0 = never */
};

/** struct disk_rear - the layer's data. */
struct disk_rear {
    struct rear rear;
    unsigned on_loss;
    struct dt_block_info info; /* fixed but for the size */
    uint64_t sectors;
    struct virtio_blk_config config; /* as first seen: a rear that comes back must be the same */
};
static inline struct disk_rear *disk_rear(struct dt_layer *layer)
{
    return dt_layer_data(layer);
}

/* rear.c: the callbacks of the layer. */
int disk_rear_open(struct dt_layer *layer, struct dt_error *err);
int disk_rear_start(struct dt_ctx *c, struct dt_error *err);
void disk_rear_stop(struct dt_ctx *c);
int disk_rear_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err);
int disk_rear_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err);
extern const char *const rear_losses[];
extern const struct dt_counter rear_counters[];

/* config.c: what the disk is. */
int disk_rear_agreed(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err);
int disk_rear_give(struct rear *rear, const struct passthrough *p, struct dt_error *err);

/* rings.c: a thread's part of the session's region. */
size_t rear_rings_bytes(const struct rear *rear);
int rear_rings_init(struct rear *rear, uint64_t features, struct rear_part *part,
                    struct dt_error *err);
void rear_rings_fini(struct rear_part *part);

/* queue.c: on the device's threads. */
void rear_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void rear_quiesce(struct dt_ctx *c, uint64_t deadline);
int rear_cancel(struct dt_ctx *c, struct dt_req *req);
void rear_ctx_init(struct rear_ctx *rc, struct dt_ctx *c);
/** rear_obey() - carry an order out. */
void rear_obey(struct rear_lane *lane, enum rear_order order, struct rear_part *part,
               const struct rear_map *map);
/** rear_give_up() - what is held may now have to fail: on-rear-loss= is another. */
void rear_give_up(struct rear_lane *lane);

/* request.c: a request in the rear's words. */
/** rear_send() - put requests on the ring. Return: how many; there is no room now for the rest. */
unsigned rear_send(struct rear_ctx *rc, struct dt_req **reqs, unsigned n);
/** rear_received() - the rear returned @n ids, at most REAR_BURST, with @lens bytes written: judge them. @done: gets the
 *  requests that are finished. Return: how many. The others, if it did not lie, are on the ring again. */
unsigned rear_received(struct rear_ctx *rc, const uint16_t *ids, const uint32_t *lens, unsigned n,
                       struct dt_req **done);
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

/* A parameter of the backs that begin with a struct disk_rear. */
#define REAR_PARAM_LOSS(param, text)                                                              \
    {                                                                                             \
        .name = param, .type = DT_PARAM_ENUM, .flags = DT_PARAM_LIVE,                             \
        .offset = offsetof(struct disk_rear, on_loss), .initial = "hold", .choices = rear_losses, \
        .help = text                                                                              \
    }

/* All of their struct dt_block_ext but names, content, parameters, verbs, open() and close(). */
#define REAR_EXTENSION                                                                             \
    .read_data = DT_DATA_PEEK, .write_data = DT_DATA_PEEK, .counters = rear_counters,              \
    .state_version = 1, .ctx_size = sizeof(struct rear_ctx),                                       \
    .frame_size = sizeof(struct dt_req *), .start = disk_rear_start, .stop = disk_rear_stop,       \
    .info = disk_rear_info, .submit = rear_submit, .quiesce = rear_quiesce, .cancel = rear_cancel, \
    .set = rear_set, .save = rear_save, .load = rear_load, .fence = disk_rear_fence

#endif
