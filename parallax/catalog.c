/* SPDX-License-Identifier: MIT */
/*
 * catalog.c - the records of disks and snapshots, all of them in memory, and the ways to find them.
 *
 * Theory of operation: the catalogue is an array of slots. It is read as a whole when the pool is
 * opened, blocks that changed go to new places with each root. A hash finds a disk by its name and
 * a snapshot by its disk and name; each record points to the snapshot before it, and the links
 * forward are made when it is read (catalog-store.c).
 *
 * What is being deleted is not found by name any more, but keeps its slot and its place in the
 * line.
 */
#include "parallax/internal.h"

#include <stdio.h>

struct px_record *catalog_record(const struct pool *pool, uint32_t slot)
{
    const struct catalog *c = &pool->catalog;

    if (slot >= c->slots)
        return NULL;
    return &c->blocks[slot / PX_RECORDS][slot % PX_RECORDS];
}

const struct px_record *pool_record(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    return r && r->kind != PX_FREE ? r : NULL;
}

uint32_t pool_slots(const struct pool *pool)
{
    return pool->catalog.slots;
}

void catalog_touch(struct pool *pool, uint32_t slot)
{
    pool->catalog.state[slot / PX_RECORDS] |= CATALOG_DIRTY;
    pool->changes++;
}

/* ---- Names ---- */

static uint32_t hash_of(uint32_t parent, const char *name, size_t length)
{
    uint32_t hash = 2166136261u ^ parent * 0x9e3779b1u;

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static uint32_t *chain_of(const struct pool *pool, const struct px_record *r)
{
    uint32_t parent = r->kind == PX_SNAPSHOT ? r->parent : NO_SLOT;

    return &pool->catalog.hash[hash_of(parent, r->name, strlen(r->name)) & pool->catalog.hash_mask];
}

static bool has_name(const struct px_record *r)
{
    return r->kind != PX_FREE && r->kind != PX_LOG && !(r->flags & PX_HIDDEN) &&
           (!(r->flags & PX_DYING) || (r->flags & PX_HEADLESS));
}

static void add_name(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;
    uint32_t *chain = chain_of(pool, catalog_record(pool, slot));

    c->info[slot].hash_next = *chain;
    *chain = slot;
    c->named++;
}

/* Room for twice as many names as there are slots. */
void catalog_rehash(struct pool *pool)
{
    struct catalog *c = &pool->catalog;
    uint32_t buckets = 1024;

    while (buckets < 2 * c->slots)
        buckets *= 2;
    free(c->hash);
    c->hash = xcalloc(buckets, sizeof(uint32_t));
    c->hash_mask = buckets - 1;
    memset(c->hash, 0xff, buckets * sizeof(uint32_t));
    c->named = 0;
    for (uint32_t slot = 0; slot < c->slots; slot++)
        if (has_name(catalog_record(pool, slot)))
            add_name(pool, slot);
}

void catalog_name(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;

    if (!has_name(catalog_record(pool, slot)))
        return;
    if (c->named >= c->hash_mask)
        catalog_rehash(pool); /* this one included */
    else
        add_name(pool, slot);
}

void catalog_unname(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;
    const struct px_record *r = catalog_record(pool, slot);
    uint32_t *at;

    if (!has_name(r))
        return;
    for (at = chain_of(pool, r); *at != slot; at = &c->info[*at].hash_next)
        CHECK(*at != NO_SLOT);
    *at = c->info[slot].hash_next;
    c->named--;
}

static uint32_t find(const struct pool *pool, enum px_kind kind, uint32_t parent, const char *name,
                     size_t length)
{
    const struct catalog *c = &pool->catalog;
    uint32_t slot = c->hash[hash_of(parent, name, length) & c->hash_mask];

    for (; slot != NO_SLOT; slot = c->info[slot].hash_next) {
        const struct px_record *r = catalog_record(pool, slot);

        if (r->kind == kind && (kind == PX_DISK || r->parent == parent) &&
            strlen(r->name) == length && memcmp(r->name, name, length) == 0)
            return slot;
    }
    return NO_SLOT;
}

uint32_t catalog_disk(const struct pool *pool, const char *name, size_t length)
{
    return find(pool, PX_DISK, NO_SLOT, name, length);
}

uint32_t catalog_snapshot(const struct pool *pool, uint32_t disk, const char *name)
{
    return find(pool, PX_SNAPSHOT, disk, name, strlen(name));
}

uint32_t pool_find(struct pool *pool, const char *name, struct dt_error *err)
{
    const char *at = strchrnul(name, '@');
    uint32_t disk = catalog_disk(pool, name, (size_t)(at - name)), snapshot;

    if (disk == NO_SLOT) {
        dt_fail(err, -ENOENT, "%s has no disk '%.*s'", pool->store->name,
                (int)MIN(at - name, (ptrdiff_t)PX_NAME), name);
        return NO_SLOT;
    }
    if (!*at)
        return disk;
    snapshot = catalog_snapshot(pool, disk, at + 1);
    if (snapshot == NO_SLOT)
        dt_fail(err, -ENOENT, "disk '%s' has no snapshot '%.63s'", catalog_record(pool, disk)->name,
                at + 1);
    return snapshot;
}

void pool_full_name(const struct pool *pool, uint32_t slot, char *text)
{
    const struct px_record *r = catalog_record(pool, slot);

    if (r->kind == PX_SNAPSHOT)
        snprintf(text, (size_t)2 * PX_NAME, "%s@%s", catalog_record(pool, r->parent)->name,
                 r->name);
    else
        snprintf(text, (size_t)2 * PX_NAME, "%s", r->name);
}

/* ---- Trees ---- */

struct tree catalog_tree(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);
    struct tree t = {.root = &r->root,
                     .levels = &r->levels,
                     .kind = TREE_DISK,
                     .epoch = r->epoch,
                     .since = r->since,
                     .since_before = r->since,
                     .charged = r->kind == PX_DISK ? &r->charged : NULL};

    /* The newest snapshot is being given back: before its cursor it is gone already. */
    if (r->kind == PX_DISK && r->prev) {
        const struct px_record *s = catalog_record(pool, r->prev - 1);

        if ((s->flags & PX_DYING) && s->cursor) {
            t.cursor = s->cursor;
            t.since_before = catalog_epoch_before(pool, r->prev - 1);
        }
    }
    return t;
}

