/* SPDX-License-Identifier: MIT */
/* report.c - a replay from beginning to end, and what it found, for people and as JSON. */
#include "tools/trace/replay.h"

#include <inttypes.h>

#define BUFFER_MAX (1u << 20)
#define DEPTH_MAX  1024u
#define ANSWER_MS  10000

/* ---- The report ----------------------------------------------------------------------------- */

static uint64_t total(const struct replay *r)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < DT_OP_COUNT; i++)
        sum += r->requests[i];
    return sum;
}

static json_t *histogram_json(const struct histogram *h)
{
    return json_pack("{sI sI sI sI}", "count", (json_int_t)h->count, "p50",
                     (json_int_t)histogram_percentile(h, 50), "p99",
                     (json_int_t)histogram_percentile(h, 99), "max", (json_int_t)h->max);
}

static void print_replay_json(const struct replay *r)
{
    json_t *json = json_object(), *ops = json_object();

    for (unsigned i = 0; i < DT_OP_COUNT; i++)
        json_object_set_new(ops, dt_op_name((enum dt_op)i),
                            json_integer((json_int_t)r->requests[i]));
    json_object_update_new(
        json, json_pack("{sI so sI sf sf sI sI sI sI sI sI}", "requests", (json_int_t)total(r),
                        "ops", ops, "bytes", (json_int_t)r->bytes, "seconds",
                        (double)(r->ended - r->started) / 1e9, "recorded_seconds",
                        (double)r->steps.duration / 1e9, "errors", (json_int_t)r->errors,
                        "mismatches", (json_int_t)r->mismatches, "checked", (json_int_t)r->checked,
                        "skipped", (json_int_t)r->skipped, "ordered", (json_int_t)r->ordered,
                        "lost", (json_int_t)r->lost));
    json_object_set_new(json, "read_latency", histogram_json(&r->latency[DT_OP_READ]));
    json_object_set_new(json, "write_latency", histogram_json(&r->latency[DT_OP_WRITE]));
    if (!r->options->closed)
        json_object_set_new(json, "late", histogram_json(&r->late));
    print_json(json);
}

static void print_histogram(const char *name, const struct histogram *h)
{
    if (h->count)
        printf("%-12s p50 %s  p99 %s  max %s\n", name, human_ns(histogram_percentile(h, 50)),
               human_ns(histogram_percentile(h, 99)), human_ns(h->max));
}

static void print_replay(const struct replay *r)
{
    printf("%" PRIu64 " requests, %s, in %.3f s (recorded: %.3f s)\n", total(r),
           human_bytes(r->bytes), (double)(r->ended - r->started) / 1e9,
           (double)r->steps.duration / 1e9);
    print_histogram("reads", &r->latency[DT_OP_READ]);
    print_histogram("writes", &r->latency[DT_OP_WRITE]);
    if (!r->options->closed)
        print_histogram("late", &r->late);
    if (r->content)
        printf("%-12s %" PRIu64 "\n%-12s %" PRIu64 "\n", "checked", r->checked, "mismatches",
               r->mismatches);
    if (r->skipped)
        printf("%-12s %" PRIu64 " (the disk does not serve them)\n", "skipped", r->skipped);
    printf("%-12s %" PRIu64 "\n%-12s %" PRIu64 "\n", "errors", r->errors, "lost", r->lost);
}

int replay_report(const struct replay *r, struct dt_error *err)
{
    if (r->options->json)
        print_replay_json(r);
    else
        print_replay(r);
    if (r->lost)
        return dt_fail(err, -EBADMSG, "%" PRIu64 " requests never came back", r->lost);
    return r->first_problem[0] ? dt_fail(err, -EBADMSG, "%s", r->first_problem) : 0;
}

/* ---- From beginning to end ------------------------------------------------------------------ */

static int judge_options(struct replay *r, struct dt_error *err)
{
    const struct trace_options *o = r->options;
    char *end;

    if (!o->socket)
        return dt_fail(err, -EINVAL, "replay needs --socket=PATH");
    if (o->hashes && !o->verify)
        return dt_fail(err, -EINVAL, "--hashes is about --verify, which is not given");
    r->speed = strtod(o->speed, &end);
    if (end == o->speed || *end || !(r->speed >= 1e-6 && r->speed <= 1e6))
        return dt_fail(err, -EINVAL, "--speed=%s: not a number such as 2 or 0.5", o->speed);
    if (o->closed && r->speed != 1.0)
        return dt_fail(err, -EINVAL, "--speed is of the trace's times, which --closed ignores");
    return 0;
}

