/* SPDX-License-Identifier: MIT */
/*
 * session.c - one connection to the rear: what is agreed, what the disk is, and what the rear is
 * given.
 *
 * Fence: a rear serves one front end at a time, and answers the next one only when the requests of
 * the one before are over. So once it has answered, nothing of an earlier, dead process of ours can
 * land.
 */
#include "blk/rear/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>

#define BIT64(n) (1ull << (n))
/* Up to the fields of discard and write-zeroes: what QEMU 7.2 reads, and its back ends have. */
#define CONFIG_BYTES offsetof(struct virtio_blk_config, unused1)
#define MAX_BLOCK    65536u

static const uint64_t wanted_features =
    BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_RING_F_EVENT_IDX) |
    BIT64(VIRTIO_RING_F_INDIRECT_DESC) | BIT64(VIRTIO_BLK_F_SIZE_MAX) |
    BIT64(VIRTIO_BLK_F_SEG_MAX) | BIT64(VIRTIO_BLK_F_RO) | BIT64(VIRTIO_BLK_F_BLK_SIZE) |
    BIT64(VIRTIO_BLK_F_FLUSH) | BIT64(VIRTIO_BLK_F_TOPOLOGY) | BIT64(VIRTIO_BLK_F_MQ) |
    BIT64(VIRTIO_BLK_F_DISCARD) | BIT64(VIRTIO_BLK_F_WRITE_ZEROES);

static const uint64_t wanted_protocol =
    BIT64(VHOST_F_MQ) | BIT64(VHOST_F_REPLY_ACK) | BIT64(VHOST_F_BACKEND_REQ) |
    BIT64(VHOST_F_CONFIG) | BIT64(VHOST_F_INFLIGHT_SHMFD) | BIT64(VHOST_F_CONFIGURE_MEM_SLOTS);

/* ---- What the disk is ------------------------------------------------------------------------ */

static bool power_of_two(uint32_t n)
{
    return n && !(n & (n - 1));
}

/* Every number here is the rear's: what a feature does not announce counts as zero. */
static int describe(struct dt_block_info *info, const struct virtio_blk_config *disk,
                    uint64_t features, const struct rear *rear, struct dt_error *err)
{
    bool indirect = features & BIT64(VIRTIO_RING_F_INDIRECT_DESC);
    uint32_t block = features & BIT64(VIRTIO_BLK_F_BLK_SIZE) ? disk->blk_size : DT_SECTOR_SIZE;
    uint32_t segments = features & BIT64(VIRTIO_BLK_F_SEG_MAX) ? disk->seg_max : REAR_SEGMENTS;

    if (!power_of_two(block) || block < DT_SECTOR_SIZE || block > MAX_BLOCK)
        return dt_fail(err, -EPROTO, "the back end has a block size of %u bytes", block);
    *info = (struct dt_block_info){.logical_block = block, .physical_block = block};
    if (features & BIT64(VIRTIO_BLK_F_TOPOLOGY) && disk->physical_block_exp <= 16) {
        info->physical_block = block << disk->physical_block_exp;
        info->optimal_io = (uint32_t)MIN((uint64_t)disk->opt_io_size * block, 1u << 30);
    }
    if (!indirect)
        segments = MIN(segments, (uint32_t)rear->queue_size - 2);
    info->max_segments = MIN(MAX(segments, 1u), REAR_SEGMENTS);
    info->max_sectors = REAR_MAX_BYTES >> DT_SECTOR_SHIFT;
    if (features & BIT64(VIRTIO_BLK_F_SIZE_MAX) && disk->size_max) {
        if (disk->size_max < block)
            return dt_fail(err, -EPROTO, "the back end takes no more than %u bytes in a segment",
                           disk->size_max);
        info->max_sectors = MIN(info->max_sectors, ALIGN_DOWN(disk->size_max, block) >> 9);
    }
    info->read_only = features & BIT64(VIRTIO_BLK_F_RO);
    info->can_flush = features & BIT64(VIRTIO_BLK_F_FLUSH);
    info->can_discard = features & BIT64(VIRTIO_BLK_F_DISCARD) && disk->max_discard_sectors;
    info->max_discard = disk->max_discard_sectors;
    info->discard_align = disk->discard_sector_alignment;
    info->can_write_zeroes =
        features & BIT64(VIRTIO_BLK_F_WRITE_ZEROES) && disk->max_write_zeroes_sectors;
    info->max_write_zeroes = disk->max_write_zeroes_sectors;
    info->write_zeroes_unmaps = disk->write_zeroes_may_unmap;
    return 0;
}

