/* SPDX-License-Identifier: MIT */
/* history.c - cvd history, cvd log, and what a history adds to cvd du. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

#define FINE_TIME 40
#define UNTOLD    UINT64_MAX
#define LEAST     ((uint64_t)1 << 20) /* of a limit: anchors are taken after an eighth of it */

/* With microseconds: many writes are made in a second. */
static void fine_time(uint64_t ns, char *text)
{
    char whole[32];

    print_time(ns, whole, sizeof(whole));
    snprintf(text, FINE_TIME, "%.*s.%06uZ", (int)strcspn(whole, "Z"), whole,
             (unsigned)(ns % DT_S(1) / 1000));
}

/* ---- history ---- */

static int tell_history(struct target *t, bool json, struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    struct pool_past past;
    char begin[FINE_TIME];
    int ret = pool_past(t->pool, t->slot, &past, err);

    if (ret < 0)
        return ret;
    fine_time(past.begin, begin);
    if (json) {
        json_t *out = json_pack("{sI}", "keep", (json_int_t)past.keep);
        char *text;

        if (past.keep)
            json_object_update_new(
                out, json_pack("{sI sI ss sI sI}", "first", (json_int_t)past.first, "last",
                               (json_int_t)past.last, "begin", begin, "most", (json_int_t)past.most,
                               "counted", (json_int_t)past.counted));
        text = json_dumps(out, JSON_INDENT(2));
        fprintf(t->out, "%s\n", text);
        free(text);
        json_decref(out);
    } else if (past.keep) {
        fprintf(t->out,
                "%s keeps %" PRIu32 " s: the states after writes %" PRIu64 " to %" PRIu64
                ", since %s\n",
                r->name, past.keep, past.first, past.last, begin);
        if (past.most)
            fprintf(t->out, "%s of at most %s\n", human_bytes(past.counted),
                    human_bytes(past.most));
    } else {
        fprintf(t->out, "%s has no history\n", r->name);
    }
    return 0;
}

int cmd_history(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    struct pool_past past;
    uint64_t ns = 0, most = o->most;
    int ret;

    if (r->kind != PX_DISK)
        return dt_fail(err, -EINVAL, "only a disk has a history");
    if (argc == 1 && o->most != UNTOLD)
        return dt_fail(err, -EINVAL, "say how long it is kept, too, such as 24h");
    if (argc == 1)
        return tell_history(t, o->json, err);
    if (most != UNTOLD && most && most < LEAST)
        return dt_fail(err, -EINVAL, "--most is at least 1M, or 0 for no limit");
    if (strcmp(argv[1], "off") &&
        (parse_duration(argv[1], &ns) < 0 || ns < DT_S(1) || ns / DT_S(1) > UINT32_MAX))
        return dt_fail(err, -EINVAL, "'%s' is neither off nor a time from 1s on, such as 24h",
                       argv[1]);
    /* One that is damaged can be turned off. */
    ret = ns && most == UNTOLD ? pool_past(t->pool, t->slot, &past, err) : 0;
    if (most == UNTOLD)
        most = ns ? past.most : 0;
    ret = ret ?: pool_history(t->pool, t->slot, (uint32_t)(ns / DT_S(1)), most, err);
    /* Where the pool is served, what is not kept any longer comes back in the background. */
    if (ret == 0 && ns == 0 && !t->live)
        ret = reclaim_all(t, err);
    return ret == 0 && o->json ? tell_history(t, true, err) : ret;
}

int history_usage(struct target *t, struct table *table, json_t *list, struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    struct pool_past past;
    int ret;

    if (r->kind != PX_DISK || !r->log)
        return 0;
    ret = pool_past_usage(t->pool, t->slot, &past, err);
    if (ret < 0)
        return ret;
    if (list) {
        json_array_append_new(
            list,
            json_pack("{ss+ sI sI sI sI sI}", "name", r->name, "@{history}", "entries",
                      (json_int_t)past.entries, "held", (json_int_t)(past.held << PX_BLOCK_SHIFT),
                      "held-maps", (json_int_t)(past.maps << PX_BLOCK_SHIFT), "most",
                      (json_int_t)past.most, "counted", (json_int_t)past.counted));
        return 0;
    }
    table_cell(table, "%s@{history}", r->name);
    table_cell(table, "-");
    table_cell(table, "-");
    table_cell(table, "%s", human_bytes(past.held << PX_BLOCK_SHIFT));
    table_cell(table, "%s", human_bytes(past.maps << PX_BLOCK_SHIFT));
    if (past.most)
        table_cell(table, "%s counted of %s", human_bytes(past.counted), human_bytes(past.most));
    else
        table_cell(table, "-");
    return 0;
}

