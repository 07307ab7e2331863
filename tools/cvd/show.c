/* SPDX-License-Identifier: MIT */
/* show.c - the commands of cvd that only look: list, snaps, tree, du, diff. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>
#include <time.h>

void time_text(uint64_t ns, char *text, size_t size)
{
    time_t seconds = (time_t)(ns / DT_S(1));
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static bool visible(const struct px_record *r, enum px_kind kind)
{
    return r && r->kind == kind && !(r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN));
}

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
    char created[32], origin[2 * PX_NAME] = "-";
    uint64_t below =
        r->kind == PX_DISK ? count_snapshots(t->pool, slot) : pool_clones(t->pool, slot);

    time_text(r->created, created, sizeof(created));
    if (r->kind == PX_DISK && r->parent)
        pool_full_name(t->pool, r->parent - 1, origin);
    if (list) {
        json_array_append_new(list, json_pack("{ss sI ss sI sb ss}", "name", r->name, "size",
                                              (json_int_t)r->size, "created", created,
                                              r->kind == PX_DISK ? "snapshots" : "clones",
                                              (json_int_t)below, "labelled",
                                              !!(r->flags & PX_LABELLED), "origin", origin));
        return;
    }
    table_cell(table, "%s", r->name);
    table_cell(table, "%s", human_bytes(r->size));
    table_cell(table, "%s", created);
    table_cell(table, "%" PRIu64, below);
    table_cell(table, "%s", r->kind == PX_DISK ? origin : r->flags & PX_LABELLED ? "yes" : "-");
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
        if (visible(pool_record(t->pool, slot), PX_DISK))
            add_row(table, list, t, slot);
    finish_rows(table, list);
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

/* ---- The tree: figure 5.3, with snapshots that nothing forks from left out ---- */

static bool forks(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);

    return (r->flags & PX_LABELLED) || pool_clones(t->pool, slot);
}

/* What a thing stands on: the snapshot before it that is shown, or its disk's origin. */
static uint32_t stands_on(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);
    uint32_t at = pool_snapshot_before(t->pool, slot);

    while (at != NO_SLOT && !forks(t, at))
        at = pool_snapshot_before(t->pool, at);
    if (at != NO_SLOT)
        return at;
    if (r->kind == PX_SNAPSHOT)
        r = pool_record(t->pool, r->parent);
    return r->parent ? r->parent - 1 : NO_SLOT;
}

static bool shown(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);

    return visible(r, PX_DISK) || (visible(r, PX_SNAPSHOT) && forks(t, slot));
}

static void print_dot(const struct target *t)
{
    puts("digraph pool {\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];");
    for (uint32_t slot = 0; slot < pool_slots(t->pool); slot++) {
        char name[2 * PX_NAME], created[32];
        const struct px_record *r = pool_record(t->pool, slot);
        uint32_t on;

        if (!shown(t, slot))
            continue;
        pool_full_name(t->pool, slot, name);
        time_text(r->created, created, sizeof(created));
        printf("    n%u [shape=%s,label=\"%s\\n%s\"];\n", slot,
               r->kind == PX_DISK ? "box" : "ellipse", name, created);
        on = stands_on(t, slot);
        if (on != NO_SLOT)
            printf("    n%u -> n%u;\n", on, slot);
    }
    puts("}");
}

/**
 * struct branches - which things stand on which.
 * @first, @next: by slot, plus 1; 0 ends a list. The root's list is at the last place of @first.
 */
struct branches {
    uint32_t *first, *next;
};

static void print_branch(const struct target *t, const struct branches *b, uint32_t list,
                         unsigned depth)
{
    for (uint32_t slot = b->first[list]; slot; slot = b->next[slot - 1]) {
        char name[2 * PX_NAME];

        pool_full_name(t->pool, slot - 1, name);
        printf("%*s%s\n", (int)(4 * MIN(depth, 20u)), "", name);
        print_branch(t, b, slot - 1, depth + 1);
    }
}

