/* SPDX-License-Identifier: MIT */
/*
 * store.c - the cache's file: making it, opening it after whatever happened, closing it.
 *
 * What is trusted at a start: if it was closed in good order, or if the machine has not been
 * started since (so that what a process wrote is there, flushed or not), the live map. Else power
 * was lost: only the dirty blocks that the map names, and nothing clean.
 */
#include "base/boot.h"
#include "base/filelock.h"
#include "blk/cache/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static int failed(const struct cache *k, int error, const char *what, struct dt_error *err)
{
    return dt_fail(err, error, "%s: %s: %s", k->path, what, strerror(-error));
}

static int write_at(int fd, const void *data, size_t n, uint64_t offset)
{
    while (n) {
        ssize_t done = pwrite(fd, data, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        data = (const char *)data + done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

static int write_super(const struct cache *k, int fd, struct cache_super *super)
{
    int ret;

    super->generation++;
    cache_super_seal(super);
    ret = write_at(fd, super, sizeof(*super), super->generation % 2 * CACHE_SUPER_SIZE);
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
        return dt_fail(err, -ENOSPC, "%s: there is no room for %llu bytes", k->path,
                       (unsigned long long)(s.data_offset + s.slots * s.block_bytes));
    ret = fdatasync(fd) < 0 ? -errno : write_super(k, fd, &s);
    return ret < 0 ? failed(k, ret, "cannot be written", err) : 0;
}

/* Under another name until it is whole: a crash leaves either a cache or no file. */
static int make_file(const struct cache *k, struct dt_error *err)
{
    _cleanup_free_ char *path = xasprintf("%s.new", k->path);
    _cleanup_close_ int fd = -1;
    int ret;

    if (!k->size)
        return dt_fail(err, -ENOENT, "%s does not exist: size= would make it", k->path);
    unlink(path);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return failed(k, -errno, "cannot be made", err);
    ret = format(k, fd, err);
    if (ret == 0 && rename(path, k->path) < 0)
        ret = failed(k, -errno, "cannot be made", err);
    if (ret < 0)
        unlink(path);
    return ret;
}

/* ---- Opening ---- */

static void find_alignment(struct cache *k)
{
    struct statx stx = {0};
    uint32_t logical = dt_layer_info(k->layer)->logical_block;

    k->align = PAGE_SIZE_4K;
    if (statx(k->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && stx.stx_mask & STATX_DIOALIGN)
        k->align = MAX(stx.stx_dio_mem_align, stx.stx_dio_offset_align);
    else if (pread(k->fd, (void *)ALIGN_UP((uintptr_t)k->super.reserved, (uintptr_t)DT_SECTOR_SIZE),
                   DT_SECTOR_SIZE, DT_SECTOR_SIZE) >= 0)
        k->align = DT_SECTOR_SIZE;
    if (k->align && k->align <= logical)
        return;
    log_warning("%s: its device wants transfers of %u bytes, and the disk has blocks of %u: it is "
                "used through the page cache",
                k->path, k->align, logical);
    fcntl(k->fd, F_SETFL, 0);
    k->align = 1;
}

static int open_both(struct cache *k, struct dt_error *err)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    k->map_fd = open(k->path, flags);
    if (k->map_fd < 0 && errno == ENOENT) {
        int ret = make_file(k, err);

        if (ret < 0)
            return ret;
        k->map_fd = open(k->path, flags);
    }
    if (k->map_fd < 0)
        return failed(k, -errno, "cannot be opened", err);
    k->fd = open(k->path, flags | O_DIRECT);
    if (k->fd >= 0) {
        find_alignment(k);
        return 0;
    }
    k->align = 1;
    k->fd = open(k->path, flags);
    return k->fd < 0 ? failed(k, -errno, "cannot be opened", err) : 0;
}

/* A cache of another disk would give its blocks to this one. */
static int judge_disk(const struct cache *k, struct dt_error *err)
{
    uint64_t sectors = dt_layer_info(k->layer)->sectors;

    if (strcmp(k->super.disk, k->id) != 0)
        return dt_fail(err, -EMEDIUMTYPE, "%s is the cache of '%s', not of '%s'", k->path,
                       k->super.disk, k->id);
    if (k->super.disk_sectors != sectors)
        return dt_fail(err, -EMEDIUMTYPE,
                       "%s is the cache of a disk of %llu sectors, and the one below has %llu",
                       k->path, (unsigned long long)k->super.disk_sectors,
                       (unsigned long long)sectors);
    return 0;
}

static int read_super(struct cache *k, struct dt_error *err)
{
    int ret = cache_super_read(k->map_fd, &k->super, err);

    if (ret < 0) {
        dt_fail_prefix(err, "%s", k->path);
        return ret;
    }
    return judge_disk(k, err);
}

int cache_open_file(struct cache *k, struct dt_error *err)
{
    struct stat st;
    int ret = open_both(k, err);

    if (ret == 0 && (fstat(k->fd, &st) < 0 || !S_ISREG(st.st_mode)))
        ret = dt_fail(err, -EINVAL, "%s is not a regular file", k->path);
    ret = ret ?: read_super(k, err);
    if (ret < 0)
        cache_close_file(k);
    return ret;
}

/* ---- Taking over ---- */

void cache_live_write(struct cache *k, uint32_t slot)
{
    int ret = write_at(k->map_fd, &k->index[slot], sizeof(k->index[slot]),
                       k->super.live_offset + slot * sizeof(uint64_t));

    if (likely(ret == 0) || k->failed)
        return;
    k->failed = true;
    dt_layer_event(k->layer, "cache-failed", "%s: its live map cannot be written: %s", k->path,
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
        ret = write_at(k->map_fd, k->index, k->slots * sizeof(uint64_t), k->super.live_offset);
    memcpy(k->super.boot, boot, sizeof(k->super.boot));
    ret = ret ?: write_super(k, k->map_fd, &k->super);
    if (ret < 0)
        return failed(k, ret, "cannot be written", err);
    k->serving = true;
    /* Was the disk below flushed since these were destaged? Doing it again is always right. */
    for (uint64_t i = 0; i < k->slots; i++)
        if (k->flags[i] & SLOT_KEPT && !slot_dirty(k, (uint32_t)i))
            index_dirty(k, (uint32_t)i);
    return 0;
}

bool cache_live_counts(const struct cache_super *super, const uint8_t *boot)
{
    return cache_super_closed(super) || memcmp(boot, super->boot, BOOT_ID_SIZE) == 0;
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
    ret = cache_maps_read(k->map_fd, &k->super, live_counts, &maps, err);
    if (ret == 0 && maps.damaged)
        ret = dt_fail(err, -EUCLEAN, "it is damaged (%s): see 'devtap cache check'", maps.first);
    if (ret < 0) {
        dt_fail_prefix(err, "%s", k->path);
        cache_maps_free(&maps);
        return ret;
    }
    allocate_index(k);
    adopt(k, &maps, live_counts);
    cache_maps_free(&maps);
    if (!closed)
        log_info("%s: it was not closed in good order%s: %llu dirty blocks", k->path,
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
    ret = write_super(k, k->map_fd, &k->super);
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
        if (write_super(k, k->map_fd, &k->super) < 0)
            log_warning("%s: it could not be closed in good order", k->path);
    }
    if (k->fd >= 0)
        close(k->fd);
    if (k->map_fd >= 0)
        close(k->map_fd);
    free(k->index);
    free(k->flags);
    free(k->users);
    free(k->hands);
    free(k->page_dirty);
    free(k->page_touched);
    k->fd = k->map_fd = -1;
}
