/* SPDX-License-Identifier: MIT */
/* px_operations.c - random operations on a pool and on its model: px_rig.h. */
#include "px_model.h"

#include "parallax/receive.h"

#include <stdio.h>

/* ---- On disks ---- */

static unsigned pick(struct rig *rig, bool snapshot)
{
    unsigned start = (unsigned)dt_rng_below(&rig->rng, RIG_THINGS);

    for (unsigned i = 0; i < RIG_THINGS; i++) {
        unsigned t = (start + i) % RIG_THINGS;

        if (rig->things[t].used && rig->things[t].snapshot == snapshot && !rig->things[t].headless)
            return t;
    }
    return RIG_THINGS;
}

unsigned model_empty(struct rig *rig)
{
    unsigned t = 0;

    while (t < RIG_THINGS && rig->things[t].used)
        t++;
    return t;
}

static void op_writes(struct rig *rig, unsigned t)
{
    unsigned n = 1 + (unsigned)dt_rng_below(&rig->rng, 4), sectors = model_sectors(&rig->things[t]);

    if (rig->store->fail_flush)
        n = 1; /* whether those were done that fail with it nobody knows: of several, not which */
    while (n--) {
        unsigned kind = (unsigned)dt_rng_below(&rig->rng, 10), first, length;
        enum disk_op op = kind < 7   ? DISK_WRITE
                          : kind < 8 ? DISK_ZERO
                          : kind < 9 ? DISK_DISCARD
                                     : DISK_FLUSH;

        if (rig->things[t].wide || dt_rng_below(&rig->rng, 3)) { /* whole blocks */
            first = 8 * (unsigned)dt_rng_below(&rig->rng, sectors / 8);
            length = 8 * (1 + (unsigned)dt_rng_below(&rig->rng, 6));
        } else if (op == DISK_ZERO) { /* within a block: several records make no states of ours */
            first = (unsigned)dt_rng_below(&rig->rng, sectors);
            length = 1 + (unsigned)dt_rng_below(&rig->rng, 8 - first % 8);
        } else {
            first = (unsigned)dt_rng_below(&rig->rng, sectors);
            length = 1 + (unsigned)dt_rng_below(&rig->rng, 20);
        }
        model_submit(rig, t, op, first, MIN(length, sectors - first));
    }
    model_run(rig);
}

/* The same range of all disks at once: those that have it in common wait for one another. A transfer may go wrong once. */
static void op_reads(struct rig *rig)
{
    unsigned first = (unsigned)dt_rng_below(&rig->rng, RIG_SECTORS);
    unsigned length = 1 + (unsigned)dt_rng_below(&rig->rng, 64);

    rig->store->spoil_reads = dt_rng_below(&rig->rng, 4) == 0;
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->disks[t] && model_sectors(&rig->things[t]) > first)
            model_submit(rig, t, DISK_READ, first,
                         MIN(length, model_sectors(&rig->things[t]) - first));
    model_run(rig);
    rig->store->spoil_reads = 0;
}

static void op_cache(struct rig *rig)
{
    struct dt_error err;

    CHECK(pool_set_data_cache(rig->pool, dt_rng_below(&rig->rng, 4) * DATA_CACHE_LEAST, &err) == 0);
}

void op_create(struct rig *rig, unsigned t)
{
    struct rig_thing thing = {.blocks = model_any_size(rig),
                              .wide = dt_rng_below(&rig->rng, 4) == 0};
    struct dt_error err;

    snprintf(thing.name, sizeof(thing.name), "d%u", ++rig->stamp);
    if (pool_create_disk(rig->pool, thing.name, (uint64_t)thing.blocks * PX_BLOCK,
                         thing.wide ? 4096 : 512, &err) < 0)
        return;
    model_add(rig, t, &thing);
    model_push(rig);
    model_mount(rig, t);
}

/* ---- On snapshots ---- */

