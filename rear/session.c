/* SPDX-License-Identifier: MIT */
/*
 * session.c - one connection to the rear: what is agreed, and what the rear is given.
 */
#include "rear/rear.h"

#include <fcntl.h>
#include <sys/mman.h>

/* ---- What is agreed -------------------------------------------------------------------------- */

static int agree(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    uint64_t needed = REAR_BIT(VIRTIO_F_VERSION_1), features = rear->class->features;
    uint64_t offered = 0, offered_protocol = 0;
    unsigned queues = 1, threads = dt_layer_threads(rear->layer);
    int ret;

    s->protocol = rear->class->protocol;
    if (rear->listen)
        rear->class->promised(rear, &features, &needed);
    if (rear->packed)
        needed |= REAR_BIT(VIRTIO_F_RING_PACKED);
    if (again && !rear->listen) {
        features = rear->features | rear->class->telling;
        needed = rear->features & ~rear->class->telling;
    }
    vhost_frontend_queue_rings(s->frontend, rear->class->queue_rings);
    ret = vhost_frontend_negotiate(s->frontend, &features, &s->protocol, needed, &queues, err);
    if (ret == -ENOTSUP && rear->packed && !again)
        return dt_fail(err, ret, "the back end has no packed rings: leave packed=on out");
    if (ret == -ENOTSUP && again)
        dt_fail_prefix(err, rear->listen ? "it lacks what the device promised for it"
                                         : "it came back as another device");
    if (ret < 0)
        return ret;
    s->features = features;
    vhost_frontend_offered(s->frontend, &offered, &offered_protocol);
    __atomic_store_n(&rear->offered, offered, __ATOMIC_RELAXED);
    if (!(s->protocol & REAR_BIT(VHOST_F_MQ)))
        queues = 1;
    if (queues < threads)
        return dt_fail(err, -EINVAL,
                       "the back end has %u queues, fewer than the device's %u threads: give it "
                       "more, or the device threads=%u",
                       queues, threads, queues);
    rear->queues = queues;
    return 0;
}

/* The socket. A worker makes it itself while it opens the chain; later it asks for one that it
 * announced. */
static int dial(struct rear *rear, bool again, int timeout, struct dt_error *err)
{
    int sock;

    if (rear->listen)
        return rear_accept(rear, err);
    if (!again)
        return vhost_connect(rear->path, err);
    sock = layer_connect(rear->layer, rear->address, timeout);
    return sock < 0 ? dt_fail(err, sock, "cannot connect to '%s': %s", rear->path, strerror(-sock))
                    : sock;
}

static int meet(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    int timeout = (int)(rear->timeout / DT_MS(1)), sock = dial(rear, again, timeout, err), ret;

    if (sock < 0)
        return sock;
    ret = rear->greet ? rear->greet(rear, sock, timeout, err) : 0;
    ret = ret ?: vhost_frontend_new(&s->frontend, sock, timeout, err);
    if (ret < 0)
        close(sock);
    return ret;
}

int rear_session_connect(struct rear *rear, struct rear_session *s, bool again,
                         struct dt_error *err)
{
    int ret;

    *s = (struct rear_session){.memory_fd = -1};
    ret = meet(rear, s, again, err);
    ret = ret ?: agree(rear, s, again, err);
    ret = ret ?: rear->class->agreed(rear, s, again, err);
    if (ret < 0) {
        rear_session_end(rear, s);
        return ret;
    }
    if (!again || rear->listen)
        rear->features = s->features;
    __atomic_store_n(&rear->protocol, s->protocol, __ATOMIC_RELAXED);
    return 0;
}

/* ---- What the rear is given ------------------------------------------------------------------ */

static bool clear_of(const struct rear_map *map, uint64_t gpa, uint64_t size)
{
    for (unsigned i = 0; i < map->count; i++)
        if (gpa - map->regions[i].gpa < map->regions[i].size || map->regions[i].gpa - gpa < size)
            return false;
    return true;
}

/* An address that no guest has memory at; the rear needs no other kind of address for it. */
static int choose_place(struct rear_session *s, const struct rear_map *map, struct dt_error *err)
{
    for (unsigned shift = 47; shift >= 40; shift--) {
        s->gpa = 1ull << shift;
        if (clear_of(map, s->gpa, s->memory_size))
            return 0;
    }
    return dt_fail(err, -EADDRINUSE, "guest memory leaves no address for the rings");
}