static void print_text(const struct target *t)
{
    uint32_t n = pool_slots(t->pool);
    struct branches b = {xcalloc(n + 1, sizeof(uint32_t)), xcalloc(n + 1, sizeof(uint32_t))};

    for (uint32_t slot = n; slot-- > 0;) {
        uint32_t on;

        if (!shown(t, slot))
            continue;
        on = stands_on(t, slot);
        if (on == NO_SLOT)
            on = n;
        b.next[slot] = b.first[on];
        b.first[on] = slot + 1;
    }
    print_branch(t, &b, n, 0);
    free(b.first);
    free(b.next);
}

int cmd_tree(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    if (strcmp(o->format, "dot") == 0)
        print_dot(t);
    else if (strcmp(o->format, "text") == 0)
        print_text(t);
    else
        return dt_fail(err, -EINVAL,
                       "--format is text or dot ('cvd tree POOL --format dot | dot "
                       "-Tsvg' makes a picture)");
    return 0;
}

/* ---- Space ---- */

/* What the disk is charged for, with its snapshots. */
static void add_charge(json_t *row, const struct px_record *r)
{
    json_object_set_new(row, "charged", json_integer((json_int_t)(r->charged << PX_BLOCK_SHIFT)));
    json_object_set_new(row, "quota", json_integer((json_int_t)(r->quota << PX_BLOCK_SHIFT)));
}

static int add_usage(struct table *table, json_t *list, struct target *t, uint32_t slot,
                     struct dt_error *err)
{
    struct disk_usage u;
    char name[2 * PX_NAME];
    int ret = pool_usage(t->pool, slot, &u, err);

    if (ret < 0)
        return ret;
    pool_full_name(t->pool, slot, name);
    if (list) {
        json_t *row = json_pack("{ss sI sI sI}", "name", name, "mapped",
                                (json_int_t)(u.mapped << PX_BLOCK_SHIFT), "held",
                                (json_int_t)(u.held << PX_BLOCK_SHIFT), "held-maps",
                                (json_int_t)(u.held_nodes << PX_BLOCK_SHIFT));

        if (pool_record(t->pool, slot)->kind == PX_DISK)
            add_charge(row, pool_record(t->pool, slot));
        json_array_append_new(list, row);
        return 0;
    }
    table_cell(table, "%s", name);
    table_cell(table, "%s", human_bytes(u.mapped << PX_BLOCK_SHIFT));
    table_cell(table, "%s", human_bytes(u.held << PX_BLOCK_SHIFT));
    table_cell(table, "%s", human_bytes(u.held_nodes << PX_BLOCK_SHIFT));
    return 0;
}

int cmd_du(struct target *t, const struct cvd_options *o, int argc, char **argv,
           struct dt_error *err)
{
    struct table *table = table_new("NAME >MAPPED >HELD >MAPS");
    json_t *list = o->json ? json_array() : NULL;
    int ret = 0;

    for (uint32_t slot = t->slot; slot != NO_SLOT && ret == 0;
         slot = pool_snapshot_before(t->pool, slot))
        ret = add_usage(table, list, t, slot, err);
    ret = ret ?: history_usage(t, table, list, err);
    if (ret == 0) {
        const struct px_record *r = pool_record(t->pool, t->slot);

        finish_rows(table, list);
        if (!list && r->kind == PX_DISK)
            printf("charged %s of %s\n", human_bytes(r->charged << PX_BLOCK_SHIFT),
                   r->quota ? human_bytes(r->quota << PX_BLOCK_SHIFT) : "any");
        return 0;
    }
    json_decref(list);
    table_free(table);
    return ret;
}

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
        ret = ret ?: pool_diff_at(t->pool, older, moment, t->slot, t->moment, print_range, list, err);
    if (list && ret == 0)
        print_json(list);
    else
        json_decref(list);
    return ret;
}
