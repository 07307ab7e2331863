/* SPDX-License-Identifier: MIT */
/*
 * du.c - cvd du: what has the space, why it cannot come back, and which deletion brings back how much.
 *
 * Beside a process that writes to the pool, what a root reaches may be gone before it was read. Then that process is
 * asked to pin one, as a check does.
 */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

#define ANSWER_MS 5000
#define SHOWN     20u /* of what several have together */
#define NAMED     3u  /* of clones */

/** struct usage - of one disk. @list: with --json. @stats: who has what in use, from the process that serves it; or NULL. */
struct usage {
    struct target *t;
    struct pool_line line;
    json_t *list, *stats;
    bool json;
};

static json_int_t bytes(uint64_t blocks)
{
    return (json_int_t)(blocks << PX_BLOCK_SHIFT);
}

static const char *human(uint64_t blocks)
{
    return human_bytes(blocks << PX_BLOCK_SHIFT);
}

/* ---- What keeps it ---- */

static void add_pin(json_t *pins, const char *by, const char *who)
{
    json_array_append_new(pins, json_pack("{ss ss*}", "by", by, "name", who));
}

static void add_clones(const struct pool *pool, uint32_t slot, json_t *pins)
{
    unsigned left = pool_clones(pool, slot);

    for (uint32_t s = 0; left && s < pool_slots(pool); s++) {
        const struct px_record *r = pool_record(pool, s);

        if (!r || r->kind != PX_DISK || r->parent != slot + 1)
            continue;
        add_pin(pins, "clone", r->name);
        left--;
    }
}

/* Label, clones, and who has it in use: each must go before it can be deleted. */
static json_t *pins_of(const struct usage *u, uint32_t slot)
{
    const struct px_record *r = pool_record(u->t->pool, slot);
    json_t *pins = json_array(), *mount;
    char name[2 * PX_NAME];
    size_t i;

    pool_full_name(u->t->pool, slot, name);
    json_array_foreach(u->stats, i, mount)
    {
        if (strcmp(json_string_value(json_object_get(mount, "name")) ?: "", name) == 0)
            add_pin(pins, "mount", json_string_value(json_object_get(mount, "owner")));
    }
    if (r->flags & PX_LABELLED)
        add_pin(pins, "label", NULL);
    if (r->kind == PX_SNAPSHOT)
        add_clones(u->t->pool, slot, pins);
    return pins;
}

/* "in use by devtap, label, clones vm1, vm2 and 3 more": clones are the last of them. */
static char *pins_text(const json_t *pins)
{
    char *text = NULL;
    size_t size, i, clones = 0;
    FILE *out = open_memstream(&text, &size);
    const char *then = "";
    json_t *pin;

    CHECK(out);
    json_array_foreach(pins, i, pin)
    {
        const char *by = json_string_value(json_object_get(pin, "by"));
        const char *name = json_string_value(json_object_get(pin, "name")) ?: "";
        bool clone = strcmp(by, "clone") == 0;

        if (clone && clones++ >= NAMED)
            continue;
        fprintf(out, "%s%s%s", then,
                clone                      ? (clones == 1 ? "clones " : "")
                : strcmp(by, "mount") == 0 ? "in use by "
                                           : by,
                name);
        then = ", ";
    }
    if (clones > NAMED)
        fprintf(out, " and %zu more", clones - NAMED);
    fclose(out);
    CHECK(text);
    return text;
}

static json_t *ask_stats(const char *path)
{
    json_t *request = json_pack("{ss ss s[ssss]}", "verb", "run", "pool", path, "words", "pool",
                                "stats", path, "--json");
    json_t *result = NULL, *told = NULL;
    struct dt_error ignored;

    if (target_ask(path, request, ANSWER_MS, &result, &ignored) == 0)
        told = json_loads(json_string_value(json_object_get(result, "output")) ?: "", 0, NULL);
    json_decref(result);
    return told;
}

/* ---- What a deletion gives back ---- */

/* The disk and its snapshots back to the last that something pins: the number of rows that go. */
static uint32_t deletable(const struct usage *u)
{
    uint32_t n = 0;

    for (; n < u->line.rows_n; n++) {
        uint32_t slot = u->line.rows[n].slot;

        if ((pool_record(u->t->pool, slot)->flags & PX_LABELLED) || pool_clones(u->t->pool, slot))
            break;
    }
    return n;
}

