/* SPDX-License-Identifier: MIT */
/*
 * transfer.h - reads and writes of a whole disk, several under way: through the pool where this process
 * has it, else as a client of the process that does.
 */
#ifndef CVD_TRANSFER_H
#define CVD_TRANSFER_H

#include "tools/cvd/cvd.h"

#define TRANSFER_PIECE (DISK_MAX_BLOCKS * (size_t)PX_BLOCK)

struct transfer;

/** struct piece - one request. @buf: of TRANSFER_PIECE bytes. */
struct piece {
    enum disk_op op;
    uint64_t offset, length;
    void *buf;
};

/**
 * transfer_open() - mount the target's disk.
 * @landed: what was read is in @piece; 0 or -errno. Or NULL.
 */
int transfer_open(struct transfer **transfer, struct target *t, bool read_only,
                  int (*landed)(void *arg, const struct piece *piece), void *arg,
                  struct dt_error *err);
uint64_t transfer_size(const struct transfer *transfer);
/** transfer_get() - a piece that is free; waits for one. NULL after an error. */
struct piece *transfer_get(struct transfer *transfer);
/** transfer_submit() - DISK_READ or DISK_WRITE of @length bytes, which it has or will have. */
void transfer_submit(struct transfer *transfer, struct piece *piece, enum disk_op op,
                     uint64_t offset, uint64_t length);
/** transfer_zero() - make the range read as zeroes. Waits. */
int transfer_zero(struct transfer *transfer, uint64_t offset, uint64_t length);
/** transfer_settle() - wait for all that is under way. Return: the first error, or 0. */
int transfer_settle(struct transfer *transfer);
/** transfer_error() - the first error, or 0. */
int transfer_error(const struct transfer *transfer);
/** transfer_close() - wait for all; @durable: and make it so. Returns @ret or the first error. */
int transfer_close(struct transfer *transfer, bool durable, int ret, const char *what,
                   struct dt_error *err);

#endif