/* The guest was promised what the rear was at first. */
static int still_the_same(const struct dt_block_info *was, const struct dt_block_info *is,
                          struct dt_error *err)
{
    const char *what = NULL;

    if (is->logical_block != was->logical_block)
        what = "another block size";
    else if (is->read_only != was->read_only)
        what = is->read_only ? "a read-only disk" : "a writable disk";
    else if (is->max_segments < was->max_segments || is->max_sectors < was->max_sectors)
        what = "smaller limits";
    else if ((was->can_discard && is->max_discard < was->max_discard) ||
             (was->can_write_zeroes && is->max_write_zeroes < was->max_write_zeroes))
        what = "smaller limits for discard or write-zeroes";
    return what ? dt_fail(err, -EPROTO,
                          "the back end came back with %s; give it its former configuration, or "
                          "restart the device",
                          what)
                : 0;
}

int rear_session_read_config(struct rear *rear, struct rear_session *s, bool again,
                             struct dt_error *err)
{
    struct virtio_blk_config disk = {0};
    struct dt_block_info info;
    int ret = vhost_frontend_get_config(s->frontend, &disk, 0, CONFIG_BYTES, err);

    ret = ret ?: describe(&info, &disk, s->features, rear, err);
    if (ret == 0 && again)
        ret = still_the_same(&rear->info, &info, err);
    if (ret < 0)
        return ret;
    if (disk.capacity == 0 || disk.capacity > UINT64_MAX >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EPROTO, "the back end has %" PRIu64 " sectors",
                       (uint64_t)disk.capacity);
    s->disk = disk;
    if (!again) {
        rear->disk = disk;
        rear->info = info;
    }
    __atomic_store_n(&rear->sectors, disk.capacity, __ATOMIC_RELAXED);
    return 0;
}

/* ---- What is agreed -------------------------------------------------------------------------- */

