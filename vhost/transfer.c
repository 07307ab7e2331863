/* SPDX-License-Identifier: MIT */
/* transfer.c - a session's numbers and descriptors, sent and received; see transfer.h. */
#include "vhost/transfer.h"

#include "base/packet.h"
#include "vhost/internal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct transfer *transfer_new(void)
{
    struct transfer *t = xcalloc(1, sizeof(*t));

    t->socket = t->events = t->log = t->inflight = -1;
    for (unsigned i = 0; i < MEMMAP_MAX_REGIONS; i++)
        t->regions[i] = -1;
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++)
        t->kick[q] = t->call[q] = t->error[q] = -1;
    return t;
}

/** struct fd_list - the descriptors of one kind within a transfer. */
struct fd_list {
    int *fds;
    unsigned count;
};

static struct fd_list fds_of(struct transfer *t, uint32_t kind)
{
    switch (kind) {
    case TRANSFER_SOCKET:
        return (struct fd_list){&t->socket, 1};
    case TRANSFER_EVENTS:
        return (struct fd_list){&t->events, 1};
    case TRANSFER_LOG:
        return (struct fd_list){&t->log, 1};
    case TRANSFER_INFLIGHT:
        return (struct fd_list){&t->inflight, 1};
    case TRANSFER_REGION:
        return (struct fd_list){t->regions, MEMMAP_MAX_REGIONS};
    case TRANSFER_KICK:
        return (struct fd_list){t->kick, VHOST_MAX_QUEUES};
    case TRANSFER_CALL:
        return (struct fd_list){t->call, VHOST_MAX_QUEUES};
    case TRANSFER_ERROR:
        return (struct fd_list){t->error, VHOST_MAX_QUEUES};
    default:
        return (struct fd_list){NULL, 0};
    }
}

void transfer_free(struct transfer *t, bool close_fds)
{
    if (!t)
        return;
    for (uint32_t kind = TRANSFER_SOCKET; close_fds && kind < TRANSFER_END; kind++) {
        struct fd_list list = fds_of(t, kind);

        for (unsigned i = 0; i < list.count; i++)
            close_fd(&list.fds[i]);
    }
    free(t);
}

/* ---- Sending ---- */

static int write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);

        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int send_fd(int sock, uint32_t kind, uint32_t index, int fd)
{
    const struct transfer_packet packet = {kind, index};

    return packet_send(sock, &packet, sizeof(packet), fd);
}

int transfer_send(int sock, const struct transfer *t, struct dt_error *err)
{
    _cleanup_close_ int fd = memfd_create("devtap-transfer", MFD_CLOEXEC);
    int ret = fd < 0 ? -errno : write_all(fd, &t->state, sizeof(t->state));

    ret = ret ?: send_fd(sock, TRANSFER_STATE, 0, fd);
    for (uint32_t kind = TRANSFER_SOCKET; ret == 0 && kind < TRANSFER_END; kind++) {
        struct fd_list list = fds_of((struct transfer *)(uintptr_t)t, kind);

        for (unsigned i = 0; ret == 0 && i < list.count; i++)
            if (list.fds[i] >= 0)
                ret = send_fd(sock, kind, i, list.fds[i]);
    }
    ret = ret ?: send_fd(sock, TRANSFER_END, 0, -1);
    return ret < 0 ? dt_fail(err, ret, "the session cannot be sent: %s", strerror(-ret)) : 0;
}

/* ---- Receiving ---- */

static int read_all(int fd, void *data, size_t size)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)size ||
        lseek(fd, 0, SEEK_SET) < 0)
        return -EBADMSG;
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, (char *)data + done, size - done);

        if (n == 0 || (n < 0 && errno != EINTR))
            return -EBADMSG;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* The beginning is read for itself: a version with another size can then be named. */
static int take_state(struct transfer *t, int fd, struct dt_error *err)
{
    uint32_t head[3] = {0};

    if (t->state.magic)
        return dt_fail(err, -EPROTO, "two states of a session came");
    if (lseek(fd, 0, SEEK_SET) < 0 || read(fd, head, sizeof(head)) != sizeof(head) ||
        head[0] != TRANSFER_MAGIC)
        return dt_fail(err, -EBADMSG, "the state of a session is damaged");
    if (head[1] != TRANSFER_VERSION || head[2] != sizeof(t->state))
        return dt_fail(err, -ENOTSUP,
                       "the state of a session is of version %u (%u bytes); this program knows %u "
                       "(%zu)",
                       head[1], head[2], TRANSFER_VERSION, sizeof(t->state));
    if (read_all(fd, &t->state, sizeof(t->state)) < 0 || t->state.magic != TRANSFER_MAGIC)
        return dt_fail(err, -EBADMSG, "the state of a session is cut off");
    return 0;
}

static int take_packet(struct transfer *t, const struct transfer_packet *p, int *fd,
                       struct dt_error *err)
{
    struct fd_list list = fds_of(t, p->kind);

    if (p->kind == TRANSFER_STATE && *fd >= 0)
        return take_state(t, *fd, err);
    if (t->state.magic == 0)
        return dt_fail(err, -EPROTO, "a session's state does not come first");
    if (p->kind == TRANSFER_END)
        return 1;
    if (p->index >= list.count || *fd < 0 || list.fds[p->index] >= 0)
        return dt_fail(err, -EPROTO,
                       "a descriptor of kind %u, number %u, has no place in a session", p->kind,
                       p->index);
    list.fds[p->index] = TAKE_FD(*fd);
    return 0;
}

int transfer_receive(int sock, struct transfer *t, struct dt_error *err)
{
    for (;;) {
        struct transfer_packet packet;
        _cleanup_close_ int fd = -1;
        int ret = packet_receive(sock, &packet, sizeof(packet), &fd);

        if (ret == 0)
            return 0;
        if (ret < 0)
            return dt_fail(err, ret, "the session did not come whole: %s", strerror(-ret));
        ret = take_packet(t, &packet, &fd, err);
        if (ret)
            return ret;
    }
}
