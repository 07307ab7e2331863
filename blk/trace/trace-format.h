/* SPDX-License-Identifier: MIT */
/* trace-format.h - what a trace file consists of, as devtap-trace(5) says; all little-endian. */
#ifndef TRACE_FORMAT_H
#define TRACE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define TRACE_HEADER_MAGIC "DTtrace\n"
#define TRACE_BLOCK_MAGIC  "DTblock\n"
#define TRACE_VERSION      1u
#define TRACE_ALIGN        8u
#define TRACE_BLOCK_MAX    4096u /* records */

/* enum trace_hash - what trace_record.data_hash is. */
enum trace_hash {
    TRACE_HASH_NONE,
    TRACE_HASH_XXH3, /* the low half of XXH3-64 */
};

struct trace_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t header_size;
    uint32_t record_size;
    uint32_t reserved0;
    uint64_t start_realtime;
    uint64_t start_monotonic;
    uint64_t disk_sectors;
    uint32_t logical_block;
    uint32_t threads;
    char device[64];
    char layer[64];
    uint32_t hash_kind; /* enum trace_hash */
    uint8_t reserved1[60];
    uint64_t hash; /* of all before it */
};
_Static_assert(sizeof(struct trace_header) == 256, "devtap-trace(5)");
_Static_assert(offsetof(struct trace_header, hash) == 248, "devtap-trace(5)");

struct trace_block {
    uint8_t magic[8];
    uint32_t records;
    uint32_t thread;
    uint64_t sequence;
    uint64_t dropped;
    uint64_t reserved;
    uint64_t hash; /* of all before it and the records behind it */
};
_Static_assert(sizeof(struct trace_block) == 48, "devtap-trace(5)");

struct trace_record {
    uint64_t time;
    uint64_t latency;
    uint64_t sector;
    uint32_t sectors;
    uint16_t queue;
    uint16_t error;
    uint16_t depth;
    uint8_t op;         /* enum dt_op */
    uint8_t flags;      /* enum dt_req_flags */
    uint32_t data_hash; /* where the header has a hash kind */
};
_Static_assert(sizeof(struct trace_record) == 40, "devtap-trace(5)");

#endif
