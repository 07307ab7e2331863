/* SPDX-License-Identifier: MIT */
/* verbs.c - what an operator asks of a copy or a shadow. */
#include "blk/twin/twin.h"

static const char *state_of(const struct twin *t)
{
    if (t->absent[0])
        return "absent";
    if (t->sealed_until)
        return "handing over";
    if (t->equal)
        return "in step";
    if (t->differs != UINT64_MAX && !twin_judges(t))
        return "different";
    if (t->lagging)
        return "left behind";
    if (twin_judges(t))
        return "comparing";
    return t->dirty ? "copying" : "beside";
}

static void reply_latency(struct dt_reply *reply, const char *side, const char *op,
                          const struct histogram *h)
{
    static const struct {
        const char *name;
        double percent;
    } points[] = {{"p50", 50}, {"p99", 99}, {"p999", 99.9}};

    if (!h->count)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(points); i++) {
        _cleanup_free_ char *key = xasprintf("%s-%s-%s-ns", side, op, points[i].name);

        dt_reply_u64(reply, key, histogram_percentile(h, points[i].percent));
    }
}

static int do_status(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    const struct twin *t = dt_layer_data(layer);
    uint64_t bytes = t->sectors << DT_SECTOR_SHIFT, took;

    dt_reply(reply, "state", "%s", state_of(t));
    if (t->absent[0])
        dt_reply(reply, "reason", "%s", t->absent);
    dt_reply(reply, "to", "%s", t->to);
    dt_reply_u64(reply, "bytes", bytes);
    dt_reply_u64(reply, "bytes-left", twin_bytes_left(t));
    dt_reply_u64(reply, "bytes-copied", t->copied);
    took = (dt_clock_ns() - t->began) / DT_MS(1);
    if (t->dirty && t->copied > t->before)
        dt_reply_u64(reply, "bytes-per-second", (t->copied - t->before) * 1000 / MAX(took, 1u));
    if (t->differs != UINT64_MAX)
        dt_reply_u64(reply, "different-sector", t->differs);
    if (t->failure[0])
        dt_reply(reply, "failure", "%s", t->failure);
    if (!t->compares || !t->c)
        return 0;
    dt_reply_u64(reply, "missed", t->c->counters[TWIN_MISSED]);
    dt_reply_u64(reply, "compared", t->c->counters[TWIN_COMPARED]);
    dt_reply_u64(reply, "mismatches", t->c->counters[TWIN_MISMATCHES]);
    dt_reply_u64(reply, "different-errors", t->c->counters[TWIN_DIFFERENT_ERRORS]);
    if (t->first_mismatch != UINT64_MAX)
        dt_reply_u64(reply, "first-mismatch-sector", t->first_mismatch);
    for (unsigned op = 0; op < 2; op++) {
        reply_latency(reply, "disk", op ? "write" : "read", t->latency[op][FIRST]);
        reply_latency(reply, "shadow", op ? "write" : "read", t->latency[op][SECOND]);
    }
    return 0;
}

const struct dt_verb twin_verbs[] = {
    {"status", "", "Show how far the second chain is, and what it answered differently.",
     do_status},
    {NULL},
};
