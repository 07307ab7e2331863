/* SPDX-License-Identifier: MIT */
/*
 * open.c - making, opening and closing a pool; mounts of its disks.
 *
 * Opening reads the label, the newest root and the catalogue, and replays the journal. A pool
 * opened for writing gets a root with a new generation of the journal before anything else, so
 * that what a crash left in the ring behind the journal's end can never be taken for its
 * continuation. That root has what was replayed, or is the old one and tells where the journal goes on (reopen.c).
 */
#include "parallax/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>

#define ROOT_MAGIC  "PXroot\0"
#define DAMAGE_MOST 64u /* events of it in a second */

uint64_t pool_random(void)
{
    uint64_t n;

    CHECK(getrandom(&n, sizeof(n), 0) == sizeof(n));
    return n;
}

static void tell(const struct pool *pool, uint32_t slot, const char *event, const char *text)
{
    if (pool->o.event)
        pool->o.event(pool->o.arg, slot, event, text);
    else
        log_warning("%s", text);
}

/* A guest may read a damaged place as often as it likes, and must not fill the host's log, or push out what is told of others. */
static bool may_say_damage(struct pool *pool)
{
    struct pool_damage *d = &pool->damage;
    uint64_t second = dt_clock_ns() / DT_S(1);
    char text[256];

    if (second != d->second) {
        snprintf(text, sizeof(text), "%s: what was told of damage then stood for %u more",
                 pool->store->name, d->left_out);
        if (d->left_out)
            tell(pool, NO_SLOT, "damage", text);
        *d = (struct pool_damage){.second = second};
    }
    if (d->told == DAMAGE_MOST) {
        d->left_out++;
        return false;
    }
    d->told++;
    return true;
}

static void say(struct pool *pool, uint32_t slot, const char *event, const char *fmt, va_list args)
{
    char text[256];

    if (strcmp(event, "damage") == 0) {
        pool->recovery.damage = true;
        if (!may_say_damage(pool))
            return;
    }
    vsnprintf(text, sizeof(text), fmt, args);
    tell(pool, slot, event, text);
}

void pool_say(struct pool *pool, const char *event, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(pool, NO_SLOT, event, fmt, args);
    va_end(args);
}

void pool_say_of(struct pool *pool, uint32_t slot, const char *event, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say(pool, slot, event, fmt, args);
    va_end(args);
}

int pool_fail(struct pool *pool, int error, const char *what)
{
    if (!pool->failed)
        pool_say(pool, "failed", "%s: %s: %s; nothing is written from now on", pool->store->name,
                 what, strerror(-error));
    pool->failed = pool->failed ?: error;
    return error;
}

void pool_kick(struct pool *pool)
{
    if (pool->kicked)
        return;
    pool->kicked = true;
    if (pool->o.kick)
        pool->o.kick(pool->o.arg);
}

/* ---- Making and freeing the structure ---- */

static struct pool *make(struct store *store, const struct pool_options *o)
{
    struct pool *pool = xcalloc(1, sizeof(*pool));

    pool->magic = POOL_MAGIC;
    pool->store = store;
    pool->o = *o;
    pool->reclaiming = NO_SLOT;
    pool->ckpt.begun = dt_clock_ns();
    list_init(&pool->disks);
    list_init(&pool->share.waiting);
    list_init(&pool->data_caches);
    node_cache_init(&pool->nodes, o->cache);
    return pool;
}

static void unmake(struct pool *pool)
{
    while (pool->free_ops) {
        struct op *op = pool->free_ops;

        pool->free_ops = *(struct op **)op; /* the link is its first field */
        free(op);
    }
    schedule_fini(pool);
    checkpoint_fini(pool);
    space_fini(pool);
    catalog_fini(pool);
    node_cache_fini(&pool->nodes);
    fetch_fini(pool);
    free(pool->journal.block);
    janitor_fini(pool);
    data_cache_free_all(&pool->data_caches);
    pool->magic = 0;
    free(pool);
}

/* ---- Creating ---- */

static uint64_t choose_journal(uint64_t blocks)
{
    uint64_t n = MIN(blocks / 16, (uint64_t)PX_JOURNAL_MAX);

    return MAX(n, (uint64_t)PX_JOURNAL_MIN);
}

