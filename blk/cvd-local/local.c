/* SPDX-License-Identifier: MIT */
/*
 * local.c - the back `cvd-local`: a cluster virtual disk of a pool that this process opens (parallax/).
 *
 * Theory of operation: a request becomes one of the pool's, in its own frame. Its data is private
 * memory (core sees to that), because the checksum of what is written must be that of what reaches
 * the store, and what is read is verified before the guest gets it.
 */
#include "blk/cvd-local/internal.h"
#include "blk/cvd/params.h"

#define MAX_UNMAP \
    ((uint32_t)((uint64_t)1 << 30 >> DT_SECTOR_SHIFT)) /* bounds what one request frees */

#define FIELD(field) .offset = offsetof(struct cvd, field)
static const struct dt_param params[] = {
    {.name = "pool",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(path),
     .help = "The pool: a regular file or block device that cvd pool create made."},
    CVD_PARAM_NAME(offsetof(struct cvd, name)),
    CVD_PARAM_READ_ONLY(offsetof(struct cvd, read_only)),
    {.name = "weight",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     FIELD(weight),
     .initial = "0",
     .max = DISK_MAX_WEIGHT,
     .help =
         "Share of the pool, relative to other disks that have requests at the same time; 0: what "
         "'cvd weight' set."},
    {.name = "cache",
     .type = DT_PARAM_SIZE,
     FIELD(cache),
     .initial = "256M",
     .min = 1 << 20,
     .max = (uint64_t)1 << 40,
     .help = "Memory for the maps of the pool, that of its first disk counts: size/256 of what is "
             "used at random makes reads need one I/O."},
    {.name = "data-cache",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(data_cache),
     .initial = "0",
     .max = DATA_CACHE_MOST,
     .help =
         "Memory for blocks that disks have in common, that of the pool's first disk counts until "
         "another one's is set: of use where several of this process stand on one template."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [HELD] = {"held", "requests", "Times that a request waited for space or for a new root."},
    [PARTIAL] = {"partial", "requests", "Writes of parts of blocks of 4 KiB, which read first."},
    [ZERO_BLOCKS] = {"zero-blocks", "blocks", "Blocks of zeroes that were not stored."},
    [CHECKSUM_ERRORS] = {"checksum-errors", "requests",
                         "Reads that failed because a block differs from its checksum."},
    [RETRIED] = {"retried", "requests",
                 "Reads done again because a block was replaced meanwhile, or read wrongly."},
    [QUOTA_HELD] = {"quota-held", "requests", "Writes that waited for the disk's quota."},
    [QUOTA_FAILED] = {"quota-failed", "requests",
                      "Writes that failed because of the disk's quota."},
    [MAP_READS] = {"map-reads", "requests",
                   "Times that a request waited for a part of the map that was not in memory "
                   "(cache= sets how much may be)."},
    {NULL},
};

/* ---- Requests ---- */

static void add_counters(struct dt_ctx *c, struct cvd *d)
{
    const struct disk_counters *now = disk_counters(d->disk);

    if (likely(memcmp(now, &d->seen, sizeof(*now)) == 0))
        return;
    dt_count(c, HELD, now->held - d->seen.held);
    dt_count(c, PARTIAL, now->partial - d->seen.partial);
    dt_count(c, ZERO_BLOCKS, now->zero_blocks - d->seen.zero_blocks);
    dt_count(c, CHECKSUM_ERRORS, now->checksum_errors - d->seen.checksum_errors);
    dt_count(c, RETRIED, now->retried - d->seen.retried);
    dt_count(c, QUOTA_HELD, now->over_held - d->seen.over_held);
    dt_count(c, QUOTA_FAILED, now->over_failed - d->seen.over_failed);
    dt_count(c, MAP_READS, now->map_reads - d->seen.map_reads);
    d->seen = *now;
}

static void cvd_done(struct disk_req *dreq)
{
    struct cvd_io *io = container_of(dreq, struct cvd_io, req);
    struct dt_req *req = dt_frame_req(io->c, io);
    struct dt_ctx *c = io->c;
    const struct iovec *iov;

    if (unlikely(io->bounce)) {
        if (req->op == DT_OP_READ && dreq->error == 0) {
            unsigned n = dt_req_map(c, req, &iov);

            dt_iov_write(iov, n, 0, io->bounce, dt_req_bytes(req));
        }
        free(io->bounce);
    }
    add_counters(c, c->layer_data);
    dt_complete_one(c, req, dreq->error);
}

/* Core's private copies are in one piece and aligned. Requests of layers above may be neither. */
static void find_buffer(struct cvd_io *io, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(io->c, req, &iov);

    io->req.buf = n ? iov[0].iov_base : NULL;
    if (likely(n == 1 && ((uintptr_t)io->req.buf & (PX_BLOCK - 1)) == 0))
        return;
    io->req.buf = io->bounce = xaligned(PX_BLOCK, ALIGN_UP(dt_req_bytes(req), (size_t)PX_BLOCK));
    if (req->op == DT_OP_WRITE)
        dt_iov_read(iov, n, 0, io->bounce, dt_req_bytes(req));
}

static void cvd_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    static const enum disk_op ops[] = {[DT_OP_READ] = DISK_READ,
                                       [DT_OP_WRITE] = DISK_WRITE,
                                       [DT_OP_FLUSH] = DISK_FLUSH,
                                       [DT_OP_DISCARD] = DISK_DISCARD,
                                       [DT_OP_WRITE_ZEROES] = DISK_ZERO};
    struct cvd *d = c->layer_data;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct cvd_io *io = dt_frame(c, req);

        io->c = c;
        io->bounce = NULL;
        io->req.op = ops[req->op];
        io->req.fua = req->flags & DT_REQ_FUA;
        io->req.offset = req->sector << DT_SECTOR_SHIFT;
        io->req.length = dt_req_bytes(req);
        io->req.buf = NULL;
        io->req.done = cvd_done;
        if (dt_req_has_data(req))
            find_buffer(io, req);
        disk_submit(d->disk, &io->req);
    }
}

