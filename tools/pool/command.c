/* SPDX-License-Identifier: MIT */
/*
 * command.c - commands of cvd, carried out where the pool is.
 *
 * They come with all their words, and go the way that they would go in the program itself, but for the
 * pool, which is open already and has disks in use.
 */
#include "tools/pool/pool.h"

#include "tools/cvd/cvd.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t data_cache(const struct pool_server *s)
{
    struct pool_data_cache cache;

    pool_data_cache(shared_pool(s->shared), &cache);
    return cache.bytes;
}

/* The supervisor gives it to the next worker. */
static void tell_data_cache(const struct pool_server *s)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, data_cache(s));
    pool_server_say("data-cache", text);
}

static int run(struct pool_server *s, const struct command *c, struct target *t, char **argv,
               struct dt_error *err)
{
    struct cvd_options o = {0};
    int argc, ret = command_parse(c, &o, argv, &argc, err);

    ret = ret ?: target_name(t, c, argv[0], err);
    ret = ret ?: target_find(t, c, err);
    ret = ret ?: command_run(c, t, &o, argc, argv, err);
    if (ret == 0 && t->slot != NO_SLOT)
        shared_resized(s->shared, t->slot);
    command_free(&o);
    return ret;
}

int pool_run(struct pool_server *s, const struct pool_request *request, char **output,
             struct dt_error *err)
{
    size_t size = (request->count + 1) * sizeof(char *), length;
    _cleanup_free_ char **words = xcalloc(1, size);
    struct target t = {.pool = shared_pool(s->shared), .live = true};
    uint64_t before = data_cache(s);
    char **argv = words;
    const struct command *c;
    int ret;

    memcpy(words, request->words, size);
    c = command_find(&argv);
    if (!c || (c->needs != NEEDS_CHANGE && c->needs != NEEDS_SERVED) || !argv[0])
        return dt_fail(err, -EINVAL, "'%.40s' is no command for the process that serves a pool",
                       words[0]);
    t.out = open_memstream(output, &length);
    CHECK(t.out);
    ret = run(s, c, &t, argv, err);
    if (data_cache(s) != before)
        tell_data_cache(s);
    fclose(t.out);
    free(t.path);
    free(t.name);
    return ret ?: c->needs == NEEDS_SERVED ? POOL_RUN_LOOKED : 0;
}
