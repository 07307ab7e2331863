/* SPDX-License-Identifier: MIT */
/*
 * px_model.c - a trivial model of a pool, and the pool beside it: px_rig.h.
 *
 * The state of everything is one hash, changed with each sector, so that what is found after a
 * crash can be looked up among all states there were.
 */
#include "px_model.h"

#define CACHE ((size_t)12 * 4200) /* few nodes: they are read again and again */

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = a * 0x9e3779b97f4a7c15u ^ (b + 0x7f4a7c15) * 0xbf58476d1ce4e5b9u ^
                 (c + 1) * 0x94d049bb133111ebu;

    x ^= x >> 31;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 29;
}

static uint64_t name_hash(const char *name)
{
    uint64_t hash = 14695981039346656037u;

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 1099511628211u;
    return hash;
}

static uint64_t hash_size(uint64_t id, uint64_t blocks, bool wide)
{
    return mix(id, UINT32_MAX - 1, 2 * blocks + wide);
}

static uint64_t hash_content(const char *name, const uint32_t *sector, uint64_t blocks, bool wide,
                             uint64_t quota)
{
    uint64_t id = name_hash(name);
    uint64_t hash = hash_size(id, blocks, wide) ^ mix(id, UINT32_MAX, quota);

    for (unsigned i = 0; i < RIG_SECTORS; i++)
        if (sector[i])
            hash ^= mix(id, i, sector[i]);
    return hash;
}

static uint64_t hash_thing(const struct rig_thing *t)
{
    return hash_content(t->name, t->sector, t->blocks, t->wide, t->quota);
}

/* A new state of the model. */
void model_push(struct rig *rig)
{
    if (rig->states == rig->hashes_room) {
        rig->hashes_room = MAX(2 * rig->hashes_room, (uint64_t)1024);
        rig->hashes = realloc(rig->hashes, rig->hashes_room * sizeof(*rig->hashes));
        CHECK(rig->hashes);
    }
    rig->hashes[rig->states++] = rig->hash;
}

void model_promise(struct rig *rig, uint64_t states)
{
    if (rig->marks_n == rig->marks_room) {
        rig->marks_room = MAX(2 * rig->marks_room, (uint64_t)256);
        rig->marks = realloc(rig->marks, rig->marks_room * sizeof(*rig->marks));
        CHECK(rig->marks);
    }
    rig->durable = MAX(rig->durable, states);
    rig->kept = MAX(rig->kept, states);
    rig->marks[rig->marks_n++] = (struct rig_mark){rig->store->log_n, rig->durable};
}

bool rig_held(const struct rig *rig, uint64_t i, uint64_t hash)
{
    uint64_t state = rig->hashes[i];

    for (unsigned d = rig->drops_n; state != hash && d-- > 0;)
        if (i >= rig->drops[d].at && i < rig->drops[d].until)
            state ^= rig->drops[d].hash;
    return state == hash;
}

uint64_t rig_durable_at(const struct rig *rig, uint64_t at)
{
    uint64_t durable = 1;

    for (uint64_t i = 0; i < rig->marks_n && rig->marks[i].at <= at; i++)
        durable = rig->marks[i].durable;
    return durable;
}

void model_set_sector(struct rig *rig, struct rig_thing *t, unsigned i, uint32_t stamp)
{
    uint64_t id = name_hash(t->name);

    if (t->sector[i])
        rig->hash ^= mix(id, i, t->sector[i]);
    t->sector[i] = stamp;
    if (stamp)
        rig->hash ^= mix(id, i, stamp);
}

void model_set_size(struct rig *rig, struct rig_thing *t, unsigned blocks)
{
    uint64_t id = name_hash(t->name);

    for (unsigned i = blocks * 8; i < RIG_SECTORS; i++)
        model_set_sector(rig, t, i, 0);
    rig->hash ^= hash_size(id, t->blocks, t->wide) ^ hash_size(id, blocks, t->wide);
    t->blocks = blocks;
}

unsigned model_sectors(const struct rig_thing *t)
{
    return MIN(t->blocks, RIG_BLOCKS) * 8;
}

