/* SPDX-License-Identifier: MIT */
/* server.h - the disks of one process: what serve.c and worker.c share. */
#ifndef TOOLS_RUN_SERVER_H
#define TOOLS_RUN_SERVER_H

#include "blk/vhost-user/front.h"
#include "tools/run/run.h"
#include <pthread.h>
#include <semaphore.h>

/** struct disk - one soft disk and its front. */
struct disk {
    struct server *server;
    const struct disk_config *config;
    unsigned first_thread;
    struct disk_socket socket; /* until the front owns it; not in a worker */
    struct device *dev;
    bool started;
    struct front *front;
    sem_t stopped;
    char late[160];
    int next_link; /* to a new keeper, until the front has lost the one before */
};

struct io_thread {
    struct loop *loop;
    pthread_t thread;
    bool running;
    unsigned index;
};

struct server {
    struct run_config *config;
    struct loop *loop;
    struct io_thread *threads;
    struct disk *disks;
    struct control *control;
    struct signals signals;
    uint8_t *state; /* memory for the layers' state, in a worker */
    struct worker *worker; /* where a supervisor has the sockets; else NULL */
    struct activation activation;
};

struct loop *disk_loop(const struct disk *d);

#endif
