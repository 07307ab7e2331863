/* SPDX-License-Identifier: MIT */
/* stats.c - a device's counters and latencies as JSON. */
#include "core/internal.h"

static json_t *ops_json(unsigned threads, const struct edge_stats *const *of)
{
    json_t *ops = json_object();

    for (unsigned op = 0; op < DT_OP_COUNT; op++) {
        struct op_stats sum = {0};

        for (unsigned t = 0; t < threads; t++) {
            sum.requests += __atomic_load_n(&of[t]->ops[op].requests, __ATOMIC_RELAXED);
            sum.sectors += __atomic_load_n(&of[t]->ops[op].sectors, __ATOMIC_RELAXED);
            sum.errors += __atomic_load_n(&of[t]->ops[op].errors, __ATOMIC_RELAXED);
        }
        json_object_set_new(ops, dt_op_name(op),
                            json_pack("{sI sI sI}", "requests", (json_int_t)sum.requests, "bytes",
                                      (json_int_t)(sum.sectors << DT_SECTOR_SHIFT), "errors",
                                      (json_int_t)sum.errors));
    }
    return ops;
}

/* [[largest ns, samples]...] of the buckets in use: differences of two answers give the
 * percentiles of the time between. */
static json_t *buckets_json(const struct histogram *h)
{
    json_t *buckets = json_array();

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
        if (h->buckets[b])
            json_array_append_new(buckets, json_pack("[II]", (json_int_t)histogram_bucket_top(b),
                                                     (json_int_t)h->buckets[b]));
    return buckets;
}

static json_t *latency_json(unsigned threads, const struct edge_stats *const *of)
{
    static const char *const kinds[LATENCY_KINDS] = {"read", "write", "other"};
    json_t *latency = json_object();

    for (unsigned k = 0; k < LATENCY_KINDS; k++) {
        _cleanup_free_ struct histogram *sum = xcalloc(1, sizeof(*sum));

        for (unsigned t = 0; t < threads; t++)
            histogram_merge(sum, &of[t]->latency[k]);
        if (sum->count == 0)
            continue;
        json_object_set_new(latency, kinds[k],
                            json_pack("{sI sI sI sI sI sI so}", "samples", (json_int_t)sum->count,
                                      "p50", (json_int_t)histogram_percentile(sum, 50), "p90",
                                      (json_int_t)histogram_percentile(sum, 90), "p99",
                                      (json_int_t)histogram_percentile(sum, 99), "p999",
                                      (json_int_t)histogram_percentile(sum, 99.9), "max",
                                      (json_int_t)sum->max, "buckets", buckets_json(sum)));
    }
    return latency;
}

static json_t *counters_json(const struct dt_layer *layer)
{
    const struct dt_counter *counters = layer->ext->counters;
    json_t *object = json_object();

    for (unsigned i = 0; counters && counters[i].name; i++) {
        uint64_t sum = 0;

        for (unsigned t = 0; t < layer->dev->threads; t++)
            sum += __atomic_load_n(&layer->ctxs[t]->pub.counters[i], __ATOMIC_RELAXED);
        json_object_set_new(object, counters[i].name, json_integer((json_int_t)sum));
    }
    return object;
}

/* A layer that requests pass without stopping was crossed by what the next one below counted. */
static const struct edge_stats *counted_at(struct ctx *c)
{
    while (!c->submit)
        c = c->lane->ctxs[c->index + 1];
    return &c->stats;
}

void disk_layer_stats(const struct dt_layer *layer, json_t *stats)
{
    const struct edge_stats *of[DEVICE_MAX_THREADS];
    unsigned threads = layer->dev->threads;

    for (unsigned t = 0; t < threads; t++)
        of[t] = counted_at(layer->ctxs[t]);
    json_object_set_new(stats, "ops", ops_json(threads, of));
    json_object_set_new(stats, "latency", latency_json(threads, of));
}

json_t *stats_json(struct device *dev)
{
    json_t *layers = json_array();
    unsigned in_flight = 0;

    for (unsigned i = 1; i <= dev->nlayers; i++) {
        struct dt_layer *layer = dev->layers[i];
        unsigned held = 0;
        json_t *stats;

        for (unsigned t = 0; t < dev->threads; t++)
            held += __atomic_load_n(&layer->ctxs[t]->held, __ATOMIC_RELAXED);
        stats = json_pack("{ss si}", "name", layer->name, "holding", (int)held);
        dev->class->layer_stats(layer, stats);
        json_object_set_new(stats, "counters", counters_json(layer));
        json_array_append_new(layers, stats);
    }
    for (unsigned t = 0; t < dev->threads; t++)
        in_flight += __atomic_load_n(&dev->lanes[t]->in_flight, __ATOMIC_RELAXED);
    return json_pack("{ss sI si so}", "name", dev->name, "time", (json_int_t)dt_clock_ns(),
                     "in_flight", (int)in_flight, "layers", layers);
}
