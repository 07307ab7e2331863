/* SPDX-License-Identifier: MIT */
/*
 * floor.c - what a guest was promised when its driver started, kept whatever the chain becomes.
 *
 * Features and limits are frozen then (virtio 1.2, 3.1.1), and so is what a keeper has told the
 * VMM. So a device shows its guest the disk that its first chain was (only the size may change),
 * and a chain that takes its place must be able to serve that: what it lacks is done here where
 * that is harmless, and the rest is a reason to refuse it. The floor lies beside the layers' state,
 * so that a worker that succeeds a dead one shows the same. With it lies which chain it was: the
 * same one may have another size by now, as an image may be resized, but another chain must have
 * the size there was.
 */
#include "core/internal.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

/* The guest's limit where a chain names none (blk/vhost-user/config.c). */
#define NO_LIMIT (UINT32_MAX >> DT_SECTOR_SHIFT)

#define FLOOR_VERSION 1u

/* As it is kept: no padding, no bool that may hold anything. */
struct floor_record {
    uint64_t sectors, chain;
    uint32_t logical_block, physical_block, optimal_io;
    uint32_t max_sectors, max_segments, max_discard, discard_align, max_write_zeroes;
    uint8_t read_only, rotational, can_flush, can_discard, can_write_zeroes, write_zeroes_unmaps;
    uint8_t unused[2];
};

static uint32_t effective(uint32_t limit)
{
    return limit ? limit : NO_LIMIT;
}

int floor_judge(const struct device *dev, const struct dt_block_info *now, struct dt_error *err)
{
    const struct dt_block_info *floor = &dev->info;

    if (now->sectors != floor->sectors)
        return dt_fail(err, -EINVAL,
                       "the disk would have %llu bytes, not %llu ('devtap resize' changes a size)",
                       (unsigned long long)now->sectors << DT_SECTOR_SHIFT,
                       (unsigned long long)floor->sectors << DT_SECTOR_SHIFT);
    if (now->logical_block != floor->logical_block)
        return dt_fail(err, -EINVAL, "its blocks would have %u bytes, and the guest knows %u",
                       now->logical_block, floor->logical_block);
    if (now->read_only && !floor->read_only)
        return dt_fail(err, -EROFS, "it could not be written, and the guest was told that it can");
    if (floor->can_write_zeroes && !now->can_write_zeroes)
        return dt_fail(err, -EOPNOTSUPP,
                       "it could not write zeroes, and the guest was told that it can");
    if (floor->can_discard && now->can_discard &&
        effective(now->max_discard) < effective(floor->max_discard))
        return dt_fail(err, -EINVAL, "it takes discards of %u sectors, and the guest was told %u",
                       effective(now->max_discard), effective(floor->max_discard));
    if (floor->can_write_zeroes &&
        effective(now->max_write_zeroes) < effective(floor->max_write_zeroes))
        return dt_fail(err, -EINVAL,
                       "it writes zeroes to %u sectors at a time, and the guest was told %u",
                       effective(now->max_write_zeroes), effective(floor->max_write_zeroes));
    return 0;
}

void floor_fill(struct lane *lane)
{
    const struct dt_block_info *floor = &lane->dev->info, *now = &lane->dev->chain_info;

    lane->emulated = 0;
    if (floor->can_discard && !now->can_discard) /* a hint may be ignored */
        lane->emulated |= 1u << DT_OP_DISCARD;
    if (floor->can_flush && !now->can_flush) /* every write is durable already */
        lane->emulated |= 1u << DT_OP_FLUSH;
    lane->make_durable = !floor->can_flush && now->can_flush;
}

/* ---- Kept for the next process --------------------------------------------------------------- */

uint64_t floor_chain_hash(const struct device *dev)
{
    _cleanup_free_ char *text = chain_format(&dev->spec);

    return XXH3_64bits(text, strlen(text));
}

int floor_write(struct device *dev, int64_t (*fill)(void *arg, void *bytes, size_t room),
                struct dt_error *err)
{
    int64_t n = 0;

    if (dev->blobs)
        n = blob_write(dev->blobs, BLOB_FLOOR, "floor", FLOOR_VERSION, fill, dev);
    return n < 0 ? dt_fail(err, (int)n, "its floor cannot be kept: %s", strerror((int)-n)) : 0;
}

int floor_read(const struct device *dev, void *record, size_t size, struct dt_error *err)
{
    _cleanup_free_ void *bytes = NULL;
    char name[BLOB_NAME];
    uint32_t version;
    size_t length;
    int ret = blob_read(dev->blobs, BLOB_FLOOR, name, &version, &bytes, &length);

    if (ret == -ENOENT)
        return ret;
    if (ret < 0 || version != FLOOR_VERSION || length != size)
        return dt_fail(err, -EBADMSG, "what its guest was promised is damaged");
    memcpy(record, bytes, size);
    return 0;
}

static int64_t fill(void *arg, void *bytes, size_t room)
{
    const struct device *dev = arg;
    const struct dt_block_info *i = &dev->info;
    struct floor_record record = {
        .sectors = i->sectors,
        .chain = floor_chain_hash(dev),
        .logical_block = i->logical_block,
        .physical_block = i->physical_block,
        .optimal_io = i->optimal_io,
        .max_sectors = i->max_sectors,
        .max_segments = i->max_segments,
        .max_discard = i->max_discard,
        .discard_align = i->discard_align,
        .max_write_zeroes = i->max_write_zeroes,
        .read_only = i->read_only,
        .rotational = i->rotational,
        .can_flush = i->can_flush,
        .can_discard = i->can_discard,
        .can_write_zeroes = i->can_write_zeroes,
        .write_zeroes_unmaps = i->write_zeroes_unmaps,
    };

    memcpy(bytes, &record, sizeof(record));
    return sizeof(record);
}

int floor_keep(struct device *dev, struct dt_error *err)
{
    return floor_write(dev, fill, err);
}

static int read_floor(const struct device *dev, struct dt_block_info *floor, struct dt_error *err)
{
    struct floor_record r;
    int ret = floor_read(dev, &r, sizeof(r), err);

    if (ret < 0)
        return ret;
    *floor = (struct dt_block_info){
        .sectors = r.chain == floor_chain_hash(dev) ? dev->chain_info.sectors : r.sectors,
        .logical_block = r.logical_block,
        .physical_block = r.physical_block,
        .optimal_io = r.optimal_io,
        .max_sectors = r.max_sectors,
        .max_segments = r.max_segments,
        .max_discard = r.max_discard,
        .discard_align = r.discard_align,
        .max_write_zeroes = r.max_write_zeroes,
        .read_only = r.read_only != 0,
        .rotational = r.rotational != 0,
        .can_flush = r.can_flush != 0,
        .can_discard = r.can_discard != 0,
        .can_write_zeroes = r.can_write_zeroes != 0,
        .write_zeroes_unmaps = r.write_zeroes_unmaps != 0,
    };
    return info_judge(floor, err);
}

int floor_settle(struct device *dev, struct dt_error *err)
{
    struct dt_block_info floor;
    int ret;

    if (!dev->blobs)
        return 0;
    ret = read_floor(dev, &floor, err);
    if (ret == -ENOENT)
        return floor_keep(dev, err);
    if (ret < 0)
        return ret;
    dev->info = floor;
    ret = floor_judge(dev, &dev->chain_info, err);
    if (ret < 0)
        dt_fail_prefix(err, "the chain cannot serve its guest");
    return ret ?: floor_keep(dev, err);
}