/* ---- Life ---- */

static int find_disk(struct cvd *d, struct dt_error *err)
{
    struct pool *pool = shared_look(d->shared);
    const struct px_record *r;
    struct disk *past;
    uint64_t moment;
    uint32_t slot;
    int ret = pool_moment(pool, d->name, &slot, &moment, err);

    if (ret < 0)
        return ret;
    if (moment != PRESENT && !d->read_only)
        return dt_fail(err, -EROFS, "%s is past: read-only=on shows it", d->name);
    /* Who serves a pool for others is told what they mean, and tells their successors nothing. */
    if (strstr(d->name, "@{-") && !d->shared->event)
        return dt_fail(
            err, -EINVAL,
            "%s is another moment each time the disk is opened: name the write or the time",
            d->name);
    if (moment != PRESENT) { /* the disk may have had another size then */
        ret = disk_open_at(&past, pool, slot, moment, dt_layer_device(d->layer), err);
        if (ret < 0)
            return ret;
        slot = disk_slot(past);
        disk_close(past);
    }
    r = pool_record(pool, slot);
    d->size = r->size;
    d->sector = r->sector;
    if (r->kind == PX_SNAPSHOT && !d->read_only)
        return dt_fail(err, -EROFS,
                       "%s is a snapshot: read-only=on shows it, a clone can be written", d->name);
    return 0;
}

static void put_pool(struct cvd *d)
{
    struct dt_error err;

    list_del(&d->node);
    if (shared_put(d->shared, &err) < 0)
        log_error("%s", err.text);
}

static int cvd_open(struct dt_layer *layer, struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    int ret = shared_get(&d->shared, d->path, err);

    if (ret < 0)
        return ret;
    d->layer = layer;
    list_add_tail(&d->shared->disks, &d->node);
    ret = find_disk(d, err);
    if (ret < 0)
        put_pool(d);
    return ret;
}

static void cvd_close(struct dt_layer *layer)
{
    struct cvd *d = dt_layer_data(layer);

    if (d->disk)
        disk_close(d->disk);
    put_pool(d);
}

/* Growing is seen by the guest; it does not shrink while it is in use. */
void cvd_resized(struct cvd *d)
{
    uint64_t size = pool_record(d->shared->pool, disk_slot(d->disk))->size;

    if (size == d->size)
        return;
    d->size = size;
    dt_layer_info_changed(d->layer);
}

