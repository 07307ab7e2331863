/* SPDX-License-Identifier: MIT */
/* internal.h - what is used of each allowance, and the files of limits. */
#ifndef NET_LIMITS_INTERNAL_H
#define NET_LIMITS_INTERNAL_H

#include "base/base.h"
#include "base/bucket.h"
#include "net/table/table.h"
#include <devtap/net.h>

#define CONNECTIONS_MAX 4000000u

enum allowance { BW_IN, BW_OUT, PPS, LINKLOCAL, RATES };
enum kind { OPEN, SHORT, KINDS };

struct connection {
    struct node node;
    uint32_t seen; /* seconds of dt_clock_ns() */
};

struct limits {
    uint64_t rates[RATES], burst;
    uint64_t conntrack, tcp_timeout, timeout;
    struct bucket buckets[RATES];
    struct table tables[KINDS];
    uint32_t looked; /* the second in which what is too old was forgotten */
    uint64_t seed, saved_at;
};

/* state.c: what the next process should know. */
int64_t limits_save(struct dt_layer *layer, void *buf, size_t size);
int limits_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err);

#endif
