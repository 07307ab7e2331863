/* SPDX-License-Identifier: MIT */
/*
 * live.c - parameters changed while the device works. Values come from the declarations: valid ones
 * must be shown as they were set, or be refused and change nothing; invalid ones must be refused.
 * What is read is not judged, because a parameter may be there to change just that.
 */
#include "tools/conformance/internal.h"

/* Between the bounds; small numbers as likely as large ones. */
static uint64_t random_number(struct bench *b, const struct dt_param *p)
{
    uint64_t min = p->min, max = p->max, span;

    if (min == 0 && max == 0)
        max = p->type == DT_PARAM_DURATION ? DT_MS(20) : UINT32_MAX;
    if (p->type == DT_PARAM_DURATION)
        max = MAX(MIN(max, DT_MS(20)), min); /* a delay of hours is valid, but tests nothing */
    span = (max - min) >> (dt_rng_below(&b->rng, 2) ? dt_rng_below(&b->rng, 32) : 0);
    return min + (span == UINT64_MAX ? dt_rng_next(&b->rng) : dt_rng_below(&b->rng, span + 1));
}

static char *random_ops(struct bench *b)
{
    char text[80] = "";

    for (int op = 0; op < DT_OP_COUNT; op++)
        if (dt_rng_below(&b->rng, 2)) {
            size_t used = strlen(text);

            snprintf(text + used, sizeof(text) - used, "%s%s", used ? "," : "", dt_op_name(op));
        }
    return xstrdup(*text ? text : "all");
}

static char *valid_value(struct bench *b, const struct dt_param *p)
{
    unsigned n = 0;

    switch ((enum dt_param_type)p->type) {
    case DT_PARAM_STRING:
        return xasprintf("word%u", (unsigned)dt_rng_below(&b->rng, 1000));
    case DT_PARAM_PATH:
        return xasprintf("%s/live%u", b->dir, (unsigned)dt_rng_below(&b->rng, 4));
    case DT_PARAM_BOOL:
        return xstrdup(dt_rng_below(&b->rng, 2) ? "on" : "off");
    case DT_PARAM_UINT:
    case DT_PARAM_SIZE:
        return xasprintf("%llu", (unsigned long long)random_number(b, p));
    case DT_PARAM_DURATION:
        return xasprintf("%lluns", (unsigned long long)random_number(b, p));
    case DT_PARAM_FRACTION:
        return xasprintf("0.%03u", (unsigned)dt_rng_below(&b->rng, 1000));
    case DT_PARAM_ENUM:
        while (p->choices[n])
            n++;
        return xstrdup(p->choices[dt_rng_below(&b->rng, n)]);
    case DT_PARAM_OPS:
        return random_ops(b);
    }
    return NULL;
}

/* NULL where every text is valid. */
static char *invalid_value(struct bench *b, const struct dt_param *p)
{
    bool bounded = p->min || p->max;

    if (p->type == DT_PARAM_STRING)
        return NULL;
    if (p->type == DT_PARAM_PATH)
        return xstrdup("");
    if (bounded && p->max < UINT64_MAX && dt_rng_below(&b->rng, 2))
        return xasprintf("%llu%s", (unsigned long long)p->max + 1,
                         p->type == DT_PARAM_DURATION ? "ns" : "");
    return xstrdup("5x00");
}

/* What `devtap show` says of the parameter; owned by the caller, NULL if it is not given. */
static char *shown(struct bench *b, const char *layer, const char *param)
{
    json_t *show = device_show(b->dev), *item;
    char *text = NULL;
    size_t i;

    json_array_foreach(json_object_get(show, "chain"), i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        json_t *value = json_object_get(json_object_get(item, "parameters"), param);

        if (name && strcmp(name, layer) == 0 && json_string_value(value))
            text = xstrdup(json_string_value(value));
    }
    json_decref(show);
    return text;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* How a field with this value is printed. */
static char *normal_form(const struct dt_param *p, const char *value)
{
    _Alignas(max_align_t) char field[16] = {0};
    struct dt_param alone[2] = {*p};
    struct dt_error err;
    char *text;

    alone[0].offset = 0;
    if (param_apply(alone, field, value, &err) < 0)
        return NULL;
    text = param_format(alone, field);
    param_free_all(alone, field);
    return text;
}

static void change(struct bench *b, const struct dt_layer *layer, const struct dt_param *p)
{
    bool live = p->flags & DT_PARAM_LIVE;
    bool want_valid = dt_rng_below(&b->rng, 4) != 0;
    _cleanup_free_ char *value = want_valid ? valid_value(b, p) : invalid_value(b, p);
    _cleanup_free_ char *before = shown(b, layer->name, p->name), *after = NULL, *expected = NULL;
    _cleanup_free_ char *no_reason = xasprintf("%s: %s: ", device_name(b->dev), layer->name);
    struct dt_error err = {""};
    int ret;

    if (!value)
        return;
    ret = device_set(b->dev, layer->name, p->name, value, &err);
    b->verdict->count++;
    after = shown(b, layer->name, p->name);
    expected = normal_form(p, value);
    if (ret == 0 && !(live && want_valid))
        bench_fail("parameter %s of %s took the value '%s', which is %s", p->name, layer->name,
                   value, live ? "invalid" : "not to be changed live");
    if (ret == 0 && !same(after, expected))
        bench_fail("parameter %s of %s was set to '%s', but shows '%s'", p->name, layer->name,
                   value, after ? after : "nothing");
    if (ret < 0 && !same(before, after))
        bench_fail("parameter %s of %s refused '%s', but changed from '%s' to '%s'", p->name,
                   layer->name, value, before ? before : "", after ? after : "");
    if (ret < 0 && strcmp(err.text, no_reason) == 0)
        bench_fail("parameter %s of %s refused '%s' without a reason", p->name, layer->name, value);
}

static bool live_change(struct bench *b)
{
    struct dt_layer *layers[CHAIN_MAX_LAYERS];
    const struct dt_param *params[CHAIN_MAX_LAYERS];
    unsigned n = 0, live = 0;

    /* One parameter of each layer under test, live ones for choice. */
    for (unsigned i = 1; i <= b->dev->nlayers; i++) {
        struct dt_layer *layer = b->dev->layers[i];
        unsigned seen = 0;

        if (layer->ext->submit == guard_ext.submit || layer->ext->submit == model_ext.submit)
            continue;
        for (const struct dt_param *p = layer->ext->params; p && p->name; p++) {
            if (!(p->flags & DT_PARAM_LIVE) && dt_rng_below(&b->rng, 8))
                continue;
            if (dt_rng_below(&b->rng, ++seen) == 0) {
                layers[n] = layer;
                params[n] = p;
            }
        }
        for (const struct dt_param *p = layer->ext->params; p && p->name; p++)
            live += !!(p->flags & DT_PARAM_LIVE);
        n += seen > 0;
    }
    if (n) {
        unsigned pick = (unsigned)dt_rng_below(&b->rng, n);

        change(b, layers[pick], params[pick]);
    }
    return live > 0;
}

void property_live(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;
    unsigned threads = BENCH_THREADS;

    for (unsigned i = 0; i < b->user.count; i++)
        if (!(b->exts[i]->flags & DT_PER_QUEUE))
            threads = 1;
    b->unjudged = true;
    bench_open(b, threads);
    do {
        bench_load(b, dt_rng_below(&b->rng, DT_MS(2)));
        if (!live_change(b))
            bench_skip("no parameter is live");
    } while (dt_clock_ns() < end);
    bench_settle(b);
    bench_close(b);
}
