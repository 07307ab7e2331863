/* SPDX-License-Identifier: MIT */
/*
 * iov.c - reading, writing and cutting vectors by byte ranges.
 *
 * A cursor holds what is left of the vector after an offset; each step takes the longest
 * contiguous piece. Entries of length zero are legal everywhere and never appear in a slice.
 */
#include "base/base.h"

struct iov_cursor {
    const struct iovec *iov, *end;
    size_t offset; /* into iov[0] */
};

/* Returns false when @offset lies behind the end of the vector. */
static bool cursor_init(struct iov_cursor *c, const struct iovec *iov, unsigned n, size_t offset)
{
    c->iov = iov;
    c->end = iov + n;
    for (; c->iov < c->end && offset >= c->iov->iov_len; c->iov++)
        offset -= c->iov->iov_len;
    c->offset = offset;
    return c->iov < c->end || offset == 0;
}

/* The next piece of at most @len bytes; length 0 only at the end of the vector. */
static struct iovec cursor_next(struct iov_cursor *c, size_t len)
{
    struct iovec piece = {NULL, 0};

    while (c->iov < c->end && c->offset == c->iov->iov_len) {
        c->iov++;
        c->offset = 0;
    }
    if (c->iov == c->end)
        return piece;
    piece.iov_base = (char *)c->iov->iov_base + c->offset;
    piece.iov_len = MIN(len, c->iov->iov_len - c->offset);
    c->offset += piece.iov_len;
    return piece;
}

/** dt_iov_length() - the bytes that @n entries describe. */
size_t dt_iov_length(const struct iovec *iov, unsigned n)
{
    size_t length = 0;

    for (unsigned i = 0; i < n; i++)
        length += iov[i].iov_len;
    return length;
}

size_t dt_iov_read(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len)
{
    struct iov_cursor c;
    size_t done = 0;

    if (!cursor_init(&c, iov, n, offset))
        return 0;
    while (done < len) {
        struct iovec piece = cursor_next(&c, len - done);

        if (piece.iov_len == 0)
            break;
        memcpy((char *)buf + done, piece.iov_base, piece.iov_len);
        done += piece.iov_len;
    }
    return done;
}

size_t dt_iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len)
{
    struct iov_cursor c;
    size_t done = 0;

    if (!cursor_init(&c, iov, n, offset))
        return 0;
    while (done < len) {
        struct iovec piece = cursor_next(&c, len - done);

        if (piece.iov_len == 0)
            break;
        memcpy(piece.iov_base, (const char *)buf + done, piece.iov_len);
        done += piece.iov_len;
    }
    return done;
}

size_t dt_iov_fill(const struct iovec *iov, unsigned n, size_t offset, int byte, size_t len)
{
    struct iov_cursor c;
    size_t done = 0;

    if (!cursor_init(&c, iov, n, offset))
        return 0;
    while (done < len) {
        struct iovec piece = cursor_next(&c, len - done);

        if (piece.iov_len == 0)
            break;
        memset(piece.iov_base, byte, piece.iov_len);
        done += piece.iov_len;
    }
    return done;
}

int dt_iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len, struct iovec *out,
                 unsigned max)
{
    struct iov_cursor c;
    unsigned used = 0;

    if (!cursor_init(&c, iov, n, offset))
        return -EINVAL;
    while (len) {
        struct iovec piece = cursor_next(&c, len);

        if (piece.iov_len == 0)
            return -EINVAL;
        if (used == max)
            return -E2BIG;
        out[used++] = piece;
        len -= piece.iov_len;
    }
    return (int)used;
}
