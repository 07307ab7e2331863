/* SPDX-License-Identifier: MIT */
/* rear.c - the back `vhost-user`: its description, and its life. See internal.h. */
#include "blk/rear/internal.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

const char *const rear_losses[] = {[REAR_HOLD] = "hold", [REAR_FAIL] = "fail", NULL};

static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     REAR_FIELD(path),
     .help = "Socket of a vhost-user-blk back end that listens."},
    REAR_PARAM_QUEUE_SIZE,
    {.name = "packed",
     .type = DT_PARAM_BOOL,
     REAR_FIELD(packed),
     .initial = "off",
     .help = "Use packed rings, which it must offer."},
    REAR_PARAM_LOSS("on-rear-loss",
                    "While it is gone: hold requests until it is back, or let them fail."),
    REAR_PARAM_TIMEOUT("Longest wait for an answer on its control socket; then it counts as gone."),
    {NULL},
};

const struct dt_counter rear_counters[] = {
    [REAR_LOSSES] = {"rear-losses", "sessions", "Sessions with the back end that ended unasked."},
    [REAR_LIES] = {"rear-lies", "sessions",
                   "Of these, sessions that were ended because it broke the protocol."},
    [REAR_REPLAYED] = {"replayed", "requests", "Requests in flight at such an end, sent again."},
    [REAR_HELD] = {"held", "requests", "Requests that came while it was gone, and waited."},
    [REAR_BOUNCED] = {"bounced", "requests",
                      "Requests copied because their data are not in guest memory."},
    [REAR_INDIRECT] = {"indirect", "requests", "Requests that took an indirect table."},
    {NULL},
};

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

static const struct dt_verb verbs[] = {
    {.name = "mode",
     .args = "passthrough|interpose",
     .help = "Give the guest's rings to the back end, or take them back; see devtap-mode(1).",
     .run = rear_mode},
    {NULL},
};

/* ---- Threads come and go --------------------------------------------------------------------- */

static void run_mail(struct dt_watch *watch, uint32_t events)
{
    struct rear_ctx *rc = container_of(watch, struct rear_ctx, mail);
    struct rear *rear = rc->rear;
    struct rear_rings *rings;
    const struct rear_map *map;
    enum rear_order order;
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0)
        return;
    pthread_mutex_lock(&rear->lock);
    order = rc->order;
    rings = rc->order_rings;
    map = rc->order_map;
    pthread_mutex_unlock(&rear->lock);
    if (order == REAR_NONE) { /* live parameters changed */
        rear_give_up(rc);
        return;
    }
    if (order == REAR_DOWN && rc->c->thread == 0) {
        dt_count(rc->c, REAR_LOSSES, 1);
        dt_count(rc->c, REAR_LIES, rear->lied);
    }
    rear_obey(rc, order, rings, map);
    pthread_mutex_lock(&rear->lock);
    rc->order = REAR_NONE;
    pthread_cond_broadcast(&rear->acknowledged);
    pthread_mutex_unlock(&rear->lock);
}

/*
 * Nothing is in flight. The control thread may wait for an order to this thread, so it learns that
 * there is nobody any more; the session ends with it.
 */
void rear_stop(struct dt_ctx *c)
{
    struct rear_ctx *rc = c->data;
    struct rear *rear = c->layer_data;

    dt_watch_remove(c, &rc->mail);
    rear_obey(rc, REAR_DOWN, NULL, NULL);
    dt_timer_cancel(c, &rc->patience);
    pthread_mutex_lock(&rear->lock);
    rear->lanes[c->thread] = NULL;
    rear->started--;
    pthread_cond_broadcast(&rear->acknowledged);
    pthread_mutex_unlock(&rear->lock);
    close(rc->mail.fd);
}

int rear_start(struct dt_ctx *c, struct dt_error *err)
{
    struct rear_ctx *rc = c->data;
    struct rear *rear = c->layer_data;
    unsigned threads = dt_layer_threads(c->layer);
    bool last;
    int ret;

    rear_ctx_init(rc, c);
    rc->mail = (struct dt_watch){.ready = run_mail, .events = EPOLLIN};
    rc->mail.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ret = rc->mail.fd < 0 ? -errno : dt_watch_add(c, &rc->mail);
    if (ret < 0) {
        if (rc->mail.fd >= 0)
            close(rc->mail.fd);
        return dt_fail(err, ret, "cannot watch for the control thread: %s", strerror(-ret));
    }
    pthread_mutex_lock(&rear->lock);
    rear->lanes[c->thread] = rc;
    last = ++rear->started == threads;
    pthread_mutex_unlock(&rear->lock);
    ret = last ? rear_control_start(rear) : 0;
    if (ret < 0)
        rear_stop(c);
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

int rear_open(struct dt_layer *layer, struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    int ret;

    if (rear->queue_size & (rear->queue_size - 1))
        return dt_fail(err, -EINVAL, "queue-size=%llu is not a power of two",
                       (unsigned long long)rear->queue_size);
    rear->layer = layer;
    snprintf(rear->address, sizeof(rear->address), "unix:%s", rear->path);
    ret = dt_layer_may_connect(layer, rear->address, err);
    if (ret < 0)
        return ret;
    pthread_mutex_init(&rear->lock, NULL);
    pthread_cond_init(&rear->acknowledged, NULL);
    rear->lanes = xcalloc(dt_layer_threads(layer), sizeof(struct rear_ctx *));
    rear->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rear->wake < 0)
        ret = dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    else
        ret = rear_session_connect(rear, &rear->session, false, err);
    if (ret < 0) {
        if (rear->wake >= 0)
            close(rear->wake);
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
    pthread_mutex_destroy(&rear->lock);
    pthread_cond_destroy(&rear->acknowledged);
    free(rear->lanes);
}

int rear_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct rear *rear = dt_layer_data(layer);

    *info = rear->info;
    info->sectors = __atomic_load_n(&rear->sectors, __ATOMIC_RELAXED);
    return 0;
}

/* What is held may now have to fail. */
int rear_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    const uint64_t one = 1;

    for (unsigned t = 0; t < dt_layer_threads(layer); t++)
        if (rear->lanes[t] && write(rear->lanes[t]->mail.fd, &one, sizeof(one)) < 0)
            log_debug("%s: mail: %m", rear->path);
    return 0;
}

/* See session.c: that the rear answered us is the proof. */
int rear_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct rear *rear = dt_layer_data(layer);

    CHECK(rear->session.frontend);
    return 0;
}

const struct dt_block_ext blk_rear = {
    DT_BLOCK_EXT_HEADER,
    .name = "vhost-user",
    .summary = "A disk served by another vhost-user-blk back end",
    .help =
        "Connects to a back end such as qemu-storage-daemon, SPDK or another devtap, and gives it "
        "the guest's memory, so that data are not copied. When it goes away, requests wait (or "
        "fail, "
        "with on-rear-loss=fail), and what was in flight is sent again when it is back.",
    .flags = DT_BACK | DT_PER_QUEUE,
    .params = params,
    .verbs = verbs,
    .layer_size = sizeof(struct rear),
    .open = rear_open,
    .close = rear_close,
    REAR_EXTENSION,
};
