/* SPDX-License-Identifier: MIT */
/*
 * fuzz_pool.c - changes to a good pool, as they are and with the checksums of journal, root, label and
 * all trees repaired, so that what they say is followed; then it is opened, checked, read, written, repaired and deleted. The same
 * changes are made to what is left of this pool when it was opened, and killed before the root that ends its recovery.
 *
 * An input is a list of changes: 2 bytes of block, 2 bytes of offset in it, 1 byte of value each. From 0x8000 on blocks are
 * those of which the newest root's trees are made, in the order in which they are reached: the rest is mostly data.
 * Invariants: whatever a pool holds, opening it ends with a pool or a sentence; nothing leads
 * outside of it.
 */
#include "base/base.h"
#include "tests/unit/px_rig.h"

#define BLOCKS 512u
#define STEPS  80u
#define DATA   16u /* of a level: below it is data */

static uint8_t *good, *reopened;
static uint64_t nodes[BLOCKS]; /* of its newest root's trees */
static unsigned nodes_n;

static void quiet(void *arg, uint32_t slot, const char *event, const char *text)
{
    CHECK(*text);
}

/* Nodes that a repair may still go through: what was changed may lead in circles. */
static unsigned left;
static bool noting; /* what it goes through, in @nodes */

static void repair_tree(uint8_t *bytes, struct px_ptr *ptr, unsigned level, bool catalog);

static void repair_records(uint8_t *bytes, struct px_record *records)
{
    for (unsigned i = 0; i < PX_RECORDS; i++)
        if (records[i].kind == PX_LOG)
            repair_tree(bytes, &records[i].root, records[i].levels, false);
        else if (records[i].kind != PX_FREE && !ptr_hole(records[i].root))
            repair_tree(bytes, &records[i].root, records[i].levels | DATA, false);
}

/* From the leaves up. What a disk's tree maps is left as it is. */
static void repair_tree(uint8_t *bytes, struct px_ptr *ptr, unsigned level, bool catalog)
{
    uint8_t *block = bytes + ptr_addr(*ptr) * PX_BLOCK;
    unsigned data = level & DATA;

    level &= ~DATA;
    if (ptr_hole(*ptr) || ptr_addr(*ptr) >= BLOCKS || level > PX_MAX_LEVELS || left == 0 ||
        (data && level == 0))
        return;
    left--;
    if (noting)
        nodes[nodes_n++] = ptr_addr(*ptr);
    if (catalog && level == 0)
        repair_records(bytes, (struct px_record *)block);
    for (unsigned i = 0; level && i < PX_FANOUT; i++)
        repair_tree(bytes, (struct px_ptr *)block + i, (level - 1) | data, catalog);
    *ptr = ptr_make(ptr_addr(*ptr), ptr_birth(*ptr), ptr_flags(*ptr), crc32c(0, block, PX_BLOCK));
}

static void repair_root(uint8_t *bytes, struct px_root *root)
{
    left = BLOCKS;
    repair_tree(bytes, &root->forwards, root->forward_levels, false);
    repair_tree(bytes, &root->catalog, root->catalog_levels, true);
    repair_tree(bytes, &root->spacemap, root->spacemap_levels, false);
}

static void make_good(void)
{
    struct px_root *newest = NULL;
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
    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++) {
        struct px_root *root = (struct px_root *)(good + (PX_ROOT_AT + i) * PX_BLOCK);

        if (!newest || root->seq > newest->seq)
            newest = root;
    }
    noting = true;
    repair_root(good, newest);
    noting = false;
}

/* The journal goes on in another generation, which tells of one disk more. */
static void make_reopened(void)
{
    const struct pool_options o = {.lazy = true, .event = quiet};
    struct rig_store *store = rig_store_new(BLOCKS, 1);
    struct pool_info info;
    struct dt_error err;
    struct pool *pool;

    memcpy(store->bytes, good, BLOCKS * PX_BLOCK);
    CHECK(pool_open(&pool, &store->s, &o, &err) == 0);
    CHECK(pool_create_disk(pool, "late", PX_BLOCK, 512, &err) == 0);
    CHECK(pool_sync(pool, &err) == 0);
    pool_info(pool, &info);
    CHECK(info.rootless);
    reopened = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);
    memcpy(reopened, store->bytes, BLOCKS * PX_BLOCK);
    pool_abandon(pool);
    rig_store_free(store);
}

/* No mutation would ever find a checksum. */
static void repair(uint8_t *bytes)
{
    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++)
        repair_root(bytes, (struct px_root *)(bytes + (PX_ROOT_AT + i) * PX_BLOCK));
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

