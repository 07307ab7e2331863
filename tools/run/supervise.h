/* SPDX-License-Identifier: MIT */
/* supervise.h - what the files of the supervising process share. */
#ifndef TOOLS_RUN_SUPERVISE_H
#define TOOLS_RUN_SUPERVISE_H

#include "tools/run/run.h"

#include "control/cgroup.h"
#include "control/supervisor.h"
#include <limits.h>

/**
 * struct live - parameters that were set while disks are served; a successor is to have them, too.
 * @values: of device, layer and parameter.
 * @owed:   answers of the worker to what it was sent when it started.
 * @late:   those of @values that it was not sent then.
 */
struct live {
    json_t *values, *late;
    size_t owed;
};

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
    struct live live;     /* parameters set since the start */
    struct supervisor *supervisor;
    char program[PATH_MAX];
    bool was_ready;
    int status;
    struct change_wanted *wanted; /* a change that a successor is to bring, or NULL */
};

/** worker_client() - to speak to the worker; NULL while there is none. */
struct client *worker_client(struct supervise *s);
/** ask_worker() - pass @request (taken over) on. -EAGAIN while there is no worker. */
int ask_worker(struct supervise *s, json_t *request, json_t **result, struct dt_error *err);
/** disk_index() - of the disk named @device; their count if there is none. */
unsigned disk_index(const struct supervise *s, const char *device);
/** supervise_worker_argv() - for a worker of these disks; owned, free with free_words(). */
char **supervise_worker_argv(const struct run_config *config);
void free_words(char **words);
/** supervise_ask_passphrases() - of disks that want a person, at the terminal; without one, of none. */
int supervise_ask_passphrases(const struct run_config *config, struct dt_error *err);

/* Parameters set while VMs run (supervise-live.c). */
void live_init(struct supervise *s);
void live_fini(struct supervise *s);
/** live_set() - in the worker, and in all after it. */
int live_set(struct supervise *s, const char *device, const char *layer, const char *param,
             const char *value, struct dt_error *err);
/** live_forget() - all of @device for which @gone(arg, layer). */
void live_forget(struct supervise *s, const char *device,
                 bool (*gone)(const void *arg, const char *layer), const void *arg);
/** live_settle() - hear what the worker, which @client speaks to, says of what it was sent when it started. */
void live_settle(struct supervise *s, struct client *client);
/* Of struct supervisor_ops. */
void live_started(void *arg, int control);
void live_restarted(void *arg);

/* Chains changed while VMs run (supervise-change.c). */
/** supervise_changing() - the disk whose chain a successor changes; NULL = none. */
const char *supervise_changing(const struct supervise *s);
int supervise_change(void *arg, const char *device, json_t *request, json_t **result,
                     struct dt_error *err);
void supervise_changed(void *arg, const char *why);
void supervise_change_free(struct supervise *s);

#endif
