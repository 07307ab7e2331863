/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a running disk holds where: data, zeroes, nothing at all.
 *
 * Theory of operation: the question goes down the chain by calls, from a thread that serves no device, so a layer may
 * wait for a file system or a peer, and requests do not wait for either. What a layer's own threads change it looks at
 * while they stand still, for as long as that takes (dt_layer_exclusive()).
 *
 * One thread at a time asks: the one that answers the control socket, or one that a layer has for itself, to learn of what it
 * stands on. So layers need not reckon with two questions at once.
 *
 * The guest goes on writing meanwhile. An answer is still right for all that was acknowledged before the
 * question, because the question goes the way that data goes: a layer that hands data down between its answer and
 * that of the layers below has handed down what those then know of. What is under way may be in the answer or not.
 */
#include "core/internal.h"

#define ASK_SECTORS \
    ((uint64_t)16 << 30 >> DT_SECTOR_SHIFT) /* at most at once: bounds what a back looks at */
#define ASK_NS \
    DT_MS(     \
        500) /* for all layers together: the watchdog of a worker looks at the thread that asks, too */
#define MAP_EXTENTS 4096u

/* May the layers below be asked though this one says nothing? */
static bool changes_nothing(const struct dt_block_ext *ext)
{
    return !(ext->flags & (DT_BACK | DT_CONTENT_BEARING)) && ext->read_data == DT_DATA_NONE &&
           ext->write_data == DT_DATA_NONE;
}

static void ask(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct dt_extent asked = *extent;

    if (layer->ext->status)
        layer->ext->status(layer, extent);
    else if (changes_nothing(layer->ext))
        dt_status_below(layer, extent);
    if (likely(extent->sector == asked.sector && extent->sectors &&
               extent->sectors <= asked.sectors && extent->status <= DT_STATUS_HOLE))
        return;
    log_error("contract violated: layer %s answers %u, %llu sectors at %llu, about %llu at %llu",
              layer->name, extent->status, (unsigned long long)extent->sectors,
              (unsigned long long)extent->sector, (unsigned long long)asked.sectors,
              (unsigned long long)asked.sector);
    abort();
}

void dt_status_below(struct dt_layer *layer, struct dt_extent *extent)
{
    uint64_t size;

    CHECK_MAGIC(layer, LAYER_MAGIC);
    CHECK(layer->below);
    extent->status = DT_STATUS_DATA;
    size = READ_ONCE(layer->below->info.sectors);
    if (extent->sector >= size)
        return; /* it shrank, or never was so large */
    extent->sectors = MIN(extent->sectors, size - extent->sector);
    pthread_mutex_lock(&layer->dev->asking);
    ask(layer->below, extent);
    pthread_mutex_unlock(&layer->dev->asking);
}

void dt_layer_exclusive(struct dt_layer *layer, void (*fn)(void *arg), void *arg)
{
    device_exclusive(layer->dev, fn, arg);
}

void device_status(struct device *dev, struct dt_extent *extent)
{
    CHECK_MAGIC(dev, DEVICE_MAGIC);
    CHECK(dev->started && extent->sectors);
    extent->status = DT_STATUS_DATA;
    extent->sectors = MIN(extent->sectors, ASK_SECTORS);
    if (!extent->deadline)
        extent->deadline = dt_clock_ns() + ASK_NS;
    pthread_mutex_lock(&dev->asking);
    ask(dev->layers[1], extent);
    pthread_mutex_unlock(&dev->asking);
}

/* ---- As JSON ---- */

const char *dt_status_name(enum dt_status status)
{
    static const char *const names[] = {
        [DT_STATUS_DATA] = "data", [DT_STATUS_ZERO] = "zero", [DT_STATUS_HOLE] = "hole"};

    return names[status];
}

static void add_extent(json_t *list, const struct dt_extent *e)
{
    json_array_append_new(list, json_pack("{sI sI ss}", "start",
                                          (json_int_t)(e->sector << DT_SECTOR_SHIFT), "length",
                                          (json_int_t)(e->sectors << DT_SECTOR_SHIFT), "status",
                                          dt_status_name(e->status)));
}

/* Neighbours that are alike are one. Return: where the next question begins. */
static uint64_t walk(struct device *dev, uint64_t at, uint64_t end, uint64_t patience, json_t *list)
{
    uint64_t deadline = dt_clock_ns() + patience;
    struct dt_extent run = {.sector = at};

    do {
        struct dt_extent e = {.sector = at, .sectors = end - at};

        device_status(dev, &e);
        if (run.sectors && run.status != e.status) {
            add_extent(list, &run);
            run.sectors = 0;
        }
        if (!run.sectors)
            run = (struct dt_extent){.sector = at, .status = e.status};
        run.sectors += e.sectors;
        at += e.sectors;
    } while (at < end && json_array_size(list) < MAP_EXTENTS && dt_clock_ns() < deadline);
    add_extent(list, &run);
    return at;
}

int device_map(struct device *dev, uint64_t start, uint64_t length, uint64_t patience,
               json_t **result, struct dt_error *err)
{
    uint64_t size, end;
    json_t *list;

    if (dev->class->kind != DEVICE_DISK)
        return dt_fail(err, -EINVAL, "%s is a network card: only disks have a map", dev->name);
    if (!dev->started)
        return dt_fail(err, -EAGAIN, "%s is not served yet: try again", dev->name);
    size = READ_ONCE(dev->layers[1]->info.sectors) << DT_SECTOR_SHIFT;
    if (start % DT_SECTOR_SIZE || length % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "start %llu and length %llu must be multiples of 512",
                       (unsigned long long)start, (unsigned long long)length);
    if (start > size)
        return dt_fail(err, -EINVAL, "start %llu is behind the end of %s, which has %llu bytes",
                       (unsigned long long)start, dev->name, (unsigned long long)size);
    end = length && length < size - start ? start + length : size;
    list = json_array();
    if (start < end)
        start = walk(dev, start >> DT_SECTOR_SHIFT, end >> DT_SECTOR_SHIFT, patience, list)
                << DT_SECTOR_SHIFT;
    *result = json_pack("{sI sI so}", "size", (json_int_t)size, "next", (json_int_t)start,
                        "extents", list);
    return 0;
}
