/* SPDX-License-Identifier: MIT */
/* changes.c - the commands of cvd that change the catalogue. */
#include "tools/cvd/cvd.h"

/* Whoever serves the pool does so for every command, before it answers. */
int cmd_sync(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    return t->live ? 0 : pool_sync(t->pool, err);
}

/* As an option, or as what comes after the disk. */
static int take_size(const struct cvd_options *o, int argc, char **argv, uint64_t *size,
                     struct dt_error *err)
{
    *size = o->size;
    if (argc > 1 && o->size)
        return dt_fail(err, -EINVAL, "two sizes: '%s' and --size", argv[1]);
    if (argc > 1 && parse_size(argv[1], size) < 0)
        return dt_fail(err, -EINVAL, "'%s' is not a size (such as 20G)", argv[1]);
    return *size ? 0 : dt_fail(err, -EINVAL, "--size is missing");
}

int cmd_create(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    char id[UUID_TEXT];
    uint64_t size;
    int ret = take_size(o, argc, argv, &size, err);

    ret = ret
              ?: pool_create_disk(t->pool, t->name, size,
                                  o->sector == UINT64_MAX ? 512 : (uint32_t)o->sector, err);
    if (ret < 0 || !o->json)
        return ret;
    ret = pool_moment(t->pool, t->name, &t->slot, &t->moment, err);
    if (ret < 0)
        return ret;
    uuid_text(pool_record(t->pool, t->slot)->uuid, id);
    print_json_to(t->out, json_pack("{ss ss ss}", "done", "create", "to", argv[0], "id", id));
    return 0;
}

int cmd_dup(struct target *t, const struct cvd_options *o, int argc, char **argv,
            struct dt_error *err)
{
    _cleanup_free_ char *name = NULL;
    int ret = target_new_name(t, argv[1], &name, err);

    ret = ret
              ?: pool_clone(t->pool, t->slot, name, MAX(o->count, (uint64_t)1), o->count > 0,
                            o->first, err);
    if (ret < 0 || !o->json)
        return ret;
    if (o->count)
        print_json_to(t->out,
                      json_pack("{ss ss ss sI sI}", "done", "dup", "to", argv[0], "name", name,
                                "first", (json_int_t)o->first, "count", (json_int_t)o->count));
    else
        print_json_to(t->out, json_pack("{ss ss ss}", "done", "dup", "to", argv[0], "name", name));
    return 0;
}

/* POOL/DISK@NAME, as rbd and zfs have it, or --name for all. @text stays as it is: who is told to try again comes with it once more.
 * @disk: owned by the caller. */
static int take_snapshot_name(const char *text, const char *for_all, char **disk, const char **name,
                              struct dt_error *err)
{
    const char *at = strchr(text, '@');

    if (at && for_all)
        return dt_fail(err, -EINVAL, "two names: '%s' and --name", at + 1);
    *name = at ? at + 1 : for_all;
    *disk = xasprintf("%.*s", (int)strcspn(text, "@"), text);
    return 0;
}

int cmd_snap(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    uint32_t disks[30] = {0}, slots[30] = {0};
    const char *names[30] = {0};
    json_t *list;
    int ret = 0;

    for (int i = 0; i < argc && ret == 0; i++) {
        _cleanup_free_ char *disk = NULL;

        ret = take_snapshot_name(argv[i], o->name, &disk, &names[i], err);
        ret = ret ?: target_other(t, disk, &disks[i], err);
        if (ret == 0 && !names[i] != !names[0])
            ret =
                dt_fail(err, -EINVAL, "a name for each of them, or for none: --name gives all one");
    }
    ret = ret ?: pool_snapshot(t->pool, disks, (unsigned)argc, names[0] ? names : NULL, slots, err);
    list = o->json && ret == 0 ? json_array() : NULL;
    for (int i = 0; i < argc && ret == 0; i++) {
        char name[2 * PX_NAME];

        pool_full_name(t->pool, slots[i], name);
        if (list)
            json_array_append_new(list, json_string(name));
        else
            fprintf(t->out, "%s\n", name);
    }
    if (list)
        print_json_to(t->out, list);
    return ret;
}

/* A disk has a snapshot taken first: labelling is how templates are made. */
int cmd_label(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err)
{
    return pool_label(t->pool, t->slot, argc > 1 ? argv[1] : NULL, err);
}

int cmd_unlabel(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err)
{
    return pool_unlabel(t->pool, t->slot, err);
}

int cmd_rename(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    _cleanup_free_ char *name = NULL;
    int ret = target_new_name(t, argv[1], &name, err);

    return ret ?: pool_rename(t->pool, t->slot, name, err);
}

