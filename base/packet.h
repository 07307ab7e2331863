/* SPDX-License-Identifier: MIT */
/* packet.h - fixed-size messages with at most one descriptor, over a SOCK_SEQPACKET pair. */
#ifndef BASE_PACKET_H
#define BASE_PACKET_H

#include "base/base.h"

/** packet_pair() - both ends close on exec. */
int packet_pair(int fds[2]);
/** packet_send() - @fd -1 = none; it stays the caller's. Waits at most a second for room. */
int packet_send(int sock, const void *data, size_t size, int fd);
/**
 * packet_receive() - one message of exactly @size bytes, without waiting.
 * @fd: the descriptor with it, now the caller's; -1 = none.
 * Return: 1, 0 = none yet, -ECONNRESET when the other end is gone, -EPROTO for another size.
 */
int packet_receive(int sock, void *data, size_t size, int *fd);

#endif
