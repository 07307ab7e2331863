/* SPDX-License-Identifier: MIT */
/*
 * model.c - the back below the extension under test: a disk in memory that is as awkward as a disk
 * may be. It answers in any order, moves the data as late as it can, checks the limits it declared,
 * fails where it is told to, and with a write cache forgets what was not flushed when its process
 * is killed.
 */
#include "tools/conformance/internal.h"

#define MODEL_BURST 16u
#define MODEL_LOOK  1024u /* sectors of which it says at a time whether they are zeroes */

void model_init(struct model *m, uint64_t seed, uint64_t sectors)
{
    static const uint32_t limits[] = {0, 0, 8, 128};
    struct dt_rng rng;

    dt_rng_seed(&rng, seed);
    m->seed = seed;
    m->sectors = sectors;
    m->logical_block = dt_rng_below(&rng, 4) ? 512 : 4096;
    m->max_sectors = limits[dt_rng_below(&rng, ARRAY_SIZE(limits))];
    m->store = m->cache = shared_memory(sectors << DT_SECTOR_SHIFT);
    m->journal = shared_memory(sizeof(*m->journal));
}

void model_add_cache(struct model *m)
{
    size_t size = m->sectors << DT_SECTOR_SHIFT;

    m->cache = xcalloc(1, size);
    memcpy(m->cache, m->store, size);
    m->dirty = xcalloc(m->sectors, 1);
}

void model_recover(struct model *m)
{
    struct journal *j = m->journal;

    if (!__atomic_load_n(&j->valid, __ATOMIC_SEQ_CST))
        return;
    memcpy(m->store + (j->sector << DT_SECTOR_SHIFT), j->bytes, DT_SECTOR_SIZE);
    __atomic_store_n(&j->valid, 0, __ATOMIC_SEQ_CST);
}

static bool judge(const struct model *m, const struct dt_req *req)
{
    char text[64];
    uint32_t block = m->logical_block >> DT_SECTOR_SHIFT;

    load_describe(req, text, sizeof(text));
    if (req->sector > m->sectors || req->sectors > m->sectors - req->sector)
        bench_fail("a %s came down, beyond the end of the disk (%llu sectors)", text,
                   (unsigned long long)m->sectors);
    if (dt_req_has_data(req) && m->max_sectors && req->sectors > m->max_sectors)
        bench_fail("a %s came down to a back that declared max_sectors=%u", text, m->max_sectors);
    if (req->sector % block || req->sectors % block)
        bench_fail("a %s came down to a back with blocks of %u bytes", text, m->logical_block);
    if (req->op == DT_OP_FLUSH)
        return !m->fail_flush;
    return req->sector >= m->bad_sector + m->bad_sectors ||
           m->bad_sector >= req->sector + req->sectors;
}

static void persist(struct model *m, uint64_t sector)
{
    struct journal *j = m->journal;

    j->sector = sector;
    memcpy(j->bytes, m->cache + (sector << DT_SECTOR_SHIFT), DT_SECTOR_SIZE);
    __atomic_store_n(&j->valid, 1, __ATOMIC_SEQ_CST);
    model_recover(m);
    m->dirty[sector] = 0;
}

/* What a write changed is durable later, at once, or (the cache evicts when it likes) by chance. */
static void changed(struct model *m, struct model_thread *t, const struct dt_req *req)
{
    bool now = req->flags & DT_REQ_FUA || dt_rng_below(&t->rng, 4) == 0;

    for (uint32_t i = 0; m->dirty && i < req->sectors; i++) {
        m->dirty[req->sector + i] = 1;
        if (now)
            persist(m, req->sector + i);
    }
}

