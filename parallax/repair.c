/* SPDX-License-Identifier: MIT */
/*
 * repair.c - free maps and charges made anew.
 *
 * Theory of operation: a check finds out which blocks are reached. It does so when the pool was just opened, before the journal is
 * replayed: its records are about the same state, and replaying them may need blocks that no map tells to be free. Then the
 * maps become what is reached. The root that ends the opening makes that durable, so a crash before it changes nothing.
 *
 * Where a map of a disk cannot be read, what it leads to is reached by nobody, and yet in use as soon as it can be
 * read again. So then nothing is given back.
 */
#include "parallax/check.h"

#include <stdio.h>

static int refuse(const struct checking *k, uint64_t damaged, struct dt_error *err)
{
    if (k->c->doubly || k->c->miscounted)
        return dt_fail(err, -EBADMSG,
                       "%s cannot be repaired: blocks have two owners, or are shared by others "
                       "than was counted",
                       k->pool->store->name);
    return dt_fail(err, -EBADMSG,
                   "%s cannot be repaired: %llu nodes of maps are damaged, and what they lead to "
                   "is not known: "
                   "roll back or delete what they belong to before, or turn its history off",
                   k->pool->store->name, (unsigned long long)damaged);
}

/* A block of the map of a group. */
static void reached(const struct checking *k, uint64_t index, uint64_t *bits)
{
    uint64_t base = index << PX_GROUP_SHIFT;

    memset(bits, 0, PX_BLOCK);
    for (uint64_t i = 0; i < PX_GROUP_BLOCKS && base + i < k->pool->space.blocks; i++)
        if (k->prints[base + i])
            bits[i / 64] |= 1ull << i % 64;
}

static void say(const struct pool_check *told, uint64_t n, const char *what)
{
    char text[128];

    if (n == 0)
        return;
    snprintf(text, sizeof(text), "%llu %s", (unsigned long long)n, what);
    told->say(told->arg, text);
}

static int put_right(struct checking *k, struct dt_error *err)
{
    uint64_t bits[PX_GROUP_WORDS], used = 0, damaged = k->c->damaged - k->of_maps - k->spoilt;
    struct pool *pool = k->pool;
    struct space *s = &pool->space;

    if (damaged || k->c->doubly || k->c->miscounted)
        return refuse(k, damaged, err);
    for (uint64_t i = 0; i < s->n; i++) {
        reached(k, i, bits);
        used += space_set(pool, i, bits);
    }
    say(pool->o.repair, k->of_maps, "maps of free space were damaged, and are new");
    s->used = used;
    s->free = s->blocks - used;
    if (k->c->leaked && !pool_is_thin(pool))
        pool->root.preallocated = 0; /* the mark may have passed them without giving them space */
    for (uint32_t slot = 0; slot < pool->catalog.slots; slot++) {
        struct px_record *r = catalog_record(pool, slot);

        if (r->kind != PX_DISK || r->charged == k->charges[slot])
            continue;
        r->charged = k->charges[slot];
        catalog_touch(pool, slot);
    }
    return 0;
}

int repair(struct pool *pool, struct dt_error *err)
{
    struct pool_check *told = pool->o.repair;
    struct pool_check check = {.progress = told->progress, .arg = told->arg};
    int ret = check_then(pool, &check, put_right, err);

    if (ret < 0)
        return ret;
    say(told, check.leaked, "blocks that nothing points to are free again");
    say(told, check.unmarked, "blocks that are in use had been marked as free");
    say(told, check.mischarged, "disks are charged for what they have");
    return 0;
}
