/* SPDX-License-Identifier: MIT */
/* cmd-trace.c - devtap trace: print or sum up what the extension `trace` recorded. */
#include "blk/trace/summary.h"
#include "tools/tools.h"

#include <fcntl.h>
#include <inttypes.h>

/* ---- print --------------------------------------------------------------------------------- */

static void print_entry(const struct trace_entry *e)
{
    const struct trace_record *r = &e->record;

    printf("%14.9f  %-12s  sector %-12" PRIu64 " sectors %-6u queue %-3u depth %-4u %9s  %s%s\n",
           (double)r->time / 1e9, dt_op_name((enum dt_op)r->op), r->sector, r->sectors, r->queue,
           r->depth, human_ns(r->latency), r->error ? strerror(r->error) : "ok",
           r->flags & DT_REQ_REPLAYED ? " (replayed)" : "");
}

static int print_all(struct trace_reader *reader, bool json)
{
    struct trace_entry entry;
    int ret;

    while ((ret = trace_reader_next(reader, &entry)) > 0 && !ferror(stdout)) {
        if (json) {
            json_t *object = trace_entry_json(&entry);

            json_dumpf(object, stdout, JSON_COMPACT);
            putchar('\n');
            json_decref(object);
        } else {
            print_entry(&entry);
        }
    }
    return ret;
}

/* ---- summary ------------------------------------------------------------------------------- */

static void add_op(struct table *table, const struct trace_op_summary *s, enum dt_op op)
{
    table_cell(table, "%s", dt_op_name(op));
    table_cell(table, "%" PRIu64, s->requests);
    table_cell(table, "%s", human_bytes(s->bytes));
    table_cell(table, "%" PRIu64, s->errors);
    table_cell(table, "%s", human_count(s->iops));
    table_cell(table, "%.1f", s->bps / 1e6);
    table_cell(table, "%.0f%%", 100.0 * (double)s->sequential / (double)s->requests);
    table_cell(table, "%s", human_ns(s->p50));
    table_cell(table, "%s", human_ns(s->p99));
    table_cell(table, "%s", human_ns(s->max));
}

static void print_losses(const struct trace_reading *r)
{
    static const char *const texts[] = {
        "requests were not recorded: the disk was faster than the trace's file",
        "blocks of records are missing",
        "bytes are damaged and were skipped",
        "records are impossible and were skipped",
        "segments are of a later version and were skipped",
    };
    const uint64_t counts[] = {r->dropped, r->missing_blocks, r->damaged_bytes, r->invalid_records,
                               r->unknown_segments};

    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        if (counts[i])
            printf("%" PRIu64 " %s\n", counts[i], texts[i]);
}

static void print_summary(const struct trace_summary *s)
{
    struct table *table =
        table_new("OP >REQUESTS >BYTES >ERRORS >IOPS >MB/s >SEQUENTIAL >P50 >P99 >MAX");

    printf("%s, layer %s: %" PRIu64 " requests in %.3f s, at most %" PRIu64 " at a time\n",
           s->first.device, s->first.layer, s->reading.records, (double)s->duration / 1e9,
           s->max_depth);
    for (unsigned op = 0; op < DT_OP_COUNT; op++)
        if (s->ops[op].requests)
            add_op(table, &s->ops[op], (enum dt_op)op);
    table_print(table, stdout);
    table_free(table);
    if (s->ranges)
        puts("most used:");
    for (unsigned i = 0; i < s->ranges; i++)
        printf("  sectors %" PRIu64 " to %" PRIu64 ": %" PRIu64 " requests, %s\n", s->top[i].sector,
               s->top[i].sector + s->top[i].sectors, s->top[i].requests,
               human_bytes(s->top[i].bytes));
    print_losses(&s->reading);
}

static int summarize(struct trace_reader *reader, bool json)
{
    static struct trace_summary summary; /* large */
    int ret = trace_summarize(reader, &summary);

    if (ret < 0)
        return ret;
    if (json)
        print_json(trace_summary_json(&summary));
    else
        print_summary(&summary);
    return 0;
}

/* ---- The verb ------------------------------------------------------------------------------ */

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    bool print = strcmp(argv[0], "print") == 0;
    _cleanup_close_ int fd = -1;
    struct trace_reader *reader = NULL;
    struct dt_error err;
    int ret = 0;

    if (!print && strcmp(argv[0], "summary") != 0)
        ret = dt_fail(&err, -EINVAL, "'%.40s': print or summary was expected", argv[0]);
    if (ret == 0) {
        fd = strcmp(argv[1], "-") == 0 ? dup(STDIN_FILENO) : open(argv[1], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            ret = dt_fail(&err, -errno, "%s: %s", argv[1], strerror(errno));
    }
    if (ret == 0) {
        ret = trace_reader_new(&reader, fd, &err);
        if (ret < 0 && !strstr(err.text, argv[1]))
            dt_fail_prefix(&err, "%s", argv[1]);
    }
    if (ret == 0) {
        ret = print ? print_all(reader, o->json) : summarize(reader, o->json);
        if (ret < 0)
            dt_fail(&err, ret, "%s: %s", argv[1], strerror(-ret));
    }
    if (reader)
        trace_reader_free(reader);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_trace = {
    .name = "trace",
    .args = "print|summary [--json] FILE",
    .summary = "print or sum up what the extension trace recorded",
    .help =
        "`print` writes one line for each request: when, what, where, how long, and the result. "
        "`summary` writes a table of operations, sizes and latencies. FILE may be - for "
        "standard input.",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_FILE,
    .run = run,
};
