/* SPDX-License-Identifier: MIT */
/*
 * out.c - capture's file or FIFO.
 *
 * A file is locked, and gets a section of its own behind what it has; a block that a killed process left half
 * written is cut off first. A write that failed half-way is overwritten by the next one. Where not even the section's header can be
 * written, it stands before the first block that can.
 *
 * A FIFO has a reader or not. What comes while there is none is lost; each new reader gets a section first, and
 * blocks that are whole: a ring of which half a block is written goes on before any other does. Nobody waits for a
 * slow reader but the thread that writes, and not with its lock. The FIFO's read end is open for a moment in the beginning, since
 * without a reader the write end cannot be opened.
 */
#include "net/capture/internal.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- Bytes ---- */

static int write_file(struct capture *w, const uint8_t *bytes, uint64_t n)
{
    while (n) {
        ssize_t done = pwrite(w->fd, bytes, n, (off_t)w->offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        bytes += done;
        n -= (uint64_t)done;
        w->offset += (uint64_t)done;
    }
    return 0;
}

static size_t make_header(const struct capture *w, uint8_t header[PCAPNG_HEADER_MAX])
{
    return pcapng_header(header, dt_layer_device(w->layer), dt_layer_name(w->layer),
                         (uint32_t)w->snaplen);
}

/* Of a file: once before its first block, as soon as the file takes it. */
static int begin_section(struct capture *w)
{
    uint8_t header[PCAPNG_HEADER_MAX];
    uint64_t offset = w->offset;
    int ret = w->begun ? 0 : write_file(w, header, make_header(w, header));

    w->begun = ret == 0;
    if (ret < 0)
        w->offset = offset;
    return ret;
}

/* ---- Rings ---- */

/* Tells once that the file takes no more, and once that it does again. */
static void note_outcome(struct capture *w, int ret)
{
    if (ret < 0 && !w->failing)
        dt_layer_event(w->layer, "capture-failed", "cannot write %s: %s; packets are being lost",
                       w->out, strerror(-ret));
    if (ret == 0 && w->failing)
        dt_layer_event(w->layer, "capture-resumed", "%s can be written again", w->out);
    w->failing = ret < 0;
}

static bool may_write(struct capture *w, uint64_t bytes)
{
    if (w->ended)
        return false;
    if (!w->begun)
        bytes += PCAPNG_HEADER_MAX;
    if (!w->limit || w->offset + bytes <= w->limit)
        return true;
    w->ended = true;
    dt_layer_event(w->layer, "capture-limit", "%s has reached its limit of %llu bytes", w->out,
                   (unsigned long long)w->limit);
    return false;
}

static uint32_t block_at(const struct capture_ring *ring, uint64_t at)
{
    uint32_t length;

    memcpy(&length, ring->bytes + (at + 4) % ring->size,
           sizeof(length)); /* all are multiples of four */
    return length;
}

/* All up to @head is written, or lost for good. */
static void pass(struct capture_ring *ring, uint64_t head, bool lost)
{
    uint64_t tail = ring->tail, blocks = 0;

    for (; lost && tail != head; blocks++)
        tail += block_at(ring, tail);
    if (lost)
        dt_count(ring->c, UNWRITTEN, blocks);
    ring->sent = head;
    __atomic_store_n(&ring->tail, head, __ATOMIC_RELEASE);
}

static void drain_to_file(struct capture *w, struct capture_ring *ring, uint64_t head)
{
    uint64_t at = ring->tail % ring->size, first = MIN(head - ring->tail, ring->size - at);
    int ret = -EFBIG;

    if (may_write(w, head - ring->tail)) {
        uint64_t offset;

        ret = begin_section(w);
        offset = w->offset;
        ret = ret ?: write_file(w, ring->bytes + at, first);
        ret = ret ?: write_file(w, ring->bytes, head - ring->tail - first);
        if (ret < 0)
            w->offset = offset;
        note_outcome(w, ret);
    }
    pass(ring, head, ret < 0);
}

/* Returns 0, or -EAGAIN when the reader is slow, or -EPIPE when there is none. */
static int write_fifo(struct capture *w, struct capture_ring *ring, uint64_t head)
{
    uint8_t header[PCAPNG_HEADER_MAX];

    /* As little as a header is written whole, or not at all (pipe(7)). */
    if (!w->begun && write(w->fd, header, make_header(w, header)) < 0)
        return -errno;
    w->begun = true;
    while (ring->sent != head) {
        uint64_t at = ring->sent % ring->size;
        ssize_t n = write(w->fd, ring->bytes + at, MIN(head - ring->sent, ring->size - at));

        if (n < 0)
            return -errno;
        ring->sent += (uint64_t)n;
        while (ring->tail != ring->sent && ring->tail + block_at(ring, ring->tail) <= ring->sent)
            __atomic_store_n(&ring->tail, ring->tail + block_at(ring, ring->tail),
                             __ATOMIC_RELEASE);
    }
    return 0;
}

static void drain_to_fifo(struct capture *w, struct capture_ring *ring, uint64_t head)
{
    int ret;

    if (w->halfway && w->halfway != ring)
        return;
    ret = write_fifo(w, ring, head);
    w->writer.slow_fd = ret == -EAGAIN ? w->fd : -1;
    w->halfway = ret == -EAGAIN && ring->sent != ring->tail ? ring : NULL;
    if (ret < 0 && ret != -EAGAIN) {
        w->begun = false;
        pass(ring, head, true);
    }
}

static bool drain(struct writer *writer, void *arg)
{
    struct capture *w = container_of(writer, struct capture, writer);
    struct capture_ring *ring = arg;
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);

    if (head == ring->tail)
        return false;
    if (w->fifo)
        drain_to_fifo(w, ring, head);
    else
        drain_to_file(w, ring, head);
    return true;
}

