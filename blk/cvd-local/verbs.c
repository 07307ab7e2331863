/* SPDX-License-Identifier: MIT */
/* verbs.c - snapshots, a larger disk, and what it occupies, while the VM runs. */
#include "blk/cvd-local/internal.h"
#include "blk/cvd/params.h"

static int snapshot(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    struct pool *pool = d->shared->pool;
    uint32_t disk = disk_slot(d->disk), slot;
    int ret;

    if (argc > 1)
        return dt_fail(err, -EINVAL, "usage: snapshot [NAME]");
    if (d->read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", d->name);
    ret = pool_snapshot(pool, &disk, 1, argc ? argv : NULL, &slot, err);
    ret = ret ?: pool_sync(pool, err);
    if (ret < 0)
        return ret;
    dt_reply(reply, "snapshot", "%s@%s", d->name, pool_record(pool, slot)->name);
    return 0;
}

static int label(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                 struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    struct pool *pool = d->shared->pool;
    uint32_t slot;
    int ret;

    if (argc < 1 || argc > 2 || !strchr(argv[0], '@'))
        return dt_fail(err, -EINVAL, "usage: label DISK@SNAPSHOT [NAME]");
    slot = pool_find(pool, argv[0], err);
    if (slot == NO_SLOT)
        return -ENOENT;
    ret = pool_label(pool, slot, argc > 1 ? argv[1] : NULL, err);
    return ret ?: pool_sync(pool, err);
}

static int delete_snapshot(struct dt_layer *layer, int argc, const char *const *argv,
                           struct dt_reply *reply, struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    struct pool *pool = d->shared->pool;
    uint32_t slot;
    int ret;

    if (argc != 1)
        return dt_fail(err, -EINVAL, "usage: delete DISK@SNAPSHOT");
    slot = pool_find(pool, argv[0], err);
    if (slot == NO_SLOT)
        return -ENOENT;
    ret = pool_delete_snapshot(pool, slot, err);
    return ret ?: pool_sync(pool, err);
}

static int snapshots(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);
    const struct pool *pool = d->shared->pool;
    uint64_t n = 0;

    for (uint32_t s = pool_snapshot_before(pool, disk_slot(d->disk)); s != NO_SLOT;
         s = pool_snapshot_before(pool, s))
        n++;
    dt_reply_u64(reply, "snapshots", n);
    if (pool_snapshot_before(pool, disk_slot(d->disk)) != NO_SLOT)
        dt_reply(reply, "newest", "%s",
                 pool_record(pool, pool_snapshot_before(pool, disk_slot(d->disk)))->name);
    return 0;
}

static int resize(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    uint64_t size, before = d->size;
    int ret;

    if (argc != 1 || dt_parse_size(argv[0], &size) < 0)
        return dt_fail(err, -EINVAL, "usage: resize SIZE (such as 20G)");
    if (d->read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", d->name);
    ret = pool_resize(d->shared->pool, disk_slot(d->disk), size, err);
    ret = ret ?: pool_sync(d->shared->pool, err);
    if (ret < 0)
        return ret;
    shared_resized(d->shared, disk_slot(d->disk));
    dt_reply_u64(reply, "before", before);
    dt_reply_u64(reply, "size", size);
    return 0;
}

static int info(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);
    struct pool_data_cache cache;
    struct pool_info i;

    pool_info(d->shared->pool, &i);
    pool_data_cache(d->shared->pool, &cache);
    dt_reply_u64(reply, "size", i.blocks << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "used", i.used << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "free", i.free << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "disks", i.disks);
    dt_reply_u64(reply, "snapshots", i.snapshots);
    dt_reply_u64(reply, "being-deleted", i.dying);
    dt_reply_u64(reply, "roots", i.root_seq);
    dt_reply_u64(reply, "dirty-nodes", i.dirty_nodes);
    dt_reply_u64(reply, "data-cache", cache.bytes);
    dt_reply_u64(reply, "cached", cache.held << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "cache-hits", cache.counters.hits);
    dt_reply_u64(reply, "cache-waits", cache.counters.waits);
    dt_reply_u64(reply, "cache-misses", cache.counters.misses);
    dt_reply_u64(reply, "blocks-read", cache.counters.read);
    dt_reply_u64(reply, "unpunched", i.stale << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "punched", i.punched << PX_BLOCK_SHIFT);
    dt_reply_u64(reply, "longest-root-us", i.times.root / 1000);
    dt_reply_u64(reply, "longest-slice-us", i.times.slice / 1000);
    dt_reply_u64(reply, "longest-flush-us", i.times.flush / 1000);
    dt_reply_u64(reply, "longest-wait-us", i.times.wait / 1000);
    return 0;
}

const struct dt_verb cvd_verbs[] = {
    CVD_VERB_SNAPSHOT(snapshot),
    {"snapshots", "", "How many there are, and the newest.", snapshots},
    {"label", "DISK@SNAPSHOT [NAME]", "Keep a snapshot of the pool, so that it can be cloned.",
     label},
    {"delete", "DISK@SNAPSHOT", "Delete a snapshot of the pool.", delete_snapshot},
    CVD_VERB_RESIZE(resize),
    {"info", "", "The pool's space and contents.", info},
    {NULL},
};
