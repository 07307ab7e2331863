/* SPDX-License-Identifier: MIT */
/* lock.c - the image is ours alone, and no I/O of a dead predecessor can reach it (base/filelock.c). */
#include "base/filelock.h"
#include "blk/file/internal.h"

static struct filelock lock_of(const struct file *f)
{
    return (struct filelock){.path = f->path, .fd = f->fd, .read_only = f->read_only};
}

/* Live migration: for a while two serve the same disk, and the VMMs see to it that one of them
 * rests. What lives has not crashed; what has died must be waited for even here. */
static bool shared_on_purpose(struct dt_layer *layer)
{
    const struct file *f = dt_layer_data(layer);
    const char *device = dt_layer_device(layer);
    struct filelock l = lock_of(f);
    char command[FILELOCK_COMMAND];
    int pid;

    if (f->lock || !filelock_fence_holder(&l, device, &pid, command))
        return false;
    log_warning("%s: %s (pid %d) serves it as %s too: old I/O may land after a crash, until "
                "'devtap do %s %s lock'",
                f->path, command, pid, device, device, dt_layer_name(layer));
    return true;
}

int file_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct file *f = dt_layer_data(layer);
    struct filelock l = lock_of(f);
    int ret = f->lock ? filelock_image(&l, deadline, err) : 0;

    if (ret == 0)
        ret = filelock_fence(&l, dt_layer_device(layer), deadline, err);
    if (ret == -EBUSY && shared_on_purpose(layer))
        return 0;
    if (ret == 0 || ret == -EBUSY)
        return ret;
    if (f->lock)
        return dt_fail(err, ret,
                       "%s: its file system cannot lock it: %s (lock=off would do without)",
                       f->path, strerror(-ret));
    log_warning("%s: its file system has no locks (%s): after a crash, old I/O may still land",
                f->path, strerror(-ret));
    return 0;
}

/* Without waiting: the VM is served meanwhile. Locks that we have already are no obstacle. */
int file_lock_now(struct dt_layer *layer, struct dt_error *err)
{
    struct filelock l = lock_of(dt_layer_data(layer));

    return filelock_own(&l, dt_layer_device(layer), 0, err);
}