bool model_did(struct rig *rig, int ret)
{
    CHECK(ret == 0 || rig->store->flush_failed);
    return ret == 0;
}

uint32_t model_slot(struct rig *rig, unsigned t)
{
    struct dt_error err;
    uint32_t slot = pool_find(rig->pool, rig->things[t].name, &err);

    CHECK(slot != NO_SLOT);
    return slot;
}

/* What was changed outlives the process when it is in the journal, and what a turn itself changes
 * is put there by the next. */
void model_turn(struct rig *rig)
{
    uint64_t dropped;

    do {
        dropped = rig->dropped;
        pool_turn(rig->pool);
    } while (rig->dropped != dropped);
    rig->kept = rig->states;
}

/* ---- Requests ---- */

struct rig_req {
    struct disk_req req;
    struct rig *rig;
    unsigned thing;
    uint32_t stamp;
    bool may_fail;   /* for its disk's quota */
    uint64_t states; /* flush: before it was begun */
};

/* Block by block: a crash may leave any number of them. */
static void follow(struct rig_req *q)
{
    struct rig *rig = q->rig;
    unsigned first = (unsigned)(q->req.offset >> 9), n = (unsigned)(q->req.length >> 9);

    for (unsigned i = first; i < first + n; i++) {
        bool whole = (i & ~7u) >= first && (i | 7u) < first + n;

        if (q->req.op == DISK_DISCARD && !whole)
            continue;
        model_set_sector(rig, &rig->things[q->thing], i, q->req.op == DISK_WRITE ? q->stamp : 0);
        if ((i & 7) == 7 || i + 1 == first + n)
            model_push(rig);
    }
}

/* Nothing writes to it meanwhile. */
static void compare_read(const struct rig_req *q)
{
    const uint32_t *words = q->req.buf, *sector = q->rig->things[q->thing].sector;

    for (unsigned i = 0; i < (unsigned)(q->req.length >> 2); i++)
        CHECK(words[i] == sector[(q->req.offset >> 9) + i / 128]);
}

static void done(struct disk_req *req)
{
    struct rig_req *q = container_of(req, struct rig_req, req);
    struct rig *rig = q->rig;

    rig->in_flight--;
    rig->busy[q->thing]--;
    rig->counts.wide += req->op == DISK_WRITE && rig->things[q->thing].wide && !req->error;
    if (req->error == -ENOSPC && q->may_fail) {
        rig->counts.refused++; /* all of it */
    } else if (req->error && (!rig->store->flush_failed || req->op == DISK_READ)) {
        rig->errors++;
    } else if (req->error && req->op == DISK_FLUSH) {
        ; /* nothing is promised */
    } else if (req->op == DISK_FLUSH) {
        model_promise(rig, q->states);
    } else if (req->op == DISK_READ) {
        compare_read(q);
    } else {
        follow(q);
        rig->kept = rig->states;
    }
    free(req->buf);
    free(q);
}

void model_set_quota(struct rig *rig, unsigned t, uint64_t blocks, enum px_policy policy)
{
    uint64_t id = name_hash(rig->things[t].name);
    struct dt_error err;

    if (pool_set_quota(rig->pool, model_slot(rig, t), blocks * PX_BLOCK, policy, &err) < 0)
        return;
    rig->hash ^= mix(id, UINT32_MAX, rig->things[t].quota) ^ mix(id, UINT32_MAX, blocks);
    rig->things[t].quota = blocks;
    rig->things[t].policy = policy;
    model_push(rig);
}

/* Nothing moves any more: all that is under way waits for quotas. */
static void lift_quotas(struct rig *rig)
{
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].quota)
            model_set_quota(rig, t, 0, PX_HOLD);
    model_turn(rig);
    rig->over = false;
    rig->lifted++;
}

static bool waits(const struct rig *rig)
{
    return rig->over || pool_is_full(rig->pool);
}

