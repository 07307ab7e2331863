/* SPDX-License-Identifier: MIT */
/*
 * compress.c - the back `compress`: a disk in units of 64 KiB, each compressed, in a file or on a
 * block device.
 *
 * Theory of operation: a request is taken to pieces, one part for each unit that it touches. A unit
 * in memory (unit.c) serves its parts in the order in which they came: reads from its data, which
 * are fetched and unpacked first (fetch.c), and all writes that wait at a time together, by packing
 * and storing it once (store.c). Nothing is written over: a unit goes to free blocks (space.c),
 * then its entry in the map changes (map.c). Whole units that become zeroes need no data at all
 * (range.c).
 *
 * The store has the map twice. The *live* map is written before a write is acknowledged, and is for
 * the successor of a killed process (record.c). After a loss of power the *stored* map counts,
 * which is written between the two flushes that a flush of the guest's becomes (commit.c). Blocks
 * that were replaced are free after that.
 *
 * All of it is bounded: units, sectors of the map and parts of requests are taken from memory that
 * was laid out at the start, and wait in line where there is none. Packing and unpacking is done on
 * the device's thread, which it blocks for some 0.1 ms a unit at the usual levels.
 */
#include "blk/compress/internal.h"

#define FIELD(field) .offset = offsetof(struct compress, field)
static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(file.path),
     .help = "Regular file or block device that holds the store."},
    {.name = "create",
     .type = DT_PARAM_BOOL,
     FIELD(file.create),
     .initial = "off",
     .help = "If the file is missing or empty, make a store for a disk of size=."},
    {.name = "size",
     .type = DT_PARAM_SIZE,
     FIELD(size),
     .initial = "0",
     .max = COMPRESS_MAX_SIZE,
     .help = "Size of the disk that create= makes; an existing one keeps its own."},
    {.name = "level",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     FIELD(level),
     .initial = "3",
     .min = 1,
     .max = 19,
     .help = "Of zstd's, for what is written from now on: 1 is fast, 19 small and very slow."},
    {.name = "read-only",
     .type = DT_PARAM_BOOL,
     FIELD(file.read_only),
     .initial = "off",
     .help = "Only read the store: for one that several disks share."},
    {.name = "cache",
     .type = DT_PARAM_SIZE,
     FIELD(cache),
     .initial = "8M",
     .min = 1u << 20,
     .max = (uint64_t)1 << 32,
     .help = "Memory for units; each takes 128 KiB."},
    {.name = "map-cache",
     .type = DT_PARAM_SIZE,
     FIELD(map_cache),
     .initial = "8M",
     .min = 8192,
     .max = (uint64_t)1 << 32,
     .help = "Memory for the map: 8M is enough for 12 GiB of the disk at a time."},
    SHORTAGE_PARAM(offsetof(struct compress, on_full)),
    {NULL},
};

static const struct dt_counter counters[] = {
    [HITS] = {"hits", "units", "Read from units in memory."},
    [UNPACKED] = {"unpacked", "units", "Read from the store, and unpacked."},
    [PACKED] = {"packed", "units", "Stored as frames."},
    [PACKED_BYTES] = {"packed-bytes", "bytes", "These frames' length."},
    [RAW] = {"raw", "units", "Stored as they are, because packing would save no block."},
    [ZEROES] = {"zeroes", "units", "Became zeroes, which take no space."},
    [PARTIAL] = {"partial", "units", "Read and unpacked because a part of them was written."},
    [MAP_MISSES] = {"map-misses", "sectors", "Sectors of the map that were read while serving."},
    [COMMITS] = {"commits", "times", "Flushes for which the stored map was written."},
    [HELD] = {"held", "requests", "Times that a request was held because there was no space."},
    [DAMAGED] = {"damaged", "units", "Units read that are not what was stored."},
    {NULL},
};

/* ---- The end of a request ---- */

void compress_finish(struct compress_io *cio, int error)
{
    dt_complete_one(cio->c, compress_req(cio), error);
}

void compress_done(struct compress_io *cio, int error)
{
    if (error && !cio->error)
        cio->error = error;
    if (--cio->pending > 0)
        return;
    if (!cio->error && (compress_req(cio)->flags & DT_REQ_FUA))
        compress_commit(cio);
    else
        compress_finish(cio, cio->error);
}

