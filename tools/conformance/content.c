/* SPDX-License-Identifier: MIT */
/* content.c - bytes that say which sector and which version of it they are. */
#include "tools/conformance/internal.h"

#define WORDS (DT_SECTOR_SIZE / sizeof(uint64_t))

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void content_fill(uint8_t *bytes, uint64_t seed, uint64_t sector, uint32_t version)
{
    uint64_t words[WORDS], key;

    words[0] = (uint64_t)version << 32 | (uint32_t)sector;
    key = mix(seed ^ mix(words[0]));
    for (unsigned i = 1; i < WORDS; i++)
        words[i] = mix(key + i);
    memcpy(bytes, words, sizeof(words));
}

static bool all_zero(const uint8_t *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, DT_SECTOR_SIZE - 1) == 0;
}

bool content_is(const uint8_t *bytes, uint64_t seed, uint64_t sector, uint32_t version)
{
    uint8_t expected[DT_SECTOR_SIZE];

    if (version == VERSION_UNKNOWN)
        return true;
    if (version == VERSION_ZERO)
        return all_zero(bytes);
    content_fill(expected, seed, sector, version);
    return memcmp(bytes, expected, sizeof(expected)) == 0;
}

uint32_t content_version(const uint8_t *bytes, uint64_t seed, uint64_t sector)
{
    uint64_t first;
    uint32_t version;

    memcpy(&first, bytes, sizeof(first));
    version = (uint32_t)(first >> 32);
    if (all_zero(bytes))
        return VERSION_ZERO;
    return content_is(bytes, seed, sector, version) ? version : VERSION_UNKNOWN;
}

static unsigned differences(const uint8_t *a, const uint8_t *b, unsigned *first)
{
    unsigned n = 0;

    for (unsigned i = DT_SECTOR_SIZE; i-- > 0;)
        if (a[i] != b[i]) {
            *first = i;
            n++;
        }
    return n;
}

void content_describe(const uint8_t *bytes, uint64_t seed, uint64_t sector, char *text, size_t size)
{
    uint8_t expected[DT_SECTOR_SIZE];
    uint64_t word;
    uint32_t version;
    unsigned wrong, first = 0;

    memcpy(&word, bytes, sizeof(word));
    version = (uint32_t)(word >> 32);
    content_fill(expected, seed, sector, version);
    wrong = differences(bytes, expected, &first);
    if (all_zero(bytes)) {
        snprintf(text, size, "zeroes");
    } else if (wrong == 0) {
        snprintf(text, size, "its version %u", version);
    } else if (wrong < DT_SECTOR_SIZE / 2) {
        snprintf(text, size, "its version %u with %u wrong bytes, the first at %u", version, wrong,
                 first);
    } else {
        content_fill(expected, seed, (uint32_t)word, version);
        if (differences(bytes, expected, &first) == 0)
            snprintf(text, size, "the data of sector %u", (uint32_t)word);
        else
            snprintf(text, size, "what was never written (%02x %02x %02x %02x ...)", bytes[0],
                     bytes[1], bytes[2], bytes[3]);
    }
}
