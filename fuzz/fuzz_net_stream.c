/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_stream.c - what a peer of the back `stream` sends: one byte that says in what pieces, and the bytes. The
 * guest must get the frames that a reader of this file finds in them, and the connection must end.
 */
#include "tests/unit/net_rig.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MOST (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int begin(void)
{
    static char folder[] = "/tmp/devtap-fuzz-XXXXXX";
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    char chain[160];

    CHECK(mkdtemp(folder));
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", folder);
    CHECK(bind(sock, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(sock, 1) == 0);
    snprintf(chain, sizeof(chain), "stream address=unix:%s", at.sun_path);
    test_clock = 1;
    rig_start(chain);
    return sock;
}

static int next_connection(int listener)
{
    int fd;

    test_clock +=
        DT_S(2); /* the pause before the next attempt is over; but it is made in real time */
    while ((fd = accept(listener, NULL, NULL)) < 0) {
        test_clock += DT_US(10);
        rig_turn();
    }
    return fd;
}

static void send_in_pieces(int fd, const uint8_t *data, size_t size, size_t piece)
{
    for (size_t at = 0; at < size; at += piece) {
        if (send(fd, data + at, MIN(size - at, piece), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break; /* it was refused already */
        rig_turn();
    }
    shutdown(fd, SHUT_WR);
}

static void check(const uint8_t *data, size_t size)
{
    unsigned n = 0;

    for (size_t at = 0; size - at >= 4;) {
        uint32_t length = load_be32(data + at);

        if (length > 65600 || size - at - 4 < length)
            break;
        if (length >= 14) {
            CHECK(n < rig.guest.n && rig.guest.frames[n].length == length);
            CHECK(memcmp(rig.guest.frames[n].data, data + at + 4, length) == 0);
            n++;
        }
        at += 4 + length;
    }
    CHECK(rig.guest.n == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int listener = -1;
    char byte;
    int fd;

    if (size < 1 || size > MOST)
        return 0;
    if (listener < 0)
        listener = begin();
    fd = next_connection(listener);
    send_in_pieces(fd, data + 1, size - 1, data[0] ? data[0] * 16u : 1);
    while (recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
        rig_turn();
    close(fd);
    check(data + 1, size - 1);
    rig_clear();
    return 0;
}
