/* SPDX-License-Identifier: MIT */
/* test_memmap.c - guest memory, its guard, the dirty log and the pool of long vectors. */
#include "ring_common.h"

#include "ring/internal.h"

#include <fcntl.h>
#include <linux/memfd.h>

static int memory_fd(off_t size)
{
    int fd = memfd_create("memmap-test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    return fd;
}

static void test_layouts(void **state)
{
    const uint64_t top = UINT64_MAX - 0xfff; /* the last page there is */
    struct memmap map;
    struct iovec iov[4];
    unsigned hint = 0;
    uint64_t gpa;
    int fd = memory_fd(0x10000);

    memmap_init(&map);
    assert_null(memmap_host(&map, 0, 1));
    assert_int_equal(memmap_iov(&map, 0, 1, MEMMAP_READ, iov, 4, &hint), -EFAULT);
    assert_int_equal(memmap_add(&map, top, top, 0x1000, fd, 0, NULL), 0);
    assert_int_equal(memmap_add(&map, 0, 0x500000, 0x1000, fd, 0x1000, NULL), 0);
    assert_int_equal(memmap_add(&map, 0x1000, 0x700000, 0x800, fd, 0x2345, NULL), 0);
    assert_int_equal(map.count, 3);

    assert_non_null(memmap_host(&map, 0, 0x1000));
    assert_null(memmap_host(&map, 0, 0x1001));
    assert_non_null(memmap_host(&map, top, 0x1000));
    assert_null(memmap_host(&map, top, 0x1001));
    assert_null(memmap_host(&map, UINT64_MAX, UINT64_MAX));
    assert_null(memmap_host(&map, 0x1800, 1));

    /* The offset within the file holds although it is no multiple of a page. */
    assert_int_equal(pwrite(fd, "odd", 3, 0x2345), 3);
    assert_memory_equal(memmap_host(&map, 0x1000, 3), "odd", 3);

    for (hint = 0; hint < 5; hint++) {
        unsigned h = hint;

        assert_int_equal(memmap_iov(&map, 0xff0, 0x20, MEMMAP_WRITE, iov, 4, &h), 2);
        assert_ptr_equal(iov[0].iov_base, (uint8_t *)memmap_host(&map, 0, 1) + 0xff0);
        assert_int_equal(iov[0].iov_len, 0x10);
        assert_ptr_equal(iov[1].iov_base, memmap_host(&map, 0x1000, 1));
        assert_int_equal(iov[1].iov_len, 0x10);
        h = hint;
        assert_int_equal(memmap_iov(&map, 0xff0, 0x20, MEMMAP_WRITE, iov, 1, &h), -E2BIG);
        h = hint;
        assert_int_equal(memmap_iov(&map, 0x17f0, 0x20, MEMMAP_WRITE, iov, 4, &h), -EFAULT);
        h = hint;
        /* Up to the last byte of the address space, and not round to its first. */
        assert_int_equal(memmap_iov(&map, top + 0xff0, 0x10, MEMMAP_READ, iov, 4, &h), 1);
        h = hint;
        assert_int_equal(memmap_iov(&map, top + 0xff0, 0x11, MEMMAP_READ, iov, 4, &h), -EFAULT);
    }
    assert_true(memmap_uva_to_gpa(&map, 0x700010, 0x7f0, &gpa));
    assert_int_equal(gpa, 0x1010);
    assert_false(memmap_uva_to_gpa(&map, 0x700010, 0x7f1, &gpa));
    assert_true(memmap_host_to_gpa(&map, (uint8_t *)memmap_host(&map, top, 1) + 5, &gpa));
    assert_true(gpa == top + 5);
    assert_false(memmap_host_to_gpa(&map, &map, &gpa));

    assert_int_equal(memmap_remove(&map, 0, 0x500000, 0x1001), -ENOENT);
    assert_int_equal(memmap_remove(&map, 0, 0x500000, 0x1000), 0);
    assert_null(memmap_host(&map, 0, 1));
    assert_non_null(memmap_host(&map, 0x1000, 1));
    memmap_clear(&map);
    assert_int_equal(map.count, 0);
    close(fd);
}

static void refused(struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size, int fd,
                    uint64_t offset, int code, const char *text)
{
    struct dt_error err = {{0}};

    assert_int_equal(memmap_add(map, gpa, uva, size, fd, offset, &err), code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void test_refusals(void **state)
{
    struct memmap map;
    char path[64];
    int fd = memory_fd(0x10000), pipes[2], readonly, writeonly;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    readonly = open(path, O_RDONLY | O_CLOEXEC);
    writeonly = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pipe(pipes), 0);
    memmap_init(&map);
    assert_int_equal(memmap_add(&map, 0x10000, 0x90000, 0x1000, fd, 0, NULL), 0);
    refused(&map, 0, 0, 0, fd, 0, -EINVAL, "0x0 bytes at 0x0");
    refused(&map, UINT64_MAX, 0, 2, fd, 0, -EINVAL, "wraps around");
    refused(&map, 0, UINT64_MAX - 1, 3, fd, 0, -EINVAL, "wraps around");
    refused(&map, 0x10fff, 0, 1, fd, 0, -EEXIST, "guest address 0x10fff overlaps");
    refused(&map, 0xf000, 0, 0x1001, fd, 0, -EEXIST, "0x1001 bytes at guest address 0xf000");
    refused(&map, 0, 0x90fff, 1, fd, 0, -EEXIST, "front-end address 0x90fff overlaps");
    refused(&map, 0, 0, 0x1000, readonly, 0, -EACCES, "for reading only");
    refused(&map, 0, 0, 0x1000, writeonly, 0, -EACCES, "for writing only");
    refused(&map, 0, 0, 0x1000, fd, 0xf001, -EINVAL, "has 0x10000 bytes");
    refused(&map, 0, 0, 0x1000, fd, UINT64_MAX - 0x100, -EINVAL, "file offset");
    refused(&map, 0, 0, 0x1000, pipes[0], 0, -EACCES, "for reading only");
    refused(&map, 0, 0, 0x1000, -1, 0, -EBADF, "Bad file descriptor");
    assert_int_equal(map.count, 1);
    memmap_clear(&map);
    close(fd);
    close(readonly);
    close(writeonly);
    close(pipes[0]);
    close(pipes[1]);
}

/* All the regions there may be, every other one adjacent to the one before. */
static void test_many(void **state)
{
    struct dt_rng rng;
    struct memmap map;
    unsigned hint = 0;
    int fd = memory_fd(0x2000);

    dt_rng_seed(&rng, 7);
    memmap_init(&map);
    for (unsigned i = 0; i < MEMMAP_MAX_REGIONS; i++) {
        uint64_t n = (i * 37u) % MEMMAP_MAX_REGIONS, gpa = n * 0x1000 + n / 2 * 0x1000;

        assert_int_equal(memmap_add(&map, gpa, gpa, 0x1000, fd, 0x1000, NULL), 0);
    }
    refused(&map, 1ull << 40, 1ull << 40, 0x1000, fd, 0, -ENOSPC, "more than 512");
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t addr = dt_rng_below(&rng, 800 * 0x1000);
        uint32_t len = 1 + (uint32_t)dt_rng_below(&rng, 0x2000);
        struct iovec iov[3];
        uint64_t page = addr >> 12, last = (addr + len - 1) >> 12;
        bool inside = page % 3 != 2 && last % 3 != 2 && page / 3 == last / 3 && last < 768;
        int r = memmap_iov(&map, addr, len, MEMMAP_READ, iov, 3, &hint);

        assert_int_equal(r, inside ? (int)(last - page + 1) : -EFAULT);
        if (inside)
            assert_int_equal(dt_iov_length(iov, (unsigned)r), len);
    }
    memmap_clear(&map);
    close(fd);
}

static void test_guard(void **state)
{
    volatile uint8_t *host;
    struct memmap map;
    int fd = memory_fd(0x4000);

    memmap_guard_install();
    memmap_guard_install();
    memmap_init(&map);
    assert_int_equal(memmap_add(&map, 0, 0, 0x4000, fd, 0, NULL), 0);
    host = memmap_host(&map, 0, 0x4000);
    host[0] = host[0x3000] = 1;
    assert_int_equal(ftruncate(fd, 0x1000), 0);
    assert_int_equal(host[0], 1);
    assert_false(READ_ONCE(map.faulted));
    assert_int_equal(host[0x3000], 0);
    assert_true(READ_ONCE(map.faulted));
    assert_int_equal(host[0], 0);
    host[0x2fff] = 5;
    memmap_clear(&map);
    close(fd);
}

/* Huge pages: the file is mapped in its own unit. Nothing is touched, so none need be there. */
static void test_huge(void **state)
{
    const uint64_t huge = 0x200000;
    int fd = memfd_create("memmap-huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    struct memmap map;

    if (fd < 0 || ftruncate(fd, (off_t)(2 * huge)) < 0) {
        if (fd >= 0)
            close(fd);
        skip();
    }
    memmap_init(&map);
    assert_int_equal(memmap_add(&map, 0, 0, 0x3000, fd, huge + 0x1000, NULL), 0);
    assert_int_equal(map.regions[0].mapping_size, huge);
    assert_ptr_equal(map.regions[0].host, (uint8_t *)map.regions[0].mapping + 0x1000);
    assert_int_equal(memmap_add(&map, 0x10000, 0x10000, 0x2000, fd, huge - 0x1000, NULL), 0);
    assert_int_equal(map.regions[1].mapping_size, 2 * huge);
    memmap_clear(&map);
    close(fd);
}

static void test_dirtylog(void **state)
{
    uint8_t bits[64] __attribute__((aligned(8))), model[64];
    struct dt_rng rng;

    dt_rng_seed(&rng, 3);
    for (unsigned turn = 0; turn < 20000; turn++) {
        unsigned lead = (unsigned)dt_rng_below(&rng, 8), size = 40 + (turn & 15);
        struct dirtylog log = {bits + lead, size};
        uint64_t gpa = dt_rng_below(&rng, 500ull * DIRTYLOG_PAGE), len;

        len = dt_rng_below(&rng, turn % 3 ? 3 * DIRTYLOG_PAGE : 500ull * DIRTYLOG_PAGE);
        memset(bits, 0, sizeof(bits));
        memset(model, 0, sizeof(model));
        for (uint64_t p = gpa / DIRTYLOG_PAGE; len > 0 && p <= (gpa + len - 1) / DIRTYLOG_PAGE;
             p++) {
            if (p / 8 < size)
                model[lead + p / 8] |= (uint8_t)(1 << p % 8);
        }
        dirtylog_mark(&log, gpa, len);
        assert_memory_equal(bits, model, sizeof(bits));
    }
    memset(bits, 0, sizeof(bits));
    dirtylog_mark(&(struct dirtylog){bits, 64}, 500 * DIRTYLOG_PAGE, UINT64_MAX);
    assert_int_equal(bits[62], 0xf0);
    assert_int_equal(bits[63], 0xff);
    dirtylog_mark(&(struct dirtylog){bits, 64}, UINT64_MAX, UINT64_MAX);
    dirtylog_mark(&(struct dirtylog){NULL, 0}, 0, 1);
}

static void test_iovpool(void **state)
{
    struct iovpool *pool = iovpool_new(2);
    struct iovec *a = iovpool_get(pool), *b = iovpool_get(pool);

    assert_non_null(a);
    assert_non_null(b);
    assert_null(iovpool_get(pool));
    a[VIRTQ_MAX_IOV - 1].iov_len = b[0].iov_len = 1;
    iovpool_put(pool, a);
    assert_ptr_equal(iovpool_get(pool), a);
    iovpool_put(pool, b);
    iovpool_put(pool, a);
    iovpool_free(pool);
    iovpool_free(NULL);
    pool = iovpool_new(0);
    assert_null(iovpool_get(pool));
    iovpool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_many),    cmocka_unit_test(test_guard),
        cmocka_unit_test(test_huge),    cmocka_unit_test(test_dirtylog),
        cmocka_unit_test(test_iovpool),
    };

    return cmocka_run_group_tests_name("memmap", tests, NULL, NULL);
}