/* Thing @t is from now on @disk's newest snapshot. */
static void model_snapshot(struct rig *rig, unsigned disk, unsigned t, const char *name)
{
    struct rig_thing thing = rig->things[disk];

    thing.snapshot = true;
    thing.labelled = false;
    thing.disk = disk;
    thing.origin = 0;
    thing.order = ++rig->order;
    thing.quota = 0;
    snprintf(thing.name, sizeof(thing.name), "%.40s@%.40s", rig->things[disk].name, name);
    model_add(rig, t, &thing);
}

static void op_snapshot(struct rig *rig, unsigned disk, unsigned t)
{
    uint32_t slot = model_slot(rig, disk);
    char name[PX_NAME];
    const char *names = name;
    struct dt_error err;

    snprintf(name, sizeof(name), "s%u", ++rig->stamp);
    if (pool_snapshot(rig->pool, &slot, 1, &names, NULL, &err) < 0)
        return;
    model_snapshot(rig, disk, t, name);
    model_push(rig);
    model_make_durable(rig);
}

static void op_clone(struct rig *rig, unsigned snapshot, unsigned t)
{
    struct rig_thing thing = rig->things[snapshot];
    struct dt_error err;

    if (!thing.labelled) {
        if (pool_label(rig->pool, model_slot(rig, snapshot), NULL, &err) == 0)
            rig->things[snapshot].labelled = true;
        return;
    }
    snprintf(thing.name, sizeof(thing.name), "c%u", ++rig->stamp);
    if (pool_clone(rig->pool, model_slot(rig, snapshot), thing.name, 1, false, 0, &err) < 0)
        return;
    thing.snapshot = thing.labelled = false;
    thing.quota = 0;
    thing.origin = snapshot + 1;
    model_add(rig, t, &thing);
    model_push(rig);
    model_mount(rig, t);
}

bool model_has_clones(const struct rig *rig, unsigned snapshot)
{
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && !rig->things[t].snapshot &&
            rig->things[t].origin == snapshot + 1)
            return true;
    return false;
}

static unsigned newest(const struct rig *rig, unsigned disk)
{
    unsigned best = RIG_THINGS;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].snapshot && rig->things[t].disk == disk &&
            (best == RIG_THINGS || rig->things[t].order > rig->things[best].order))
            best = t;
    return best;
}

void op_delete_snapshot(struct rig *rig, unsigned t)
{
    struct dt_error err;
    int ret;

    if (rig->things[t].labelled && !model_has_clones(rig, t) &&
        pool_unlabel(rig->pool, model_slot(rig, t), &err) == 0)
        rig->things[t].labelled = false;
    ret = pool_delete_snapshot(rig->pool, model_slot(rig, t), &err);
    if (ret == -EAGAIN || (ret < 0 && rig->store->flush_failed))
        return;
    CHECK((ret < 0) == (rig->things[t].labelled || model_has_clones(rig, t)));
    if (ret == 0) {
        model_drop(rig, t);
        model_push(rig);
    }
}

void op_delete_disk(struct rig *rig, unsigned t)
{
    struct dt_error err;
    uint32_t slot = model_slot(rig, t);
    unsigned s;

    model_unmount(rig, t);
    if (pool_delete_disk(rig->pool, slot, &err) < 0) {
        model_mount(rig, t);
        return;
    }
    model_drop(rig, t);
    while ((s = newest(rig, t)) < RIG_THINGS && !rig->things[s].labelled &&
           !model_has_clones(rig, s))
        model_drop(rig, s);
    model_push(rig);
    if (s < RIG_THINGS)
        rig->things[t].used = rig->things[t].headless = true;
    else
        rig->things[t].origin = 0;
}

/* A deleted disk without snapshots is gone for good. */
void op_bury(struct rig *rig)
{
    struct dt_error err;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].headless && newest(rig, t) == RIG_THINGS &&
            pool_delete_disk(rig->pool, model_slot(rig, t), &err) == 0) {
            rig->things[t].used = rig->things[t].headless = false;
            model_push(rig);
        }
}

