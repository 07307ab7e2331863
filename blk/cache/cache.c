/* SPDX-License-Identifier: MIT */
/*
 * cache.c - the extension cache: a fast local file before a slow disk.
 *
 * Theory of operation: internal.h has the states, devtap-cache(5) the file. A request all of whose
 * blocks are here, in slots that follow each other, is one transfer between the guest's memory and
 * the file, whose struct is in the request's frame: nothing is allocated, copied or locked. All
 * else is a job (job.c): read.c, write.c. Flushes are passes of commit.c; destage.c works in the
 * background.
 */
#include "blk/cache/internal.h"

static const char *const modes[] = {
    [CACHE_WRITETHROUGH] = "writethrough", [CACHE_WRITEBACK] = "writeback", NULL};

#define FIELD(field) .offset = offsetof(struct cache, field)
static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(file.path),
     .help = "Regular file that is the cache, on a fast local disk."},
    {.name = "size",
     .type = DT_PARAM_SIZE,
     FIELD(size),
     .initial = "0",
     .max = INT64_MAX,
     .help = "Make the file with this size if there is none; an existing one keeps its own."},
    {.name = "block",
     .type = DT_PARAM_SIZE,
     FIELD(block_bytes),
     .initial = "4K",
     .min = CACHE_BLOCK_MIN,
     .max = CACHE_BLOCK_MAX,
     .help = "Block of a file that is made: a power of two; an existing one keeps its own."},
    {.name = "id",
     .type = DT_PARAM_STRING,
     FIELD(id_given),
     .help = "What the disk below is called in the file; the device's name if not given."},
    {.name = "mode",
     .type = DT_PARAM_ENUM,
     .flags = DT_PARAM_LIVE,
     FIELD(mode),
     .initial = "writethrough",
     .choices = modes,
     .help =
         "writethrough: a write is done when the disk below has it; writeback: when the file has."},
    {.name = "keep-dirty",
     .type = DT_PARAM_FRACTION,
     .flags = DT_PARAM_LIVE,
     FIELD(keep_dirty),
     .initial = "10%",
     .help =
         "Part of the cache that may stay dirty; what is more is written below in the background."},
    {.name = "destage-rate",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(destage_rate),
     .initial = "0",
     .unit = "bytes/s",
     .help = "Most bytes per second that are written below in the background; 0 = no limit."},
    {.name = "sequential",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(sequential),
     .initial = "4M",
     .help = "What follows so much that was in sequence is not taken in; 0 = all is."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [READ_HITS] = {"read-hits", "requests", "Reads served from the file alone."},
    [READ_MISSES] = {"read-misses", "requests", "Reads that needed the disk below."},
    [WRITE_HITS] = {"write-hits", "requests",
                    "Writes to blocks that were here, in writeback mode."},
    [WRITE_MISSES] = {"write-misses", "requests", "Writes that took a place, or went below."},
    [BYPASSED] = {"bypassed", "requests", "Requests that went below and left nothing here."},
    [EVICTIONS] = {"evictions", "blocks", "Clean blocks that made room for others."},
    [DESTAGED] = {"destaged", "blocks", "Dirty blocks that were written below in the background."},
    [COMMITS] = {"commits", "times", "Passes that made the map on the medium current."},
    [COPIED] = {"copied", "pieces", "Pieces of requests that went through memory of our own."},
    [READ_ERRORS] = {"read-errors", "times",
                     "Reads of the file that failed; clean blocks are read below."},
    [DIRTY] = {"dirty", "blocks", "Blocks that the disk below does not have yet, now."},
    [USED] = {"used", "blocks", "Blocks in the file, now."},
    {NULL},
};

/* ---- Sequences ------------------------------------------------------------------------------ */

bool cache_streams(struct cache *k, const struct dt_req *req)
{
    for (unsigned i = 0; k->sequential && i < STREAMS; i++)
        if (k->streams[i].end == req->sector + req->sectors)
            return k->streams[i].bytes > k->sequential;
    return false;
}

/* One of a few sequences goes on with this request, or the one unused for longest becomes it. */
static void follow(struct cache *k, const struct dt_req *req)
{
    struct stream *s = &k->streams[0];

    for (unsigned i = 0; i < STREAMS; i++) {
        if (k->streams[i].end == req->sector) {
            s = &k->streams[i];
            break;
        }
        if (k->streams[i].used < s->used)
            s = &k->streams[i];
    }
    if (s->end != req->sector)
        s->bytes = 0;
    s->end = req->sector + req->sectors;
    s->bytes += dt_req_bytes(req);
    s->used = ++k->stream_clock;
}

/* ---- One transfer --------------------------------------------------------------------------- */

