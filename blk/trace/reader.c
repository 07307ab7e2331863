/* SPDX-License-Identifier: MIT */
/*
 * reader.c - see reader.h.
 *
 * A window of the file slides over it, large enough for the largest block. At each place the
 * reader asks what stands there; if nothing valid does, it moves 8 bytes on. Checksums are
 * computed only where a magic number stands, and a hostile file that repeats those can make
 * each cost one block's hash: linear in the file's size, with a known factor.
 */
#include "blk/trace/reader.h"
#include "base/base.h"
#include <devtap/block.h>

#include <ctype.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define WINDOW (512u << 10)
_Static_assert(WINDOW >=
                   2 * (sizeof(struct trace_block) + TRACE_BLOCK_MAX * sizeof(struct trace_record)),
               "the largest block fits, and is moved seldom");

struct trace_reader {
    int fd;
    bool ended;
    int error;
    uint8_t *window;
    size_t at, filled; /* window[at..filled) is not yet consumed */
    struct trace_segment segment;
    bool in_segment;
    uint64_t sequence; /* of the next block */
    uint64_t dropped[TRACE_THREADS_MAX];
    /* The block being returned; its records stand in the window, at @at. */
    uint32_t thread, left;
    struct trace_reading reading;
};

/* Make @n bytes available at the present place; false at the end of the file or on an error. */
static bool have(struct trace_reader *r, size_t n)
{
    if (r->filled - r->at >= n)
        return true;
    if (r->at + n > WINDOW) {
        memmove(r->window, r->window + r->at, r->filled - r->at);
        r->filled -= r->at;
        r->at = 0;
    }
    while (r->filled - r->at < n && !r->ended) {
        ssize_t got = read(r->fd, r->window + r->filled, WINDOW - r->filled);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            r->error = -errno;
        if (got <= 0)
            r->ended = true;
        else
            r->filled += (size_t)got;
    }
    return r->filled - r->at >= n;
}

int trace_reader_new(struct trace_reader **out, int fd, struct dt_error *err)
{
    struct trace_reader *r = xcalloc(1, sizeof(*r));
    int ret = 0;

    r->fd = fd;
    r->window = xaligned(CACHE_LINE, WINDOW);
    if (!have(r, sizeof(uint64_t)))
        ret = r->error ? dt_fail(err, r->error, "it cannot be read: %s", strerror(-r->error))
                       : dt_fail(err, -EINVAL, "it is not a trace: it is empty or nearly so");
    else if (memcmp(r->window, TRACE_HEADER_MAGIC, 8))
        ret = dt_fail(err, -EINVAL, "it is not a trace");
    if (ret < 0) {
        trace_reader_free(r);
        return ret;
    }
    *out = r;
    return 0;
}

void trace_reader_free(struct trace_reader *r)
{
    free(r->window);
    free(r);
}

const struct trace_reading *trace_reader_reading(const struct trace_reader *r)
{
    return &r->reading;
}

/* A name from a file ends on somebody's terminal. */
static void copy_name(char *to, const char *from, size_t size)
{
    size_t i;

    for (i = 0; i < size - 1 && from[i]; i++)
        to[i] = isprint((unsigned char)from[i]) ? from[i] : '?';
    to[i] = '\0';
}

static bool take_header(struct trace_reader *r)
{
    struct trace_header h;

    if (!have(r, sizeof(h)))
        return false;
    memcpy(&h, r->window + r->at, sizeof(h));
    if (h.version > TRACE_VERSION) {
        r->in_segment = false;
        r->reading.unknown_segments++;
        return false;
    }
    if (h.version != TRACE_VERSION || h.header_size != sizeof(h) ||
        h.record_size != sizeof(struct trace_record) ||
        h.hash != XXH3_64bits(&h, offsetof(struct trace_header, hash)))
        return false;
    r->segment = (struct trace_segment){
        .index = (unsigned)r->reading.segments,
        .start_realtime = h.start_realtime,
        .start_monotonic = h.start_monotonic,
        .disk_sectors = h.disk_sectors,
        .logical_block = h.logical_block,
        .threads = h.threads,
        .hashed = h.hash_kind == TRACE_HASH_XXH3,
    };
    copy_name(r->segment.device, h.device, sizeof(h.device));
    copy_name(r->segment.layer, h.layer, sizeof(h.layer));
    memset(r->dropped, 0, sizeof(r->dropped));
    r->in_segment = true;
    r->sequence = 0;
    r->reading.segments++;
    r->at += sizeof(h);
    return true;
}

static bool block_hash_right(const struct trace_block *block, const uint8_t *bytes)
{
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, bytes, offsetof(struct trace_block, hash));
    XXH3_64bits_update(&state, bytes + sizeof(*block),
                       block->records * sizeof(struct trace_record));
    return XXH3_64bits_digest(&state) == block->hash;
}

static bool take_block(struct trace_reader *r)
{
    struct trace_block block;

    if (!r->in_segment || !have(r, sizeof(block)))
        return false;
    memcpy(&block, r->window + r->at, sizeof(block));
    if (block.records > TRACE_BLOCK_MAX ||
        !have(r, sizeof(block) + block.records * sizeof(struct trace_record)) ||
        !block_hash_right(&block, r->window + r->at))
        return false;
    if (block.sequence > r->sequence)
        r->reading.missing_blocks += block.sequence - r->sequence;
    r->sequence = block.sequence + 1;
    if (block.thread < TRACE_THREADS_MAX && block.dropped > r->dropped[block.thread]) {
        r->reading.dropped += block.dropped - r->dropped[block.thread];
        r->dropped[block.thread] = block.dropped;
    }
    r->reading.blocks++;
    r->thread = block.thread;
    r->left = block.records;
    r->at += sizeof(block);
    return true;
}

/* Find the next block with records; false at the end. */
static bool find_block(struct trace_reader *r)
{
    while (r->left == 0) {
        const uint8_t *magic;
        bool taken = false;

        if (!have(r, TRACE_ALIGN)) {
            r->reading.damaged_bytes += r->filled - r->at;
            r->at = r->filled;
            return false;
        }
        magic = r->window + r->at;
        if (memcmp(magic, TRACE_BLOCK_MAGIC, 8) == 0)
            taken = take_block(r);
        else if (memcmp(magic, TRACE_HEADER_MAGIC, 8) == 0)
            taken = take_header(r);
        if (!taken) {
            r->at += TRACE_ALIGN;
            r->reading.damaged_bytes += TRACE_ALIGN;
        }
    }
    return true;
}

static bool possible(const struct trace_record *record)
{
    return record->op < DT_OP_COUNT &&
           record->sector <= (UINT64_MAX >> DT_SECTOR_SHIFT) - record->sectors &&
           record->time <= UINT64_MAX - record->latency;
}

int trace_reader_next(struct trace_reader *r, struct trace_entry *entry)
{
    while (find_block(r)) {
        memcpy(&entry->record, r->window + r->at, sizeof(entry->record));
        r->at += sizeof(entry->record);
        r->left--;
        if (!possible(&entry->record)) {
            r->reading.invalid_records++;
            continue;
        }
        r->reading.records++;
        entry->segment = &r->segment;
        entry->thread = r->thread;
        return 1;
    }
    return r->error;
}