/* One of its snapshots, mostly the newest. */
static unsigned goal(struct rig *rig, unsigned disk)
{
    unsigned best = newest(rig, disk), t = (unsigned)dt_rng_below(&rig->rng, RIG_THINGS);

    return rig->things[t].used && rig->things[t].snapshot && rig->things[t].disk == disk ? t : best;
}

/* What is newer than @s goes; true: all of that can. */
static bool drop_newer(struct rig *rig, unsigned disk, unsigned s, bool drop)
{
    for (unsigned t = 0; t < RIG_THINGS; t++) {
        if (!rig->things[t].used || !rig->things[t].snapshot || rig->things[t].disk != disk ||
            rig->things[t].order <= rig->things[s].order)
            continue;
        if (!drop && (rig->things[t].labelled || model_has_clones(rig, t)))
            return false;
        if (drop)
            model_drop(rig, t);
    }
    return true;
}

static void op_rollback(struct rig *rig, unsigned t)
{
    unsigned s = goal(rig, t);
    struct dt_error err;
    int ret;

    if (s == RIG_THINGS)
        return;
    model_unmount(rig, t);
    if (s == newest(rig, t))
        ret = pool_rollback(rig->pool, model_slot(rig, t), model_slot(rig, s), &err);
    else
        ret = pool_rollback_past(rig->pool, model_slot(rig, t), model_slot(rig, s), &err);
    model_mount(rig, t);
    if (!drop_newer(rig, t, s, false)) {
        CHECK(ret == -EBUSY);
        return;
    }
    /* They go before, and stay away where it cannot go on. */
    if (s != newest(rig, t) &&
        pool_find(rig->pool, rig->things[newest(rig, t)].name, &err) == NO_SLOT) {
        drop_newer(rig, t, s, true);
        model_push(rig);
    }
    if (ret < 0)
        return;
    rig->branches += pool_record(rig->pool, model_slot(rig, t))->past_keep > 0;
    model_set_size(rig, &rig->things[t], rig->things[s].blocks);
    for (unsigned i = 0; i < RIG_SECTORS; i++)
        model_set_sector(rig, &rig->things[t], i, rig->things[s].sector[i]);
    model_push(rig);
}

/* ---- Histories ---- */

static void op_history(struct rig *rig, unsigned t)
{
    uint32_t seconds = (uint32_t)dt_rng_below(&rig->rng, 30);
    uint64_t most = dt_rng_below(&rig->rng, 2) ? dt_rng_below(&rig->rng, 100) * PX_BLOCK : 0;
    struct dt_error err;

    rig->histories += pool_history(rig->pool, model_slot(rig, t), seconds, most, &err) == 0;
    if (dt_rng_below(&rig->rng, 2))
        pool_history_turn(rig->pool);
}

/* ---- Sharing ---- */

/* It may be turned off and on again; some of its work is done at once, or all of a round. */
static void op_share(struct rig *rig)
{
    bool all = dt_rng_below(&rig->rng, 2);
    struct dt_error err;
    int ret;

    if (dt_rng_below(&rig->rng, 8) == 0 && rig->store->pending_n == 0) {
        model_settle(rig);
        if (model_did(rig, pool_set_share(rig->pool, PX_SHARE_OFF, SHARE_LEAST_RATE, &err)) &&
            model_did(rig, pool_set_share(rig->pool, PX_SHARE_WRITES, SHARE_LEAST_RATE, &err)))
            model_promise(rig, rig->states);
    }
    do
        ret = pool_share_now(rig->pool, (1 + dt_rng_below(&rig->rng, 20)) * 2 * PX_BLOCK);
    while (ret > 0 && all);
    CHECK(ret >= 0 || rig->store->flush_failed);
}

void rig_share(struct rig *rig)
{
    struct dt_error err;

    rig->shares = true;
    model_settle(rig);
    CHECK(pool_set_share(rig->pool, PX_SHARE_WRITES, SHARE_LEAST_RATE, &err) == 0);
}

static void op_root(struct rig *rig)
{
    struct dt_error err;

    model_settle(rig);
    if (model_did(rig, pool_checkpoint(rig->pool, &err)))
        model_promise(rig, rig->states);
}

