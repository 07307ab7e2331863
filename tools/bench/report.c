/* SPDX-License-Identifier: MIT */
/* report.c - what devtap bench found, for people and as JSON. */
#include "tools/bench/bench.h"

#include <inttypes.h>

struct result {
    double seconds, iops;
    uint64_t errors, mismatches, twice;
    struct histogram latencies;
    const char *problem;
};

static void collect(const struct bench *b, struct result *r)
{
    *r = (struct result){.seconds = (double)(b->ended - b->started) / 1e9};
    for (unsigned i = 0; i < b->load.threads; i++) {
        const struct worker *w = &b->workers[i];

        r->errors += w->errors;
        r->mismatches += w->mismatches;
        r->twice += w->twice;
        histogram_merge(&r->latencies, &w->latencies);
        if (!r->problem && w->first_problem[0])
            r->problem = w->first_problem;
    }
    r->iops = (double)b->done_at_end / r->seconds;
}

static const char *mode_name(const struct bench *b)
{
    if (b->load.reads && b->load.writes)
        return "randrw";
    if (b->load.random)
        return b->load.writes ? "randwrite" : "randread";
    return b->load.writes ? "write" : "read";
}

static void print_result_json(const struct bench *b, const struct result *r)
{
    const struct histogram *l = &r->latencies;
    json_t *json = json_pack(
        "{ss sI sI sI sI ss sb sb sb sf sI sf sf}", "rw", mode_name(b), "size",
        (json_int_t)b->load.bytes, "depth", (json_int_t)b->load.depth, "queues",
        (json_int_t)b->load.queues, "threads", (json_int_t)b->load.threads, "ring",
        b->config.packed ? "packed" : "split", "event_idx",
        !!(vblk_info(b->load.driver)->features & 1ull << VIRTIO_RING_F_EVENT_IDX), "sleep",
        b->load.sleep, "verify", b->load.verify != NULL, "seconds", r->seconds, "requests",
        (json_int_t)b->done_at_end, "iops", r->iops, "bytes_per_second", r->iops * b->load.bytes);
    json_t *latency = json_pack(
        "{sI sI sI sI sI sI}", "samples", (json_int_t)l->count, "p50",
        (json_int_t)histogram_percentile(l, 50), "p90", (json_int_t)histogram_percentile(l, 90),
        "p99", (json_int_t)histogram_percentile(l, 99), "p999",
        (json_int_t)histogram_percentile(l, 99.9), "max", (json_int_t)l->max);

    json_object_set_new(json, "latency", latency);
    json_object_set_new(json, "errors", json_integer((json_int_t)r->errors));
    json_object_set_new(json, "mismatches", json_integer((json_int_t)r->mismatches));
    json_object_set_new(json, "twice", json_integer((json_int_t)r->twice));
    json_object_set_new(json, "lost", json_integer((json_int_t)b->lost));
    json_object_set_new(json, "reconnects", json_integer((json_int_t)b->reconnects));
    print_json(json);
}

static void print_result(const struct bench *b, const struct result *r)
{
    const struct histogram *l = &r->latencies;

    printf("%s of %s, depth %u, %u queue%s, %u thread%s, %s ring%s%s, %.1f s\n", mode_name(b),
           human_bytes(b->load.bytes), b->load.depth, b->load.queues, b->load.queues > 1 ? "s" : "",
           b->load.threads, b->load.threads > 1 ? "s" : "", b->config.packed ? "packed" : "split",
           b->load.sleep ? ", sleeping" : "", b->load.verify ? ", verified" : "", r->seconds);
    printf("%-12s %s/s\n%-12s %.1f\n", "iops", human_count(r->iops), "MB/s",
           r->iops * b->load.bytes / 1e6);
    printf("%-12s p50 %s  p99 %s  p99.9 %s  max %s\n", "latency",
           human_ns(histogram_percentile(l, 50)), human_ns(histogram_percentile(l, 99)),
           human_ns(histogram_percentile(l, 99.9)), human_ns(l->max));
    printf("%-12s %" PRIu64 "\n", "errors", r->errors);
    if (b->load.verify)
        printf("%-12s %" PRIu64 "\n", "mismatches", r->mismatches);
    printf("%-12s %" PRIu64 "\n", "twice", r->twice);
    printf("%-12s %u\n", "lost", b->lost);
    if (b->options->reconnect)
        printf("%-12s %u\n", "reconnects", b->reconnects);
}

int bench_report(const struct verb *verb, const struct bench *b)
{
    static struct result r; /* its histogram is large */
    struct dt_error err;

    collect(b, &r);
    if (b->options->json)
        print_result_json(b, &r);
    else
        print_result(b, &r);
    if (r.errors || r.mismatches || r.twice) {
        dt_fail(&err, -EBADMSG, "%s: %s", b->options->socket, r.problem ?: "failed");
        return verb_fail(verb, -EBADMSG, &err);
    }
    if (b->lost) {
        dt_fail(&err, -EBADMSG, "%s: %u requests never came back", b->options->socket, b->lost);
        return verb_fail(verb, -EBADMSG, &err);
    }
    return STATUS_DONE;
}
