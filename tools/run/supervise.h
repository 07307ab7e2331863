/* SPDX-License-Identifier: MIT */
/* supervise.h - what the files of the supervising process share. */
#ifndef TOOLS_RUN_SUPERVISE_H
#define TOOLS_RUN_SUPERVISE_H

#include "tools/run/run.h"

#include "control/cgroup.h"
#include "control/supervisor.h"
#include <limits.h>

struct supervise {
    struct run_config *config;
    struct loop *loop;
    struct control *control;
    struct signals signals;
    struct activation activation;
    struct disk_socket *sockets;
    struct supervised_disk *disks;
    char **worker_argv;
    struct events *events;
    struct cgroup cgroup; /* of the worker, where it has a weight */
    json_t *changes;      /* parameters set since the start */
    struct supervisor *supervisor;
    char program[PATH_MAX];
    bool was_ready;
    int status;
    struct change_wanted *wanted; /* a change that a successor is to bring, or NULL */
};

/** ask_worker() - pass @request (taken over) on. -EAGAIN while there is no worker. */
int ask_worker(struct supervise *s, json_t *request, json_t **result, struct dt_error *err);
/** disk_index() - of the disk named @device; their count if there is none. */
unsigned disk_index(const struct supervise *s, const char *device);
/** supervise_worker_argv() - for a worker of these disks; owned, free with free_words(). */
char **supervise_worker_argv(const struct run_config *config);
void free_words(char **words);
/** supervise_ask_passphrases() - of disks that want a person, at the terminal; without one, of none. */
int supervise_ask_passphrases(const struct run_config *config, struct dt_error *err);

/* Chains changed while VMs run (supervise-change.c). */
int supervise_change(void *arg, const char *device, json_t *request, json_t **result,
                     struct dt_error *err);
void supervise_changed(void *arg, const char *why);
void supervise_change_free(struct supervise *s);

#endif
