/* SPDX-License-Identifier: MIT */
/* source.h - what a disk can be filled from: a raw image, a qcow2 image, an NBD export. */
#ifndef CVD_SOURCE_H
#define CVD_SOURCE_H

#include <devtap/base.h>

/**
 * struct source - opened; embed it first.
 * @size:   bytes.
 * @extent: the next range that may hold data from @at on: 1 and @from, @to; 0: there is none.
 * @read:   all of @length bytes; beyond @size they are zeroes.
 *
 * Errors are -errno with @err.
 */
struct source {
    uint64_t size;
    int (*extent)(struct source *s, uint64_t at, uint64_t *from, uint64_t *to,
                  struct dt_error *err);
    int (*read)(struct source *s, void *buf, uint64_t offset, size_t length, struct dt_error *err);
    void (*close)(struct source *s);
};

/** source_open() - @what is a path or an NBD URI; @format: "raw", "qcow2", or NULL for raw unless in doubt. */
int source_open(struct source **source, const char *what, const char *format, struct dt_error *err);
/** source_open_nbd() - @uri, or if it is NULL the image @path that qemu-nbd reads as @format. */
int source_open_nbd(struct source **source, const char *uri, const char *path, const char *format,
                    struct dt_error *err);

#endif
