/* SPDX-License-Identifier: MIT */
/*
 * summary.c - see summary.h. One pass, in memory that does not depend on the trace: the disk is
 * divided into at most ZONES zones of a power of two, 1 MiB or more.
 */
#include "blk/trace/summary.h"
#include "base/base.h"
#include "base/histogram.h"

#define ZONES    4096u
#define ZONE_MIN 2048u /* sectors */
#define RECENT   8u

struct zone {
    uint64_t requests, bytes;
};

struct work {
    struct histogram latency[DT_OP_COUNT];
    uint64_t recent[DT_OP_COUNT][RECENT]; /* sectors where the last ones ended */
    unsigned next[DT_OP_COUNT];
    struct zone zones[ZONES];
    uint64_t zone_sectors;
    uint64_t first, last; /* of the present segment */
    bool any;
};

static uint64_t zone_size(uint64_t disk_sectors)
{
    uint64_t size = ZONE_MIN;

    while (disk_sectors / size >= ZONES && size < (uint64_t)1 << 54)
        size *= 2;
    return size;
}

static void end_segment(struct work *w, struct trace_summary *s)
{
    if (w->any)
        s->duration += w->last - w->first;
    w->any = false;
}

static void begin_segment(struct work *w, struct trace_summary *s, const struct trace_segment *seg)
{
    end_segment(w, s);
    if (s->first.threads == 0 && w->zone_sectors == 0) {
        s->first = *seg;
        w->zone_sectors = zone_size(seg->disk_sectors);
    }
    memset(w->recent, 0xff, sizeof(w->recent));
}

static bool is_sequential(struct work *w, const struct trace_record *r)
{
    uint64_t *recent = w->recent[r->op];
    uint64_t end = r->sector + r->sectors;

    for (unsigned i = 0; i < RECENT; i++)
        if (recent[i] == r->sector) {
            recent[i] = end;
            return true;
        }
    recent[w->next[r->op]++ % RECENT] = end;
    return false;
}

static unsigned size_class(uint64_t bytes)
{
    unsigned i = 0;

    while (i < TRACE_SIZES - 1 && (uint64_t)DT_SECTOR_SIZE << i < bytes)
        i++;
    return i;
}

static void add(struct work *w, struct trace_summary *s, const struct trace_record *r)
{
    struct trace_op_summary *op = &s->ops[r->op];
    uint64_t bytes = (uint64_t)r->sectors << DT_SECTOR_SHIFT;
    struct zone *zone = &w->zones[MIN(r->sector / w->zone_sectors, (uint64_t)ZONES - 1)];

    w->first = w->any ? MIN(w->first, r->time) : r->time;
    w->last = MAX(w->any ? w->last : 0, r->time + r->latency);
    w->any = true;
    op->requests++;
    op->errors += r->error != 0;
    histogram_add(&w->latency[r->op], r->latency);
    s->max_depth = MAX(s->max_depth, (uint64_t)r->depth);
    if (r->op == DT_OP_FLUSH)
        return;
    op->bytes += bytes;
    op->sequential += is_sequential(w, r);
    op->sizes[size_class(bytes)]++;
    zone->requests++;
    zone->bytes += bytes;
}

static void finish_ops(const struct work *w, struct trace_summary *s)
{
    double seconds = (double)s->duration / 1e9;

    for (unsigned i = 0; i < DT_OP_COUNT; i++) {
        struct trace_op_summary *op = &s->ops[i];
        const struct histogram *h = &w->latency[i];

        if (h->count == 0)
            continue;
        op->iops = seconds > 0 ? (double)op->requests / seconds : 0;
        op->bps = seconds > 0 ? (double)op->bytes / seconds : 0;
        op->min = h->min;
        op->mean = histogram_mean(h);
        op->p50 = histogram_percentile(h, 50);
        op->p90 = histogram_percentile(h, 90);
        op->p99 = histogram_percentile(h, 99);
        op->p999 = histogram_percentile(h, 99.9);
        op->max = h->max;
    }
}

static void finish_top(struct work *w, struct trace_summary *s)
{
    while (s->ranges < TRACE_TOP) {
        unsigned best = 0;

        for (unsigned i = 1; i < ZONES; i++)
            if (w->zones[i].requests > w->zones[best].requests)
                best = i;
        if (w->zones[best].requests == 0)
            break;
        s->top[s->ranges++] = (struct trace_range){
            .sector = best * w->zone_sectors,
            .sectors = w->zone_sectors,
            .requests = w->zones[best].requests,
            .bytes = w->zones[best].bytes,
        };
        w->zones[best].requests = 0;
    }
}

int trace_summarize(struct trace_reader *reader, struct trace_summary *s)
{
    _cleanup_free_ struct work *w = xcalloc(1, sizeof(*w));
    unsigned segment = UINT32_MAX;
    struct trace_entry entry;
    int ret;

    memset(s, 0, sizeof(*s));
    while ((ret = trace_reader_next(reader, &entry)) > 0) {
        if (entry.segment->index != segment) {
            segment = entry.segment->index;
            begin_segment(w, s, entry.segment);
        }
        add(w, s, &entry.record);
    }
    end_segment(w, s);
    s->reading = *trace_reader_reading(reader);
    finish_ops(w, s);
    finish_top(w, s);
    return ret;
}
