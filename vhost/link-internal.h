/* SPDX-License-Identifier: MIT */
/* link-internal.h - what the files of the keeper's end share. */
#ifndef VHOST_LINK_INTERNAL_H
#define VHOST_LINK_INTERNAL_H

#include "vhost/internal.h"
#include "vhost/link.h"

#define PROXY_MAGIC  0x4c507879u
#define LINK_WAIT_MS 2000 /* for room in the socket: a worker that reads nothing is lost */

/** struct proxy_queue - a ring: what the session asked for, and how far the worker is. */
struct proxy_queue {
    bool started;  /* queue_start() was called, queue_stop() not yet answered */
    bool stopping; /* queue_stop() was called */
    bool given;    /* the worker has it */
    bool running;  /* and said so */
    bool asked;    /* the worker was asked to stop it */
};

struct vhost_proxy {
    uint32_t magic;
    struct loop *loop;
    char *name;
    uint64_t patience;
    const struct vhost_proxy_ops *ops;
    void *arg;

    struct vhost_backend *session; /* NULL = no front end */
    unsigned nqueues;

    bool have_floor;
    struct link_floor floor;                 /* as the guest knows it, with what its driver wrote */
    uint8_t worker_config[VHOST_MAX_CONFIG]; /* as the present worker knows it */

    int sock; /* -1 = no worker */
    struct dt_watch watch;
    bool innocent; /* its predecessor */
    bool ready;    /* its floor was accepted */
    bool handed;   /* it has the session */
    bool broken;   /* the link failed; the loop will tell */
    char reason[256];

    struct proxy_queue queues[VHOST_MAX_QUEUES];
    bool pausing, paused, drain; /* the session's */
    bool pause_asked;            /* the worker was asked to pause */
    bool releasing, release_wanted;
    bool translating;     /* the session waits for an answer about a translation */
    bool translate_asked; /* and the worker was asked */

    /* What the worker has of guest memory, by the ids of vhost_backend_files(). */
    uint64_t known[MEMMAP_MAX_REGIONS];
    unsigned nknown;
    uint64_t known_log, known_inflight;

    struct dt_timer impatience;
    uint64_t lost_at; /* 0 = nothing to recover */
    struct vhost_recovery recovery;
    struct loop_deferred tell;
    bool tell_ready, tell_lost, tell_recovered, tell_released;
};

/* link-proxy.c */
void vproxy_fail(struct vhost_proxy *p, const char *fmt, ...) DT_PRINTF(2, 3);
/** vproxy_send() - to the worker, if there is one that has the session. */
void vproxy_send(struct vhost_proxy *p, struct link_message *m);
void vproxy_tell(struct vhost_proxy *p, bool *what);
/** vproxy_backend_config() - of a session; all but its socket. */
struct vhost_backend_config vproxy_backend_config(struct vhost_proxy *p);

/* link-handover.c: what a worker is given */
void vproxy_send_features(struct vhost_proxy *p);
void vproxy_send_memory(struct vhost_proxy *p);
void vproxy_send_queue(struct vhost_proxy *p, unsigned q, enum link_type type, bool recover);
void vproxy_hand_over(struct vhost_proxy *p);
/** vproxy_left_base() - where a ring stands that nobody serves, from used ring and in-flight log. */
int vproxy_left_base(struct vhost_proxy *p, unsigned q, uint32_t *base, struct dt_error *err);

/* link-proxy-ops.c: the session's wishes */
extern const struct vhost_device_ops vproxy_device_ops;
/** vproxy_answer_without() - nobody serves the rings: answer what the session still waits for. */
void vproxy_answer_without(struct vhost_proxy *p);
void vproxy_be_patient(struct vhost_proxy *p);
/** vproxy_translated() - what the session asked about a translation is answered. */
void vproxy_translated(struct vhost_proxy *p, int result);

#endif