void capture_ring_end(struct writer *writer, void *arg)
{
    struct capture *w = container_of(writer, struct capture, writer);
    struct capture_ring *ring = arg;

    drain(writer, ring);
    pass(ring, ring->head, true);
    if (w->halfway == ring)
        w->halfway = NULL;
}

/* ---- Opening ---- */

static int open_fifo(struct capture *w, struct dt_error *err)
{
    _cleanup_close_ int reader = open(w->out, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    w->fifo = true;
    close(w->fd);
    w->fd = reader < 0 ? -1 : open(w->out, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    return w->fd < 0 ? dt_fail(err, -errno, "cannot open the FIFO %s: %s", w->out, strerror(errno))
                     : 0;
}

/* A file that takes no more is no reason to have no card, of which this may be the second worker: it is told of, as later. Nor is any
 * other @error of one that was there before. */
static int begin_file(struct capture *w, bool made, int error)
{
    int ret = error;

    if (ret == 0 && ftruncate(w->fd, (off_t)w->offset) < 0)
        ret = -errno;
    if (ret == 0 && may_write(w, 0))
        ret = begin_section(w);
    if (made && ret != -ENOSPC && ret != -EDQUOT && ret != -EFBIG)
        return ret;
    note_outcome(w, ret);
    return 0;
}

/* An existing file is continued only if it is a capture; any other is somebody's data. */
static int open_file(struct capture *w, bool made, int error, struct dt_error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int64_t whole;
    int ret;

    if (fcntl(w->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
        return dt_fail(err, -EBUSY, "%s is being written by another capture", w->out);
    whole = pcapng_whole(w->fd);
    if (whole == -EBADMSG)
        return dt_fail(
            err, -EEXIST,
            "%s exists and is no pcapng file of this host's byte order: it is left alone", w->out);
    if (whole < 0)
        return dt_fail(err, (int)whole, "cannot read %s: %s", w->out, strerror((int)-whole));
    w->offset = (uint64_t)whole;
    ret = begin_file(w, made, error);
    return ret < 0 ? dt_fail(err, ret, "cannot write %s: %s", w->out, strerror(-ret)) : 0;
}

static int open_out(struct capture *w, struct dt_error *err)
{
    const int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    bool made = false;
    struct stat st;
    int error = 0;

    w->fd = open(w->out, O_RDWR | flags);
    if (w->fd < 0 && errno == ENOENT) {
        made = true;
        w->fd = open(w->out, O_RDWR | O_CREAT | flags, 0640);
    } else if (w->fd < 0 && errno == EROFS) { /* as file systems become after errors */
        error = -EROFS;
        w->fd = open(w->out, O_RDONLY | flags);
    }
    if (w->fd < 0 || fstat(w->fd, &st) < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", w->out, strerror(errno));
    if (S_ISFIFO(st.st_mode))
        return open_fifo(w, err);
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is neither a file nor a FIFO", w->out);
    return open_file(w, made, error, err);
}

int capture_out_open(struct capture *w, struct dt_error *err)
{
    int ret = open_out(w, err);

    w->writer = (struct writer){.name = "capture", .drain = drain};
    if (ret == 0)
        ret = writer_start(&w->writer, dt_layer_threads(w->layer), err);
    if (ret < 0 && w->fd >= 0)
        close(w->fd);
    return ret;
}

void capture_out_close(struct capture *w)
{
    writer_stop(&w->writer);
    close(w->fd);
}
