/* SPDX-License-Identifier: MIT */
/* share.c - cvd pool share: equal blocks are stored once. */
#include "tools/cvd/cvd.h"

#include <inttypes.h>

#define PIECE ((uint64_t)4 << 20) /* of the janitor's work, between two looks at the clock */

static void print_json_of(const struct target *t, const struct pool_share *s)
{
    const struct pool_share_counters *c = &s->counters;

    print_json_to(
        t->out, json_pack("{ss sI sI sI sI sI sI sI sI}", "share", share_choices[s->share], "rate",
                          (json_int_t)s->rate, "saved", (json_int_t)(s->shared << PX_BLOCK_SHIFT),
                          "looked", (json_int_t)c->looked, "compared", (json_int_t)c->compared,
                          "different", (json_int_t)c->different, "merged", (json_int_t)c->merged,
                          "missed", (json_int_t)c->missed, "rounds", (json_int_t)c->rounds));
}

static int print(const struct target *t, bool json)
{
    struct pool_share s;

    pool_share(t->pool, &s);
    if (json) {
        print_json_of(t, &s);
        return 0;
    }
    fprintf(t->out, "share      %s\n", share_choices[s.share]);
    if (s.share)
        fprintf(t->out, "rate       %s/s\n", human_bytes(s.rate));
    fprintf(t->out, "saved      %s\n", human_bytes(s.shared << PX_BLOCK_SHIFT));
    if (s.counters.looked)
        fprintf(t->out,
                "looked at  %" PRIu64 " blocks, compared %" PRIu64 ", merged %" PRIu64
                ", in %" PRIu64 " rounds\n",
                s.counters.looked, s.counters.compared, s.counters.merged, s.counters.rounds);
    return 0;
}

/* Of each disk's own blocks: so many are looked at in a round. */
static uint64_t to_look_at(const struct pool *pool)
{
    uint64_t blocks = 0;

    for (uint32_t slot = 0; slot < pool_slots(pool); slot++)
        if (is_visible(pool_record(pool, slot), PX_DISK))
            blocks += pool_record(pool, slot)->charged;
    return blocks;
}

static int share_now(struct target *t, struct dt_error *err)
{
    uint64_t total = to_look_at(t->pool);
    struct pool_share s;
    int ret;

    while ((ret = pool_share_now(t->pool, PIECE)) > 0) {
        pool_share(t->pool, &s);
        progress("share", MIN(s.counters.looked, total), total);
        /* What was freed can be used after a root; and nodes that wait for one take memory. */
        if (pool_checkpoint(t->pool, err) < 0)
            return -EIO;
    }
    progress_end();
    if (ret == -EROFS)
        return dt_fail(err, -EINVAL,
                       "it does not share blocks: 'cvd pool share POOL on' begins that");
    return ret < 0 ? dt_fail(err, ret, "equal blocks cannot be shared: %s", strerror(-ret)) : 0;
}

int cmd_pool_share(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err)
{
    struct pool_share s;
    unsigned share;
    int ret = 0;

    pool_share(t->pool, &s);
    share = s.share;
    if (o->now && t->live)
        return dt_fail(err, -EBUSY,
                       "it is being served: its process does this in the background, at --rate");
    if (argc > 1)
        for (share = 0; share_choices[share] && strcmp(share_choices[share], argv[1]);)
            share++;
    if (!share_choices[share])
        return dt_fail(err, -EINVAL, "'%s' is not off, on or writes", argv[1]);
    if (argc > 1 || o->rate)
        ret = pool_set_share(t->pool, (enum px_share)share, o->rate ?: s.rate ?: SHARE_RATE, err);
    if (ret == 0 && o->now)
        ret = share_now(t, err);
    return ret ?: print(t, o->json);
}
