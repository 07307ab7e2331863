/* SPDX-License-Identifier: MIT */
/*
 * passthrough.c - the guest's own rings at the rear, and back: on the control thread.
 *
 * Theory of operation: on the way there our rings are stopped, the rear is told the features that
 * the guest's driver chose, and gets the guest's rings and eventfds; nothing of ours is in the data
 * path then. On the way back a ring is stopped, and the base that the rear tells must be the used index.
 *
 * Some back ends answer a stop before they have drained, and forget what they had (qemu-storage-daemon 7.2). Those that
 * keep an in-flight log are asked at once: whatever they forget is in the log. The others first get a kick eventfd
 * that nobody signals, and are waited for: until nothing was answered for a while, and, where EVENT_IDX tells how
 * far they took a ring, until that was answered.
 *
 * Rings of a class that keeps no log are stopped at once, too: what was under way then may be lost, as packets may.
 */
#include "rear/rear.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>

#define SETTLE_NS  DT_MS(10) /* nothing was answered for so long */
#define DRAINED_NS DT_MS(3)  /* the same, where the rings say that nothing is left */
#define SETTLE_MAX DT_MS(500)
#define DRAIN_NS   DT_S(5)
#define LOOK_NS    DT_US(100)
#define PARK_NS    DT_MS(100)

/* ---- What the guest's rings say -------------------------------------------------------------- */

/* A word of a split ring's used area, in guest memory; false where it cannot be seen. */
static bool used_area(const struct rear *rear, const struct device_ring *ring, size_t offset,
                      uint16_t *word)
{
    const uint64_t at = ring->device + offset;

    for (unsigned i = 0; rear->map && !rear->passthrough->packed && i < rear->map->count; i++) {
        const struct device_region *r = &rear->map->regions[i];

        if (at - r->gpa < r->size && r->size - (at - r->gpa) >= sizeof(*word)) {
            *word =
                __atomic_load_n((uint16_t *)(void *)(r->host + (at - r->gpa)), __ATOMIC_ACQUIRE);
            return true;
        }
    }
    return false;
}

static bool used_index(const struct rear *rear, const struct device_ring *ring, uint16_t *index)
{
    return used_area(rear, ring, offsetof(struct vring_used, idx), index);
}

/*
 * What the rear took and did not answer: with EVENT_IDX it says at which entry it wants to be kicked, and
 * qemu-storage-daemon does so with each that it takes. -1 where that is not known.
 */
static int owed(const struct rear *rear, const struct device_ring *ring, uint16_t used)
{
    const size_t event =
        offsetof(struct vring_used, ring) + ring->size * sizeof(struct vring_used_elem);
    uint16_t next;

    if (!(rear->passthrough->features & 1ull << VIRTIO_RING_F_EVENT_IDX) ||
        !used_area(rear, ring, event, &next) || (uint16_t)(next - used) > ring->size)
        return -1;
    return (uint16_t)(next - used);
}

static void look_later(void)
{
    nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
}

/* Returns when no ring was answered for a while, and none is known to owe an answer. */
static void settle(const struct rear *rear)
{
    const struct passthrough *p = rear->passthrough;
    uint64_t start = dt_clock_ns(), quiet_since = start, now, quiet, most;
    uint16_t last[VHOST_MAX_QUEUES] = {0};

    do {
        quiet = DRAINED_NS;
        most = SETTLE_MAX;
        for (unsigned i = 0; i < p->count; i++) {
            uint16_t index = 0;
            int n = used_index(rear, &p->rings[i], &index) ? owed(rear, &p->rings[i], index) : -1;

            if (index != last[i])
                quiet_since = dt_clock_ns();
            last[i] = index;
            if (n != 0)
                quiet = MAX(quiet, n < 0 ? SETTLE_NS : DRAIN_NS);
            if (n > 0)
                most = DRAIN_NS;
        }
        look_later();
        now = dt_clock_ns();
    } while (now - quiet_since < quiet && now - start < most);
}

/*
 * The rear tells where it takes from and where it answers, or, as DPDK does, the former alone. Of packets the ring's flags
 * tell the latter.
 */
