/* SPDX-License-Identifier: MIT */
/*
 * filelock.h - locks on the files that hold disks: against others who use them, and against I/O of
 * a process that has died.
 */
#ifndef BASE_FILELOCK_H
#define BASE_FILELOCK_H

#include "base/base.h"

#define FILELOCK_COMMAND 32u

/**
 * struct filelock - an open file.
 * @path: for errors.
 * @fd: of an open file description of its own. The locks last as long as that, which I/O in flight
 *      keeps beyond the process.
 * @read_only: neither is it opened for writing, nor are other readers kept away.
 */
struct filelock {
    const char *path;
    int fd;
    bool read_only;
};

/**
 * filelock_image() - lock the file as QEMU locks an image (block/file-posix.c).
 * @deadline: ns of dt_clock_ns(), until which holders that are being killed are waited for; a
 *            holder that lives is given a moment.
 *
 * Return: 0; -EBUSY with who has it in @err; another -errno where the file system has no locks.
 */
int filelock_image(const struct filelock *l, uint64_t deadline, struct dt_error *err);
/** filelock_fence() - wait until no I/O can land of an earlier process that served the file as
 *  @device. Returns as filelock_image(). */
int filelock_fence(const struct filelock *l, const char *device, uint64_t deadline,
                   struct dt_error *err);
/** filelock_fence_holder() - the living process that has the fence, if one is seen. */
bool filelock_fence_holder(const struct filelock *l, const char *device, int *pid,
                           char command[FILELOCK_COMMAND]);
/** filelock_own() - both, for a file that no other program may share. */
int filelock_own(const struct filelock *l, const char *device, uint64_t deadline,
                 struct dt_error *err);

#endif
