/* SPDX-License-Identifier: MIT */
/*
 * store.c - the cache's file: making it, opening it after whatever happened, closing it.
 *
 * What is trusted at a start: if it was closed in good order, or if the machine has not been
 * started since (so that what a process wrote is there, flushed or not), the live map. Else power
 * was lost: only the dirty blocks that the map names, and nothing clean.
 */
#include "blk/cache/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static int failed(const struct cache *k, int error, const char *what, struct dt_error *err)
{
    return dt_fail(err, error, "%s: %s: %s", k->file.path, what, strerror(-error));
}

static int write_super(const struct cache *k, int fd, struct cache_super *super)
{
    int ret;

    super->generation++;
    cache_super_seal(super);
    ret = storefile_write(fd, super, sizeof(*super), super->generation % 2 * CACHE_SUPER_SIZE);
    return ret ?: fdatasync(fd) < 0 ? -errno : 0;
}

/* ---- Making one ---- */

static int layout(const struct cache *k, struct cache_super *s, struct dt_error *err)
{
    const struct dt_block_info *info = dt_layer_info(k->layer);
    uint64_t per_slot = k->block_bytes + 2 * sizeof(uint64_t), maps;
    uint64_t room = k->size > 2 * CACHE_DATA_ALIGN ? k->size - 2 * CACHE_DATA_ALIGN : 0;

    if (k->block_bytes & (k->block_bytes - 1))
        return dt_fail(err, -EINVAL, "block=%llu is not a power of two",
                       (unsigned long long)k->block_bytes);
    *s = (struct cache_super){
        .magic = CACHE_MAGIC,
        .version = CACHE_VERSION,
        .size = CACHE_SUPER_SIZE,
        .disk_sectors = info->sectors,
        .block_bytes = (uint32_t)k->block_bytes,
        .ways = CACHE_WAYS,
        .slots = ALIGN_DOWN(MIN(room / per_slot, (uint64_t)CACHE_MAX_SLOTS), (uint64_t)CACHE_WAYS),
        .map_offset = 2 * CACHE_SUPER_SIZE,
    };
    if (s->slots == 0)
        return dt_fail(err, -EINVAL, "size=%llu is too small for a cache: 4M is the least",
                       (unsigned long long)k->size);
    if (info->sectors >> (CACHE_BLOCK_BITS + 3))
        return dt_fail(err, -EFBIG, "the disk below is too large for a cache");
    maps = ALIGN_UP(s->slots * sizeof(uint64_t), (uint64_t)CACHE_PAGE_BYTES);
    s->live_offset = s->map_offset + maps;
    s->data_offset = ALIGN_UP(s->live_offset + maps, (uint64_t)CACHE_DATA_ALIGN);
    snprintf(s->disk, sizeof(s->disk), "%s", k->id);
    return getentropy(&s->salt, sizeof(s->salt)) < 0 ? dt_fail(err, -EIO, "no random numbers") : 0;
}

/* Zeroes for the maps, room for all; only then a superblock says that it is a cache. */
static int format(const struct cache *k, int fd, struct dt_error *err)
{
    struct cache_super s;
    int ret = layout(k, &s, err);

    if (ret < 0)
        return ret;
    if (posix_fallocate(fd, 0, (off_t)(s.data_offset + s.slots * s.block_bytes)) != 0)
        return dt_fail(err, -ENOSPC, "%s: there is no room for %llu bytes", k->file.path,
                       (unsigned long long)(s.data_offset + s.slots * s.block_bytes));
    ret = fdatasync(fd) < 0 ? -errno : write_super(k, fd, &s);
    return ret < 0 ? failed(k, ret, "cannot be written", err) : 0;
}

/* Under another name until it is whole: a crash leaves either a cache or no file. */
static int make_file(const struct cache *k, struct dt_error *err)
{
    _cleanup_free_ char *path = xasprintf("%s.new", k->file.path);
    _cleanup_close_ int fd = -1;
    int ret;

    unlink(path);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return failed(k, -errno, "cannot be made", err);
    ret = format(k, fd, err);
    if (ret == 0 && rename(path, k->file.path) < 0)
        ret = failed(k, -errno, "cannot be made", err);
    if (ret < 0) {
        unlink(path);
        return ret;
    }
    ret = storefile_sync_directory(k->file.path);
    return ret < 0 ? failed(k, ret, "cannot be made", err) : 0;
}

