/* SPDX-License-Identifier: MIT */
/* px_space.c - operations about space: sizes of disks and of the pool, quotas, and a pool that is full; px_rig.h. */
#include "px_model.h"

/* ---- Sizes ---- */

/* Some have maps of two and of three levels. */
unsigned model_any_size(struct rig *rig)
{
    switch (dt_rng_below(&rig->rng, 8)) {
    case 0:
        return 300;
    case 1:
        return 70000;
    case 2:
    case 3:
    case 4:
        return 1 + (unsigned)dt_rng_below(&rig->rng, RIG_BLOCKS);
    default:
        return RIG_BLOCKS;
    }
}

/* What is cut off is gone, and zeroes when it comes back. */
void op_resize(struct rig *rig, unsigned t)
{
    unsigned was = rig->things[t].blocks, blocks = model_any_size(rig);
    bool smaller = blocks < was;
    struct dt_error err;
    int ret;

    if (smaller) { /* nobody may have it open */
        model_settle(rig);
        model_unmount(rig, t);
    }
    ret = pool_resize(rig->pool, model_slot(rig, t), (uint64_t)blocks * PX_BLOCK, &err);
    if (smaller)
        model_mount(rig, t);
    if (ret < 0)
        return;
    rig->counts.larger += blocks > was;
    rig->counts.smaller += smaller;
    model_set_size(rig, &rig->things[t], blocks);
    model_push(rig);
}

void op_grow(struct rig *rig)
{
    uint64_t more = 1 + dt_rng_below(&rig->rng, 64);
    struct dt_error err;

    model_settle(rig);
    if (rig->store->pending_n || rig->store->s.blocks + more > rig->most)
        return;
    rig_extend(rig->store, more);
    if (!model_did(rig, pool_grow(rig->pool, &err)))
        return;
    model_promise(rig, rig->states);
    rig->counts.grown++;
}

/* ---- Quotas ---- */

void op_quota(struct rig *rig, unsigned t)
{
    uint64_t charged = pool_record(rig->pool, model_slot(rig, t))->charged;
    uint64_t more = dt_rng_below(&rig->rng, 20);

    model_set_quota(rig, t, more ? charged + more : 0,
                    (enum px_policy)dt_rng_below(&rig->rng, PX_POLICIES));
}

/* ---- A full pool ---- */

static bool delete_one(struct rig *rig, bool snapshot, bool labelled)
{
    unsigned start = (unsigned)dt_rng_below(&rig->rng, RIG_THINGS);

    for (unsigned i = 0; i < RIG_THINGS; i++) {
        unsigned t = (start + i) % RIG_THINGS;
        const struct rig_thing *thing = &rig->things[t];

        if (!thing->used || thing->headless || thing->snapshot != snapshot || rig->busy[t])
            continue;
        if (snapshot && (thing->labelled != labelled || model_has_clones(rig, t)))
            continue;
        if (snapshot)
            op_delete_snapshot(rig, t);
        else
            op_delete_disk(rig, t);
        if (!thing->used || thing->headless)
            return true;
    }
    return false;
}

/* Nothing else is left: what they were is kept for nobody. */
static bool forget_histories(struct rig *rig)
{
    struct dt_error err;
    bool any = false;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && !rig->things[t].snapshot && !rig->things[t].headless &&
            pool_record(rig->pool, model_slot(rig, t))->past_keep)
            any |= pool_history(rig->pool, model_slot(rig, t), 0, 0, &err) == 0;
    return any;
}

void model_make_room(struct rig *rig)
{
    bool done = delete_one(rig, true, false) || delete_one(rig, false, false) ||
                delete_one(rig, true, true);

    rig->counts.made += done;
    op_bury(rig);
    if (!done)
        forget_histories(rig);
    model_turn(rig);
}

/* Blocks that are like no others, in disks that can be deleted. */
void rig_fill(struct rig *rig, uint64_t leave)
{
    struct pool_info info;
    unsigned t;

    for (unsigned n = 0; n < 12 && (t = model_empty(rig)) < RIG_THINGS; n++) {
        op_create(rig, t);
        model_turn(rig);
        if (!rig->things[t].used)
            return;
        model_settle(rig);
        for (unsigned at = 0; at + 48 <= model_sectors(&rig->things[t]); at += 48) {
            pool_info(rig->pool, &info);
            if (info.free < leave)
                return;
            model_submit(rig, t, DISK_WRITE, at, 48);
            model_run(rig);
        }
    }
}
