/* SPDX-License-Identifier: MIT */
/*
 * meta.c - superblocks and bitmaps as bytes, and the judgement over the legs of a mirror.
 *
 * Each change of who is in sync is recorded on all legs that are, twice: with an odd generation,
 * and when all have that, with the even one after it. So a leg that is one generation behind the
 * newest has missed no write: between the two, none is acknowledged. One that is further behind
 * although the others take it for in sync is an old copy.
 */
#include "blk/mirror/meta.h"

#include <endian.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define VERSION 1u

/* All integers little-endian. */
struct stored {
    char magic[8];
    uint32_t version, leg, legs, region_shift;
    uint8_t set[16];
    uint64_t generation, sectors;
    uint8_t state[MIRROR_LEGS];
    uint64_t base[MIRROR_LEGS];
    uint8_t unused[376];
    uint64_t checksum; /* XXH3-64 of what is before it */
};
_Static_assert(sizeof(struct stored) == DT_SECTOR_SIZE, "one sector, so never torn");

static const char magic[8] = "DTmirror";

void superblock_seal(uint8_t *block)
{
    uint64_t sum = htole64(XXH3_64bits(block, offsetof(struct stored, checksum)));

    memcpy(block + offsetof(struct stored, checksum), &sum, sizeof(sum));
}

void superblock_encode(const struct superblock *sb, uint8_t *block)
{
    struct stored s = {.version = htole32(VERSION),
                       .leg = htole32(sb->leg),
                       .legs = htole32(sb->legs),
                       .region_shift = htole32(sb->region_shift),
                       .generation = htole64(sb->generation),
                       .sectors = htole64(sb->sectors)};

    memcpy(s.magic, magic, sizeof(magic));
    memcpy(s.set, sb->set, sizeof(s.set));
    memcpy(s.state, sb->state, sizeof(s.state));
    for (unsigned i = 0; i < MIRROR_LEGS; i++)
        s.base[i] = htole64(sb->base[i]);
    memset(block, 0, META_BLOCK);
    memcpy(block, &s, sizeof(s));
    superblock_seal(block);
}

int superblock_decode(struct superblock *sb, const uint8_t *block, struct dt_error *err)
{
    struct stored s;

    memcpy(&s, block, sizeof(s));
    if (memcmp(s.magic, magic, sizeof(magic)) != 0)
        return dt_fail(err, -ENOENT, "it has no metadata of a mirror");
    if (le64toh(s.checksum) != XXH3_64bits(&s, offsetof(struct stored, checksum)))
        return dt_fail(err, -EBADMSG, "its metadata is damaged (checksum)");
    if (le32toh(s.version) != VERSION)
        return dt_fail(err, -EBADMSG, "its metadata has version %u; this program knows %u",
                       le32toh(s.version), VERSION);
    *sb = (struct superblock){.leg = le32toh(s.leg),
                              .legs = le32toh(s.legs),
                              .region_shift = le32toh(s.region_shift),
                              .generation = le64toh(s.generation),
                              .sectors = le64toh(s.sectors)};
    memcpy(sb->set, s.set, sizeof(s.set));
    memcpy(sb->state, s.state, sizeof(s.state));
    for (unsigned i = 0; i < MIRROR_LEGS; i++)
        sb->base[i] = le64toh(s.base[i]);
    if (sb->legs < 2 || sb->legs > MIRROR_LEGS || sb->leg >= sb->legs || sb->sectors == 0 ||
        sb->sectors > UINT64_MAX >> DT_SECTOR_SHIFT || sb->region_shift < REGION_LEAST ||
        sb->region_shift > REGION_MOST || (sb->sectors - 1) >> sb->region_shift >= BITMAP_BITS ||
        sb->generation == 0 || sb->generation > UINT64_MAX / 2)
        return dt_fail(err, -EBADMSG, "its metadata makes no sense");
    return 0;
}

/* ---- The bitmap ------------------------------------------------------------------------------ */

/* Bound to its place and its mirror, so that a sector of another is not taken. */
static uint64_t bitmap_checksum(const uint8_t *set, unsigned index, const uint8_t *bits)
{
    uint64_t seed;

    memcpy(&seed, set, sizeof(seed));
    return XXH3_64bits_withSeed(bits, SECTOR_BITS / 8, le64toh(seed) + index);
}

void bitmap_encode(uint8_t *sector, const uint8_t *set, unsigned index, const uint8_t *bits)
{
    uint64_t sum = htole64(bitmap_checksum(set, index, bits));

    memcpy(sector, &sum, sizeof(sum));
    memcpy(sector + sizeof(sum), bits, SECTOR_BITS / 8);
}

bool bitmap_decode(const uint8_t *sector, const uint8_t *set, unsigned index, uint8_t *bits)
{
    uint64_t sum;

    memcpy(&sum, sector, sizeof(sum));
    memcpy(bits, sector + sizeof(sum), SECTOR_BITS / 8);
    return le64toh(sum) == bitmap_checksum(set, index, bits);
}

