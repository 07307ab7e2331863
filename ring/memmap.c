/* SPDX-License-Identifier: MIT */
/*
 * memmap.c - guest memory, mapped here and looked up by any of its three addresses.
 *
 * Theory of operation: regions lie in one array sorted by guest-physical address, so a lookup
 * is a binary search, and the region that matched last is tried first (the inline part of
 * memmap_iov()). No sum of an address and a length is ever formed: with off = addr - gpa, the
 * tests off < size and len <= size - off hold for regions that end at the top of the 64-bit
 * space and fail for every range that wraps.
 */
#include "ring/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* Whoever keeps what it looked up can tell that it may be stale, even in another map at the same place. */
static void memmap_touch(struct memmap *map)
{
    static uint64_t generations;

    map->generation = __atomic_add_fetch(&generations, 1, __ATOMIC_RELAXED);
}

void memmap_init(struct memmap *map)
{
    *map = (struct memmap){0};
    memmap_touch(map);
}

static void region_unmap(const struct memmap_region *r)
{
    memmap_guard_remove(r->mapping);
    munmap(r->mapping, r->mapping_size);
}

void memmap_clear(struct memmap *map)
{
    for (unsigned i = 0; i < map->count; i++)
        region_unmap(&map->regions[i]);
    free(map->regions);
    memmap_init(map);
}

/* The first region whose @gpa is above @gpa; the one before it is the only candidate. */
static unsigned region_above(const struct memmap *map, uint64_t gpa)
{
    unsigned low = 0, high = map->count;

    while (low < high) {
        unsigned mid = low + (high - low) / 2;

        if (map->regions[mid].gpa > gpa)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static bool holds(uint64_t start, uint64_t size, uint64_t addr, uint64_t len)
{
    uint64_t off = addr - start;

    return off < size && len <= size - off;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return b - a < a_size || a - b < b_size;
}

static int judge_range(const struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size,
                       struct dt_error *err)
{
    if (size == 0 || size - 1 > UINT64_MAX - gpa || size - 1 > UINT64_MAX - uva)
        return dt_fail(err, -EINVAL,
                       "memory region of 0x%" PRIx64 " bytes at 0x%" PRIx64 " (front end 0x%" PRIx64
                       ") is empty or wraps around",
                       size, gpa, uva);
    if (map->count >= MEMMAP_MAX_REGIONS)
        return dt_fail(err, -ENOSPC, "more than %u memory regions", MEMMAP_MAX_REGIONS);
    for (unsigned i = 0; i < map->count; i++) {
        const struct memmap_region *r = &map->regions[i];
        bool in_gpa = overlap(gpa, size, r->gpa, r->size);

        if (in_gpa || overlap(uva, size, r->uva, r->size))
            return dt_fail(err, -EEXIST,
                           "memory region of 0x%" PRIx64 " bytes at %s address 0x%" PRIx64
                           " overlaps the region of 0x%" PRIx64 " bytes at 0x%" PRIx64,
                           size, in_gpa ? "guest" : "front-end", in_gpa ? gpa : uva, r->size,
                           in_gpa ? r->gpa : r->uva);
    }
    return 0;
}

/* Sets @page to what the file must be mapped in multiples of. */
static int judge_file(int fd, uint64_t offset, uint64_t size, uint64_t *page, struct dt_error *err)
{
    int flags = fcntl(fd, F_GETFL);
    struct statfs fs;
    struct stat st;

    if (flags < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
        return dt_fail(err, -errno, "memory file descriptor %d: %s", fd, strerror(errno));
    if ((flags & O_ACCMODE) != O_RDWR)
        return dt_fail(err, -EACCES,
                       "the memory file is open %s; guest memory needs reading and writing",
                       (flags & O_ACCMODE) == O_RDONLY ? "for reading only" : "for writing only");
    if (size > (uint64_t)INT64_MAX || offset > (uint64_t)INT64_MAX - size)
        return dt_fail(err, -EINVAL,
                       "0x%" PRIx64 " bytes at file offset 0x%" PRIx64
                       " are more than a file holds",
                       size, offset);
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < offset + size)
        return dt_fail(err, -EINVAL,
                       "the memory file has 0x%" PRIx64 " bytes, but the region needs 0x%" PRIx64
                       " from offset 0x%" PRIx64,
                       (uint64_t)st.st_size, size, offset);
    *page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (fs.f_type == HUGETLBFS_MAGIC)
        *page = (uint64_t)fs.f_bsize;
    return 0;
}

static int map_file(struct memmap *map, struct memmap_region *r, int fd, uint64_t page,
                    struct dt_error *err)
{
    uint64_t start = ALIGN_DOWN(r->fd_offset, page);
    uint64_t lead = r->fd_offset - start;
    int error;

    r->mapping_size = ALIGN_UP(lead + r->size, page);
    r->mapping = mmap(NULL, r->mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                      (off_t)start);
    if (r->mapping == MAP_FAILED) {
        error = errno;
        return dt_fail(err, -error,
                       "cannot map 0x%" PRIx64 " bytes of the memory file at offset 0x%" PRIx64
                       ": %s",
                       r->size, r->fd_offset, strerror(error));
    }
    error = memmap_guard_add(r->mapping, r->mapping_size, &map->faulted);
    if (error < 0) {
        munmap(r->mapping, r->mapping_size);
        return dt_fail(err, error, "too many memory regions are mapped in this process");
    }
    /* A guest's memory has no business in our core dump; best effort. */
    madvise(r->mapping, r->mapping_size, MADV_DONTDUMP);
    r->host = (uint8_t *)r->mapping + lead;
    return 0;
}

int memmap_add(struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size, int fd,
               uint64_t offset, struct dt_error *err)
{
    struct memmap_region region = {.gpa = gpa, .uva = uva, .size = size, .fd_offset = offset};
    uint64_t page = 0;
    unsigned at;
    int r;

    r = judge_range(map, gpa, uva, size, err);
    if (r == 0)
        r = judge_file(fd, offset, size, &page, err);
    if (r == 0)
        r = map_file(map, &region, fd, page, err);
    if (r < 0)
        return r;
    if (!map->regions)
        map->regions = xcalloc(MEMMAP_MAX_REGIONS, sizeof(map->regions[0]));
    at = region_above(map, gpa);
    memmove(&map->regions[at + 1], &map->regions[at], (map->count - at) * sizeof(map->regions[0]));
    map->regions[at] = region;
    map->count++;
    memmap_touch(map);
    return 0;
}

int memmap_remove(struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size)
{
    for (unsigned i = 0; i < map->count; i++) {
        struct memmap_region *r = &map->regions[i];

        if (r->gpa != gpa || r->uva != uva || r->size != size)
            continue;
        region_unmap(r);
        map->count--;
        memmove(r, r + 1, (map->count - i) * sizeof(*r));
        memmap_touch(map);
        return 0;
    }
    return -ENOENT;
}

void *memmap_host(const struct memmap *map, uint64_t gpa, uint64_t len)
{
    unsigned above = region_above(map, gpa);
    const struct memmap_region *r;

    if (above == 0)
        return NULL;
    r = &map->regions[above - 1];
    return holds(r->gpa, r->size, gpa, len) ? r->host + (gpa - r->gpa) : NULL;
}

bool memmap_uva_to_gpa(const struct memmap *map, uint64_t uva, uint64_t len, uint64_t *gpa)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct memmap_region *r = &map->regions[i];

        if (holds(r->uva, r->size, uva, len)) {
            *gpa = r->gpa + (uva - r->uva);
            return true;
        }
    }
    return false;
}

