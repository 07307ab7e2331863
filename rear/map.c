/* SPDX-License-Identifier: MIT */
/* map.c - guest memory as the rear knows it: from our addresses to the guest's. */
#include "rear/rear.h"

#include <fcntl.h>

static int by_host(const void *a, const void *b)
{
    const struct device_region *x = a, *y = b;

    return x->host < y->host ? -1 : x->host > y->host;
}

struct rear_map *rear_map_new(const struct device_region *regions, unsigned count,
                              uint64_t generation)
{
    struct rear_map *map = xcalloc(1, sizeof(*map) + count * sizeof(map->regions[0]));

    map->generation = generation;
    for (unsigned i = 0; i < count; i++) {
        struct device_region r = regions[i];

        r.fd = r.fd >= 0 ? fcntl(r.fd, F_DUPFD_CLOEXEC, 0) : -1;
        if (r.fd < 0 || !r.host) /* what lies there is copied */
            continue;
        map->regions[map->count++] = r;
    }
    qsort(map->regions, map->count, sizeof(map->regions[0]), by_host);
    return map;
}

void rear_map_free(const struct rear_map *map)
{
    if (!map)
        return;
    for (unsigned i = 0; i < map->count; i++)
        close(map->regions[i].fd);
    free((void *)(uintptr_t)map);
}

bool rear_map_find(const struct rear_map *map, const void *host, size_t len, unsigned *hint,
                   uint64_t *gpa)
{
    unsigned low = 0, high = map->count;

    while (low < high) { /* the first region that begins above @host */
        unsigned middle = (low + high) / 2;

        if (map->regions[middle].host <= (const uint8_t *)host)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || !rear_region_gpa(&map->regions[low - 1], host, len, gpa))
        return false;
    *hint = low - 1;
    return true;
}
