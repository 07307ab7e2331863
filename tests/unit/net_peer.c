/* SPDX-License-Identifier: MIT */
/* net_peer.c - see net_peer.h. */
#include "tests/unit/net_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <ftw.h>
#include <cmocka.h>

static char folder[] = "/tmp/devtap-net-XXXXXX";
static bool made;

const char *peer_folder(void)
{
    if (!made)
        assert_non_null(mkdtemp(folder));
    made = true;
    return folder;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    return remove(path);
}

void peer_clean(void)
{
    if (made)
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static struct sockaddr_un address(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", peer_folder(), name);
    return at;
}

int peer_bind(const char *name, int type)
{
    const struct sockaddr_un at = address(name);
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    unlink(at.sun_path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 8), 0);
    return fd;
}

void peer_frame(struct frame *f, uint32_t length, uint8_t seed)
{
    frame_ether(f, 0x88b5);
    while (f->n < length) {
        f->bytes[f->n] = (uint8_t)(f->n * 31 + seed);
        f->n++;
    }
    f->n = length;
}

void peer_expect_guest(unsigned i, const struct frame *f)
{
    TURN_UNTIL(rig.guest.n > i);
    assert_int_equal(rig.guest.frames[i].length, f->n);
    assert_memory_equal(rig.guest.frames[i].data, f->bytes, f->n);
}

int peer_connect(const char *name, int type)
{
    const struct sockaddr_un at = address(name);
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    TURN_UNTIL(connect(fd, (const struct sockaddr *)&at, sizeof(at)) == 0);
    return fd;
}

int peer_accept(int listener)
{
    int fd = -1;

    TURN_UNTIL((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
    return fd;
}

void peer_send(int fd, const void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t sent;

        TURN_UNTIL((sent = send(fd, (const char *)data + done, n - done, MSG_NOSIGNAL)) > 0 ||
                   errno != EAGAIN);
        assert_true(sent > 0);
        done += (size_t)sent;
    }
}

void peer_receive(int fd, void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got;

        TURN_UNTIL((got = recv(fd, (char *)data + done, n - done, 0)) > 0 || got == 0 ||
                   errno != EAGAIN);
        assert_true(got > 0);
        done += (size_t)got;
    }
}
