/* SPDX-License-Identifier: MIT */
/* change.h - what change.c, change-check.c and manage.c share. */
#ifndef PARALLAX_CHANGE_H
#define PARALLAX_CHANGE_H

#include "parallax/internal.h"

#define LONG_NAME (PX_NAME + 21)

bool change_good_name(const char *name);
/** change_refuse_name() - say that @name is none. Return: -EINVAL. */
int change_refuse_name(const char *name, struct dt_error *err);
/** change_clone_name() - the name of the @i-th clone, of LONG_NAME bytes at most: it may be too
 * long for a name by the digits of its number, which change_check() sees. */
void change_clone_name(const struct px_change *c, uint64_t i, char *name);
bool change_good_size(uint64_t size);
bool change_slot_free(const struct pool *pool, uint32_t slot);
/** change_new_name() - could something be called so: a snapshot of @disk, or with NO_SLOT a disk? */
int change_new_name(struct pool *pool, uint32_t disk, const char *name, struct dt_error *err);
/** change_live() - the record of @slot if it is of this @kind and not being deleted, or NULL. */
const struct px_record *change_live(const struct pool *pool, uint32_t slot, enum px_kind kind);
int change_snapshot(struct pool *pool, const struct px_change *c);
void change_begin_dying(struct pool *pool, uint32_t slot);
/** change_begin() - with the present time and a new UUID. */
void change_begin(struct px_change *c, enum px_change_op op, uint32_t slot);
/** change_clock() - the time that is written down, ns since 1970. */
uint64_t change_clock(const struct pool *pool);
/** change_commit() - carry out @n changes at once, all of them or none. */
int change_commit(struct pool *pool, struct px_change *changes, unsigned n, struct dt_error *err);
/** change_new_disk() - the record of the empty disk that @c makes. */
struct px_record change_new_disk(const struct px_change *c);
int change_not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err);

/* ---- Receiving (receive.c) ---- */

/** change_staging() - is this a disk that is being received? */
bool change_staging(const struct px_record *r);
int receive_check(struct pool *pool, const struct px_change *c, struct dt_error *err);
int receive_apply(struct pool *pool, const struct px_change *c);

#endif