/* Old roots of another pool on the same device must not outlive it. */
static int wipe(struct store *store, uint64_t blocks)
{
    _cleanup_free_ void *zero = xaligned(PX_BLOCK, PX_BLOCK);
    int ret = 0;

    for (uint64_t at = 0; at < blocks && ret == 0; at++)
        ret = store->put(store, zero, at, 1);
    return ret ?: store->sync(store);
}

int pool_create(struct store *store, const struct pool_create_options *o, struct dt_error *err)
{
    _cleanup_free_ struct px_label *label = xaligned(PX_BLOCK, PX_BLOCK);
    uint64_t journal = o->journal ?: choose_journal(store->blocks);
    struct pool_options plain = {0};
    struct pool *pool;
    int ret;

    if (store->blocks < PX_MIN_BLOCKS || store->blocks > PX_MAX_BLOCKS)
        return dt_fail(err, -EINVAL, "%s: a pool has 1 MiB to 4 PiB", store->name);
    if (journal < PX_JOURNAL_MIN || journal > PX_JOURNAL_MAX || journal > store->blocks / 4)
        return dt_fail(err, -EINVAL, "a journal has %u to %u blocks, at most a quarter of the pool",
                       PX_JOURNAL_MIN, PX_JOURNAL_MAX);
    ret = share_judge(o->share, o->share_rate, err) ?: label_refuse(store, err);
    ret = ret ?: prealloc_judge(store, o->preallocation, err);
    if (ret < 0)
        return ret;
    ret = wipe(store, PX_JOURNAL_AT + journal);
    pool = make(store, &plain);
    label_make(pool, label, journal);
    space_init(pool, store->blocks, pool->space.first);
    pool->root.catalog_levels = 1;
    pool->root.spacemap_levels = (uint8_t)tree_levels_for(pool->space.n);
    pool->root.preallocation = (uint8_t)o->preallocation;
    if (o->share) {
        pool->root.features = PX_SHARED;
        pool->root.share = (uint8_t)o->share;
        pool->root.share_rate = o->share_rate;
        forward_begin(pool);
    }
    journal_init(pool, pool_random(), 1);
    ret = ret ?: pool_checkpoint(pool, NULL);
    ret = ret ?: label_put(store, label);
    if (ret < 0)
        dt_fail(err, ret, "%s cannot be written: %s", store->name, strerror(-ret));
    unmake(pool);
    return ret;
}

/* ---- Opening ---- */

static bool root_valid(const struct pool *pool, const struct px_root *root)
{
    struct px_root copy = *root;

    copy.crc = 0;
    return memcmp(root->magic, ROOT_MAGIC, sizeof(root->magic)) == 0 &&
           crc32c(0, &copy, sizeof(copy)) == root->crc &&
           memcmp(root->uuid, pool->uuid, sizeof(pool->uuid)) == 0;
}

/* What roots without features have in their place means nothing. */
static void forget_features(struct px_root *root)
{
    root->features = 0;
    root->share = root->forward_levels = 0;
    root->forwards = (struct px_ptr){0, 0};
    root->shared = root->share_rate = root->relived = 0;
}

static bool features_possible(const struct px_root *root)
{
    if (!root->features)
        return root->share == PX_SHARE_OFF && ptr_hole(root->forwards);
    return root->share < PX_SHARES && root->forward_levels > 0 &&
           root->forward_levels <= PX_MAX_LEVELS && root->shared < root->blocks * PX_LIVES &&
           root->relived < root->blocks * PX_LIVES &&
           tree_span(root->forward_levels) / PX_LIVES >=
               (root->blocks + PX_FORWARDS - 1) / PX_FORWARDS &&
           root->share_rate <= SHARE_MOST_RATE;
}

/* Where its journal goes on in another generation. */
static bool reopen_told(const struct pool *pool, const struct px_root *root)
{
    return root->next_generation && root->closed_blocks &&
           root->closed_blocks < pool->journal.blocks && root->closed_bytes &&
           root->closed_bytes <= sizeof(((struct px_journal *)0)->records);
}

