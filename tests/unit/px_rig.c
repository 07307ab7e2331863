/* SPDX-License-Identifier: MIT */
/* px_rig.c - the store in memory, and crashes of it: px_rig.h. */
#include "px_rig.h"

static struct rig_store *of(struct store *s)
{
    return container_of(s, struct rig_store, s);
}

/* ---- The log ---- */

static void append(struct rig_store *r, const void *data, uint64_t addr, unsigned count,
                   uint64_t issued)
{
    struct rig_write *w;

    if (!r->logging)
        return;
    if (r->log_n == r->log_room) {
        r->log_room = MAX(2 * r->log_room, (uint64_t)256);
        r->log = realloc(r->log, r->log_room * sizeof(*r->log));
        CHECK(r->log);
    }
    w = &r->log[r->log_n++];
    *w = (struct rig_write){.addr = addr,
                            .count = count,
                            .issued = issued,
                            .blocks = r->s.blocks,
                            .states = r->states ? *r->states : 0};
    if (count) {
        w->data = xcalloc(count, PX_BLOCK);
        memcpy(w->data, data, (size_t)count * PX_BLOCK);
    }
}

void rig_log_clear(struct rig_store *r)
{
    for (uint64_t i = 0; i < r->log_n; i++)
        free(r->log[i].data);
    r->log_n = 0;
}

/* ---- The store ---- */

static void queue(struct rig_store *r, struct store_io *sio, void *buf, uint64_t addr,
                  unsigned count, int kind)
{
    CHECK(r->pending_n < ARRAY_SIZE(r->pending));
    CHECK(addr + count <= r->s.blocks);
    CHECK(((uintptr_t)buf & (PX_BLOCK - 1)) == 0);
    r->pending[r->pending_n++] = (struct rig_pending){.sio = sio,
                                                      .buf = buf,
                                                      .addr = addr,
                                                      .issued = r->log_n,
                                                      .count = count,
                                                      .kind = (unsigned)kind};
}

static void rig_read(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                     unsigned count)
{
    queue(of(s), sio, buf, addr, count, RIG_READ);
}

/* Sometimes what was put meanwhile is read, sometimes the reader has changed its mind by then. */
static void rig_fetch(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                      unsigned count)
{
    of(s)->fetched++;
    queue(of(s), sio, buf, addr, count, RIG_READ);
}

static void rig_write(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                      unsigned count)
{
    queue(of(s), sio, (void *)(uintptr_t)buf, addr, count, RIG_WRITE);
}

static void rig_flush(struct store *s, struct store_io *sio)
{
    queue(of(s), sio, NULL, 0, 0, RIG_FLUSH);
}

/* ---- Space that ends ---- */

/* Like a file system that is full, it takes what fits. How many blocks from @addr on have space. */
static unsigned fill_holes(struct rig_store *r, uint64_t addr, uint64_t count)
{
    unsigned n = 0;

    for (; n < count; n++) {
        if (!r->has || r->has[addr + n])
            continue;
        if (r->room == 0)
            break;
        r->has[addr + n] = 1;
        r->room--;
    }
    return n;
}

static void make_holes(struct rig_store *r, uint64_t addr, uint64_t count)
{
    for (uint64_t i = addr; r->has && i < addr + count; i++) {
        r->room += r->has[i];
        r->has[i] = 0;
    }
}

static int rig_backed(struct store *s, uint64_t addr, uint64_t end, uint64_t *from, uint64_t *to)
{
    const struct rig_store *r = of(s);

    for (*from = addr; *from < end && !r->has[*from];)
        ++*from;
    for (*to = *from; *to < end && r->has[*to];)
        ++*to;
    return 0;
}

void rig_limit(struct rig_store *r, uint64_t blocks)
{
    r->has = xcalloc(r->s.blocks, 1);
    r->room = blocks;
    r->s.holes = r->s.finds_unwritten = true;
    r->s.backed = rig_backed;
}

static int write_some(struct rig_store *r, const void *buf, uint64_t addr, unsigned count,
                      uint64_t issued)
{
    unsigned n = fill_holes(r, addr, count);

    memcpy(r->bytes + addr * PX_BLOCK, buf, (size_t)n * PX_BLOCK);
    if (n)
        append(r, buf, addr, n, issued);
    return n < count ? -ENOSPC : 0;
}

/* ---- What is done ---- */

/* What was punched may be anything: a reader of it would be found out, and so would what was written there before it
 * lands. */
