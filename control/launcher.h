/* SPDX-License-Identifier: MIT */
/*
 * launcher.h - starts and ends the processes of placed extensions, and makes the connections of layers, for a
 * worker that may do neither.
 *
 * It is made by the worker while that is still free, and does what it is told until then. What it was
 * told becomes the list of all that it will ever start again, or connect to.
 */
#ifndef CONTROL_LAUNCHER_H
#define CONTROL_LAUNCHER_H

#include "base/base.h"

#include <sys/types.h>

/** launcher_start() - from a process with one thread. @uid: the first of CONFINE_USERS for the extensions'
 *  processes; 0 = ours. @host_main: see struct placed_config. */
int launcher_start(uid_t uid, int (*host_main)(const char *name), struct dt_error *err);
/** launcher_seal() - from here on nothing new is started or connected to; a launcher without anything to do ends. */
int launcher_seal(struct dt_error *err);

#endif