/* The newest one, or the one that is wanted, which may not be on the store any more. */
static void find_root(struct pool *pool)
{
    _cleanup_free_ struct px_root *root = xaligned(PX_BLOCK, PX_BLOCK);
    int ret;

    if (pool->o.root) {
        if (root_valid(pool, pool->o.root))
            pool->root = *pool->o.root;
        return;
    }
    for (unsigned i = 0; (ret = pool->store->recall(pool->store, root, i)) != -ENOENT; i++)
        if (ret == 0 && root_valid(pool, root) && root->seq > pool->root.seq)
            pool->root = *root;
}

static int read_root(struct pool *pool, struct dt_error *err)
{
    const struct px_root *best = &pool->root;

    find_root(pool);
    if (best->seq == 0)
        return dt_fail(err, -EBADMSG, "%s is damaged: it has no valid root", pool->store->name);
    if (best->version == 0 || best->version > PX_ROOT_VERSION)
        return dt_fail(err, -ENOTSUP, "%s has a root of version %u; this program knows version %u",
                       pool->store->name, best->version, PX_ROOT_VERSION);
    if (best->version <= PX_ROOT_PLAIN)
        forget_features(&pool->root);
    if (best->version < PX_ROOT_BRANCH)
        pool->root.branched = 0;
    if (best->version < PX_ROOT_REOPEN)
        pool->root.next_generation = pool->root.closed_blocks = pool->root.closed_bytes = 0;
    if (best->features & ~PX_FEATURES)
        return dt_fail(err, -ENOTSUP,
                       "%s has features (0x%x) that this program does not know: use a newer one",
                       pool->store->name, best->features & ~PX_FEATURES);
    if (best->blocks > pool->store->blocks)
        return dt_fail(err, -EINVAL, "%s was cut short: it has %llu blocks, and had %llu",
                       pool->store->name, (unsigned long long)pool->store->blocks,
                       (unsigned long long)best->blocks);
    if (best->used > best->blocks || best->used < pool->space.first ||
        best->blocks < PX_MIN_BLOCKS || best->catalog_levels == 0 ||
        best->catalog_levels > PX_MAX_LEVELS || best->spacemap_levels == 0 ||
        best->spacemap_levels > PX_MAX_LEVELS || best->journal_seq >> 60 || best->seq >> 39 ||
        best->preallocation >= PX_PREALLOCATIONS || best->preallocated > best->blocks ||
        tree_span(best->spacemap_levels) << PX_GROUP_SHIFT < best->blocks ||
        !features_possible(best) || (best->version >= PX_ROOT_REOPEN && !reopen_told(pool, best)))
        return dt_fail(err, -EBADMSG, "%s is damaged: its root", pool->store->name);
    return 0;
}

static void tell_holder(struct pool *pool)
{
    _cleanup_free_ char *text = xaligned(PX_BLOCK, PX_BLOCK);

    if (pool->o.holder)
        snprintf(text, PX_BLOCK, "%s", pool->o.holder);
    else
        snprintf(text, PX_BLOCK, "%s (pid %d)", program_invocation_short_name, (int)getpid());
    pool->store->put(pool->store, text, PX_HOLDER_AT, 1); /* for people: it may fail */
}

/* What is written from now on follows on what was found. */
static int begin(struct pool *pool, struct dt_error *err)
{
    uint64_t flushed = pool->journal.seq;
    int ret;

    tell_holder(pool);
    if (reopen_possible(pool)) {
        ret = reopen_pool(pool);
        if (ret <= 0)
            return ret < 0 ? dt_fail(err, ret, "%s cannot be written: %s", pool->store->name,
                                     strerror(-ret))
                           : 0;
    }
    journal_init(pool, pool_random(), flushed);
    return pool_checkpoint(pool, err);
}

int pool_open(struct pool **out, struct store *store, const struct pool_options *o,
              struct dt_error *err)
{
    struct pool *pool = make(store, o);
    int ret = label_read(pool, err);

