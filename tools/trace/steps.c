/* SPDX-License-Identifier: MIT */
/*
 * steps.c - a trace as a list of what to do and when.
 *
 * Records stand in the file in the order of completion, thread by thread; a replay needs the order
 * of arrival, so all of them are held in memory and sorted.
 */
#include "tools/trace/trace.h"

struct loading {
    struct trace_steps *steps;
    size_t room;
    unsigned segment;
    uint64_t offset,
        last; /* of the segment being read: where it begins, and where it ends so far */
};

static void add(struct loading *l, const struct trace_entry *e)
{
    struct trace_steps *s = l->steps;
    const struct trace_record *r = &e->record;

    if (s->count == l->room) {
        l->room = MAX(l->room * 2, (size_t)1024);
        s->list = realloc(s->list, l->room * sizeof(*s->list));
        CHECK(s->list);
    }
    if (e->segment->index != l->segment) {
        l->segment = e->segment->index;
        l->offset = l->last;
    }
    s->list[s->count++] = (struct trace_step){
        .time = l->offset + r->time,
        .sector = r->sector,
        .sectors = r->sectors,
        .hash = r->data_hash,
        .hashed = trace_entry_hashed(e),
        .depth = r->depth,
        .queue = r->queue,
        .op = r->op,
    };
    l->last = MAX(l->last, l->offset + r->time);
    if (r->sectors)
        s->end = MAX(s->end, r->sector + r->sectors);
    if (r->op <= DT_OP_WRITE)
        s->max_sectors = MAX(s->max_sectors, r->sectors);
}

static int by_time(const void *a, const void *b)
{
    const struct trace_step *x = a, *y = b;

    return (x->time > y->time) - (x->time < y->time);
}

int trace_steps_load(struct trace_steps *steps, struct trace_reader *reader, uint32_t ops)
{
    struct loading l = {.steps = steps};
    struct trace_entry entry;
    int ret;

    *steps = (struct trace_steps){0};
    while ((ret = trace_reader_next(reader, &entry)) > 0)
        if (ops & 1u << entry.record.op && (entry.record.sectors || entry.record.op == DT_OP_FLUSH))
            add(&l, &entry);
    steps->reading = *trace_reader_reading(reader);
    if (ret < 0 || steps->count == 0)
        return ret;
    qsort(steps->list, steps->count, sizeof(*steps->list), by_time);
    for (size_t i = steps->count; i-- > 0;)
        steps->list[i].time -= steps->list[0].time;
    steps->duration = steps->list[steps->count - 1].time;
    return 0;
}

void trace_steps_free(struct trace_steps *steps)
{
    free(steps->list);
}
