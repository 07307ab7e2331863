/* SPDX-License-Identifier: MIT */
/*
 * confine.h - the walls around a placed extension's process, put up between fork and exec.
 *
 * They are for any program in any language, so it may still read files and run others; a hosted extension
 * gives up that as well, once it has opened what it needs: SANDBOX_EXTENSION in control/sandbox.h.
 */
#ifndef CONTROL_CONFINE_H
#define CONTROL_CONFINE_H

#include "base/base.h"

#include <sys/types.h>

/* In a host's environment: it is to confine itself. */
#define CONFINE_ENVIRONMENT "DEVTAP_CONFINE"

#define CONFINE_USERS 64u
/** confine_users() - @first: of CONFINE_USERS users and groups for the processes; 0 = as now. */
void confine_users(uid_t first);
/**
 * confine_next() - before each fork, and the first time with one thread: another user, and what takes memory.
 * Walls that this system does not offer are left out. Return: 0 or -errno, when there is not even a filter.
 */
int confine_next(void);
/** confine_child() - in the child; system calls only. 0 or -errno. */
int confine_child(void);

#endif
