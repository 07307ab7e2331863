/* SPDX-License-Identifier: MIT */
/* scratch.h - the files of a test, in a folder of their own where there are many. It needs cmocka.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char dir[] = "/tmp/devtap-test-XXXXXX";

/* In that folder; the text lives until the fourth call from now. */
static inline char *path_of(const char *name)
{
    static char path[4][128];
    static unsigned n;
    char *p = path[n++ % 4];

    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static inline void scratch_make(void)
{
    snprintf(dir, sizeof(dir), "/tmp/devtap-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

/* The folder and @names, which end with NULL. Anything else there is a file that the test forgot: -1. */
static inline int scratch_remove(const char *const names[])
{
    for (; *names; names++)
        unlink(path_of(*names));
    return rmdir(dir);
}

static inline void put_file(const char *path, const void *bytes, size_t n)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

static inline void empty_file(const char *path, off_t size)
{
    unlink(path);
    put_file(path, "", 0);
    assert_int_equal(truncate(path, size), 0);
}

/* Its first @n bytes. */
static inline void get_file(const char *path, void *bytes, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, n), (ssize_t)n);
    close(fd);
}

#endif