static void done(struct disk_req *req)
{
    CHECK(req->error <= 0);
}

/* Whatever it says in the end. What waits for space is given up. */
static void request(struct rig_store *store, struct pool *pool, struct disk *disk,
                    struct disk_req *req)
{
    unsigned still = 0;

    req->done = done;
    disk_submit(disk, req);
    while (still < 4)
        still = rig_turn(store) || pool_turn(pool) ? 0 : still + 1;
    disk_cancel_held(disk, -ENOSPC);
}

/* Its first blocks, and all of it. */
static void write_disk(struct rig_store *store, struct pool *pool, uint32_t slot)
{
    _cleanup_free_ uint8_t *buf = xaligned(PX_BLOCK, 4 * PX_BLOCK);
    uint64_t size = pool_record(pool, slot)->size;
    struct disk_req requests[] = {{.op = DISK_READ, .length = 4 * PX_BLOCK},
                                  {.op = DISK_WRITE, .offset = 512, .length = 3 * PX_BLOCK},
                                  {.op = DISK_ZERO, .length = size - 512},
                                  {.op = DISK_FLUSH}};
    struct dt_error err;
    struct disk *disk;

    if (disk_open(&disk, pool, slot, false, "fuzz", &err) < 0)
        return;
    memset(buf, 1, 4 * PX_BLOCK);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        requests[i].buf = buf;
        request(store, pool, disk, &requests[i]);
    }
    disk_close(disk);
}

static bool is_disk(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = pool_record(pool, slot);

    return r && r->kind == PX_DISK;
}

static void ask(struct rig_store *store, struct pool *pool)
{
    struct dt_error err = {""};

    (void)rig_hash_pool(store, pool, &err);
    for (uint32_t slot = 0; slot < pool_slots(pool); slot++) {
        struct pool_line line = {.mapped = slot % 2};
        struct disk_usage usage;

        if (pool_record(pool, slot))
            (void)pool_usage(pool, slot, &usage, &err);
        if (is_disk(pool, slot) && pool_line(pool, slot, &line, &err) == 0)
            pool_line_free(&line);
    }
}

static void use(struct rig_store *store, struct pool *pool)
{
    struct pool_check check = {.data = true};
    struct dt_error err = {""};

    ask(store, pool);
    for (unsigned i = 0; i < 100 && pool_share_now(pool, 1 << 20) > 0; i++)
        ;
    for (uint32_t slot = 0; slot < pool_slots(pool); slot++)
        if (is_disk(pool, slot))
            write_disk(store, pool, slot);
    if (pool_reclaim_all(pool, &err) == 0)
        for (; check.memory <= 512; check.memory += 512) /* in one pass and in several */
            (void)pool_check(pool, &check, &err);
    for (uint32_t slot = 0; slot < pool_slots(pool); slot++)
        if (is_disk(pool, slot))
            (void)pool_delete_disk(pool, slot, &err);
    (void)pool_reclaim_all(pool, &err);
    (void)pool_checkpoint(pool, &err);
}

static void ignore(void *arg, const char *text)
{
    CHECK(*text);
}

/* @repair: its free maps first. */
static void try_open(const uint8_t *bytes, bool read_only, bool repair)
{
    struct pool_check what = {.say = ignore};
    struct pool_options o = {.read_only = read_only,
                             .lazy = !repair,
                             .event = quiet,
                             .cache = 64 * 4200,
                             .repair = repair ? &what : NULL};
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

static void change(uint8_t *bytes, const uint8_t *pool, const uint8_t *input, size_t size)
{
    memcpy(bytes, pool, BLOCKS * PX_BLOCK);
    for (; size >= 5; input += 5, size -= 5) {
        unsigned number = input[0] | (unsigned)input[1] << 8;
        uint64_t block = number < 0x8000 ? number % BLOCKS : nodes[number % nodes_n];
        unsigned offset = (input[2] | input[3] << 8) % PX_BLOCK;

        bytes[(size_t)block * PX_BLOCK + offset] = input[4];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    _cleanup_free_ uint8_t *bytes = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);

    log_set_level(DT_LOG_ERROR);
    if (!good) {
        make_good();
        make_reopened();
    }
    change(bytes, reopened, input, size);
    repair(bytes);
    try_open(bytes, false, false);
    change(bytes, good, input, size);
    try_open(bytes, true, false);
    try_open(bytes, false, false);
    repair(bytes);
    try_open(bytes, false, false);
    try_open(bytes, false, true);
    return 0;
}
