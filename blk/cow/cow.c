/* SPDX-License-Identifier: MIT */
/*
 * cow.c - the extension `cow`: what lies below is the base and is only read; writes go to an overlay.
 *
 * Theory of operation: the overlay is a sparse file as large as the disk: granule n (4 KiB) has its
 * place there whether it is used or not, and a map of one bit each says which are. So a granule that
 * is the overlay's costs one test of a bit and one I/O on the guest's own memory. All else is a
 * job (job.c): requests that touch granules of both kinds, first writes, which copy up what they
 * do not cover, under a lock of the range, and writes of zeroes (write.c); discards (discard.c).
 *
 * The file has the map twice. The *live* map gets a bit after the granule's data, before the write is
 * acknowledged, and is not flushed: it is for the successor of a killed process, which finds all that
 * was written, since the machine did not crash (map.c). After a loss of power either may be
 * on the disk without the other; then the *stored* map counts, which gets a bit only after a flush of the data and is
 * itself flushed before a flush of the guest's is acknowledged (commit.c). The header says of which boot the live map is.
 */
#include "blk/cow/internal.h"

#define FIELD(field) .offset = offsetof(struct cow, field)
static const struct dt_param params[] = {
    {.name = "overlay",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(file.path),
     .help = "The file that takes the writes."},
    {.name = "create",
     .type = DT_PARAM_BOOL,
     FIELD(file.create),
     .initial = "off",
     .help = "If the file is missing or empty, make an overlay of this base."},
    {.name = "base-id",
     .type = DT_PARAM_STRING,
     FIELD(base_id),
     .help =
         "A name of the base's content, kept when the overlay is made and compared ever after."},
    {.name = "read-only",
     .type = DT_PARAM_BOOL,
     FIELD(file.read_only),
     .initial = "off",
     .help = "Only read the overlay: for one that is itself the base of another."},
    SHORTAGE_PARAM(offsetof(struct cow, on_full)),
    {NULL},
};

static const struct dt_counter counters[] = {
    [ALLOCATED] = {"allocated", "granules", "Granules of 4 KiB that became the overlay's."},
    [COPIED_UP] = {"copied-up", "granules",
                   "Of these, read from the base, because the guest wrote a part."},
    [MIXED_READS] = {"mixed-reads", "requests", "Reads that touched base and overlay."},
    [BOUNCED] = {"bounced", "requests", "Requests copied because O_DIRECT refuses their memory."},
    [HELD] = {"held", "requests", "Times that a request was held because there was no space."},
    [COMMITS] = {"commits", "times",
                 "Flushes of the overlay for which the stored map was written."},
    {NULL},
};

/* ---- The fast path: the overlay holds all of it ---- */

void cow_finish(struct cow_io *cio, int error)
{
    dt_complete_one(cio->c, cow_req(cio), error);
}

void cow_written(struct cow_io *cio)
{
    if (unlikely(cow_req(cio)->flags & DT_REQ_FUA))
        cow_commit(cio);
    else
        cow_finish(cio, 0);
}