/* ---- Preallocation ---- */

/* It begins, ends, and begins again; the store destroys what it works on. */
static void op_preallocate(struct rig *rig)
{
    struct dt_error err;

    model_settle(rig);
    if (model_did(rig,
                  pool_set_preallocation(
                      rig->pool, (enum px_preallocation)dt_rng_below(&rig->rng, PX_PREALLOCATIONS),
                      &err)))
        op_root(rig);
}

/* ---- Pins ---- */

static void pin_held(struct pool_pin *pin, const struct px_root *root)
{
    struct rig *rig = container_of(pin, struct rig, pin);

    CHECK(rig->pinned == RIG_PINNING);
    rig->pinned = RIG_PINNED;
}

static void pin_lost(struct pool_pin *pin, const char *why)
{
    struct rig *rig = container_of(pin, struct rig, pin);

    CHECK(rig->pinned != RIG_FREE);
    rig->pinned = RIG_FREE;
    rig->pins_lost++;
}

/* Whatever was done since it was pinned, a root is as it was; for some steps. */
static void op_pin(struct rig *rig)
{
    struct dt_error err;

    if (rig->pinned == RIG_FREE) {
        rig->pin = (struct pool_pin){.owner = "a check", .held = pin_held, .lost = pin_lost};
        if (!model_did(rig, pool_pin(rig->pool, &rig->pin, &err)))
            return;
        rig->pinned = RIG_PINNING;
        rig->pins++;
    } else if (rig->pinned == RIG_PINNED) {
        rig_check_root(rig->store, &rig->pin.root);
        rig->pins_checked++;
        if (dt_rng_below(&rig->rng, 3) == 0) {
            pool_unpin(rig->pool, &rig->pin);
            rig->pinned = RIG_FREE;
        }
    }
}

/* ---- Receiving ---- */

static void what_arrives(struct rig *rig, struct pool_received *what, unsigned base, char *name)
{
    const struct px_record *r = pool_record(rig->pool, model_slot(rig, base));

    *what = (struct pool_received){
        .size = r->size, .created = 1, .sector = r->sector, .name = name, .base_name = r->name};
    snprintf(name, PX_NAME, "r%u", ++rig->stamp);
    memcpy(what->snapshot, &rig->stamp, sizeof(rig->stamp));
    memcpy(what->base, r->uuid, sizeof(what->base));
}

/* All at once: the disk that was written goes, its contents are the other's, which has one snapshot more. */
static void end_receiving(struct rig *rig, unsigned disk, unsigned staged, unsigned t,
                          const struct pool_received *what)
{
    struct dt_error err;
    int ret;

    model_unmount(rig, disk);
    model_unmount(rig, staged);
    model_settle(rig);
    ret = pool_receive_end(rig->pool, rig->things[disk].name, what, &err);
    model_mount(rig, disk);
    if (ret < 0) {
        model_mount(rig, staged);
        return;
    }
    rig->branches += pool_record(rig->pool, model_slot(rig, disk))->past_keep > 0;
    model_set_size(rig, &rig->things[disk], rig->things[staged].blocks);
    for (unsigned i = 0; i < RIG_SECTORS; i++)
        model_set_sector(rig, &rig->things[disk], i, rig->things[staged].sector[i]);
    model_drop(rig, staged);
    model_snapshot(rig, disk, t, what->name);
    model_push(rig);
    model_make_durable(rig);
}

