/* SPDX-License-Identifier: MIT */
/* data-cache.c - cvd pool data-cache: blocks that disks have in common are read once. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

#define ANSWER_MS 5000

static json_t *json_of(const struct pool_data_cache *cache)
{
    const struct pool_cache_counters *c = &cache->counters;

    return json_pack("{sI sI sI sI sI sI sI sI sI sI}", "size", (json_int_t)cache->bytes, "held",
                     (json_int_t)(cache->held << PX_BLOCK_SHIFT), "hits", (json_int_t)c->hits,
                     "waits", (json_int_t)c->waits, "misses", (json_int_t)c->misses, "failed",
                     (json_int_t)c->failed, "passed", (json_int_t)c->passed, "evicted",
                     (json_int_t)c->evicted, "dropped", (json_int_t)c->dropped, "read",
                     (json_int_t)c->read);
}

static void print(const struct target *t, const struct pool_data_cache *cache)
{
    const struct pool_cache_counters *c = &cache->counters;

    fprintf(t->out, "size     %s\n", cache->bytes ? human_bytes(cache->bytes) : "off");
    fprintf(t->out, "held     %s\n", human_bytes(cache->held << PX_BLOCK_SHIFT));
    fprintf(t->out,
            "blocks   %" PRIu64 " hits, %" PRIu64 " waits, %" PRIu64 " misses; %" PRIu64
            " read in all\n",
            c->hits, c->waits, c->misses, c->read);
    fprintf(t->out,
            "of them  %" PRIu64 " evicted, %" PRIu64 " dropped, %" PRIu64 " failed, %" PRIu64
            " passed\n",
            c->evicted, c->dropped, c->failed, c->passed);
}

int cmd_pool_data_cache(struct target *t, const struct cvd_options *o, int argc, char **argv,
                        struct dt_error *err)
{
    struct pool_data_cache cache;
    uint64_t bytes = 0;
    int ret = 0;

    if (argc > 1 && strcmp(argv[1], "off") && dt_parse_size(argv[1], &bytes) < 0)
        return dt_fail(err, -EINVAL, "'%s' is neither a size (such as 1G) nor off", argv[1]);
    if (argc > 1)
        ret = pool_set_data_cache(t->pool, bytes, err);
    if (ret < 0)
        return ret;
    pool_data_cache(t->pool, &cache);
    if (o->json)
        print_json_to(t->out, json_of(&cache));
    else
        print(t, &cache);
    return 0;
}

json_t *data_cache_ask(const char *path)
{
    json_t *request = json_pack("{ss ss s[ssss]}", "verb", "run", "pool", path, "words", "pool",
                                "data-cache", path, "--json");
    json_t *result = NULL, *told = NULL;
    struct dt_error ignored;

    if (target_ask(path, request, ANSWER_MS, &result, &ignored) == 0)
        told = json_loads(json_string_value(json_object_get(result, "output")) ?: "", 0, NULL);
    json_decref(result);
    return told;
}
