/* SPDX-License-Identifier: MIT */
/*
 * bounce.c - transfers through aligned memory of our own: for guest buffers that O_DIRECT refuses,
 * and for the rest of a transfer that came back short. Rare, so the buffers are made when first
 * needed; there are a few, and who finds none waits for one.
 */
#include "blk/file/internal.h"

#define BOUNCE_BYTES (256u << 10)
#define BOUNCE_MAX   8u

struct bounce {
    struct bounce *next;
    struct iovec iov; /* of the piece under way */
    uint8_t *buffer;
};

bool file_aligned(const struct file *f, const struct iovec *iov, unsigned n)
{
    uintptr_t addresses = 0, lengths = 0;

    for (unsigned i = 0; i < n; i++) {
        addresses |= (uintptr_t)iov[i].iov_base;
        lengths |= iov[i].iov_len;
    }
    return !((addresses & (f->mem_align - 1)) | (lengths & (f->block - 1)));
}

static struct bounce *bounce_take(struct file_ctx *fc)
{
    struct bounce *b = fc->bounce_free;

    if (b) {
        fc->bounce_free = b->next;
    } else if (fc->bounces < BOUNCE_MAX) {
        b = xcalloc(1, sizeof(*b));
        b->buffer = xaligned(PAGE_SIZE_4K, BOUNCE_BYTES);
        fc->bounces++;
    }
    return b;
}

static void piece_begin(struct file_io *fio, struct bounce *b);

/* The buffer serves the next one that waits. */
static void bounce_release(struct file_ctx *fc, struct bounce *b)
{
    struct file_io *waiting = file_list_take(&fc->bounce_waiting);

    if (waiting) {
        piece_begin(waiting, b);
        return;
    }
    b->next = fc->bounce_free;
    fc->bounce_free = b;
}

static void leave(struct file_io *fio)
{
    bounce_release(fio->c->data, fio->bounce);
}

static void read_piece_done(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);
    const struct file *f = fio->c->layer_data;
    struct dt_req *req = file_req(fio);
    const struct iovec *iov;
    unsigned n = dt_req_map(fio->c, req, &iov);

    if (result == -EINTR || result == -EAGAIN) {
        piece_begin(fio, fio->bounce);
        return;
    }
    if (result < 0) {
        leave(fio);
        file_finish(fio, result);
        return;
    }
    dt_iov_write(iov, n, fio->moved, fio->bounce->buffer, (unsigned)result);
    fio->moved += (unsigned)result;
    if (fio->moved == dt_req_bytes(req)) {
        leave(fio);
        file_finish(fio, 0);
    } else if (result == 0 || (unsigned)result % f->block) {
        leave(fio);
        file_past_end(fio, fio->moved);
    } else {
        piece_begin(fio, fio->bounce);
    }
}

static void write_piece_done(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);
    const struct file *f = fio->c->layer_data;

    if (result == -EINTR || result == -EAGAIN) {
        piece_begin(fio, fio->bounce);
        return;
    }
    /* Nothing moved and no error: trying again could go on for ever. */
    if (result >= 0 && (unsigned)result < f->block)
        result = -EIO;
    if (result < 0) {
        leave(fio);
        file_failed(fio, result);
        return;
    }
    fio->moved += ALIGN_DOWN((unsigned)result, f->block);
    if (fio->moved < dt_req_bytes(file_req(fio))) {
        piece_begin(fio, fio->bounce);
        return;
    }
    leave(fio);
    file_written(fio);
}

static void piece_begin(struct file_io *fio, struct bounce *b)
{
    struct dt_ctx *c = fio->c;
    const struct file *f = c->layer_data;
    struct dt_req *req = file_req(fio);
    uint64_t offset = file_offset(fio) + fio->moved;

    fio->bounce = b;
    b->iov = (struct iovec){b->buffer, MIN(dt_req_bytes(req) - fio->moved, BOUNCE_BYTES)};
    if (req->op == DT_OP_READ) {
        fio->io.done = read_piece_done;
        dt_io_readv(c, &fio->io, f->fd, &b->iov, 1, offset);
    } else {
        const struct iovec *iov;
        unsigned n = dt_req_map(c, req, &iov);

        dt_iov_read(iov, n, fio->moved, b->buffer, b->iov.iov_len);
        fio->io.done = write_piece_done;
        dt_io_writev(c, &fio->io, f->fd, &b->iov, 1, offset);
    }
}

void file_bounce(struct file_io *fio)
{
    struct file_ctx *fc = fio->c->data;
    struct bounce *b = bounce_take(fc);

    if (b)
        piece_begin(fio, b);
    else
        file_list_add(&fc->bounce_waiting, fio);
}

void file_bounce_fini(struct file_ctx *fc)
{
    while (fc->bounce_free) {
        struct bounce *b = fc->bounce_free;

        fc->bounce_free = b->next;
        free(b->buffer);
        free(b);
        fc->bounces--;
    }
    CHECK(fc->bounces == 0);
}
