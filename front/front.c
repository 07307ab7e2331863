/* SPDX-License-Identifier: MIT */
/* front.c - where a VM attaches: sockets, one session at a time, and the front's life. */
#include "front/mode.h"
#include "vhost/backend.h"
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONNECT_RETRY_NS DT_MS(200)

/* ---- Sessions -------------------------------------------------------------------------------- */

static void front_stopped(struct front *front)
{
    void (*done)(void *arg) = front->stop_done;

    front->stop_done = NULL;
    if (done)
        done(front->stop_arg);
}

static void run_stopped(struct loop_message *message)
{
    front_stopped(container_of(message, struct front, stopped_message));
}

static void session_begins(struct front *front, struct vhost_session *session)
{
    front->faulted = false;
    front->features = 0;
    front->session = session;
    front->sessions++;
    if (!front->remote) /* else the keeper's supervisor says so */
        log_limited(DT_LOG_INFO, "%s: a VM attached", device_name(front->dev));
}

static int begin_session(struct front *front, int sock, struct dt_error *err)
{
    struct vhost_backend_config config = {
        .loop = front->loop,
        .sock = sock,
        .queues = front->nqueues,
        .protocol_features = front->protocol_features,
        .keep_files = true,
        .name = device_name(front->dev),
        .ops = &front->session_ops,
        .dev = front,
    };
    int ret;

    ret = vhost_backend_new(&front->backend, &config, err);
    if (ret < 0) {
        close(sock);
        return ret;
    }
    session_begins(front, vhost_backend_session(front->backend));
    return 0;
}

static void attach(struct front *front, int sock)
{
    struct dt_error err;

    if (begin_session(front, sock, &err) < 0)
        log_error("%s: %s", device_name(front->dev), err.text);
}

static void session_closed(void *dev, const char *reason)
{
    struct front *front = dev;

    front->broken += reason != NULL;
    if (!front->remote)
        log_limited(DT_LOG_INFO, "%s: the VM detached", device_name(front->dev));
    vhost_session_free(front->session);
    front->session = NULL;
    front_iommu_forget(front);
    device_set_memory(front->dev, NULL, 0);
    if (front->stopping && !front->remote)
        front_stopped(front);
    else if (front->next >= 0)
        attach(front, TAKE_FD(front->next));
    else if (front->connect)
        loop_timer_set(front->loop, &front->connect_timer, dt_clock_ns() + CONNECT_RETRY_NS);
    else if (front->ended)
        front->ended(front->ended_arg);
}

/* Backs that hand requests on hand the guest's memory on, too. */
static void memory_changed(void *dev)
{
    struct front *front = dev;
    struct device_region regions[MEMMAP_MAX_REGIONS];
    struct vhost_shared shared;
    unsigned n = 0;

    for (; n < MEMMAP_MAX_REGIONS && vhost_session_region(front->session, n, &shared); n++)
        regions[n] = (struct device_region){.gpa = shared.at.gpa,
                                            .size = shared.at.size,
                                            .offset = shared.at.offset,
                                            .host = shared.host,
                                            .fd = shared.fd};
    device_set_memory(front->dev, regions, n);
}

static void run_fault(struct loop_message *message)
{
    struct front *front = container_of(message, struct front, fault_message);

    if (front->session)
        vhost_session_break(front->session, front->fault);
}

static void make_session_ops(struct front *front)
{
    const struct front_class *class = front->class;

    front->session_ops = (struct vhost_device_ops){
        .features = class->features,
        .set_features = class->set_features,
        .get_config = class->get_config,
        .set_config = class->set_config,
        .send_rarp = class->send_rarp,
        .set_mtu = class->set_mtu,
        .queue_start = front_queue_start,
        .queue_stop = front_queue_stop,
        .pause = front_pause,
        .resume = front_resume,
        .queue_kick_changed = front_queue_kick_changed,
        .queue_call_changed = class->hand_over ? front_mode_call_changed : NULL,
        .memory_changed = memory_changed,
        .iotlb = class->translates ? front_iotlb : NULL,
        .closed = session_closed,
    };
}

/* ---- A keeper has the sockets ------------------------------------------------------------------ */

static void link_attached(void *dev, struct vhost_session *session)
{
    session_begins(dev, session);
}

