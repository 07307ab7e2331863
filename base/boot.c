/* SPDX-License-Identifier: MIT */
#include "base/boot.h"
#include "base/base.h"

#include <ctype.h>
#include <stdio.h>

/* "0f1e2d3c-...": 32 hexadecimal digits and dashes. */
static bool parse(const char *text, uint8_t id[BOOT_ID_SIZE])
{
    unsigned digits = 0;

    for (; *text && *text != '\n'; text++) {
        int c = tolower((unsigned char)*text);

        if (c == '-')
            continue;
        if (!isxdigit(c) || digits == 2 * BOOT_ID_SIZE)
            return false;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | (c <= '9' ? c - '0' : c - 'a' + 10));
        digits++;
    }
    return digits == 2 * BOOT_ID_SIZE;
}

void boot_id(uint8_t id[BOOT_ID_SIZE])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    char line[64] = "";

    memset(id, 0, BOOT_ID_SIZE);
    if (f && fgets(line, sizeof(line), f) && !parse(line, id))
        memset(id, 0, BOOT_ID_SIZE);
    if (f)
        fclose(f);
}

bool boot_is(const uint8_t stored[BOOT_ID_SIZE], const uint8_t boot[BOOT_ID_SIZE])
{
    static const uint8_t none[BOOT_ID_SIZE];

    return memcmp(stored, boot, BOOT_ID_SIZE) == 0 && memcmp(boot, none, BOOT_ID_SIZE) != 0;
}