bool cow_aligned(const struct cow *w, const struct iovec *iov, unsigned n)
{
    uint64_t all = 0;

    if (!w->direct)
        return true;
    for (unsigned i = 0; i < n; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return (all & (w->mem_align - 1)) == 0;
}

/* What came back short or with an error is tried again by a job, which knows about full disks. */
static void moved(struct dt_io *io, int result)
{
    struct cow_io *cio = container_of(io, struct cow_io, io);
    struct dt_req *req = cow_req(cio);

    if (unlikely(result < 0 || (uint64_t)result != dt_req_bytes(req)))
        cow_job_begin(cio);
    else if (req->op == DT_OP_WRITE)
        cow_written(cio);
    else
        cow_finish(cio, 0);
}

static void move(struct cow_io *cio, struct dt_req *req)
{
    const struct cow *w = cio->c->layer_data;
    const struct iovec *iov;
    unsigned n = dt_req_map(cio->c, req, &iov);
    uint64_t offset = w->at.data_offset + cow_offset(req);

    cio->io.done = moved;
    if (unlikely(!cow_aligned(w, iov, n)))
        cow_job_begin(cio);
    else if (req->op == DT_OP_READ)
        dt_io_readv(cio->c, &cio->io, w->file.fd, iov, n, offset);
    else
        dt_io_writev(cio->c, &cio->io, w->file.fd, iov, n, offset);
}

/* Is nothing of it the overlay's? Then the base serves the read. */
static bool is_base(const struct cow *w, const struct dt_req *req)
{
    uint64_t first = cow_first(req), end = cow_last(req);
    bool set;

    return cow_map_run(w->now, first, end, &set) == end - first && !set;
}

static enum dt_verdict cow_request(struct dt_ctx *c, struct dt_req *req)
{
    struct cow *w = c->layer_data;
    struct cow_io *cio = dt_frame(c, req);

    cio->c = c;
    if (req->op == DT_OP_FLUSH) {
        if (w->file.read_only)
            return DT_DONE;
        cow_commit(cio);
    } else if (req->sectors == 0) {
        return DT_DONE;
    } else if (req->op == DT_OP_READ && is_base(w, req)) {
        return DT_PASS;
    } else if (req->op != DT_OP_READ && (w->failed || w->file.read_only)) {
        req->error = w->file.read_only ? -EROFS : -EIO;
        return DT_DONE;
    } else if (dt_req_has_data(req) && cow_all(w, req)) {
        move(cio, req);
    } else {
        cow_job_begin(cio);
    }
    return DT_HELD;
}

/* ---- Life ---- */

static int cow_start(struct dt_ctx *c, struct dt_error *err)
{
    struct cow_ctx *cc = c->data;
    struct cow *w = c->layer_data;
    int ret = cow_load(w, err);

    if (ret < 0)
        return ret;
    cc->c = c;
    cow_map_start(cc);
    cow_commit_start(cc);
    cow_jobs_init(&cc->held);
    shortage_start(&cc->shortage, c, &w->shortage, cow_again);
    return cow_jobs_start(cc);
}

static void cow_stop(struct dt_ctx *c)
{
    struct cow_ctx *cc = c->data;

    CHECK(!cc->committing && !cc->recording);
    shortage_stop(&cc->shortage);
    cow_jobs_stop(cc);
}

static int cow_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct cow_ctx *cc = c->data;
    struct cow_io *cio = dt_frame(c, req);

    if (!cow_list_remove(&cc->job_wait, cio) && !cow_list_remove(&cc->commit_wait, cio))
        return -EBUSY;
    cow_finish(cio, -ECANCELED);
    return 0;
}

static int cow_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct cow *w = dt_layer_data(layer);

    if (info->sectors != w->header.size >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EINVAL, "the base has %llu bytes now; %s is for a base of %llu",
                       (unsigned long long)(info->sectors << DT_SECTOR_SHIFT), w->file.path,
                       (unsigned long long)w->header.size);
    info->read_only = w->file.read_only;
    info->physical_block = MAX(info->physical_block, COW_GRANULE);
    info->max_sectors = MIN(info->max_sectors ? info->max_sectors : UINT32_MAX, COW_MAX_SECTORS);
    info->max_segments = MIN(info->max_segments ? info->max_segments : UINT32_MAX, COW_SEGMENTS);
    info->discard_align = COW_GRANULE >> DT_SECTOR_SHIFT;
    info->max_discard = info->max_write_zeroes = 1u << 21;
    info->can_flush = true;
    info->can_discard = info->can_write_zeroes = info->write_zeroes_unmaps =
        !w->file.read_only && !w->no_punch;
    return 0;
}

const struct dt_block_ext blk_cow = {
    DT_BLOCK_EXT_HEADER,
    .name = "cow",
    .summary = "Writes go to an overlay; what lies below is only read",
    .help =
        "What stands below in the chain is the base: 'cow overlay=vm1.cow create=on | file "
        "path=base.img read-only=on'. Many disks can share a base. Overlays stack. 'devtap cow' "
        "checks, commits, resets and rebases them.",
    .flags = DT_CONTENT_BEARING,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct cow),
    .ctx_size = sizeof(struct cow_ctx),
    .frame_size = sizeof(struct cow_io),
    .sub_requests = COW_JOBS * 2,
    .open = cow_open,
    .close = cow_close,
    .start = cow_start,
    .stop = cow_stop,
    .info = cow_info,
    .request = cow_request,
    .quiesce = shortage_layer_quiesce,
    .cancel = cow_cancel,
    .set = shortage_layer_set,
    .fence = cow_fence,
    .read_early = cow_read_early,
    .status = cow_status,
};