bool memmap_host_to_gpa(const struct memmap *map, const void *host, uint64_t *gpa)
{
    if (map->iotlb)
        map = iotlb_memory(map->iotlb);
    for (unsigned i = 0; i < map->count; i++) {
        const struct memmap_region *r = &map->regions[i];
        uintptr_t off = (uintptr_t)host - (uintptr_t)r->host;

        if (off < r->size) {
            *gpa = r->gpa + off;
            return true;
        }
    }
    return false;
}

/* The part of memmap_iov() that is not inline: another region than last time, or several. */
int memmap_iov_search(const struct memmap *map, uint64_t addr, uint32_t len,
                      enum memmap_access access, struct iovec *iov, unsigned max, unsigned *hint)
{
    unsigned at = region_above(map, addr), n = 0;

    if (at == 0)
        return map->iotlb ? iotlb_iov(map->iotlb, addr, len, access, iov, max) : -EFAULT;
    for (at--;; at++) {
        const struct memmap_region *r;
        uint64_t off, part;

        if (at == map->count)
            return -EFAULT;
        r = &map->regions[at];
        off = addr - r->gpa;
        if (off >= r->size)
            return -EFAULT;
        if (n == max)
            return -E2BIG;
        part = MIN(len, r->size - off);
        iov[n++] = (struct iovec){r->host + off, part};
        *hint = at;
        len -= (uint32_t)part;
        if (len == 0)
            return (int)n;
        addr += part;
    }
}
