/* SPDX-License-Identifier: MIT */
/*
 * fuzz_nbd_tls.c - any bytes as what a TLS server says.
 *
 * Invariants: no server that does not know the shared key gets as far as libnbd, so not one byte comes
 * out in the clear; why is told in one line; the line ends when the server does.
 */
#include "blk/nbd/tls.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define INPUT_MAX (64u << 10) /* less than a socket holds */

static const struct tls_keys *shared_keys(void)
{
    static const char lines[] = "other:00ff\nme:abababababababababababababababab\n";
    static struct tls_keys *keys;
    struct remote_uri uri = {.tls = true, .user = (char[]){"me"}};
    struct dt_error err;
    int fd;

    if (keys)
        return keys;
    fd = memfd_create("keys", MFD_CLOEXEC);
    CHECK(write(fd, lines, sizeof(lines) - 1) == sizeof(lines) - 1);
    uri.psk_file = xasprintf("/proc/self/fd/%d", fd);
    CHECK(tls_keys_load(&keys, &uri, &err) == 0);
    free(uri.psk_file);
    close(fd);
    return keys;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct tls_line *line;
    struct dt_error err;
    int server[2], plain;
    ssize_t n;
    char byte;

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, server) == 0);
    size = MIN(size, (size_t)INPUT_MAX);
    CHECK(size == 0 || write(server[1], bytes, size) == (ssize_t)size);
    shutdown(server[1], SHUT_WR);
    CHECK(tls_line_new(&line, shared_keys(), server[0], &plain, &err) == 0);
    while ((n = recv(plain, &byte, 1, 0)) < 0 && (errno == EAGAIN || errno == EINTR))
        usleep(50);
    CHECK(n == 0);
    CHECK(tls_line_reason(line) && tls_line_reason(line)[0]);
    close(plain);
    tls_line_free(line);
    close(server[1]);
    return 0;
}
