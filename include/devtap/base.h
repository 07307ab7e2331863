/* SPDX-License-Identifier: MIT */
/*
 * devtap/base.h - what every extension needs whatever its device class:
 * the ABI number, errors that reach a person, logging, clocks and vectors.
 */
#ifndef DEVTAP_BASE_H
#define DEVTAP_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Marks the symbols that the devtap program exports to extensions. */
#define DT_PUBLIC            __attribute__((visibility("default")))
#define DT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/*
 * The ABI number changes when an existing field or function changes its
 * meaning. Growing a struct at its end does not change it: every struct that
 * an extension hands to core carries its own size.
 */
#define DT_ABI 1

#define DT_SECTOR_SHIFT 9
#define DT_SECTOR_SIZE  512u

/**
 * struct dt_error - an error as a person will read it.
 * @text: one line without a newline: what was attempted, on which object, why
 *        it failed, and where it helps, what to do next.
 *
 * Functions return 0 or -errno; those whose failure a person sees also fill
 * one of these.
 */
struct dt_error {
    char text[512];
};

/**
 * dt_fail() - fill @err and return @code, so that `return dt_fail(...)` reads well.
 * @err:  where to put the text; may be NULL.
 * @code: a negative errno.
 * @fmt:  printf format.
 */
DT_PUBLIC int dt_fail(struct dt_error *err, int code, const char *fmt, ...) DT_PRINTF(3, 4);

/** dt_fail_prefix() - put a formatted prefix and ": " before the text already in @err. */
DT_PUBLIC void dt_fail_prefix(struct dt_error *err, const char *fmt, ...) DT_PRINTF(2, 3);

enum dt_log_level {
    DT_LOG_ERROR,
    DT_LOG_WARNING,
    DT_LOG_INFO,
    DT_LOG_DEBUG,
};

/** dt_log() - one line on the program's log (stderr, with syslog priority prefixes under systemd). */
DT_PUBLIC void dt_log(enum dt_log_level level, const char *fmt, ...) DT_PRINTF(2, 3);

/** dt_clock_ns() - CLOCK_MONOTONIC in nanoseconds. Costs tens of ns: prefer a burst's timestamp. */
DT_PUBLIC uint64_t dt_clock_ns(void);

#define DT_MS(n) ((uint64_t)(n)*1000000u)
#define DT_US(n) ((uint64_t)(n)*1000u)
#define DT_S(n)  ((uint64_t)(n)*1000000000u)

/* Vectors. All take byte counts; none reads or writes past the vector. */
DT_PUBLIC size_t dt_iov_length(const struct iovec *iov, unsigned n);
/** dt_iov_read() - gather up to @len bytes at @offset into @buf; returns the bytes copied. */
DT_PUBLIC size_t dt_iov_read(const struct iovec *iov, unsigned n, size_t offset, void *buf,
                             size_t len);
/** dt_iov_write() - scatter up to @len bytes of @buf at @offset; returns the bytes copied. */
DT_PUBLIC size_t dt_iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *buf,
                              size_t len);
/** dt_iov_fill() - set @len bytes at @offset to @byte; returns the bytes set. */
DT_PUBLIC size_t dt_iov_fill(const struct iovec *iov, unsigned n, size_t offset, int byte,
                             size_t len);
/**
 * dt_iov_slice() - describe the bytes [@offset, @offset+@len) of a vector by another.
 * @out: room for @max entries.
 *
 * Return: the entries used, or -E2BIG when @max is too few, -EINVAL when the range is outside.
 */
DT_PUBLIC int dt_iov_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len,
                           struct iovec *out, unsigned max);

/**
 * struct dt_rng - a small seeded generator (xoshiro256**), for reproducible faults and loads.
 * Not for secrets.
 */
struct dt_rng {
    uint64_t s[4];
};
DT_PUBLIC void dt_rng_seed(struct dt_rng *rng, uint64_t seed);
DT_PUBLIC uint64_t dt_rng_next(struct dt_rng *rng);
/** dt_rng_below() - uniform in [0, @bound), without modulo bias. */
DT_PUBLIC uint64_t dt_rng_below(struct dt_rng *rng, uint64_t bound);
/** dt_rng_chance() - true with probability @p; 0 and 1 are certain and draw nothing. */
DT_PUBLIC bool dt_rng_chance(struct dt_rng *rng, double p);

#ifdef __cplusplus
}
#endif
#endif