/* ---- Opening ---- */

static void find_alignment(struct cache *k)
{
    struct statx stx = {0};
    uint32_t logical = dt_layer_info(k->layer)->logical_block;

    k->align = PAGE_SIZE_4K;
    if (statx(k->file.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        stx.stx_mask & STATX_DIOALIGN)
        k->align = MAX(stx.stx_dio_mem_align, stx.stx_dio_offset_align);
    else if (pread(k->file.fd,
                   (void *)ALIGN_UP((uintptr_t)k->super.reserved, (uintptr_t)DT_SECTOR_SIZE),
                   DT_SECTOR_SIZE, DT_SECTOR_SIZE) >= 0)
        k->align = DT_SECTOR_SIZE;
    if (k->align && k->align <= logical)
        return;
    log_warning("%s: its device wants transfers of %u bytes, and the disk has blocks of %u: it is "
                "used through the page cache",
                k->file.path, k->align, logical);
    fcntl(k->file.fd, F_SETFL, 0);
    k->align = 1;
}

static int open_map(struct cache *k, struct dt_error *err)
{
    int ret = storefile_open(&k->file, false, "size= makes it", err);

    if (ret != -ENOENT || !k->size)
        return ret;
    ret = make_file(k, err);
    return ret ?: storefile_open(&k->file, false, "size= makes it", err);
}

static int open_data(struct cache *k, struct dt_error *err)
{
    int ret = storefile_open_data(&k->file, err);

    if (ret < 0)
        return ret;
    k->align = 1;
    if (fcntl(k->file.fd, F_SETFL, O_DIRECT) == 0)
        find_alignment(k);
    return 0;
}

/* A cache of another disk would give its blocks to this one. */
static int judge_disk(const struct cache *k, struct dt_error *err)
{
    uint64_t sectors = dt_layer_info(k->layer)->sectors;

    if (strcmp(k->super.disk, k->id) != 0)
        return dt_fail(err, -EMEDIUMTYPE, "%s is the cache of '%s', not of '%s'", k->file.path,
                       k->super.disk, k->id);
    if (k->super.disk_sectors != sectors)
        return dt_fail(err, -EMEDIUMTYPE,
                       "%s is the cache of a disk of %llu sectors, and the one below has %llu",
                       k->file.path, (unsigned long long)k->super.disk_sectors,
                       (unsigned long long)sectors);
    return 0;
}

static int read_super(struct cache *k, struct dt_error *err)
{
    int ret = cache_super_read(k->file.map_fd, &k->super, err);

    if (ret < 0) {
        dt_fail_prefix(err, "%s", k->file.path);
        return ret;
    }
    return judge_disk(k, err);
}

int cache_open_file(struct cache *k, struct dt_error *err)
{
    int ret = open_map(k, err);

    ret = ret ?: open_data(k, err);
    ret = ret ?: read_super(k, err);
    if (ret < 0)
        cache_close_file(k);
    return ret;
}

/* ---- Taking over ---- */

void cache_live_write(struct cache *k, uint32_t slot)
{
    int ret = storefile_write(k->file.map_fd, &k->index[slot], sizeof(k->index[slot]),
                              k->super.live_offset + slot * sizeof(uint64_t));

    if (likely(ret == 0) || k->failed)
        return;
    k->failed = true;
    dt_layer_event(k->layer, "cache-failed", "%s: its live map cannot be written: %s", k->file.path,
                   strerror(-ret));
}

static void allocate_index(struct cache *k)
{
    const struct cache_super *s = &k->super;

    k->shift = (unsigned)__builtin_ctz(s->block_bytes) - DT_SECTOR_SHIFT;
    k->slots = s->slots;
    k->sets = s->slots / CACHE_WAYS;
    k->blocks = s->disk_sectors >> k->shift;
    k->pages = (s->slots + CACHE_PAGE_SLOTS - 1) / CACHE_PAGE_SLOTS;
    k->flags = xcalloc(k->slots, 1);
    k->users = xcalloc(k->slots, sizeof(*k->users));
    k->hands = xcalloc(k->sets, 1);
    k->page_dirty = xcalloc(k->pages, sizeof(*k->page_dirty));
    k->page_touched = xcalloc(k->pages, 1);
}

/* The index as it was, and what of it is kept. */
static void adopt(struct cache *k, struct cache_maps *maps, bool live_counts)
{
    uint64_t **trusted = live_counts ? &maps->live : &maps->map;

    for (uint64_t i = 0; i < k->slots; i++)
        if (maps->map[i])
            k->flags[i] = SLOT_KEPT;
    k->index = TAKE_PTR(*trusted);
    for (uint64_t i = 0; i < k->slots; i++) {
        k->used += slot_valid(k, (uint32_t)i);
        if (!slot_dirty(k, (uint32_t)i))
            continue;
        k->dirty++;
        k->page_dirty[i / CACHE_PAGE_SLOTS]++;
        if (!(k->flags[i] & SLOT_KEPT))
            k->page_touched[i / CACHE_PAGE_SLOTS] = true;
    }
}

/* Nothing may change before the superblock says, durably, that the file is open here and now. */
static int claim(struct cache *k, const uint8_t *boot, bool live_counts, struct dt_error *err)
{
    int ret = 0;

    if (!live_counts)
        ret = storefile_write(k->file.map_fd, k->index, k->slots * sizeof(uint64_t),
                              k->super.live_offset);
    memcpy(k->super.boot, boot, sizeof(k->super.boot));
    ret = ret ?: write_super(k, k->file.map_fd, &k->super);
    if (ret < 0)
        return failed(k, ret, "cannot be written", err);
    k->serving = true;
    /* Was the disk below flushed since these were destaged? Doing it again is always right. */
    for (uint64_t i = 0; i < k->slots; i++)
        if (k->flags[i] & SLOT_KEPT && !slot_dirty(k, (uint32_t)i))
            index_dirty(k, (uint32_t)i);
    return 0;
}

int cache_load(struct cache *k, struct dt_error *err)
{
    static const uint8_t none[BOOT_ID_SIZE];
    uint8_t boot[BOOT_ID_SIZE];
    struct cache_maps maps;
    bool closed, live_counts;
    int ret = read_super(k, err); /* once more: the one before us may have written until now */

    if (ret < 0)
        return ret;
    boot_id(boot);
    if (memcmp(boot, none, sizeof(boot)) == 0)
        return dt_fail(err, -ENOTSUP, "the kernel does not tell which boot this is");
    closed = cache_super_closed(&k->super);
    live_counts = cache_live_counts(&k->super, boot);
    ret = cache_maps_read(k->file.map_fd, &k->super, live_counts, &maps, err);
    if (ret == 0 && maps.damaged)
        ret = dt_fail(err, -EUCLEAN, "it is damaged (%s): see 'devtap cache check'", maps.first);
    if (ret < 0) {
        dt_fail_prefix(err, "%s", k->file.path);
        cache_maps_free(&maps);
        return ret;
    }
    allocate_index(k);
    adopt(k, &maps, live_counts);
    cache_maps_free(&maps);
    if (!closed)
        log_info("%s: it was not closed in good order%s: %llu dirty blocks", k->file.path,
                 live_counts ? "" : ", and the machine was started since",
                 (unsigned long long)k->dirty);
    return claim(k, boot, live_counts, err);
}

/* ---- The disk below grew ---- */

int cache_resized(struct cache *k, uint64_t sectors, struct dt_error *err)
{
    int ret;

    if (sectors < k->super.disk_sectors)
        return dt_fail(err, -EINVAL, "the disk below has shrunk: its cache may hold what is gone");
    k->super.disk_sectors = sectors;
    ret = write_super(k, k->file.map_fd, &k->super);
    if (ret < 0)
        return failed(k, ret, "cannot be written", err);
    k->blocks = sectors >> k->shift;
    return 0;
}

/* ---- Closing ---- */

void cache_close_file(struct cache *k)
{
    bool flushed = !k->commit.below_unflushed && !k->commit.unsure;

    /* A clean block is trusted after a loss of power only if the disk below has it durably. */
    if (k->serving && !k->failed && commit_now(k) == 0 && flushed) {
        memset(k->super.boot, 0, sizeof(k->super.boot));
        if (write_super(k, k->file.map_fd, &k->super) < 0)
            log_warning("%s: it could not be closed in good order", k->file.path);
    }
    storefile_close(&k->file);
    free(k->index);
    free(k->flags);
    free(k->users);
    free(k->hands);
    free(k->page_dirty);
    free(k->page_touched);
}
