/* SPDX-License-Identifier: MIT */
/* info.c - cvd info: what a pool, a disk or a snapshot is, as rbd and qemu-img tell it. What it occupies: cvd du. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

static uint64_t count_snapshots(const struct pool *pool, uint32_t slot)
{
    uint64_t n = 0;

    while ((slot = pool_snapshot_before(pool, slot)) != NO_SLOT)
        n++;
    return n;
}

static json_t *describe_disk(const struct target *t, const struct px_record *r)
{
    char origin[2 * PX_NAME] = "";
    json_t *json;

    if (r->parent)
        pool_full_name(t->pool, r->parent - 1, origin);
    json = json_pack("{sI sI sI ss si sb sb}", "snapshots",
                     (json_int_t)count_snapshots(t->pool, t->slot), "charged",
                     (json_int_t)(r->charged << PX_BLOCK_SHIFT), "quota",
                     (json_int_t)(r->quota << PX_BLOCK_SHIFT), "policy", policies[r->policy],
                     "weight", (int)(r->weight ?: DISK_WEIGHT), "scheduled", r->every > 0,
                     "deleted", !!(r->flags & PX_HEADLESS));
    if (*origin)
        json_object_set_new(json, "origin", json_string(origin));
    if (r->past_keep)
        json_object_set_new(json, "history", json_integer((json_int_t)r->past_keep));
    if (r->damaged)
        json_object_set_new(json, "damaged", json_integer((json_int_t)r->damaged));
    return json;
}

static json_t *describe(const struct target *t)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    char name[2 * PX_NAME], created[32], id[UUID_TEXT];
    json_t *json;

    pool_full_name(t->pool, t->slot, name);
    print_time(r->created, created, sizeof(created));
    uuid_text(r->uuid, id);
    json = json_pack("{ss ss ss ss sI si ss}", "name", name, "kind",
                     r->kind == PX_DISK ? "disk" : "snapshot", "pool", t->path, "id", id, "size",
                     (json_int_t)r->size, "sector", (int)r->sector, "created", created);
    if (r->kind == PX_DISK)
        json_object_update_new(json, describe_disk(t, r));
    else
        json_object_update_new(json, json_pack("{sb sb sI}", "labelled", !!(r->flags & PX_LABELLED),
                                               "scheduled", !!(r->flags & PX_SCHEDULED), "clones",
                                               (json_int_t)pool_clones(t->pool, t->slot)));
    return json;
}

static bool is_size(const char *key)
{
    return strcmp(key, "size") == 0 || strcmp(key, "charged") == 0 || strcmp(key, "quota") == 0;
}

static void print_value(const char *key, const json_t *value)
{
    json_int_t n = json_integer_value(value);

    printf("%-10s ", key);
    if (json_is_string(value))
        puts(json_string_value(value));
    else if (json_is_boolean(value))
        puts(json_is_true(value) ? "yes" : "no");
    else if (strcmp(key, "quota") == 0 && n == 0)
        puts("none");
    else if (is_size(key))
        puts(human_bytes((uint64_t)n));
    else
        printf("%" JSON_INTEGER_FORMAT "%s\n", n, strcmp(key, "history") == 0 ? " s" : "");
}

int cmd_info(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    json_t *json, *value;
    const char *key;

    if (!t->name)
        return cmd_pool_info(t, o, argc, argv, err);
    json = describe(t);
    if (o->json) {
        print_json(json);
        return 0;
    }
    json_object_foreach(json, key, value) print_value(key, value);
    json_decref(json);
    return 0;
}
