/* SPDX-License-Identifier: MIT */
/* ask.h - a question to the process that serves a pool: devtap-pool-control(7). */
#ifndef BLK_CVD_ASK_H
#define BLK_CVD_ASK_H

#include <devtap/base.h>
#include <jansson.h>

/** cvd_socket() - where the process that serves the pool at @path listens, whatever link @path is; owned by the caller. */
char *cvd_socket(const char *path);
/**
 * cvd_ask() - send @request (a reference is taken over) over a connected socket, and wait for the answer.
 * @result: a new reference; NULL if not wanted.
 * Return: 0; -errno of the socket; or an errno for the status in the answer, with its text.
 */
int cvd_ask(int sock, json_t *request, int timeout_ms, json_t **result, struct dt_error *err);
/** cvd_ask_disk() - ask for a disk: then vhost-user begins on the socket. @weight: 0: the disk's own. */
int cvd_ask_disk(int sock, const char *name, bool read_only, unsigned weight, const char *owner,
                 int timeout_ms, struct dt_error *err);

#endif