void model_run(struct rig *rig)
{
    unsigned stuck = 0, before = 0;

    unsigned drops = rig->drops_n;

    while (rig->in_flight) {
        bool moved = rig_turn(rig->store);

        if (!moved || dt_rng_below(&rig->rng, 2))
            model_turn(rig);
        stuck = moved || rig->in_flight != before || !waits(rig) ? 0 : stuck + 1;
        before = rig->in_flight;
        if (stuck < 4)
            continue;
        stuck = 0;
        if (rig->over)
            lift_quotas(rig);
        else
            model_make_room(rig);
    }
    for (; drops < rig->drops_n; drops++)
        rig->drops[drops].until = rig->states;
}

void model_submit(struct rig *rig, unsigned thing, enum disk_op op, unsigned sector, unsigned n)
{
    struct rig_req *q = xcalloc(1, sizeof(*q));

    q->rig = rig;
    q->thing = thing;
    q->may_fail = rig->things[thing].quota && rig->things[thing].policy == PX_FAIL;
    q->states = rig->states;
    q->req = (struct disk_req){
        .op = op, .offset = (uint64_t)sector << 9, .length = (uint64_t)n << 9, .done = done};
    if (op == DISK_WRITE) {
        /* What is written twice can be shared. */
        q->stamp = dt_rng_below(&rig->rng, 3) ? ++rig->stamp
                                              : 0x80000000u + (uint32_t)dt_rng_below(&rig->rng, 3);
        q->req.buf = xaligned(PX_BLOCK, ALIGN_UP((size_t)n * 512, (size_t)PX_BLOCK));
        for (unsigned i = 0; i < n * 128; i++)
            ((uint32_t *)q->req.buf)[i] = q->stamp;
    } else if (op == DISK_READ) {
        q->req.buf = xaligned(PX_BLOCK, ALIGN_UP((size_t)n * 512, (size_t)PX_BLOCK));
    }
    rig->in_flight++;
    rig->busy[thing]++;
    disk_submit(rig->disks[thing], &q->req);
}

/* ---- Disks and snapshots ---- */

void model_mount(struct rig *rig, unsigned t)
{
    struct dt_error err;

    if (!rig->things[t].snapshot && !rig->things[t].headless)
        CHECK(disk_open(&rig->disks[t], rig->pool, model_slot(rig, t), false, "test", &err) == 0);
}

void model_unmount(struct rig *rig, unsigned t)
{
    if (rig->disks[t])
        disk_close(rig->disks[t]);
    rig->disks[t] = NULL;
}

void model_add(struct rig *rig, unsigned t, const struct rig_thing *thing)
{
    rig->things[t] = *thing;
    rig->things[t].used = true;
    rig->hash ^= hash_thing(thing);
}

void model_drop(struct rig *rig, unsigned t)
{
    struct rig_thing *thing = &rig->things[t];

    rig->hash ^= hash_thing(thing);
    thing->used = false;
}

/* ---- What is durable ---- */

/** struct durable - a waiter, as if somebody had asked for what was done up to @states. */
struct durable {
    struct pool_waiter waiter;
    struct durable *next;
    struct rig *rig;
    uint64_t states;
};

static void now_durable(struct pool_waiter *waiter, int error)
{
    struct durable *d = container_of(waiter, struct durable, waiter);

    struct durable **at = &d->rig->waiting;

    if (model_did(d->rig, error))
        model_promise(d->rig, d->states);
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    free(d);
}

/* The process that they asked has died. */
static void forget_waiting(struct rig *rig)
{
    while (rig->waiting) {
        struct durable *d = rig->waiting;

        rig->waiting = d->next;
        free(d);
    }
}

/* By blocking, or with the next flush while the disk goes on. */
void model_make_durable(struct rig *rig)
{
    struct durable *d;
    struct dt_error err;

    if (dt_rng_below(&rig->rng, 2)) {
        if (model_did(rig, pool_sync(rig->pool, &err)))
            model_promise(rig, rig->states);
        return;
    }
    d = xcalloc(1, sizeof(*d));
    d->waiter.done = now_durable;
    d->rig = rig;
    d->states = rig->states;
    d->next = rig->waiting;
    rig->waiting = d;
    pool_when_durable(rig->pool, &d->waiter);
}

void model_settle(struct rig *rig)
{
    while (!pool_idle(rig->pool) && !rig->store->flush_failed) {
        rig_turn(rig->store);
        model_turn(rig);
    }
}

