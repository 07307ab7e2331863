/* SPDX-License-Identifier: MIT */
/*
 * memory.c - the guest's memory in an extension's process: mapped as the worker says, and looked up for vectors
 * that are judged as all else that comes from there.
 *
 * It changes only while no request is in the process, so the threads that look need no lock: the number of regions
 * is stored last, and read first.
 */
#include "channel/channel.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* A number of our own flat JSON; false where there is none of that name. */
static bool number(const char *text, const char *name, uint64_t *value)
{
    char key[32], *end;
    const char *at;

    snprintf(key, sizeof(key), "\"%s\":", name);
    at = strstr(text, key);
    if (!at)
        return false;
    at += strlen(key);
    *value = strtoull(at, &end, 10);
    return end != at;
}

void memory_forget(struct channel_memory *m)
{
    unsigned n = m->regions;

    __atomic_store_n(&m->regions, 0, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < n; i++)
        munmap(m->region[i].map, m->region[i].map_size);
}

static int map_region(struct channel_memory *m, int fd, uint64_t offset, uint64_t size,
                      bool writable)
{
    uint64_t start = ALIGN_DOWN(offset, PAGE_SIZE_4K);
    struct stat st;
    void *map;

    /* A look behind the file's end would be a SIGBUS. */
    if (size == 0 || fstat(fd, &st) < 0 || offset > (uint64_t)st.st_size ||
        size > (uint64_t)st.st_size - offset)
        return -EPROTO;
    map = mmap(NULL, size + (offset - start), writable ? PROT_READ | PROT_WRITE : PROT_READ,
               MAP_SHARED, fd, (off_t)start);
    if (map == MAP_FAILED)
        return -errno;
    m->region[m->regions].map = map;
    m->region[m->regions].map_size = size + (offset - start);
    m->region[m->regions].base = (uint8_t *)map + (offset - start);
    m->region[m->regions].size = size;
    __atomic_store_n(&m->regions, m->regions + 1, __ATOMIC_RELEASE);
    return 0;
}

int memory_take(struct channel_memory *m, const struct control_frame *f)
{
    uint64_t region, regions, size, offset, writable;

    if (!number(f->payload, "region", &region) || !number(f->payload, "regions", &regions) ||
        regions > CHANNEL_REGIONS)
        return -EPROTO;
    if (region == 0)
        memory_forget(m);
    if (regions == 0)
        return 0;
    if (region != m->regions || region >= regions || f->nfds != 1 ||
        !number(f->payload, "size", &size) || !number(f->payload, "offset", &offset) ||
        !number(f->payload, "writable", &writable))
        return -EPROTO;
    return map_region(m, f->fds[0], offset, size, writable);
}

bool memory_vectors(const struct channel_memory *m, const struct channel_vector *list, unsigned n,
                    uint64_t bytes, struct iovec *iov)
{
    unsigned regions = __atomic_load_n(&m->regions, __ATOMIC_ACQUIRE);
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct channel_vector v = *(const volatile struct channel_vector *)&list[i];

        if (v.region >= regions || v.offset > m->region[v.region].size ||
            v.length > m->region[v.region].size - v.offset)
            return false;
        iov[i] = (struct iovec){m->region[v.region].base + v.offset, v.length};
        sum += v.length;
    }
    return sum == bytes;
}