bool cache_aligned(const struct cache *k, const struct iovec *iov, unsigned n)
{
    uintptr_t bits = 0;

    for (unsigned i = 0; i < n; i++)
        bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return !(bits & (k->align - 1));
}

void cache_finish(struct cache *k, struct dt_req *req, int error)
{
    if (req->op != DT_OP_READ && k->dirty > k->keep && !k->destage.active)
        destage_kick(k);
    if (unlikely(!error && req->flags & DT_REQ_FUA && req->op != DT_OP_READ))
        commit_flush(k, req);
    else
        dt_complete_one(k->c, req, error);
}

static void unpin(struct cache *k, const struct cache_frame *fr)
{
    for (uint32_t i = 0; i < fr->count; i++)
        k->users[fr->slot + i]--;
}

static void hit_done(struct dt_io *io, int result)
{
    struct cache_frame *fr = container_of(io, struct cache_frame, io);
    struct cache *k = fr->k;
    struct dt_req *req = frame_req(fr);

    unpin(k, fr);
    if (likely(result >= 0 && (uint64_t)result == dt_req_bytes(req))) {
        if (req->op == DT_OP_WRITE)
            k->commit.unsynced = true;
        cache_finish(k, req, 0);
    } else if (result == -EINTR || result == -EAGAIN) {
        cache_begin(k, req);
    } else if (req->op == DT_OP_READ) {
        read_begin(k, req); /* where clean blocks are given up for those of the disk below */
    } else {
        cache_finish(k, req, result < 0 ? result : -EIO);
    }
}

static void hit_start(struct cache *k, struct dt_req *req, uint32_t slot, uint32_t count,
                      const struct iovec *iov, unsigned n)
{
    struct cache_frame *fr = dt_frame(k->c, req);
    uint64_t within = req->sector & ((1u << k->shift) - 1);
    uint64_t offset = slot_offset(k, slot) + (within << DT_SECTOR_SHIFT);

    fr->slot = slot;
    fr->count = count;
    fr->io.done = hit_done;
    for (uint32_t i = slot; i < slot + count; i++) {
        CHECK(++k->users[i]);
        k->flags[i] |= SLOT_REF;
    }
    if (req->op == DT_OP_READ) {
        dt_count(k->c, READ_HITS, 1);
        dt_io_readv(k->c, &fr->io, k->file.fd, iov, n, offset);
        return;
    }
    dt_count(k->c, WRITE_HITS, 1);
    for (uint32_t i = slot; i < slot + count; i++)
        index_dirty(k, i); /* before the first byte: half a write is no copy of what is below */
    dt_io_writev(k->c, &fr->io, k->file.fd, iov, n, offset);
}

/* The slots of all its blocks, if they follow each other: the first of @count. */
static uint32_t find_run(const struct cache *k, const struct dt_req *req, uint32_t *count)
{
    uint64_t first = req->sector >> k->shift, last = (req->sector + req->sectors - 1) >> k->shift;
    uint32_t slot = index_find(k, first);

    *count = (uint32_t)(last - first + 1);
    if (slot == SLOT_NONE || last >= k->blocks)
        return SLOT_NONE;
    for (uint32_t i = 1; i < *count; i++)
        if (slot + i >= k->slots ||
            (k->index[slot + i] & CACHE_ENTRY_KEY) != ((first + i) | CACHE_ENTRY_VALID))
            return SLOT_NONE;
    return slot;
}

static bool try_hit(struct cache *k, struct dt_req *req)
{
    const struct iovec *iov;
    uint32_t count, slot = find_run(k, req, &count);
    unsigned n;

    if (slot == SLOT_NONE)
        return false;
    n = dt_req_map(k->c, req, &iov);
    if (!cache_aligned(k, iov, n))
        return false;
    for (uint32_t i = slot; i < slot + count; i++)
        if (k->users[i] >= USERS_MAX)
            return false; /* of jobs there are few */
    hit_start(k, req, slot, count, iov, n);
    return true;
}

void cache_begin(struct cache *k, struct dt_req *req)
{
    switch (req->op) {
    case DT_OP_READ:
        if (!try_hit(k, req))
            read_begin(k, req);
        break;
    case DT_OP_WRITE:
        if (k->mode != CACHE_WRITEBACK || !try_hit(k, req))
            write_begin(k, req);
        break;
    case DT_OP_FLUSH:
        commit_flush(k, req);
        break;
    default:
        range_begin(k, req);
    }
}

static void cache_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct cache *k = c->layer_data;

    if (unlikely(k->destage.resting)) {
        k->destage.resting = false;
        destage_kick(k);
    }
    for (unsigned i = 0; i < n; i++) {
        struct cache_frame *fr = dt_frame(c, reqs[i]);

        fr->k = k;
        fr->job = NULL;
        if (dt_req_has_data(reqs[i]))
            follow(k, reqs[i]);
        cache_begin(k, reqs[i]);
    }
}