void compress_fail(struct compress_ctx *cc, const char *what, int error)
{
    struct compress *w = cc->c->layer_data;

    if (!w->failed)
        dt_layer_event(w->layer, "failed",
                       "%s: %s failed (%s): no more writes; a restart goes on from the last flush "
                       "that succeeded",
                       w->file.path, what, strerror(-error));
    w->failed = true;
    compress_distrust(w);
    compress_map_give_up(cc, -EIO);
}

/* ---- Parts ---- */

/**
 * struct cut - what a request is made of: a part for each unit from @first to below @last, but
 * those from
 * @whole to below @whole_end, which become zeroes.
 */
struct cut {
    uint64_t first, last, whole, whole_end;
};

static struct cut cut_request(const struct compress *w, const struct dt_req *req)
{
    uint64_t start = compress_start(req), end = compress_end(req);
    struct cut cut = {.first = start >> COMPRESS_UNIT_SHIFT,
                      .last = (end + COMPRESS_UNIT - 1) >> COMPRESS_UNIT_SHIFT};

    cut.whole = cut.whole_end = cut.last;
    if (dt_req_has_data(req))
        return cut;
    cut.whole = (start + COMPRESS_UNIT - 1) >> COMPRESS_UNIT_SHIFT;
    cut.whole_end = end == w->header.size ? cut.last : end >> COMPRESS_UNIT_SHIFT;
    if (cut.whole >= cut.whole_end)
        cut.whole = cut.whole_end = cut.last;
    if (req->op == DT_OP_DISCARD) { /* of units in part nothing is to be had */
        cut.first = cut.whole;
        cut.last = cut.whole_end;
    }
    return cut;
}

static unsigned parts_of(const struct cut *cut)
{
    return (unsigned)((cut->last - cut->first) - (cut->whole_end - cut->whole));
}

static void begin(struct compress_ctx *cc, struct compress_io *cio)
{
    struct cut cut = cut_request(cc->c->layer_data, compress_req(cio));

    cio->error = 0;
    cio->pending = 1 + parts_of(&cut);
    if (cut.whole < cut.whole_end) {
        cio->pending++;
        compress_range_add(cc, cio);
    }
    for (uint64_t unit = cut.first; unit < cut.last; unit++) {
        struct compress_part *part = cc->part_free;

        if (unit >= cut.whole && unit < cut.whole_end)
            continue;
        cc->part_free = part->next;
        cc->parts--;
        part->cio = cio;
        part->unit = unit;
        compress_unit_enter(cc, part);
    }
    compress_done(cio, 0);
}

/* May it begin, or has it to wait behind others for parts? */
static bool has_parts(const struct compress_ctx *cc, const struct compress_io *cio)
{
    struct cut cut = cut_request(cc->c->layer_data, compress_req(cio));

    return parts_of(&cut) <= cc->parts;
}

/* A loop, and not one call within the other: what begins may end at once. */
static void serve_waiting(struct compress_ctx *cc)
{
    if (cc->serving_requests)
        return;
    cc->serving_requests = true;
    while (cc->part_wait.head && has_parts(cc, cc->part_wait.head))
        begin(cc, compress_ios_take(&cc->part_wait));
    cc->serving_requests = false;
}

void compress_part_done(struct compress_ctx *cc, struct compress_part *part, int error)
{
    struct compress_io *cio = part->cio;

    part->next = cc->part_free;
    cc->part_free = part;
    cc->parts++;
    compress_done(cio, error);
    serve_waiting(cc);
}

static enum dt_verdict compress_request(struct dt_ctx *c, struct dt_req *req)
{
    const struct compress *w = c->layer_data;
    struct compress_ctx *cc = c->data;
    struct compress_io *cio = dt_frame(c, req);

    cio->c = c;
    if (req->op == DT_OP_FLUSH) {
        if (w->file.read_only)
            return DT_DONE;
        compress_commit(cio);
        return DT_HELD;
    }
    if (req->sectors == 0)
        return DT_DONE;
    if (req->op != DT_OP_READ && (w->failed || w->file.read_only)) {
        req->error = w->file.read_only ? -EROFS : -EIO;
        return DT_DONE;
    }
    compress_ios_add(&cc->part_wait, cio);
    serve_waiting(cc);
    return DT_HELD;
}

