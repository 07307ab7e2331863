/* SPDX-License-Identifier: MIT */
/*
 * file.c - the trace's file.
 *
 * Blocks go to an offset that we keep, so a write that failed half-way is overwritten by the
 * next one. The file is locked: two traces in one file would overwrite each other.
 */
#include "blk/trace/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static int write_all(struct trace *t, struct iovec *iov, unsigned n)
{
    uint64_t at = t->offset;

    while (n) {
        ssize_t done = pwritev(t->fd, iov, (int)n, (off_t)at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        at += (uint64_t)done;
        while (n && (size_t)done >= iov->iov_len) {
            done -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n) {
            iov->iov_base = (char *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
    t->offset = at;
    return 0;
}

static uint64_t block_hash(const struct trace_block *block, const struct trace_record *records)
{
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, block, offsetof(struct trace_block, hash));
    XXH3_64bits_update(&state, records, block->records * sizeof(*records));
    return XXH3_64bits_digest(&state);
}

/* Tells once that the file takes no more, and once that it does again. */
static bool may_write(struct trace *t, uint64_t bytes)
{
    if (t->ended)
        return false;
    if (!t->limit || t->offset + bytes <= t->limit)
        return true;
    t->ended = true;
    dt_layer_event(t->layer, "trace-limit", "%s has reached its limit of %llu bytes", t->out,
                   (unsigned long long)t->limit);
    return false;
}

static void note_outcome(struct trace *t, int ret)
{
    if (ret < 0 && !t->failing)
        dt_layer_event(t->layer, "trace-failed", "cannot write %s: %s; records are being lost",
                       t->out, strerror(-ret));
    if (ret == 0 && t->failing)
        dt_layer_event(t->layer, "trace-resumed", "%s can be written again", t->out);
    t->failing = ret < 0;
}

static bool write_block(struct trace *t, struct trace_ring *ring,
                        const struct trace_record *records, uint32_t n)
{
    struct trace_block block = {
        .magic = TRACE_BLOCK_MAGIC,
        .records = n,
        .thread = ring->c->thread,
        .sequence = t->sequence,
        .dropped = ring->unwritten + __atomic_load_n(&ring->dropped, __ATOMIC_RELAXED),
    };
    size_t bytes = n * sizeof(*records);
    struct iovec iov[2] = {{&block, sizeof(block)}, {(void *)records, bytes}};
    int ret;

    if (!may_write(t, sizeof(block) + bytes))
        return false;
    block.hash = block_hash(&block, records);
    ret = write_all(t, iov, n ? 2 : 1);
    note_outcome(t, ret);
    if (ret < 0)
        return false;
    t->sequence++;
    ring->reported = block.dropped;
    return true;
}

static bool drain(struct writer *w, void *arg)
{
    struct trace *t = container_of(w, struct trace, writer);
    struct trace_ring *ring = arg;
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE), missed;
    bool any = head != ring->tail;

    while (ring->tail != head) {
        uint32_t at = (uint32_t)(ring->tail % ring->size);
        uint32_t n = (uint32_t)MIN(head - ring->tail, MIN(ring->size - at, TRACE_BLOCK_MAX));

        if (write_block(t, ring, ring->records + at, n)) {
            dt_count(ring->c, WRITTEN, n);
        } else {
            ring->unwritten += n;
            dt_count(ring->c, UNWRITTEN, n);
        }
        __atomic_store_n(&ring->tail, ring->tail + n, __ATOMIC_RELEASE);
    }
    missed = ring->unwritten + __atomic_load_n(&ring->dropped, __ATOMIC_RELAXED);
    if (missed != ring->reported)
        write_block(t, ring, ring->records, 0);
    return any;
}

static int write_header(struct trace *t)
{
    const struct dt_block_info *info = dt_layer_info(t->layer);
    struct trace_header h = {
        .magic = TRACE_HEADER_MAGIC,
        .version = TRACE_VERSION,
        .header_size = sizeof(h),
        .record_size = sizeof(struct trace_record),
        .start_monotonic = t->start,
        .disk_sectors = info->sectors,
        .logical_block = info->logical_block,
        .threads = dt_layer_threads(t->layer),
        .hash_kind = t->hash,
    };
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    h.start_realtime = (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
    snprintf(h.device, sizeof(h.device), "%s", dt_layer_device(t->layer));
    snprintf(h.layer, sizeof(h.layer), "%s", dt_layer_name(t->layer));
    h.hash = XXH3_64bits(&h, offsetof(struct trace_header, hash));
    return write_all(t, &(struct iovec){&h, sizeof(h)}, 1);
}

/* An existing file is continued only if it is a trace; any other is somebody's data. */
static int judge_file(struct trace *t, struct dt_error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    uint8_t magic[8];
    struct stat st;

    if (fstat(t->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", t->out, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", t->out);
    if (fcntl(t->fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES))
        return dt_fail(err, -EBUSY, "%s is being written by another trace", t->out);
    if (fstat(t->fd, &st) < 0) /* again: the one before us may have written until now */
        return dt_fail(err, -errno, "%s: %s", t->out, strerror(errno));
    if (st.st_size && (pread(t->fd, magic, sizeof(magic), 0) != sizeof(magic) ||
                       memcmp(magic, TRACE_HEADER_MAGIC, sizeof(magic))))
        return dt_fail(err, -EEXIST, "%s exists and is not a trace: it is left alone", t->out);
    t->offset = ALIGN_UP((uint64_t)st.st_size, (uint64_t)TRACE_ALIGN);
    if (t->limit && t->offset + sizeof(struct trace_header) > t->limit)
        return dt_fail(err, -EFBIG, "%s already has the %llu bytes of limit=", t->out,
                       (unsigned long long)t->limit);
    return 0;
}

void trace_ring_end(struct writer *w, void *ring)
{
    drain(w, ring);
}

int trace_file_open(struct trace *t, struct dt_error *err)
{
    int ret;

    t->fd = open(t->out, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
    if (t->fd < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", t->out, strerror(errno));
    ret = judge_file(t, err);
    t->start = dt_clock_ns();
    if (ret == 0) {
        ret = write_header(t);
        if (ret < 0)
            dt_fail(err, ret, "cannot write %s: %s", t->out, strerror(-ret));
    }
    t->writer = (struct writer){.name = "trace", .drain = drain};
    if (ret == 0)
        ret = writer_start(&t->writer, dt_layer_threads(t->layer), err);
    if (ret < 0)
        close(t->fd);
    return ret;
}

void trace_file_close(struct trace *t)
{
    writer_stop(&t->writer);
    close(t->fd);
}
