/* SPDX-License-Identifier: MIT */
/* net_peer.h - the other end of a socket that a card's back has, in the test's hands. */
#ifndef TESTS_NET_PEER_H
#define TESTS_NET_PEER_H

#include "tests/unit/net_rig.h"

#include <sys/socket.h>
#include <sys/un.h>

/** TURN_UNTIL() - turn the rig's loop until @cond is true, at most a minute of real time. */
#define TURN_UNTIL(cond)                                  \
    do {                                                  \
        uint64_t end_ = real_now() + DT_S(60);            \
                                                          \
        while (!(cond)) {                                 \
            if (real_now() >= end_)                       \
                fail_msg("waited in vain for %s", #cond); \
            rig_turn();                                   \
        }                                                 \
    } while (0)

uint64_t __real_dt_clock_ns(void);
static inline uint64_t real_now(void)
{
    return __real_dt_clock_ns();
}

/** peer_frame() - a frame of @length bytes, which differ by @seed. */
void peer_frame(struct frame *f, uint32_t length, uint8_t seed);
/** peer_expect_guest() - wait until the guest has its frame @i; it is @f. */
void peer_expect_guest(unsigned i, const struct frame *f);

/** peer_folder() - for sockets; made once, and removed by peer_clean(). */
const char *peer_folder(void);
void peer_clean(void);
/** peer_bind() - a non-blocking socket of @type at @name in the folder; streams listen. */
int peer_bind(const char *name, int type);
int peer_connect(const char *name, int type);
/** peer_accept() - while the rig turns. */
int peer_accept(int listener);
/** peer_send() - all of it, while the rig turns. */
void peer_send(int fd, const void *data, size_t n);
/** peer_receive() - exactly @n bytes, while the rig turns. */
void peer_receive(int fd, void *data, size_t n);

#endif