int cmd_resize(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    bool more = argc > 1 && argv[1][0] == '+';
    uint64_t size, now = pool_record(t->pool, t->slot)->size;
    int ret;

    argv[argc - 1] += more;
    ret = take_size(o, argc, argv, &size, err);
    if (ret == 0 && more && __builtin_add_overflow(size, now, &size))
        ret = dt_fail(err, -EINVAL, "%s more is too much", argv[1]);
    return ret ?: pool_resize(t->pool, t->slot, size, err);
}

const char *const policies[] = {"hold", "fail", "drop-oldest", NULL};

static int print_quota(struct target *t, bool json)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    uint64_t quota = r->quota << PX_BLOCK_SHIFT, charged = r->charged << PX_BLOCK_SHIFT;

    if (json)
        print_json_to(t->out,
                      json_pack("{ss sI sI ss}", "name", r->name, "quota", (json_int_t)quota,
                                "charged", (json_int_t)charged, "policy", policies[r->policy]));
    else
        fprintf(t->out, "%s: %s of %s, then %s\n", r->name, human_bytes(charged),
                r->quota ? human_bytes(quota) : "any", policies[r->policy]);
    return 0;
}

int cmd_quota(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    uint64_t size = r->quota << PX_BLOCK_SHIFT;
    int policy = r->policy, ret;

    if (argc > 1 && strcmp(argv[1], "off") == 0)
        size = 0;
    else if (argc > 1 && (parse_size(argv[1], &size) < 0 || size == 0))
        return dt_fail(err, -EINVAL, "'%s' is no size (such as 20G), and not off", argv[1]);
    for (policy = o->policy ? 0 : policy; o->policy && policies[policy]; policy++)
        if (strcmp(o->policy, policies[policy]) == 0)
            break;
    if (policy >= PX_POLICIES)
        return dt_fail(err, -EINVAL, "--policy is hold, fail or drop-oldest");
    ret = argc > 1 || o->policy
              ? pool_set_quota(t->pool, t->slot, size, (enum px_policy)policy, err)
              : 0;
    return ret ?: print_quota(t, o->json);
}

int cmd_weight(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    char *end;
    unsigned long weight = strtoul(argv[1], &end, 10);

    if (*end || !*argv[1] || weight == 0 || weight > DISK_MAX_WEIGHT)
        return dt_fail(err, -EINVAL, "'%s' is no weight: 1 to %u; 100 is usual", argv[1],
                       DISK_MAX_WEIGHT);
    return pool_set_weight(t->pool, t->slot, (unsigned)weight, err);
}

int reclaim_all(struct target *t, struct dt_error *err)
{
    struct pool_info i;
    uint64_t before;
    int ret = pool_sync(t->pool, err);

    pool_info(t->pool, &i);
    before = i.used;
    while (ret == 0 && (ret = pool_reclaim(t->pool, err)) > 0) {
        pool_info(t->pool, &i);
        progress_amount("given back", (MAX(before, i.used) - i.used) << PX_BLOCK_SHIFT);
        ret = 0;
    }
    progress_end();
    return ret;
}

/* It is deleted when this is durable; the space comes back now, or where the pool is served in the
 * background, or after a crash when the pool is next open. */
static int reclaim(struct target *t, int ret, struct dt_error *err)
{
    if (ret < 0 || t->live)
        return ret;
    return reclaim_all(t, err);
}

int cmd_delete(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    int ret;

    if (t->first != NO_SLOT)
        ret = pool_delete_range(t->pool, t->first, t->slot, err);
    else
        ret = r->kind == PX_DISK ? pool_delete_disk(t->pool, t->slot, err)
                                 : pool_delete_snapshot(t->pool, t->slot, err);

    r = pool_record(t->pool, t->slot);
    if (ret == 0 && !o->json && r && r->flags & PX_HEADLESS)
        fprintf(
            t->out,
            "its labelled snapshots stay, and keep the name '%s' (cvd tree shows them, cvd rename "
            "gives them another)\n",
            r->name);
    return reclaim(t, ret, err);
}

int cmd_collapse(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err)
{
    uint32_t child;
    int ret = target_other(t, argv[1], &child, err);

    return reclaim(t, ret ?: pool_collapse(t->pool, t->slot, child, err), err);
}

int cmd_rollback(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err)
{
    const struct px_record *r = pool_record(t->pool, t->slot);

    if (r->kind != PX_SNAPSHOT)
        return dt_fail(err, -EINVAL, "say to which snapshot: POOL/DISK@SNAPSHOT");
    if (!o->newer)
        return pool_rollback(t->pool, r->parent, t->slot, err);
    return reclaim(t, pool_rollback_past(t->pool, r->parent, t->slot, err), err);
}
