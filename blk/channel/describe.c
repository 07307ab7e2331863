/* SPDX-License-Identifier: MIT */
/*
 * describe.c - a program's description of itself: the JSON of `devtap help --json`, and a few keys
 * about what it wants. It is judged like that of any extension.
 */
#include "core/describe.h"
#include "blk/channel/internal.h"

#include <stdio.h>

#define LIST_MAX 64u

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? xstrdup(text) : NULL;
}

static bool flag_of(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static int index_of(const char *const *names, unsigned n, const char *name)
{
    for (unsigned i = 0; i < n; i++)
        if (name && strcmp(names[i], name) == 0)
            return (int)i;
    return -EINVAL;
}

static int parse_data(const json_t *object, const char *key, uint8_t *data, struct dt_error *err)
{
    static const char *const names[] = {"none", "peek", "stable", "transform"};
    const json_t *value = json_object_get(object, key);
    int index = value ? index_of(names, ARRAY_SIZE(names), json_string_value(value)) : 0;

    if (index < 0)
        return dt_fail(err, -EINVAL, "'%s' is not one of none, peek, stable, transform", key);
    *data = (uint8_t)index;
    return 0;
}

/* The names under which types are shown to people. */
static int parse_type(struct dt_param *p, const char *name)
{
    for (unsigned type = DT_PARAM_STRING; type <= DT_PARAM_OPS; type++) {
        p->type = (uint8_t)type;
        if (name && strcmp(param_type_name(p), name) == 0)
            return 0;
    }
    return -EINVAL;
}

static int parse_bound(const struct dt_param *p, const json_t *value, uint64_t *bound)
{
    const char *text = json_string_value(value);

    if (!value)
        return 0;
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *bound = (uint64_t)json_integer_value(value);
        return 0;
    }
    if (!text)
        return -EINVAL;
    if (p->type == DT_PARAM_SIZE)
        return parse_size(text, bound);
    return p->type == DT_PARAM_DURATION ? parse_duration(text, bound) : parse_uint(text, bound);
}

static const char *const *parse_choices(const json_t *list)
{
    size_t n = json_array_size(list);
    const char **choices;

    if (!json_is_array(list) || n > LIST_MAX)
        return NULL;
    choices = xcalloc(n + 1, sizeof(*choices));
    for (size_t i = 0; i < n; i++)
        choices[i] = xstrdup(json_string_value(json_array_get(list, i)) ?: "");
    return choices;
}

static int parse_param(struct dt_param *p, const json_t *json, size_t offset, struct dt_error *err)
{
    p->name = text_of(json, "name");
    if (!p->name)
        return dt_fail(err, -EINVAL, "a parameter has no name");
    if (parse_type(p, json_string_value(json_object_get(json, "type"))) < 0)
        return dt_fail(err, -EINVAL, "parameter '%.40s': its type is unknown", p->name);
    p->offset = offset;
    p->flags = (uint8_t)((flag_of(json, "required") ? DT_PARAM_REQUIRED : 0) |
                         (flag_of(json, "live") ? DT_PARAM_LIVE : 0) |
                         (flag_of(json, "secret") ? DT_PARAM_SECRET : 0));
    p->initial = text_of(json, "default");
    p->unit = text_of(json, "unit");
    p->help = text_of(json, "help");
    if (parse_bound(p, json_object_get(json, "min"), &p->min) < 0 ||
        parse_bound(p, json_object_get(json, "max"), &p->max) < 0)
        return dt_fail(err, -EINVAL, "parameter '%.40s': its bounds are no numbers", p->name);
    if (p->type == DT_PARAM_ENUM)
        p->choices = parse_choices(json_object_get(json, "choices"));
    return 0;
}

