/* SPDX-License-Identifier: MIT */
/*
 * backend-inflight.c - where each ring's in-flight log is.
 *
 * Three origins: a region that we made for the front end to keep (GET_INFLIGHT_FD), one that it
 * gives back (SET_INFLIGHT_FD), and where that is not negotiated, one of our own that lasts as long
 * as the session. A region that comes back and is not the one in use may hold what another
 * process left in flight: rings recover from it. The one in use is known by its file.
 *
 * All queues' logs lie in one file, each as long as the region's queue size demands; how long
 * that is depends on the ring format, which is known for certain only when a ring starts, so it is
 * checked then.
 */
#include "vhost/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>

static bool packed_rings(const struct vhost_backend *s)
{
    return s->state->features & BIT(VIRTIO_F_RING_PACKED);
}

/* Whether this is the region in use, and which file it is. */
static bool region_in_use(const struct vhost_backend *s, const struct vhost_inflight *region,
                          const struct backend_file *file)
{
    const struct vhost_inflight *now = &s->state->inflight;

    return s->inflight_map.count > 0 && file->dev == s->inflight_file.dev &&
           file->ino == s->inflight_file.ino && now->mmap_offset == region->mmap_offset &&
           now->mmap_size == region->mmap_size && now->num_queues == region->num_queues &&
           now->queue_size == region->queue_size;
}

static int identify(int fd, struct backend_file *file)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *file = (struct backend_file){st.st_dev, st.st_ino};
    return 0;
}

static int adopt_region(struct vhost_backend *s, const struct vhost_inflight *region, int fd,
                        bool recover, struct dt_error *err)
{
    struct backend_file file;
    int rc = identify(fd, &file);

    if (rc < 0)
        return dt_fail(err, rc, "in-flight region: %s", strerror(-rc));
    if (region_in_use(s, region, &file))
        return 0;
    if (backend_any_started(s))
        return dt_fail(err, -EBUSY, "the in-flight region cannot change while a ring runs");
    memmap_clear(&s->inflight_map);
    s->state->inflight = (struct vhost_inflight){0};
    backend_forget_file(s, &s->inflight_kept);
    rc = memmap_add(&s->inflight_map, 0, 0, region->mmap_size, fd, region->mmap_offset, err);
    if (rc == 0)
        rc = backend_keep_file(s, &s->inflight_kept, fd, err);
    if (rc < 0) {
        memmap_clear(&s->inflight_map);
        dt_fail_prefix(err, "in-flight region");
        return rc;
    }
    s->inflight_file = file;
    s->state->inflight = *region;
    s->state->inflight_from_front = recover;
    for (unsigned q = 0; q < s->config.queues; q++) {
        s->queues[q].recover = recover;
        s->queues[q].left = false;
    }
    return 0;
}

/* Make a region, adopt it, and return its descriptor. A shrinking file would fault. */
static int make_region(struct vhost_backend *s, struct vhost_inflight *region, struct dt_error *err)
{
    _cleanup_close_ int fd = memfd_create("devtap-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int rc;

    if (fd < 0 || ftruncate(fd, (off_t)region->mmap_size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return dt_fail(err, -errno, "cannot make an in-flight region of %" PRIu64 " bytes: %s",
                       region->mmap_size, strerror(errno));
    rc = adopt_region(s, region, fd, false, err);
    return rc < 0 ? rc : TAKE_FD(fd);
}

/* ---- Messages ---- */

int vhost_inflight_judge(const struct vhost_inflight *r, bool packed, struct dt_error *err)
{
    if (r->num_queues < 1 || r->num_queues > VHOST_MAX_QUEUES || r->queue_size < 1 ||
        r->queue_size > VIRTQ_MAX_SIZE)
        return dt_fail(err, -EINVAL, "in-flight region for %u queues of %u", r->num_queues,
                       r->queue_size);
    if (r->mmap_offset % sizeof(uint64_t))
        return dt_fail(err, -EINVAL, "in-flight region at offset %" PRIu64 ", which is not aligned",
                       r->mmap_offset);
    if (r->mmap_size < r->num_queues * inflight_queue_size(r->queue_size, packed))
        return dt_fail(err, -EINVAL,
                       "in-flight region of %" PRIu64 " bytes for %u queues of %u needs %zu",
                       r->mmap_size, r->num_queues, r->queue_size,
                       r->num_queues * inflight_queue_size(r->queue_size, packed));
    return 0;
}

int check_get_inflight_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct vhost_inflight *r = &m->inflight;

    /* Before the features came the ring format is not known: make it large enough for both. */
    r->mmap_size = r->num_queues *
                   inflight_queue_size(r->queue_size, !s->state->features_set || packed_rings(s));
    r->mmap_offset = 0;
    return vhost_inflight_judge(r, packed_rings(s), err);
}

int get_inflight_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    int fd = make_region(s, &m->inflight, err);

    if (fd < 0)
        return fd;
    m->fds[m->nfds++] = fd;
    m->header.size = sizeof(m->inflight);
    return 0;
}

int check_set_inflight_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    return vhost_inflight_judge(&m->inflight, packed_rings(s), err);
}

int set_inflight_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    return adopt_region(s, &m->inflight, m->fds[0], true, err);
}

/* ---- Rings ---- */

void *backend_inflight_log(const struct vhost_backend *s, unsigned q, bool packed)
{
    const struct vhost_inflight *r = &s->state->inflight;
    size_t size = inflight_queue_size(r->queue_size, packed);

    if (s->inflight_map.count == 0 || q >= r->num_queues)
        return NULL;
    return memmap_host(&s->inflight_map, q * size, size);
}

/* The file is sparse: of a queue's share only what the ring's size needs is ever touched. */
static int make_private_region(struct vhost_backend *s, struct dt_error *err)
{
    struct vhost_inflight region = {.num_queues = (uint16_t)s->config.queues,
                                    .queue_size = VIRTQ_MAX_SIZE};
    int fd;

    region.mmap_size = region.num_queues * inflight_queue_size(region.queue_size, true);
    fd = make_region(s, &region, err);
    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

/* How the log of a queue begins, in either format. */
struct inflight_head {
    uint64_t features;
    uint16_t version, desc_num;
};

int backend_inflight_open(struct vhost_backend *s, unsigned q, bool packed, struct dt_error *err)
{
    uint16_t size = s->state->queues[q].size;
    struct backend_queue *queue = &s->queues[q];
    struct inflight_head *head;
    int rc;

    if (s->inflight_map.count == 0) {
        rc = make_private_region(s, err);
        if (rc < 0)
            return rc;
    }
    head = backend_inflight_log(s, q, packed);
    if (!head || size > s->state->inflight.queue_size)
        return dt_fail(err, -EINVAL,
                       "ring %u of size %u does not fit an in-flight region for %u rings of %u", q,
                       size, s->state->inflight.num_queues, s->state->inflight.queue_size);
    /* A log for another size is of a ring that is gone: the guest made a new one. */
    if (READ_ONCE(head->version) == 0 || READ_ONCE(head->desc_num) != size)
        queue->recover = false;
    /* A ring that was left with requests in flight and comes back elsewhere is a new one. */
    if (queue->left && queue->left_base != s->state->queues[q].base)
        queue->recover = false;
    queue->left = false;
    /* virtq_start() makes the log anew; who comes after a process that died before that must not
     * take the old one for the ring's. */
    if (!queue->recover)
        inflight_clear(head);
    return 0;
}