static void run_link_lost(struct loop_message *message)
{
    struct front *front = container_of(message, struct front, lost_message);

    vhost_remote_free(front->remote);
    front->remote = NULL;
    front->link_lost = false;
    if (front->stopping)
        front_stopped(front);
    else if (front->keeper.lost)
        front->keeper.lost(front->keeper.arg, front->fault);
}

static void link_lost(void *dev, const char *reason)
{
    struct front *front = dev;

    if (front->link_lost)
        return;
    front->link_lost = true;
    snprintf(front->fault, sizeof(front->fault), "%s", reason);
    loop_post(front->loop, &front->lost_message);
}

int front_link(struct front *front, int fd, struct dt_error *err)
{
    struct vhost_remote_config config = {
        .loop = front->loop,
        .sock = fd,
        .queues = front->nqueues,
        .name = device_name(front->dev),
        .ops = &front->session_ops,
        .dev = front,
        .attached = link_attached,
        .lost = link_lost,
    };
    struct link_floor floor;
    int ret;

    CHECK(!front->remote && !front->session);
    floor = (struct link_floor){.features = front->offered,
                                .protocol_features = front->protocol_features,
                                .fence_ns = front->keeper.fence_ns};
    if (front->class->floor)
        front->class->floor(front, &floor);
    ret = vhost_remote_new(&front->remote, &config, &floor, err);
    if (ret < 0)
        close(fd);
    return ret;
}

bool front_linked(const struct front *front)
{
    return front->remote != NULL;
}

/* ---- Sockets ---- */

static void on_connection(struct listener *listener, int sock)
{
    struct front *front = container_of(listener, struct front, listener);

    if (!front->session) {
        attach(front, sock);
    } else if (vhost_backend_ending(front->backend) && front->next < 0) {
        front->next = sock; /* a VM that comes back before we are done with its last visit */
    } else {
        log_limited(DT_LOG_WARNING, "%s: a second connection was refused: a VM is attached already",
                    device_name(front->dev));
        close(sock);
    }
}

static int try_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        close(sock);
        return -1;
    }
    return sock;
}

static void run_connect(struct dt_timer *timer)
{
    struct front *front = container_of(timer, struct front, connect_timer);
    int sock = try_connect(front->connect);
    struct dt_error err;

    if (sock >= 0 && begin_session(front, sock, &err) == 0)
        return;
    if (sock >= 0)
        log_error("%s: %s", device_name(front->dev), err.text);
    loop_timer_set(front->loop, timer, dt_clock_ns() + CONNECT_RETRY_NS);
}

static int open_sockets(struct front *front, const struct front_config *config,
                        struct dt_error *err)
{
    int ret;

