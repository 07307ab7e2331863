/* SPDX-License-Identifier: MIT */
/*
 * unit.c - units in memory: found, taken over from the coldest, and the parts that they serve one
 * after the other.
 *
 * A unit is one part's at a time, or that of all writes which stood next to each other in its line:
 * those are copied into its data in their order and stored at once. So a guest that writes small
 * pieces in sequence pays for packing and for the map once for all that were under way together. A
 * read behind a write waits until that is recorded: what a guest has seen must not be gone when a
 * successor looks.
 */
#include "blk/compress/internal.h"

#include <sys/mman.h>

#define UNIT_MEMORY (2 * COMPRESS_UNIT)

/* ---- Memory ---- */

/* Memory is taken when it is first used: an idle disk has none. */
int compress_units_start(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;
    void *memory;

    cc->nunits = w->cache / UNIT_MEMORY;
    for (cc->unit_mask = 1; cc->unit_mask < cc->nunits; cc->unit_mask *= 2)
        ;
    memory = mmap(NULL, cc->nunits * UNIT_MEMORY, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    cc->unit_memory = memory;
    cc->unit_hash = xcalloc(cc->unit_mask, sizeof(*cc->unit_hash));
    cc->unit_mask--;
    cc->units = xcalloc(cc->nunits, sizeof(*cc->units));
    list_init(&cc->unit_lru);
    compress_parts_init(&cc->unit_wait);
    return 0;
}

void compress_units_stop(struct compress_ctx *cc)
{
    for (uint64_t i = 0; i < cc->units_used; i++)
        CHECK(!cc->units[i].busy);
    free(cc->units);
    free(cc->unit_hash);
    munmap(cc->unit_memory, cc->nunits * UNIT_MEMORY);
}

static struct compress_unit **bucket(struct compress_ctx *cc, uint64_t index)
{
    return &cc->unit_hash[(index * 0x9e3779b97f4a7c15u >> 32) & cc->unit_mask];
}

struct compress_unit *compress_unit_find(struct compress_ctx *cc, uint64_t index)
{
    struct compress_unit *u = *bucket(cc, index);

    while (u && u->index != index)
        u = u->hash_next;
    return u;
}

static void unhash(struct compress_unit *u)
{
    struct compress_unit **link = bucket(u->cc, u->index);

    while (*link != u)
        link = &(*link)->hash_next;
    *link = u->hash_next;
}

static struct compress_unit *first_use(struct compress_ctx *cc)
{
    struct compress_unit *u = &cc->units[cc->units_used];

    u->cc = cc;
    u->data = cc->unit_memory + cc->units_used++ * UNIT_MEMORY;
    u->packed = u->data + COMPRESS_UNIT;
    list_init(&u->lru);
    compress_parts_init(&u->waiting);
    compress_parts_init(&u->batch);
    return u;
}

/* One that was never used, or the coldest that is not busy, becomes the unit @index. */
static struct compress_unit *claim(struct compress_ctx *cc, uint64_t index)
{
    struct compress_unit *u, **link = bucket(cc, index);

    if (cc->units_used < cc->nunits) {
        u = first_use(cc);
    } else if (!list_empty(&cc->unit_lru)) {
        u = list_entry(cc->unit_lru.next, struct compress_unit, lru);
        unhash(u);
    } else {
        return NULL;
    }
    u->index = index;
    u->valid = false;
    u->hash_next = *link;
    *link = u;
    return u;
}

/* ---- One step after the other ---- */

static void begin(struct compress_unit *u)
{
    if (u->busy)
        return;
    u->busy = true;
    list_del(&u->lru);
    compress_unit_next(u);
}

/* Gives every part that waits a unit, as long as there are any. */
static void serve_waiting(struct compress_ctx *cc)
{
    if (cc->serving_units)
        return;
    cc->serving_units = true;
    while (cc->unit_wait.head) {
        struct compress_part *part = cc->unit_wait.head;
        struct compress_unit *u = compress_unit_find(cc, part->unit) ?: claim(cc, part->unit);

        if (!u)
            break;
        compress_parts_add(&u->waiting, compress_parts_take(&cc->unit_wait));
        begin(u);
    }
    cc->serving_units = false;
}

void compress_unit_enter(struct compress_ctx *cc, struct compress_part *part)
{
    compress_parts_add(&cc->unit_wait, part);
    serve_waiting(cc);
}

static void rest(struct compress_unit *u)
{
    struct compress_ctx *cc = u->cc;

    if (u->sector)
        compress_map_put(u->sector);
    u->sector = NULL;
    u->busy = false;
    list_add_tail(&cc->unit_lru, &u->lru);
    serve_waiting(cc);
}

static void fail_head(struct compress_unit *u, int error)
{
    compress_part_done(u->cc, compress_parts_take(&u->waiting), error);
}

static void mapped(struct compress_wait *wait, int error)
{
    struct compress_unit *u = container_of(wait, struct compress_unit, wait);

    if (error)
        fail_head(u, error);
    else
        u->sector = wait->sector;
    compress_unit_next(u);
}

/* Return: 1; 0: compress_unit_next() comes later; or an error. */
static int get_map(struct compress_unit *u)
{
    int ret;

    if (u->sector)
        return 1;
    u->wait.ready = mapped;
    ret = compress_map_get(u->cc, u->index / COMPRESS_ENTRIES, &u->wait);
    if (ret > 0)
        u->sector = u->wait.sector;
    return ret;
}

/* ---- Reads and writes ---- */

/* What of the unit the part is about, as bytes [@from, @to) of the unit. */
static void part_range(const struct compress_part *part, uint32_t *from, uint32_t *to)
{
    const struct dt_req *req = compress_req(part->cio);
    uint64_t base = part->unit << COMPRESS_UNIT_SHIFT;

    *from = (uint32_t)(MAX(compress_start(req), base) - base);
    *to = (uint32_t)(MIN(compress_end(req), base + COMPRESS_UNIT) - base);
}

static void read_part(struct compress_unit *u, struct compress_part *part)
{
    struct dt_req *req = compress_req(part->cio);
    const struct iovec *iov;
    unsigned n = dt_req_map(u->cc->c, req, &iov);
    uint32_t from, to;

    part_range(part, &from, &to);
    dt_iov_write(iov, n, (u->index << COMPRESS_UNIT_SHIFT) + from - compress_start(req),
                 u->data + from, to - from);
}

static void write_part(struct compress_unit *u, struct compress_part *part)
{
    struct dt_req *req = compress_req(part->cio);
    const struct iovec *iov;
    uint32_t from, to;
    unsigned n;

    part_range(part, &from, &to);
    if (req->op != DT_OP_WRITE) {
        memset(u->data + from, 0, to - from);
        return;
    }
    n = dt_req_map(u->cc->c, req, &iov);
    dt_iov_read(iov, n, (u->index << COMPRESS_UNIT_SHIFT) + from - compress_start(req),
                u->data + from, to - from);
}

static bool is_read(const struct compress_part *part)
{
    return compress_req(part->cio)->op == DT_OP_READ;
}

/* Do the writes that are next cover all of the unit together? One bit for each of its 128 sectors.
 */
static bool covered(const struct compress_unit *u)
{
    uint64_t left[2] = {UINT64_MAX, UINT64_MAX};

    for (const struct compress_part *p = u->waiting.head; p && p->cio && !is_read(p); p = p->next) {
        uint32_t from, to;

        part_range(p, &from, &to);
        for (uint32_t s = from / DT_SECTOR_SIZE; s < to / DT_SECTOR_SIZE; s++)
            left[s / 64] &= ~((uint64_t)1 << (s % 64));
    }
    return !left[0] && !left[1];
}

void compress_batch_done(struct compress_unit *u, int error)
{
    struct compress_parts batch;

    compress_parts_init(&batch);
    compress_parts_move(&batch, &u->batch);
    if (error)
        u->valid = false;
    for (struct compress_part *p; (p = compress_parts_take(&batch)) != NULL;)
        compress_part_done(u->cc, p, error);
    compress_unit_next(u);
}

void compress_fetched(struct compress_unit *u, int error)
{
    if (error)
        fail_head(u, error);
    u->valid = u->fetched = !error;
    compress_unit_next(u);
}

/* Return: false if compress_unit_next() comes later. */
static bool serve_read(struct compress_unit *u)
{
    if (!u->valid && !compress_fetch(u))
        return false;
    if (!u->fetched)
        dt_count(u->cc->c, HITS, 1);
    u->fetched = false;
    read_part(u, u->waiting.head);
    compress_part_done(u->cc, compress_parts_take(&u->waiting), 0);
    return true;
}

static bool serve_writes(struct compress_unit *u)
{
    struct compress_part *p;

    if (!u->valid && !covered(u)) {
        dt_count(u->cc->c, PARTIAL, 1);
        if (!compress_fetch(u))
            return false;
    }
    u->fetched = false;
    while ((p = u->waiting.head) != NULL && p->cio && !is_read(p)) {
        write_part(u, p);
        compress_parts_add(&u->batch, compress_parts_take(&u->waiting));
    }
    u->valid = true; /* unless it cannot be stored */
    compress_store(u);
    return false;
}

static void serve_range(struct compress_unit *u)
{
    compress_parts_take(&u->waiting);
    u->valid = false;
    compress_range_turn(u->cc);
}

/* The part at the head of the line. Return: false if compress_unit_next() comes later. */
static bool serve(struct compress_unit *u)
{
    const struct compress *w = u->cc->c->layer_data;
    const struct compress_part *part = u->waiting.head;
    int ret;

    if (!part->cio) {
        serve_range(u);
        return true;
    }
    ret = get_map(u);
    if (ret == 0)
        return false;
    if (ret > 0 && is_read(part))
        return serve_read(u);
    if (ret > 0 && !w->failed)
        return serve_writes(u);
    fail_head(u, ret < 0 ? ret : -EIO);
    return true;
}

void compress_unit_next(struct compress_unit *u)
{
    while (u->waiting.head)
        if (!serve(u))
            return;
    rest(u);
}