static int parse_params(struct dt_block_ext *ext, const json_t *list, struct dt_error *err)
{
    size_t n = json_array_size(list);
    struct dt_param *params;

    if (n > LIST_MAX)
        return dt_fail(err, -E2BIG, "it has more than %u parameters", LIST_MAX);
    params = xcalloc(n + 1, sizeof(*params));
    ext->params = params;
    ext->layer_size = n * 8;
    for (size_t i = 0; i < n; i++) {
        int ret = parse_param(&params[i], json_array_get(list, i), i * 8, err);

        if (ret < 0)
            return ret;
    }
    return 0;
}

static int parse_counters(struct dt_block_ext *ext, const json_t *list, struct dt_error *err)
{
    size_t n = json_array_size(list);
    struct dt_counter *counters;

    if (n > CHANNEL_COUNTERS)
        return dt_fail(err, -E2BIG, "it has more than %u counters", CHANNEL_COUNTERS);
    counters = xcalloc(n + 1, sizeof(*counters));
    for (size_t i = 0; i < n; i++) {
        const json_t *c = json_array_get(list, i);

        counters[i] =
            (struct dt_counter){text_of(c, "name") ?: "", text_of(c, "unit"), text_of(c, "help")};
    }
    ext->counters = counters;
    return 0;
}

static int never_run(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    return -ENOSYS; /* wrap_verbs() puts its own in place */
}

static int parse_verbs(struct dt_block_ext *ext, const json_t *list, struct dt_error *err)
{
    size_t n = json_array_size(list);
    struct dt_verb *verbs;

    if (n > LIST_MAX)
        return dt_fail(err, -E2BIG, "it has more than %u commands", LIST_MAX);
    verbs = xcalloc(n + 1, sizeof(*verbs));
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);

        verbs[i] = (struct dt_verb){text_of(v, "name") ?: "", text_of(v, "args"),
                                    text_of(v, "help"), never_run};
    }
    ext->verbs = verbs;
    return 0;
}

/* For the judgement only: it wants to know which callbacks there are. */
static void no_requests(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
}

static int parse_object(struct wrapped *w, const json_t *json, struct dt_error *err)
{
    struct dt_block_ext *ext = &w->ext;
    const json_t *subs = json_object_get(json, "sub_requests");
    int ret;

    *ext = (struct dt_block_ext){DT_BLOCK_EXT_HEADER};
    ext->name = text_of(json, "name");
    ext->summary = text_of(json, "summary");
    ext->help = text_of(json, "help");
    ext->flags = (flag_of(json, "content_bearing") ? DT_CONTENT_BEARING : 0u) |
                 (flag_of(json, "per_queue") ? DT_PER_QUEUE : 0u);
    ext->state_version = (uint32_t)json_integer_value(json_object_get(json, "state_version"));
    w->responds = flag_of(json, "responses");
    w->holds = flag_of(json, "holds");
    w->saves = flag_of(json, "saves");
    w->cancels = flag_of(json, "cancels");
    w->vectors = flag_of(json, "vectors");
    ext->submit = no_requests;
    ext->complete = w->responds ? no_requests : NULL;
    if (subs && (json_integer_value(subs) < 0 || json_integer_value(subs) > 1024))
        return dt_fail(err, -EINVAL, "sub_requests are 0 to 1024");
    ext->sub_requests = (unsigned)json_integer_value(subs);
    ret = parse_data(json, "read_data", &ext->read_data, err);
    ret = ret ?: parse_data(json, "write_data", &ext->write_data, err);
    ret = ret ?: parse_params(ext, json_object_get(json, "parameters"), err);
    ret = ret ?: parse_counters(ext, json_object_get(json, "counters"), err);
    ret = ret ?: parse_verbs(ext, json_object_get(json, "commands"), err);
    return ret ?: describe_check(ext, err);
}

int describe_parse(struct wrapped *w, const char *hello, struct dt_error *err)
{
    json_error_t where;
    json_t *json = json_loads(hello, JSON_REJECT_DUPLICATES, &where);
    int ret;

    if (!json_is_object(json))
        ret = dt_fail(err, -EPROTO, "its description is no JSON object: %s", where.text);
    else
        ret = parse_object(w, json, err);
    json_decref(json);
    return ret;
}
