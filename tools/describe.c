/* SPDX-License-Identifier: MIT */
/* describe.c - what an extension declares of itself, as JSON and as a page to read. */
#include "tools/describe.h"

static const char *data_name(uint8_t data)
{
    static const char *const names[] = {"none", "peek", "stable", "transform"};

    return data < ARRAY_SIZE(names) ? names[data] : "?";
}

/* A bound as a person would write it: in the parameter's own unit. */
static char *bound_text(const struct dt_param *p, uint64_t bound)
{
    if (p->type == DT_PARAM_SIZE)
        return format_size(bound);
    return p->type == DT_PARAM_DURATION ? format_duration(bound) : format_count(bound);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static void set_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, text ? json_string(text) : json_null());
}

static json_t *param_json(const struct dt_param *p)
{
    json_t *object =
        json_pack("{ss ss sb sb sb}", "name", p->name, "type", param_type_name(p), "required",
                  !!(p->flags & DT_PARAM_REQUIRED), "live", !!(p->flags & DT_PARAM_LIVE), "secret",
                  !!(p->flags & DT_PARAM_SECRET));

    set_text(object, "unit", p->unit);
    set_text(object, "default", p->initial);
    set_text(object, "help", p->help);
    if (p->max) {
        _cleanup_free_ char *min = bound_text(p, p->min), *max = bound_text(p, p->max);

        set_text(object, "min", min);
        set_text(object, "max", max);
    }
    if (p->choices) {
        json_t *choices = json_array();

        for (unsigned i = 0; p->choices[i]; i++)
            json_array_append_new(choices, json_string(p->choices[i]));
        json_object_set_new(object, "choices", choices);
    }
    return object;
}

json_t *describe_json(const struct dt_block_ext *ext)
{
    const struct dt_net_ext *net = registry_net(ext);
    json_t *object =
        json_pack("{ss ss ss ss sb}", "name", ext->name, "kind",
                  ext->flags & DT_BACK ? "back" : "extension", "class", net ? "net" : "disk",
                  "summary", ext->summary, "per_queue", !!(ext->flags & DT_PER_QUEUE));
    json_t *params = json_array(), *counters = json_array(), *verbs = json_array();

    if (net)
        json_object_update_new(object,
                               json_pack("{sb sb}", "super", !!(net->takes & DT_OFFLOAD_SUPER),
                                         "partial_csum", !!(net->takes & DT_OFFLOAD_CSUM)));
    else
        json_object_update_new(object, json_pack("{sb ss ss}", "content_bearing",
                                                 !!(ext->flags & DT_CONTENT_BEARING), "read_data",
                                                 data_name(ext->read_data), "write_data",
                                                 data_name(ext->write_data)));
    set_text(object, "help", ext->help);
    for (const struct dt_param *p = ext->params; p && p->name; p++)
        json_array_append_new(params, param_json(p));
    for (const struct dt_counter *c = ext->counters; c && c->name; c++)
        json_array_append_new(
            counters, json_pack("{ss ss ss}", "name", c->name, "unit", c->unit, "help", c->help));
    for (const struct dt_verb *v = ext->verbs; v && v->name; v++)
        json_array_append_new(verbs, json_pack("{ss ss ss}", "name", v->name, "args", v->args ?: "",
                                               "help", v->help));
    json_object_set_new(object, "parameters", params);
    json_object_set_new(object, "counters", counters);
    json_object_set_new(object, "commands", verbs);
    return object;
}

json_t *describe_verb_json(const struct verb *verb)
{
    json_t *options = json_array(), *object;

    for (const struct option_group *g = verb->groups; g->title; g++)
        for (const struct dt_param *p = g->options; p->name; p++)
            json_array_append_new(options, param_json(p));
    object = json_pack("{ss ss ss ss so}", "name", verb->name, "kind", "verb", "args", verb->args,
                       "summary", verb->summary, "options", options);
    set_text(object, "help", verb->help);
    return object;
}

/* ---- For people ---------------------------------------------------------------------------- */

