/* SPDX-License-Identifier: MIT */
/*
 * dirtylog.c - which pages of guest memory we wrote, for live migration.
 *
 * vhost-user, "Migration": bit (page % 8) of byte (page / 8). The bits are always set with a
 * locked OR and never skipped because they look set: without a full fence that look may come
 * before our own data is visible, and the VMM would fetch and clear the bit between the two.
 * A mark always comes after the write it records.
 */
#include "ring/ring.h"

static void or_byte(uint8_t *byte, unsigned first, unsigned last)
{
    uint8_t mask = (uint8_t)((0xffu << first) & (0xffu >> (7 - last)));

    __atomic_fetch_or(byte, mask, __ATOMIC_RELEASE);
}

void dirtylog_mark(const struct dirtylog *log, uint64_t gpa, uint64_t len)
{
    uint64_t first = gpa / DIRTYLOG_PAGE, last, byte, last_byte;

    if (!log->bits || len == 0)
        return;
    last = (len - 1 > UINT64_MAX - gpa ? UINT64_MAX : gpa + len - 1) / DIRTYLOG_PAGE;
    byte = first / 8;
    last_byte = last / 8;
    if (byte >= log->size)
        return;
    if (last_byte >= log->size) {
        last_byte = log->size - 1;
        last = 7;
    }
    if (byte == last_byte) {
        or_byte(log->bits + byte, first % 8, last % 8);
        return;
    }
    or_byte(log->bits + byte++, first % 8, 7);
    /* Little-endian: a word's bits are in the same order as its bytes'. */
    while (byte < last_byte) {
        uint8_t *p = log->bits + byte;

        if (last_byte - byte >= 8 && (uintptr_t)p % 8 == 0) {
            __atomic_fetch_or((uint64_t *)(void *)p, UINT64_MAX, __ATOMIC_RELEASE);
            byte += 8;
        } else {
            or_byte(p, 0, 7);
            byte++;
        }
    }
    or_byte(log->bits + last_byte, 0, last % 8);
}