/* ---- log ---- */

struct log {
    struct target *t;
    struct table *table;
    json_t *list;
    uint64_t sector;
};

static int tell_write(void *arg, const struct pool_write *w)
{
    struct log *l = arg;
    char when[FINE_TIME];

    fine_time(w->time, when);
    if (l->list) {
        json_array_append_new(l->list, json_pack("{ss sI ss sI sI}", "time", when, "write",
                                                 (json_int_t)w->number, "owner", w->owner, "offset",
                                                 (json_int_t)(w->index << PX_BLOCK_SHIFT), "length",
                                                 (json_int_t)(w->count << PX_BLOCK_SHIFT)));
        return 0;
    }
    table_cell(l->table, "%s", when);
    table_cell(l->table, "%" PRIu64, w->number);
    table_cell(l->table, "%s", w->owner);
    table_cell(l->table, "%" PRIu64 " + %" PRIu64, w->index << PX_BLOCK_SHIFT,
               w->count << PX_BLOCK_SHIFT);
    return 0;
}

static void tell_between(struct log *l, uint32_t before, uint32_t after)
{
    char from[2 * PX_NAME] = "", to[2 * PX_NAME];

    if (before != NO_SLOT)
        pool_full_name(l->t->pool, before, from);
    pool_full_name(l->t->pool, after, to);
    if (l->list) {
        json_array_append_new(l->list, json_pack("{ss ss}", "after", from, "before", to));
        return;
    }
    table_cell(l->table, "before %s", to);
    table_cell(l->table, "-");
    table_cell(l->table, "-");
    table_cell(l->table, *from ? "after %s" : "-", from);
}

/* A block's birth tells between which snapshots it was written; the disk's own last part is the
 * history's. */
static int tell_snapshots(struct log *l, uint64_t until, struct dt_error *err)
{
    struct pool *pool = l->t->pool;
    uint32_t line[2] = {l->t->slot, NO_SLOT};
    uint64_t index = l->sector >> (PX_BLOCK_SHIFT - DT_SECTOR_SHIFT);
    int ret = 0;

    for (; ret == 0 && line[0] != NO_SLOT; line[0] = line[1]) {
        uint64_t now, before = 0;

        line[1] = pool_snapshot_before(pool, line[0]);
        ret = pool_birth(pool, line[0], index, &now, err);
        if (ret == 0 && line[1] != NO_SLOT)
            ret = pool_birth(pool, line[1], index, &before, err);
        if (ret == 0 && now != before &&
            (line[1] == NO_SLOT || pool_record(pool, line[1])->created < until))
            tell_between(l, line[1], line[0]);
    }
    return ret;
}

int cmd_log(struct target *t, const struct cvd_options *o, int argc, char **argv,
            struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    struct log l = {.t = t,
                    .table = table_new("TIME >WRITE OWNER BYTES"),
                    .list = o->json ? json_array() : NULL,
                    .sector = o->sector};
    uint64_t index = o->sector >> (PX_BLOCK_SHIFT - DT_SECTOR_SHIFT), end = index + 1;
    bool all = o->sector == UINT64_MAX;
    struct pool_past past;
    int ret = 0;

    if (all)
        index = 0, end = UINT64_MAX;
    else if (o->sector >= r->size >> DT_SECTOR_SHIFT)
        ret = dt_fail(err, -EINVAL, "%s has %" PRIu64 " sectors of 512 bytes", t->name,
                      r->size >> DT_SECTOR_SHIFT);
    ret = ret ?: pool_past(t->pool, t->slot, &past, err);
    if (!all)
        ret = ret ?: tell_snapshots(&l, past.keep ? past.begin : UINT64_MAX, err);
    ret = ret ?: pool_past_writes(t->pool, t->slot, index, end, tell_write, &l, err);
    if (l.list && ret == 0)
        print_json(json_incref(l.list));
    else if (ret == 0)
        table_print(l.table, stdout);
    json_decref(l.list);
    table_free(l.table);
    return ret;
}
