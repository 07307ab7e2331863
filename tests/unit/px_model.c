/* SPDX-License-Identifier: MIT */
/*
 * px_model.c - random operations on a pool and on a trivial model of it: px_rig.h.
 *
 * The state of everything is one hash, changed with each sector, so that what is found after a
 * crash can be looked up among all states there were.
 */
#include "px_rig.h"

#include "parallax/receive.h"

#include <stdio.h>

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

static uint64_t hash_content(const char *name, const uint32_t *sector, unsigned n, uint64_t quota)
{
    uint64_t id = name_hash(name), hash = mix(id, 1, 1) ^ mix(id, UINT32_MAX, quota);

    for (unsigned i = 0; i < n; i++)
        if (sector[i])
            hash ^= mix(id, i, sector[i]);
    return hash;
}

/* A new state of the model. */
static void push(struct rig *rig)
{
    if (rig->states == rig->hashes_room) {
        rig->hashes_room = MAX(2 * rig->hashes_room, (uint64_t)1024);
        rig->hashes = realloc(rig->hashes, rig->hashes_room * sizeof(*rig->hashes));
        CHECK(rig->hashes);
    }
    rig->hashes[rig->states++] = rig->hash;
}

static void promise(struct rig *rig, uint64_t states)
{
    if (rig->marks_n == rig->marks_room) {
        rig->marks_room = MAX(2 * rig->marks_room, (uint64_t)256);
        rig->marks = realloc(rig->marks, rig->marks_room * sizeof(*rig->marks));
        CHECK(rig->marks);
    }
    rig->durable = MAX(rig->durable, states);
    rig->marks[rig->marks_n++] = (struct rig_mark){rig->store->log_n, rig->durable};
}

uint64_t rig_durable_at(const struct rig *rig, uint64_t at)
{
    uint64_t durable = 1;

    for (uint64_t i = 0; i < rig->marks_n && rig->marks[i].at <= at; i++)
        durable = rig->marks[i].durable;
    return durable;
}

static void set_sector(struct rig *rig, struct rig_thing *t, unsigned i, uint32_t stamp)
{
    uint64_t id = name_hash(t->name);

    if (t->sector[i])
        rig->hash ^= mix(id, i, t->sector[i]);
    t->sector[i] = stamp;
    if (stamp)
        rig->hash ^= mix(id, i, stamp);
}

static uint32_t slot_of(struct rig *rig, unsigned t)
{
    struct dt_error err;
    uint32_t slot = pool_find(rig->pool, rig->things[t].name, &err);

    CHECK(slot != NO_SLOT);
    return slot;
}

/* What was changed outlives the process when it is in the journal, and what a turn itself changes
 * is put there by the next. */
static void turn(struct rig *rig)
{
    uint64_t dropped;

    do {
        dropped = rig->dropped;
        pool_turn(rig->pool);
    } while (rig->dropped != dropped);
}

/* ---- Requests ---- */

struct rig_req {
    struct disk_req req;
    struct rig *rig;
    unsigned thing;
    uint32_t stamp;
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
        set_sector(rig, &rig->things[q->thing], i, q->req.op == DISK_WRITE ? q->stamp : 0);
        if ((i & 7) == 7 || i + 1 == first + n)
            push(rig);
    }
}

static void done(struct disk_req *req)
{
    struct rig_req *q = container_of(req, struct rig_req, req);
    struct rig *rig = q->rig;

    rig->in_flight--;
    if (req->error)
        rig->errors++;
    else if (req->op == DISK_FLUSH)
        promise(rig, q->states);
    else if (req->op != DISK_READ)
        follow(q);
    free(req->buf);
    free(q);
}

static void set_quota(struct rig *rig, unsigned t, uint64_t blocks, enum px_policy policy)
{
    uint64_t id = name_hash(rig->things[t].name);
    struct dt_error err;

    if (pool_set_quota(rig->pool, slot_of(rig, t), blocks * PX_BLOCK, policy, &err) < 0)
        return;
    rig->hash ^= mix(id, UINT32_MAX, rig->things[t].quota) ^ mix(id, UINT32_MAX, blocks);
    rig->things[t].quota = blocks;
    push(rig);
}

