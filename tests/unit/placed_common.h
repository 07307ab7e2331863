/* SPDX-License-Identifier: MIT */
/*
 * placed_common.h - for tests of placed extensions: a front that makes verified random load, a disk
 * of memory that answers late and out of order, and extensions that do what extensions do.
 */
#ifndef PLACED_COMMON_H
#define PLACED_COMMON_H

#include "blk/channel/placed.h"

#define DISK_BLOCKS   512u
#define BLOCK         4096u
#define BLOCK_SECTORS (BLOCK / DT_SECTOR_SIZE)
#define DEPTH         64u

/** struct rig - a device, its load, and what was counted. */
struct rig {
    struct loop *loop;
    struct device *dev;
    struct dt_rng rng;
    unsigned depth, max_blocks;
    uint64_t submitted, completed, errors, mismatches, doubled;
    unsigned in_flight;
    bool stop; /* submit no more */
};
extern struct rig rig;

/** rig_register() - the disk and the extensions below; once, before anything else. */
void rig_register(void);
/** rig_open() - the chain above `disk`; an error ends the test. */
void rig_open(const char *chain);
int rig_try(const char *chain, struct dt_error *err);
void rig_close(void);
/** rig_turn() - load, answers of the disk, one turn of the loop. */
void rig_turn(void);
void rig_run(uint64_t ns);
/** rig_drain() - until nothing is in flight; false when that took longer than @ns. */
bool rig_drain(uint64_t ns);
/** rig_set_memory() - the device has 0, 1 or 2 pieces of the memory in which the load's data lie; nothing is in flight. */
void rig_set_memory(unsigned regions);
pid_t rig_pid(unsigned *restarts);
/** rig_one() - one request by hand, of zeroed data; its error, or 1 if it did not complete in @ns.
 */
int rig_one(enum dt_op op, uint64_t sector, uint32_t sectors, uint64_t ns);
/** disk_block() - what is stored. */
const uint8_t *disk_block(unsigned block);
void disk_late(bool late);

#endif
