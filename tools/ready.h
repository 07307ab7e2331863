/* SPDX-License-Identifier: MIT */
/* ready.h - when a `devtap run` that this program starts serves its disks: it says so as to systemd, sd_notify(3). */
#ifndef TOOLS_READY_H
#define TOOLS_READY_H

#include "base/base.h"

/** struct ready - @fd: readable when something was said; -1 = nothing is awaited. @heard: it was. */
struct ready {
    int fd;
    bool heard;
    char *before; /* of the environment */
};

/** ready_listen() - programs that are started from now on speak to us. Return: 0 or -errno. */
int ready_listen(struct ready *r, struct dt_error *err);
/** ready_started() - those that are started from now on speak to whom they would have. */
void ready_started(struct ready *r);
/** ready_heard() - does it serve? Does not wait. */
bool ready_heard(struct ready *r);
void ready_end(struct ready *r);

#endif
