/* SPDX-License-Identifier: MIT */
/*
 * secret.c - memory for keys: pages of its own, never swapped, in no core dump, not inherited, wiped.
 */
#include "blk/crypt/secret.h"

#include <sys/mman.h>

int secret_new(struct secret *secret, size_t room, struct dt_error *err)
{
    size_t size = ALIGN_UP(MAX(room, (size_t)1), (size_t)PAGE_SIZE_4K);
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        return dt_fail(err, -errno, "no memory for a key: %s", strerror(errno));
    madvise(pages, size, MADV_DONTDUMP);
    madvise(pages, size, MADV_WIPEONFORK);
    if (mlock(pages, size) < 0)
        log_debug("crypt: a key's memory cannot be locked: %s", strerror(errno));
    *secret = (struct secret){.bytes = pages, .room = size};
    return 0;
}

void secret_free(struct secret *secret)
{
    if (!secret->bytes)
        return;
    explicit_bzero(secret->bytes, secret->room);
    munmap(secret->bytes, secret->room);
    *secret = (struct secret){0};
}
