/* SPDX-License-Identifier: MIT */
/*
 * store-reader.c - a pool's file to be read at leisure beside whoever writes to it.
 *
 * It reads what is on the device, not what the page cache remembers of it, and leaves the cache to others. Each
 * read is paid for by a pause, so that over a tenth of a second no more than the rate is read.
 */
#include "parallax/store.h"

#include <fcntl.h>
#include <time.h>

#define BOUNCE_BLOCKS 64u
#define SAVED_NS      DT_MS(100) /* what was not read meanwhile may be caught up with */

struct reader {
    struct store s;
    char *path;
    int fd;
    uint8_t *bounce;
    uint64_t rate, next; /* when the next read may begin, ns */
};

static struct reader *of(struct store *s)
{
    return container_of(s, struct reader, s);
}

static void pay(struct reader *r, uint64_t bytes)
{
    uint64_t now = dt_clock_ns();

    if (!r->rate)
        return;
    r->next = MAX(r->next, now - MIN(now, SAVED_NS)) + bytes * DT_S(1) / r->rate;
    if (r->next > now) {
        struct timespec until = {.tv_sec = (time_t)(r->next / DT_S(1)),
                                 .tv_nsec = (long)(r->next % DT_S(1))};

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
    }
}

static int reader_get(struct store *s, void *buf, uint64_t addr, unsigned count)
{
    struct reader *r = of(s);
    int ret = 0;

    for (uint8_t *to = buf; count && ret == 0;) {
        unsigned n = MIN(count, BOUNCE_BLOCKS);
        size_t size = (size_t)n * PX_BLOCK;

        ret = store_pread(r->fd, r->bounce, addr, n);
        memcpy(to, r->bounce, size);
        pay(r, size);
        to += size;
        addr += n;
        count -= n;
    }
    return ret;
}

static void reader_close(struct store *s)
{
    struct reader *r = of(s);

    close(r->fd);
    free(r->bounce);
    free(r->path);
    free(r);
}

int store_reader_open(struct store **store, const char *path, uint64_t rate, struct dt_error *err)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY, fd = open(path, flags | O_DIRECT);
    struct reader *r;
    off_t size;

    if (fd < 0 && errno == EINVAL)
        fd = open(path, flags); /* a file system without it */
    if (fd < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", path, strerror(errno));
    size = lseek(fd, 0, SEEK_END);
    if (size < 0) {
        close(fd);
        return dt_fail(err, -errno, "%s: cannot find its size: %s", path, strerror(errno));
    }
    r = xcalloc(1, sizeof(*r));
    r->path = xstrdup(path);
    r->fd = fd;
    r->bounce = xaligned(PX_BLOCK, (size_t)BOUNCE_BLOCKS * PX_BLOCK);
    r->rate = rate;
    r->s = (struct store){.blocks = (uint64_t)size >> PX_BLOCK_SHIFT,
                          .name = r->path,
                          .get = reader_get,
                          .recall = store_slots_recall,
                          .close = reader_close};
    *store = &r->s;
    return 0;
}
