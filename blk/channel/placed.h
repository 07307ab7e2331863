/* SPDX-License-Identifier: MIT */
/*
 * placed.h - extensions in processes of their own.
 *
 * Theory of operation: in the worker, the *proxy* is the layer that stands for the extension. It
 * has the extension's own rules and parameters, starts its process, and sends every request
 * through an extension channel (channel/channel.h). In the process, the *host* runs the very same
 * extension in a chain of its own: a front that takes requests out of the channel, the
 * extension, and a back that returns what it forwards. A program in another language takes the
 * place of the host.
 *
 * Where several threads serve the device, each has a *link* in the proxy, with a channel of its own, and a
 * thread of its own in the host.
 *
 * The proxy keeps each request until it was answered. When the process dies, hangs or breaks the
 * protocol, it is killed and started again with its last saved state and the present
 * parameters; once nothing that the old one forwarded is under way below, all unanswered
 * requests are sent again, flagged DT_REQ_REPLAYED.
 */
#ifndef BLK_CHANNEL_PLACED_H
#define BLK_CHANNEL_PLACED_H

#include "core/core.h"
#include <signal.h>
#include <sys/types.h>

/**
 * struct placed_spawner - who makes processes where this one may not: a keeper on behalf of its
 * worker.
 * @mem_limit: bytes of address space; with PLACED_LIMIT_PRIVATE, of memory that is not a file's. 0 = no limit.
 * @start: run @argv with @sock (which stays the caller's) as descriptor 3. Return: a pidfd (owned
 * by the caller), or -errno; *@pid for people.
 * @kill:  end it with SIGKILL, whatever user it runs as. 0 or -errno.
 * @reap:  it ended: how, as waitid(2) says. 0 or -errno when nobody knows.
 */
#define PLACED_LIMIT_PRIVATE (1ull << 63)
struct placed_spawner {
    int (*start)(char *const *argv, int sock, uint64_t mem_limit, pid_t *pid);
    int (*kill)(int pidfd);
    int (*reap)(int pidfd, siginfo_t *info);
};

/**
 * struct placed_config - how extensions' processes are made.
 * @host:    the program that hosts extensions: run as `HOST ext-host NAME`. NULL = this program
 * itself.
 * @confine: called in the new process before it executes the program, with its control socket as
 *           descriptor 3 and all above closed on exec; only async-signal-safe calls. 0 or -errno.
 * May be NULL.
 * @host_main: the whole life of a host, in the forked process itself instead of executing @host: the program
 *           is loaded already, and a death costs its requests no wait for the dynamic linker. NULL =
 *           execute.
 * @confine_host: called in a host once its extension is open, before it sees a saved state or a request;
 *           0 or -errno. May be NULL.
 */
struct placed_config {
    const char *host;
    int (*confine)(void);
    int (*confine_host)(struct dt_error *err);
    int (*host_main)(const char *name);
    const struct placed_spawner *spawner; /* NULL = this process forks */
};
/** placed_init() - let chains place extensions in processes. @config must stay; NULL = defaults. */
void placed_init(const struct placed_config *config);

/** placed_fork() - the usual spawner.start: a child of this process, for spawners of others. */
int placed_fork(char *const *argv, int sock, uint64_t mem_limit, pid_t *pid);

/** placed_params - what every placed extension takes besides its own; for the help. */
extern const struct dt_param placed_params[];

/** placed_pid() - the process of a placed layer, or -1. @restarts: how often it was replaced. On
 * the layer's thread. */
pid_t placed_pid(struct dt_layer *layer, unsigned *restarts);

/**
 * placed_host() - the whole life of a process that hosts the extension @name: run it when a
 * program is called as `PROGRAM ext-host NAME`. Built-in extensions are registered before.
 * Return: the exit status.
 */
int placed_host(const char *name);

#endif
