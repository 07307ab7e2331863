/* SPDX-License-Identifier: MIT */
/* driver.c - the session: memory, features, the disk's description, and coming back after a crash.
 */
#include "blk/driver/internal.h"

#include <stdio.h>
#include <sys/mman.h>

#define BIT64(n) (1ull << (n))
/* Up to the fields of discard and write-zeroes; what QEMU 7.2 reads. */
#define CONFIG_BYTES offsetof(struct virtio_blk_config, unused1)
#define HUGE_BYTES   (2u << 20)

static const uint64_t wanted_features =
    BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_BLK_F_SIZE_MAX) | BIT64(VIRTIO_BLK_F_SEG_MAX) |
    BIT64(VIRTIO_BLK_F_RO) | BIT64(VIRTIO_BLK_F_BLK_SIZE) | BIT64(VIRTIO_BLK_F_FLUSH) |
    BIT64(VIRTIO_BLK_F_TOPOLOGY) | BIT64(VIRTIO_BLK_F_MQ) | BIT64(VIRTIO_BLK_F_DISCARD) |
    BIT64(VIRTIO_BLK_F_WRITE_ZEROES);

static const uint64_t wanted_protocol =
    BIT64(VHOST_F_MQ) | BIT64(VHOST_F_REPLY_ACK) | BIT64(VHOST_F_BACKEND_REQ) |
    BIT64(VHOST_F_CONFIG) | BIT64(VHOST_F_INFLIGHT_SHMFD) | BIT64(VHOST_F_CONFIGURE_MEM_SLOTS);

/* ---- The session --------------------------------------------------------------------------- */

static int read_config(struct vblk *d, struct dt_error *err)
{
    struct virtio_blk_config disk = {0};
    int ret = vhost_frontend_get_config(d->session, &disk, 0, CONFIG_BYTES, err);

    if (ret < 0)
        return ret;
    if (!(d->info.features & BIT64(VIRTIO_BLK_F_BLK_SIZE)) || disk.blk_size < DT_SECTOR_SIZE ||
        (disk.blk_size & (disk.blk_size - 1)))
        disk.blk_size = DT_SECTOR_SIZE;
    d->info.disk = disk;
    return 0;
}

static int negotiate(struct vblk *d, bool again, struct dt_error *err)
{
    uint64_t needed = d->config.packed ? BIT64(VIRTIO_F_RING_PACKED) : 0;
    uint64_t features = wanted_features, protocol = wanted_protocol;
    unsigned queues;
    int ret;

    if (d->config.event_idx)
        features |= BIT64(VIRTIO_RING_F_EVENT_IDX);
    if (d->config.no_inflight)
        protocol &= ~BIT64(VHOST_F_INFLIGHT_SHMFD);
    if (again) {
        features = needed = d->info.features; /* the rings depend on them */
        protocol = d->info.protocol;
    }
    ret = vhost_frontend_negotiate(d->session, &features, &protocol, needed, &queues, err);
    if (ret == -ENOTSUP && d->config.packed && !again)
        return dt_fail(err, ret, "the back end does not offer packed rings");
    if (ret < 0)
        return ret;
    if (!(protocol & BIT64(VHOST_F_MQ)))
        queues = 1;
    if (queues < d->config.queues)
        return dt_fail(err, -EINVAL, "%u queues are wanted, and the back end offers %u",
                       d->config.queues, queues);
    if (again && protocol != d->info.protocol)
        return dt_fail(err, -EPROTO, "the back end came back without protocol features it had");
    d->info.features = features;
    d->info.protocol = protocol;
    d->info.queues = queues;
    d->info.inflight = protocol & BIT64(VHOST_F_INFLIGHT_SHMFD);
    return 0;
}

static int share_memory(struct vblk *d, struct dt_error *err)
{
    int ret = 0;

    if (d->info.inflight)
        ret = vhost_frontend_inflight(d->session, d->config.queues, d->queues[0].ring_size,
                                      &d->inflight_fd, &d->inflight, err);
    if (ret == 0)
        ret = vhost_frontend_add_memory(d->session, VBLK_GPA, (uintptr_t)d->memory, d->memory_size,
                                        d->memory_fd, 0, err);
    return ret;
}

