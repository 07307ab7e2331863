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

static bool holds(const struct device_region *r, const void *host, size_t len, uint64_t *gpa)
{
    uint64_t at = (uint64_t)((uintptr_t)host - (uintptr_t)r->host);

    if (at >= r->size || len > r->size - at)
        return false;
    *gpa = r->gpa + at;
    return true;
}

bool rear_map_gpa(const struct rear_map *map, const void *host, size_t len, unsigned *hint,
                  uint64_t *gpa)
{
    unsigned low = 0, high = map->count;

    if (likely(*hint < map->count && holds(&map->regions[*hint], host, len, gpa)))
        return true;
    while (low < high) { /* the first region that begins above @host */
        unsigned middle = (low + high) / 2;

        if (map->regions[middle].host <= (const uint8_t *)host)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || !holds(&map->regions[low - 1], host, len, gpa))
        return false;
    *hint = low - 1;
    return true;
}