static int agree(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    uint64_t needed = BIT64(VIRTIO_F_VERSION_1), features = wanted_features;
    uint64_t offered = 0, offered_protocol = 0;
    unsigned queues = 1, threads = dt_layer_threads(rear->layer);
    int ret;

    s->protocol = wanted_protocol;
    if (rear->packed)
        needed |= BIT64(VIRTIO_F_RING_PACKED);
    if (again)
        features = needed = rear->features;
    ret = vhost_frontend_negotiate(s->frontend, &features, &s->protocol, needed, &queues, err);
    if (ret == -ENOTSUP && rear->packed && !again)
        return dt_fail(err, ret, "the back end has no packed rings: leave packed=on out");
    if (ret == -ENOTSUP && again)
        dt_fail_prefix(err, "it came back as another device");
    if (ret < 0)
        return ret;
    s->features = features;
    vhost_frontend_offered(s->frontend, &offered, &offered_protocol);
    __atomic_store_n(&rear->offered, offered, __ATOMIC_RELAXED);
    if (!(s->protocol & BIT64(VHOST_F_CONFIG)))
        return dt_fail(err, -ENOTSUP,
                       "the back end does not tell its size (protocol feature CONFIG)");
    if (!(s->protocol & BIT64(VHOST_F_MQ)))
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
static int dial(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    int timeout = (int)(rear->timeout / DT_MS(1));
    int sock =
        again ? layer_connect(rear->layer, rear->address, timeout) : vhost_connect(rear->path, err);
    int ret;

    if (sock < 0)
        return again ? dt_fail(err, sock, "cannot connect to '%s': %s", rear->path, strerror(-sock))
                     : sock;
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
    ret = dial(rear, s, again, err);
    ret = ret ?: agree(rear, s, again, err);
    ret = ret ?: rear_session_read_config(rear, s, again, err);
    if (ret < 0) {
        rear_session_end(rear, s);
        return ret;
    }
    if (!again)
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

    s->part_size = rear_rings_bytes(rear);
    s->memory_size = threads * s->part_size;
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

static int start_ring(struct rear *rear, struct rear_session *s, unsigned t, struct dt_error *err)
{
    struct rear_rings *q = &s->rings[t];
    uint64_t gpa = s->gpa + t * s->part_size;
    struct vhost_frontend_ring ring = {.size = (uint16_t)rear->queue_size};
    int ret = rear_rings_init(q, rear, s->features, s->memory + t * s->part_size, gpa, err);

    if (ret < 0)
        return ret;
    ring.base = rear->packed ? 0x80008000u : 0; /* both wrap counters begin at 1 */
    ring.desc = q->ring.addr + q->ring.desc_off;
    ring.driver = q->ring.addr + q->ring.driver_off;
    ring.device = q->ring.addr + q->ring.device_off;
    ring.kick = q->kick;
    ring.call = q->call;
    return vhost_frontend_ring_start(s->frontend, t, &ring, err);
}

/*
 * The log for our rings is the rear's own, and we never look at it: what is in flight we know
 * ourselves. Some rears want one before they start a ring.
 */
int rear_session_own_log(struct rear *rear, struct rear_session *s, struct dt_error *err)
{
    struct vhost_inflight region;
    int fd = -1, ret = 0;

    if (s->protocol & BIT64(VHOST_F_INFLIGHT_SHMFD))
        ret = vhost_frontend_inflight(s->frontend, dt_layer_threads(rear->layer),
                                      (uint16_t)rear->queue_size, &fd, &region, err);
    if (fd >= 0)
        close(fd);
    return ret;
}

int rear_session_begin(struct rear *rear, struct rear_session *s, const struct rear_map *map,
                       struct dt_error *err)
{
    unsigned threads = dt_layer_threads(rear->layer);
    int ret = make_memory(rear, s, err);

    ret = ret ?: choose_place(s, map, err);
    if (ret < 0)
        return ret;
    ret = share(
        s, &(struct device_region){.gpa = s->gpa, .size = s->memory_size, .fd = s->memory_fd}, err);
    for (unsigned i = 0; ret == 0 && i < map->count; i++)
        ret = share(s, &map->regions[i], err);
    ret = ret ?: rear_session_own_log(rear, s, err);
    s->rings = xcalloc(threads, sizeof(*s->rings));
    for (unsigned t = 0; t < threads; t++)
        s->rings[t].kick = s->rings[t].call = -1;
    for (unsigned t = 0; ret == 0 && t < threads; t++)
        ret = start_ring(rear, s, t, err);
    s->map = map;
    return ret;
}

int rear_session_restart_rings(struct rear *rear, struct rear_session *s, struct dt_error *err)
{
    int ret = 0;

    for (unsigned t = 0; t < dt_layer_threads(rear->layer); t++)
        rear_rings_fini(&s->rings[t]);
    for (unsigned t = 0; t < dt_layer_threads(rear->layer); t++)
        s->rings[t] = (struct rear_rings){.kick = -1, .call = -1};
    for (unsigned t = 0; ret == 0 && t < dt_layer_threads(rear->layer); t++)
        ret = start_ring(rear, s, t, err);
    return ret;
}

static bool has(const struct rear_map *map, const struct device_region *r)
{
    for (unsigned i = 0; i < map->count; i++)
        if (device_region_same(&map->regions[i], r))
            return true;
    return false;
}

int rear_session_remap(struct rear_session *s, const struct rear_map *map, struct dt_error *err)
{
    int ret = 0;

    if (!clear_of(map, s->gpa, s->memory_size))
        return dt_fail(err, -EADDRINUSE, "guest memory appeared where the rings are");
    for (unsigned i = 0; ret == 0 && i < s->map->count; i++) {
        const struct device_region *r = &s->map->regions[i];

        if (!has(map, r))
            ret = vhost_frontend_remove_memory(s->frontend, r->gpa, r->gpa, r->size, err);
    }
    for (unsigned i = 0; ret == 0 && i < map->count; i++)
        if (!has(s->map, &map->regions[i]))
            ret = share(s, &map->regions[i], err);
    if (ret == 0)
        s->map = map;
    return ret;
}

void rear_session_end(struct rear *rear, struct rear_session *s)
{
    vhost_frontend_free(s->frontend);
    for (unsigned t = 0; s->rings && t < dt_layer_threads(rear->layer); t++)
        rear_rings_fini(&s->rings[t]);
    free(s->rings);
    if (s->memory)
        munmap(s->memory, s->memory_size);
    if (s->memory_fd >= 0)
        close(s->memory_fd);
    *s = (struct rear_session){.memory_fd = -1};
}