struct tree pool_catalog_tree(struct pool *pool)
{
    return (struct tree){.root = &pool->root.catalog,
                         .levels = &pool->root.catalog_levels,
                         .kind = TREE_CATALOG,
                         .epoch = pool->root.seq + 1};
}

struct tree pool_space_tree(struct pool *pool)
{
    return (struct tree){.root = &pool->root.spacemap,
                         .levels = &pool->root.spacemap_levels,
                         .kind = TREE_SPACE,
                         .epoch = pool->root.seq + 1};
}

/* ---- Slots ---- */

static void make_room(struct catalog *c, uint64_t slots)
{
    uint64_t room = MAX(c->room, (uint32_t)PX_RECORDS);

    if (slots <= c->room)
        return;
    while (room < slots)
        room *= 2;
    c->blocks = realloc(c->blocks, room / PX_RECORDS * sizeof(*c->blocks));
    c->state = realloc(c->state, room / PX_RECORDS * sizeof(*c->state));
    c->info = realloc(c->info, room * sizeof(*c->info));
    CHECK(c->blocks && c->state && c->info);
    c->room = (uint32_t)room;
}

void catalog_extend(struct catalog *c, uint32_t slots)
{
    make_room(c, ALIGN_UP((uint64_t)slots, PX_RECORDS));
    while (c->slots < slots) {
        c->blocks[c->slots / PX_RECORDS] = xaligned(PX_BLOCK, PX_BLOCK);
        c->state[c->slots / PX_RECORDS] = 0;
        for (uint32_t i = 0; i < PX_RECORDS; i++)
            c->info[c->slots + i] = (struct slot_info){.next = NO_SLOT, .hash_next = NO_SLOT};
        c->slots += PX_RECORDS;
    }
}

uint32_t catalog_free_run(struct pool *pool, uint64_t count)
{
    struct catalog *c = &pool->catalog;
    uint32_t run = 0, first = NO_SLOT, slot;

    for (slot = c->free_hint; slot < c->slots && run < count; slot++) {
        if (catalog_record(pool, slot)->kind != PX_FREE || c->info[slot].dead)
            run = 0;
        else if (run++ == 0)
            first = MIN(first, slot);
    }
    c->free_hint = MIN(first, slot); /* not to look at what is before it again each time */
    return slot - run;
}

