/* SPDX-License-Identifier: MIT */
/*
 * placement.c - where a layer runs: in this process, or in one of its own.
 *
 * The layer that stands for an extension elsewhere has the extension's own rules and parameters
 * and those of its placement, so that everything after this file treats all layers alike.
 */
#include "core/core.h"

#include <limits.h>
#include <stdio.h>

#define ARGS_MAX 32u

static const struct placer *the_placer;

void placer_set(const struct placer *placer)
{
    the_placer = placer;
}

static bool have_placer(struct dt_error *err)
{
    if (!the_placer)
        dt_fail(err, -EOPNOTSUPP, "this program can run extensions in its own process only");
    return the_placer != NULL;
}

const struct dt_block_ext *placement_program(const char *path, struct dt_error *err)
{
    _cleanup_free_ char *full = realpath(path, NULL);
    const char *const argv[] = {full, NULL};

    if (!full) {
        dt_fail(err, -errno, "%s: %m", path);
        return NULL;
    }
    return have_placer(err) ? the_placer->program(argv, err) : NULL;
}

/* A command is words, as the chain's own syntax has quotes already; no shell looks at it. */
static const struct dt_block_ext *find_command(const char *command, struct dt_error *err)
{
    _cleanup_free_ char *words = xstrdup(command);
    const char *argv[ARGS_MAX + 1];
    unsigned argc = 0;
    char *rest = words, *word;

    while ((word = strsep(&rest, " \t")) != NULL) {
        if (*word == '\0')
            continue;
        if (argc == ARGS_MAX) {
            dt_fail(err, -E2BIG, "cmd=%.64s...: more than %u words", command, ARGS_MAX);
            return NULL;
        }
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    if (argc == 0) {
        dt_fail(err, -EINVAL, "cmd= names no program");
        return NULL;
    }
    return have_placer(err) ? the_placer->program(argv, err) : NULL;
}

/* Takes the setting @key out of @rest; its value, or NULL. */
static const char *take_setting(struct layer_spec *rest, const char *key)
{
    for (unsigned i = 0; i < rest->count; i++) {
        const char *value = rest->settings[i].value;

        if (strcmp(rest->settings[i].key, key) != 0)
            continue;
        memmove(&rest->settings[i], &rest->settings[i + 1],
                (--rest->count - i) * sizeof(rest->settings[0]));
        return value;
    }
    return NULL;
}

static const struct dt_block_ext *in_process(const struct dt_block_ext *ext, const char *name,
                                             struct dt_error *err)
{
    _cleanup_free_ char *full = strchr(name, '/') ? realpath(name, NULL) : NULL;

    return have_placer(err) ? the_placer->in_process(ext, full ?: name, err) : NULL;
}

const struct dt_block_ext *placement_find(enum device_kind kind, const struct layer_spec *spec,
                                          struct layer_spec *rest, struct dt_error *err)
{
    const struct dt_block_ext *ext;
    const char *place, *command;

    *rest = (struct layer_spec){.name = spec->name, .count = spec->count};
    rest->settings = xcalloc(spec->count + 1, sizeof(struct setting));
    if (spec->count)
        memcpy(rest->settings, spec->settings, spec->count * sizeof(struct setting));
    if (kind == DEVICE_DISK && strcmp(spec->name, "process") == 0) {
        command = take_setting(rest, "cmd");
        if (command)
            return find_command(command, err);
        dt_fail(err, -EINVAL,
                "process: 'cmd' is missing: the program to run, such as "
                "cmd='python3 fault.py'");
        return NULL;
    }
    place = take_setting(rest, "place");
    ext = registry_find_kind(kind, spec->name, err);
    if (!ext || !place || strcmp(place, "in") == 0)
        return ext;
    if (strcmp(place, "process") == 0)
        return in_process(ext, spec->name, err);
    dt_fail(err, -EINVAL, "%s: place=%.64s: not one of in, process", spec->name, place);
    return NULL;
}