/* ---- Life ---- */

static void compress_stop(struct dt_ctx *c)
{
    struct compress_ctx *cc = c->data;

    shortage_stop(&cc->shortage);
    compress_commit_stop(cc);
    compress_record_stop(cc);
    compress_map_stop(cc);
    compress_units_stop(cc);
    compress_packer_free(cc->packer);
    free(cc->part_memory);
}

static int compress_start_ctx(struct dt_ctx *c, struct dt_error *err)
{
    struct compress_ctx *cc = c->data;
    struct compress *w = c->layer_data;
    int ret = compress_load(w, err);

    if (ret < 0)
        return ret;
    *cc = (struct compress_ctx){.c = c}; /* it may have been stopped before */
    ret = compress_units_start(cc);
    if (ret < 0)
        return dt_fail(err, ret, "no address space for units");
    cc->packer = compress_packer_new();
    if (!cc->packer) {
        compress_units_stop(cc);
        return dt_fail(err, -ENOMEM, "zstd finds no memory");
    }
    compress_ios_init(&cc->part_wait);
    compress_parts_init(&cc->starved);
    compress_parts_init(&cc->held);
    cc->part_memory = xcalloc(COMPRESS_PARTS, sizeof(*cc->part_memory));
    for (unsigned i = 0; i < COMPRESS_PARTS; i++) {
        cc->part_memory[i].next = cc->part_free;
        cc->part_free = &cc->part_memory[i];
    }
    cc->parts = COMPRESS_PARTS;
    shortage_start(&cc->shortage, c, &w->shortage, compress_again);
    compress_range_start(cc);
    compress_map_start(cc);
    compress_record_start(cc);
    compress_commit_start(cc);
    return 0;
}

static int compress_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct compress_ctx *cc = c->data;
    struct compress_io *cio = dt_frame(c, req);

    if (!compress_ios_remove(&cc->part_wait, cio) && !compress_ios_remove(&cc->commit_wait, cio))
        return -EBUSY;
    compress_finish(cio, -ECANCELED);
    return 0;
}

static int compress_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct compress *w = dt_layer_data(layer);

    *info = (struct dt_block_info){
        .sectors = w->header.size >> DT_SECTOR_SHIFT,
        .logical_block = DT_SECTOR_SIZE,
        .physical_block = 4096,
        .optimal_io = COMPRESS_UNIT,
        .max_sectors = COMPRESS_MAX_SECTORS,
        .discard_align = COMPRESS_UNIT >> DT_SECTOR_SHIFT,
        .max_discard = 1u << 21,
        .max_write_zeroes = 1u << 21,
        .read_only = w->file.read_only,
        .can_flush = true,
        .can_discard = !w->file.read_only,
        .can_write_zeroes = !w->file.read_only,
        .write_zeroes_unmaps = !w->file.read_only,
    };
    return 0;
}

const struct dt_block_ext blk_compress = {
    DT_BLOCK_EXT_HEADER,
    .name = "compress",
    .summary = "A compressed disk in a file or on a block device, for archives and templates",
    .help = "Units of 64 KiB, each a zstd frame or, where that saves nothing, as it is: 'compress "
            "path=a.dtz create=on size=20G level=9'. Zeroes take no space. Writes of parts of a "
            "unit read "
            "and pack all of it. Several disks may share one with read-only=on. 'devtap compress' "
            "looks at and checks stores.",
    .flags = DT_BACK,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .verbs = compress_verbs,
    .layer_size = sizeof(struct compress),
    .ctx_size = sizeof(struct compress_ctx),
    .frame_size = sizeof(struct compress_io),
    .open = compress_open,
    .close = compress_close,
    .start = compress_start_ctx,
    .stop = compress_stop,
    .info = compress_info,
    .request = compress_request,
    .quiesce = shortage_layer_quiesce,
    .cancel = compress_cancel,
    .set = shortage_layer_set,
    .fence = compress_fence,
    .read_early = compress_read_early,
    .status = compress_status,
};
