/* SPDX-License-Identifier: MIT */
/*
 * memory.c - guest memory as a device's front has it, for backs that give it to somebody else.
 *
 * Most backs never ask: to them a request's data are vectors. A back whose requests are served by
 * another program needs the files behind those vectors.
 */
#include "core/internal.h"
#include <fcntl.h>
#include <sys/stat.h>

static void forget(struct device *dev)
{
    for (unsigned i = 0; i < dev->nregions; i++)
        if (dev->regions[i].fd >= 0)
            close(dev->regions[i].fd);
    free(dev->regions);
    dev->regions = NULL;
    dev->nregions = 0;
}

static bool same_file(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool device_region_same(const struct device_region *a, const struct device_region *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->host == b->host && a->offset == b->offset &&
           same_file(a->fd, b->fd);
}

/* Sessions also tell when a log of theirs is another. */
static bool same(const struct device *dev, const struct device_region *regions, unsigned count)
{
    bool equal = count == dev->nregions;

    for (unsigned i = 0; equal && i < count; i++)
        equal = device_region_same(&dev->regions[i], &regions[i]);
    return equal;
}

void device_set_memory(struct device *dev, const struct device_region *regions, unsigned count)
{
    CHECK_MAGIC(dev, DEVICE_MAGIC);
    if (same(dev, regions, count))
        return;
    forget(dev);
    if (count)
        dev->regions = xcalloc(count, sizeof(*dev->regions));
    for (unsigned i = 0; i < count; i++) {
        dev->regions[i] = regions[i];
        dev->regions[i].fd = fcntl(regions[i].fd, F_DUPFD_CLOEXEC, 0);
        if (dev->regions[i].fd < 0)
            log_error("%s: cannot duplicate a descriptor of guest memory: %m", dev->name);
    }
    dev->nregions = count;
    for (unsigned i = 1; i <= dev->nlayers; i++)
        if (dev->layers[i]->memory_changed)
            dev->layers[i]->memory_changed(dev->layers[i]);
}

void layer_watch_memory(struct dt_layer *layer, void (*changed)(struct dt_layer *layer))
{
    layer->memory_changed = changed;
}

const struct device_region *layer_memory(const struct dt_layer *layer, unsigned *count)
{
    *count = layer->dev->nregions;
    return layer->dev->regions;
}