static int judge_steps(const struct replay *r, struct dt_error *err)
{
    const struct vblk_info *info = vblk_info(r->driver);

    if (r->steps.end > info->disk.capacity)
        return dt_fail(err, -EINVAL,
                       "the trace uses sectors up to %" PRIu64 ", and the disk has %" PRIu64,
                       r->steps.end, (uint64_t)info->disk.capacity);
    for (size_t i = 0; i < r->steps.count; i++) {
        const struct trace_step *s = &r->steps.list[i];

        if (s->op != DT_OP_READ && s->op != DT_OP_FLUSH && info->features & 1ull << VIRTIO_BLK_F_RO)
            return dt_fail(err, -EROFS, "the disk is read-only: --ops=read would replay the rest");
        if ((s->sector | s->sectors) % (info->disk.blk_size >> DT_SECTOR_SHIFT))
            return dt_fail(err, -EINVAL, "the disk has blocks of %u bytes, the trace smaller ones",
                           info->disk.blk_size);
    }
    return 0;
}

static int connect_disk(struct replay *r, struct dt_error *err)
{
    uint64_t depth = r->options->depth;
    struct vblk_config config = {.path = r->options->socket,
                                 .queues = (unsigned)r->options->queues,
                                 .timeout_ms = ANSWER_MS};
    int ret;

    for (size_t i = 0; !r->options->depth && i < r->steps.count; i++)
        depth = MAX(depth, (uint64_t)r->steps.list[i].depth);
    /* An open loop may get behind, and then has more in flight than the trace had. */
    r->depth = (unsigned)MIN(r->options->closed ? MAX(depth, 1u) : MAX(depth * 2, 64u), DEPTH_MAX);
    r->buffer_sectors = MIN(MAX(r->steps.max_sectors, 8u), BUFFER_MAX >> DT_SECTOR_SHIFT);
    r->buffer_sectors = ALIGN_UP(r->buffer_sectors, 8u);
    config.depth = r->depth;
    config.bytes = r->buffer_sectors << DT_SECTOR_SHIFT;
    ret = vblk_open(&r->driver, &config, err);
    if (ret < 0 && !strstr(err->text, config.path))
        dt_fail_prefix(err, "%s", config.path);
    return ret;
}

static void queues_init(struct replay *r)
{
    r->nqueues = (unsigned)r->options->queues;
    r->queues = xcalloc(r->nqueues, sizeof(*r->queues));
    for (unsigned i = 0; i < r->nqueues; i++) {
        struct replay_queue *q = &r->queues[i];

        q->q = vblk_queue(r->driver, i);
        q->first = vblk_request(q->q, 0);
        q->free = xcalloc(r->depth, sizeof(*q->free));
        q->flights = xcalloc(r->depth, sizeof(*q->flights));
        for (unsigned k = r->depth; k-- > 0;)
            q->free[q->nfree++] = vblk_request(q->q, k);
        vblk_poll(q->q);
    }
}

static void replay_fini(struct replay *r)
{
    for (unsigned i = 0; i < r->nqueues; i++) {
        free(r->queues[i].free);
        free(r->queues[i].flights);
    }
    free(r->queues);
    replayed_free(r->content);
    vblk_close(r->driver);
    trace_steps_free(&r->steps);
}

int trace_replay(const struct trace_options *o, struct trace_reader *reader, struct dt_error *err)
{
    static struct replay r; /* its histograms are large */
    int ret;

    r.options = o;
    ret = judge_options(&r, err);
    if (ret < 0)
        return ret;
    ret = trace_steps_load(&r.steps, reader, o->ops);
    if (ret < 0)
        dt_fail(err, ret, "%s", strerror(-ret));
    else if (r.steps.count == 0)
        ret = dt_fail(err, -EINVAL, "it has no requests to replay");
    ret = ret ?: connect_disk(&r, err);
    ret = ret ?: judge_steps(&r, err);
    if (ret == 0) {
        queues_init(&r);
        if (o->verify)
            r.content = replayed_new(o->seed);
        ret = replay_run(&r, err);
    }
    ret = ret ?: replay_report(&r, err);
    replay_fini(&r);
    return ret;
}
