/* SPDX-License-Identifier: MIT */
/*
 * change.c - requests to change a chain, as the control socket carries them: from a person as
 * steps, from a supervisor to its worker as the chain that is wanted.
 *
 * A supervisor believes its worker nothing about chains: it applies the steps to what it knows
 * itself, because the next worker opens that with rights that this one has no more.
 */
#include "tools/run/run.h"

#define MAX_STEPS 64u

int change_request_read(struct change_request *r, json_t *request, struct dt_error *err)
{
    json_t *patience = json_object_get(request, "patience_ns");

    *r = (struct change_request){.steps = json_object_get(request, "steps"),
                                 .chain = json_string_value(json_object_get(request, "chain"))};
    r->change.force = json_is_true(json_object_get(request, "force"));
    r->change.dry_run = json_is_true(json_object_get(request, "dry_run"));
    r->change.patience = CHANGE_PATIENCE_NS;
    if (patience && (!json_is_integer(patience) || json_integer_value(patience) < 0))
        return dt_fail(err, -EINVAL, "\"patience_ns\" is a number of nanoseconds");
    if (patience)
        r->change.patience = MIN((uint64_t)json_integer_value(patience), CHANGE_PATIENCE_MAX_NS);
    if (!r->chain == !r->steps)
        return dt_fail(err, -EINVAL, "the request needs either \"steps\" or \"chain\"");
    if (r->steps && (!json_is_array(r->steps) || json_array_size(r->steps) < 1 ||
                     json_array_size(r->steps) > MAX_STEPS))
        return dt_fail(err, -EINVAL, "\"steps\" is an array of 1 to %u texts", MAX_STEPS);
    return 0;
}

int change_apply_steps(struct chain_edit *edit, json_t *steps, struct dt_error *err)
{
    json_t *step;
    size_t i;

    json_array_foreach(steps, i, step)
    {
        const char *text = json_string_value(step);
        int ret = text ? chain_edit_step(edit, text, err)
                       : dt_fail(err, -EINVAL, "\"steps\" is an array of texts");

        if (ret < 0)
            return ret;
    }
    return 0;
}

json_t *change_to_worker(const struct change_request *r, const char *device, const char *chain)
{
    return json_pack("{ss ss ss sb sb sI}", "verb", "change", "device", device, "chain", chain,
                     "force", r->change.force, "dry_run", r->change.dry_run, "patience_ns",
                     (json_int_t)r->change.patience);
}

json_t *change_result(const struct change *change, const struct chain_edit *now)
{
    _cleanup_free_ char *text = chain_format(&now->spec);
    json_t *names = json_array(), *result;

    for (unsigned i = 0; i < now->spec.count; i++)
        json_array_append_new(names, json_string(now->names[i]));
    result = json_pack("{so ss? si si si sI sI sb}", "names", names, "chain", text, "kept",
                       (int)change->kept, "opened", (int)change->opened, "closed",
                       (int)change->closed, "drain_ns", (json_int_t)change->drain_ns, "switch_ns",
                       (json_int_t)change->switch_ns, "dry_run", change->dry_run);
    if (result && change->outside[0])
        json_object_set_new(result, "outside", json_string(change->outside));
    return result;
}

/* ---- The rear ------------------------------------------------------------------------------ */

static const struct layer_spec *back_of(const struct chain_spec *spec)
{
    return &spec->layers[spec->count - 1];
}

static bool is_rear(const struct layer_spec *back)
{
    return strcmp(back->name, "vhost-user") == 0;
}

void change_note_rear(char **rear, const struct chain_spec *old, const struct chain_spec *now)
{
    struct chain_spec one = {.count = 1};

    if (is_rear(back_of(now))) {
        free(TAKE_PTR(*rear));
    } else if (is_rear(back_of(old))) {
        one.layers = &old->layers[old->count - 1];
        free(*rear);
        *rear = chain_format(&one);
    }
}

void change_show_rear(json_t *show, const char *rear)
{
    json_t *front = json_object_get(show, "front");

    json_object_del(show, "rear");
    if (!rear)
        return;
    json_object_set_new(show, "rear", json_string(rear));
    json_object_set_new(front, "mode", json_string("intercept"));
    json_object_set_new(front, "mode_wanted", json_string("intercept"));
}

int change_device(struct device *dev, bool confined, json_t *request, json_t **result,
                  struct dt_error *err)
{
    struct change_request r;
    struct chain_edit edit;
    int ret = change_request_read(&r, request, err);

    if (ret < 0)
        return ret;
    r.change.confined = confined;
    device_edit(dev, &edit);
    if (r.chain) {
        chain_spec_free(&edit.spec);
        ret = chain_parse(&edit.spec, r.chain, err);
    } else {
        ret = change_apply_steps(&edit, r.steps, err);
    }
    ret = ret ?: device_change(dev, &edit.spec, &r.change, err);
    if (ret == 0 && !r.change.dry_run) {
        chain_spec_free(&edit.spec);
        device_edit(dev, &edit);
    }
    if (ret >= 0)
        *result = change_result(&r.change, &edit);
    chain_spec_free(&edit.spec);
    return MIN(ret, 0);
}
