/* SPDX-License-Identifier: MIT */
/*
 * open.c - the overlay's file: made, opened twice (past the page cache for data, through it for
 * header and maps, which are never in the same page), fenced and read.
 */
#include "base/filelock.h"
#include "blk/cow/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- Making one ---- */

static int sync_directory(const char *path)
{
    _cleanup_free_ char *dir = xstrdup(path);
    char *slash = strrchr(dir, '/');
    _cleanup_close_ int fd = -1;

    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* The header comes last: without it the file is still one that create=on may fill. */
static int make(struct cow *w, struct dt_error *err)
{
    uint64_t size = dt_layer_info(w->layer)->sectors << DT_SECTOR_SHIFT;
    struct cow_layout at;
    int ret = 0;

    if (size > COW_MAX_SIZE)
        return dt_fail(err, -EFBIG, "the base is too large for an overlay");
    if (w->base_id && strlen(w->base_id) >= COW_ID_SIZE)
        return dt_fail(err, -EINVAL, "base-id has at most %u characters", COW_ID_SIZE - 1);
    cow_layout(&at, size);
    cow_header_init(&w->header, size, w->base_id);
    if (ftruncate(w->map_fd, (off_t)at.file_size) < 0 || fsync(w->map_fd) < 0)
        ret = -errno;
    else if (pwrite(w->map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        ret = errno ? -errno : -EIO;
    else if (fsync(w->map_fd) < 0)
        ret = -errno;
    ret = ret ?: sync_directory(w->overlay);
    return ret < 0 ? dt_fail(err, ret, "cannot make %s: %s", w->overlay, strerror(-ret)) : 0;
}

/* ---- Opening ---- */

static int open_failed(const struct cow *w, int error, struct dt_error *err)
{
    if (error == ENOENT)
        return dt_fail(err, -error, "%s does not exist (create=on makes it)", w->overlay);
    return dt_fail(err, -error, "cannot open %s: %s", w->overlay, strerror(error));
}

/* Does O_DIRECT take what guests send? Then use it. */
static void find_direct(struct cow *w)
{
    _cleanup_free_ uint8_t *memory = xaligned(4096, 8192);
    unsigned block = dt_layer_info(w->layer)->logical_block;

    w->mem_align = DT_SECTOR_SIZE;
    w->direct = fcntl(w->fd, F_SETFL, O_DIRECT) == 0 &&
                pread(w->fd, memory + block, block, (off_t)(w->at.data_offset + block)) >= 0;
    if (!w->direct)
        fcntl(w->fd, F_SETFL, 0);
}

static int read_header(struct cow *w, struct dt_error *err)
{
    static const struct cow_header blank;
    struct stat st;
    ssize_t n;

    if (fstat(w->map_fd, &st) < 0)
        return open_failed(w, errno, err);
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", w->overlay);
    n = pread(w->map_fd, &w->header, sizeof(w->header), 0);
    if (n < 0)
        return dt_fail(err, -errno, "%s: %s", w->overlay, strerror(errno));
    if (n < (ssize_t)sizeof(w->header))
        memset((uint8_t *)&w->header + n, 0, sizeof(w->header) - (size_t)n);
    if (w->create && memcmp(&w->header, &blank, sizeof(blank)) == 0) {
        int ret = make(w, err);

        if (ret < 0)
            return ret;
        return fstat(w->map_fd, &st) < 0 ? open_failed(w, errno, err) : 0;
    }
    return cow_header_check(&w->header, (uint64_t)st.st_size, w->overlay, err);
}

/* Of this base? The content of another may look like a disk for a long time. */
static int judge_base(const struct cow *w, struct dt_error *err)
{
    const struct dt_block_info *base = dt_layer_info(w->layer);
    uint64_t size = base->sectors << DT_SECTOR_SHIFT;

    if (!base->read_only)
        return dt_fail(err, -EINVAL,
                       "the base could be written to: give the layer below read-only=on, or put "
                       "'readonly' between");
    if (base->max_sectors && base->max_sectors < COW_GRANULE >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EINVAL, "the base takes no requests of 4 KiB");
    if (size != w->header.size)
        return dt_fail(err, -EINVAL,
                       "%s is for a base of %llu bytes; this one has %llu: it has changed, or is "
                       "another",
                       w->overlay, (unsigned long long)w->header.size, (unsigned long long)size);
    if (w->base_id && strncmp(w->base_id, w->header.base_id, COW_ID_SIZE) != 0)
        return dt_fail(err, -EINVAL, "%s is for the base '%s', not '%s'", w->overlay,
                       w->header.base_id, w->base_id);
    return 0;
}

static int get_memory(struct cow *w, struct dt_error *err)
{
    uint64_t n = w->at.map_sectors;

    w->now = cow_map_new(n);
    w->live = cow_map_new(n);
    w->stored = cow_map_new(n);
    if (!w->now || !w->live || !w->stored)
        return dt_fail(err, -ENOMEM, "no address space for the map of %s", w->overlay);
    w->flags = xcalloc(n, 1);
    w->dirty_list = xcalloc(n, sizeof(uint32_t));
    w->commit_list = xcalloc(n, sizeof(uint32_t));
    w->record_list = xcalloc(n, sizeof(uint32_t));
    return 0;
}

int cow_open(struct dt_layer *layer, struct dt_error *err)
{
    struct cow *w = dt_layer_data(layer);
    int flags = O_CLOEXEC | O_NOCTTY | (w->read_only ? O_RDONLY : O_RDWR), ret;

    w->layer = layer;
    w->shortage = (struct shortage){.layer = layer, .path = w->overlay, .policy = &w->on_full};
    w->fd = -1;
    if (w->create && w->read_only)
        return dt_fail(err, -EINVAL, "create=on and read-only=on exclude each other");
    boot_id(w->boot);
    w->map_fd = open(w->overlay, flags | (w->create ? O_CREAT : 0), 0600);
    ret = w->map_fd < 0 ? open_failed(w, errno, err) : read_header(w, err);
    if (ret == 0)
        ret = judge_base(w, err);
    if (ret == 0) {
        cow_layout(&w->at, w->header.size);
        w->fd = open(w->overlay, flags);
        ret = w->fd < 0 ? open_failed(w, errno, err) : get_memory(w, err);
    }
    if (ret < 0) {
        cow_close(layer);
        return ret;
    }
    find_direct(w);
    w->no_punch = !w->read_only && fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                             (off_t)w->at.file_size, COW_GRANULE) < 0;
    return 0;
}

void cow_close(struct dt_layer *layer)
{
    struct cow *w = dt_layer_data(layer);

    cow_map_free(w->now, w->at.map_sectors);
    cow_map_free(w->live, w->at.map_sectors);
    cow_map_free(w->stored, w->at.map_sectors);
    free(w->flags);
    free(w->dirty_list);
    free(w->commit_list);
    free(w->record_list);
    if (w->fd >= 0)
        close(w->fd);
    if (w->map_fd >= 0)
        close(w->map_fd);
}

/* Two descriptions, both of which may have I/O of the dead under way: two bytes. */
int cow_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct cow *w = dt_layer_data(layer);
    struct filelock data = {.path = w->overlay, .fd = w->fd, .read_only = w->read_only};
    struct filelock map = {.path = w->overlay, .fd = w->map_fd, .read_only = w->read_only};
    _cleanup_free_ char *name = xasprintf("%s map", dt_layer_device(layer));
    int ret = filelock_own(&data, dt_layer_device(layer), deadline, err);

    if (ret == 0)
        ret = filelock_fence(&map, name, deadline, err);
    if (ret < 0 && ret != -EBUSY)
        dt_fail(err, ret, "%s: its file system cannot lock it: %s", w->overlay, strerror(-ret));
    return ret;
}

/* ---- Reading the maps ---- */

static int write_header(struct cow *w)
{
    cow_header_seal(&w->header);
    if (pwrite(w->map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        return errno ? -errno : -EIO;
    return fdatasync(w->map_fd) < 0 ? -errno : 0;
}

void cow_distrust(struct cow *w)
{
    memset(w->header.boot, 0, sizeof(w->header.boot));
    if (write_header(w) < 0)
        log_error("%s: cannot note that a flush failed: do not use it after a restart", w->overlay);
}

/* Nobody's: emptied on the disk before the header says that it is ours. */
static int take_live_map(struct cow *w, struct dt_error *err)
{
    uint64_t length = w->at.map_sectors * sizeof(*w->live);
    struct iovec iov = {w->live, length};
    int ret = 0;

    if (fallocate(w->map_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)w->at.live_offset,
                  (off_t)length) < 0 &&
        pwritev(w->map_fd, &iov, 1, (off_t)w->at.live_offset) != (ssize_t)length)
        ret = errno ? -errno : -EIO;
    if (ret == 0 && fdatasync(w->map_fd) < 0)
        ret = -errno;
    memcpy(w->header.boot, w->boot, sizeof(w->boot));
    ret = ret ?: write_header(w);
    return ret < 0 ? dt_fail(err, ret, "%s: cannot begin: %s", w->overlay, strerror(-ret)) : 0;
}

bool cow_boot_is(const struct cow_header *header, const uint8_t *boot)
{
    static const uint8_t none[BOOT_ID_SIZE];

    return memcmp(header->boot, boot, BOOT_ID_SIZE) == 0 && memcmp(boot, none, sizeof(none)) != 0;
}

int cow_load(struct cow *w, struct dt_error *err)
{
    bool ours;
    int ret;

    /* The predecessor may have written it until the fence. */
    if (pread(w->map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        return dt_fail(err, -EIO, "%s: cannot read the header", w->overlay);
    ret = cow_header_check(&w->header, w->at.file_size, w->overlay, err);
    ours = cow_boot_is(&w->header, w->boot);
    if (ret == 0)
        ret = cow_map_load(w->map_fd, w->overlay, &w->at, w->at.map_offset, w->now, err);
    if (ret == 0 && ours)
        ret = cow_map_load(w->map_fd, w->overlay, &w->at, w->at.live_offset, w->live, err);
    if (ret < 0)
        return ret;
    for (uint64_t s = 0; ours && s < w->at.map_sectors; s++)
        for (unsigned i = 0; i < sizeof(w->now[s].bits); i++) {
            if (w->live[s].bits[i] & ~w->now[s].bits[i])
                cow_map_dirty(w, s);
            w->now[s].bits[i] |= w->live[s].bits[i];
        }
    return ours || w->read_only ? 0 : take_live_map(w, err);
}
