/* SPDX-License-Identifier: MIT */
/* catalog.h - the records of disks and snapshots (catalog.c, catalog-store.c). */
#ifndef PARALLAX_CATALOG_H
#define PARALLAX_CATALOG_H

#include "parallax/tree.h"

/** struct slot_info - what is known of a slot besides its record. @next: the snapshot after this
 * one or NO_SLOT. */
struct slot_info {
    uint32_t next, clones, hash_next, readers;
    uint32_t branches; /* that fork from it */
    bool dead; /* free, but not to be used before the next root is durable: the journal speaks of it
                */
    struct disk *writer;
};

/** enum catalog_state - of a block: @CATALOG_DIRTY: changed since the last root was begun. @CATALOG_FROZEN: the root being made
 * has it, and its pointers here do not tell all checksums yet. */
enum catalog_state { CATALOG_DIRTY = 1, CATALOG_FROZEN = 2 };

struct catalog {
    struct px_record **blocks; /* of PX_RECORDS each */
    uint8_t *state;            /* of each block: enum catalog_state */
    struct slot_info *info;
    uint32_t slots, room; /* multiples of PX_RECORDS */
    uint32_t *hash;
    uint32_t hash_mask, named;
    uint32_t free_hint; /* no slot before it may be used */
    uint64_t dying;
    uint32_t *dead; /* slots, those that the root being made leaves out first */
    uint32_t dead_n, dead_room, dead_frozen;
    uint32_t *logs; /* slots of the histories that there are */
    uint32_t logs_n, logs_room;
    uint32_t *branches; /* slots of the first snapshots of branches */
    uint32_t branches_n, branches_room;
    uint32_t *doomed; /* slots that were, and may still be, being deleted; the newest last */
    uint32_t doomed_n, doomed_room;
};

int catalog_load(struct pool *pool, struct dt_error *err);
void catalog_fini(struct pool *pool);
struct px_record *catalog_record(const struct pool *pool, uint32_t slot);
void catalog_touch(struct pool *pool, uint32_t slot);
/** catalog_extend() - room for so many slots. catalog_link(): a record has come, and is in its line. catalog_rehash(): all
 * names anew. */
void catalog_extend(struct catalog *c, uint32_t slots);
void catalog_link(struct pool *pool, uint32_t slot);
void catalog_rehash(struct pool *pool);
/** catalog_claim() - put @record into a free @slot and make it known. */
int catalog_claim(struct pool *pool, uint32_t slot, const struct px_record *record);
/** catalog_release() - the slot is empty; used again after the next root. */
void catalog_release(struct pool *pool, uint32_t slot);
/** catalog_doom() - the slot is being deleted: catalog_doomed() is the one for which that was said last. */
void catalog_doom(struct pool *pool, uint32_t slot);
uint32_t catalog_doomed(struct pool *pool);
/** catalog_unname(), catalog_name() - around a change of name, parent or state. */
void catalog_unname(struct pool *pool, uint32_t slot);
void catalog_name(struct pool *pool, uint32_t slot);
uint32_t catalog_disk(const struct pool *pool, const char *name, size_t length);
uint32_t catalog_snapshot(const struct pool *pool, uint32_t disk, const char *name);
/** catalog_free_run() - the first of @count free slots in a row. */
uint32_t catalog_free_run(struct pool *pool, uint64_t count);
/** catalog_prepare() - have pages for up to *@budget changed blocks, from block *@cursor on. 1: there are more. */
int catalog_prepare(struct pool *pool, uint32_t *cursor, unsigned *budget);
/** catalog_freeze() - the root being made has the catalogue as it is now. */
int catalog_freeze(struct pool *pool);
/** catalog_resolve() - its trees are written: let up to *@budget blocks tell their checksums. True: there are more. */
bool catalog_resolve(struct pool *pool, uint32_t *cursor, unsigned *budget);
/** catalog_durable() - the root that was begun last is. */
void catalog_durable(struct pool *pool);

/* catalog-line.c */

/** catalog_epoch_before() - epoch of what came before this snapshot or disk in its line. */
uint64_t catalog_epoch_before(const struct pool *pool, uint32_t slot);
/** catalog_add_branch() - the snapshot begins a branch: make that known. */
void catalog_add_branch(struct pool *pool, uint32_t slot);
/** catalog_unlink() - a snapshot goes: what follows it follows what was before it. */
void catalog_unlink(struct pool *pool, uint32_t slot);
/** catalog_first_above() - the snapshot itself, or where branches fork from it, the beginning of one from which none forks. */
uint32_t catalog_first_above(const struct pool *pool, uint32_t slot);
/** struct aside - goes through the snapshots in branches of a disk, from the beginning of each on; begin with zeroes. */
struct aside {
    uint32_t branch, slot;
    bool begun;
};
bool catalog_aside(const struct pool *pool, uint32_t disk, struct aside *a);

/** catalog_tree() - how a slot's tree is to be changed. */
struct tree catalog_tree(struct pool *pool, uint32_t slot);
struct tree pool_catalog_tree(struct pool *pool);
struct tree pool_space_tree(struct pool *pool);

#endif