static int make_memory(struct rear *rear, struct rear_session *s, struct dt_error *err)
{
    unsigned threads = dt_layer_threads(rear->layer);

    s->part_bytes = rear->class->part_bytes(rear);
    s->memory_size = threads * s->part_bytes;
    /* Sealed: the rear has the file, and could else take it away under us. */
    s->memory_fd = memfd_create("devtap-rear", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->memory_fd < 0 || ftruncate(s->memory_fd, (off_t)s->memory_size) < 0 ||
        fcntl(s->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return dt_fail(err, -errno, "cannot make %zu bytes of memory: %s", s->memory_size,
                       strerror(errno));
    s->memory = mmap(NULL, s->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, s->memory_fd, 0);
    if (s->memory == MAP_FAILED) {
        s->memory = NULL;
        return dt_fail(err, -errno, "cannot map %zu bytes of memory: %s", s->memory_size,
                       strerror(errno));
    }
    return 0;
}

/* Addresses of the front end's own space serve no purpose here: guest-physical ones stand in for
 * them. */
static int share(struct rear_session *s, const struct device_region *r, struct dt_error *err)
{
    return vhost_frontend_add_memory(s->frontend, r->gpa, r->gpa, r->size, r->fd, r->offset, err);
}

struct rear_part *rear_session_part(const struct rear *rear, const struct rear_session *s,
                                    unsigned t)
{
    return (void *)(s->parts + t * rear->class->part_size);
}

static int start_ring(struct rear *rear, struct rear_session *s, struct rear_ring *r, unsigned q,
                      struct dt_error *err)
{
    const struct vhost_frontend_ring ring = {
        .size = (uint16_t)rear->queue_size,
        .base = rear->packed ? 0x80008000u : 0, /* both wrap counters begin at 1 */
        .desc = r->vq.addr + r->vq.desc_off,
        .driver = r->vq.addr + r->vq.driver_off,
        .device = r->vq.addr + r->vq.device_off,
        .kick = r->kick,
        .call = r->call};

    return vhost_frontend_ring_start(s->frontend, q, &ring, err);
}

static void empty_part(struct rear_part *part)
{
    for (unsigned i = 0; i < REAR_MAX_RINGS; i++)
        part->rings[i].kick = part->rings[i].call = -1;
}

static int start_part(struct rear *rear, struct rear_session *s, unsigned t, struct dt_error *err)
{
    struct rear_part *part = rear_session_part(rear, s, t);
    unsigned rings = rear->class->queue_rings;
    int ret;

    part->base = s->memory + t * s->part_bytes;
    part->gpa = s->gpa + t * s->part_bytes;
    ret = rear->class->part_init(rear, s->features, part, err);
    for (unsigned i = 0; ret == 0 && i < rings; i++)
        ret = start_ring(rear, s, &part->rings[i], t * rings + i, err);
    return ret;
}

static void end_parts(struct rear *rear, struct rear_session *s)
{
    for (unsigned t = 0; s->parts && t < dt_layer_threads(rear->layer); t++) {
        struct rear_part *part = rear_session_part(rear, s, t);

        rear->class->part_fini(part);
        for (unsigned i = 0; i < REAR_MAX_RINGS; i++) {
            struct rear_ring *r = &part->rings[i];

            virtq_driver_fini(&r->vq);
            if (r->kick >= 0)
                close(r->kick);
            if (r->call >= 0)
                close(r->call);
        }
    }
    free(s->parts);
    s->parts = NULL;
}

/*
 * The log for our rings is the rear's own, and we never look at it: what is in flight we know
 * ourselves. Some rears want one before they start a ring.
 */
int rear_session_own_log(struct rear *rear, struct rear_session *s, struct dt_error *err)
{
    struct vhost_inflight region;
    int fd = -1, ret = 0;

    if (s->protocol & REAR_BIT(VHOST_F_INFLIGHT_SHMFD))
        ret = vhost_frontend_inflight(s->frontend, dt_layer_threads(rear->layer),
                                      (uint16_t)rear->queue_size, &fd, &region, err);
    if (fd >= 0)
        close(fd);
    return ret;
}

int rear_session_restart_rings(struct rear *rear, struct rear_session *s, struct dt_error *err)
{
    unsigned threads = dt_layer_threads(rear->layer);
    int ret = 0;

    end_parts(rear, s);
    s->parts = xaligned(CACHE_LINE, threads * rear->class->part_size);
    for (unsigned t = 0; t < threads; t++)
        empty_part(rear_session_part(rear, s, t));
    for (unsigned t = 0; ret == 0 && t < threads; t++)
        ret = start_part(rear, s, t, err);
    return ret;
}

int rear_session_begin(struct rear *rear, struct rear_session *s, const struct rear_map *map,
                       struct dt_error *err)
{
    const struct device_region *own;
    int ret = make_memory(rear, s, err);

    ret = ret ?: choose_place(s, map, err);
    if (ret < 0)
        return ret;
    own = &(struct device_region){.gpa = s->gpa, .size = s->memory_size, .fd = s->memory_fd};
    ret = share(s, own, err);
    if (ret == 0 && rear->class->shares_memory)
        ret = rear_session_share(s, map, err);
    ret = ret ?: rear_session_own_log(rear, s, err);
    return ret ?: rear_session_restart_rings(rear, s, err);
}

static bool has(const struct rear_map *map, const struct device_region *r)
{
    for (unsigned i = 0; map && i < map->count; i++)
        if (device_region_same(&map->regions[i], r))
            return true;
    return false;
}

bool rear_session_clear_of(const struct rear_session *s, const struct rear_map *map)
{
    return clear_of(map, s->gpa, s->memory_size);
}

int rear_session_share(struct rear_session *s, const struct rear_map *map, struct dt_error *err)
{
    int ret = 0;

    if (map && !rear_session_clear_of(s, map))
        return dt_fail(err, -EADDRINUSE, "guest memory appeared where the rings are");
    for (unsigned i = 0; ret == 0 && s->shared && i < s->shared->count; i++) {
        const struct device_region *r = &s->shared->regions[i];

        if (!has(map, r))
            ret = vhost_frontend_remove_memory(s->frontend, r->gpa, r->gpa, r->size, err);
    }
    for (unsigned i = 0; ret == 0 && map && i < map->count; i++)
        if (!has(s->shared, &map->regions[i]))
            ret = share(s, &map->regions[i], err);
    if (ret == 0)
        s->shared = map;
    return ret;
}

void rear_session_end(struct rear *rear, struct rear_session *s)
{
    vhost_frontend_free(s->frontend);
    end_parts(rear, s);
    if (s->memory)
        munmap(s->memory, s->memory_size);
    if (s->memory_fd >= 0)
        close(s->memory_fd);
    *s = (struct rear_session){.memory_fd = -1};
}
