/* SPDX-License-Identifier: MIT */
/*
 * map.h - what the disk holds where, for NBD clients: asked of the process of devtap that serves it, since the VM's
 * protocol has no request for it.
 */
#ifndef NBDKIT_MAP_H
#define NBDKIT_MAP_H

#include "tools/tools.h"

#include <pthread.h>

/**
 * struct map - zero it, set @device, map_open().
 * @device: the disk's name, as in `devtap list`.
 * @socket: where that process listens for the VM; the caller may have set it, and then both must be the same socket.
 */
struct map {
    const char *device;
    char *socket;

    pthread_mutex_t lock;
    struct client *client; /* NULL while there is none */
};

/** map_open() - find the process. */
int map_open(struct map *map, struct dt_error *err);
void map_close(struct map *map);
/**
 * map_ask() - the extents from @offset on, at most @count bytes, one by one in order without gaps, the first of them
 * with @offset in it.
 * @each: returns 0, or what map_ask() returns.
 * What nobody tells is data, also while that process or its worker is being replaced.
 */
int map_ask(struct map *map, uint64_t offset, uint64_t count,
            int (*each)(void *arg, uint64_t start, uint64_t length, enum dt_status status),
            void *arg);

#endif