/* Nothing moves any more: all that is under way waits for quotas. */
static void lift_quotas(struct rig *rig)
{
    CHECK(rig->over);
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].quota)
            set_quota(rig, t, 0, PX_HOLD);
    turn(rig);
    rig->over = false;
    rig->lifted++;
}

static void run(struct rig *rig)
{
    unsigned stuck = 0, before = 0;

    while (rig->in_flight) {
        bool moved = rig_turn(rig->store);

        if (!moved || dt_rng_below(&rig->rng, 2))
            turn(rig);
        stuck = moved || rig->in_flight != before || !rig->over ? 0 : stuck + 1;
        before = rig->in_flight;
        if (stuck == 4)
            lift_quotas(rig);
    }
}

static void submit(struct rig *rig, unsigned thing, enum disk_op op, unsigned sector, unsigned n)
{
    struct rig_req *q = xcalloc(1, sizeof(*q));

    q->rig = rig;
    q->thing = thing;
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
    }
    rig->in_flight++;
    disk_submit(rig->disks[thing], &q->req);
}

/* ---- Operations ---- */

static unsigned pick(struct rig *rig, bool snapshot)
{
    unsigned start = (unsigned)dt_rng_below(&rig->rng, RIG_THINGS);

    for (unsigned i = 0; i < RIG_THINGS; i++) {
        unsigned t = (start + i) % RIG_THINGS;

        if (rig->things[t].used && rig->things[t].snapshot == snapshot && !rig->things[t].headless)
            return t;
    }
    return RIG_THINGS;
}

static unsigned empty(struct rig *rig)
{
    unsigned t = 0;

    while (t < RIG_THINGS && rig->things[t].used)
        t++;
    return t;
}

static void mount(struct rig *rig, unsigned t)
{
    struct dt_error err;

    if (!rig->things[t].snapshot && !rig->things[t].headless)
        CHECK(disk_open(&rig->disks[t], rig->pool, slot_of(rig, t), false, "test", &err) == 0);
}

static void unmount(struct rig *rig, unsigned t)
{
    if (rig->disks[t])
        disk_close(rig->disks[t]);
    rig->disks[t] = NULL;
}

static void add_thing(struct rig *rig, unsigned t, const struct rig_thing *thing)
{
    rig->things[t] = *thing;
    rig->things[t].used = true;
    rig->hash ^= hash_content(thing->name, thing->sector, RIG_SECTORS, thing->quota);
}

static void drop_thing(struct rig *rig, unsigned t)
{
    struct rig_thing *thing = &rig->things[t];

    rig->hash ^= hash_content(thing->name, thing->sector, RIG_SECTORS, thing->quota);
    thing->used = false;
}

static void op_writes(struct rig *rig, unsigned t)
{
    unsigned n = 1 + (unsigned)dt_rng_below(&rig->rng, 4);

    while (n--) {
        unsigned kind = (unsigned)dt_rng_below(&rig->rng, 10), first, length;
        enum disk_op op = kind < 7   ? DISK_WRITE
                          : kind < 8 ? DISK_ZERO
                          : kind < 9 ? DISK_DISCARD
                                     : DISK_FLUSH;

        if (dt_rng_below(&rig->rng, 3)) { /* whole blocks */
            first = 8 * (unsigned)dt_rng_below(&rig->rng, RIG_BLOCKS);
            length = 8 * (1 + (unsigned)dt_rng_below(&rig->rng, 6));
        } else if (op == DISK_ZERO) { /* within a block: several records make no states of ours */
            first = (unsigned)dt_rng_below(&rig->rng, RIG_SECTORS);
            length = 1 + (unsigned)dt_rng_below(&rig->rng, 8 - first % 8);
        } else {
            first = (unsigned)dt_rng_below(&rig->rng, RIG_SECTORS);
            length = 1 + (unsigned)dt_rng_below(&rig->rng, 20);
        }
        submit(rig, t, op, first, MIN(length, RIG_SECTORS - first));
    }
    run(rig);
}

