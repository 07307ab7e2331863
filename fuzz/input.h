/* SPDX-License-Identifier: MIT */
/* input.h - any bytes as the beginning of a file, as they are and with right checksums. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include "base/base.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#define INPUT_MAX (64u << 10)

/* A file of @size bytes that begins with the input; @path is how others open it. */
static inline int input_file(const uint8_t *bytes, size_t n, uint64_t size, char path[64])
{
    int fd = memfd_create("input", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    CHECK(pwrite(fd, bytes, n, 0) == (ssize_t)n);
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* The input as it is, and once more repaired: no mutation would ever find checksums and sizes that
 * are right. */
static inline int input_twice(const uint8_t *bytes, size_t size,
                              void (*check)(const uint8_t *bytes, size_t n),
                              void (*repair)(uint8_t *bytes, size_t n))
{
    _cleanup_free_ uint8_t *copy = NULL;

    if (size > INPUT_MAX)
        return 0;
    check(bytes, size);
    copy = xcalloc(1, size + 1);
    memcpy(copy, bytes, size);
    repair(copy, size);
    check(copy, size);
    return 0;
}

#endif
