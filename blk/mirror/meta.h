/* SPDX-License-Identifier: MIT */
/* meta.h - what each leg of a mirror keeps about the whole: devtap-mirror(5) describes the format.
 */
#ifndef MIRROR_META_H
#define MIRROR_META_H

#include "base/base.h"

#define MIRROR_LEGS 8u

/* At the end of each leg, in sectors from the start of the metadata. */
#define META_SECTORS   256u
#define META_SLOT      8u   /* the second superblock; also the length of each */
#define META_BITMAP    128u /* where the bitmap begins */
#define META_BLOCK     4096u
#define BITMAP_BLOCKS  16u
#define SECTOR_BITS    (504u * 8u) /* of a sector of the bitmap, after its checksum */
#define BITMAP_BITS    (BITMAP_BLOCKS * 8u * SECTOR_BITS)
#define REGION_LEAST   3u  /* 4 KiB */
#define REGION_DEFAULT 11u /* 1 MiB */
#define REGION_MOST    32u

enum leg_record { RECORD_NONE, RECORD_IN_SYNC, RECORD_STALE };

/**
 * struct superblock - one leg's knowledge.
 * @leg:        whose it is, from 0; @legs: how many there are.
 * @generation: odd while a change is being recorded, even when all legs in sync had it.
 * @sectors:    of the disk. @region_shift: sectors of a region, as a power of two.
 * @state:      of each leg (enum leg_record).
 * @base:       for a stale leg: the generation at which it was in sync last.
 */
struct superblock {
    uint8_t set[16];
    uint32_t leg, legs, region_shift;
    uint64_t generation, sectors;
    uint8_t state[MIRROR_LEGS];
    uint64_t base[MIRROR_LEGS];
};

/** superblock_encode() - into META_BLOCK bytes. */
void superblock_encode(const struct superblock *sb, uint8_t *block);
/** superblock_decode() - 0, -ENOENT where there is none, -EBADMSG with @err for a damaged or later
 * one. */
int superblock_decode(struct superblock *sb, const uint8_t *block, struct dt_error *err);

/** superblock_seal() - make the checksum of one in a block right. */
void superblock_seal(uint8_t *block);

/** bitmap_encode() - sector @index of the bitmap, with @bits of SECTOR_BITS / 8 bytes. */
void bitmap_encode(uint8_t *sector, const uint8_t *set, unsigned index, const uint8_t *bits);
/** bitmap_decode() - false if it is damaged: then all its regions must be taken as dirty. */
bool bitmap_decode(const uint8_t *sector, const uint8_t *set, unsigned index, uint8_t *bits);

/** enum leg_verdict - what a leg is, compared with the others. */
enum leg_verdict {
    LEG_IS_ABSENT,
    LEG_IS_FOREIGN, /* no member of this mirror, or not yet */
    LEG_IS_OLD,     /* what it has missed is not known */
    LEG_IS_STALE,   /* what it has missed is in the bitmap of the others */
    LEG_IS_IN_SYNC,
};

/**
 * struct leg_view - what was found on a leg.
 * @error: 0, or why there is no valid superblock: -ENODEV where there is no leg.
 */
struct leg_view {
    int error;
    struct superblock sb;
};

/** leg_view_read() - from both slots, of which the better one counts. */
void leg_view_read(struct leg_view *view, const uint8_t *meta);
/** mirror_is_new() - no leg is of a mirror that ever served; what a crash left of a creation is made again. */
bool mirror_is_new(const struct leg_view *views, unsigned legs);
/**
 * mirror_judge() - who may serve, and who must be brought up to date.
 * @any_missing: go on without a leg that may know better.
 * @newest: set to the index of the leg whose superblock counts.
 *
 * Return: 0; -ENOENT if no leg knows of a mirror; -ENODEV if a leg that may have newer data is
 * absent; -EUCLEAN if legs have gone different ways; -EBADMSG if they are of different mirrors or
 * swapped.
 */
int mirror_judge(const struct leg_view *views, unsigned legs, bool any_missing,
                 enum leg_verdict *verdicts, unsigned *newest, struct dt_error *err);

#endif