static void op_quota(struct rig *rig, unsigned t)
{
    uint64_t charged = pool_record(rig->pool, slot_of(rig, t))->charged;
    uint64_t more = dt_rng_below(&rig->rng, 20);

    set_quota(rig, t, more ? charged + more : 0,
              dt_rng_below(&rig->rng, 2) ? PX_HOLD : PX_DROP_OLDEST);
}

static void op_create(struct rig *rig, unsigned t)
{
    struct rig_thing thing = {0};
    struct dt_error err;

    snprintf(thing.name, sizeof(thing.name), "d%u", ++rig->stamp);
    if (pool_create_disk(rig->pool, thing.name, RIG_BLOCKS * PX_BLOCK, 512, &err) < 0)
        return;
    add_thing(rig, t, &thing);
    push(rig);
    mount(rig, t);
}

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

    CHECK(error == 0);
    promise(d->rig, d->states);
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
static void make_durable(struct rig *rig)
{
    struct durable *d;
    struct dt_error err;

    if (dt_rng_below(&rig->rng, 2)) {
        CHECK(pool_sync(rig->pool, &err) == 0);
        promise(rig, rig->states);
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

static void op_snapshot(struct rig *rig, unsigned disk, unsigned t)
{
    struct rig_thing thing = rig->things[disk];
    uint32_t slot = slot_of(rig, disk);
    char name[PX_NAME];
    const char *names = name;
    struct dt_error err;

    snprintf(name, sizeof(name), "s%u", ++rig->stamp);
    if (pool_snapshot(rig->pool, &slot, 1, &names, NULL, &err) < 0)
        return;
    thing.snapshot = true;
    thing.labelled = false;
    thing.disk = disk;
    thing.origin = 0;
    thing.order = ++rig->order;
    thing.quota = 0;
    snprintf(thing.name, sizeof(thing.name), "%.40s@%s", rig->things[disk].name, name);
    add_thing(rig, t, &thing);
    push(rig);
    make_durable(rig);
}

static void op_clone(struct rig *rig, unsigned snapshot, unsigned t)
{
    struct rig_thing thing = rig->things[snapshot];
    struct dt_error err;

    if (!thing.labelled) {
        if (pool_label(rig->pool, slot_of(rig, snapshot), NULL, &err) == 0)
            rig->things[snapshot].labelled = true;
        return;
    }
    snprintf(thing.name, sizeof(thing.name), "c%u", ++rig->stamp);
    if (pool_clone(rig->pool, slot_of(rig, snapshot), thing.name, 1, false, 0, &err) < 0)
        return;
    thing.snapshot = thing.labelled = false;
    thing.quota = 0;
    thing.origin = snapshot + 1;
    add_thing(rig, t, &thing);
    push(rig);
    mount(rig, t);
}

static bool has_clones(const struct rig *rig, unsigned snapshot)
{
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && !rig->things[t].snapshot &&
            rig->things[t].origin == snapshot + 1)
            return true;
    return false;
}

static unsigned newest(const struct rig *rig, unsigned disk)
{
    unsigned best = RIG_THINGS;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].snapshot && rig->things[t].disk == disk &&
            (best == RIG_THINGS || rig->things[t].order > rig->things[best].order))
            best = t;
    return best;
}

static void op_delete_snapshot(struct rig *rig, unsigned t)
{
    struct dt_error err;
    int ret;

    if (rig->things[t].labelled && !has_clones(rig, t) &&
        pool_unlabel(rig->pool, slot_of(rig, t), &err) == 0)
        rig->things[t].labelled = false;
    ret = pool_delete_snapshot(rig->pool, slot_of(rig, t), &err);
    if (ret == -EAGAIN)
        return;
    CHECK((ret < 0) == (rig->things[t].labelled || has_clones(rig, t)));
    if (ret == 0) {
        drop_thing(rig, t);
        push(rig);
    }
}