static int cvd_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    uint64_t moment;
    uint32_t slot;
    int ret = shared_lock(d->shared, (size_t)d->cache, d->data_cache, deadline, err);

    if (ret < 0)
        return ret;
    ret = pool_moment(d->shared->pool, d->name, &slot, &moment, err);
    if (ret < 0)
        return ret;
    if (moment != PRESENT) {
        ret = disk_open_at(&d->disk, d->shared->pool, slot, moment, dt_layer_device(layer), err);
        if (ret == 0 && pool_record(d->shared->pool, disk_slot(d->disk))->size != d->size)
            ret = dt_fail(err, -ESTALE, "%s: its history changed while this began: start it again",
                          d->name);
        return ret;
    }
    if (pool_record(d->shared->pool, slot)->size != d->size)
        return dt_fail(err, -ESTALE, "%s was resized while this began: start it again", d->name);
    ret = disk_open(&d->disk, d->shared->pool, slot, d->read_only, dt_layer_device(layer), err);
    if (ret == 0)
        disk_set_weight(d->disk, (unsigned)d->weight);
    return ret;
}

static int cvd_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);

    if (!d->disk)
        return 0;
    if (params[index].offset == offsetof(struct cvd, data_cache))
        return pool_set_data_cache(d->shared->pool, d->data_cache, err);
    disk_set_weight(d->disk, (unsigned)d->weight);
    return 0;
}

static void give_up(struct dt_timer *timer)
{
    struct cvd *d = container_of(timer, struct cvd, give_up);

    disk_cancel_held(d->disk, -ECANCELED);
}

static int cvd_start(struct dt_ctx *c, struct dt_error *err)
{
    struct cvd *d = c->layer_data;

    d->c = c;
    d->give_up.fire = give_up;
    return shared_start(d->shared, ctx_loop(c), err);
}

static void cvd_stop(struct dt_ctx *c)
{
    struct cvd *d = c->layer_data;

    dt_timer_cancel(c, &d->give_up);
    shared_stop(d->shared);
}

/* What waits for space is tried on until shortly before the deadline. */
static void cvd_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct cvd *d = c->layer_data;

    dt_timer_set(c, &d->give_up, patience_end(dt_clock_ns(), deadline));
}

static int cvd_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);

    *info = (struct dt_block_info){.sectors = d->size >> DT_SECTOR_SHIFT,
                                   .logical_block = d->sector,
                                   .physical_block = PX_BLOCK,
                                   .optimal_io = PX_BLOCK,
                                   .max_sectors = DISK_MAX_BLOCKS * PX_BLOCK / DT_SECTOR_SIZE,
                                   .max_discard = MAX_UNMAP,
                                   .max_write_zeroes = MAX_UNMAP,
                                   .discard_align = PX_BLOCK / DT_SECTOR_SIZE,
                                   .read_only = d->read_only,
                                   .can_flush = true,
                                   .can_discard = true,
                                   .can_write_zeroes = true,
                                   .write_zeroes_unmaps = true};
    return 0;
}

const struct dt_block_ext blk_cvd_local = {
    DT_BLOCK_EXT_HEADER,
    .name = "cvd-local",
    .summary = "A disk of a pool that this process opens for itself",
    .help =
        "As 'cvd', but this process opens the pool: one process less, and nobody else can use the "
        "pool meanwhile. Snapshots are taken while the VM runs: 'devtap do DEVICE cvd-local "
        "snapshot'. The pool is administered with the program cvd.",
    .flags = DT_BACK | DT_CONTENT_BEARING,
    .read_data = DT_DATA_STABLE,
    .write_data = DT_DATA_STABLE,
    .params = params,
    .counters = counters,
    .verbs = cvd_verbs,
    .layer_size = sizeof(struct cvd),
    .frame_size = sizeof(struct cvd_io),
    .open = cvd_open,
    .close = cvd_close,
    .start = cvd_start,
    .stop = cvd_stop,
    .info = cvd_info,
    .submit = cvd_submit,
    .quiesce = cvd_quiesce,
    .set = cvd_set,
    .fence = cvd_fence,
    .status = cvd_status,
};
