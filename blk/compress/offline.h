/* SPDX-License-Identifier: MIT */
/* offline.h - compressed stores that no VM uses: looked at and checked. */
#ifndef COMPRESS_OFFLINE_H
#define COMPRESS_OFFLINE_H

#include "blk/compress/format.h"

/**
 * struct compress_file - an open store.
 * @ours:   its live map is of this boot, so that it counts.
 * @blocks: that are in the store.
 */
struct compress_file {
    const char *path;
    int fd;
    bool ours;
    struct compress_header header;
    struct compress_layout at;
    uint64_t size, blocks;
};

/**
 * struct compress_found - what a store holds.
 * @units:  that are not zeroes; @raw: of these, stored as they are. @stored: bytes of them, @taken:
 * blocks.
 * @problems: how many there were; @problem is called with each of them, if it is set.
 */
struct compress_found {
    uint64_t units, raw, stored, taken, problems;
    void (*problem)(const char *text);
};

/** compress_file_open() - open for reading, and lock it. */
int compress_file_open(struct compress_file *file, const char *path, struct dt_error *err);
void compress_file_close(struct compress_file *file);
/** compress_file_check() - go through both maps; with @content, compare all that is stored, too. An
 * error is one that says nothing about the store: what is wrong with that is counted. */
int compress_file_check(const struct compress_file *file, bool content,
                        struct compress_found *found, struct dt_error *err);

#endif