static void op_delete_disk(struct rig *rig, unsigned t)
{
    struct dt_error err;
    uint32_t slot = slot_of(rig, t);
    unsigned s;

    unmount(rig, t);
    if (pool_delete_disk(rig->pool, slot, &err) < 0) {
        mount(rig, t);
        return;
    }
    drop_thing(rig, t);
    while ((s = newest(rig, t)) < RIG_THINGS && !rig->things[s].labelled && !has_clones(rig, s))
        drop_thing(rig, s);
    push(rig);
    if (s < RIG_THINGS)
        rig->things[t].used = rig->things[t].headless = true;
    else
        rig->things[t].origin = 0;
}

/* A deleted disk without snapshots is gone for good. */
static void op_bury(struct rig *rig)
{
    struct dt_error err;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used && rig->things[t].headless && newest(rig, t) == RIG_THINGS &&
            pool_delete_disk(rig->pool, slot_of(rig, t), &err) == 0) {
            rig->things[t].used = rig->things[t].headless = false;
            push(rig);
        }
}

static void op_rollback(struct rig *rig, unsigned t)
{
    unsigned s = newest(rig, t);
    struct dt_error err;
    int ret;

    if (s == RIG_THINGS)
        return;
    unmount(rig, t);
    ret = pool_rollback(rig->pool, slot_of(rig, t), slot_of(rig, s), &err);
    mount(rig, t);
    if (ret < 0)
        return;
    for (unsigned i = 0; i < RIG_SECTORS; i++)
        set_sector(rig, &rig->things[t], i, rig->things[s].sector[i]);
    push(rig);
}

static void settle(struct rig *rig)
{
    while (!pool_idle(rig->pool)) {
        rig_turn(rig->store);
        turn(rig);
    }
}

/* ---- Histories ---- */

static void op_history(struct rig *rig, unsigned t)
{
    uint32_t seconds = (uint32_t)dt_rng_below(&rig->rng, 30);
    struct dt_error err;

    rig->histories += pool_history(rig->pool, slot_of(rig, t), seconds, &err) == 0;
    if (dt_rng_below(&rig->rng, 2))
        pool_history_turn(rig->pool);
}

/* ---- Sharing ---- */

/* It may be turned off and on again; some of its work is done at once, or all of a round. */
static void op_share(struct rig *rig)
{
    bool all = dt_rng_below(&rig->rng, 2);
    struct dt_error err;
    int ret;

    if (dt_rng_below(&rig->rng, 8) == 0 && rig->store->pending_n == 0) {
        settle(rig);
        CHECK(pool_set_share(rig->pool, PX_SHARE_OFF, SHARE_LEAST_RATE, &err) == 0);
        CHECK(pool_set_share(rig->pool, PX_SHARE_WRITES, SHARE_LEAST_RATE, &err) == 0);
        promise(rig, rig->states);
    }
    do
        ret = pool_share_now(rig->pool, (1 + dt_rng_below(&rig->rng, 20)) * 2 * PX_BLOCK);
    while (ret > 0 && all);
    CHECK(ret >= 0);
}

void rig_share(struct rig *rig)
{
    struct dt_error err;

    rig->shares = true;
    settle(rig);
    CHECK(pool_set_share(rig->pool, PX_SHARE_WRITES, SHARE_LEAST_RATE, &err) == 0);
}

/* ---- Receiving ---- */

static void what_arrives(struct rig *rig, struct pool_received *what, unsigned base, char *name)
{
    const struct px_record *r = pool_record(rig->pool, slot_of(rig, base));

    *what = (struct pool_received){.size = RIG_BLOCKS * PX_BLOCK,
                                   .created = 1,
                                   .sector = 512,
                                   .name = name,
                                   .base_name = r->name};
    snprintf(name, PX_NAME, "r%u", ++rig->stamp);
    memcpy(what->snapshot, &rig->stamp, sizeof(rig->stamp));
    memcpy(what->base, r->uuid, sizeof(what->base));
}

