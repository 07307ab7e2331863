/* SPDX-License-Identifier: MIT */
/*
 * label.c - what a pool is, and where its parts begin: devtap-pool(5), LABEL.
 *
 * It is written once, twice: who opens the pool to write, and finds one of the two damaged or missing, writes it anew from the
 * other. But only what still calls itself a label, or cannot be read, is damaged; anything else says that this is no pool any more, whatever
 * is left of it behind the first block.
 */
#include "parallax/internal.h"

#include <time.h>

#define LABEL_MAGIC "PARALLAX"

static bool is_label(const struct px_label *label)
{
    return memcmp(label->magic, LABEL_MAGIC, sizeof(label->magic)) == 0;
}

/* Of any version. */
static bool is_whole(const struct px_label *label)
{
    struct px_label copy = *label;

    copy.crc = 0;
    return is_label(label) && crc32c(0, &copy, sizeof(copy)) == label->crc;
}

static void set_geometry(struct pool *pool, const struct px_label *label)
{
    memcpy(pool->uuid, label->uuid, sizeof(pool->uuid));
    pool->created = label->created;
    pool->journal.first = PX_JOURNAL_AT;
    pool->journal.blocks = label->journal_blocks;
    pool->space.first = PX_JOURNAL_AT + label->journal_blocks;
}

/* ---- Of a new pool ---- */

int label_refuse(struct store *store, struct dt_error *err)
{
    _cleanup_free_ struct px_label *label = xaligned(PX_BLOCK, PX_BLOCK);
    int ret = store->get(store, label, PX_LABEL_AT, 1);

    if (ret < 0)
        return dt_fail(err, ret, "%s cannot be read: %s", store->name, strerror(-ret));
    return is_label(label) ? dt_fail(err, -EEXIST, "%s is a pool already", store->name) : 0;
}

void label_make(struct pool *pool, struct px_label *label, uint64_t journal)
{
    uint64_t id[2] = {pool_random(), pool_random()};
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    *label = (struct px_label){.version = PX_VERSION, .journal_blocks = journal};
    memcpy(label->magic, LABEL_MAGIC, sizeof(label->magic));
    memcpy(label->uuid, id, sizeof(label->uuid));
    label->created = (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
    label->crc = crc32c(0, label, sizeof(*label));
    set_geometry(pool, label);
}

int label_put(struct store *store, const struct px_label *label)
{
    int ret = store->put(store, label, PX_LABEL_COPY_AT, 1);

    /* The first one last: half a pool is none. */
    ret = ret ?: store->sync(store);
    ret = ret ?: store->put(store, label, PX_LABEL_AT, 1);
    return ret ?: store->sync(store);
}

/* ---- Of one that is there ---- */

/** struct labels - both of a pool as they were read. @there: it could be. @chosen: which of them counts. */
struct labels {
    struct px_label *label;
    bool there[2];
    unsigned chosen;
};

static const uint64_t places[] = {PX_LABEL_AT, PX_LABEL_COPY_AT};

static int choose(const struct store *store, struct labels *l, struct dt_error *err)
{
    if (l->there[0] && !is_label(&l->label[0]))
        return dt_fail(err, -EINVAL, "%s is no pool (cvd pool create makes one)", store->name);
    for (l->chosen = 0; l->chosen < 2; l->chosen++)
        if (l->there[l->chosen] && is_whole(&l->label[l->chosen]))
            return 0;
    return dt_fail(err, -EBADMSG, "%s is damaged: its label, and the copy of it", store->name);
}

static int judge(const struct store *store, const struct px_label *label, struct dt_error *err)
{
    if (label->version != PX_VERSION)
        return dt_fail(err, -ENOTSUP, "%s has version %u; this program knows version %u",
                       store->name, label->version, PX_VERSION);
    if (label->journal_blocks < PX_JOURNAL_MIN || label->journal_blocks > PX_JOURNAL_MAX ||
        label->journal_blocks > store->blocks / 4)
        return dt_fail(err, -EBADMSG, "%s is damaged: its label", store->name);
    return 0;
}

/* Pools of earlier versions have no copy. A write that fails is tried at the next opening: it is needed by none before. */
static void restore(struct pool *pool, const struct labels *l)
{
    unsigned other = !l->chosen;

    if (l->there[other] && memcmp(&l->label[0], &l->label[1], PX_BLOCK) == 0)
        return;
    if (!l->there[other] || is_label(&l->label[other]))
        pool_say(pool, "damage", "%s: block %llu, its label, is damaged; block %llu holds it, too",
                 pool->store->name, (unsigned long long)places[other],
                 (unsigned long long)places[l->chosen]);
    if (!pool->o.read_only)
        pool->store->put(pool->store, &l->label[l->chosen], places[other], 1);
}

int label_read(struct pool *pool, struct dt_error *err)
{
    _cleanup_free_ struct px_label *both = xaligned(PX_BLOCK, 2 * PX_BLOCK);
    struct store *store = pool->store;
    struct labels l = {.label = both};
    int ret[2];

    if (store->blocks < PX_MIN_BLOCKS)
        return dt_fail(err, -EINVAL, "%s is no pool: it has %llu bytes", store->name,
                       (unsigned long long)store->blocks << PX_BLOCK_SHIFT);
    for (unsigned i = 0; i < 2; i++) {
        ret[i] = store->get(store, &both[i], places[i], 1);
        l.there[i] = ret[i] == 0;
    }
    if (ret[0] < 0 && ret[1] < 0)
        return dt_fail(err, ret[0], "%s cannot be read: %s", store->name, strerror(-ret[0]));
    ret[0] = choose(store, &l, err);
    ret[0] = ret[0] ?: judge(store, &both[l.chosen], err);
    if (ret[0] == 0) {
        restore(pool, &l);
        set_geometry(pool, &both[l.chosen]);
    }
    return ret[0];
}