static void destroy(struct rig_store *r, uint64_t addr, uint64_t count, uint64_t issued)
{
    memset(r->bytes + addr * PX_BLOCK, 0xdb, count * PX_BLOCK);
    append(r, r->bytes + addr * PX_BLOCK, addr, (unsigned)count, issued);
}

/* Zeroes would hide that something was in use. */
static int give_space(struct rig_store *r, uint64_t addr, uint64_t count, uint64_t issued)
{
    if (r->fail_allocate && --r->fail_allocate == 0)
        return -ENOSPC;
    if (fill_holes(r, addr, count) < count)
        return -ENOSPC;
    destroy(r, addr, count, issued);
    r->allocated += count;
    return 0;
}

/* Each open file hears of what could not be written, and nothing is written again: so all flushes fail that are under way. */
static int flush_fails(struct rig_store *r, uint64_t issued)
{
    for (unsigned i = 0; i < r->pending_n; i++)
        r->pending[i].fails |= r->pending[i].kind == RIG_FLUSH;
    r->flush_failed = true;
    append(r, NULL, 0, 0, issued);
    if (r->logging)
        r->log[r->log_n - 1].failed = true;
    return -EIO;
}

static int flush_outcome(struct rig_store *r, uint64_t issued, bool fails)
{
    if (fails || (r->fail_flush && --r->fail_flush == 0))
        return flush_fails(r, issued);
    append(r, NULL, 0, 0, issued);
    return 0;
}

static int land_read(struct rig_store *r, const struct rig_pending *p)
{
    r->reads += p->count;
    memcpy(p->buf, r->bytes + p->addr * PX_BLOCK, (size_t)p->count * PX_BLOCK);
    if (r->spoil_reads && r->spoil_reads--)
        memset(p->buf, 0x5a, 64);
    return r->fail_reads && r->fail_reads-- ? -EIO : 0;
}

bool rig_turn(struct rig_store *r)
{
    struct rig_pending p;
    unsigned i;
    int result = 0;

    if (r->pending_n == 0)
        return false;
    i = (unsigned)dt_rng_below(&r->rng, r->pending_n);
    p = r->pending[i];
    r->pending[i] = r->pending[--r->pending_n];
    if (p.kind == RIG_READ) {
        result = land_read(r, &p);
    } else if (p.kind == RIG_WRITE) {
        result = write_some(r, p.buf, p.addr, (unsigned)p.count, p.issued);
    } else if (p.kind == RIG_PUNCH) {
        r->punches++;
        make_holes(r, p.addr, p.count);
        destroy(r, p.addr, p.count, p.issued);
    } else if (p.kind == RIG_ALLOCATE) {
        result = give_space(r, p.addr, p.count, p.issued);
    } else {
        result = flush_outcome(r, p.issued, p.fails);
    }
    p.sio->done(p.sio, result);
    return true;
}

static int rig_get(struct store *s, void *buf, uint64_t addr, unsigned count)
{
    if (addr + count > s->blocks)
        return -EIO;
    memcpy(buf, of(s)->bytes + addr * PX_BLOCK, (size_t)count * PX_BLOCK);
    return 0;
}

static int rig_put(struct store *s, const void *buf, uint64_t addr, unsigned count)
{
    struct rig_store *r = of(s);

    CHECK(addr + count <= s->blocks);
    return write_some(r, buf, addr, count, r->log_n);
}

static int rig_sync(struct store *s)
{
    return flush_outcome(of(s), of(s)->log_n, false);
}

static void rig_prefetch(struct store *s, uint64_t addr, uint64_t count)
{
    CHECK(count && addr < s->blocks && count <= s->blocks - addr);
}

static void rig_punch(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count)
{
    struct rig_store *r = of(s);

    CHECK(count && addr < s->blocks && count <= s->blocks - addr);
    if (sio) {
        queue(r, sio, r->bytes, addr, (unsigned)count, RIG_PUNCH);
        return;
    }
    r->punches++;
    make_holes(r, addr, count);
    destroy(r, addr, count, r->log_n);
}

static int rig_allocate(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count,
                        bool full)
{
    struct rig_store *r = of(s);

    CHECK(count && addr < s->blocks && count <= s->blocks - addr);
    r->full += full ? count : 0;
    if (!sio)
        return give_space(r, addr, count, r->log_n);
    queue(r, sio, r->bytes, addr, (unsigned)count, RIG_ALLOCATE);
    return 0;
}

static void rig_close(struct store *s)
{
    of(s)->pending_n = 0;
}

struct rig_store *rig_store_new(uint64_t blocks, uint64_t seed)
{
    struct rig_store *r = xcalloc(1, sizeof(*r));

