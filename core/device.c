/* SPDX-License-Identifier: MIT */
/* device.c - a soft device: its chain, its lanes, and what is asked of it from outside. */
#include "core/internal.h"
#include <ctype.h>

#define FENCE_NS DT_S(30)

static int judge_name(const char *name, struct dt_error *err)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
            return dt_fail(err, -EINVAL,
                           "'%.64s': a name may hold letters, digits, '-', '_' and '.'", name);
    if (n == 0 || n > 63 || name[0] == '.')
        return dt_fail(err, -EINVAL, "a device's name has 1 to 63 characters, the first not '.'");
    return 0;
}

/* A layer asks those below it within an answer of its own, and a thread of its own may ask, too. */
static void init_asking(struct device *dev)
{
    pthread_mutexattr_t recursive;

    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&dev->asking, &recursive);
    pthread_mutexattr_destroy(&recursive);
}

int device_new(struct device **out, const struct device_config *config, struct dt_error *err)
{
    struct device *dev;
    int ret = judge_name(config->name, err);

    if (ret < 0)
        return ret;
    CHECK(config->threads >= 1 && config->threads <= DEVICE_MAX_THREADS);
    dev = xcalloc(1, sizeof(*dev));
    dev->magic = DEVICE_MAGIC;
    init_asking(dev);
    dev->class = config->kind == DEVICE_NET ? &net_class : &disk_class;
    snprintf(dev->name, sizeof(dev->name), "%s", config->name);
    dev->threads = config->threads;
    dev->loops = xcalloc(dev->threads, sizeof(struct loop *));
    memcpy(dev->loops, config->loops, dev->threads * sizeof(struct loop *));
    dev->state_dir = config->state_dir ? xstrdup(config->state_dir) : NULL;
    dev->blobs = config->blobs;
    dev->copy_bytes = config->copy_bytes ? config->copy_bytes : 8u << 20;
    dev->deadline = config->deadline;
    dev->generation = 1;
    ret = chain_open(dev, config->chain, err) ?: dev->class->opened(dev, err);
    if (ret < 0) {
        dt_fail_prefix(err, "%s", dev->name);
        device_free(dev);
        return ret;
    }
    *out = dev;
    return 0;
}

/* ---- Start and stop ------------------------------------------------------------------------- */

struct start_call {
    struct lane *lane;
    struct dt_error *err;
    int ret;
};

static void start_on_thread(void *arg)
{
    struct start_call *call = arg;

    call->ret = lane_start(call->lane, call->err);
}

int device_start_contexts(struct device *dev, unsigned thread, struct dt_error *err)
{
    struct start_call call = {.lane = dev->lanes[thread], .err = err};

    loop_call(dev->loops[thread], start_on_thread, &call);
    return call.ret;
}

static void stop_on_thread(void *arg)
{
    lane_stop(arg);
}

int device_fence(struct device *dev, struct dt_error *err)
{
    uint64_t start = dt_clock_ns();
    int ret = 0;

    for (unsigned i = dev->nlayers; i > 0 && ret == 0; i--) {
        struct dt_layer *layer = dev->layers[i];

        if (layer->ext->fence)
            ret = layer->ext->fence(layer, start + FENCE_NS, err);
        if (ret < 0)
            dt_fail_prefix(err, "%s: %s", dev->name, layer->name);
    }
    dev->fence_ns = dt_clock_ns() - start;
    dev->fenced = ret == 0;
    return ret;
}

static int start_lane(struct device *dev, unsigned t, struct dt_error *err)
{
    int ret = lane_new(&dev->lanes[t], dev, t, err);

    if (ret < 0)
        return ret;
    ret = device_start_contexts(dev, t, err);
    if (ret < 0) {
        lane_free(dev->lanes[t]);
        dev->lanes[t] = NULL;
    }
    return ret;
}

static void stop_lanes(struct device *dev)
{
    for (unsigned t = 0; t < dev->threads; t++) {
        if (!dev->lanes[t])
            continue;
        loop_call(dev->loops[t], stop_on_thread, dev->lanes[t]);
        lane_free(dev->lanes[t]);
    }
    free(dev->lanes);
    dev->lanes = NULL;
}

int device_start(struct device *dev, const struct front_ops *front, void *front_arg,
                 struct dt_error *err)
{
    int ret = dev->fenced ? 0 : device_fence(dev, err);

