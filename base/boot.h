/* SPDX-License-Identifier: MIT */
/* boot.h - which boot of the machine this is. */
#ifndef BASE_BOOT_H
#define BASE_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#define BOOT_ID_SIZE 16u

/**
 * boot_id() - the kernel's random identity of this boot; zeroes where it has none.
 *
 * What a process wrote to a file without a flush is seen by its successors as long as this stays the
 * same, and may be gone, in part and in any order, when it differs. Call it before the sandbox is closed.
 */
void boot_id(uint8_t id[BOOT_ID_SIZE]);
/** boot_is() - is this stored identity the one of @boot? Zeroes are nobody's. */
bool boot_is(const uint8_t stored[BOOT_ID_SIZE], const uint8_t boot[BOOT_ID_SIZE]);

#endif