/* All at once: the disk that was written goes, its contents are the other's, which has one snapshot more. */
static void end_receiving(struct rig *rig, unsigned disk, unsigned staged, unsigned t,
                          const struct pool_received *what)
{
    struct rig_thing thing;
    struct dt_error err;
    int ret;

    unmount(rig, disk);
    unmount(rig, staged);
    settle(rig);
    ret = pool_receive_end(rig->pool, rig->things[disk].name, what, &err);
    mount(rig, disk);
    if (ret < 0) {
        mount(rig, staged);
        return;
    }
    for (unsigned i = 0; i < RIG_SECTORS; i++)
        set_sector(rig, &rig->things[disk], i, rig->things[staged].sector[i]);
    thing = rig->things[disk];
    drop_thing(rig, staged);
    thing.snapshot = true;
    thing.labelled = false;
    thing.disk = disk;
    thing.origin = 0;
    thing.order = ++rig->order;
    thing.quota = 0;
    snprintf(thing.name, sizeof(thing.name), "%.40s@%.40s", rig->things[disk].name, what->name);
    add_thing(rig, t, &thing);
    push(rig);
    make_durable(rig);
}

/* What arrives is written to a disk of its own, which sometimes stays as it is when a stream breaks off. */
static void op_receive(struct rig *rig, unsigned disk)
{
    unsigned base = empty(rig), staged, t;
    struct pool_received what;
    struct rig_thing thing;
    char name[PX_NAME];
    struct dt_error err;
    uint64_t position;

    if (base == RIG_THINGS || strchr(rig->things[disk].name, '~'))
        return;
    op_snapshot(rig, disk, base);
    turn(rig);
    if (!rig->things[base].used)
        return;
    staged = empty(rig);
    if (staged == RIG_THINGS)
        return;
    what_arrives(rig, &what, base, name);
    if (pool_receive_begin(rig->pool, rig->things[disk].name, &what, false, &position, &err) < 0)
        return;
    thing = rig->things[base];
    thing.snapshot = false;
    thing.origin = base + 1;
    snprintf(thing.name, sizeof(thing.name), "%.60s~", rig->things[disk].name);
    add_thing(rig, staged, &thing);
    push(rig);
    turn(rig); /* as rig_step() does: from here on it outlives the process */
    mount(rig, staged);
    for (unsigned i = 0; i < 3; i++) {
        op_writes(rig, staged);
        if (dt_rng_below(&rig->rng, 2))
            pool_receive_progress(rig->pool, rig->things[disk].name, (i + 1) * PX_BLOCK, &err);
    }
    t = empty(rig);
    if (t < RIG_THINGS && dt_rng_below(&rig->rng, 4))
        end_receiving(rig, disk, staged, t, &what);
}

static void op_on_snapshots(struct rig *rig, unsigned what)
{
    unsigned disk = pick(rig, false), snapshot = pick(rig, true), t = empty(rig);

    if (what < 5 && disk < RIG_THINGS && t < RIG_THINGS)
        op_snapshot(rig, disk, t);
    else if (what < 7 && snapshot < RIG_THINGS && t < RIG_THINGS)
        op_clone(rig, snapshot, t);
    else if (what < 10 && snapshot < RIG_THINGS)
        op_delete_snapshot(rig, snapshot);
    else if (what < 11 && disk < RIG_THINGS)
        op_delete_disk(rig, disk);
    else if (what < 12 && disk < RIG_THINGS) {
        settle(rig);
        op_rollback(rig, disk);
    } else if (what < 13 && disk < RIG_THINGS) {
        op_receive(rig, disk);
    } else {
        op_bury(rig);
    }
}