static void execute(struct model *m, struct model_thread *t, struct dt_req *req)
{
    uint8_t *at = m->cache + (req->sector << DT_SECTOR_SHIFT);
    const struct iovec *iov;
    unsigned n;

    switch ((enum dt_op)req->op) {
    case DT_OP_READ:
        n = dt_req_map(t->c, req, &iov);
        if (dt_iov_write(iov, n, 0, at, dt_req_bytes(req)) != dt_req_bytes(req))
            bench_fail("the vectors of a read are shorter than its range");
        break;
    case DT_OP_WRITE:
        n = dt_req_map(t->c, req, &iov);
        if (dt_iov_read(iov, n, 0, at, dt_req_bytes(req)) != dt_req_bytes(req))
            bench_fail("the vectors of a write are shorter than its range");
        changed(m, t, req);
        break;
    case DT_OP_FLUSH:
        for (uint64_t s = 0; m->dirty && s < m->sectors; s++)
            if (m->dirty[s])
                persist(m, s);
        break;
    case DT_OP_DISCARD:
        if (dt_rng_below(&t->rng, 2)) /* a hint: contents may or may not go */
            break;
        /* fallthrough */
    case DT_OP_WRITE_ZEROES:
        memset(at, 0, dt_req_bytes(req));
        changed(m, t, req);
        break;
    case DT_OP_COUNT:
        break;
    }
}

unsigned model_step(struct model *m, unsigned thread)
{
    struct model_thread *t = &m->threads[thread];
    struct dt_req *batch[MODEL_BURST];
    unsigned n = (unsigned)dt_rng_below(&t->rng, MIN(t->n, MODEL_BURST) + 1);

    for (unsigned i = 0; i < n; i++) {
        unsigned pick = (unsigned)dt_rng_below(&t->rng, t->n);
        struct dt_req *req = t->pending[pick];

        t->pending[pick] = t->pending[--t->n];
        req->error = judge(m, req) ? 0 : -EIO;
        if (req->error == 0)
            execute(m, t, req);
        batch[i] = req;
    }
    if (n) /* else the device may be stopped already */
        dt_complete(t->c, batch, n);
    return n;
}

static void model_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct model_thread *t = &bench->model.threads[c->thread];

    CHECK(t->n + n <= MODEL_PENDING);
    for (unsigned i = 0; i < n; i++)
        t->pending[t->n++] = reqs[i];
}

static int model_start(struct dt_ctx *c, struct dt_error *err)
{
    struct model_thread *t = &bench->model.threads[c->thread];

    t->c = c;
    t->n = 0;
    dt_rng_seed(&t->rng, bench->model.seed + c->thread);
    return 0;
}

static void model_stop(struct dt_ctx *c)
{
    bench->model.threads[c->thread].c = NULL;
}

static int model_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct model *m = &bench->model;

    *info = (struct dt_block_info){
        .sectors = m->sectors,
        .logical_block = m->logical_block,
        .physical_block = 4096,
        .max_sectors = m->max_sectors,
        .can_flush = true,
        .can_discard = true,
        .can_write_zeroes = true,
    };
    return 0;
}

static bool reads_zero(const struct model *m, uint64_t sector)
{
    return content_version(m->cache + (sector << DT_SECTOR_SHIFT), m->seed, sector) == VERSION_ZERO;
}

static void look(void *arg)
{
    const struct model *m = &bench->model;
    struct dt_extent *extent = arg;
    bool zero = reads_zero(m, extent->sector);
    uint64_t n = 1;

    while (n < MIN(extent->sectors, MODEL_LOOK) && reads_zero(m, extent->sector + n) == zero)
        n++;
    extent->sectors = n;
    extent->status = zero ? DT_STATUS_HOLE : DT_STATUS_DATA;
}

static void model_status(struct dt_layer *layer, struct dt_extent *extent)
{
    dt_layer_exclusive(layer, look, extent);
}

/* For layers that look at the disk while they open: nobody turns the model's steps then. */
static int model_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                            struct dt_error *err)
{
    const struct model *m = &bench->model;

    memcpy(data, m->cache + (sector << DT_SECTOR_SHIFT), (size_t)sectors << DT_SECTOR_SHIFT);
    return 0;
}

const struct dt_block_ext model_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "conformance-model",
    .summary = "The model of a disk that devtap test puts below an extension",
    .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .start = model_start,
    .stop = model_stop,
    .info = model_info,
    .submit = model_submit,
    .status = model_status,
    .read_early = model_read_early,
};