static int start_queues(struct vblk *d, bool again, struct dt_error *err)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < d->config.queues; i++)
        ret = vblk_queue_start(d, i, again, err);
    return ret;
}

/* ---- Memory -------------------------------------------------------------------------------- */

static int make_memory(struct vblk *d, struct dt_error *err)
{
    unsigned flags = MFD_CLOEXEC | (d->config.huge ? MFD_HUGETLB : 0);
    size_t each = ALIGN_UP(vblk_queue_bytes(&d->config), (size_t)PAGE_SIZE_4K);
    int ret = 0;

    d->memory_size = ALIGN_UP(each * d->config.queues, (size_t)HUGE_BYTES);
    d->memory_fd = memfd_create("devtap-driver", flags);
    if (d->memory_fd < 0 || ftruncate(d->memory_fd, (off_t)d->memory_size) < 0)
        return dt_fail(err, -errno, "cannot make %zu bytes of memory: %s", d->memory_size,
                       strerror(errno));
    d->memory = mmap(NULL, d->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                     d->memory_fd, 0);
    if (d->memory == MAP_FAILED) {
        d->memory = NULL;
        return dt_fail(err, -errno, "cannot map %zu bytes of %smemory: %s", d->memory_size,
                       d->config.huge ? "huge-page " : "", strerror(errno));
    }
    d->queues = xaligned(CACHE_LINE, d->config.queues * sizeof(*d->queues));
    for (unsigned i = 0; i < d->config.queues; i++)
        d->queues[i].kick = d->queues[i].call = -1;
    for (unsigned i = 0; ret == 0 && i < d->config.queues; i++)
        ret = vblk_queue_init(d, i, d->memory + i * each, err);
    return ret;
}

/* ---- Life ---------------------------------------------------------------------------------- */

static int open_session(struct vblk *d, struct dt_error *err)
{
    int ret = d->config.sock > 0
                  ? vhost_frontend_new(&d->session, d->config.sock, d->config.timeout_ms, err)
                  : vhost_frontend_connect(&d->session, d->path, d->config.timeout_ms, err);

    ret = ret ?: negotiate(d, false, err);
    ret = ret ?: read_config(d, err);
    ret = ret ?: make_memory(d, err);
    ret = ret ?: share_memory(d, err);
    return ret ?: start_queues(d, false, err);
}

int vblk_open(struct vblk **out, const struct vblk_config *config, struct dt_error *err)
{
    struct vblk *d = xcalloc(1, sizeof(*d));
    int ret;

    CHECK(config->queues >= 1 && config->depth >= 1 && config->depth <= 8192);
    d->config = *config;
    d->path = xstrdup(config->path);
    d->config.path = d->path;
    d->memory_fd = d->inflight_fd = -1;
    ret = open_session(d, err);
    if (ret < 0) {
        vblk_close(d);
        return ret;
    }
    *out = d;
    return 0;
}

void vblk_close(struct vblk *d)
{
    if (!d)
        return;
    vhost_frontend_free(d->session);
    for (unsigned i = 0; d->queues && i < d->config.queues; i++)
        vblk_queue_fini(&d->queues[i]);
    free(d->queues);
    if (d->memory)
        munmap(d->memory, d->memory_size);
    if (d->memory_fd >= 0)
        close(d->memory_fd);
    if (d->inflight_fd >= 0)
        close(d->inflight_fd);
    free(d->path);
    free(d);
}

const struct vblk_info *vblk_info(const struct vblk *d)
{
    return &d->info;
}

struct vblk_queue *vblk_queue(struct vblk *d, unsigned index)
{
    CHECK(index < d->config.queues);
    return &d->queues[index];
}

bool vblk_alive(struct vblk *d, bool *changed)
{
    bool config_changed = false;
    struct dt_error err;

    if (!d->session || vhost_frontend_events(d->session, &config_changed) < 0)
        return false;
    *changed = config_changed && read_config(d, &err) == 0;
    return true;
}

int vblk_reconnect(struct vblk *d, struct dt_error *err)
{
    int ret;

    vhost_frontend_free(d->session);
    d->session = NULL;
    ret = vhost_frontend_connect(&d->session, d->path, d->config.timeout_ms, err);
    ret = ret ?: negotiate(d, true, err);
    ret = ret ?: share_memory(d, err);
    return ret ?: start_queues(d, true, err);
}