static void print_choices(const struct dt_param *p, FILE *out)
{
    for (unsigned i = 0; p->choices[i]; i++)
        fprintf(out, "%s%s", i ? "|" : "", p->choices[i]);
}

static void print_param(const struct dt_param *p, FILE *out)
{
    fprintf(out, "  %s=", p->name);
    if (p->choices)
        print_choices(p, out);
    else
        fprintf(out, "<%s>", param_type_name(p));
    if (p->unit)
        fprintf(out, " (%s)", p->unit);
    if (p->flags & DT_PARAM_REQUIRED)
        fputs(", required", out);
    else if (p->initial)
        fprintf(out, ", default %s", p->initial);
    if (p->flags & DT_PARAM_LIVE)
        fputs(", live", out);
    if (p->max) {
        _cleanup_free_ char *min = bound_text(p, p->min), *max = bound_text(p, p->max);

        fprintf(out, ", %s to %s", min, max);
    }
    putc('\n', out);
    print_wrapped(out, 6, p->help);
}

void describe_print_params(const struct dt_param *params, FILE *out)
{
    if (!params || !params->name)
        return;
    fputs("\nparameters:\n", out);
    for (const struct dt_param *p = params; p->name; p++)
        print_param(p, out);
}

static void print_counters(const struct dt_block_ext *ext, FILE *out)
{
    if (!ext->counters || !ext->counters->name)
        return;
    fputs("\ncounters (devtap stats):\n", out);
    for (const struct dt_counter *c = ext->counters; c->name; c++) {
        fprintf(out, "  %s (%s)\n", c->name, c->unit);
        print_wrapped(out, 6, c->help);
    }
}

static void print_commands(const struct dt_block_ext *ext, FILE *out)
{
    if (!ext->verbs || !ext->verbs->name)
        return;
    fprintf(out, "\ncommands (devtap do DEVICE %s ...):\n", ext->name);
    for (const struct dt_verb *v = ext->verbs; v->name; v++) {
        fprintf(out, "  %s%s%s\n", v->name, v->args && *v->args ? " " : "", v->args ?: "");
        print_wrapped(out, 6, v->help);
    }
}

static void print_net_rights(const struct dt_net_ext *net, FILE *out)
{
    fprintf(out, "\nsuper-frames: %s\npartial checksums: %s\nthreads: %s\n",
            net->takes & DT_OFFLOAD_SUPER ? "taken" : "cut into segments before",
            net->takes & DT_OFFLOAD_CSUM ? "taken" : "completed before",
            net->flags & DT_PER_QUEUE ? "per queue" : "one for each device");
}

static void print_rights(const struct dt_block_ext *ext, FILE *out)
{
    static const char *const meanings[] = {
        [DT_DATA_NONE] = "never looked at",
        [DT_DATA_PEEK] = "the guest's own buffer",
        [DT_DATA_STABLE] = "a private copy is taken",
        [DT_DATA_TRANSFORM] = "changed, in a private copy",
    };

    fprintf(out, "\ndata read by the guest: %s\ndata written by the guest: %s\n",
            meanings[ext->read_data & 3], meanings[ext->write_data & 3]);
    fprintf(out, "threads: %s\n", ext->flags & DT_PER_QUEUE ? "per queue" : "one for each device");
    if (!(ext->flags & DT_BACK))
        fprintf(out, "content: %s\n",
                ext->flags & DT_CONTENT_BEARING
                    ? "bearing (without it the guest would read other data)"
                    : "neutral");
}

void describe_print(const struct dt_block_ext *ext, FILE *out)
{
    fprintf(out, "%s - %s (%s%s)\n", ext->name, ext->summary, registry_net(ext) ? "network " : "",
            ext->flags & DT_BACK ? "back" : "extension");
    if (ext->help) {
        putc('\n', out);
        print_wrapped(out, 0, ext->help);
    }
    describe_print_params(ext->params, out);
    print_counters(ext, out);
    print_commands(ext, out);
    if (registry_net(ext))
        print_net_rights(registry_net(ext), out);
    else
        print_rights(ext, out);
}
