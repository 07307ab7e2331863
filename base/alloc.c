/* SPDX-License-Identifier: MIT */
/*
 * alloc.c - allocation that cannot fail, for start-up and the control path. A process that
 * cannot get its few control structures has nothing better to do than to be replaced.
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>

static _Noreturn void out_of_memory(size_t size)
{
    dt_log(DT_LOG_ERROR, "out of memory: cannot allocate %zu bytes", size);
    abort();
}

/** xcalloc() - zeroed room for @n objects of @size bytes; owned by the caller, free() it. */
void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    if (!p)
        out_of_memory(n * size);
    return p;
}

/** xaligned() - @size zeroed bytes at a multiple of @align, a power of two; free() them. */
void *xaligned(size_t align, size_t size)
{
    void *p;

    if (posix_memalign(&p, MAX(align, sizeof(void *)), size ? size : 1) != 0)
        out_of_memory(size);
    return memset(p, 0, size);
}

/** xstrdup() - a copy of @s, free() it; NULL stays NULL. */
char *xstrdup(const char *s)
{
    char *copy;

    if (!s)
        return NULL;
    copy = strdup(s);
    if (!copy)
        out_of_memory(strlen(s) + 1);
    return copy;
}

/** xasprintf() - a formatted string, free() it. */
char *xasprintf(const char *fmt, ...)
{
    va_list args;
    char *s;
    int n;

    va_start(args, fmt);
    n = vasprintf(&s, fmt, args);
    va_end(args);
    if (n < 0)
        out_of_memory(0);
    return s;
}
