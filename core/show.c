/* SPDX-License-Identifier: MIT */
/* show.c - a running device seen and changed from outside: show, set, do, statistics. */
#include "core/internal.h"
#include <stdarg.h>

void dt_reply(struct dt_reply *reply, const char *key, const char *fmt, ...)
{
    char text[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    json_object_set_new(reply->object, key, json_string(text));
}

void dt_reply_u64(struct dt_reply *reply, const char *key, uint64_t value)
{
    json_object_set_new(reply->object, key, json_integer((json_int_t)value));
}

/* ---- set ---------------------------------------------------------------------------------- */

struct set_call {
    struct dt_layer *layer;
    int index;
    const char *value;
    struct dt_error *err;
    int ret;
};

static void set_exclusive(void *arg)
{
    struct set_call *call = arg;
    struct dt_layer *layer = call->layer;
    const struct dt_param *p = &layer->ext->params[call->index];
    struct param_old old;

    call->ret = param_change(p, layer->data, call->value, &old, call->err);
    if (call->ret < 0)
        return;
    if (layer->ext->set)
        call->ret = layer->ext->set(layer, (unsigned)call->index, call->err);
    param_change_end(p, layer->data, &old, call->ret == 0);
}

int device_set(struct device *dev, const char *layer_name, const char *param, const char *value,
               struct dt_error *err)
{
    struct set_call call = {.value = value, .err = err};

    call.layer = device_find_layer(dev, layer_name, err);
    if (!call.layer)
        return -ENOENT;
    call.index = param_find(call.layer->ext->params, param);
    if (call.index < 0)
        return dt_fail(err, -EINVAL, "%s has no parameter '%s' (see 'devtap help %s')", layer_name,
                       param, call.layer->ext->name);
    if (!(call.layer->ext->params[call.index].flags & DT_PARAM_LIVE))
        return dt_fail(err, -EINVAL, "%s: '%s' cannot be changed while the device runs", layer_name,
                       param);
    device_exclusive(dev, set_exclusive, &call);
    if (call.ret < 0)
        dt_fail_prefix(err, "%s: %s", dev->name, layer_name);
    return call.ret;
}

/* ---- do ------------------------------------------------------------------------------------ */

struct do_call {
    struct dt_layer *layer;
    const struct dt_verb *verb;
    int argc;
    const char *const *argv;
    struct dt_reply reply;
    struct dt_error *err;
    int ret;
};

static void do_on_thread(void *arg)
{
    struct do_call *call = arg;

    call->layer->verb = call->verb->name;
    call->ret = call->verb->run(call->layer, call->argc, call->argv, &call->reply, call->err);
    call->layer->verb = NULL;
}

int device_do(struct device *dev, const char *layer_name, const char *verb, int argc,
              const char *const *argv, json_t **reply, struct dt_error *err)
{
    struct do_call call = {.argc = argc, .argv = argv, .err = err};

    call.layer = device_find_layer(dev, layer_name, err);
    if (!call.layer)
        return -ENOENT;
    for (call.verb = call.layer->ext->verbs; call.verb && call.verb->name; call.verb++)
        if (!strcmp(call.verb->name, verb))
            break;
    if (!call.verb || !call.verb->name)
        return dt_fail(err, -EINVAL, "%s has no verb '%s' (see 'devtap help %s')", layer_name, verb,
                       call.layer->ext->name);
    call.reply.object = json_object();
    loop_call(dev->loops[0], do_on_thread, &call);
    if (call.ret < 0) {
        json_decref(call.reply.object);
        dt_fail_prefix(err, "%s: %s %s", dev->name, layer_name, verb);
        return call.ret;
    }
    *reply = call.reply.object;
    return 0;
}

/* ---- show ------------------------------------------------------------------------------------ */

static json_t *info_json(const struct dt_block_info *i)
{
    return json_pack("{sI si si si si si si sb sb sb sb sb}", "bytes",
                     (json_int_t)(i->sectors << DT_SECTOR_SHIFT), "logical_block",
                     (int)i->logical_block, "physical_block", (int)i->physical_block, "optimal_io",
                     (int)i->optimal_io, "max_sectors", (int)i->max_sectors, "max_discard",
                     (int)i->max_discard, "max_write_zeroes", (int)i->max_write_zeroes, "read_only",
                     i->read_only, "rotational", i->rotational, "can_flush", i->can_flush,
                     "can_discard", i->can_discard, "can_write_zeroes", i->can_write_zeroes);
}

void disk_show(const struct device *dev, json_t *show)
{
    json_object_set_new(show, "disk", info_json(&dev->info));
}

static json_t *layer_json(const struct dt_layer *layer)
{
    const struct dt_param *params = layer->ext->params;
    json_t *settings = json_object();

    for (unsigned i = 0; params && params[i].name; i++) {
        _cleanup_free_ char *value = param_format(&params[i], layer->data);

        if (params[i].flags & DT_PARAM_SECRET)
            json_object_set_new(settings, params[i].name, json_string("(secret)"));
        else if (value)
            json_object_set_new(settings, params[i].name, json_string(value));
    }
    return json_pack("{ss ss sb so}", "name", layer->name, "extension", layer->ext->name, "back",
                     !!(layer->ext->flags & DT_BACK), "parameters", settings);
}

/* Does @text, for @p, mean the value that is in @data now? */
static bool means(const struct dt_param *p, const char *text, const void *data)
{
    _Alignas(max_align_t) char field[16] = {0};
    struct dt_param alone[2] = {*p};
    _cleanup_free_ char *now = param_format(p, data), *then = NULL;

    alone[0].offset = 0;
    if (text && param_apply(alone, field, text, NULL) == 0)
        then = param_format(alone, field);
    param_free_all(alone, field);
    return (!now && !then) || (now && then && strcmp(now, then) == 0);
}

static struct setting *find_setting(const struct layer_spec *layer, const char *key)
{
    for (unsigned i = 0; i < layer->count; i++)
        if (strcmp(layer->settings[i].key, key) == 0)
            return &layer->settings[i];
    return NULL;
}

static void write_setting(struct layer_spec *layer, const struct dt_param *p, const void *data)
{
    struct setting *s = find_setting(layer, p->name);
    char *value = param_format(p, data); /* no secrets */

    if (!value)
        return;
    if (!s) {
        layer->settings = reallocarray(layer->settings, layer->count + 1, sizeof(*s));
        CHECK(layer->settings);
        s = &layer->settings[layer->count++];
        *s = (struct setting){.key = xstrdup(p->name)};
    }
    free(s->value);
    s->value = value;
}

/* The chain as a person would write it to have what is there now. */
static json_t *written_json(const struct device *dev)
{
    struct chain_spec spec;
    char *text;
    json_t *json;

    chain_spec_copy(&spec, &dev->spec);
    for (unsigned i = 0; i < spec.count; i++) {
        const struct dt_layer *layer = dev->layers[i + 1];

        for (const struct dt_param *p = layer->ext->params; p && p->name; p++) {
            const struct setting *s = find_setting(&spec.layers[i], p->name);

            if (s ? (p->flags & DT_PARAM_SECRET) || !means(p, s->value, layer->data)
                  : (p->flags & DT_PARAM_LIVE) && !means(p, p->initial, layer->data))
                write_setting(&spec.layers[i], p, layer->data);
        }
    }
    text = chain_format(&spec);
    json = json_string(text);
    free(text);
    chain_spec_free(&spec);
    return json ?: json_null();
}

struct show_call {
    struct device *dev;
    json_t *json;
};

static void show_exclusive(void *arg)
{
    struct show_call *call = arg;
    struct device *dev = call->dev;
    json_t *layers = json_array();

    for (unsigned i = 1; i <= dev->nlayers; i++)
        json_array_append_new(layers, layer_json(dev->layers[i]));
    call->json = json_pack("{ss si so si}", "name", dev->name, "generation", (int)dev->generation,
                           "written", written_json(dev), "threads", (int)dev->threads);
    dev->class->show(dev, call->json);
    json_object_set_new(call->json, "chain", layers);
}

json_t *device_show(struct device *dev)
{
    struct show_call call = {.dev = dev};

    device_exclusive(dev, show_exclusive, &call);
    return call.json;
}

json_t *device_stats(struct device *dev)
{
    return stats_json(dev);
}

const char *request_layer(const struct request *r)
{
    const struct ctx *holder = READ_ONCE(r->holder);

    if (!holder)
        return NULL;
    return holder->pub.layer ? holder->pub.layer->name : "front";
}
