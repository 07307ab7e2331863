/* SPDX-License-Identifier: MIT */
/* stats.c - cvd pool stats, latency: what each disk in use got, and what was waited for, told by the process that serves the
 * pool. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

struct listing {
    struct target *t;
    struct table *table;
    json_t *list;
};

static void add_json(json_t *list, const char *name, const struct disk_account *a)
{
    json_array_append_new(
        list, json_pack("{ss ss sb si sI sI sI sI sI sI sI sI}", "name", name, "owner", a->owner,
                        "read-only", a->read_only, "weight", (int)a->weight, "requests",
                        (json_int_t)a->requests, "bytes", (json_int_t)a->bytes, "busy-ns",
                        (json_int_t)a->busy_ns, "waited", (json_int_t)a->waited, "in-flight",
                        (json_int_t)a->in_flight, "queued", (json_int_t)a->queued, "quota-held",
                        (json_int_t)a->counters->over_held, "quota-failed",
                        (json_int_t)a->counters->over_failed));
}

static void add(void *arg, const struct disk_account *a)
{
    struct listing *l = arg;
    char name[2 * PX_NAME];

    pool_full_name(l->t->pool, a->slot, name);
    if (l->list) {
        add_json(l->list, name, a);
        return;
    }
    table_cell(l->table, "%s", name);
    table_cell(l->table, "%s", a->owner);
    table_cell(l->table, "%u", a->weight);
    table_cell(l->table, "%s", human_count((double)a->requests));
    table_cell(l->table, "%s", human_bytes(a->bytes));
    table_cell(l->table, "%s", human_ns(a->busy_ns));
    table_cell(l->table, "%s", human_count((double)a->waited));
    table_cell(l->table, "%" PRIu64, a->in_flight);
    table_cell(l->table, "%" PRIu64, a->queued);
}

int cmd_pool_stats(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err)
{
    struct listing l = {
        .t = t,
        .table = table_new("NAME OWNER >WEIGHT >REQUESTS >BYTES >BUSY >WAITED >RUNNING >QUEUED"),
        .list = o->json ? json_array() : NULL};

    pool_accounts(t->pool, add, &l);
    if (l.list)
        print_json_to(t->out, l.list);
    else
        table_print(l.table, t->out);
    table_free(l.table);
    return 0;
}

int cmd_pool_latency(struct target *t, const struct cvd_options *o, int argc, char **argv,
                     struct dt_error *err)
{
    const char *const what[] = {"root", "slice", "flush", "wait"};
    struct pool_info i;
    uint64_t ns[ARRAY_SIZE(what)];

    pool_info(t->pool, &i);
    memcpy(ns, (uint64_t[]){i.times.root, i.times.slice, i.times.flush, i.times.wait}, sizeof(ns));
    if (o->json) {
        json_t *all = json_pack("{sI sI}", "unpunched", (json_int_t)(i.stale << PX_BLOCK_SHIFT),
                                "punched", (json_int_t)(i.punched << PX_BLOCK_SHIFT));

        for (unsigned k = 0; k < ARRAY_SIZE(ns); k++)
            json_object_set_new(all, what[k], json_integer((json_int_t)ns[k]));
        print_json_to(t->out, all);
        return 0;
    }
    for (unsigned k = 0; k < ARRAY_SIZE(ns); k++)
        fprintf(t->out, "%-10s %s\n", what[k], human_ns(ns[k]));
    fprintf(t->out, "unpunched  %s\n", human_bytes(i.stale << PX_BLOCK_SHIFT));
    fprintf(t->out, "punched    %s\n", human_bytes(i.punched << PX_BLOCK_SHIFT));
    return 0;
}