/* What `cvd delete DISK` gives back, but for a history. */
static uint64_t given_back(const struct usage *u)
{
    uint32_t n = deletable(u);
    uint64_t blocks = 0, nodes = 0;

    if (n)
        (void)pool_held_between(&u->line, u->line.rows[n - 1].slot, u->line.rows[0].slot, &blocks,
                                &nodes);
    return blocks + nodes;
}

/* ---- One disk ---- */

static void add_charge(json_t *row, const struct px_record *r)
{
    json_object_set_new(row, "charged", json_integer(bytes(r->charged)));
    json_object_set_new(row, "quota", json_integer(bytes(r->quota)));
}

static void add_row(struct usage *u, struct table *table, const struct pool_line_row *row)
{
    const struct px_record *r = pool_record(u->t->pool, row->slot);
    const struct disk_usage *usage = &row->usage;
    json_t *pins = pins_of(u, row->slot);
    _cleanup_free_ char *text = pins_text(pins);
    char name[2 * PX_NAME];

    pool_full_name(u->t->pool, row->slot, name);
    if (u->json) {
        json_t *json =
            json_pack("{ss sI sI sI sI so}", "name", name, "mapped", bytes(usage->mapped), "shared",
                      bytes(usage->shared), "held", bytes(usage->held), "held-maps",
                      bytes(usage->held_nodes), "pinned-by", pins);

        if (r->kind == PX_DISK) {
            add_charge(json, r);
            json_object_set_new(json, "all", json_integer(bytes(u->line.blocks)));
            json_object_set_new(json, "all-maps", json_integer(bytes(u->line.nodes)));
            json_object_set_new(json, "delete", json_integer(bytes(given_back(u))));
        }
        json_array_append_new(u->list, json);
        return;
    }
    json_decref(pins);
    table_cell(table, "%s", name);
    table_cell(table, "%s", human(usage->mapped));
    table_cell(table, "%s", human(usage->shared));
    table_cell(table, "%s", human(usage->held));
    table_cell(table, "%s", human(usage->held_nodes));
    table_cell(table, "%s", *text ? text : "-");
}

static int by_size(const void *a, const void *b)
{
    const struct pool_together *x = a, *y = b;
    uint64_t n = x->blocks + x->nodes, m = y->blocks + y->nodes;

    return n < m ? 1 : n > m ? -1 : 0;
}

/* What the disk has itself does not come back by deleting snapshots. */
static bool of_snapshots(const struct usage *u, const struct pool_together *one)
{
    return pool_record(u->t->pool, u->line.rows[one->last].slot)->kind == PX_SNAPSHOT;
}

static void add_together(struct usage *u, struct table *table, const struct pool_together *one)
{
    const struct pool_line_row *rows = u->line.rows;
    char from[2 * PX_NAME], to[2 * PX_NAME];
    const char *last = pool_record(u->t->pool, rows[one->last].slot)->name;

    pool_full_name(u->t->pool, rows[one->first].slot, from);
    pool_full_name(u->t->pool, rows[one->last].slot, to);
    if (u->json) {
        json_array_append_new(u->list, json_pack("{so ss ss sI sI}", "name",
                                                 json_sprintf("%s%%%s", from, last), "from", from,
                                                 "to", to, "held", bytes(one->blocks), "held-maps",
                                                 bytes(one->nodes)));
        return;
    }
    table_cell(table, "%s%%%s", from, last);
    table_cell(table, "-");
    table_cell(table, "-");
    table_cell(table, "%s", human(one->blocks));
    table_cell(table, "%s", human(one->nodes));
    table_cell(table, "-");
}

/* The largest, of those that end with snapshot @from, a row, or an older one. */
static void add_all_together(struct usage *u, struct table *table, uint32_t from)
{
    uint32_t shown = 0, left = 0;
    uint64_t blocks = 0;

    qsort(u->line.together, u->line.together_n, sizeof(*u->line.together), by_size);
    for (uint32_t i = 0; i < u->line.together_n; i++) {
        const struct pool_together *one = &u->line.together[i];

        if (one->last < from || (!u->json && !of_snapshots(u, one)))
            continue;
        if (u->json || shown++ < SHOWN) {
            add_together(u, table, one);
        } else {
            left++;
            blocks += one->blocks + one->nodes;
        }
    }
    if (left == 0)
        return;
    table_cell(table, "(%" PRIu32 " more such)", left);
    table_cell(table, "-");
    table_cell(table, "-");
    table_cell(table, "%s", human(blocks));
    table_cell(table, "-");
    table_cell(table, "-");
}

