/* SPDX-License-Identifier: MIT */
/*
 * raw_guest.h - a guest with one ring of which every byte is the test's: for what no decent driver
 * would do.
 */
#ifndef TESTS_RAW_GUEST_H
#define TESTS_RAW_GUEST_H

#include "vhost/frontend.h"
#include <linux/virtio_blk.h>

#define RAW_MEMORY (4u << 20)
#define RAW_DATA   (1u << 20) /* offset in memory behind the ring */
#define RAW_GPA    0x40000000ull
#define RAW_RING   64u

struct raw_guest {
    struct vhost_frontend *front;
    struct virtq_driver ring;
    uint8_t *memory;
    int memory_fd, kick, call;
};

/** raw_guest_attach() - negotiate @features (and what is always wanted), start ring 0. Ends the
 *  program with a message when it cannot. */
void raw_guest_attach(struct raw_guest *g, const char *path, uint64_t features);
void raw_guest_detach(struct raw_guest *g);
/** raw_guest_run() - one chain through the ring. Return: bytes written, or -ETIMEDOUT, -EPROTO. */
int64_t raw_guest_run(struct raw_guest *g, const struct virtq_buffer *bufs, unsigned nread,
                      unsigned nwrite, int timeout_ms);
void raw_guest_kick(struct raw_guest *g);
/** raw_guest_gone() - wait until the back end hung up; false if it did not within @timeout_ms. */
bool raw_guest_gone(struct raw_guest *g, int timeout_ms);

#endif
