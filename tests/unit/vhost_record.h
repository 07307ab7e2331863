/* SPDX-License-Identifier: MIT */
/*
 * vhost_record.h - a conversation with a back end as the fuzz target reads it: records of a kind,
 * an argument, a length and as many bytes. With DEVTAP_RECORD=DIR in the environment the tests of
 * the message orders write theirs to DIR, which is how fuzz/corpus/vhost was made.
 */
#ifndef VHOST_RECORD_H
#define VHOST_RECORD_H

#include "vhost_toy.h"

#include <stdio.h>

struct record_header {
    uint8_t kind, arg;
    uint16_t len;
};

/* Kinds, modulo RECORD_KINDS. */
enum {
    RECORD_MESSAGE,   /* arg: RECORD_FD_* and, times 16, how many; bytes: request, flags, payload */
    RECORD_RAW,       /* bytes for the socket */
    RECORD_MEMORY,    /* bytes: offset in guest memory (4 bytes), then what to write there */
    RECORD_REGION,    /* the same for the file of RECORD_FD_REGION */
    RECORD_KICK,      /* arg: queue */
    RECORD_DEVICE,    /* arg: bit 0 hold, 1 slow, 2 complete, 3 answer, 4 forget the rings */
    RECORD_RECONNECT, /* the front end comes back to a new process */
    RECORD_KINDS
};

/* Which descriptor goes with a message; the last two stand for those nobody should send. */
enum {
    RECORD_FD_KICK,
    RECORD_FD_CALL = RECORD_FD_KICK + TOY_QUEUES,
    RECORD_FD_MEMORY = RECORD_FD_CALL + TOY_QUEUES,
    RECORD_FD_REGION, /* an in-flight region, the back end's own once there is one; or a log */
    RECORD_FD_SOCKET,
    RECORD_FD_NULL,
    RECORD_FD_PIPE,
    RECORD_FDS
};

struct peer;
/** record_open() - NULL unless DEVTAP_RECORD is set. */
FILE *record_open(const char *name);
void record_message(FILE *f, const struct peer *p, const struct vhost_message *m);
/** record_changes() - the guest memory that differs from @shadow, which is updated. */
void record_changes(FILE *f, const struct peer *p, uint8_t *shadow);
void record_plain(FILE *f, uint8_t kind, uint8_t arg);

#endif
