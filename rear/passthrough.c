/* SPDX-License-Identifier: MIT */
/*
 * passthrough.c - the guest's own rings at the rear, and back: on the control thread.
 *
 * Theory of operation: on the way there our rings are stopped, the rear is told the features that
 * the guest's driver chose, and gets the guest's rings and eventfds; nothing of ours is in the data
 * path then. Some back ends answer a stop before they have drained, and forget what they had
 * (qemu-storage-daemon 7.2). So on the way back a ring first gets a kick eventfd that nobody
 * signals, until its used index has settled; then it is stopped, and the base that the rear tells
 * must be the used index.
 *
 * Rings of a class that keeps no log are stopped at once: what was under way then may be lost, as packets
 * may.
 */
#include "rear/rear.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define SETTLE_NS  DT_MS(10) /* nothing was answered for so long */
#define SETTLE_MAX DT_MS(500)
#define DRAIN_NS   DT_S(5)
#define PARK_NS    DT_MS(100)
#define LOOK_MS    1

/* ---- What the guest's rings say -------------------------------------------------------------- */

/* The used index of a split ring, in guest memory; false where it cannot be seen. */
static bool used_index(const struct rear *rear, const struct device_ring *ring, uint16_t *index)
{
    const uint64_t at = ring->device + offsetof(struct vring_used, idx);

    for (unsigned i = 0; rear->map && !rear->passthrough->packed && i < rear->map->count; i++) {
        const struct device_region *r = &rear->map->regions[i];

        if (at - r->gpa < r->size && r->size - (at - r->gpa) >= sizeof(*index)) {
            *index =
                __atomic_load_n((uint16_t *)(void *)(r->host + (at - r->gpa)), __ATOMIC_ACQUIRE);
            return true;
        }
    }
    return false;
}

/* Returns when no ring was answered for a while. */
static void settle(const struct rear *rear)
{
    const struct passthrough *p = rear->passthrough;
    uint64_t start = dt_clock_ns(), quiet_since = start, now;
    uint16_t last[VHOST_MAX_QUEUES] = {0};

    do {
        for (unsigned i = 0; i < p->count; i++) {
            uint16_t index;

            if (used_index(rear, &p->rings[i], &index) && index != last[i]) {
                last[i] = index;
                quiet_since = dt_clock_ns();
            }
        }
        poll(NULL, 0, LOOK_MS);
        now = dt_clock_ns();
    } while (now - quiet_since < SETTLE_NS && now - start < SETTLE_MAX);
}

/* Split: the used index. Packed: the rear tells both offsets, or only where it takes from. */
static int judge_base(const struct rear *rear, const struct device_ring *ring, uint32_t base,
                      struct dt_error *err)
{
    uint64_t end = dt_clock_ns() + DRAIN_NS;
    uint16_t index;

    if (rear->passthrough->packed) {
        if (base >> 16 && base >> 16 != (base & 0xffff))
            return dt_fail(err, -EIO, "ring %u stopped with requests unanswered (base 0x%x)",
                           ring->index, base);
        return 0;
    }
    while (used_index(rear, ring, &index) && index != (uint16_t)base) {
        if (dt_clock_ns() >= end)
            return dt_fail(err, -EIO, "ring %u stopped at %u with %u requests unanswered",
                           ring->index, base, (uint16_t)(base - index));
        poll(NULL, 0, LOOK_MS);
    }
    return 0;
}

/* ---- Our own rings --------------------------------------------------------------------------- */

static unsigned our_rings(const struct rear *rear)
{
    return dt_layer_threads(rear->layer) * rear->class->queue_rings;
}

/* Packets that the rear has not taken yet are nobody's requests: they are waited for a moment. */
static bool let_go_of_rings(struct rear *rear)
{
    uint64_t end = dt_clock_ns() + (rear->class->keeps_log ? 0 : PARK_NS);

    do {
        rear->busy = false;
        rear_order_all(rear, REAR_PARK);
        if (!rear->busy)
            return true;
        poll(NULL, 0, LOOK_MS);
    } while (dt_clock_ns() < end);
    return false;
}

