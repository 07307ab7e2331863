/* SPDX-License-Identifier: MIT */
/*
 * fuzz_mirror.c - any bytes as the superblocks and a bitmap sector of legs.
 *
 * Invariants: what was decoded is within bounds and encodes to the same; a judgement either names a
 * reason or has a leg in sync that is there.
 */
#include "blk/mirror/meta.h"

static void check_round_trip(const struct superblock *sb)
{
    uint8_t block[META_BLOCK];
    struct superblock again;
    struct dt_error err;

    CHECK(sb->leg < sb->legs && sb->legs <= MIRROR_LEGS);
    CHECK((sb->sectors - 1) >> sb->region_shift < BITMAP_BITS);
    superblock_encode(sb, block);
    CHECK(superblock_decode(&again, block, &err) == 0 && again.generation == sb->generation);
}

/* The checksum would stop nearly all inputs: the second byte of the input says whether it is
 * mended. */
static void read_view(struct leg_view *view, const uint8_t *bytes, bool seal)
{
    uint8_t block[META_BLOCK] = {0};
    struct dt_error err = {""};

    memcpy(block, bytes, DT_SECTOR_SIZE);
    if (seal)
        superblock_seal(block);
    view->error = superblock_decode(&view->sb, block, &err);
    if (view->error == 0)
        check_round_trip(&view->sb);
    else
        CHECK(err.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct leg_view views[MIRROR_LEGS];
    enum leg_verdict verdicts[MIRROR_LEGS];
    struct dt_error err = {""};
    unsigned legs, newest;
    uint8_t bits[SECTOR_BITS / 8];

    if (size < 2 + DT_SECTOR_SIZE)
        return 0;
    legs = 2 + bytes[0] % (MIRROR_LEGS - 1);
    for (unsigned i = 0; i < legs; i++) {
        views[i] = (struct leg_view){.error = -ENODEV};
        if (size >= 2 + (i + 1) * (size_t)DT_SECTOR_SIZE)
            read_view(&views[i], bytes + 2 + i * (size_t)DT_SECTOR_SIZE, bytes[1] & 1);
    }
    bitmap_decode(bytes + 2, bytes, 0, bits);
    if (mirror_judge(views, legs, bytes[1] & 2, verdicts, &newest, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    CHECK(newest < legs && views[newest].error == 0);
    for (unsigned i = 0; i < legs; i++)
        CHECK(verdicts[i] <= LEG_IS_FOREIGN || views[i].error == 0);
    return 0;
}
