/* SPDX-License-Identifier: MIT */
/* events.h - what the process that serves a pool tells of a disk: devtap-pool-control(7). */
#ifndef BLK_CVD_EVENTS_H
#define BLK_CVD_EVENTS_H

#include <devtap/layer.h>

/** struct cvd_event - @missed: how many there were before that were not told. */
struct cvd_event {
    char event[32], text[300];
    uint64_t missed;
};
/**
 * cvd_event_parse() - a line of @n bytes, without its newline.
 * Return: 1; 0: it is an answer, and no event; -EINVAL: it is none of what may come.
 */
int cvd_event_parse(struct cvd_event *e, const char *line, size_t n);

/** struct cvd_events - the connection's beginning of a line. */
struct cvd_events {
    size_t have;
    char line[4096];
};
/** cvd_events_ask() - ask for those of @disk, on a connected socket. */
int cvd_events_ask(struct cvd_events *e, int sock, const char *disk);
/** cvd_events_read() - pass on what is there as events of @layer. Return: 0, or -errno: the connection is of no more use. */
int cvd_events_read(struct cvd_events *e, int sock, struct dt_layer *layer);

#endif