/* Stop them, with nothing in flight. */
static int park(struct rear *rear, struct dt_error *err)
{
    int ret = 0;
    uint32_t base;

    if (!let_go_of_rings(rear)) {
        rear_order_all(rear, REAR_UP);
        return dt_fail(err, -EBUSY, "%s",
                       rear->class->keeps_log ? "layers have requests of their own under way"
                                              : "the rear has not taken all packets yet");
    }
    for (unsigned i = 0; ret == 0 && i < our_rings(rear); i++)
        ret = vhost_frontend_ring_stop(rear->session.frontend, i, &base, err);
    return ret;
}

/* Start them again; the rear gets an in-flight log of its own, in place of the guest's. */
static int unpark(struct rear *rear, struct dt_error *err)
{
    struct rear_session *s = &rear->session;
    int ret = vhost_frontend_set_features(s->frontend, s->features, err);

    if (ret == 0 && !rear->class->shares_memory)
        ret = rear_session_share(s, NULL, err);
    ret = ret ?: rear_session_own_log(rear, s, err);
    return ret ?: rear_session_restart_rings(rear, s, err);
}

/* ---- There ----------------------------------------------------------------------------------- */

static void signal_fd(int fd)
{
    const uint64_t one = 1;

    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        log_debug("rear: signal: %m");
}

static int give_log(struct rear *rear, const struct passthrough *p, struct dt_error *err)
{
    struct vhost_inflight region = {.mmap_size = p->log.size,
                                    .mmap_offset = p->log.offset,
                                    .num_queues = p->log.queues,
                                    .queue_size = p->log.queue_size};
    int fd = p->log.fd;

    return vhost_frontend_inflight(rear->session.frontend, p->log.queues, p->log.queue_size, &fd,
                                   &region, err);
}

static uint64_t offered(const struct rear *rear)
{
    return __atomic_load_n(&rear->offered, __ATOMIC_RELAXED);
}

/* The driver may have kicked, or waited for a call, while nobody was there. */
static int give_ring(struct rear *rear, const struct device_ring *r, struct dt_error *err)
{
    const struct vhost_frontend_ring ring = {.size = r->size,
                                             .base = r->base,
                                             .desc = r->desc,
                                             .driver = r->driver,
                                             .device = r->device,
                                             .kick = r->kick,
                                             .call = r->call};
    int ret = vhost_frontend_ring_start(rear->session.frontend, r->index, &ring, err);

    if (ret == 0) {
        signal_fd(r->kick);
        signal_fd(r->call);
    }
    return ret;
}

static int give_rings(struct rear *rear, struct passthrough *p, struct dt_error *err)
{
    uint64_t features = p->features & (~rear->class->optional | offered(rear));
    int ret = vhost_frontend_set_features(rear->session.frontend, features, err);

    if (ret == 0 && rear->class->give)
        ret = rear->class->give(rear, p, err);
    if (ret == 0 && !rear->class->shares_memory)
        ret = rear_session_share(&rear->session, rear->map, err);
    if (ret == 0 && p->logged)
        ret = give_log(rear, p, err);
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = give_ring(rear, &p->rings[i], err);
    return ret;
}

void rear_passthrough_enter(struct rear *rear, struct passthrough *p)
{
    struct dt_error err;
    int ret;

    if (!rear->session.frontend) {
        p->entered(p, -ENOTCONN, "the rear is gone");
        return;
    }
    ret = park(rear, &err);
    if (ret == -EBUSY) {
        p->entered(p, ret, err.text);
        return;
    }
    rear->passthrough = p;
    ret = ret ?: give_rings(rear, p, &err);
    if (ret == 0) {
        p->entered(p, 0, NULL);
        return;
    }
    /* It may have some of the rings: only the end of the session takes them away for sure. */
    rear->passthrough = NULL;
    rear_lose(rear, err.text, false);
    p->entered(p, -EIO, err.text);
}