    r->s = (struct store){.blocks = blocks,
                          .name = "memory",
                          .read = rig_read,
                          .write = rig_write,
                          .save = rig_write,
                          .flush = rig_flush,
                          .get = rig_get,
                          .put = rig_put,
                          .sync = rig_sync,
                          .commit = store_slots_commit,
                          .recall = store_slots_recall,
                          .punch = rig_punch,
                          .allocate = rig_allocate,
                          .fetch = rig_fetch,
                          .prefetch = rig_prefetch,
                          .close = rig_close};
    r->bytes = xaligned(PX_BLOCK, blocks * PX_BLOCK);
    dt_rng_seed(&r->rng, seed);
    return r;
}

void rig_extend(struct rig_store *r, uint64_t more)
{
    uint64_t blocks = r->s.blocks + more;
    uint8_t *bytes = xaligned(PX_BLOCK, blocks * PX_BLOCK);

    CHECK(r->pending_n == 0); /* they may point there */
    memcpy(bytes, r->bytes, r->s.blocks * PX_BLOCK);
    memset(bytes + r->s.blocks * PX_BLOCK, 0, more * PX_BLOCK);
    free(r->bytes);
    r->bytes = bytes;
    if (r->has) {
        r->has = realloc(r->has, blocks);
        CHECK(r->has);
        memset(r->has + r->s.blocks, 0, more);
        r->room += more;
    }
    r->s.blocks = blocks;
}

void rig_store_free(struct rig_store *r)
{
    rig_log_clear(r);
    free(r->log);
    free(r->bytes);
    free(r->has);
    free(r);
}

/* ---- A reader beside ---- */

static void print(void *arg, const char *text)
{
    log_error("check of a pinned root: %s", text);
}

void rig_check_root(const struct rig_store *r, const struct px_root *root)
{
    struct rig_store view = {.bytes = r->bytes};
    struct pool_options o = {.read_only = true, .root = root, .cache = 64 * 4200};
    /* Little memory, so that it takes several passes: some 16, whatever the size of the pool. */
    struct pool_check check = {.say = print, .data = true, .memory = r->s.blocks};
    struct dt_error err = {""};
    struct pool *pool;

    view.s = (struct store){.blocks = r->s.blocks,
                            .name = "view",
                            .get = rig_get,
                            .recall = store_slots_recall,
                            .close = rig_close};
    if (pool_open(&pool, &view.s, &o, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"a pinned root opens");
    }
    CHECK(pool_check(pool, &check, &err) == 0);
    CHECK(check.damaged == 0 && check.leaked == 0 && check.unmarked == 0 && check.doubly == 0 &&
          check.mischarged == 0 && check.miscounted == 0);
    pool_abandon(pool);
}

/* ---- Crashes ---- */

static void land(struct rig_store *into, const struct rig_write *w, struct dt_rng *rng, bool torn)
{
    uint8_t *to = into->bytes + w->addr * PX_BLOCK;

    if (!torn) {
        memcpy(to, w->data, (size_t)w->count * PX_BLOCK);
        return;
    }
    for (size_t i = 0; i < (size_t)w->count * 8; i++)
        if (dt_rng_next(rng) & 1)
            memcpy(to + i * 512, w->data + i * 512, 512);
}

void rig_crash(struct rig_store *into, const uint8_t *base, const struct rig_store *from,
               uint64_t at, enum rig_crash kind, struct dt_rng *rng)
{
    /* What a flush was for that failed, no later one is for: from @certain to @doubted. */
    uint64_t durable = 0, certain = 0, doubted = 0;
    unsigned keep = (unsigned)dt_rng_below(rng, 5); /* quarters of what is not durable */

    memcpy(into->bytes, base, into->s.blocks * PX_BLOCK);
    for (uint64_t i = 0; i < at; i++) {
        if (from->log[i].failed) {
            kind = RIG_POWER;
            certain = durable;
            doubted = i;
        } else if (from->log[i].count == 0) {
            durable = MAX(durable, from->log[i].issued);
        }
    }
    for (uint64_t i = 0; i < from->log_n; i++) {
        const struct rig_write *w = &from->log[i];
        bool before = i < at, begun = w->issued < at;

        if (w->count == 0 || !begun)
            continue;
        /* What a killed process has begun still lands; so do parts of it when the power fails. */
        if (before && (kind == RIG_KILL || (i < durable && (i < certain || i >= doubted))))
            land(into, w, rng, false);
        else if (kind == RIG_KILL || dt_rng_below(rng, 4) < keep)
            land(into, w, rng, kind == RIG_POWER && dt_rng_below(rng, 3) == 0);
    }
}
