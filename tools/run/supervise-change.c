/* SPDX-License-Identifier: MIT */
/*
 * supervise-change.c - the chain of a disk is changed while VMs run.
 *
 * Theory of operation: the worker is asked first; what it can do within itself, it does, in about a
 * millisecond and with no other disk noticing. It answers "outside" where a new layer needs what a
 * confined process cannot get: a file, a socket, a process. Then a successor is started with the
 * new chain, as in an upgrade, and if that one cannot serve, one with the old chain takes over
 * again.
 *
 * The chain on record here is what workers are started with, so it is the one that survives a
 * crash; it changes when a worker has said that it serves the new one, and not before.
 */
#include "tools/run/supervise.h"

/** struct change_wanted - the chain of @disk is to go from @old to what a successor, started with
 *  @argv, serves. */
struct change_wanted {
    unsigned disk;
    struct chain_edit old;
    char **argv;
};

static json_int_t last_event(const struct supervise *s)
{
    json_t *before = events_since(s->events, 0, EVENTS_KEPT);
    json_t *last = json_array_get(before, json_array_size(before) - 1);
    json_int_t number = json_integer_value(json_object_get(last, "number"));

    json_decref(before);
    return number;
}

/* ---- The chain on record --------------------------------------------------------------------- */

static int take_names(struct chain_edit *edit, json_t *names, struct dt_error *err)
{
    json_t *name;
    size_t i;

    if (json_array_size(names) != edit->spec.count)
        return dt_fail(err, -EPROTO, "the worker serves another chain than it was told");
    json_array_foreach(names, i, name)
    {
        const char *text = json_string_value(name) ?: "", *hash = strrchr(text, '#');

        snprintf(edit->names[i], LAYER_NAME, "%.63s", text);
        edit->spec.layers[i].ordinal = hash ? (unsigned)strtoul(hash + 1, NULL, 10) : 1;
        if (edit->spec.layers[i].ordinal > LAYER_MAX_ORDINAL)
            return dt_fail(err, -EPROTO, "the worker names a layer '%.63s'", text);
    }
    return 0;
}

/* What the disk's layers are called only the worker knows. */
static int begin_edit(struct supervise *s, unsigned disk, struct chain_edit *edit,
                      struct dt_error *err)
{
    json_t *show = NULL, *names = json_array(), *layer;
    size_t i;
    int ret;

    *edit = (struct chain_edit){0};
    ret = ask_worker(s, json_pack("{ss ss}", "verb", "show", "device", s->config->disks[disk].name),
                     &show, err);
    json_array_foreach(json_object_get(show, "chain"), i, layer)
        json_array_append(names, json_object_get(layer, "name"));
    ret = ret ?: chain_parse(&edit->spec, s->config->disks[disk].options.chain, err);
    ret = ret ?: take_names(edit, names, err);
    json_decref(names);
    json_decref(show);
    return ret;
}

static bool has_layer(const struct chain_edit *edit, const char *name, size_t length)
{
    for (unsigned i = 0; i < edit->spec.count; i++)
        if (strlen(edit->names[i]) == length && memcmp(edit->names[i], name, length) == 0)
            return true;
    return false;
}

struct edits {
    const struct chain_edit *old, *now;
};

/* Is the layer gone, or was it given other parameters? */
static bool is_another(const void *arg, const char *layer)
{
    const struct chain_edit *old = ((const struct edits *)arg)->old,
                            *now = ((const struct edits *)arg)->now;
    bool same = has_layer(now, layer, strlen(layer));

    for (unsigned i = 0; same && i < now->spec.count; i++)
        for (unsigned k = 0; k < old->spec.count; k++)
            if (strcmp(now->names[i], layer) == 0 && strcmp(old->names[k], layer) == 0)
                same = layer_spec_equal(&now->spec.layers[i], &old->spec.layers[k]);
    return !same;
}

static void set_chain(struct supervise *s, unsigned disk, const struct chain_edit *now)
{
    struct disk_options *o = &s->config->disks[disk].options;

    free((char *)(uintptr_t)o->chain);
    o->chain = chain_format(&now->spec);
}

/* ---- In the worker ------------------------------------------------------------------------- */

static void commit(struct supervise *s, unsigned disk, const struct chain_edit *old,
                   const struct chain_edit *now)
{
    char **argv;

    set_chain(s, disk, now);
    change_note_rear(&s->config->disks[disk].rear, &old->spec, &now->spec);
    live_forget(s, s->config->disks[disk].name, is_another, &(struct edits){old, now});
    argv = supervise_worker_argv(s->config);
    supervisor_set_argv(s->supervisor, (const char *const *)argv);
    free_words(s->worker_argv);
    s->worker_argv = argv;
    events_add(s->events, s->config->disks[disk].name, "changed", NULL, "the chain is now: %s",
               s->config->disks[disk].options.chain);
}

/* ---- By a successor ------------------------------------------------------------------------ */

static void free_wanted(struct change_wanted *w)
{
    chain_spec_free(&w->old.spec);
    free_words(w->argv);
    free(w);
}