/* What arrives is written to a disk of its own, which sometimes stays as it is when a stream breaks off. */
static void op_receive(struct rig *rig, unsigned disk)
{
    unsigned base = model_empty(rig), staged, t;
    struct pool_received what;
    struct rig_thing thing;
    char name[PX_NAME];
    struct dt_error err;
    uint64_t position;

    if (base == RIG_THINGS || strchr(rig->things[disk].name, '~'))
        return;
    op_snapshot(rig, disk, base);
    model_turn(rig);
    if (!rig->things[base].used)
        return;
    staged = model_empty(rig);
    if (staged == RIG_THINGS)
        return;
    what_arrives(rig, &what, base, name);
    if (dt_rng_below(&rig->rng, 3) == 0)
        what.size = (uint64_t)model_any_size(rig) * PX_BLOCK;
    if (pool_receive_begin(rig->pool, rig->things[disk].name, &what, false, &position, &err) < 0)
        return;
    thing = rig->things[base];
    thing.snapshot = false;
    thing.origin = base + 1;
    snprintf(thing.name, sizeof(thing.name), "%.60s~", rig->things[disk].name);
    thing.quota = 0;
    model_add(rig, staged, &thing);
    rig->counts.resized += thing.blocks != what.size >> PX_BLOCK_SHIFT;
    model_set_size(rig, &rig->things[staged], (unsigned)(what.size >> PX_BLOCK_SHIFT));
    model_push(rig);
    model_turn(rig); /* as rig_step() does: from here on it outlives the process */
    model_mount(rig, staged);
    for (unsigned i = 0; i < 3 && rig->disks[staged]; i++) {
        op_writes(rig, staged);
        if (dt_rng_below(&rig->rng, 2))
            pool_receive_progress(rig->pool, rig->things[disk].name, (i + 1) * PX_BLOCK, &err);
    }
    t = model_empty(rig);
    if (t < RIG_THINGS && rig->disks[disk] && rig->disks[staged] && dt_rng_below(&rig->rng, 4))
        end_receiving(rig, disk, staged, t, &what);
}

static void op_on_snapshots(struct rig *rig, unsigned what)
{
    unsigned disk = pick(rig, false), snapshot = pick(rig, true), t = model_empty(rig);

    if (what < 5 && disk < RIG_THINGS && t < RIG_THINGS)
        op_snapshot(rig, disk, t);
    else if (what < 7 && snapshot < RIG_THINGS && t < RIG_THINGS)
        op_clone(rig, snapshot, t);
    else if (what < 10 && snapshot < RIG_THINGS)
        op_delete_snapshot(rig, snapshot);
    else if (what < 11 && disk < RIG_THINGS)
        op_delete_disk(rig, disk);
    else if (what < 12 && disk < RIG_THINGS) {
        model_settle(rig);
        op_rollback(rig, disk);
    } else if (what < 13 && disk < RIG_THINGS) {
        op_receive(rig, disk);
    } else {
        op_bury(rig);
    }
}

void rig_step(struct rig *rig)
{
    unsigned what = (unsigned)dt_rng_below(&rig->rng, 44), disk = pick(rig, false);

    rig->now += DT_S(1);
    if (disk == RIG_THINGS || what == 0) {
        if (model_empty(rig) < RIG_THINGS)
            op_create(rig, model_empty(rig));
        model_turn(rig);
    } else if (what < 15) {
        op_on_snapshots(rig, what - 1);
        model_turn(rig); /* from here on it outlives the process */
    } else if (what == 15) {
        model_make_durable(rig);
    } else if (what == 17) {
        op_quota(rig, disk);
        model_turn(rig);
    } else if (what == 18) {
        op_history(rig, disk);
        model_turn(rig);
    } else if ((what == 19 || what == 20) && rig->shares) {
        op_share(rig);
        model_turn(rig);
    } else if (what == 21 || what == 22) {
        op_reads(rig);
    } else if (what == 23) {
        op_cache(rig);
    } else if (what == 24 || what == 25) {
        op_pin(rig);
        model_turn(rig);
    } else if (what == 26 && rig->store->pending_n == 0) {
        op_preallocate(rig);
    } else if (what == 16 && rig->store->pending_n == 0) {
        op_root(rig);
    } else if (what == 27 || what == 28) {
        op_resize(rig, disk);
        model_turn(rig);
    } else if (what == 29 && rig->store->pending_n == 0) {
        op_grow(rig);
    } else {
        op_writes(rig, disk);
    }
    if (dt_rng_below(&rig->rng, 3) == 0)
        model_turn(rig);
}
