/* SPDX-License-Identifier: MIT */
/*
 * integrity.c - the extension `integrity`: a checksum of each block of 4 KiB, kept in a file beside the disk and
 * compared at each read.
 *
 * Theory of operation: a write goes down first, in private memory, then its checksums are written;
 * it is acknowledged after both. A read gets data and checksums at the same time; where they differ it is
 * repeated under the lock that writes take, so that a write under way is no false alarm, and only
 * then is the block called damaged.
 *
 * A crash may leave data without its checksum or the reverse. So the disk has regions (1 MiB), and the
 * first write to one sets its bit in the file and flushes that (region.c). A bit is cleared when
 * all of its region is durable, data and checksums. Where a bit is found set at the start, blocks that do not fit their
 * checksum were being written: they are taken as they are, and counted; everywhere else they are damaged.
 */
#include "blk/integrity/internal.h"

#define FIELD(field) .offset = offsetof(struct integrity, field)
static const struct dt_param params[] = {
    {.name = "sums",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(file.path),
     .help = "The file of checksums."},
    {.name = "create",
     .type = DT_PARAM_BOOL,
     FIELD(file.create),
     .initial = "off",
     .help =
         "If the file is missing or empty, make one for this disk; nothing is known of it yet."},
    {.name = "region",
     .type = DT_PARAM_SIZE,
     FIELD(region_size),
     .initial = "1M",
     .min = INTEGRITY_REGION_MIN,
     .max = INTEGRITY_REGION_MAX,
     .help = "Size of a region, a power of two; for a file that create= makes."},
    {.name = "regions",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     FIELD(open_max),
     .initial = "1024",
     .unit = "regions",
     .min = 2,
     .max = 1 << 20,
     .help = "About how many regions may be open for writing at a time."},
    {.name = "scrub-rate",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(scrub_rate),
     .initial = "64M",
     .unit = "bytes/s",
     .min = 64 << 10,
     .max = (uint64_t)1 << 40,
     .help = "Most that a scrub reads per second."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [VERIFIED] = {"verified", "blocks", "Blocks read that fit their checksum."},
    [UNKNOWN] = {"unknown", "blocks", "Blocks read of which no checksum is known."},
    [REREAD] = {"reread", "requests", "Reads repeated because a block did not fit."},
    [DAMAGED] = {"damaged", "blocks", "Blocks that did not fit twice: the guest got an I/O error."},
    [TAKEN] = {"taken", "blocks", "Blocks that were being written at a crash, taken as they are."},
    [OPENED] = {"opened", "regions", "Regions opened for writing, each with a flush of its bit."},
    [SCRUBBED] = {"scrubbed", "bytes", "Bytes read by scrubs."},
    {NULL},
};

static void integrity_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct integrity_io *iio = dt_frame(c, req);

        iio->c = c;
        if (req->op == DT_OP_FLUSH)
            integrity_flush(iio);
        else if (req->sectors == 0)
            dt_complete_one(c, req, 0);
        else
            integrity_job_begin(iio);
    }
}

static void integrity_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct integrity_io *iio = dt_frame(c, reqs[i]);

        if (reqs[i]->op == DT_OP_FLUSH)
            integrity_flush_returned(iio, reqs[i]->error);
        else if (reqs[i]->op == DT_OP_READ)
            integrity_read_returned(iio->job, reqs[i]->error);
        else
            integrity_write_returned(iio->job, reqs[i]->error);
    }
}

static int integrity_start(struct dt_ctx *c, struct dt_error *err)
{
    struct integrity_ctx *ic = c->data;
    int ret = integrity_load(c->layer_data, err);

    if (ret < 0)
        return ret;
    ic->c = c;
    integrity_jobs_start(ic);
    integrity_regions_start(ic);
    integrity_scrub_start(ic);
    return 0;
}

static void integrity_stop(struct dt_ctx *c)
{
    struct integrity_ctx *ic = c->data;

    integrity_scrub_stop(ic);
    integrity_regions_stop(ic);
    integrity_jobs_stop(ic);
}

static int integrity_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct integrity *w = dt_layer_data(layer);

    if (info->sectors != w->header.size >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EINVAL, "the disk has %llu bytes now; %s is for one of %llu",
                       (unsigned long long)(info->sectors << DT_SECTOR_SHIFT), w->file.path,
                       (unsigned long long)w->header.size);
    info->physical_block = MAX(info->physical_block, INTEGRITY_BLOCK);
    info->max_sectors =
        MIN(info->max_sectors ? info->max_sectors : UINT32_MAX, INTEGRITY_MAX_SECTORS);
    info->discard_align = MAX(info->discard_align, INTEGRITY_BLOCK >> DT_SECTOR_SHIFT);
    info->max_discard =
        MIN(info->max_discard ? info->max_discard : UINT32_MAX, INTEGRITY_MAX_RANGE);
    info->max_write_zeroes =
        MIN(info->max_write_zeroes ? info->max_write_zeroes : UINT32_MAX, INTEGRITY_MAX_RANGE);
    info->can_flush = true;
    return 0;
}

const struct dt_block_ext blk_integrity = {
    DT_BLOCK_EXT_HEADER,
    .name = "integrity",
    .summary = "A checksum of each block, compared at each read",
    .help =
        "Checksums of blocks of 4 KiB are kept in a file beside the disk. A block that does not "
        "fit its own is an I/O error, not data, and an event names it. 'devtap do DEVICE integrity "
        "scrub' reads the whole disk.",
    .read_data = DT_DATA_STABLE,
    .write_data = DT_DATA_STABLE,
    .params = params,
    .counters = counters,
    .verbs = integrity_verbs,
    .layer_size = sizeof(struct integrity),
    .ctx_size = sizeof(struct integrity_ctx),
    .frame_size = sizeof(struct integrity_io),
    .sub_requests = INTEGRITY_JOBS * 2 + 2,
    .open = integrity_open,
    .close = integrity_close,
    .start = integrity_start,
    .stop = integrity_stop,
    .info = integrity_info,
    .submit = integrity_submit,
    .complete = integrity_complete,
    .quiesce = integrity_scrub_quiesce,
    .fence = integrity_fence,
    .status = integrity_status,
};