/* ---- And back -------------------------------------------------------------------------------- */

static int silence(struct rear *rear, const struct passthrough *p, struct dt_error *err)
{
    int silent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), ret = 0;

    if (silent < 0)
        return dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = vhost_frontend_ring_kick(rear->session.frontend, p->rings[i].index, silent, err);
    if (ret == 0)
        settle(rear);
    close(silent);
    return ret;
}

static int take_rings(struct rear *rear, struct passthrough *p, struct dt_error *err)
{
    uint64_t start = dt_clock_ns();
    int ret = rear->class->keeps_log ? silence(rear, p, err) : 0;

    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = vhost_frontend_ring_stop(rear->session.frontend, p->rings[i].index, &p->rings[i].base,
                                       err);
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = judge_base(rear, &p->rings[i], p->rings[i].base, err);
    p->drain_ns = dt_clock_ns() - start;
    return ret;
}

void rear_passthrough_leave(struct rear *rear)
{
    struct passthrough *p = rear->passthrough;
    struct dt_error err = {""};
    int ret;

    if (!p)
        return;
    ret = take_rings(rear, p, &err);
    if (ret < 0) {
        rear_lose(rear, err.text, false); /* tells that they are left */
        return;
    }
    ret = unpark(rear, &err);
    rear->passthrough = NULL;
    if (ret == 0)
        rear_order_all(rear, REAR_UP);
    else
        rear_lose(rear, err.text, false);
    p->left(p, 0, NULL);
}

/* ---- From the front -------------------------------------------------------------------------- */

static int judge(struct dt_layer *layer, struct passthrough *p, struct dt_error *err)
{
    struct rear *rear = dt_layer_data(layer);
    uint64_t missing = p->features & ~(offered(rear) | rear->class->optional);

    p->logged = __atomic_load_n(&rear->protocol, __ATOMIC_RELAXED) & 1ull << VHOST_F_INFLIGHT_SHMFD;
    p->lossy = !rear->class->keeps_log;
    if (rear_gone(rear))
        return dt_fail(err, -EAGAIN, "the rear is gone");
    if (missing)
        return dt_fail(err, -ENOTSUP,
                       "the guest's driver uses features 0x%llx, which the rear lacks",
                       (unsigned long long)missing);
    for (unsigned i = 0; i < p->count; i++)
        if (p->rings[i].index >= rear->queues * rear->class->queue_rings)
            return dt_fail(err, -ENOTSUP,
                           "the guest uses queue %u, and the rear has %u: give the rear more, or "
                           "the device fewer (queues=)",
                           p->rings[i].index / rear->class->queue_rings, rear->queues);
    if (!p->logged && !p->lossy && !rear->class->loss_accepted(rear))
        return dt_fail(
            err, -ENOTSUP,
            "the rear keeps no in-flight log (INFLIGHT_SHMFD): if it or this process dies, "
            "requests in flight are lost, and the VM's session with them. Accept that by "
            "'devtap set DEVICE %s on-rear-loss=fail'",
            dt_layer_name(layer));
    return 0;
}

static void wish(struct rear *rear, enum rear_wish what, struct passthrough *p)
{
    pthread_mutex_lock(&rear->lock);
    rear->wish = what;
    rear->wish_rings = p;
    pthread_mutex_unlock(&rear->lock);
    rear_control_wake(rear);
}

static void enter(struct dt_layer *layer, struct passthrough *p)
{
    wish(dt_layer_data(layer), REAR_ENTER, p);
}

static void leave(struct dt_layer *layer)
{
    wish(dt_layer_data(layer), REAR_LEAVE, NULL);
}

const struct passthrough_ops rear_passthrough_ops = {
    .judge = judge, .enter = enter, .leave = leave};
