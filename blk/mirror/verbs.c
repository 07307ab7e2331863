/* SPDX-License-Identifier: MIT */
/* verbs.c - what an operator asks of a mirror. */
#include "blk/mirror/internal.h"

static int do_status(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    static const char *const states[] = {"absent", "stale", "syncing", "in sync"};
    const struct mirror *m = dt_layer_data(layer);
    uint64_t set = 0;

    dt_reply(reply, "state", "%s",
             !m->running                           ? *m->refused ? m->refused : "starting"
             : legs_in(m, LEG_IN_SYNC) == m->count ? "complete"
                                                   : "degraded");
    dt_reply_u64(reply, "generation", m->sb.generation);
    for (unsigned i = 0; i < m->count; i++) {
        const struct leg *leg = &m->legs[i];
        _cleanup_free_ char *key = xasprintf("leg%u", i + 1);

        dt_reply(reply, key, "%s%s, %llu reads, %llu writes, read latency %llu us",
                 states[leg->state], leg->removed ? " (removed)" : "",
                 (unsigned long long)leg->reads, (unsigned long long)leg->writes,
                 (unsigned long long)(leg->latency / DT_US(1)));
    }
    for (uint64_t r = 0; m->flags && r < m->regions; r++)
        set += region_test(m->set, r);
    dt_reply_u64(reply, "regions", m->regions);
    dt_reply_u64(reply, "region-bytes",
                 m->regions ? 1ull << (m->sb.region_shift + DT_SECTOR_SHIFT) : 0);
    dt_reply_u64(reply, "regions-marked", set);
    dt_reply_u64(reply, "regions-to-copy", m->needs);
    if (m->copied)
        dt_reply_u64(reply, "copy-bytes-per-second",
                     m->copied * 1000 / MAX((dt_clock_ns() - m->copy_started) / DT_MS(1), 1u));
    return 0;
}

static int find_leg(struct mirror *m, int argc, const char *const *argv, unsigned *leg,
                    struct dt_error *err)
{
    for (*leg = 0; argc == 1 && *leg < m->count; ++*leg) {
        _cleanup_free_ char *name = xasprintf("leg%u", *leg + 1);

        if (strcmp(argv[0], name) == 0)
            return 0;
    }
    return dt_fail(err, -EINVAL, "name a leg: leg1 to leg%u", m->count);
}

static int do_use(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    struct mirror *m = dt_layer_data(layer);
    unsigned leg;

    return find_leg(m, argc, argv, &leg, err) ?: mirror_use(m, leg, err);
}

static int do_remove(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    struct mirror *m = dt_layer_data(layer);
    unsigned leg;
    int ret = find_leg(m, argc, argv, &leg, err);

    if (ret < 0)
        return ret;
    if (!m->running)
        return dt_fail(err, -EBUSY, "the mirror does not serve yet");
    if (!leg_lost(&m->legs[leg], "it was removed"))
        return dt_fail(err, -EBUSY, "leg%u is the only one in sync", leg + 1);
    m->legs[leg].removed = true;
    return 0;
}

static int do_add(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    struct mirror *m = dt_layer_data(layer);
    struct leg *leg;
    unsigned index;
    int ret = find_leg(m, argc, argv, &index, err);

    if (ret < 0)
        return ret;
    leg = &m->legs[index];
    if (!m->running)
        return dt_fail(err, -EBUSY, "the mirror does not serve yet");
    if (leg->state == LEG_ABSENT)
        return dt_fail(err, -ENODEV, "leg%u could not be opened at the start: restart the disk",
                       index + 1);
    if (leg_active(leg))
        return dt_fail(err, -EEXIST, "leg%u is in use", index + 1);
    leg->full = true;
    leg_readmit(leg);
    return 0;
}

const struct dt_verb mirror_verbs[] = {
    {"status", "", "Show the legs, and what is still to be copied.", do_status},
    {"remove", "LEG", "Do without a leg until it is added again.", do_remove},
    {"add", "LEG", "Overwrite a leg with the disk, and use it.", do_add},
    {"use", "LEG", "Serve a refused mirror with this leg's data, and overwrite the others.",
     do_use},
    {NULL},
};