    CHECK_MAGIC(dev, DEVICE_MAGIC);
    dev->front_ops = front;
    dev->front_arg = front_arg;
    dev->lanes = xcalloc(dev->threads, sizeof(struct lane *));
    for (unsigned t = 0; ret == 0 && t < dev->threads; t++)
        ret = start_lane(dev, t, err);
    if (ret < 0)
        stop_lanes(dev);
    else
        dev->started = true;
    return ret;
}

void device_stop(struct device *dev)
{
    CHECK_MAGIC(dev, DEVICE_MAGIC);
    if (!dev->started)
        return;
    dev->started = false;
    stop_lanes(dev);
}

/** struct info_message - what a device is has changed. @dev: NULL = it is gone. */
struct info_message {
    struct loop_message message;
    struct device *dev;
};

static void nothing(void *arg)
{
}

/* Layers with threads of their own may say something to the last. @last: there is none any more. */
static void be_told_nothing(struct device *dev, bool last)
{
    __atomic_store_n(&dev->closing, true, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&dev->info_told, __ATOMIC_SEQ_CST))
        loop_call(dev->loops[0], nothing, NULL);
    /* Where the loop is our own, or has no thread yet, one may still lie there, or run in this turn. */
    if (!last || !dev->info_message)
        return;
    dev->info_message->dev = NULL;
    if (loop_unpost(dev->loops[0], &dev->info_message->message))
        free(dev->info_message);
}

void device_free(struct device *dev)
{
    if (!dev)
        return;
    CHECK_MAGIC(dev, DEVICE_MAGIC);
    CHECK(!dev->started);
    be_told_nothing(dev, false);
    for (unsigned i = 1; i <= dev->nlayers; i++)
        if (dev->layers[i]->loaded)
            state_save(dev->layers[i]);
    chain_close(dev);
    be_told_nothing(dev, true);
    device_set_memory(dev, NULL, 0);
    dev->magic = 0;
    pthread_mutex_destroy(&dev->asking);
    free(dev->state_dir);
    free(dev->loops);
    free(dev);
}

/* ---- The disk changed ---- */

static void run_info_changed(struct loop_message *message)
{
    struct info_message *m = container_of(message, struct info_message, message);
    struct device *dev = m->dev;
    struct dt_error err;

    free(m);
    if (!dev)
        return;
    dev->info_message = NULL;
    __atomic_store_n(&dev->info_pending, false, __ATOMIC_RELEASE);
    if (__atomic_load_n(&dev->closing, __ATOMIC_SEQ_CST))
        return;
    if (device_gather_info(dev, false, &err) < 0)
        log_error("%s: change of the device ignored: %s", dev->name, err.text);
    else if (dev->class->keep(dev, &err) < 0)
        log_error("%s: %s", dev->name, err.text);
    else if (dev->started && dev->front_ops->info_changed)
        dev->front_ops->info_changed(dev->front_arg);
}

void dt_layer_info_changed(struct dt_layer *layer)
{
    struct device *dev = layer->dev;
    struct info_message *m;

    if (__atomic_exchange_n(&dev->info_pending, true, __ATOMIC_ACQ_REL))
        return;
    __atomic_store_n(&dev->info_told, true, __ATOMIC_SEQ_CST);
    m = xcalloc(1, sizeof(*m));
    *m = (struct info_message){.message.run = run_info_changed, .dev = dev};
    dev->info_message = m;
    loop_post(dev->loops[0], &m->message);
}

/* ---- Questions ---- */

uint64_t device_fence_ns(const struct device *dev)
{
    return dev->fence_ns;
}

const char *device_name(const struct device *dev)
{
    return dev->name;
}

const struct dt_block_info *device_info(const struct device *dev)
{
    return &dev->info;
}

void *device_front(const struct device *dev)
{
    return dev->front_arg;
}

unsigned device_threads(const struct device *dev)
{
    return dev->threads;
}

struct lane *device_lane(struct device *dev, unsigned thread)
{
    CHECK(thread < dev->threads && dev->lanes);
    return dev->lanes[thread];
}

struct dt_layer *device_find_layer(struct device *dev, const char *name, struct dt_error *err)
{
    for (unsigned i = 1; i <= dev->nlayers; i++)
        if (!strcmp(dev->layers[i]->name, name))
            return dev->layers[i];
    dt_fail(err, -ENOENT, "%s has no layer '%s' (see 'devtap show %s')", dev->name, name,
            dev->name);
    return NULL;
}