static int begin_successor(struct supervise *s, unsigned disk, struct chain_edit *old,
                           const struct chain_edit *now, json_t *result, struct dt_error *err)
{
    struct change_wanted *w = xcalloc(1, sizeof(*w));
    int ret;

    w->disk = disk;
    w->old = *old;
    old->spec = (struct chain_spec){0};
    set_chain(s, disk, now);
    w->argv = supervise_worker_argv(s->config);
    ret = supervisor_upgrade(s->supervisor, NULL, (const char *const *)w->argv, err);
    if (ret < 0) {
        set_chain(s, disk, &w->old);
        free_wanted(w);
        return ret;
    }
    s->wanted = w;
    json_object_set_new(result, "after", json_integer(last_event(s)));
    return 0;
}

/* State of layers that are gone must not come back with a name. */
static void forget_states(struct supervise *s, unsigned disk, const struct chain_edit *now)
{
    uint8_t *memory = supervisor_state(s->supervisor);
    const char *names[CHAIN_MAX_LAYERS];

    for (unsigned i = 0; i < now->spec.count; i++)
        names[i] = now->names[i];
    blob_forget((struct blob_area *)(void *)(memory + disk * blob_area_size()), names,
                now->spec.count);
}

/* The chain that its worker was started with, where that has died before it could be asked. */
static void edit_of_record(const struct supervise *s, unsigned disk, struct chain_edit *edit)
{
    struct dt_error err;

    *edit = (struct chain_edit){0};
    if (chain_parse(&edit->spec, s->config->disks[disk].options.chain, &err) < 0)
        log_error("%s: %s", s->config->disks[disk].name, err.text); /* it has served: cannot be */
    for (unsigned i = 0; i < edit->spec.count; i++) {
        const struct layer_spec *layer = &edit->spec.layers[i];

        if (layer->ordinal > 1)
            snprintf(edit->names[i], LAYER_NAME, "%.40s#%u", layer->name, layer->ordinal);
        else
            snprintf(edit->names[i], LAYER_NAME, "%.40s", layer->name);
    }
}

void supervise_changed(void *arg, const char *why)
{
    struct supervise *s = arg;
    struct change_wanted *w = TAKE_PTR(s->wanted);
    const char *device = s->config->disks[w->disk].name;
    struct chain_edit now = {0};
    struct dt_error err;

    if (why) {
        set_chain(s, w->disk, &w->old);
        events_add(s->events, device, "change-refused", NULL, "the chain stays as it was: %s", why);
    } else {
        /* What the layers of programs are called is known only now. */
        if (begin_edit(s, w->disk, &now, &err) == 0) {
            forget_states(s, w->disk, &now);
        } else {
            chain_spec_free(&now.spec);
            edit_of_record(s, w->disk, &now);
        }
        if (now.spec.count)
            commit(s, w->disk, &w->old, &now);
        chain_spec_free(&now.spec);
    }
    free_wanted(w);
}

const char *supervise_changing(const struct supervise *s)
{
    return s->wanted ? s->config->disks[s->wanted->disk].name : NULL;
}

void supervise_change_free(struct supervise *s)
{
    if (s->wanted)
        free_wanted(TAKE_PTR(s->wanted));
}

/* ---- The request --------------------------------------------------------------------------- */

static int ask(struct supervise *s, const char *device, const struct change_request *r,
               const struct chain_edit *edit, json_t **result, struct dt_error *err)
{
    _cleanup_free_ char *text = chain_format(&edit->spec);
    json_t *request = change_to_worker(r, device, text);

    if (!request)
        return dt_fail(err, -EINVAL, "the chain holds what is not UTF-8");
    return ask_worker(s, request, result, err);
}

int supervise_change(void *arg, const char *device, json_t *request, json_t **result,
                     struct dt_error *err)
{
    struct supervise *s = arg;
    unsigned disk = disk_index(s, device);
    struct change_request r;
    struct chain_edit edit, old;
    int ret = change_request_read(&r, request, err);

    if (ret < 0)
        return ret;
    if (disk == s->config->count)
        return dt_fail(err, -ENODEV, "no running device is named '%.64s'", device);
    if (supervisor_upgrading(s->supervisor))
        return dt_fail(err, -EBUSY, "an upgrade or another change is under way");
    ret = begin_edit(s, disk, &old, err);
    edit = old;
    chain_spec_copy(&edit.spec, &old.spec);
    if (ret == 0 && r.chain) {
        chain_spec_free(&edit.spec);
        ret = chain_parse(&edit.spec, r.chain, err);
    } else if (ret == 0) {
        ret = change_apply_steps(&edit, r.steps, err);
    }
    ret = ret ?: ask(s, device, &r, &edit, result, err);
    if (ret == 0 && !r.change.dry_run) {
        if (json_object_get(*result, "outside"))
            ret = begin_successor(s, disk, &old, &edit, *result, err);
        else if ((ret = take_names(&edit, json_object_get(*result, "names"), err)) == 0)
            commit(s, disk, &old, &edit);
    }
    if (ret < 0) {
        json_decref(*result);
        *result = NULL;
    }
    chain_spec_free(&edit.spec);
    chain_spec_free(&old.spec);
    return ret;
}
