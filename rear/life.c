/* SPDX-License-Identifier: MIT */
/* life.c - what the backs with a rear share of a layer's callbacks, and the threads' mailboxes. */
#include "rear/rear.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

/* ---- Commands -------------------------------------------------------------------------------- */

int rear_mode(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
              struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    bool on = argc == 1 && strcmp(argv[0], "passthrough") == 0;
    int ret;

    if (!on && (argc != 1 || strcmp(argv[0], "interpose") != 0))
        return dt_fail(err, -EINVAL, "say passthrough or interpose");
    ret = layer_set_passthrough(layer, on, err);
    if (ret == 0) {
        rear->wanted = on;
        dt_layer_state_changed(layer);
    }
    return ret;
}

/* The mode that a person wished for: one byte. */
int64_t rear_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct rear *rear = dt_layer_data(layer);

    if (size < 1)
        return -ENOSPC;
    *(uint8_t *)buf = rear->wanted;
    return 1;
}

int rear_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);

    if (version != 1 || size != 1 || *(const uint8_t *)buf > 1)
        return dt_fail(err, -EINVAL, "the state is no mode (version %u, %zu bytes)", version, size);
    rear->wanted = *(const uint8_t *)buf;
    if (rear->wanted)
        layer_want_passthrough(layer);
    return 0;
}

/* ---- Threads come and go --------------------------------------------------------------------- */

static void run_mail(struct dt_watch *watch, uint32_t events)
{
    struct rear_lane *lane = container_of(watch, struct rear_lane, mail);
    struct rear *rear = lane->rear;
    struct rear_part *part;
    const struct rear_map *map;
    enum rear_order order;
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0)
        return;
    pthread_mutex_lock(&rear->lock);
    order = lane->order;
    part = lane->order_part;
    map = lane->order_map;
    pthread_mutex_unlock(&rear->lock);
    if (order == REAR_NONE) {
        if (rear->class->parameters_changed)
            rear->class->parameters_changed(lane);
        return;
    }
    if (order == REAR_DOWN && lane->c->thread == 0) {
        dt_count(lane->c, REAR_LOSSES, 1);
        dt_count(lane->c, REAR_LIES, rear->lied);
    }
    rear->class->obey(lane, order, part, map);
    pthread_mutex_lock(&rear->lock);
    lane->order = REAR_NONE;
    pthread_cond_broadcast(&rear->acknowledged);
    pthread_mutex_unlock(&rear->lock);
}

/*
 * Nothing is in flight. The control thread may wait for an order to this thread, so it learns that
 * there is nobody any more; the session ends with it.
 */
void rear_lane_stop(struct rear_lane *lane)
{
    struct rear *rear = lane->rear;

    dt_watch_remove(lane->c, &lane->mail);
    rear->class->obey(lane, REAR_DOWN, NULL, NULL);
    pthread_mutex_lock(&rear->lock);
    rear->lanes[lane->c->thread] = NULL;
    rear->started--;
    pthread_cond_broadcast(&rear->acknowledged);
    pthread_mutex_unlock(&rear->lock);
    close(lane->mail.fd);
}

int rear_lane_start(struct rear_lane *lane, struct dt_ctx *c, struct dt_error *err)
{
    struct rear *rear = c->layer_data;
    unsigned threads = dt_layer_threads(c->layer);
    bool last;
    int ret;

    lane->c = c;
    lane->rear = rear;
    lane->mail = (struct dt_watch){.ready = run_mail, .events = EPOLLIN};
    lane->mail.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = lane->mail.fd < 0 ? -errno : dt_watch_add(c, &lane->mail);
    if (ret < 0) {
        if (lane->mail.fd >= 0)
            close(lane->mail.fd);
        return dt_fail(err, ret, "cannot watch for the control thread: %s", strerror(-ret));
    }
    pthread_mutex_lock(&rear->lock);
    rear->lanes[c->thread] = lane;
    last = ++rear->started == threads;
    pthread_mutex_unlock(&rear->lock);
    ret = last ? rear_control_start(rear) : 0;
    if (ret < 0)
        rear_lane_stop(lane);
    return ret < 0 ? dt_fail(err, ret, "cannot start a thread: %s", strerror(-ret)) : 0;
}

/* ---- Guest memory ---------------------------------------------------------------------------- */

static void memory_changed(struct dt_layer *layer)
{
    struct rear *rear = dt_layer_data(layer);
    const struct device_region *regions;
    unsigned count;
    struct rear_map *map, *old;

    regions = layer_memory(layer, &count);
    map = rear_map_new(regions, count, rear->generation + 1);
    pthread_mutex_lock(&rear->lock);
    old = rear->next_map;
    rear->next_map = map;
    pthread_mutex_unlock(&rear->lock);
    __atomic_store_n(&rear->generation, map->generation, __ATOMIC_RELAXED);
    rear_map_free(old);
    rear_control_wake(rear);
}

/* ---- Life ------------------------------------------------------------------------------------ */

int rear_open(struct dt_layer *layer, const struct rear_class *class, struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    int ret;

    if (rear->queue_size & (rear->queue_size - 1))
        return dt_fail(err, -EINVAL, "queue-size=%llu is not a power of two",
                       (unsigned long long)rear->queue_size);
    rear->class = class;
    rear->layer = layer;
    snprintf(rear->address, sizeof(rear->address), "unix:%s", rear->path);
    rear->listener = -1;
    rear->session.memory_fd = -1;
    ret = rear->listen ? rear_listen(rear, err) : dt_layer_may_connect(layer, rear->address, err);
    if (ret < 0)
        return ret;
    pthread_mutex_init(&rear->lock, NULL);
    pthread_cond_init(&rear->acknowledged, NULL);
    rear->lanes = xcalloc(dt_layer_threads(layer), sizeof(struct rear_lane *));
    rear->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rear->wake < 0)
        ret = dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    else if (rear->listen)
        rear->lost = true; /* until somebody comes */
    else
        ret = rear_session_connect(rear, &rear->session, false, err);
    if (ret < 0) {
        if (rear->wake >= 0)
            close(rear->wake);
        if (rear->listener >= 0)
            close(rear->listener);
        free(rear->lanes);
        return ret;
    }
    layer_watch_memory(layer, memory_changed);
    layer_offer_passthrough(layer, &rear_passthrough_ops);
    memory_changed(layer);
    return 0;
}

void rear_close(struct dt_layer *layer)
{
    struct rear *rear = dt_layer_data(layer);

    rear_control_stop(rear);
    if (rear->session.frontend) /* it was never started */
        rear_session_end(rear, &rear->session);
    rear_map_free(rear->map);
    rear_map_free(rear->next_map);
    close(rear->wake);
    if (rear->listener >= 0)
        close(rear->listener);
    pthread_mutex_destroy(&rear->lock);
    pthread_cond_destroy(&rear->acknowledged);
    free(rear->lanes);
}

int rear_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    const uint64_t one = 1;

    for (unsigned t = 0; t < dt_layer_threads(layer); t++)
        if (rear->lanes[t] && write(rear->lanes[t]->mail.fd, &one, sizeof(one)) < 0)
            log_debug("%s: mail: %m", rear->path);
    return 0;
}
