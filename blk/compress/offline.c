/* SPDX-License-Identifier: MIT */
/*
 * offline.c - stores that no VM uses.
 *
 * A sector of the live map that counts stands for the same one of the stored map; so the live map
 * is gone through first, and those of the stored map that it has are left out then.
 */
#include "blk/compress/offline.h"
#include "blk/compress/space.h"
#include "blk/storefile/storefile.h"

#include <stdarg.h>
#include <stdio.h>

int compress_file_open(struct compress_file *f, const char *path, struct dt_error *err)
{
    uint8_t boot[BOOT_ID_SIZE];
    int ret;

    *f = (struct compress_file){.path = path, .fd = storefile_open_unused(path, false, err)};
    if (f->fd < 0)
        return f->fd;
    ret = storefile_size(f->fd, path, &f->size, err);
    if (ret == 0 && pread(f->fd, &f->header, sizeof(f->header), 0) < 0)
        ret = storefile_failed(path, "read", err);
    ret = ret ?: compress_header_check(&f->header, f->size, path, err);
    if (ret < 0) {
        compress_file_close(f);
        return ret;
    }
    compress_layout(&f->at, f->header.size);
    f->blocks = compress_store_blocks(&f->at, f->size);
    boot_id(boot);
    f->ours = boot_is(f->header.boot, boot);
    return 0;
}

void compress_file_close(struct compress_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

/* ---- Going through it ---- */

/**
 * struct check - one that is under way.
 * @in_live: a bit for each sector of the live map that counts.
 * @live:    which map it goes through.
 */
struct check {
    const struct compress_file *f;
    struct compress_found *found;
    struct compress_space space;
    uint8_t *in_live, *data;
    bool content, live;
};

static void problem(struct check *c, const char *fmt, ...) DT_PRINTF(2, 3);
static void problem(struct check *c, const char *fmt, ...)
{
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    c->found->problems++;
    if (c->found->problem)
        c->found->problem(text);
}

static void check_content(struct check *c, uint64_t unit, const struct compress_entry *e)
{
    const struct compress_file *f = c->f;
    uint64_t at = f->at.data_offset + (e->block << COMPRESS_BLOCK_SHIFT);
    ssize_t n = pread(f->fd, c->data, e->length, (off_t)at);

    if (n != (ssize_t)e->length)
        problem(c, "unit %llu (byte %llu of the disk) cannot be read: %s", (unsigned long long)unit,
                (unsigned long long)(unit << COMPRESS_UNIT_SHIFT),
                n < 0 ? strerror(errno) : "the file ends");
    else if (compress_sum(unit, c->data, e->length) != e->sum)
        problem(c, "unit %llu (byte %llu of the disk) is not what was stored at byte %llu",
                (unsigned long long)unit, (unsigned long long)(unit << COMPRESS_UNIT_SHIFT),
                (unsigned long long)at);
}

static void check_unit(struct check *c, uint64_t unit, const struct compress_entry *e)
{
    c->found->units++;
    c->found->raw += e->length == COMPRESS_UNIT;
    c->found->stored += e->length;
    c->found->taken += compress_blocks(e);
    if (!compress_space_take(&c->space, e->block, compress_blocks(e)))
        problem(c, "unit %llu has blocks of another one", (unsigned long long)unit);
    if (c->content)
        check_content(c, unit, e);
}

static int check_sector(void *arg, uint64_t index, const void *bytes, struct dt_error *err)
{
    const struct compress_map_sector *sector = bytes;
    struct check *c = arg;
    const struct compress_file *f = c->f;
    uint64_t generation = c->live ? f->header.generation : 0;
    struct dt_error why;

    if (c->live && sector->generation != generation)
        return 0;
    if (!c->live && (c->in_live[index / 8] >> index % 8 & 1))
        return 0;
    if (c->live)
        c->in_live[index / 8] |= (uint8_t)(1u << index % 8);
    if (compress_map_check(sector, index, generation, &f->at, f->blocks, f->path, &why) < 0) {
        problem(c, "%s", why.text);
        return 0;
    }
    for (unsigned i = 0; i < COMPRESS_ENTRIES; i++)
        if (!compress_is_hole(&sector->entries[i]))
            check_unit(c, index * COMPRESS_ENTRIES + i, &sector->entries[i]);
    return 0;
}

int compress_file_check(const struct compress_file *f, bool content, struct compress_found *found,
                        struct dt_error *err)
{
    _cleanup_free_ uint8_t *in_live = xcalloc(1, f->at.map_sectors / 8 + 1);
    _cleanup_free_ uint8_t *data = xcalloc(1, COMPRESS_UNIT);
    struct check c = {
        .f = f, .found = found, .in_live = in_live, .data = data, .content = content, .live = true};
    int ret = compress_space_init(&c.space, f->blocks);

    if (ret < 0)
        return dt_fail(err, ret, "no address space for the blocks of %s", f->path);
    if (f->ours)
        ret = storefile_walk(f->fd, f->path, f->at.live_offset, f->at.map_sectors, check_sector, &c,
                             err);
    c.live = false;
    if (ret == 0)
        ret = storefile_walk(f->fd, f->path, f->at.map_offset, f->at.map_sectors, check_sector, &c,
                             err);
    compress_space_fini(&c.space);
    return ret;
}
