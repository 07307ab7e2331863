/* SPDX-License-Identifier: MIT */
/* frames.h - the frames of a capture file, in memory. */
#ifndef NET_PCAP_FRAMES_H
#define NET_PCAP_FRAMES_H

#include "base/base.h"

#include <stdio.h>

/** struct frame_at - one frame. @when: ns after the first one; never less than the one before has. */
struct frame_at {
    uint64_t when, offset;
    uint32_t length;
};

/** struct frames - @skipped: those that were cut when they were recorded, or are no Ethernet frames of 14 to 65,600 bytes. */
struct frames {
    struct frame_at *list;
    uint8_t *bytes;
    uint64_t n, used, skipped;
    uint32_t longest;
};

/**
 * frames_load() - read a pcap or pcapng file of Ethernet frames.
 * @file:   closed here, also in failure.
 * @memory: the most that all frames may take.
 */
int frames_load(struct frames *f, FILE *file, uint64_t memory, struct dt_error *err);
void frames_free(struct frames *f);

#endif
