/* SPDX-License-Identifier: MIT */
/* cut.h - the connection that another process has to a Unix socket. */
#ifndef TOOLS_ATTACH_CUT_H
#define TOOLS_ATTACH_CUT_H

#include "base/base.h"

#include <sys/types.h>

/**
 * cut_find() - a descriptor of process @pid's end of its connection to the socket at @path: shutdown(2) on it
 * ends the connection for both. Needs what ptrace(2) needs: the same user, or root.
 * Return: the descriptor; -ENOTCONN if there is no such connection, -EMLINK if there are several; -EPERM.
 */
int cut_find(pid_t pid, const char *path, struct dt_error *err);

#endif
