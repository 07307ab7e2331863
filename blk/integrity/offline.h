/* SPDX-License-Identifier: MIT */
/* offline.h - disks with checksums that no VM uses, compared. */
#ifndef INTEGRITY_OFFLINE_H
#define INTEGRITY_OFFLINE_H

#include "blk/integrity/format.h"

/** struct integrity_file - an open file of checksums. */
struct integrity_file {
    const char *path;
    int fd;
    struct integrity_header header;
    struct integrity_layout at;
    struct integrity_map_sector *map;
};

/**
 * struct integrity_found - what a comparison found, in blocks.
 * @changing: do not fit, in regions that were being written when all stopped.
 * @damaged: called for each block that does not fit, elsewhere.
 */
struct integrity_found {
    uint64_t fit, unknown, changing, damage;
    void (*damaged)(uint64_t byte);
};

/** integrity_file_open() - open for reading, and lock it. */
int integrity_file_open(struct integrity_file *file, const char *path, struct dt_error *err);
void integrity_file_close(struct integrity_file *file);
/** integrity_file_open_regions() - those whose bit is set. */
uint64_t integrity_file_open_regions(const struct integrity_file *file);
/** integrity_file_check() - compare with the disk at @disk. */
int integrity_file_check(const struct integrity_file *file, const char *disk,
                         struct integrity_found *found, struct dt_error *err);

#endif
