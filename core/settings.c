/* SPDX-License-Identifier: MIT */
/* settings.c - all that is written for one layer, applied to its declared parameters. */
#include "core/core.h"

static int fail_unknown(const struct dt_param *params, const char *key, struct dt_error *err)
{
    struct nearest nearest = {.wanted = key};
    char known[256] = "";

    for (const struct dt_param *p = params; p && p->name; p++) {
        nearest_offer(&nearest, p->name);
        word_list_add(known, sizeof(known), p->name);
    }
    if (!*known)
        return dt_fail(err, -EINVAL, "it takes no parameters, but '%.40s' was given", key);
    if (nearest.best) {
        dt_fail(err, -EINVAL, "no parameter is named '%.40s'", key);
        nearest_hint(&nearest, err);
        return -EINVAL;
    }
    return dt_fail(err, -EINVAL, "no parameter is named '%.40s'; it takes %s", key, known);
}

static bool given(const struct layer_spec *spec, const char *key, unsigned before)
{
    for (unsigned i = 0; i < before; i++)
        if (strcmp(spec->settings[i].key, key) == 0)
            return true;
    return false;
}

static int apply_settings(const struct dt_param *params, void *base, const struct layer_spec *spec,
                          struct dt_error *err)
{
    int ret;

    for (unsigned i = 0; i < spec->count; i++) {
        const struct setting *s = &spec->settings[i];
        int index = param_find(params, s->key);

        if (index < 0)
            return fail_unknown(params, s->key, err);
        if (given(spec, s->key, i))
            return dt_fail(err, -EINVAL, "'%s' is given twice", s->key);
        ret = param_apply(&params[index], base, s->value, err);
        if (ret < 0)
            return ret;
    }
    for (const struct dt_param *p = params; p && p->name; p++) {
        if (given(spec, p->name, spec->count))
            continue;
        if (p->flags & DT_PARAM_REQUIRED)
            return dt_fail(err, -EINVAL, "'%s' is missing: %s", p->name, p->help);
        ret = p->initial ? param_apply(p, base, p->initial, err) : 0;
        if (ret < 0)
            return ret;
    }
    return 0;
}

int param_apply_all(const struct dt_param *params, void *base, const struct layer_spec *spec,
                    struct dt_error *err)
{
    int ret = apply_settings(params, base, spec, err);

    if (ret < 0)
        param_free_all(params, base);
    return ret;
}
