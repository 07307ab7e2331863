/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of this folder share.
 */
#ifndef VHOST_INTERNAL_H
#define VHOST_INTERNAL_H

#include "vhost/backend.h"
#include "vhost/frontend.h"

#include <linux/virtio_config.h>
#include <sys/types.h>

#define BIT(n) (1ull << (n))

/* ---- Codec ------------------------------------------------------------------------------ */

#define VHOST_MAX_PAYLOAD sizeof(((struct vhost_message *)0)->raw)

/**
 * struct vhost_shape - what a request may look like on the wire: the first check of every message.
 * @index: where its payload starts with the index of a ring.
 */
struct vhost_shape {
    const char *name;
    uint16_t min_size, max_size;
    uint8_t min_fds, max_fds;
    enum vhost_index { INDEX_NONE, INDEX_U32, INDEX_U8 } index;
};
/** vhost_shape() - NULL for a request that is not known. */
const struct vhost_shape *vhost_shape(uint32_t request);

/** vhost_fd_set_nonblock() - of the open file, so of the peer's descriptor too. */
int vhost_fd_set_nonblock(int fd);

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- Back-end session --------------------------------------------------------------------- */

#define BACKEND_MAGIC 0x76684245u

/** struct backend_queue - what of a ring cannot be in shared memory. */
struct backend_queue {
    int kick, call, err; /* -1 = none */
    int old_kick;        /* a watch of the device may still be on it */
    bool stopping;       /* queue_stop() was called and not yet answered */
    bool recover;        /* the in-flight log may hold what another process left */
    bool left;           /* stopped with requests in the log, at @left_base */
    uint32_t left_base;
};

/** struct backend_file - an in-flight region's identity: same file, same place, same content. */
struct backend_file {
    dev_t dev;
    ino_t ino;
};

struct vhost_backend {
    uint32_t magic;
    struct vhost_session session;
    struct vhost_backend_config config;
    char *name;
    struct dt_watch watch;
    bool watching;
    struct vhost_stream stream;
    struct vhost_state *state;
    int state_fd;

    /* The log and the in-flight region are maps of one region at address 0, for the checks of
     * memmap_add() and the guard against files that shrink. */
    struct memmap memory, log_map, inflight_map;
    struct dirtylog dirty;
    struct backend_file inflight_file;

    /* With keep_files: what vhost_backend_files() hands out. */
    struct vhost_file *region_files; /* MEMMAP_MAX_REGIONS */
    struct vhost_file log_file, inflight_kept;
    uint64_t file_ids;
    bool memory_changed; /* the device has not yet been told */

    int events; /* the back end's own channel, -1 = none */
    struct backend_queue queues[VHOST_MAX_QUEUES];

    /* The message under way, and what it waits for. */
    bool busy;
    struct vhost_message message;
    unsigned stopping; /* queues whose stop is not yet answered */
    bool pausing, paused;
    bool translating; /* iotlb() is not yet answered */
    int translated;   /* what it answered */
    bool frozen;      /* on its way to another process: the front end is not read */

    bool advancing;
    enum { BACKEND_OPEN, BACKEND_CLOSING, BACKEND_TORN_DOWN, BACKEND_CLOSED } phase;
    struct loop_deferred advance, closed;
    bool broken; /* @reason holds why */
    char reason[512];
};

/** struct backend_request - how a request is served, once its shape was found right.
 * @check: judge the message as a whole, before anything is disturbed; then ask for the quiet that
 *         @apply needs, by backend_stop_queue() or backend_pause(). May be NULL.
 * @apply: do it. Called when all is quiet. Where @answers, it turns the message into the reply.
 * @feature: the protocol feature that must have been offered, or 0.
 *
 * Both return 0 or -errno with a text: the request is refused, with a nonzero answer where the
 * front end waits for one; else the session breaks.
 */
struct backend_request {
    int (*check)(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err);
    int (*apply)(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err);
    uint64_t feature;
    bool answers;
};
/** backend_request() - NULL where there is no such request, or none that was offered. */
const struct backend_request *backend_request(const struct vhost_backend *s, uint32_t request);

/* backend.c: life of a session */
void backend_watch(struct vhost_backend *s, bool want);
/** backend_abandon() - free what was never served; the socket stays whoever's it was. */
void backend_abandon(struct vhost_backend *s);
void backend_stop_queue(struct vhost_backend *s, unsigned q);
void backend_stop_queues(struct vhost_backend *s);
void backend_pause(struct vhost_backend *s, bool drain);
bool backend_any_started(const struct vhost_backend *s);

