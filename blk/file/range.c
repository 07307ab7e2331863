/* SPDX-License-Identifier: MIT */
/*
 * range.c - discards and writes of zeroes.
 *
 * A discard punches a hole. Zeroes are, in this order: a hole, if the guest allows that its space
 * goes; a range that the file system marks as zero; zeroes written as data, in pieces, from
 * one static page range. What turns out to be missing is not tried again.
 */
#include "blk/file/internal.h"

#include <linux/falloc.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

/* Never written: all its pages are the kernel's one page of zeroes. */
#define ZEROES_BYTES (256u << 10)
static uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(4096)));
#define PIECE(shift)            \
    {                           \
        zeroes, 512u << (shift) \
    }
static const struct iovec zero_pieces[] = {PIECE(0), PIECE(1), PIECE(2), PIECE(3), PIECE(4),
                                           PIECE(5), PIECE(6), PIECE(7), PIECE(8), PIECE(9)};

static bool missing(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
}

static void allocate(struct file_io *fio, int mode, void (*done)(struct dt_io *, int))
{
    const struct file *f = fio->c->layer_data;

    fio->io.done = done;
    dt_io_fallocate(fio->c, &fio->io, f->fd, mode, file_offset(fio), dt_req_bytes(file_req(fio)));
}

static void discard_done(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);
    struct file *f = fio->c->layer_data;

    if (missing(result)) {
        __atomic_store_n(&f->no_punch, true, __ATOMIC_RELAXED);
        result = -EOPNOTSUPP;
    }
    file_finish(fio, result);
}

void file_discard(struct file_io *fio)
{
    const struct file *f = fio->c->layer_data;

    if (!f->discard || __atomic_load_n(&f->no_punch, __ATOMIC_RELAXED))
        file_finish(fio, -EOPNOTSUPP);
    else if (dt_req_bytes(file_req(fio)) == 0)
        file_finish(fio, 0); /* fallocate(2) would call it invalid */
    else
        allocate(fio, PUNCH, discard_done);
}

static void write_zeroes(struct file_io *fio);

static void zeroes_written(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);
    const struct file *f = fio->c->layer_data;

    if (result == -EINTR || result == -EAGAIN)
        result = 0;
    else if (result >= 0 && (unsigned)result < f->block)
        result = -EIO;
    if (result < 0) {
        file_failed(fio, result);
        return;
    }
    dt_count(fio->c, ZEROED_BYTES, (unsigned)result);
    fio->moved += ALIGN_DOWN((unsigned)result, f->block);
    write_zeroes(fio);
}

static void write_zeroes(struct file_io *fio)
{
    const struct file *f = fio->c->layer_data;
    uint64_t left = dt_req_bytes(file_req(fio)) - fio->moved;
    unsigned i = ARRAY_SIZE(zero_pieces) - 1;

    if (left == 0) {
        file_written(fio);
        return;
    }
    while (zero_pieces[i].iov_len > left)
        i--;
    fio->io.done = zeroes_written;
    dt_io_writev(fio->c, &fio->io, f->fd, &zero_pieces[i], 1, file_offset(fio) + fio->moved);
}

/* The end of one way to write zeroes; @lacks: whether the file system does not know it; then @instead. */
static void zeroed(struct dt_io *io, int result, bool *lacks, void (*instead)(struct file_io *fio))
{
    struct file_io *fio = file_io_of(io);

    if (missing(result))
        __atomic_store_n(lacks, true, __ATOMIC_RELAXED);
    if (result == 0)
        file_written(fio);
    else if (missing(result) || result == -EINVAL)
        instead(fio);
    else
        file_failed(fio, result);
}

static void zero_range_done(struct dt_io *io, int result)
{
    struct file *f = file_io_of(io)->c->layer_data;

    zeroed(io, result, &f->no_zero_range, write_zeroes);
}

static void zero_keeping_space(struct file_io *fio)
{
    const struct file *f = fio->c->layer_data;

    if (__atomic_load_n(&f->no_zero_range, __ATOMIC_RELAXED))
        write_zeroes(fio);
    else
        allocate(fio, ZERO, zero_range_done);
}

static void zero_punch_done(struct dt_io *io, int result)
{
    struct file *f = file_io_of(io)->c->layer_data;

    zeroed(io, result, &f->no_punch, zero_keeping_space);
}

void file_zero(struct file_io *fio)
{
    const struct file *f = fio->c->layer_data;
    const struct dt_req *req = file_req(fio);

    if (dt_req_bytes(req) == 0)
        file_finish(fio, 0);
    else if ((req->flags & DT_REQ_UNMAP) && f->discard &&
             !__atomic_load_n(&f->no_punch, __ATOMIC_RELAXED))
        allocate(fio, PUNCH, zero_punch_done);
    else
        zero_keeping_space(fio);
}
