/* SPDX-License-Identifier: MIT */
/*
 * below.c - a layer reads what it stands on while the chain is being opened: a header within the disk.
 *
 * Theory of operation: nothing serves the device yet, and whatever thread turns a loop first owns it,
 * so the device's own loops and lanes cannot be used. The layers below the one that asks are
 * started as a device of their own, on a loop that lives for one call, and stopped again. The
 * back is not fenced at that time: what a dead predecessor had in flight may land
 * after the read. Who reads what is also written while the disk is served has to read it again.
 *
 * A layer whose files say where the data is cannot be started before the fence: it would take them from a predecessor
 * that is serving. It has read_early() instead, and layers above it that leave the content alone are
 * passed by.
 */
#include "core/internal.h"

#define PATIENCE_NS DT_S(30)

struct below {
    struct device dev; /* the layers below, as a device */
    struct loop *loop;
    struct lane *lane;
    struct request *req;
    struct iovec iov;
    bool done;
    struct dt_timer alarm;
    bool late;
};

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct below *b = lane_front(lane);

    b->done = true;
}

static void on_wake(struct lane *lane)
{
}

static void on_alarm(struct dt_timer *timer)
{
    container_of(timer, struct below, alarm)->late = true;
}

static const struct front_ops ops = {.complete = on_complete, .wake = on_wake};

/* The layers of @dev below its layer number @above. */
static int start(struct below *b, struct device *dev, unsigned above, struct dt_error *err)
{
    const struct dt_layer *first = dev->layers[above + 1];
    int ret = loop_new(&b->loop, &(struct loop_config){0}, err);

    if (ret < 0)
        return ret;
    b->dev = (struct device){
        .magic = DEVICE_MAGIC,
        .generation = dev->generation,
        .class = dev->class,
        .layers = dev->layers + above,
        .nlayers = dev->nlayers - above,
        .info = first->info,
        .chain_info = first->info,
        .loops = &b->loop,
        .threads = 1,
        .front_ops = &ops,
        .copy_bytes = dev->copy_bytes,
    };
    snprintf(b->dev.name, sizeof(b->dev.name), "%s", dev->name);
    ret = lane_new(&b->lane, &b->dev, 0, err);
    if (ret == 0) {
        lane_set_front(b->lane, b);
        ret = lane_start(b->lane, err);
    }
    if (ret < 0) {
        lane_free(b->lane);
        loop_free(b->loop);
    }
    return ret;
}

static void stop(struct below *b)
{
    loop_timer_cancel(b->loop, &b->alarm);
    lane_stop(b->lane);
    lane_free(b->lane);
    loop_free(b->loop);
}

static int transfer(struct below *b, uint64_t sector, uint32_t sectors, struct dt_error *err)
{
    b->req->pub = (struct dt_req){.op = DT_OP_READ, .sector = sector, .sectors = sectors};
    b->req->iov = &b->iov;
    b->req->niov = 1;
    b->done = false;
    b->alarm.fire = on_alarm;
    loop_timer_set(b->loop, &b->alarm, dt_clock_ns() + PATIENCE_NS);
    lane_submit(b->lane, &b->req, 1);
    while (!b->done && !b->late)
        loop_turn(b->loop, true);
    if (!b->done)
        return dt_fail(
            err, -ETIMEDOUT,
            "%u sectors from %llu on could not be read from the layers below within %u s", sectors,
            (unsigned long long)sector, (unsigned)(PATIENCE_NS / DT_S(1)));
    if (b->req->pub.error)
        return dt_fail(err, b->req->pub.error,
                       "%u sectors from %llu on cannot be read from the layers below: %s", sectors,
                       (unsigned long long)sector, strerror(-b->req->pub.error));
    return 0;
}

static int read_started(struct device *dev, unsigned above, uint64_t sector, uint32_t sectors,
                        void *data, struct dt_error *err)
{
    struct below *b = xcalloc(1, sizeof(*b));
    int ret;

    b->req = xaligned(CACHE_LINE, REQUEST_SIZE);
    b->iov = (struct iovec){data, (size_t)sectors << DT_SECTOR_SHIFT};
    ret = start(b, dev, above, err);
    if (ret == 0) {
        ret = transfer(b, sector, sectors, err);
        /* The kernel may still write to memory of a read that is late: it must stay, data too. */
        if (b->late && !b->done)
            return ret;
        stop(b);
    }
    free(b->req);
    free(b);
    return ret;
}

/* The layers of @dev below its layer number @above are open, and not started. */
static int read_early(struct device *dev, unsigned above, uint64_t sector, uint32_t sectors,
                      void *data, struct dt_error *err)
{
    const struct dt_layer *first = dev->layers[above + 1];
    uint64_t size = first->info.sectors;
    bool changed = false;

    if (sectors == 0 || sector > size || sectors > size - sector)
        return dt_fail(err, -EINVAL,
                       "%u sectors from %llu on are not within the %llu of the disk below", sectors,
                       (unsigned long long)sector, (unsigned long long)size);
    for (unsigned i = above + 1; i <= dev->nlayers; i++) {
        struct dt_layer *layer = dev->layers[i];

        if (layer->ext->read_early && changed)
            return dt_fail(
                err, -EOPNOTSUPP,
                "what is on the disk below cannot be read at the start through '%s' above '%s'",
                first->name, layer->name);
        if (layer->ext->read_early)
            return layer->ext->read_early(layer, sector, sectors, data, err);
        changed |= (layer->ext->flags & DT_CONTENT_BEARING) != 0;
    }
    return read_started(dev, above, sector, sectors, data, err);
}

int dt_layer_read_below(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                        struct dt_error *err)
{
    CHECK_MAGIC(layer, LAYER_MAGIC);
    CHECK(layer->below);
    if (layer->dev->started)
        return dt_fail(
            err, -EBUSY,
            "what is on the disk below cannot be read while the disk is served: stop it, "
            "or let it be served without --single");
    return read_early(layer->dev, layer->index, sector, sectors, data, err);
}

int device_read_early(struct device *dev, uint64_t sector, uint32_t sectors, void *data,
                      struct dt_error *err)
{
    CHECK_MAGIC(dev, DEVICE_MAGIC);
    CHECK(!dev->started);
    return read_early(dev, 0, sector, sectors, data, err);
}