    if (config->keeper)
        return front_link(front, config->keeper->fd, err);
    if (config->session_fd >= 0)
        return begin_session(front, config->session_fd, err);
    if (config->connect) {
        if (strlen(config->connect) >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return dt_fail(err, -ENAMETOOLONG, "the socket path '%s' is too long", config->connect);
        front->connect = xstrdup(config->connect);
        front->connect_timer.fire = run_connect;
        loop_timer_set(front->loop, &front->connect_timer, dt_clock_ns());
        return 0;
    }
    ret = listener_start(&front->listener, front->loop, front->listen_fd, on_connection);
    return ret < 0 ? dt_fail(err, ret, "cannot watch the socket: %s", strerror(-ret)) : 0;
}

/* ---- Life ---- */

const struct front_ops *front_class_ops(const struct front_class *class)
{
    return class->device_ops;
}

int front_new(struct front **out, const struct front_config *config, struct dt_error *err)
{
    const struct front_class *class = config->class;
    struct front *front = xcalloc(1, class->size);
    unsigned queues = config->queues ?: FRONT_QUEUES;
    int ret;

    CHECK(!config->iommu || class->translates);
    front->magic = FRONT_MAGIC;
    front->class = class;
    front->dev = config->dev;
    front->listen_fd = config->listen_fd;
    front->next = -1;
    front->packed = config->packed;
    front->iommu = config->iommu;
    front->protocol_features = class->protocol_features;
    if (config->few_regions)
        front->protocol_features &= ~(1ull << VHOST_F_CONFIGURE_MEM_SLOTS);
    front->ended = config->ended;
    front->ended_arg = config->ended_arg;
    if (config->keeper)
        front->keeper = *config->keeper;
    front->lost_message.run = run_link_lost;
    front->nqueues =
        MIN(queues, VHOST_MAX_QUEUES / class->rings_per_queue) * class->rings_per_queue;
    front->nlanes = device_threads(front->dev);
    front->loop = lane_loop(device_lane(front->dev, 0));
    front->lanes = xcalloc(front->nlanes, sizeof(*front->lanes));
    front->queues = xaligned(CACHE_LINE, front->nqueues * sizeof(*front->queues));
    front->stopped_message.run = run_stopped;
    front->fault_message.run = run_fault;
    class->init(front, config);
    if (class->hand_over)
        front_mode_init(front);
    if (front->iommu)
        front->offered |= 1ull << VIRTIO_F_ACCESS_PLATFORM;
    for (unsigned t = 0; t < front->nlanes; t++)
        front_lane_init(front, t);
    for (unsigned i = 0; i < front->nqueues; i++)
        front_queue_init(front, i);
    make_session_ops(front);
    memmap_guard_install();
    ret = open_sockets(front, config, err);
    if (ret < 0) {
        front->listen_fd = -1;
        front_free(front);
        return ret;
    }
    *out = front;
    return 0;
}

void front_stop(struct front *front, void (*done)(void *arg), void *arg)
{
    CHECK_MAGIC(front, FRONT_MAGIC);
    front->stopping = true;
    front->stop_done = done;
    front->stop_arg = arg;
    loop_timer_cancel(front->loop, &front->connect_timer);
    listener_stop(&front->listener);
    if (front->session)
        vhost_session_close(front->session);
    else if (front->remote)
        link_lost(front, "the worker ends");
    else
        loop_post(front->loop, &front->stopped_message);
}

void front_free(struct front *front)
{
    if (!front)
        return;
    CHECK_MAGIC(front, FRONT_MAGIC);
    CHECK(!front->session);
    for (unsigned t = 0; t < front->nlanes; t++)
        front_lane_fini(&front->lanes[t]);
    if (front->listen_fd >= 0)
        close(front->listen_fd);
    if (front->next >= 0)
        close(front->next);
    front_mode_fini(front);
    if (front->class->fini)
        front->class->fini(front);
    front->magic = 0;
    free(front->connect);
    free(front->queues);
    free(front->lanes);
    free(front);
}

/* ---- Seen from outside ---- */

static const char *state_name(const struct front_queue *q)
{
    static const char *const names[] = {
        "idle",     "starting",    "running", "paused",
        "stopping", "at the rear", "lost",    "waiting for a translation"};

    return names[q->state];
}

static json_t *queue_json(const struct front_queue *q)
{
    const struct virtq_stats *s = &q->vq.stats;

    return json_pack("{si ss si sb si sI sI sI sI sI sI}", "queue", (int)q->index, "state",
                     state_name(q), "size", (int)q->vq.config.size, "packed", q->vq.config.packed,
                     "in_flight", (int)q->vq.in_flight, "taken", (json_int_t)s->taken, "pushed",
                     (json_int_t)s->pushed, "kicks", (json_int_t)s->kicks_seen, "calls",
                     (json_int_t)s->calls, "calls_suppressed", (json_int_t)s->calls_suppressed,
                     "replayed", (json_int_t)s->replayed);
}

json_t *front_show(struct front *front)
{
    json_t *queues = json_array(), *show;
    char features[32];

    for (unsigned i = 0; i < front->nqueues; i++)
        if (front->queues[i].state != QUEUE_IDLE)
            json_array_append_new(queues, queue_json(&front->queues[i]));
    snprintf(features, sizeof(features), "0x%llx", (unsigned long long)front->features);
    show = json_pack("{sb ss sI sI si so}", "attached", front->session != NULL, "features",
                     features, "sessions", (json_int_t)front->sessions, "broken",
                     (json_int_t)front->broken, "queues_offered",
                     (int)(front->nqueues / front->class->rings_per_queue), "queues", queues);
    if (front->iommu)
        json_object_set_new(show, "iommu", front_iommu_show(front));
    front_mode_show(front, show);
    front->class->show(front, show);
    return show;
}
