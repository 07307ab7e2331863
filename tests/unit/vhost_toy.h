/* SPDX-License-Identifier: MIT */
/*
 * vhost_toy.h - a device without a purpose, for tests of the vhost-user back end: it takes
 * chains, returns them untouched, and can be told to be slow.
 */
#ifndef VHOST_TOY_H
#define VHOST_TOY_H

#include "vhost/backend.h"

#define TOY_QUEUES   4u
#define TOY_MAX_SIZE 1024u
#define TOY_CONFIG   60u

struct toy_slot {
    struct virtq_chain chain;
};

struct toy;

struct toy_queue {
    struct toy *toy;
    unsigned index;
    struct virtq vq;
    struct toy_slot *slots;
    struct dt_watch kick;
    bool watching;
    struct virtq_chain *held[TOY_MAX_SIZE];
    unsigned nheld;
    bool stop_asked;
    unsigned starts, stops, kick_changes;
    struct vhost_ring ring; /* as of the last start or resume */
};

/**
 * struct toy - the device and its session.
 * @hold: keep chains until toy_complete().
 * @slow: answer queue_stop() and pause() only at toy_answer().
 * @refuse_start: queue_start() fails.
 */
struct toy {
    struct loop *loop;
    struct vhost_backend *session;
    struct iovpool *iovs;
    struct toy_queue queues[TOY_QUEUES];
    bool hold, slow, refuse_start;
    bool pause_asked, paused, drain;
    unsigned pauses, resumes, feature_sets, completed, replayed;
    uint64_t features, driver_features;
    uint8_t config[TOY_CONFIG], status;
    unsigned statuses;
    uint8_t mac[6];
    unsigned closes;
    char reason[512]; /* "" after an orderly end */
};

/** toy_new() - a device that serves @sock. @protocol: protocol features offered. */
struct toy *toy_new(struct loop *loop, int sock, uint64_t protocol);
/** toy_free() - closes the session first if it still lives. */
void toy_free(struct toy *t);
/** toy_complete() - return what is held. */
void toy_complete(struct toy *t);
/** toy_answer() - answer what was asked while @slow. */
void toy_answer(struct toy *t);
/** toy_abandon() - forget the rings and never answer: the device as a crash leaves it. */
void toy_abandon(struct toy *t);

#endif
