/* SPDX-License-Identifier: MIT */
/*
 * journal.c - what was done since the last root, in the order in which it was done.
 *
 * Theory of operation: records are added to one block in memory. At the end of a turn it is put to
 * the store, where it outlives the process; only then are the requests that it tells of completed.
 * It is put again as it fills. A flush seals it, so that no block that may be durable is ever
 * written again. The ring is as long as the pool was made with; a root that is begun at half of it
 * makes room.
 */
#include "parallax/internal.h"

_Static_assert(offsetof(struct px_journal, records) == 48, "");

static void fresh(struct journal *j)
{
    memset(j->block, 0, sizeof(*j->block));
    j->block->magic = PX_JOURNAL_MAGIC;
    j->block->generation = j->generation;
    j->block->seq = j->seq;
    j->block->previous = j->previous;
    j->dirty = false;
}

/* The block before may have been put several times, and a loss of power may leave an earlier form
 * of it, without its last records. So each block tells which form it follows. */
static void next_block(struct journal *j)
{
    j->previous = j->block->crc;
    j->seq++;
    fresh(j);
}

void journal_init(struct pool *pool, uint64_t generation, uint64_t seq)
{
    struct journal *j = &pool->journal;

    if (!j->block)
        j->block = xaligned(PX_BLOCK, PX_BLOCK);
    j->generation = generation;
    j->previous = 0;
    j->seq = j->start = j->flushed = seq;
    fresh(j);
}

static uint64_t place(const struct journal *j, uint64_t seq)
{
    return j->first + seq % j->blocks;
}

/* A record does not cross blocks: those of less than half a block leave each at least half full. */
bool journal_has_room(const struct pool *pool, size_t bytes, unsigned spare)
{
    const struct journal *j = &pool->journal;
    uint64_t needed = (bytes + pool->journal_promised) / (sizeof(j->block->records) / 2) + 2;

    return j->seq + needed + spare - j->start < j->blocks;
}

int journal_put(struct pool *pool)
{
    struct journal *j = &pool->journal;
    int ret;

    if (!j->dirty || pool->o.read_only)
        return 0;
    j->block->flushed = j->flushed;
    j->block->crc = 0;
    j->block->crc = crc32c(0, j->block, PX_BLOCK);
    ret = pool->store->put(pool->store, j->block, place(j, j->seq), 1);
    if (ret < 0)
        return pool_fail(pool, ret, "the journal cannot be written");
    j->dirty = false;
    return 0;
}

int journal_seal(struct pool *pool, uint64_t *seq)
{
    struct journal *j = &pool->journal;
    int ret = journal_put(pool);

    if (ret == 0 && j->block->used)
        next_block(j);
    *seq = j->seq;
    return ret;
}

void journal_together(struct pool *pool, size_t bytes)
{
    struct journal *j = &pool->journal;

    if (j->block->used + bytes <= sizeof(j->block->records))
        return;
    journal_put(pool);
    next_block(j);
}

void *journal_add(struct pool *pool, enum px_entry_type type, uint32_t slot, size_t bytes)
{
    struct journal *j = &pool->journal;
    struct px_entry *entry;

    bytes = ALIGN_UP(bytes, (size_t)8);
    CHECK(bytes <= sizeof(j->block->records));
    journal_together(
        pool, bytes); /* a failure has stopped the pool: the request will not complete well */
    CHECK(j->seq - j->start < j->blocks);
    entry = (struct px_entry *)(j->block->records + j->block->used);
    j->block->used += (uint32_t)bytes;
    j->dirty = true;
    *entry = (struct px_entry){(uint16_t)type, (uint16_t)bytes, slot};
    return entry;
}

bool journal_judge(const struct px_journal *block, uint64_t generation, uint64_t seq)
{
    const uint32_t zero = 0;
    uint32_t crc;

    if (block->magic != PX_JOURNAL_MAGIC || block->generation != generation || block->seq != seq ||
        block->used > sizeof(block->records))
        return false;
    crc = crc32c(0, block, offsetof(struct px_journal, crc));
    crc = crc32c(crc, &zero, sizeof(zero));
    crc = crc32c(crc, (const char *)block + 8, PX_BLOCK - 8);
    return crc == block->crc;
}
