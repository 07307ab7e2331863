/* SPDX-License-Identifier: MIT */
/*
 * check-data.c - the part of a check that reads data.
 *
 * Blocks that lie together are read together: maps are gone through in the order of the disk, and what was written at
 * once lies at consecutive addresses. Where such a read fails, it is done again block by block, to tell which one it is.
 */
#include "parallax/check.h"

static void damaged(struct checking *k, unsigned i, const char *how, const char *why)
{
    check_found(k, &k->c->damaged, "%s: block %llu at %llu bytes %s%s%s", k->where,
                (unsigned long long)(k->run.addr + i),
                (unsigned long long)(k->run.of[i].index << PX_BLOCK_SHIFT), how, why,
                check_others(k, k->run.of[i].ptr, 0, k->run.of[i].index));
}

static void compare(struct checking *k, unsigned i, const uint8_t *data)
{
    if (crc32c(0, data, PX_BLOCK) != ptr_crc(k->run.of[i].ptr))
        damaged(k, i, "differs from its checksum", "");
}

static void one_by_one(struct checking *k)
{
    struct store *store = k->pool->store;

    for (unsigned i = 0; i < k->run.n; i++) {
        int ret = store->get(store, k->run.buffer, k->run.addr + i, 1);

        if (ret < 0)
            damaged(k, i, "cannot be read: ", strerror(-ret));
        else
            compare(k, i, k->run.buffer);
    }
}

void check_data_now(struct checking *k)
{
    struct check_run *run = &k->run;
    struct store *store = k->pool->store;

    if (run->n && store->get(store, run->buffer, run->addr, run->n) < 0)
        one_by_one(k);
    else
        for (unsigned i = 0; i < run->n; i++)
            compare(k, i, run->buffer + (size_t)i * PX_BLOCK);
    run->n = 0;
}

void check_data(struct checking *k, struct px_ptr ptr, uint64_t addr, uint64_t index)
{
    struct check_run *run = &k->run;

    if (run->n == CHECK_RUN || (run->n && run->addr + run->n != addr))
        check_data_now(k);
    if (run->n == 0)
        run->addr = addr;
    run->of[run->n].index = index;
    run->of[run->n].ptr = ptr;
    run->n++;
}
