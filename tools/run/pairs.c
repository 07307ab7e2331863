/* SPDX-License-Identifier: MIT */
/* pairs.c - cards that are joined by `pair` are served by the same thread, whatever their turn would be. */
#include "tools/run/server.h"

#include "net/pair/pair.h"

/* A chain that cannot be read is refused when it is opened. */
static char *name_of(const struct disk_config *config)
{
    struct chain_spec spec;
    const char *name;
    struct dt_error ignored;
    char *copy;

    if (config->kind != DEVICE_NET || chain_parse(&spec, config->options.chain, &ignored) < 0)
        return NULL;
    name = pair_name(&spec);
    copy = name ? xstrdup(name) : NULL;
    chain_spec_free(&spec);
    return copy;
}

void pairs_find(const struct run_config *config, unsigned *first)
{
    char **names = xcalloc(config->count, sizeof(*names));

    for (unsigned i = 0; i < config->count; i++) {
        names[i] = name_of(&config->disks[i]);
        first[i] = i;
        for (unsigned k = 0; names[i] && first[i] == i && k < i; k++)
            if (names[k] && strcmp(names[i], names[k]) == 0)
                first[i] = k;
    }
    for (unsigned i = 0; i < config->count; i++)
        free(names[i]);
    free(names);
}
