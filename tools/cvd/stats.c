/* SPDX-License-Identifier: MIT */
/* stats.c - cvd pool stats: what each disk in use got, told by the process that serves the pool. */
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