void rig_step(struct rig *rig)
{
    unsigned what = (unsigned)dt_rng_below(&rig->rng, 40), disk = pick(rig, false);
    struct dt_error err;

    rig->now += DT_S(1);
    if (disk == RIG_THINGS || what == 0) {
        if (empty(rig) < RIG_THINGS)
            op_create(rig, empty(rig));
        turn(rig);
    } else if (what < 15) {
        op_on_snapshots(rig, what - 1);
        turn(rig); /* from here on it outlives the process */
    } else if (what == 15) {
        make_durable(rig);
    } else if (what == 17) {
        op_quota(rig, disk);
        turn(rig);
    } else if (what == 18) {
        op_history(rig, disk);
        turn(rig);
    } else if ((what == 19 || what == 20) && rig->shares) {
        op_share(rig);
        turn(rig);
    } else if (what == 16 && rig->store->pending_n == 0) {
        settle(rig);
        CHECK(pool_checkpoint(rig->pool, &err) == 0);
        promise(rig, rig->states);
    } else {
        op_writes(rig, disk);
    }
    if (dt_rng_below(&rig->rng, 3) == 0)
        turn(rig);
}

/* ---- Life ---- */

/* The model learns of a snapshot that a quota cost at the moment when it happens. */
static void said(void *arg, const char *event, const char *text)
{
    struct rig *rig = arg;
    size_t n = strcspn(text, " ");

    if (strcmp(event, "quota") == 0)
        rig->over = true;
    else if (strcmp(event, "dropped") == 0)
        for (unsigned t = 0; t < RIG_THINGS; t++) {
            const struct rig_thing *thing = &rig->things[t];

            if (!thing->used || strlen(thing->name) != n || memcmp(thing->name, text, n))
                continue;
            CHECK(thing->snapshot && !thing->labelled);
            drop_thing(rig, t);
            push(rig);
            rig->dropped++;
        }
    else if (strcmp(event, "resumed"))
        log_warning("%s", text);
}

static uint64_t now(void *arg)
{
    return ((struct rig *)arg)->now;
}

void rig_new(struct rig *rig, uint64_t blocks, uint64_t journal, uint64_t seed)
{
    struct pool_create_options create = {.journal = journal};
    struct pool_options open = {.cache = 64 * 4200, .event = said, .clock = now, .arg = rig};
    struct dt_error err;

    memset(rig, 0, sizeof(*rig));
    rig->now = DT_S(1000);
    dt_rng_seed(&rig->rng, seed);
    rig->store = rig_store_new(blocks, seed + 1);
    rig->store->states = &rig->states;
    CHECK(pool_create(&rig->store->s, &create, &err) == 0);
    if (pool_open(&rig->pool, &rig->store->s, &open, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"a new pool opens");
    }
    push(rig);
}

void rig_reopen(struct rig *rig, bool crash)
{
    struct pool_options open = {.cache = 64 * 4200, .event = said, .clock = now, .arg = rig};
    struct dt_error err;

    for (unsigned t = 0; t < RIG_THINGS; t++)
        unmount(rig, t);
    if (crash) {
        rig->store->pending_n = 0;
        forget_waiting(rig);
        pool_abandon(rig->pool);
    } else {
        settle(rig);
        CHECK(pool_close(rig->pool, &err) == 0);
    }
    if (pool_open(&rig->pool, &rig->store->s, &open, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"a pool opens again");
    }
    for (unsigned t = 0; t < RIG_THINGS; t++)
        if (rig->things[t].used)
            mount(rig, t);
}

void rig_free(struct rig *rig)
{
    for (unsigned t = 0; t < RIG_THINGS; t++)
        unmount(rig, t);
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

static int read_thing(struct rig_store *store, struct pool *pool, uint32_t slot, uint32_t *sector,
                      struct dt_error *err)
{
    static _Alignas(4096) uint32_t words[RIG_BLOCKS * PX_BLOCK / 4];
    struct look look = {
        .req = {.op = DISK_READ, .length = RIG_BLOCKS * PX_BLOCK, .buf = words, .done = looked}};
    struct disk *disk;
    int ret = disk_open(&disk, pool, slot, true, "look", err);

    if (ret < 0)
        return ret;
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
        if (read_thing(store, pool, slot, sector, err) < 0)
            return 0;
        pool_full_name(pool, slot, name);
        hash ^= hash_content(name, sector, RIG_SECTORS, r->quota);
    }
    return hash;
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
