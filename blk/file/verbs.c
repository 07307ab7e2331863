/* SPDX-License-Identifier: MIT */
/* verbs.c - growing, shrinking and locking the disk while the VM runs. */
#include "blk/file/internal.h"

/* The new size is in force before the file shrinks, so that new requests cannot reach behind it. */
static void announce(struct dt_layer *layer, struct file *f, uint64_t bytes)
{
    __atomic_store_n(&f->sectors, bytes >> DT_SECTOR_SHIFT, __ATOMIC_RELAXED);
    dt_layer_info_changed(layer);
}

static int judge_resize(const struct file *f, int argc, const char *const *argv, uint64_t now,
                        uint64_t *wanted, struct dt_error *err)
{
    bool shrink = argc == 2 && strcmp(argv[1], "shrink") == 0;

    if (argc < 1 || argc > 2 || (argc == 2 && !shrink))
        return dt_fail(err, -EINVAL, "usage: resize SIZE [shrink]");
    if (dt_parse_size(argv[0], wanted) < 0 || *wanted == 0 || *wanted > INT64_MAX)
        return dt_fail(err, -EINVAL, "'%s' is not a size (such as 20G)", argv[0]);
    if (f->is_device)
        return dt_fail(err, -EINVAL,
                       "%s is a block device: resize it by its own means, then 'rescan'", f->path);
    if (f->read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", f->path);
    if (*wanted % f->block)
        return dt_fail(err, -EINVAL, "%s is not a multiple of the block size, %u", argv[0],
                       f->block);
    if (*wanted < now && !shrink)
        return dt_fail(err, -EINVAL,
                       "%s is less than the disk has (%llu bytes); if what lies behind may be "
                       "lost: 'resize %s shrink'",
                       argv[0], (unsigned long long)now, argv[0]);
    return 0;
}

static int resize(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    struct file *f = dt_layer_data(layer);
    uint64_t now = f->sectors << DT_SECTOR_SHIFT, wanted;
    int ret = judge_resize(f, argc, argv, now, &wanted, err);

    if (ret < 0)
        return ret;
    if (wanted < now)
        announce(layer, f, wanted);
    if (ftruncate(f->fd, (off_t)wanted) < 0) {
        ret = dt_fail(err, -errno, "%s: %s", f->path, strerror(errno));
        announce(layer, f, now);
        return ret;
    }
    if (wanted > now)
        announce(layer, f, wanted);
    dt_reply_u64(reply, "before", now);
    dt_reply_u64(reply, "size", wanted);
    return 0;
}

static int rescan(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    struct file *f = dt_layer_data(layer);
    uint64_t before = f->sectors << DT_SECTOR_SHIFT, now;
    int ret;

    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    ret = file_current_size(f, &now, err);
    if (ret < 0)
        return ret;
    if (now != before)
        announce(layer, f, now);
    dt_reply_u64(reply, "before", before);
    dt_reply_u64(reply, "size", now);
    return 0;
}

static int lock(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                struct dt_error *err)
{
    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    return file_lock_now(layer, err);
}

const struct dt_verb file_verbs[] = {
    {"resize", "SIZE [shrink]",
     "Make the file longer, or with 'shrink' shorter; the guest sees it.", resize},
    {"rescan", "", "Take over the size that the file or device has now.", rescan},
    {"lock", "", "Lock the image after a start with lock=off, if nobody else has it.", lock},
    {NULL},
};
