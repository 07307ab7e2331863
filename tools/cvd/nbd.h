/* SPDX-License-Identifier: MIT */
/*
 * nbd.h - a disk that may be read, served by NBD on a Unix socket for as long as a child process
 * lives.
 *
 * As little as clients need: the fixed newstyle handshake, one export whatever its name, simple
 * replies.
 */
#ifndef CVD_NBD_H
#define CVD_NBD_H

#include <devtap/base.h>
#include <sys/types.h>

/**
 * struct nbd_disk
 * @read: @size bytes at @offset, multiples of 512 within the disk; 0 or -errno.
 */
struct nbd_disk {
    uint64_t size;
    int (*read)(void *arg, uint64_t offset, void *buf, size_t size);
    void *arg;
};

/** nbd_listen() - a listening socket at @path. Return: a descriptor, or -errno with @err. */
int nbd_listen(const char *path, struct dt_error *err);
/** nbd_serve() - until process @child has ended. Return: its status as of waitpid(2), or -errno. */
int nbd_serve(int listener, const struct nbd_disk *disk, pid_t child);

#endif
