/* SPDX-License-Identifier: MIT */
/*
 * fio.c - a trace as an iolog of fio, version 3: one line per request with its time in
 * microseconds.
 *
 * fio knows no write-zeroes: they become writes, which have the same range and effect on what is
 * read; discards become trims, flushes syncs.
 */
#include "tools/trace/trace.h"

#include <inttypes.h>

static const char *const actions[] = {
    [DT_OP_READ] = "read",    [DT_OP_WRITE] = "write",        [DT_OP_FLUSH] = "sync",
    [DT_OP_DISCARD] = "trim", [DT_OP_WRITE_ZEROES] = "write",
};

/* Fields are separated by spaces, and a colon ends a file's name for fio. */
static bool name_ok(const char *name)
{
    return *name && strcspn(name, " \t\n:") == strlen(name) && strlen(name) < 200;
}

int trace_to_fio(const struct trace_options *o, struct trace_reader *reader, struct dt_error *err)
{
    struct trace_steps steps;
    int ret;

    if (!name_ok(o->name))
        return dt_fail(err, -EINVAL, "--name=%s: fio needs a name without spaces and colons",
                       o->name);
    ret = trace_steps_load(&steps, reader, o->ops);
    if (ret < 0)
        return dt_fail(err, ret, "%s", strerror(-ret));
    printf("fio version 3 iolog\n0 %s add\n0 %s open\n", o->name, o->name);
    for (size_t i = 0; i < steps.count && !ferror(stdout); i++) {
        const struct trace_step *s = &steps.list[i];

        printf("%" PRIu64 " %s %s %" PRIu64 " %" PRIu64 "\n", s->time / 1000, o->name,
               actions[s->op], s->sector << DT_SECTOR_SHIFT,
               (uint64_t)s->sectors << DT_SECTOR_SHIFT);
    }
    printf("%" PRIu64 " %s close\n", steps.duration / 1000, o->name);
    trace_steps_free(&steps);
    return 0;
}
