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
/** change_live() - the record of @slot if it is of this @kind and not being deleted, or NULL. */
const struct px_record *change_live(const struct pool *pool, uint32_t slot, enum px_kind kind);

#endif
