/* SPDX-License-Identifier: MIT */
/* server.h - the disks of one process and their threads: what threads.c, disk.c and serve.c share.
 */
#ifndef TOOLS_RUN_SERVER_H
#define TOOLS_RUN_SERVER_H

#include "tools/run/run.h"

#include "blk/vhost-user/front.h"
#include "net/vhost-user/front.h"
#include <pthread.h>
#include <semaphore.h>

/** struct disk - one soft disk, or network card, and its front. @ops: the front's, with our own. */
struct disk {
    struct server *server;
    const struct disk_config *config;
    unsigned first_thread;
    struct disk_socket socket; /* until the front owns it; not in a worker */
    struct device *dev;
    bool started;
    char *out; /* why it could not be opened: the others are served; or NULL */
    struct front_ops ops;
    struct front *front;
    sem_t stopped;
    char late[160];
    struct dt_timer hold; /* until it is held at rest at most */
    int next_link;        /* to a new keeper, until the front has lost the one before */
};

/** struct io_thread - @own: it is the thread that the process began with. */
struct io_thread {
    struct loop *loop;
    pthread_t thread;
    bool running, own;
    unsigned index;
};

/** struct exchange - the new thread of server_exchange(). @owned: the first I/O loop has its thread. */
struct exchange {
    struct server *server;
    void (*rest)(struct server *s);
    struct loop_message message;
    sem_t owned;
    pthread_t thread;
};

struct server {
    struct run_config *config;
    struct loop *loop;
    struct io_thread *threads;
    struct disk *disks;
    struct control *control;
    struct signals signals;
    uint8_t *state;        /* memory for the layers' state, in a worker */
    struct worker *worker; /* where a supervisor has the sockets; else NULL */
    struct activation activation;
    struct exchange exchange; /* in a worker */
};

static inline unsigned thread_count(const struct server *s)
{
    return (unsigned)s->config->process.threads;
}

/* threads.c */
int server_new_loops(struct server *s, struct dt_error *err);
/** server_start_threads() - those from @first up to @end, and wait until each owns its loop. */
int server_start_threads(struct server *s, unsigned first, unsigned end, struct dt_error *err);
/** server_stop_threads() - and wait for their ends, but for that of the process's own. */
void server_stop_threads(struct server *s);
/**
 * server_exchange() - have a new thread do @rest, to its end with server_stop_threads(), and this one become the
 * first I/O thread by server_run_exchanged(), which returns when all that is done.
 */
int server_exchange(struct server *s, void (*rest)(struct server *s), struct dt_error *err);
void server_run_exchanged(struct server *s);
/** server_free_loops() - no thread runs any more. */
void server_free_loops(struct server *s);

/* pairs.c */
/** pairs_find() - for each disk the first one whose thread it must have; mostly that is itself. */
void pairs_find(const struct run_config *config, unsigned *first);

/* disk.c: in this order, on the main thread. */
void disk_init(struct disk *d, struct server *s, const struct disk_config *config,
               unsigned first_thread);
/** disk_open_socket() - bind it, or take an inherited one; nobody can connect yet. */
int disk_open_socket(struct disk *d, struct dt_error *err);
/** disk_fence() - before a worker can see no other process any more. */
int disk_fence(struct disk *d, struct dt_error *err);
/** disk_open_device() - open and lock what the chain stands on. */
int disk_open_device(struct disk *d, struct dt_error *err);
/** disk_start() - once the threads run: lanes, then the front, and VMs may connect. */
int disk_start(struct disk *d, struct dt_error *err);
/** disk_begin_stop() - let the front end its session; does not wait. */
void disk_begin_stop(struct disk *d);
/** disk_stop() - wait for that, and close all that was opened, however far that had come. */
void disk_stop(struct disk *d);
const struct front_class *disk_front_class(const struct disk *d);
/** disk_loop() - of its first thread, where its front lives. */
struct loop *disk_loop(const struct disk *d);

#endif