    CHECK(o->read_only || !o->root);
    ret = ret ?: read_root(pool, err);
    if (ret == 0) {
        space_init(pool, pool->root.blocks, pool->root.used);
        /* Where nodes were given out last: to find a free block from elsewhere on, all maps on the way are read. */
        if (!ptr_hole(pool->root.catalog))
            pool->space.node_at = ptr_addr(pool->root.catalog);
        forward_begin(pool);
        journal_init(pool, pool->root.generation, pool->root.journal_seq);
        ret = catalog_load(pool, err);
    }
    if (ret == 0 && o->repair)
        ret = repair(pool, err);
    if (ret == 0 && !o->read_only)
        ret = space_begin(pool, err);
    if (ret == 0 && !o->root)
        ret = recover(pool, err);
    if (ret == 0 && !o->read_only)
        ret = begin(pool, err) ?: pool_set_data_cache(pool, o->data_cache, err);
    if (ret < 0) {
        unmake(pool);
        return ret;
    }
    reclaim_find(pool);
    *out = pool;
    return 0;
}

int pool_close(struct pool *pool, struct dt_error *err)
{
    struct store *store = pool->store;
    int ret = 0;

    CHECK_MAGIC(pool, POOL_MAGIC);
    CHECK(pool->in_flight == 0 && !io_flushing(pool) && !pool->wait_next &&
          !checkpoint_under_way(pool) && pool->space.punch.count == 0 &&
          pool->space.prealloc.count == 0 && pool->space.spare.count == 0);
    if (pool->failed)
        ret = dt_fail(err, -EIO, "%s has failed before", store->name);
    else if (!pool->o.read_only &&
             (pool->changes || pool->recovery.rootless || pool->ckpt.state != CKPT_IDLE))
        ret = pool_checkpoint(pool, err);
    if (ret == 0 && !pool->o.read_only) {
        spare_keep(pool);
        punch_all(pool);
    }
    unmake(pool);
    store->close(store);
    return ret;
}

struct store *pool_release(struct pool *pool)
{
    struct store *store = pool->store;

    unmake(pool);
    return store;
}

void pool_abandon(struct pool *pool)
{
    struct store *store = pool_release(pool);

    store->close(store);
}

/* ---- Mounts ---- */

int disk_open(struct disk **disk, struct pool *pool, uint32_t slot, bool read_only,
              const char *owner, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, slot);

    if (r && (r->flags & PX_HIDDEN))
        return dt_fail(err, -ENOENT, "%s is deleted", r->name);
    return disk_mount(disk, pool, slot, read_only, owner, err);
}

int disk_mount(struct disk **out, struct pool *pool, uint32_t slot, bool read_only,
               const char *owner, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, slot);
    struct slot_info *info;
    char name[2 * PX_NAME];
    struct disk *disk;

    CHECK(r);
    info = &pool->catalog.info[slot];
    pool_full_name(pool, slot, name);
    if (r->flags & (PX_DYING | PX_HEADLESS))
        return dt_fail(err, -ENOENT, "%s is deleted", name);
    if (r->kind == PX_SNAPSHOT && !read_only)
        return dt_fail(err, -EROFS, "%s is a snapshot: read-only=on, or clone it", name);
    if (pool->o.read_only && !read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    if (!read_only && info->writer)
        return dt_fail(err, -EBUSY, "%s is in use by %s", name, info->writer->owner);
    disk = xcalloc(1, sizeof(*disk));
    disk->pool = pool;
    disk->slot = slot;
    disk->record = catalog_record(pool, slot);
    disk->read_only = read_only;
    disk->flushed = UINT64_MAX;
    snprintf(disk->owner, sizeof(disk->owner), "%s", owner);
    disk_queue_init(&disk->queue);
    list_init(&disk->waiting);
    list_add_tail(&pool->disks, &disk->list);
    common_mounted(disk);
    if (read_only)
        info->readers++;
    else
        info->writer = disk;
    *out = disk;
    return 0;
}

void disk_close(struct disk *disk)
{
    struct slot_info *info = &disk->pool->catalog.info[disk->slot];

    CHECK(disk->in_flight == 0);
    if (disk->read_only)
        info->readers--;
    else
        info->writer = NULL;
    list_del(&disk->list);
    past_view_free(disk->past);
    free(disk);
}

uint32_t disk_slot(const struct disk *disk)
{
    return disk->slot;
}

struct pool *disk_pool(const struct disk *disk)
{
    return disk->pool;
}

const struct disk_counters *disk_counters(const struct disk *disk)
{
    return &disk->counters;
}