/* Below the table: of a disk, what to do. */
static void advise(const struct usage *u)
{
    const struct px_record *r = pool_record(u->t->pool, u->t->slot);
    uint32_t n = deletable(u);

    if (u->json || r->kind != PX_DISK)
        return;
    printf("charged %s of %s\n", human(r->charged), r->quota ? human(r->quota) : "no quota");
    if (u->line.rows_n && pool_record(u->t->pool, u->line.rows[0].slot)->kind == PX_DISK)
        printf("deleting %s%s gives back %s%s\n", r->name,
               n == u->line.rows_n ? (n > 1 ? " and its snapshots" : "")
               : n > 1 ? ", with its snapshots back to the last that is labelled or cloned,"
                       : ", whose newest snapshot stays,",
               human(given_back(u)), r->log ? ", and what its history has" : "");
    if (r->past_keep)
        printf("it keeps a history of %u s: what a deleted snapshot has comes back when that has "
               "passed it\n",
               (unsigned)r->past_keep);
}

static void finish(struct table *table, json_t *list, bool json)
{
    if (json)
        print_json(list);
    else
        table_print(table, stdout);
}

static int du_disk(struct usage *u, struct dt_error *err)
{
    const struct px_record *r = pool_record(u->t->pool, u->t->slot);
    struct table *table = table_new("NAME >MAPPED >SHARED >HELD >MAPS PINNED-BY");
    uint32_t disk = r->kind == PX_DISK ? u->t->slot : r->parent, from = 0;
    int ret;

    u->line.mapped = true;
    ret = pool_line(u->t->pool, disk, &u->line, err);
    progress_end();
    while (ret == 0 && r->kind == PX_SNAPSHOT && from < u->line.rows_n &&
           u->line.rows[from].slot != u->t->slot)
        from++;
    for (uint32_t i = from; ret == 0 && i < u->line.rows_n; i++)
        add_row(u, table, &u->line.rows[i]);
    if (ret == 0)
        add_all_together(u, table, from);
    ret = ret ?: history_usage(u->t, table, u->json ? u->list : NULL, err);
    if (ret == 0) {
        finish(table, json_incref(u->list), u->json);
        advise(u);
    }
    table_free(table);
    return ret;
}

/* ---- Several snapshots ---- */

static int du_range(struct usage *u, struct dt_error *err)
{
    uint32_t disk = pool_record(u->t->pool, u->t->slot)->parent;
    uint64_t blocks, nodes;
    int ret = pool_line(u->t->pool, disk, &u->line, err);

    progress_end();
    if (ret < 0)
        return ret;
    if (pool_held_between(&u->line, u->t->first, u->t->slot, &blocks, &nodes) < 0)
        return dt_fail(err, -EINVAL, "%s: the first is not the older one", u->t->name);
    if (u->json)
        print_json(json_pack("{ss sI sI}", "name", u->t->name, "held", bytes(blocks), "held-maps",
                             bytes(nodes)));
    else
        printf("deleting %s gives back %s\n", u->t->name, human(blocks + nodes));
    return 0;
}

/* ---- A pool ---- */

/** struct disk_row - of cvd du POOL, in blocks with their maps. @own: what the disk itself has. */
struct disk_row {
    uint32_t slot;
    uint64_t all, own, history, back;
};

static int by_all(const void *a, const void *b)
{
    const struct disk_row *x = a, *y = b;

    return x->all < y->all ? 1 : x->all > y->all ? -1 : 0;
}

static int count_disk(struct usage *u, struct disk_row *row, struct dt_error *err)
{
    const struct px_record *r = pool_record(u->t->pool, row->slot);
    struct pool_past past = {0};
    int ret = pool_line(u->t->pool, row->slot, &u->line, err);

    if (ret == 0 && r->log)
        ret = pool_past_usage(u->t->pool, row->slot, &past, err);
    if (ret < 0)
        return ret;
    row->history = past.held + past.maps;
    row->all = u->line.blocks + u->line.nodes + row->history;
    if (u->line.rows_n && u->line.rows[0].slot == row->slot) {
        row->own = u->line.rows[0].usage.held + u->line.rows[0].usage.held_nodes;
        row->back = given_back(u) + row->history;
    }
    for (uint32_t i = 0; i < u->line.together_n; i++)
        if (!of_snapshots(u, &u->line.together[i]))
            row->own += u->line.together[i].blocks + u->line.together[i].nodes;
    pool_line_free(&u->line);
    u->line = (struct pool_line){0};
    return 0;
}

