/* SPDX-License-Identifier: MIT */
/*
 * checksum.h - Internet checksums that follow a change of what they cover, by the difference (RFC 1624, equation 3): one
 * that was wrong stays wrong, and those of fragments and super-frames need nothing else.
 */
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include "base/bytes.h"

/** checksum_replace16() - put @v at @p. Return: what that adds to the complement of a checksum over it; these may be added up. */
static inline uint32_t checksum_replace16(uint8_t *p, uint16_t v)
{
    uint32_t difference = (uint16_t)~load_be16(p) + (uint32_t)v;

    store_be16(p, v);
    return difference;
}

static inline uint32_t checksum_replace32(uint8_t *p, uint32_t v)
{
    return checksum_replace16(p, (uint16_t)(v >> 16)) + checksum_replace16(p + 2, (uint16_t)v);
}

/** checksum_replace() - the same with @n bytes of @v; @n is even, and so is @p's place in what is summed up. */
static inline uint32_t checksum_replace(uint8_t *p, const uint8_t *v, unsigned n)
{
    uint32_t difference = 0;

    for (unsigned i = 0; i < n; i += 2)
        difference += checksum_replace16(p + i, load_be16(v + i));
    return difference;
}

/** checksum_adjust() - the field at @sum follows. */
static inline void checksum_adjust(uint8_t *sum, uint32_t difference)
{
    uint32_t s = (uint16_t)~load_be16(sum) + difference;

    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    store_be16(sum, (uint16_t)~s);
}

/** checksum_adjust_udp() - of UDP 0 means that there is none. */
static inline void checksum_adjust_udp(uint8_t *sum, uint32_t difference)
{
    if (load_be16(sum) == 0)
        return;
    checksum_adjust(sum, difference);
    if (load_be16(sum) == 0)
        store_be16(sum, 0xffff);
}

#endif
