/* SPDX-License-Identifier: MIT */
/* read.c - reading a disk without mounting it: for whoever copies one out of the pool. */
#include "parallax/internal.h"

#define MOST 64u /* pointers looked up at a time */

static int compare(struct pool *pool, uint32_t slot, uint64_t index, const struct px_ptr *ptrs,
                   unsigned count, const uint8_t *bytes, struct dt_error *err)
{
    char name[2 * PX_NAME];

    for (unsigned i = 0; i < count; i++, bytes += PX_BLOCK)
        if (!ptr_hole(ptrs[i]) && crc32c(0, bytes, PX_BLOCK) != ptr_crc(ptrs[i])) {
            pool_full_name(pool, slot, name);
            return dt_fail(
                err, -EBADMSG,
                "%s: block %llu, which is at %llu bytes of %s, differs from its checksum",
                pool->store->name, (unsigned long long)ptr_addr(ptrs[i]),
                (unsigned long long)((index + i) << PX_BLOCK_SHIFT), name);
        }
    return 0;
}

/* One transfer for each run of consecutive addresses. */
static int fetch(struct pool *pool, const struct px_ptr *ptrs, unsigned count, uint8_t *bytes)
{
    int ret = 0;

    for (unsigned i = 0, n; i < count && ret == 0; i += n, bytes += (size_t)n * PX_BLOCK) {
        uint64_t addr = ptr_addr(ptrs[i]);

        for (n = 1; i + n < count && addr && ptr_addr(ptrs[i + n]) == addr + n; n++)
            ;
        if (addr)
            ret = pool->store->get(pool->store, bytes, addr, n);
        else
            memset(bytes, 0, PX_BLOCK);
    }
    return ret;
}

int pool_read(struct pool *pool, uint32_t slot, uint64_t index, unsigned count, void *buf,
              struct dt_error *err)
{
    struct tree t = catalog_tree(pool, slot);
    struct px_ptr ptrs[MOST];
    uint8_t *bytes = buf;
    int ret = 0;

    while (count && ret == 0) {
        unsigned n = MIN(count, MOST);

        ret = tree_lookup(pool, &t, index, n, ptrs);
        if (pool->root.features)
            ret = ret ?: forward_follow(pool, n, ptrs);
        ret = ret ?: fetch(pool, ptrs, n, bytes);
        if (ret < 0)
            return dt_fail(err, ret, "%s cannot be read: %s", pool->store->name, strerror(-ret));
        ret = compare(pool, slot, index, ptrs, n, bytes, err);
        node_trim(pool);
        index += n;
        bytes += (size_t)n * PX_BLOCK;
        count -= n;
    }
    return ret;
}