static void add_disk(const struct usage *u, struct table *table, const struct disk_row *row)
{
    const struct px_record *r = pool_record(u->t->pool, row->slot);
    uint64_t snapshots = row->all - row->own - row->history;
    bool gone = r->flags & PX_HEADLESS;

    if (u->json) {
        json_array_append_new(
            u->list,
            json_pack("{ss sI sI sI sI sI sI sb}", "name", r->name, "size", (json_int_t)r->size,
                      "all", bytes(row->all), "own", bytes(row->own), "snapshots", bytes(snapshots),
                      "history", bytes(row->history), "delete", bytes(row->back), "deleted", gone));
        return;
    }
    table_cell(table, "%s%s", r->name, gone ? " (deleted)" : "");
    table_cell(table, "%s", human_bytes(r->size));
    table_cell(table, "%s", human(row->all));
    table_cell(table, "%s", human(row->own));
    table_cell(table, "%s", human(snapshots));
    table_cell(table, "%s", human(row->history));
    table_cell(table, "%s", human(row->back));
}

/* What no disk has: the journal, catalogue and maps of the pool; what is on its way; what a check keeps. */
static void tell_rest(struct usage *u, uint64_t disks)
{
    json_t *pin = u->t->sock > 0 ? NULL : pool_pin_ask(u->t->path); /* else it is our own */
    struct pool_info i;
    uint64_t rest;

    pool_info(u->t->pool, &i);
    rest = i.used > disks ? i.used - disks : 0;
    if (u->json) {
        print_json(json_pack("{sO sI sI sI sI sI sI so*}", "disks", u->list, "used", bytes(i.used),
                             "free", bytes(i.free), "reserve", bytes(MIN(i.reserve, i.free)),
                             "disks-have", bytes(disks), "rest", bytes(rest), "being-deleted",
                             (json_int_t)i.dying, "pin", pin));
        return;
    }
    printf("of %s, %s are used: %s by these, ", human(i.blocks), human(i.used), human(disks));
    printf("%s by the pool itself%s; ", human(rest),
           i.dying ? " and by what is being given back" : "");
    printf("%s are free, of which deletions have %s\n", human(i.free),
           human(MIN(i.reserve, i.free)));
    if (pin)
        pool_pin_print(pin);
    json_decref(pin);
}

static int du_pool(struct usage *u, struct dt_error *err)
{
    struct table *table = table_new("NAME >SIZE >ALL >DISK >SNAPSHOTS >HISTORY >DELETE");
    uint32_t slots = pool_slots(u->t->pool), n = 0;
    struct disk_row *rows = xcalloc(slots + 1ull, sizeof(*rows));
    uint64_t disks = 0;
    int ret = 0;

    for (uint32_t slot = 0; slot < slots && ret == 0; slot++) {
        const struct px_record *r = pool_record(u->t->pool, slot);

        progress("du", slot, slots);
        if (!is_visible(r, PX_DISK) && !(r && r->kind == PX_DISK && r->flags & PX_HEADLESS))
            continue;
        rows[n].slot = slot;
        ret = count_disk(u, &rows[n], err);
        disks += rows[n++].all;
    }
    progress_end();
    qsort(rows, n, sizeof(*rows), by_all);
    for (uint32_t i = 0; i < n && ret == 0; i++)
        add_disk(u, table, &rows[i]);
    if (ret == 0 && !u->json)
        table_print(table, stdout);
    if (ret == 0)
        tell_rest(u, disks);
    table_free(table);
    free(rows);
    return ret;
}

/* ---- The command ---- */

static void counted(void *arg, uint64_t done, uint64_t total)
{
    progress("du", done, total);
}

static int du(struct target *t, const struct cvd_options *o, struct dt_error *err)
{
    struct usage u = {.t = t, .json = o->json, .list = json_array(), .stats = ask_stats(t->path)};
    int ret;

    if (t->name)
        u.line.progress = counted;
    ret = !t->name ? du_pool(&u, err) : t->first != NO_SLOT ? du_range(&u, err) : du_disk(&u, err);
    pool_line_free(&u.line);
    json_decref(u.list);
    json_decref(u.stats);
    return ret;
}

int cmd_du(struct target *t, const struct cvd_options *o, int argc, char **argv,
           struct dt_error *err)
{
    int ret = du(t, o, err), pinned;

    if (ret != -EBADMSG)
        return ret;
    pinned = target_look_pinned(t, err);
    if (pinned < 0)
        return pinned;
    return pinned ? du(t, o, err) : ret;
}
