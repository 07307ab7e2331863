/* SPDX-License-Identifier: MIT */
/*
 * options.c - command lines from the declaration of their options.
 *
 * Accepted are `--name value`, `--name=value`, flags `--name`, and `--` before arguments that begin
 * with a dash. There are no short options and no abbreviations: scripts outlive them badly.
 */
#include "tools/tools.h"

static const struct dt_param *find_option(const struct option_group *groups, const char *name,
                                          size_t length, unsigned *group)
{
    for (unsigned g = 0; groups[g].title; g++)
        for (const struct dt_param *p = groups[g].options; p && p->name; p++)
            if (strlen(p->name) == length && strncmp(p->name, name, length) == 0) {
                *group = g;
                return p;
            }
    return NULL;
}

static int fail_unknown(const struct option_group *groups, const char *name, size_t length,
                        struct dt_error *err)
{
    _cleanup_free_ char *wanted = strndup(name, length);
    struct nearest nearest = {.wanted = wanted};

    for (unsigned g = 0; groups[g].title; g++)
        for (const struct dt_param *p = groups[g].options; p && p->name; p++)
            nearest_offer(&nearest, p->name);
    if (nearest.best)
        return dt_fail(err, -EINVAL, "no option is named '--%.40s'; did you mean '--%s'?", wanted,
                       nearest.best);
    return dt_fail(err, -EINVAL, "no option is named '--%.40s' (see --help)", wanted);
}

int options_next(struct option_scan *scan, struct option *option, struct dt_error *err)
{
    const char *word = *scan->argv, *name, *equals;
    size_t length;

    if (!word)
        return 0;
    scan->argv++;
    if (!scan->only_arguments && strcmp(word, "--") == 0) {
        scan->only_arguments = true;
        return options_next(scan, option, err);
    }
    *option = (struct option){.value = word};
    if (scan->only_arguments || word[0] != '-' || word[1] == '\0')
        return 1;
    if (word[1] != '-')
        return dt_fail(err, -EINVAL, "'%.40s': options begin with two dashes", word);
    name = word + 2;
    equals = strchr(name, '=');
    length = equals ? (size_t)(equals - name) : strlen(name);
    option->param = find_option(scan->groups, name, length, &option->group);
    if (!option->param)
        return fail_unknown(scan->groups, name, length, err);
    if (equals)
        option->value = equals + 1;
    else if (option->param->type == DT_PARAM_BOOL)
        option->value = "on";
    else if (!(option->value = *scan->argv))
        return dt_fail(err, -EINVAL, "--%s needs a value", option->param->name);
    else
        scan->argv++;
    return 1;
}

int options_apply(const struct dt_param *option, void *base, const char *value,
                  struct dt_error *err)
{
    int ret = param_apply(option, base, value, err);

    if (ret < 0) { /* "depth=x: why" becomes "--depth=x: why" */
        struct dt_error text = *err;

        dt_fail(err, ret, "--%.500s", text.text);
    }
    return ret;
}

void options_defaults(const struct dt_param *options, void *base)
{
    struct dt_error err;

    for (const struct dt_param *p = options; p && p->name; p++)
        if (p->initial)
            CHECK(param_apply(p, base, p->initial, &err) == 0);
}

int options_parse(const struct option_group *groups, void *base, char **argv, struct dt_error *err)
{
    struct option_scan scan = {.argv = argv, .groups = groups};
    char **arguments = argv;
    struct option option;
    uint64_t given = 0;
    int ret;

    options_defaults(groups[0].options, base);
    while ((ret = options_next(&scan, &option, err)) > 0) {
        if (!option.param) {
            *arguments++ = (char *)option.value; /* never past what was read */
            continue;
        }
        ret = options_apply(option.param, base, option.value, err);
        if (ret < 0)
            break;
        given |= 1ull << (option.param - groups[0].options);
    }
    *arguments = NULL;
    for (const struct dt_param *p = groups[0].options; ret == 0 && p && p->name; p++)
        if ((p->flags & DT_PARAM_REQUIRED) && !(given & 1ull << (p - groups[0].options)))
            ret = dt_fail(err, -EINVAL, "--%s is missing: %s", p->name, p->help);
    return ret;
}
