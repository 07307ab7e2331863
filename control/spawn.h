/* SPDX-License-Identifier: MIT */
/* spawn.h - start a program of ours with exactly the descriptors it is to have. */
#ifndef CONTROL_SPAWN_H
#define CONTROL_SPAWN_H

#include "base/base.h"

#include <sys/types.h>

/* The first of spawn.fds in the new program; 0 is /dev/null, 1 and 2 are the log. */
#define SPAWN_FIRST_FD 3

/**
 * struct spawn - what to start.
 * @program: an O_PATH descriptor: which file it is was decided once.
 * @argv: NULL-terminated.
 * @fds, @nfds: given as SPAWN_FIRST_FD and following; all others are closed.
 * @isolate: in process-id, IPC and host-name namespaces of its own where that is possible.
 * @environment: "NAME=value" to add, or NULL.
 * @cgroup: the control group in which it begins; -1 = ours.
 */
struct spawn {
    int program;
    const char *const *argv;
    const int *fds;
    unsigned nfds;
    bool isolate;
    const char *environment;
    int cgroup;
};
/** struct child - a process that was started. @pidfd becomes readable when it has ended. */
struct child {
    pid_t pid;
    int pidfd;
    bool isolated;
};
int spawn_start(struct child *child, const struct spawn *spawn, struct dt_error *err);
/** child_kill() - SIGKILL; harmless when it has ended. */
void child_kill(const struct child *child);
/**
 * child_reap() - collect an ended child and forget it.
 * @code, @status: as in siginfo_t: CLD_EXITED and the status, or CLD_KILLED and the signal.
 */
int child_reap(struct child *child, int *code, int *status);

#endif
