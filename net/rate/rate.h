/* SPDX-License-Identifier: MIT */
/* rate.h - the limits of a card, and what the cards of a group share. */
#ifndef NET_RATE_H
#define NET_RATE_H

#include "base/meter.h"
#include <devtap/net.h>

enum limit { TX_PACKETS, TX_BITS, RX_PACKETS, RX_BITS, LIMITS };

/** struct rate_words - a bucket for each limit: base/meter.h. */
struct rate_words {
    uint64_t limit[LIMITS];
};

/**
 * rate_group_open() - those in the file at @path, which is made if it is not there; rate_group_close() when done.
 * Return: 0 or -errno with @err.
 */
int rate_group_open(const char *path, struct rate_words **words, struct dt_error *err);
void rate_group_close(struct rate_words *words);

#endif