/* ---- What a leg says ---- */

void leg_view_read(struct leg_view *view, const uint8_t *meta)
{
    struct dt_error err;
    struct superblock sb;

    view->error = superblock_decode(&view->sb, meta, &err);
    if (superblock_decode(&sb, meta + META_SLOT * DT_SECTOR_SIZE, &err) == 0 &&
        (view->error || sb.generation > view->sb.generation)) {
        view->sb = sb;
        view->error = 0;
    }
}

/* Generation 1 is that of a creation under way: it is followed by 2 on all legs before the first request is
 * served, and by more when a leg is lost. */
bool mirror_is_new(const struct leg_view *views, unsigned legs)
{
    for (unsigned i = 0; i < legs; i++)
        if (views[i].error != -ENOENT && (views[i].error || views[i].sb.generation != 1))
            return false;
    return true;
}

/* ---- The judgement --------------------------------------------------------------------------- */

static int judge_kinship(const struct leg_view *views, unsigned legs, unsigned newest,
                         struct dt_error *err)
{
    const struct superblock *top = &views[newest].sb;

    for (unsigned i = 0; i < legs; i++) {
        const struct superblock *sb = &views[i].sb;

        if (views[i].error)
            continue;
        if (memcmp(sb->set, top->set, sizeof(sb->set)) != 0)
            return dt_fail(err, -EBADMSG, "leg%u and leg%u belong to different mirrors", i + 1,
                           newest + 1);
        if (sb->legs != legs || sb->leg != i)
            return dt_fail(err, -EBADMSG,
                           "leg%u is leg%u of %u of its mirror: name all legs, in their order",
                           i + 1, sb->leg + 1, sb->legs);
        if (sb->sectors != top->sectors || sb->region_shift != top->region_shift)
            return dt_fail(err, -EBADMSG, "leg%u and leg%u disagree on the disk's size", i + 1,
                           newest + 1);
    }
    return 0;
}

/* Each of two went on without the other. */
static int judge_split(const struct leg_view *views, unsigned legs, struct dt_error *err)
{
    for (unsigned i = 0; i < legs; i++)
        for (unsigned j = 0; j < i; j++)
            if (!views[i].error && !views[j].error && views[i].sb.state[i] == RECORD_IN_SYNC &&
                views[i].sb.state[j] == RECORD_STALE && views[j].sb.state[j] == RECORD_IN_SYNC &&
                views[j].sb.state[i] == RECORD_STALE)
                return dt_fail(err, -EUCLEAN,
                               "split brain: leg%u and leg%u were both written without the other; "
                               "say whose data counts with the command `use leg%u` or `use leg%u`",
                               j + 1, i + 1, j + 1, i + 1);
    return 0;
}

static enum leg_verdict judge_leg(const struct leg_view *view, const struct superblock *top,
                                  unsigned i)
{
    uint64_t own = view->sb.generation;

    if (view->error == -ENODEV)
        return LEG_IS_ABSENT;
    if (view->error)
        return LEG_IS_FOREIGN;
    if (top->state[i] == RECORD_IN_SYNC)
        return own + 1 >= top->generation ? LEG_IS_IN_SYNC : LEG_IS_OLD;
    if (top->state[i] == RECORD_STALE && own + 1 >= top->base[i] && own <= top->base[i] + 1)
        return LEG_IS_STALE;
    return LEG_IS_OLD;
}

int mirror_judge(const struct leg_view *views, unsigned legs, bool any_missing,
                 enum leg_verdict *verdicts, unsigned *newest, struct dt_error *err)
{
    const struct superblock *top;
    unsigned n = MIRROR_LEGS;
    int ret;

    for (unsigned i = 0; i < legs; i++)
        if (!views[i].error &&
            (n == MIRROR_LEGS || views[i].sb.generation > views[n].sb.generation))
            n = i;
    if (n == MIRROR_LEGS)
        return dt_fail(err, -ENOENT, "no leg has metadata of a mirror (create= makes a new one)");
    *newest = n;
    ret = judge_kinship(views, legs, n, err) ?: judge_split(views, legs, err);
    if (ret < 0)
        return ret;
    top = &views[n].sb;
    for (unsigned i = 0; i < legs; i++) {
        verdicts[i] = judge_leg(&views[i], top, i);
        if (top->state[i] == RECORD_IN_SYNC && verdicts[i] <= LEG_IS_FOREIGN && !any_missing)
            return dt_fail(err, -ENODEV,
                           "leg%u is %s and may have newer data than the others: bring it back and "
                           "start again, or go on without it with the command `use leg%u`",
                           i + 1, verdicts[i] == LEG_IS_ABSENT ? "not there" : "not readable",
                           n + 1);
    }
    return 0;
}
