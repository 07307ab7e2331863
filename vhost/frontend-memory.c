/* SPDX-License-Identifier: MIT */
/*
 * frontend-memory.c - memory and the in-flight region, as given to the back end.
 */
#include "vhost/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

static int send_table(struct vhost_frontend *f, struct dt_error *err)
{
    struct vhost_message m = {
        .header = {.request = VHOST_SET_MEM_TABLE,
                   .size = 8 + f->count * (uint32_t)sizeof(struct vhost_mem_region)}};

    m.table.count = f->count;
    for (unsigned i = 0; i < f->count; i++) {
        m.table.regions[i] = f->regions[i].at;
        m.fds[m.nfds++] = f->regions[i].fd;
    }
    return frontend_command(f, &m, err);
}

static int send_slot(struct vhost_frontend *f, enum vhost_request request,
                     const struct frontend_region *r, struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = request, .size = sizeof(m.slot)}};

    m.slot.region = r->at;
    if (request == VHOST_ADD_MEM_REG)
        m.fds[m.nfds++] = r->fd;
    return frontend_command(f, &m, err);
}

int vhost_frontend_add_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva, uint64_t size,
                              int fd, uint64_t offset, struct dt_error *err)
{
    struct frontend_region *r = &f->regions[f->count];
    int rc;

    if (f->count >= f->slots)
        return dt_fail(err, -ENOSPC, "the back end takes no more than %u memory regions", f->slots);
    r->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (r->fd < 0)
        return dt_fail(err, -errno, "cannot duplicate a memory descriptor: %s", strerror(errno));
    r->at = (struct vhost_mem_region){.gpa = gpa, .size = size, .uva = uva, .offset = offset};
    f->count++;
    rc = frontend_has(f, VHOST_F_CONFIGURE_MEM_SLOTS) ? send_slot(f, VHOST_ADD_MEM_REG, r, err)
                                                      : send_table(f, err);
    if (rc < 0)
        close_fd(&f->regions[--f->count].fd);
    return rc;
}

int vhost_frontend_remove_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva,
                                 uint64_t size, struct dt_error *err)
{
    struct frontend_region gone;
    unsigned i = 0;
    int rc;

    while (i < f->count && (f->regions[i].at.gpa != gpa || f->regions[i].at.uva != uva ||
                            f->regions[i].at.size != size))
        i++;
    if (i == f->count)
        return dt_fail(err, -ENOENT, "no memory region of 0x%" PRIx64 " bytes at 0x%" PRIx64, size,
                       gpa);
    gone = f->regions[i];
    f->regions[i] = f->regions[--f->count];
    rc = frontend_has(f, VHOST_F_CONFIGURE_MEM_SLOTS) ? send_slot(f, VHOST_REM_MEM_REG, &gone, err)
                                                      : send_table(f, err);
    if (rc < 0)
        f->regions[f->count++] = gone;
    else
        close_fd(&gone.fd);
    return rc;
}

/* ---- In-flight region ---- */

static int get_region(struct vhost_frontend *f, unsigned queues, uint16_t size, int *fd,
                      struct vhost_inflight *region, struct dt_error *err)
{
    struct vhost_message m = {
        .header = {.request = VHOST_GET_INFLIGHT_FD, .size = sizeof(m.inflight)}};
    struct stat st;
    int rc;

    m.inflight.num_queues = (uint16_t)queues;
    m.inflight.queue_size = size;
    rc = frontend_query(f, &m, sizeof(m.inflight), 1, err);
    if (rc < 0)
        return rc;
    /* Only the place matters: the back end must get exactly this back from us. */
    if (m.nfds != 1 || fstat(m.fds[0], &st) < 0 || m.inflight.mmap_size == 0 ||
        m.inflight.mmap_offset > (uint64_t)st.st_size ||
        m.inflight.mmap_size > (uint64_t)st.st_size - m.inflight.mmap_offset) {
        rc = dt_fail(err, -EPROTO,
                     "GET_INFLIGHT_FD: %" PRIu64 " bytes at %" PRIu64 " with %u descriptors",
                     m.inflight.mmap_size, m.inflight.mmap_offset, m.nfds);
        vhost_message_close_fds(&m);
        return rc;
    }
    *region = (struct vhost_inflight){.mmap_size = m.inflight.mmap_size,
                                      .mmap_offset = m.inflight.mmap_offset,
                                      .num_queues = (uint16_t)queues,
                                      .queue_size = size};
    *fd = m.fds[0];
    return 0;
}

int vhost_frontend_inflight(struct vhost_frontend *f, unsigned queues, uint16_t size, int *fd,
                            struct vhost_inflight *region, struct dt_error *err)
{
    struct vhost_message m = {
        .header = {.request = VHOST_SET_INFLIGHT_FD, .size = sizeof(m.inflight)}};
    bool fresh = *fd < 0;
    int rc;

    if (!frontend_has(f, VHOST_F_INFLIGHT_SHMFD))
        return dt_fail(err, -ENOTSUP, "the back end keeps no in-flight log with us");
    if (fresh) {
        rc = get_region(f, queues, size, fd, region, err);
        if (rc < 0)
            return rc;
    }
    m.inflight = *region;
    m.fds[m.nfds++] = *fd;
    rc = frontend_command(f, &m, err);
    if (rc < 0 && fresh)
        close_fd(fd);
    return rc;
}