/* backend-dispatch.c: one message after the other */
void backend_begin_message(struct vhost_backend *s);
void backend_finish_message(struct vhost_backend *s);

/* backend-files.c: descriptors kept for handing on */
int backend_keep_file(struct vhost_backend *s, struct vhost_file *file, int fd,
                      struct dt_error *err);
void backend_forget_file(struct vhost_backend *s, struct vhost_file *file);
void backend_forget_regions(struct vhost_backend *s);
/** backend_tell_memory() - let the device know if guest memory or a log is another. */
void backend_tell_memory(struct vhost_backend *s);

/* backend-start.c: when does a ring run */
int backend_ring_config(struct vhost_backend *s, unsigned q, struct virtq_config *config,
                        struct dt_error *err);
void backend_start_ready(struct vhost_backend *s);
void backend_signal(int fd);

/* backend-inflight.c */
int backend_inflight_open(struct vhost_backend *s, unsigned q, bool packed, struct dt_error *err);
/** vhost_inflight_judge() - can there be such a region? */
int vhost_inflight_judge(const struct vhost_inflight *r, bool packed, struct dt_error *err);
void *backend_inflight_log(const struct vhost_backend *s, unsigned q, bool packed);

/* backend-device.c */
uint64_t backend_offered_features(const struct vhost_backend *s);

typedef int backend_step(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err);
/* backend-device.c */
backend_step get_features, check_set_features, set_features, get_protocol_features,
    set_protocol_features, set_owner, reset_owner, get_queue_num, get_config, set_config,
    get_max_mem_slots, check_set_backend_req_fd, set_backend_req_fd, check_reset_device,
    reset_device, set_status, get_status, send_rarp, set_mtu;
/* backend-iotlb.c */
backend_step check_iotlb, answer_iotlb;
/* backend-memory.c */
backend_step check_set_mem_table, set_mem_table, add_mem_reg, check_add_mem_reg, rem_mem_reg,
    check_rem_mem_reg, check_set_log_base, set_log_base, set_log_fd;
/* backend-inflight.c */
backend_step check_get_inflight_fd, get_inflight_fd, check_set_inflight_fd, set_inflight_fd;
/* backend-ring.c */
backend_step check_set_vring_num, set_vring_num, check_set_vring_addr, set_vring_addr,
    check_set_vring_base, set_vring_base, check_get_vring_base, get_vring_base,
    check_set_vring_kick, set_vring_kick, check_set_vring_call, set_vring_call, check_set_vring_err,
    set_vring_err, check_set_vring_enable, set_vring_enable;

/* ---- Front-end session ---------------------------------------------------------------------- */

#define FRONTEND_MAGIC 0x76684645u

/** struct frontend_region - memory the back end was given; @fd is ours, for resending the table. */
struct frontend_region {
    struct vhost_mem_region at;
    int fd;
};

/* Few enough that all answers fit into a socket's buffer: a back end need not wait to be read. */
#define FRONTEND_PENDING 32u

struct vhost_frontend {
    uint32_t magic;
    int timeout_ms;
    struct vhost_stream stream;
    struct vhost_stream events; /* .sock = -1 without the back end's own channel */
    uint64_t offered, offered_protocol;
    uint64_t features, protocol; /* acknowledged */
    unsigned queues, queue_rings, slots;
    struct frontend_region *regions;
    unsigned count;
    bool failed; /* the stream is out of step: nothing more can be said on it */
    bool batch;
    unsigned npending; /* commands whose answers are not yet taken, oldest first */
    uint32_t pending[FRONTEND_PENDING];
};

/** frontend_command() - send a request that has no answer of its own, and wait until it was
 *  carried out where the protocol lets us know. */
int frontend_command(struct vhost_frontend *f, struct vhost_message *m, struct dt_error *err);
/** frontend_query() - send a request and receive its answer, which replaces *@m; its size must
 *  be @size and its descriptors at most @fds (which the caller closes). */
int frontend_query(struct vhost_frontend *f, struct vhost_message *m, uint32_t size, unsigned fds,
                   struct dt_error *err);
/** frontend_event() - take up, and answer where that is asked, what the back end's channel brought. */
int frontend_event(struct vhost_frontend *f, bool *config_changed);
static inline bool frontend_has(const struct vhost_frontend *f, enum vhost_protocol_feature bit)
{
    return f->protocol & BIT(bit);
}

#endif