/* ---- Life ---- */

/* Between episodes nobody looks anything up. */
static void note_drop(struct rig *rig, const struct rig_thing *thing)
{
    if (!rig->store->logging || !rig->in_flight)
        return;
    CHECK(rig->drops_n < ARRAY_SIZE(rig->drops));
    rig->drops[rig->drops_n++] =
        (struct rig_drop){.hash = hash_thing(thing), .at = rig->states, .until = UINT64_MAX};
}

/* The model learns of a snapshot that a quota cost at the moment when it happens. */
static void said(void *arg, uint32_t slot, const char *event, const char *text)
{
    struct rig *rig = arg;
    size_t n = strcspn(text, " ");

    if (strcmp(event, "quota") == 0)
        rig->over |= pool_record(rig->pool, slot)->policy != PX_FAIL;
    else if (strcmp(event, "full") == 0)
        rig->counts.full++;
    else if (strcmp(event, "dropped") == 0)
        for (unsigned t = 0; t < RIG_THINGS; t++) {
            const struct rig_thing *thing = &rig->things[t];

            if (!thing->used || strlen(thing->name) != n || memcmp(thing->name, text, n))
                continue;
            CHECK(thing->snapshot && !thing->labelled);
            note_drop(rig, thing);
            model_drop(rig, t);
            model_push(rig);
            rig->dropped++;
        }
    else if (strcmp(event, "resumed"))
        log_warning("%s", text);
}

static uint64_t now(void *arg)
{
    return ((struct rig *)arg)->now;
}

static struct pool_options options(struct rig *rig, uint64_t chance)
{
    return (struct pool_options){.lazy = rig->lazy,
                                 .cache = CACHE,
                                 .data_cache = DATA_CACHE_LEAST,
                                 .dirty = 4,
                                 .slice = 1 + (unsigned)(chance % 3),
                                 .event = said,
                                 .clock = now,
                                 .arg = rig};
}

void rig_new(struct rig *rig, uint64_t blocks, uint64_t journal, uint64_t seed)
{
    struct pool_create_options create = {.journal = journal};
    struct pool_options open;
    struct dt_error err;

    memset(rig, 0, sizeof(*rig));
    open = options(rig, seed);
    rig->now = DT_S(1000);
    dt_rng_seed(&rig->rng, seed);
    rig->store = rig_store_new(blocks, seed + 1);
    if (seed / 2 % 2) /* with holes, and spare blocks for nodes */
        rig_limit(rig->store, blocks);
    rig->store->states = &rig->kept;
    CHECK(pool_create(&rig->store->s, &create, &err) == 0);
    if (pool_open(&rig->pool, &rig->store->s, &open, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"a new pool opens");
    }
    model_push(rig);
}

void rig_reopen(struct rig *rig, bool crash)
{
    struct pool_options open = options(rig, dt_rng_below(&rig->rng, 3));
    int fail_flush = rig->store->fail_flush;
    struct pool_info info;
    struct dt_error err;

    rig->store->fail_flush = 0; /* an opening that fails says so: that is another test's */
    for (unsigned t = 0; t < RIG_THINGS; t++)
        model_unmount(rig, t);
    rig->store->flush_failed = false;
    if (crash) {
        rig->store->pending_n = 0;
        forget_waiting(rig);
        pool_abandon(rig->pool);
    } else {
        model_settle(rig);
        CHECK(pool_close(rig->pool, &err) == 0);
    }
    rig->pinned = RIG_FREE; /* a pin lasts no longer than the process */
    if (pool_open(&rig->pool, &rig->store->s, &open, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"a pool opens again");
    }
    rig->store->fail_flush = fail_flush;
    pool_info(rig->pool, &info);
    rig->again += info.again;
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used)
            model_mount(rig, t);
}

void rig_free(struct rig *rig)
{
    for (unsigned t = 0; t < RIG_THINGS; t++)
        model_unmount(rig, t);
    rig->store->pending_n = 0;
    forget_waiting(rig);
    pool_abandon(rig->pool);
    rig_store_free(rig->store);
    free(rig->hashes);
    free(rig->marks);
}

