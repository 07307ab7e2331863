/* SPDX-License-Identifier: MIT */
/* store-space.h - the space that a file has where nothing of it is in use. */
#ifndef PARALLAX_STORE_SPACE_H
#define PARALLAX_STORE_SPACE_H

#include "base/base.h"

/** store_space_punch() - a hole, or on a device a discard. -EOPNOTSUPP where there is no such thing. */
int store_space_punch(int fd, uint64_t at, uint64_t bytes);
/** store_space_allocate() - blocks of the file system, which count as not written. */
int store_space_allocate(int fd, uint64_t at, uint64_t bytes);
/** store_space_zero() - write zeroes; @fd may be one with O_DIRECT. */
int store_space_zero(int fd, uint64_t at, uint64_t bytes);

/** store_space_has_map() - does the file system tell of what was allocated and not written? */
bool store_space_has_map(int fd);
/** store_space_find() - the first piece from @at on, and before *@end, that has space: from *@from to *@end; nothing, if these are
 * the same. @map: asked of the file system's map, or else what was written alone. */
int store_space_find(int fd, bool map, uint64_t at, uint64_t *end, uint64_t *from);

#endif
