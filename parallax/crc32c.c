/* SPDX-License-Identifier: MIT */
/*
 * crc32c.c - CRC-32C with the processor's instruction where there is one, else by a table.
 *
 * The instruction takes three cycles but starts one each cycle, so a block of 4 KiB is summed in
 * three lanes whose results are joined by a table that shifts a CRC over a lane's length.
 */
#include "parallax/format.h"

#define POLY 0x82f63b78u
#define LANE 1360u /* three of them and 16 bytes are 4096 */

static uint32_t table[256];
static uint32_t shift_lane[4][256]; /* a CRC after LANE zero bytes, by its bytes */

static uint32_t by_table(uint32_t crc, const uint8_t *p, size_t n)
{
    while (n--)
        crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
    return crc;
}

static uint32_t zeroes(uint32_t crc, size_t n)
{
    while (n--)
        crc = crc >> 8 ^ table[crc & 0xff];
    return crc;
}

__attribute__((constructor)) static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLY : 0);
        table[i] = crc;
    }
    for (unsigned byte = 0; byte < 4; byte++)
        for (uint32_t i = 0; i < 256; i++)
            shift_lane[byte][i] = zeroes(i << (8 * byte), LANE);
}

#if defined(__x86_64__)
static uint32_t shifted(uint32_t crc)
{
    return shift_lane[0][crc & 0xff] ^ shift_lane[1][crc >> 8 & 0xff] ^
           shift_lane[2][crc >> 16 & 0xff] ^ shift_lane[3][crc >> 24];
}

static uint64_t load(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p,
                                                                 size_t n)
{
    while (n >= 3 * LANE) {
        uint64_t a = crc, b = 0, c = 0;

        for (unsigned i = 0; i < LANE; i += 8) {
            a = __builtin_ia32_crc32di(a, load(p + i));
            b = __builtin_ia32_crc32di(b, load(p + LANE + i));
            c = __builtin_ia32_crc32di(c, load(p + 2 * LANE + i));
        }
        crc = shifted(shifted((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
        p += 3 * LANE;
        n -= 3 * LANE;
    }
    for (; n >= 8; n -= 8, p += 8)
        crc = (uint32_t)__builtin_ia32_crc32di(crc, load(p));
    while (n--)
        crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *bytes, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~by_instruction(~crc, bytes, size);
#endif
    return ~by_table(~crc, bytes, size);
}
