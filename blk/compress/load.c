/* SPDX-License-Identifier: MIT */
/*
 * load.c - the maps at the start, once nobody else writes them.
 *
 * First what a killed process left in the live map alone is made durable, in the order of a flush.
 * So the stored map is all there is from then on, and a block that it does not name is free.
 */
#include "blk/compress/internal.h"

static int no_map(const struct compress *w, int error, struct dt_error *err)
{
    return dt_fail(err, error, "%s: cannot begin: %s", w->file.path, strerror(-error));
}

static int flush(const struct compress *w, struct dt_error *err)
{
    return fdatasync(w->file.map_fd) < 0 ? no_map(w, -errno, err) : 0;
}

void compress_distrust(struct compress *w)
{
    memset(w->header.boot, 0, sizeof(w->header.boot));
    compress_header_seal(&w->header);
    if (storefile_write(w->file.map_fd, &w->header, sizeof(w->header), 0) < 0 ||
        fdatasync(w->file.map_fd) < 0)
        log_error("%s: cannot note that it failed: do not use it after a restart", w->file.path);
}

/**
 * struct load - what the walks over the maps share.
 * @blocks:  that are in the store.
 * @written: sectors of the stored map.
 */
struct load {
    struct compress *w;
    uint64_t blocks, written;
};

static int store_sector(struct load *l, uint64_t index, const struct compress_map_sector *sector,
                        struct dt_error *err)
{
    struct compress_map_sector copy = *sector;
    int ret;

    compress_map_seal(&copy, index, 0);
    ret = storefile_write(l->w->file.map_fd, &copy, sizeof(copy),
                          l->w->at.map_offset + index * sizeof(copy));
    l->written++;
    return ret < 0 ? no_map(l->w, ret, err) : 0;
}

/* Does the live map say something else, or something at all? Return: 1 if so. */
static int differs(const struct load *l, uint64_t index, const struct compress_map_sector *live,
                   struct dt_error *err)
{
    const struct compress *w = l->w;
    struct compress_map_sector stored;
    int ret;

    if (live->generation != w->header.generation)
        return 0; /* left from before */
    ret =
        compress_map_check(live, index, w->header.generation, &w->at, l->blocks, w->file.path, err);
    if (ret < 0)
        return ret;
    if (pread(w->file.map_fd, &stored, sizeof(stored),
              (off_t)(w->at.map_offset + index * sizeof(stored))) != sizeof(stored))
        return dt_fail(err, -EIO, "%s: cannot read the map", w->file.path);
    return memcmp(live->entries, stored.entries, sizeof(stored.entries)) != 0;
}

static int settle_sector(void *arg, uint64_t index, const void *live, struct dt_error *err)
{
    struct load *l = arg;
    int ret = differs(l, index, live, err);

    if (ret <= 0)
        return ret;
    ret = l->written ? 0 : flush(l->w, err); /* the blocks that it names, before it does */
    return ret ?: store_sector(l, index, live, err);
}

static int refuse_unsettled(void *arg, uint64_t index, const void *live, struct dt_error *err)
{
    const struct load *l = arg;
    int ret = differs(l, index, live, err);

    if (ret <= 0)
        return ret;
    return dt_fail(err, -EUCLEAN,
                   "%s: whoever wrote it was killed before a flush: open it once without "
                   "read-only=on",
                   l->w->file.path);
}

/* After a flush that failed the kernel may take for written what the disk does not have. */
static int rewrite_sector(void *arg, uint64_t index, const void *stored, struct dt_error *err)
{
    return store_sector(arg, index, stored, err);
}

static int judge_sector(void *arg, uint64_t index, const void *stored, struct dt_error *err)
{
    const struct load *l = arg;

    return compress_map_check(stored, index, 0, &l->w->at, l->blocks, l->w->file.path, err);
}

static int take_sector(void *arg, uint64_t index, const void *sector, struct dt_error *err)
{
    const struct compress_map_sector *stored = sector;
    const struct load *l = arg;
    struct compress *w = l->w;
    int ret = judge_sector(arg, index, stored, err);

    for (unsigned i = 0; i < COMPRESS_ENTRIES && ret == 0; i++) {
        const struct compress_entry *e = &stored->entries[i];

        if (compress_is_hole(e))
            continue;
        w->mapped++;
        w->stored += e->length;
        if (!compress_space_take(&w->space, e->block, compress_blocks(e)))
            ret = dt_fail(err, -EBADMSG,
                          "%s: the map has unit %llu in blocks of another one (see 'devtap "
                          "compress check')",
                          w->file.path, (unsigned long long)(index * COMPRESS_ENTRIES + i));
    }
    return ret;
}

static int walk(struct load *l, bool live,
                int (*each)(void *arg, uint64_t index, const void *sector, struct dt_error *err),
                struct dt_error *err)
{
    const struct compress *w = l->w;

    return storefile_walk(w->file.map_fd, w->file.path, live ? w->at.live_offset : w->at.map_offset,
                          w->at.map_sectors, each, l, err);
}

/* The stored map is made all that there is. */
static int settle(struct load *l, bool ours, struct dt_error *err)
{
    static const uint8_t none[BOOT_ID_SIZE];
    int ret = 0;

    if (memcmp(l->w->header.boot, none, sizeof(none)) == 0) {
        ret = walk(l, false, judge_sector, err);
        ret = ret ?: walk(l, false, rewrite_sector, err);
    } else if (ours) {
        ret = walk(l, true, settle_sector, err);
    }
    if (ret == 0 && l->written)
        ret = flush(l->w, err);
    return ret;
}

/* Nobody's: the next generation, flushed before the live map has any of it. */
static int take_live_map(struct compress *w, struct dt_error *err)
{
    int ret;

    memcpy(w->header.boot, w->boot, sizeof(w->boot));
    w->header.generation++;
    compress_header_seal(&w->header);
    ret = storefile_write(w->file.map_fd, &w->header, sizeof(w->header), 0);
    return ret < 0 ? no_map(w, ret, err) : flush(w, err);
}

/* A file can grow: each unit may be stored twice before the first commit frees any. */
static uint64_t most_blocks(const struct compress *w, uint64_t present)
{
    uint64_t units = w->at.units * (COMPRESS_UNIT / COMPRESS_BLOCK);

    return w->file.is_device ? present : MAX(2 * units + 8192, present);
}

int compress_load(struct compress *w, struct dt_error *err)
{
    struct load l = {.w = w};
    uint64_t size;
    bool ours;
    int ret = storefile_size(w->file.map_fd, w->file.path, &size, err);

    if (ret < 0)
        return ret;
    /* The predecessor may have written it until the fence. */
    if (pread(w->file.map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        return dt_fail(err, -EIO, "%s: cannot read the header", w->file.path);
    ret = compress_header_check(&w->header, size, w->file.path, err);
    if (ret < 0)
        return ret;
    l.blocks = compress_store_blocks(&w->at, size);
    ours = boot_is(w->header.boot, w->boot);
    compress_space_fini(&w->space);
    ret = compress_space_init(&w->space, most_blocks(w, l.blocks));
    if (ret < 0)
        return dt_fail(err, ret, "no address space for the blocks of %s", w->file.path);
    w->mapped = w->stored = 0;
    if (w->file.read_only)
        ret = ours ? walk(&l, true, refuse_unsettled, err) : 0;
    else
        ret = settle(&l, ours, err);
    ret = ret ?: walk(&l, false, take_sector, err);
    return ret < 0 || ours || w->file.read_only ? ret : take_live_map(w, err);
}
