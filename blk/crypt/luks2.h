/* SPDX-License-Identifier: MIT */
/*
 * luks2.h - the part of a LUKS2 header that changes while a disk is re-encrypted (LUKS2 On-Disk Format
 * Specification 1.1.3, and libcryptsetup's re-encryption, which it does not cover).
 *
 * Theory of operation: the disk's *segments* say which key holds where. While the key changes there are up to
 * three in a row: new, hot, old. A *hot* segment is being rewritten. The re-encryption key slot's area has either
 * checksums of its old blocks, which tell after a crash which blocks are still old, if blocks are written as a whole; or a
 * journal: all its old bytes. Two backup segments describe the
 * disk before and after, and two digests say which key slots belong to which. The header is there twice, each with
 * a sequence number and a checksum, so that one is always whole.
 */
#ifndef CRYPT_LUKS2_H
#define CRYPT_LUKS2_H

#include "base/base.h"

#include <jansson.h>

#define LUKS2_BINARY 4096u
#define LUKS2_HASH   32u /* SHA-256, of the header and of blocks */
#define LUKS2_SLOTS  32u

/**
 * struct luks2_change - a change of keys that can go on here.
 * @data:  where the data starts on the disk, bytes.
 * @at:    bytes of the data that have the new key.
 * @hot:   bytes after that which are being rewritten; 0 = none.
 * @unit:  bytes of an encryption sector.
 * @journal: there is a journal, no checksums.
 * @block: bytes of a block with a checksum, a multiple of @unit; with a journal @unit.
 * @area, @area_size: where the checksums or the journal are.
 * @old, @fresh: indices of the digests, as text.
 */
struct luks2_change {
    uint64_t data, at, hot, area, area_size;
    uint32_t unit, block;
    bool journal;
    char old[12], fresh[12];
};

/**
 * luks2_change() - what a header's text says of a change of keys.
 * @why: set to what is the matter with it where it cannot go on here.
 * Return: 1 and @change; 0 if there is none; -ENOTSUP.
 */
int luks2_change(json_t *json, struct luks2_change *change, const char **why);
/** luks2_slots() - the key slots of digest @digest, as bits. */
uint32_t luks2_slots(json_t *json, const char *digest);

/** struct luks2 - a header. @binary: of the first copy and the second. */
struct luks2 {
    uint8_t binary[2][LUKS2_BINARY];
    uint64_t size, sequence;
    json_t *json;
};

/** luks2_read() - the newer whole copy of the two in @bytes, 2 * @size; -EBADMSG if none is whole. */
int luks2_read(struct luks2 *luks, const uint8_t *bytes, uint64_t size, struct dt_error *err);
void luks2_free(struct luks2 *luks);
/** luks2_write() - copy 0 or 1 as it is on the disk: @size bytes; -E2BIG if it does not fit. */
int luks2_write(const struct luks2 *luks, unsigned copy, uint8_t *bytes);

/** luks2_set_progress() - up to @at the key is new, then @hot bytes are being rewritten. @total: of the data. */
int luks2_set_progress(struct luks2 *luks, const struct luks2_change *change, uint64_t at,
                       uint64_t hot, uint64_t total);
/** struct luks2_area - where a key slot's material is, bytes. */
struct luks2_area {
    uint64_t offset, size;
};
/**
 * luks2_finish() - all of the data has the new key: forget the old one and the change.
 * @areas: room for LUKS2_SLOTS: of the key slots that are gone, to be wiped.
 * Return: how many areas, or -errno.
 */
int luks2_finish(struct luks2 *luks, const struct luks2_change *change, struct luks2_area *areas);

#endif