/* What was forwarded comes back: to its job, or as it is. */
static void cache_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct cache_frame *fr = dt_frame(c, reqs[i]);

        if (fr->job)
            job_done(fr->job, reqs[i]->error);
        else
            dt_complete(c, &reqs[i], 1);
    }
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void set_keep(struct cache *k)
{
    k->keep = (uint64_t)(k->keep_dirty * (double)k->slots);
}

static int cache_open(struct dt_layer *layer, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);
    const struct dt_block_info *info = dt_layer_info(layer);

    k->layer = layer;
    k->id = k->id_given ?: dt_layer_device(layer);
    if (strlen(k->id) >= sizeof(k->super.disk))
        return dt_fail(err, -EINVAL, "id=%.20s... is longer than %zu bytes", k->id,
                       sizeof(k->super.disk) - 1);
    if (info->read_only)
        return dt_fail(err, -EROFS, "the disk below is read-only: dirty blocks could never leave");
    return cache_open_file(k, err);
}

static int cache_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);
    int ret = storefile_fence(&k->file, dt_layer_device(layer), deadline, err);

    return ret ?: k->serving ? 0 : cache_load(k, err);
}

static void cache_close(struct dt_layer *layer)
{
    cache_close_file(dt_layer_data(layer));
}

static int cache_start(struct dt_ctx *c, struct dt_error *err)
{
    struct cache *k = c->layer_data;

    CHECK(!k->c);
    k->c = c;
    set_keep(k);
    jobs_init(k);
    commit_init(k);
    destage_init(k);
    cache_gauge(k, DIRTY, k->dirty);
    cache_gauge(k, USED, k->used);
    destage_kick(k);
    return 0;
}

static void cache_stop(struct dt_ctx *c)
{
    struct cache *k = c->layer_data;

    destage_fini(k);
    commit_fini(k);
    jobs_fini(k);
    k->c = NULL;
}

static void cache_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    destage_rest(c->layer_data);
}

static int cache_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);

    if (k->serving && info->sectors != k->super.disk_sectors) {
        int ret = cache_resized(k, info->sectors, err);

        if (ret < 0)
            return ret;
    }
    info->can_flush = true;
    info->max_sectors = info->max_sectors ? MIN(info->max_sectors, MAX_SECTORS) : MAX_SECTORS;
    info->max_discard = info->max_discard ? MIN(info->max_discard, MAX_RANGE) : MAX_RANGE;
    info->max_write_zeroes =
        info->max_write_zeroes ? MIN(info->max_write_zeroes, MAX_RANGE) : MAX_RANGE;
    return 0;
}

static int cache_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);

    set_keep(k);
    k->destage.not_before = 0;
    if (k->c)
        destage_kick(k);
    return 0;
}

/* ---- Commands ------------------------------------------------------------------------------- */

static int run_drain(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);

    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    k->destage.drain = k->dirty > 0;
    k->destage.resting = false;
    destage_kick(k);
    dt_reply_u64(reply, "dirty", k->dirty);
    return 0;
}

static int run_drop(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    struct cache *k = dt_layer_data(layer);
    uint64_t dropped = 0;

    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    for (uint64_t i = 0; i < k->slots; i++) {
        if (!slot_valid(k, (uint32_t)i) || slot_bound(k, (uint32_t)i) || k->users[i])
            continue;
        index_drop(k, (uint32_t)i);
        dropped++;
    }
    dt_reply_u64(reply, "dropped", dropped);
    dt_reply_u64(reply, "left", k->used);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"drain", "", "Write all dirty blocks below, in the background; tells how many there are.",
     run_drain},
    {"drop", "", "Forget all clean blocks.", run_drop},
    {NULL},
};

const struct dt_block_ext blk_cache = {
    DT_BLOCK_EXT_HEADER,
    .name = "cache",
    .summary = "A fast local file before a slow disk: read cache, and write cache if wanted",
    .help =
        "What is read often is read from the file. With mode=writeback a write is done when the "
        "file has it, and a flush when the file has it durably; dirty blocks go to the disk "
        "below in the background. They survive a kill and a loss of power, but not the loss of "
        "the file. 'devtap cache' looks at the file.",
    .flags = DT_CONTENT_BEARING,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct cache),
    .frame_size = sizeof(struct cache_frame),
    .sub_requests = JOBS + 2,
    .open = cache_open,
    .close = cache_close,
    .fence = cache_fence,
    .read_early = cache_read_early,
    .start = cache_start,
    .stop = cache_stop,
    .info = cache_info,
    .submit = cache_submit,
    .complete = cache_complete,
    .quiesce = cache_quiesce,
    .set = cache_set,
    .status = cache_status,
};
