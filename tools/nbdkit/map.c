/* SPDX-License-Identifier: MIT */
/*
 * map.c - see map.h.
 *
 * That the named disk is the one behind the socket is looked at whenever its process is found: zeroes that another disk
 * has would be lost data to whoever copies this one.
 */
#include "tools/nbdkit/map.h"

#include <sys/stat.h>

/* ---- The process ------------------------------------------------------------------------------- */

static char *socket_of(json_t *list, const char *device)
{
    json_t *disk;
    size_t i;

    json_array_foreach(list, i, disk)
    {
        const char *name = json_string_value(json_object_get(disk, "name"));
        const char *path = json_string_value(json_object_get(disk, "socket"));

        if (name && path && strcmp(name, device) == 0)
            return xstrdup(path);
    }
    return NULL;
}

static bool same_socket(const char *a, const char *b)
{
    struct stat sa, sb;

    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

static int judge_socket(struct map *map, struct client *client, struct dt_error *err)
{
    json_t *list = NULL;
    int ret = client_call(client, json_pack("{ss}", "verb", "list"), &list, err);
    _cleanup_free_ char *path = ret < 0 ? NULL : socket_of(list, client_device(client));

    json_decref(list);
    if (ret < 0)
        return ret;
    if (!path)
        return dt_fail(err, -ENOENT, "device=%s listens on no socket that can be found here",
                       map->device);
    if (!map->socket)
        map->socket = TAKE_PTR(path);
    else if (!same_socket(map->socket, path))
        return dt_fail(err, -EINVAL, "device=%s listens on %s, and not on %s", map->device, path,
                       map->socket);
    return 0;
}

static int find(struct map *map, struct dt_error *err)
{
    int ret = client_find(&map->client, map->device, err);

    ret = ret ?: judge_socket(map, map->client, err);
    if (ret < 0) {
        client_free(map->client);
        map->client = NULL;
    }
    return ret;
}

int map_open(struct map *map, struct dt_error *err)
{
    pthread_mutex_init(&map->lock, NULL);
    return find(map, err);
}

void map_close(struct map *map)
{
    client_free(map->client);
    free(map->socket);
    if (map->device)
        pthread_mutex_destroy(&map->lock);
    *map = (struct map){0};
}

/* ---- The map ----------------------------------------------------------------------------------- */

/* NULL where it cannot be had now. */
static json_t *ask(struct map *map, uint64_t start, uint64_t length)
{
    json_t *piece = NULL;
    struct dt_error err;
    int ret = 0;

    pthread_mutex_lock(&map->lock);
    for (unsigned tries = 0; tries < 2 && !piece; tries++) {
        ret = map->client ? 0 : find(map, &err);
        if (ret == 0)
            ret = client_map_piece(map->client, start, length, &piece, &err);
        if (ret == 0 || !map->client)
            break;
        client_free(map->client); /* it may have ended, and another one serve the disk */
        map->client = NULL;
    }
    pthread_mutex_unlock(&map->lock);
    if (ret < 0)
        log_debug("%s: all is data: %s", map->device, err.text);
    return piece;
}

static enum dt_status status_of(const char *name)
{
    if (name && strcmp(name, "hole") == 0)
        return DT_STATUS_HOLE;
    return name && strcmp(name, "zero") == 0 ? DT_STATUS_ZERO : DT_STATUS_DATA;
}

int map_ask(struct map *map, uint64_t offset, uint64_t count,
            int (*each)(void *arg, uint64_t start, uint64_t length, enum dt_status status),
            void *arg)
{
    uint64_t start = ALIGN_DOWN(offset, (uint64_t)DT_SECTOR_SIZE), at = start;
    uint64_t end = ALIGN_UP(offset + count, (uint64_t)DT_SECTOR_SIZE);
    json_t *piece = ask(map, start, end - start), *extent;
    size_t i;
    int ret = 0;

    json_array_foreach(json_object_get(piece, "extents"), i, extent)
    {
        uint64_t from = (uint64_t)json_integer_value(json_object_get(extent, "start"));
        uint64_t length = (uint64_t)json_integer_value(json_object_get(extent, "length"));

        if (ret < 0 || at >= end || from != at || length == 0 || length > INT64_MAX - at)
            break; /* what does not follow on is not believed */
        length = MIN(length, end - at);
        ret =
            each(arg, at, length, status_of(json_string_value(json_object_get(extent, "status"))));
        at += length;
    }
    json_decref(piece);
    if (at == start)
        ret = each(arg, start, end - start, DT_STATUS_DATA);
    return ret;
}
