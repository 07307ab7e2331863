/* SPDX-License-Identifier: MIT */
/*
 * schedule.c - snapshots that a pool takes of its disks by itself, and thins out as they get old.
 *
 * Theory of operation: time is cut into intervals of the schedule's length, for each disk with another phase, so
 * that not all are taken at one moment. One snapshot is taken in each interval in which the
 * disk differs from its newest snapshot. What counts as taken is told by the catalogue, by the time of the
 * newest snapshot of this kind: so nothing else has to be stored, a restart forgets nothing, and
 * intervals that passed while nobody served the pool are one interval.
 *
 * Each rule to keep them says for snapshots up to an age that one in so much time stays: the oldest
 * one. Where each length is a multiple of the one before, what a rule keeps is therefore among what the one
 * before kept. What is older than the last rule goes. Only snapshots that a schedule took, and that
 * are neither labelled nor in use, are ever deleted.
 */
#include "parallax/internal.h"

#define DELETE_AT_ONCE 64u

/** struct plan - of one disk. @done: the interval that was seen to last. */
struct plan {
    uint32_t slot;
    uint64_t done;
};

#define NEVER UINT64_MAX

bool schedule_rules_good(const struct px_rule *rules, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (rules[i].age <= (i ? rules[i - 1].age : 0))
            return false;
    return true;
}

/* ---- Which disks ---- */

static bool is_planned(const struct px_record *r)
{
    return r && r->kind == PX_DISK && r->every && !(r->flags & (PX_DYING | PX_HEADLESS));
}

static bool is_scheduled(const struct px_record *r)
{
    return r->flags & PX_SCHEDULED;
}

static uint64_t interval_at(const struct px_record *r, uint32_t slot, uint64_t seconds)
{
    return (seconds + slot * 0x9e3779b1u % r->every) / r->every;
}

static uint64_t last_taken(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    for (uint32_t at = pool_snapshot_before(pool, slot); at != NO_SLOT;
         at = pool_snapshot_before(pool, at)) {
        const struct px_record *s = catalog_record(pool, at);

        if (is_scheduled(s))
            return interval_at(r, slot, s->created / DT_S(1));
    }
    return NEVER;
}

static void find_plans(struct pool *pool)
{
    struct schedule *all = &pool->schedule;

    all->n = 0;
    for (uint32_t slot = 0; slot < pool->catalog.slots; slot++) {
        if (!is_planned(catalog_record(pool, slot)))
            continue;
        if (all->n == all->room) {
            all->room = MAX(2 * all->room, 16u);
            all->plans = realloc(all->plans, all->room * sizeof(*all->plans));
            CHECK(all->plans);
        }
        all->plans[all->n++] = (struct plan){slot, last_taken(pool, slot)};
    }
    all->known = true;
}

void schedule_fini(struct pool *pool)
{
    free(pool->schedule.plans);
    pool->schedule = (struct schedule){0};
}

/* ---- Taking ---- */

static bool has_changed(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot), *s;
    uint32_t newest = pool_snapshot_before(pool, slot);

    if (newest == NO_SLOT)
        return !ptr_hole(r->root);
    s = catalog_record(pool, newest);
    return !ptr_same(r->root, s->root) || r->size != s->size;
}

/* True: the interval is done with. */
static bool take(struct pool *pool, uint32_t slot, uint64_t now)
{
    struct dt_error err;
    int ret;

    if (!has_changed(pool, slot))
        return true;
    if (pool->full)
        return false;
    ret = schedule_snapshot(pool, slot, now, &err);
    if (ret < 0 && ret != -EAGAIN)
        pool_say_of(pool, slot, "schedule", "no snapshot of %s: %s",
                    catalog_record(pool, slot)->name, err.text);
    return ret != -EAGAIN;
}

/* ---- Thinning ---- */

/* The rule for this age, or PX_RULES. */
static unsigned rule_for(const struct px_record *disk, uint64_t age)
{
    unsigned i = 0;

    while (i < disk->rules && age > disk->rule[i].age)
        i++;
    return i < disk->rules ? i : PX_RULES;
}

/* Of two of the same rule, the older one stays. */
static bool is_one_too_many(const struct px_record *disk, const struct px_record *s,
                            const struct px_record *older, uint64_t now)
{
    uint64_t created = s->created / DT_S(1), before = older ? older->created / DT_S(1) : 0, length;
    unsigned rule = rule_for(disk, now > created ? now - created : 0);

    if (rule == PX_RULES)
        return true;
    length = disk->rule[rule].every;
    return older && length && rule_for(disk, now > before ? now - before : 0) == rule &&
           before / length == created / length;
}

static uint32_t scheduled_before(const struct pool *pool, uint32_t slot)
{
    do
        slot = pool_snapshot_before(pool, slot);
    while (slot != NO_SLOT && !is_scheduled(catalog_record(pool, slot)));
    return slot;
}

static void thin(struct pool *pool, uint32_t slot, uint64_t seconds)
{
    const struct px_record *disk = catalog_record(pool, slot);
    uint32_t at = scheduled_before(pool, slot), surplus[DELETE_AT_ONCE], n = 0;
    struct dt_error err;

    while (disk->rules && at != NO_SLOT && n < DELETE_AT_ONCE) {
        uint32_t before = scheduled_before(pool, at);
        const struct px_record *s = catalog_record(pool, at);
        const struct px_record *older = before == NO_SLOT ? NULL : catalog_record(pool, before);

        if (!(s->flags & PX_LABELLED) && !pool_mounted(pool, at) && !pool_clones(pool, at) &&
            is_one_too_many(disk, s, older, seconds))
            surplus[n++] = at;
        at = before;
    }
    for (uint32_t i = 0; i < n; i++)
        if (pool_delete_snapshot(pool, surplus[i], &err) < 0)
            break; /* the journal is busy: they are found again */
}

void pool_run_schedules(struct pool *pool, uint64_t now)
{
    uint64_t seconds = now / DT_S(1);

    if (pool->failed || pool->o.read_only)
        return;
    if (!pool->schedule.known)
        find_plans(pool);
    for (uint32_t i = 0; i < pool->schedule.n; i++) {
        struct plan *p = &pool->schedule.plans[i];
        const struct px_record *r = pool_record(pool, p->slot);
        uint64_t interval;

        if (!is_planned(r))
            continue;
        interval = interval_at(r, p->slot, seconds);
        if (interval == p->done)
            continue;
        if (take(pool, p->slot, now))
            p->done = interval;
        thin(pool, p->slot, seconds);
    }
}
