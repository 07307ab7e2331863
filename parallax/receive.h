/* SPDX-License-Identifier: MIT */
/*
 * receive.h - a snapshot that arrives from elsewhere, in a pool: seen when it is whole, or not at
 * all.
 *
 * What arrives is written into a disk of its own, whose name is that of the disk that it is for
 * with a '~' behind: no name that anybody could have given. It is a clone of the stream's base, or
 * empty. At the end it takes the disk's place, and the snapshot is taken, in one change.
 */
#ifndef PARALLAX_RECEIVE_H
#define PARALLAX_RECEIVE_H

#include "parallax/parallax.h"

/** struct pool_received - what arrives. @base: zero where all of it arrives. Names are for
 * messages, but for @name: the snapshot gets it. */
struct pool_received {
    uint8_t snapshot[16], base[16];
    uint64_t size, created;
    uint32_t sector;
    const char *name, *base_name;
};

/** pool_receive_name() - of the disk that is written meanwhile, into @text of PX_NAME + 1. */
void pool_receive_name(const char *disk, char *text);
/**
 * pool_receive_begin() - make the disk to write to; with @resume, find it.
 * @position: all before this byte is there already.
 * Return: 0; -EEXIST an earlier one broke off, and @resume is not set; -ESTALE the base is not what
 * @disk holds.
 */
int pool_receive_begin(struct pool *pool, const char *disk, const struct pool_received *what,
                       bool resume, uint64_t *position, struct dt_error *err);
/** pool_receive_progress() - all before @position is there, and durable with this change. */
int pool_receive_progress(struct pool *pool, const char *disk, uint64_t position,
                          struct dt_error *err);
/** pool_receive_end() - it is whole: make it the disk's newest snapshot. -EAGAIN while it is still
 * mounted. */
int pool_receive_end(struct pool *pool, const char *disk, const struct pool_received *what,
                     struct dt_error *err);

#endif
