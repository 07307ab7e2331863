/* SPDX-License-Identifier: MIT */
/* show.c - the commands of cvd that only look: list, snaps, diff. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

static uint64_t count_snapshots(const struct pool *pool, uint32_t slot)
{
    uint64_t n = 0;

    while ((slot = pool_snapshot_before(pool, slot)) != NO_SLOT)
        n++;
    return n;
}

/* ---- Lists ---- */

static void add_row(struct table *table, json_t *list, struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);
    char created[32], id[UUID_TEXT], origin[2 * PX_NAME] = "-";
    uint64_t below =
        r->kind == PX_DISK ? count_snapshots(t->pool, slot) : pool_clones(t->pool, slot);

    print_time(r->created, created, sizeof(created));
    uuid_text(r->uuid, id);
    if (r->kind == PX_DISK && r->parent)
        pool_full_name(t->pool, r->parent - 1, origin);
    if (list) {
        json_t *row = json_pack(
            "{ss ss sI ss sI sb sb ss?}", "name", r->name, "id", id, "size", (json_int_t)r->size,
            "created", created, r->kind == PX_DISK ? "snapshots" : "clones", (json_int_t)below,
            "labelled", !!(r->flags & PX_LABELLED), "scheduled", !!(r->flags & PX_SCHEDULED),
            "origin", strcmp(origin, "-") == 0 ? NULL : origin);

        if (r->damaged)
            json_object_set_new(row, "damaged", json_integer((json_int_t)r->damaged));
        json_array_append_new(list, row);
        return;
    }
    table_cell(table, "%s", r->name);
    table_cell(table, "%s", human_bytes(r->size));
    table_cell(table, "%s", created);
    table_cell(table, "%" PRIu64, below);
    table_cell(table, "%s", r->kind == PX_DISK ? origin : r->flags & PX_LABELLED ? "yes" : "-");
}

/* Below the table, as there hardly ever are any. */
static void print_damaged(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = pool_record(pool, slot);

    if (r->damaged)
        printf("%s is damaged at block %" PRIu64
               " of the pool, and is not written (cvd rollback, cvd delete)\n",
               r->name, r->damaged);
}

static void finish_rows(struct table *table, json_t *list)
{
    if (list)
        print_json(list);
    else
        table_print(table, stdout);
    table_free(table);
}

int cmd_list(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    struct table *table = table_new("NAME >SIZE CREATED >SNAPSHOTS ORIGIN");
    json_t *list = o->json ? json_array() : NULL;

    for (uint32_t slot = 0; slot < pool_slots(t->pool); slot++)
        if (is_visible(pool_record(t->pool, slot), PX_DISK))
            add_row(table, list, t, slot);
    finish_rows(table, list);
    for (uint32_t slot = 0; !list && slot < pool_slots(t->pool); slot++)
        if (is_visible(pool_record(t->pool, slot), PX_DISK))
            print_damaged(t->pool, slot);
    return 0;
}

int cmd_snaps(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err)
{
    struct table *table = table_new("NAME >SIZE CREATED >CLONES LABELLED");
    json_t *list = o->json ? json_array() : NULL;

    for (uint32_t slot = pool_snapshot_before(t->pool, t->slot); slot != NO_SLOT;
         slot = pool_snapshot_before(t->pool, slot))
        add_row(table, list, t, slot);
    finish_rows(table, list);
    return 0;
}

/* ---- What differs ---- */

static int print_range(void *arg, uint64_t index, uint64_t count, bool mapped)
{
    json_t *list = arg;

    if (list)
        json_array_append_new(
            list, json_pack("{sI sI sb}", "offset", (json_int_t)(index << PX_BLOCK_SHIFT), "length",
                            (json_int_t)(count << PX_BLOCK_SHIFT), "data", mapped));
    else
        printf("%" PRIu64 " %" PRIu64 " %s\n", index << PX_BLOCK_SHIFT, count << PX_BLOCK_SHIFT,
               mapped ? "data" : "zero");
    return 0;
}

int cmd_diff(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    json_t *list = o->json ? json_array() : NULL;
    uint64_t moment = PRESENT;
    uint32_t older = NO_SLOT;
    int ret = o->from ? target_other_at(t, o->from, &older, &moment, err) : 0;

    if (moment == PRESENT && t->moment == PRESENT)
        ret = ret ?: pool_diff(t->pool, older, t->slot, print_range, list, err);
    else
        ret =
            ret ?: pool_diff_at(t->pool, older, moment, t->slot, t->moment, print_range, list, err);
    if (list && ret == 0)
        print_json(list);
    else
        json_decref(list);
    return ret;
}
