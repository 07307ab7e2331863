/* SPDX-License-Identifier: MIT */
/* px_model.h - how operations change the model and the pool together; within px_rig.h. */
#ifndef TESTS_PX_MODEL_H
#define TESTS_PX_MODEL_H

#include "px_rig.h"

/* ---- The model ---- */

/** model_push() - it has a new state. */
void model_push(struct rig *rig);
/** model_promise() - the first so many of them outlive everything from now on. */
void model_promise(struct rig *rig, uint64_t states);
/** model_set_sector() - of a thing, without a new state. */
void model_set_sector(struct rig *rig, struct rig_thing *t, unsigned i, uint32_t stamp);
/** model_set_size() - likewise; what is cut off is gone. */
void model_set_size(struct rig *rig, struct rig_thing *t, unsigned blocks);
/** model_sectors() - how many of a thing may be written. */
unsigned model_sectors(const struct rig_thing *t);
/** model_add(), model_drop() - a thing comes or goes, without a new state. */
void model_add(struct rig *rig, unsigned t, const struct rig_thing *thing);
void model_drop(struct rig *rig, unsigned t);

/* ---- The pool ---- */

/** model_did() - did it succeed? It may fail only after a flush has. */
bool model_did(struct rig *rig, int ret);

/** model_slot() - where the pool has a thing. */
uint32_t model_slot(struct rig *rig, unsigned t);
/** model_turn() - what was changed is put into the journal, so it outlives the process. */
void model_turn(struct rig *rig);
/** model_settle() - turn until nothing is under way. */
void model_settle(struct rig *rig);
/** model_mount(), model_unmount() - a disk is opened, so that it can be written; others are left alone. */
void model_mount(struct rig *rig, unsigned t);
void model_unmount(struct rig *rig, unsigned t);
/** model_make_durable() - have what was done so far outlive everything, now or with the next flush. */
void model_make_durable(struct rig *rig);

/* ---- Both ---- */

/** model_submit() - a request to a thing that is mounted; the model follows when it is done. */
void model_submit(struct rig *rig, unsigned thing, enum disk_op op, unsigned sector, unsigned n);
/** model_run() - until all requests are done. Quotas that they wait for are lifted, and where they wait for space something is
 * deleted. */
void model_run(struct rig *rig);
/** model_make_room() - something is deleted that no request is for. */
void model_make_room(struct rig *rig);
/* ---- Operations, of px_space.c and px_operations.c: any of each kind ---- */

unsigned model_any_size(struct rig *rig);
/** model_empty() - a thing that is not used, or RIG_THINGS. */
unsigned model_empty(struct rig *rig);
bool model_has_clones(const struct rig *rig, unsigned snapshot);
void op_create(struct rig *rig, unsigned t);
void op_resize(struct rig *rig, unsigned t);
void op_delete_disk(struct rig *rig, unsigned t);
void op_delete_snapshot(struct rig *rig, unsigned t);
/** op_bury() - deleted disks without snapshots are gone for good. */
void op_bury(struct rig *rig);
void op_quota(struct rig *rig, unsigned t);
void op_grow(struct rig *rig);

void model_set_quota(struct rig *rig, unsigned t, uint64_t blocks, enum px_policy policy);

#endif