static int judge_packed(const struct rear *rear, struct device_ring *ring, struct dt_error *err)
{
    uint32_t taken = ring->base & 0xffff, answered = ring->base >> 16;

    if (taken != answered && !rear->class->keeps_log)
        ring->unsure = true;
    else if (taken != answered && answered)
        return dt_fail(err, -EIO, "ring %u stopped with requests unanswered (base 0x%x)",
                       ring->index, ring->base);
    ring->base = taken | taken << 16;
    return 0;
}

/* Of split rings the used index tells. */
static int judge_base(const struct rear *rear, struct device_ring *ring, struct dt_error *err)
{
    uint64_t end = dt_clock_ns() + DRAIN_NS;
    uint32_t base = ring->base;
    uint16_t index;

    if (rear->passthrough->packed)
        return judge_packed(rear, ring, err);
    while (used_index(rear, ring, &index) && index != (uint16_t)base) {
        if (dt_clock_ns() >= end)
            return dt_fail(err, -EIO, "ring %u stopped at %u with %u requests unanswered",
                           ring->index, base, (uint16_t)(base - index));
        look_later();
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
        look_later();
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
    int ret;

    vhost_frontend_batch(s->frontend);
    ret = vhost_frontend_set_features(s->frontend, s->features, err);
    if (ret == 0 && !rear->class->shares_memory)
        ret = rear_session_share(s, NULL, err);
    ret = ret ?: rear_session_own_log(rear, s, err);
    ret = ret ?: rear_session_restart_rings(rear, s, err);
    return vhost_frontend_flush(s->frontend, ret, err);
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

static int give_ring(struct rear *rear, const struct device_ring *r, struct dt_error *err)
{
    const struct vhost_frontend_ring ring = {.size = r->size,
                                             .base = r->base,
                                             .desc = r->desc,
                                             .driver = r->driver,
                                             .device = r->device,
                                             .kick = r->kick,
                                             .call = r->call};

    return vhost_frontend_ring_start(rear->session.frontend, r->index, &ring, err);
}

static int give_rings(struct rear *rear, struct passthrough *p, struct dt_error *err)
{
    uint64_t features = p->features & (~rear->class->optional | offered(rear));
    struct vhost_frontend *f = rear->session.frontend;
    int ret;

    features |= rear->session.features & rear->class->telling;
    vhost_frontend_batch(f);
    ret = vhost_frontend_set_features(f, features, err);
    if (ret == 0 && rear->class->give)
        ret = rear->class->give(rear, p, err);
    if (ret == 0 && !rear->class->shares_memory)
        ret = rear_session_share(&rear->session, rear->map, err);
    if (ret == 0 && p->logged)
        ret = give_log(rear, p, err);
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = give_ring(rear, &p->rings[i], err);
    ret = vhost_frontend_flush(f, ret, err);
    /* The driver may have kicked, or waited for a call, while nobody was there. */
    for (unsigned i = 0; ret == 0 && i < p->count; i++) {
        signal_fd(p->rings[i].kick);
        signal_fd(p->rings[i].call);
    }
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

/* No kick reaches it any more; what it has it finishes. */
static int let_drain(struct rear *rear, const struct passthrough *p, struct dt_error *err)
{
    struct vhost_frontend *f = rear->session.frontend;
    int silent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), ret = 0;

    if (silent < 0)
        return dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    vhost_frontend_batch(f);
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = vhost_frontend_ring_kick(f, p->rings[i].index, silent, err);
    ret = vhost_frontend_flush(f, ret, err);
    if (ret == 0)
        settle(rear);
    close(silent);
    return ret;
}

static int take_rings(struct rear *rear, struct passthrough *p, struct dt_error *err)
{
    uint64_t start = dt_clock_ns();
    int ret = rear->class->keeps_log && !p->logged ? let_drain(rear, p, err) : 0;

    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = vhost_frontend_ring_stop(rear->session.frontend, p->rings[i].index, &p->rings[i].base,
                                       err);
    for (unsigned i = 0; ret == 0 && i < p->count; i++)
        ret = judge_base(rear, &p->rings[i], err);
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
