/* SPDX-License-Identifier: MIT */
/* prealloc.c - cvd pool preallocation: space in the file for what is not written yet. */
#include "tools/cvd/cvd.h"

#define ROOT_EVERY ((uint64_t)1 << 30 >> PX_BLOCK_SHIFT) /* what an interruption may cost */

int preallocate_all(struct pool *pool, struct dt_error *err)
{
    struct pool_info i;
    uint64_t rooted;
    int ret;

    pool_info(pool, &i);
    rooted = i.preallocated;
    while ((ret = pool_preallocate(pool, err)) > 0) {
        pool_info(pool, &i);
        if (i.preallocation != PX_THIN)
            progress("preallocating", i.preallocated, i.blocks);
        if (MAX(i.preallocated, rooted) - MIN(i.preallocated, rooted) < ROOT_EVERY)
            continue;
        rooted = i.preallocated;
        ret = pool_checkpoint(pool, err);
        if (ret < 0)
            break;
    }
    progress_end();
    return ret;
}

static void print(const struct target *t, bool json)
{
    struct pool_info i;
    uint64_t done, size;

    pool_info(t->pool, &i);
    size = i.blocks << PX_BLOCK_SHIFT;
    done = i.preallocated << PX_BLOCK_SHIFT;
    if (json) {
        print_json_to(t->out, json_pack("{ss sI sI}", "preallocation",
                                        preallocation_choices[i.preallocation], "preallocated",
                                        (json_int_t)done, "size", (json_int_t)size));
        return;
    }
    fprintf(t->out, "%s", preallocation_choices[i.preallocation]);
    if (i.preallocation != PX_THIN)
        fprintf(t->out, ", %s of %s done", human_bytes(done), human_bytes(size));
    fputc('\n', t->out);
}

int cmd_pool_preallocation(struct target *t, const struct cvd_options *o, int argc, char **argv,
                           struct dt_error *err)
{
    unsigned how = 0;
    int ret = 0;

    if (argc > 1) {
        while (preallocation_choices[how] && strcmp(preallocation_choices[how], argv[1]))
            how++;
        if (!preallocation_choices[how])
            return dt_fail(err, -EINVAL, "'%s' is not off, falloc or full", argv[1]);
        ret = pool_set_preallocation(t->pool, (enum px_preallocation)how, err);
        if (ret == 0 && !t->live) /* who serves it does that beside */
            ret = preallocate_all(t->pool, err);
    }
    if (ret == 0)
        print(t, o->json);
    return ret;
}
