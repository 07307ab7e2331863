/* SPDX-License-Identifier: MIT */
/* summary-json.c - traces and their summaries for programs: numbers in bytes, sectors and ns. */
#include "base/base.h"
#include "blk/trace/summary.h"
#include <stdio.h>

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)MIN(n, (uint64_t)INT64_MAX));
}

static json_t *sizes_json(const struct trace_op_summary *op)
{
    json_t *sizes = json_object();

    for (unsigned i = 0; i < TRACE_SIZES; i++) {
        char name[32];

        snprintf(name, sizeof(name), "%s%u", i == TRACE_SIZES - 1 ? ">" : "",
                 DT_SECTOR_SIZE << (i == TRACE_SIZES - 1 ? i - 1 : i));
        if (op->sizes[i])
            json_object_set_new(sizes, name, number(op->sizes[i]));
    }
    return sizes;
}

static json_t *op_json(const struct trace_op_summary *op)
{
    json_t *latency =
        json_pack("{so so so so so so so}", "min", number(op->min), "mean", number(op->mean), "p50",
                  number(op->p50), "p90", number(op->p90), "p99", number(op->p99), "p999",
                  number(op->p999), "max", number(op->max));

    return json_pack("{so so so so sf sf so so}", "requests", number(op->requests), "bytes",
                     number(op->bytes), "errors", number(op->errors), "sequential",
                     number(op->sequential), "iops", op->iops, "bytes_per_second", op->bps,
                     "latency", latency, "sizes", sizes_json(op));
}

static json_t *reading_json(const struct trace_reading *r)
{
    return json_pack("{so so so so so so so so}", "segments", number(r->segments), "blocks",
                     number(r->blocks), "records", number(r->records), "dropped",
                     number(r->dropped), "missing_blocks", number(r->missing_blocks),
                     "damaged_bytes", number(r->damaged_bytes), "invalid_records",
                     number(r->invalid_records), "unknown_segments", number(r->unknown_segments));
}

json_t *trace_summary_json(const struct trace_summary *s)
{
    json_t *ops = json_object(), *top = json_array();

    for (unsigned i = 0; i < DT_OP_COUNT; i++)
        if (s->ops[i].requests)
            json_object_set_new(ops, dt_op_name(i), op_json(&s->ops[i]));
    for (unsigned i = 0; i < s->ranges; i++)
        json_array_append_new(top, json_pack("{so so so so}", "sector", number(s->top[i].sector),
                                             "sectors", number(s->top[i].sectors), "requests",
                                             number(s->top[i].requests), "bytes",
                                             number(s->top[i].bytes)));
    return json_pack("{ss ss so so so so so so so}", "device", s->first.device, "layer",
                     s->first.layer, "start", number(s->first.start_realtime), "duration",
                     number(s->duration), "disk_sectors", number(s->first.disk_sectors),
                     "max_depth", number(s->max_depth), "file", reading_json(&s->reading), "ops",
                     ops, "top", top);
}

json_t *trace_entry_json(const struct trace_entry *entry)
{
    const struct trace_record *r = &entry->record;

    json_t *json =
        json_pack("{so ss so so so so so so so so so}", "time", number(r->time), "op",
                  dt_op_name(r->op), "sector", number(r->sector), "sectors", number(r->sectors),
                  "latency", number(r->latency), "error", number(r->error), "queue",
                  number(r->queue), "thread", number(entry->thread), "depth", number(r->depth),
                  "flags", number(r->flags), "segment", number(entry->segment->index));

    if (trace_entry_hashed(entry))
        json_object_set_new(json, "hash", number(r->data_hash));
    return json;
}