static void add_log(struct catalog *c, uint32_t slot)
{
    if (c->logs_n == c->logs_room) {
        c->logs_room = MAX(2 * c->logs_room, 16u);
        c->logs = realloc(c->logs, c->logs_room * sizeof(*c->logs));
        CHECK(c->logs);
    }
    c->logs[c->logs_n++] = slot;
}

static void remove_log(struct catalog *c, uint32_t slot)
{
    uint32_t i = 0;

    while (c->logs[i] != slot)
        i++;
    c->logs[i] = c->logs[--c->logs_n];
}

void catalog_doom(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;

    if (c->doomed_n == c->doomed_room) {
        c->doomed_room = MAX(2 * c->doomed_room, 64u);
        c->doomed = realloc(c->doomed, c->doomed_room * sizeof(*c->doomed));
        CHECK(c->doomed);
    }
    c->doomed[c->doomed_n++] = slot;
    c->dying++;
}

uint32_t catalog_doomed(struct pool *pool)
{
    struct catalog *c = &pool->catalog;

    while (c->doomed_n && !(catalog_record(pool, c->doomed[c->doomed_n - 1])->flags & PX_DYING))
        c->doomed_n--;
    return c->doomed_n ? c->doomed[c->doomed_n - 1] : NO_SLOT;
}

void catalog_link(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;
    const struct px_record *r = catalog_record(pool, slot);

    if (r->kind == PX_FREE)
        return;
    if (r->flags & PX_BRANCH)
        catalog_add_branch(pool, slot);
    else if (r->prev)
        c->info[r->prev - 1].next = slot;
    if (r->kind == PX_DISK && r->parent)
        c->info[r->parent - 1].clones++;
    if (r->flags & PX_DYING)
        catalog_doom(pool, slot);
    if (r->kind == PX_LOG)
        add_log(c, slot);
}

int catalog_claim(struct pool *pool, uint32_t slot, const struct px_record *record)
{
    struct catalog *c = &pool->catalog;
    struct px_record *r;

    if (slot >= c->slots + (1u << 26) || slot >= NO_SLOT - PX_RECORDS)
        return -EBADMSG;
    catalog_extend(c, slot + 1);
    r = catalog_record(pool, slot);
    if (r->kind != PX_FREE)
        return -EBADMSG;
    *r = *record;
    c->info[slot].next = NO_SLOT;
    c->info[slot].clones = 0;
    if (slot == c->free_hint)
        c->free_hint++;
    catalog_link(pool, slot);
    catalog_name(pool, slot);
    catalog_touch(pool, slot);
    return 0;
}

void catalog_release(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;
    struct px_record *r = catalog_record(pool, slot);

    catalog_unname(pool, slot);
    c->dying -= !!(r->flags & PX_DYING);
    if (r->kind == PX_LOG)
        remove_log(c, slot);
    if (r->kind == PX_DISK && r->parent)
        c->info[r->parent - 1].clones--;
    memset(r, 0, sizeof(*r));
    catalog_touch(pool, slot);
    if (c->dead_n == c->dead_room) {
        c->dead_room = MAX(2 * c->dead_room, 64u);
        c->dead = realloc(c->dead, c->dead_room * sizeof(*c->dead));
        CHECK(c->dead);
    }
    c->dead[c->dead_n++] = slot;
    c->info[slot].dead = true;
}

void catalog_durable(struct pool *pool)
{
    struct catalog *c = &pool->catalog;

    for (uint32_t i = 0; i < c->dead_frozen; i++) {
        c->info[c->dead[i]].dead = false;
        c->free_hint = MIN(c->free_hint, c->dead[i]);
    }
    c->dead_n -= c->dead_frozen;
    if (c->dead_n)
        memmove(c->dead, c->dead + c->dead_frozen, c->dead_n * sizeof(*c->dead));
    c->dead_frozen = 0;
}

void catalog_fini(struct pool *pool)
{
    struct catalog *c = &pool->catalog;

    for (uint32_t i = 0; i < c->slots / PX_RECORDS; i++)
        free(c->blocks[i]);
    free(c->blocks);
    free(c->state);
    free(c->info);
    free(c->hash);
    free(c->dead);
    free(c->logs);
    free(c->branches);
    free(c->doomed);
    memset(c, 0, sizeof(*c));
}
