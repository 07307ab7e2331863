/* SPDX-License-Identifier: MIT */
/* cmd-trace.c - devtap trace: print, sum up, repeat or convert what the extension `trace` recorded.
 */
#include "blk/trace/summary.h"
#include "tools/trace/trace.h"
#include "vhost/message.h"

#include <fcntl.h>
#include <inttypes.h>

/* ---- print --------------------------------------------------------------------------------- */

static void print_entry(const struct trace_entry *e)
{
    const struct trace_record *r = &e->record;

    char hash[24] = "";

    if (trace_entry_hashed(e))
        snprintf(hash, sizeof(hash), "  hash %08x", r->data_hash);
    printf("%14.9f  %-12s  sector %-12" PRIu64 " sectors %-6u queue %-3u depth %-4u %9s  %s%s%s\n",
           (double)r->time / 1e9, dt_op_name((enum dt_op)r->op), r->sector, r->sectors, r->queue,
           r->depth, human_ns(r->latency), r->error ? strerror(r->error) : "ok",
           r->flags & DT_REQ_REPLAYED ? " (replayed)" : "", hash);
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

#define OPTION(n, t, field) .name = n, .type = t, .offset = offsetof(struct trace_options, field)
static const struct dt_param options[] = {
    {OPTION("json", DT_PARAM_BOOL, json), .help = "Print JSON (print, summary, replay)."},
    {OPTION("ops", DT_PARAM_OPS, ops), .initial = "all",
     .help = "Which operations to take (replay, to-fio): read,write,flush,discard,write-zeroes."},
    {OPTION("name", DT_PARAM_STRING, name), .initial = "disk", .unit = "name",
     .help = "to-fio: how the iolog calls the disk."},
    {OPTION("socket", DT_PARAM_STRING, socket), .unit = "path",
     .help = "replay: socket of the back end to replay to."},
    {OPTION("speed", DT_PARAM_STRING, speed), .initial = "1", .unit = "factor",
     .help = "replay: send so many times as fast as it was recorded."},
    {OPTION("closed", DT_PARAM_BOOL, closed),
     .help = "replay: send as fast as answers come, with as many in flight as were recorded."},
    {OPTION("depth", DT_PARAM_UINT, depth), .initial = "0", .max = 1024,
     .help = "replay: requests in flight at most; 0 is what was recorded."},
    {OPTION("queues", DT_PARAM_UINT, queues), .initial = "1", .min = 1, .max = VHOST_MAX_QUEUES,
     .help = "replay: queues used."},
    {OPTION("verify", DT_PARAM_BOOL, verify),
     .help = "replay: check every read against what the replay wrote before."},
    {OPTION("hashes", DT_PARAM_BOOL, hashes),
     .help = "replay: check reads of what it did not write against the trace's hashes."},
    {OPTION("seed", DT_PARAM_UINT, seed), .initial = "1",
     .help = "replay: of the data that is written."},
    {NULL},
};

static int print_verb(const struct trace_options *o, struct trace_reader *reader,
                      struct dt_error *err)
{
    int ret = print_all(reader, o->json);

    return ret < 0 ? dt_fail(err, ret, "%s", strerror(-ret)) : 0;
}

static int summary_verb(const struct trace_options *o, struct trace_reader *reader,
                        struct dt_error *err)
{
    int ret = summarize(reader, o->json);

    return ret < 0 ? dt_fail(err, ret, "%s", strerror(-ret)) : 0;
}

static const struct action {
    const char *name;
    int (*run)(const struct trace_options *o, struct trace_reader *reader, struct dt_error *err);
} actions[] = {
    {"print", print_verb},
    {"summary", summary_verb},
    {"replay", trace_replay},
    {"to-fio", trace_to_fio},
};

static const struct action *find_action(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(actions); i++)
        if (strcmp(actions[i].name, name) == 0)
            return &actions[i];
    return NULL;
}

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    const struct action *action = find_action(argv[0]);
    _cleanup_close_ int fd = -1;
    struct trace_reader *reader = NULL;
    struct dt_error err;
    int ret = 0;

    if (!action)
        ret = dt_fail(&err, -EINVAL, "'%.40s': print, summary, replay or to-fio was expected",
                      argv[0]);
    if (ret == 0) {
        fd = strcmp(argv[1], "-") == 0 ? dup(STDIN_FILENO) : open(argv[1], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            ret = dt_fail(&err, -errno, "%s: %s", argv[1], strerror(errno));
    }
    if (ret == 0) {
        ret = trace_reader_new(&reader, fd, &err);
        ret = ret ?: action->run(opts, reader, &err);
        if (ret < 0 && !strstr(err.text, argv[1]))
            dt_fail_prefix(&err, "%s", argv[1]);
    }
    if (reader)
        trace_reader_free(reader);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_trace = {
    .name = "trace",
    .args = "print|summary|replay|to-fio [OPTION...] FILE",
    .summary = "print, sum up, replay or convert what the extension trace recorded",
    .help =
        "`print` writes one line for each request: when, what, where, how long, and the result. "
        "`summary` writes a table of operations, sizes and latencies. `replay` sends the requests "
        "again, to any vhost-user-blk back end: writes destroy what is on that disk. `to-fio` "
        "writes an iolog for fio. FILE may be - for standard input.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct trace_options),
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_FILE,
    .run = run,
};
