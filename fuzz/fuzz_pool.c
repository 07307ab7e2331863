/* SPDX-License-Identifier: MIT */
/*
 * fuzz_pool.c - changes to a good pool, as they are and with the checksums of journal, root, label and
 * table of shared blocks repaired; then it is opened, checked, read and written.
 *
 * An input is a list of changes: 2 bytes of block, 2 bytes of offset in it, 1 byte of value each.
 * Invariants: whatever a pool holds, opening it ends with a pool or a sentence; nothing leads
 * outside of it.
 */
#include "base/base.h"
#include "tests/unit/px_rig.h"

#define BLOCKS 512u
#define STEPS  80u

static uint8_t *good;

static void quiet(void *arg, uint32_t slot, const char *event, const char *text)
{
    CHECK(*text);
}

static void make_good(void)
{
    struct pool_share told;
    struct rig rig;

    rig_new(&rig, BLOCKS, PX_JOURNAL_MIN, 42);
    rig_share(&rig);
    for (unsigned i = 0; i < STEPS; i++)
        rig_step(&rig);
    while (pool_share_now(rig.pool, 1 << 20) > 0)
        ;
    pool_share(rig.pool, &told);
    CHECK(told.shared > 0);
    rig_reopen(&rig, false);
    for (unsigned i = 0; i < STEPS / 4; i++)
        rig_step(&rig);
    good = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);
    memcpy(good, rig.store->bytes, BLOCKS * PX_BLOCK);
    rig_free(&rig);
}

/* The table of shared blocks, from its leaves up. What was changed may lead in circles: @left ends them. */
static void repair_tree(uint8_t *bytes, struct px_ptr *ptr, unsigned level, unsigned *left)
{
    uint8_t *block = bytes + ptr_addr(*ptr) * PX_BLOCK;

    if (ptr_hole(*ptr) || ptr_addr(*ptr) >= BLOCKS || level > PX_MAX_LEVELS || *left == 0)
        return;
    --*left;
    for (unsigned i = 0; level && i < PX_FANOUT; i++)
        repair_tree(bytes, (struct px_ptr *)block + i, level - 1, left);
    *ptr = ptr_make(ptr_addr(*ptr), ptr_birth(*ptr), ptr_flags(*ptr), crc32c(0, block, PX_BLOCK));
}

static void repair_forwards(uint8_t *bytes)
{
    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++) {
        struct px_root *root = (struct px_root *)(bytes + (PX_ROOT_AT + i) * PX_BLOCK);
        unsigned left = 100;

        repair_tree(bytes, &root->forwards, root->forward_levels, &left);
    }
}

/* No mutation would ever find a checksum. */
static void repair(uint8_t *bytes)
{
    repair_forwards(bytes);
    for (unsigned i = 0; i < PX_JOURNAL_AT + PX_JOURNAL_MIN; i++) {
        uint8_t *block = bytes + (size_t)i * PX_BLOCK;
        unsigned at = i < PX_JOURNAL_AT ? 12 : 4;
        uint32_t crc = 0;

        if (i == PX_HOLDER_AT)
            continue;
        memcpy(block + at, &crc, sizeof(crc));
        crc = crc32c(0, block, PX_BLOCK);
        memcpy(block + at, &crc, sizeof(crc));
    }
}

static void use(struct rig_store *store, struct pool *pool)
{
    struct pool_check check = {.data = true};
    struct dt_error err = {""};

    (void)rig_hash_pool(store, pool, &err);
    for (uint32_t slot = 0; slot < pool_slots(pool); slot++) {
        struct disk_usage usage;

        if (pool_record(pool, slot))
            (void)pool_usage(pool, slot, &usage, &err);
    }
    for (unsigned i = 0; i < 100 && pool_share_now(pool, 1 << 20) > 0; i++)
        ;
    if (pool_reclaim_all(pool, &err) == 0)
        (void)pool_check(pool, &check, &err);
}

static void try_open(const uint8_t *bytes, bool read_only)
{
    struct pool_options o = {.read_only = read_only, .event = quiet, .cache = 64 * 4200};
    struct rig_store *store = rig_store_new(BLOCKS, 1);
    struct dt_error err = {""};
    struct pool *pool;

    memcpy(store->bytes, bytes, BLOCKS * PX_BLOCK);
    if (pool_open(&pool, &store->s, &o, &err) < 0) {
        CHECK(*err.text);
    } else {
        if (!read_only)
            use(store, pool);
        store->pending_n = 0;
        pool_abandon(pool);
    }
    rig_store_free(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    _cleanup_free_ uint8_t *bytes = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);

    log_set_level(DT_LOG_ERROR);
    if (!good)
        make_good();
    memcpy(bytes, good, BLOCKS * PX_BLOCK);
    for (; size >= 5; input += 5, size -= 5) {
        unsigned block = (input[0] | input[1] << 8) % BLOCKS;
        unsigned offset = (input[2] | input[3] << 8) % PX_BLOCK;

        bytes[(size_t)block * PX_BLOCK + offset] = input[4];
    }
    try_open(bytes, true);
    try_open(bytes, false);
    repair(bytes);
    try_open(bytes, false);
    return 0;
}
