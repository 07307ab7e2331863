/* SPDX-License-Identifier: MIT */
/* listen.h - Unix sockets at a path, which replace only those that nobody serves. */
#ifndef BASE_LISTEN_H
#define BASE_LISTEN_H

#include "base/base.h"

/**
 * bind_path() - a Unix socket of @type, such as SOCK_DGRAM, at @path; non-blocking.
 * @owner, @group: -1 = the caller's.
 * @patience_ms: how long somebody else's socket may still be there: that of a process just killed
 *               lives on for some milliseconds.
 *
 * A socket file that nobody serves is replaced. Nobody can connect before it has its owner and
 * mode, as nobody can before listen().
 * Return: the descriptor; -EADDRINUSE when somebody serves @path, -EEXIST when it is no socket.
 */
int bind_path(const char *path, int type, long owner, long group, unsigned mode,
              unsigned patience_ms, struct dt_error *err);
/** listen_at() - a Unix stream socket at @path, not listening yet: listen(2) opens it. See bind_path(). */
int listen_at(const char *path, long owner, long group, unsigned mode, unsigned patience_ms,
              struct dt_error *err);
#define LISTEN_PATIENCE_MS 5000u
/** socket_kind() - 1 = @fd is a listening Unix stream socket, 0 = a connected one, -errno. */
int socket_kind(int fd);

#endif
