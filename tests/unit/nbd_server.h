/* SPDX-License-Identifier: MIT */
/* nbd_server.h - an NBD server in a thread of the test's process, that misbehaves when told to. */
#ifndef TESTS_NBD_SERVER_H
#define TESTS_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

/* Transmission flags of the protocol (doc/proto.md of the NBD project). */
#define NBD_READ_ONLY 2
#define NBD_FLUSH     4
#define NBD_FUA       8
#define NBD_TRIM      32
#define NBD_ZEROES    64
#define NBD_MULTI     256
#define NBD_ALL       (NBD_FLUSH | NBD_FUA | NBD_TRIM | NBD_ZEROES | NBD_MULTI)

#define NBD_SERVER_LOG 256u

/**
 * struct nbd_server - what it is, what it does wrong, and what it saw; all may be changed and read
 * at any time.
 * @size:  of the export, at most that of @bytes.
 * @mute:  requests are read and executed, but not answered.
 * @error: answer all with this error of the protocol (108 = ESHUTDOWN), without executing.
 * @log:   type and time of each request, the first NBD_SERVER_LOG.
 */
struct nbd_server {
    char path[108];
    uint8_t bytes[1 << 20];
    uint64_t size;
    uint16_t flags;
    bool mute;
    uint32_t error;
    unsigned connections, requests;
    struct {
        uint16_t type, flags;
        uint64_t at;
    } log[NBD_SERVER_LOG];

    /* Its own. */
    int listener, fds[64];
    unsigned nfds, running;
    bool open;
};

void nbd_server_start(struct nbd_server *s);
/** nbd_server_stop() - nobody listens any more, all connections end. Its bytes stay. */
void nbd_server_stop(struct nbd_server *s);

#endif
