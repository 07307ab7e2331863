/* SPDX-License-Identifier: MIT */
/* guest.h - the parts of cvd-guest, the program in the VM. It uses libc and jansson alone. */
#ifndef TOOLS_GUEST_H
#define TOOLS_GUEST_H

#include <jansson.h>
#include <stdbool.h>

/* As in cvd-guest(1). */
enum guest_status {
    GUEST_DONE,
    GUEST_FAILED,
    GUEST_USAGE,
    GUEST_NO_PORT,
    GUEST_PORT_USED,
    GUEST_DENIED,
    GUEST_NO_ANSWER = 7,
};

/** complain() - on standard error, with our name before it. Return: @status. */
__attribute__((format(printf, 2, 3))) enum guest_status complain(enum guest_status status,
                                                                 const char *format, ...);

/* ---- port.c ---- */

#define PORT_NAME "org.devtap.cvd"

/** port_open() - the port at @path, or that of our name if NULL. */
enum guest_status port_open(int *fd, const char *path);
/**
 * port_ask() - send @request, whose reference is taken over, and wait for its answer.
 * @answer: a new reference, with "done".
 */
enum guest_status port_ask(int fd, json_t *request, unsigned timeout_s, json_t **answer);

/* ---- freeze.c ---- */

#define FREEZE_MAX 16u

/** struct frozen - file systems that take no writes, in the order in which they were frozen. */
struct frozen {
    int fds[FREEZE_MAX];
    unsigned n;
    int guard; /* a pipe: its other end's reader thaws when this is closed */
    long pid;
};

/**
 * freeze() - all of @directories, or none.
 * @timeout_s: after so long they are thawed, whoever still lives.
 */
enum guest_status freeze(struct frozen *f, char *const *directories, unsigned n,
                         unsigned timeout_s);
/** thaw() - Return: false if they were thawed before, by the guard: what was to happen meanwhile may not have. */
bool thaw(struct frozen *f);

#endif
