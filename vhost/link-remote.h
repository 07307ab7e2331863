/* SPDX-License-Identifier: MIT */
/* link-remote.h - what the files of the worker's end share. */
#ifndef VHOST_LINK_REMOTE_H
#define VHOST_LINK_REMOTE_H

#include "vhost/internal.h"
#include "vhost/link.h"

#define REMOTE_MAGIC 0x4c526d74u

/** struct remote_queue - a ring; its descriptors are ours. */
struct remote_queue {
    struct vhost_queue_state state;
    int kick, call;
    int old_kick; /* a watch of the device may still be on it */
    bool recover, innocent, started, stopping;
};

struct vhost_remote {
    uint32_t magic;
    struct vhost_session session;
    struct vhost_remote_config config;
    struct dt_watch watch;
    bool attached;
    uint64_t features;
    bool features_set;

    struct memmap memory, log_map, inflight_map;
    struct dirtylog dirty;
    struct vhost_inflight inflight;
    int inflight_fd;
    struct {
        uint64_t id;
        struct vhost_mem_region at;
        int fd;
    } regions[MEMMAP_MAX_REGIONS];
    unsigned nregions;
    struct remote_queue queues[VHOST_MAX_QUEUES];
    bool pausing, paused;
    bool translating; /* the device was told of a translation, and has not yet answered */

    struct dt_timer config_pause; /* set: a CONFIG_CHANGED was sent just now */
    bool config_due;              /* another one follows */

    bool ending, faulted;
    struct loop_deferred end;
    char reason[256];
};

static inline struct vhost_remote *remote_of(const struct vhost_session *s)
{
    return container_of((struct vhost_session *)(uintptr_t)s, struct vhost_remote, session);
}

static inline bool vremote_any_ring(const struct vhost_remote *r)
{
    for (unsigned q = 0; q < r->config.queues; q++)
        if (r->queues[q].started)
            return true;
    return false;
}

/* link-remote.c */
/** vremote_end() - the link ends for @reason, on the loop; what is open is closed first. */
void vremote_end(struct vhost_remote *r, const char *reason);
/** vremote_send() - to the keeper; that it is gone ends the link. */
void vremote_send(struct vhost_remote *r, struct link_message *m);
/** vremote_forget() - nothing of a front end is left. */
void vremote_forget(struct vhost_remote *r);

/* link-remote-session.c: the session as its device sees it */
extern const struct vhost_session_ops vremote_session_ops;
/** vremote_fail() - what the front end did breaks the session: tell the keeper, once. */
void vremote_fail(struct vhost_session *session, const char *reason);

/* link-remote-messages.c: what the keeper sends */
/** vremote_message() - follow one message. Return: NULL, or what is wrong with it. */
const char *vremote_message(struct vhost_remote *r, struct link_message *m);

#endif
