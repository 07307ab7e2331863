/* SPDX-License-Identifier: MIT */
/*
 * error.c - errors as a person reads them, failed checks, and the clock.
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

int dt_fail(struct dt_error *err, int code, const char *fmt, ...)
{
    struct dt_error text; /* the arguments may include err->text */
    va_list args;

    if (!err)
        return code;
    va_start(args, fmt);
    if (vsnprintf(text.text, sizeof(text.text), fmt, args) < 0)
        text.text[0] = '\0';
    va_end(args);
    memcpy(err->text, text.text, strlen(text.text) + 1);
    return code;
}

void dt_fail_prefix(struct dt_error *err, const char *fmt, ...)
{
    struct dt_error text;
    size_t used, tail;
    va_list args;
    int n;

    if (!err)
        return;
    va_start(args, fmt);
    n = vsnprintf(text.text, sizeof(text.text), fmt, args);
    va_end(args);
    if (n < 0)
        return;
    used = MIN((size_t)n, sizeof(text.text) - 3);
    memcpy(text.text + used, ": ", 2);
    used += 2;
    tail = MIN(strlen(err->text), sizeof(text.text) - 1 - used); /* cut where it is too long */
    memcpy(text.text + used, err->text, tail);
    text.text[used + tail] = '\0';
    memcpy(err->text, text.text, used + tail + 1);
}

_Noreturn void check_failed(const char *file, int line, const char *what)
{
    dt_log(DT_LOG_ERROR, "%s:%d: check failed: %s", file, line, what);
    abort();
}

uint64_t dt_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
