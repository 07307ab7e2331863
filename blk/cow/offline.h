/* SPDX-License-Identifier: MIT */
/* offline.h - overlays that no VM uses: looked at, checked, and brought together with bases. */
#ifndef COW_OFFLINE_H
#define COW_OFFLINE_H

#include "blk/cow/format.h"

/**
 * struct cow_file - an overlay.
 * @map:  what it holds.
 * @ours: its live map is of this boot, so that it counts.
 */
struct cow_file {
    const char *path;
    int fd;
    bool writable, ours;
    struct cow_header header;
    struct cow_layout at;
    struct cow_map_sector *map;
};

/**
 * cow_file_open() - open and lock it. With @write what is only in the live map is stored first.
 * @bad: if not NULL, sectors of the maps that are damaged are counted and left out, instead of
 *       being an error.
 */
int cow_file_open(struct cow_file *file, const char *path, bool write, uint64_t *bad,
                  struct dt_error *err);
void cow_file_close(struct cow_file *file);
/** cow_file_count() - granules that it holds. */
uint64_t cow_file_count(const struct cow_file *file);

/** cow_file_commit() - write all that it holds into the base, and flush that. */
int cow_file_commit(const struct cow_file *file, const char *base, struct dt_error *err);
/** cow_file_reset() - it holds nothing any more. */
int cow_file_reset(struct cow_file *file, struct dt_error *err);
/**
 * cow_file_rebase() - make it an overlay of @new that reads as it did on @old.
 * @base_id: of the new base, or NULL: its content is.
 * @copied: set to the granules that the bases differ in.
 */
int cow_file_rebase(struct cow_file *file, const char *old, const char *new, const char *base_id,
                    uint64_t *copied, struct dt_error *err);

#endif