/* ---- Looking ---- */

struct look {
    struct disk_req req;
    bool done;
};

static void looked(struct disk_req *req)
{
    container_of(req, struct look, req)->done = true;
}

static int read_thing(struct rig_store *store, struct pool *pool, uint32_t slot, uint64_t number,
                      uint32_t *sector, struct dt_error *err)
{
    static _Alignas(4096) uint32_t words[RIG_BLOCKS * PX_BLOCK / 4];
    struct look look = {.req = {.op = DISK_READ, .buf = words, .done = looked}};
    struct disk *disk;
    int ret = disk_open_at(&disk, pool, slot, number, "look", err);

    if (ret < 0)
        return ret;
    memset(words, 0, sizeof(words));
    look.req.length = MIN(pool_record(pool, disk_slot(disk))->size, sizeof(words));
    disk_submit(disk, &look.req);
    while (!look.done)
        if (!rig_turn(store))
            pool_turn(pool);
    disk_close(disk);
    if (look.req.error)
        return dt_fail(err, look.req.error, "slot %u cannot be read", slot);
    for (unsigned i = 0; i < RIG_SECTORS; i++) {
        sector[i] = words[i * 128];
        for (unsigned w = 1; w < 128; w++)
            if (words[i * 128 + w] != sector[i])
                return dt_fail(err, -EIO, "slot %u: sector %u is a mixture", slot, i);
    }
    return 0;
}

uint64_t rig_hash_pool(struct rig_store *store, struct pool *pool, struct dt_error *err)
{
    static uint32_t sector[RIG_SECTORS];
    uint64_t hash = 0;

    for (uint32_t slot = 0; slot < pool_slots(pool); slot++) {
        const struct px_record *r = pool_record(pool, slot);
        char name[2 * PX_NAME];

        if (!r || r->kind == PX_LOG || (r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN)))
            continue;
        if (read_thing(store, pool, slot, PRESENT, sector, err) < 0)
            return 0;
        pool_full_name(pool, slot, name);
        hash ^= hash_content(name, sector, r->size >> PX_BLOCK_SHIFT, r->sector != 512, r->quota);
    }
    return hash;
}

int rig_read_past(struct rig_store *store, struct pool *pool, struct dt_rng *rng,
                  struct dt_error *err)
{
    static uint32_t now[RIG_SECTORS], then[RIG_SECTORS];
    int read = 0;

    for (uint32_t slot = 0; slot < pool_slots(pool); slot++) {
        const struct px_record *r = pool_record(pool, slot);
        struct pool_past past;
        int ret;

        if (!r || r->kind != PX_DISK || !r->past_keep)
            continue;
        if (pool_past(pool, slot, &past, err) < 0)
            return -1;
        ret = read_thing(store, pool, slot,
                         past.first + dt_rng_below(rng, past.last - past.first + 1), then, err);
        ret = ret ?: read_thing(store, pool, slot, past.last, then, err);
        if (ret == -EAGAIN || ret == -ENOSPC)
            continue; /* it takes a snapshot */
        if (ret < 0 || read_thing(store, pool, slot, PRESENT, now, err) < 0)
            return -1;
        if (memcmp(now, then, sizeof(now))) {
            dt_fail(err, -EIO, "the last state in the history of %s is not what the disk is",
                    r->name);
            return -1;
        }
        read++;
    }
    return read;
}

void rig_compare(struct rig *rig)
{
    struct dt_error err = {""};
    uint64_t hash = rig_hash_pool(rig->store, rig->pool, &err);

    if (hash != rig->hash)
        log_error("the pool is not as the model: %s", err.text);
    CHECK(hash == rig->hash);
}

static void print(void *arg, const char *text)
{
    log_error("check: %s", text);
}

void rig_check(struct pool *pool)
{
    struct pool_check check = {.say = print, .data = true};
    struct dt_error err;

    CHECK(pool_check(pool, &check, &err) == 0);
    CHECK(check.damaged == 0 && check.leaked == 0 && check.unmarked == 0 && check.doubly == 0 &&
          check.mischarged == 0 && check.miscounted == 0);
}
