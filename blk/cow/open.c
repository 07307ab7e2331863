/* SPDX-License-Identifier: MIT */
/* open.c - the overlay's file: made, opened and fenced (blk/storefile), and read. */
#include "blk/cow/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>

/* ---- Making one ---- */

static int make(struct cow *w, struct dt_error *err)
{
    uint64_t size = dt_layer_info(w->layer)->sectors << DT_SECTOR_SHIFT;
    struct cow_layout at;

    if (size > COW_MAX_SIZE)
        return dt_fail(err, -EFBIG, "the base is too large for an overlay");
    if (w->base_id && strlen(w->base_id) >= COW_ID_SIZE)
        return dt_fail(err, -EINVAL, "base-id has at most %u characters", COW_ID_SIZE - 1);
    if (!w->base_id)
        cow_base_print(w);
    cow_layout(&at, size);
    if (ftruncate(w->file.map_fd, (off_t)at.file_size) < 0)
        return storefile_failed(w->file.path, "make", err);
    cow_header_init(&w->header, size, w->base_id ?: w->print);
    return storefile_finish(&w->file, &w->header, sizeof(w->header), err);
}

/* ---- Opening ---- */

static int read_header(struct cow *w, struct dt_error *err)
{
    static const struct cow_header blank;
    uint64_t size;
    int ret = storefile_read_header(&w->file, &w->header, sizeof(w->header), err);

    if (ret == 0 && w->file.create && memcmp(&w->header, &blank, sizeof(blank)) == 0)
        return make(w, err);
    ret = ret ?: storefile_size(w->file.map_fd, w->file.path, &size, err);
    return ret ?: cow_header_check(&w->header, size, w->file.path, err);
}

static int get_memory(struct cow *w, struct dt_error *err)
{
    uint64_t n = w->at.map_sectors;

    w->now = cow_map_new(n);
    w->live = cow_map_new(n);
    w->stored = cow_map_new(n);
    if (!w->now || !w->live || !w->stored)
        return dt_fail(err, -ENOMEM, "no address space for the map of %s", w->file.path);
    w->flags = xcalloc(n, 1);
    w->dirty_list = xcalloc(n, sizeof(uint32_t));
    w->commit_list = xcalloc(n, sizeof(uint32_t));
    w->record_list = xcalloc(n, sizeof(uint32_t));
    return 0;
}

int cow_open(struct dt_layer *layer, struct dt_error *err)
{
    struct cow *w = dt_layer_data(layer);
    int ret = storefile_open(&w->file, false, "create=on makes it", err);

    w->layer = layer;
    w->shortage = (struct shortage){.layer = layer, .path = w->file.path, .policy = &w->on_full};
    w->mem_align = DT_SECTOR_SIZE;
    boot_id(w->boot);
    ret = ret ?: read_header(w, err);
    ret = ret ?: cow_judge_base(w, err);
    ret = ret ?: storefile_open_data(&w->file, err);
    if (ret == 0) {
        cow_layout(&w->at, w->header.size);
        ret = get_memory(w, err);
    }
    if (ret < 0) {
        cow_close(layer);
        return ret;
    }
    /* Does it take what guests send? */
    w->direct = storefile_direct(&w->file, dt_layer_info(layer)->logical_block, w->at.data_offset);
    w->no_punch =
        !w->file.read_only && fallocate(w->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
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
    storefile_close(&w->file);
}

int cow_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct cow *w = dt_layer_data(layer);

    return storefile_fence(&w->file, dt_layer_device(layer), deadline, err);
}

/* ---- Reading the maps ---- */

static int write_header(struct cow *w)
{
    int ret;

    cow_header_seal(&w->header);
    ret = storefile_write(w->file.map_fd, &w->header, sizeof(w->header), 0);
    return ret ?: fdatasync(w->file.map_fd) < 0 ? -errno : 0;
}

void cow_distrust(struct cow *w)
{
    memset(w->header.boot, 0, sizeof(w->header.boot));
    if (write_header(w) < 0)
        log_error("%s: cannot note that a flush failed: do not use it after a restart",
                  w->file.path);
}

/* Nobody's: emptied on the disk before the header says that it is ours. */
static int take_live_map(struct cow *w, struct dt_error *err)
{
    uint64_t length = w->at.map_sectors * sizeof(*w->live);
    int ret = 0;

    if (fallocate(w->file.map_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)w->at.live_offset, (off_t)length) < 0)
        ret = storefile_write(w->file.map_fd, w->live, length, w->at.live_offset);
    if (ret == 0 && fdatasync(w->file.map_fd) < 0)
        ret = -errno;
    memcpy(w->header.boot, w->boot, sizeof(w->boot));
    ret = ret ?: write_header(w);
    return ret < 0 ? dt_fail(err, ret, "%s: cannot begin: %s", w->file.path, strerror(-ret)) : 0;
}

int cow_load(struct cow *w, struct dt_error *err)
{
    bool ours;
    int ret;

    /* The predecessor may have written it until the fence. */
    if (pread(w->file.map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        return dt_fail(err, -EIO, "%s: cannot read the header", w->file.path);
    ret = cow_header_check(&w->header, w->at.file_size, w->file.path, err);
    ours = boot_is(w->header.boot, w->boot);
    if (ret == 0)
        ret = cow_map_load(w->file.map_fd, w->file.path, &w->at, w->at.map_offset, w->now, err);
    if (ret == 0 && ours)
        ret = cow_map_load(w->file.map_fd, w->file.path, &w->at, w->at.live_offset, w->live, err);
    if (ret < 0)
        return ret;
    for (uint64_t s = 0; ours && s < w->at.map_sectors; s++)
        for (unsigned i = 0; i < sizeof(w->now[s].bits); i++) {
            if (w->live[s].bits[i] & ~w->now[s].bits[i])
                cow_map_dirty(w, s);
            w->now[s].bits[i] |= w->live[s].bits[i];
        }
    if (cow_adopt_base(w) && ours && write_header(w) < 0)
        return dt_fail(err, -EIO, "%s: cannot write the header", w->file.path);
    return ours || w->file.read_only ? 0 : take_live_map(w, err);
}
