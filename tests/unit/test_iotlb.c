/* SPDX-License-Identifier: MIT */
/* test_iotlb.c - translations alone, and against a model of a page table. */
#include "ring_common.h"

#include "ring/internal.h"

#include <sys/mman.h>

#define PAGE  4096ull
#define PAGES 64u
#define GPA   0x40000000ull
#define UVA   0x7f0000000000ull
#define RW    (MEMMAP_READ | MEMMAP_WRITE)

static struct memmap memory;
static struct iotlb *tlb;
static const struct memmap *view;

/* Two regions that adjoin for the guest, each of half the pages. */
static int setup(void **state)
{
    int fd = memfd_create("iotlb-test", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
    memmap_init(&memory);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(memmap_add(&memory, GPA + i * PAGES / 2 * PAGE, UVA + i * PAGES / 2 * PAGE,
                                    PAGES / 2 * PAGE, fd, i * PAGES / 2 * PAGE, NULL),
                         0);
    close(fd);
    tlb = iotlb_new();
    iotlb_bind(tlb, &memory);
    view = iotlb_view(tlb);
    return 0;
}

static int teardown(void **state)
{
    iotlb_free(tlb);
    memmap_clear(&memory);
    return 0;
}

static int look(uint64_t iova, uint32_t len, enum memmap_access access, struct iovec *iov,
                unsigned max)
{
    unsigned hint = 0;

    return memmap_iov(view, iova, len, access, iov, max, &hint);
}

static void *host(unsigned page, unsigned off)
{
    return (uint8_t *)memmap_host(&memory, GPA + page * PAGE, 1) + off;
}

static void pieces_are_joined_where_they_adjoin(void **state)
{
    struct iovec iov[4];

    assert_int_equal(iotlb_update(tlb, 0x10000, PAGE, UVA + 3 * PAGE, RW), 0);
    assert_int_equal(iotlb_update(tlb, 0x11000, PAGE, UVA + 4 * PAGE, RW), 0);
    assert_int_equal(iotlb_update(tlb, 0x12000, PAGE, UVA + 9 * PAGE, RW), 0);
    assert_int_equal(look(0x10800, 0x1800, MEMMAP_WRITE, iov, 4), 1);
    assert_ptr_equal(iov[0].iov_base, host(3, 0x800));
    assert_int_equal(iov[0].iov_len, 0x1800);
    assert_int_equal(look(0x11ff0, 0x20, MEMMAP_READ, iov, 4), 2);
    assert_ptr_equal(iov[1].iov_base, host(9, 0));
    assert_int_equal(iov[1].iov_len, 0x10);
    assert_int_equal(look(0x11ff0, 0x20, MEMMAP_READ, iov, 1), -E2BIG);
}

/* The file is one, but who hands a vector on looks it up in one region. */
static void pieces_of_two_regions_stay_apart(void **state)
{
    struct iovec iov[4];

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(iotlb_update(tlb, i * PAGE, PAGE, UVA + (PAGES / 2 - 1 + i) * PAGE, RW),
                         0);
    assert_int_equal(look(0, 2 * PAGE, MEMMAP_READ, iov, 4), 2);
}

static void a_range_that_wraps_is_outside(void **state)
{
    struct iovec iov[4];

    assert_int_equal(iotlb_update(tlb, UINT64_MAX - PAGE + 1, PAGE, UVA, RW), 0);
    assert_int_equal(look(UINT64_MAX - 0xf, 0x10, MEMMAP_READ, iov, 4), 1);
    assert_int_equal(look(UINT64_MAX - 0xf, 0x11, MEMMAP_READ, iov, 4), -EFAULT);
    iotlb_invalidate(tlb, UINT64_MAX, 5);
    assert_int_equal(look(UINT64_MAX - 0xf, 0x10, MEMMAP_READ, iov, 4), -EAGAIN);
}

static void misses_are_told_once_and_page_by_page(void **state)
{
    struct iovec iov[4];
    unsigned access;
    uint64_t iova;

    assert_int_equal(iotlb_update(tlb, 0x21000, PAGE, UVA, RW), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(look(0x20ff0, 0x1100, MEMMAP_WRITE, iov, 4), -EAGAIN);
    assert_true(iotlb_next_miss(tlb, &iova, &access));
    assert_int_equal(iova, 0x20000);
    assert_int_equal(access, MEMMAP_WRITE);
    assert_true(iotlb_next_miss(tlb, &iova, &access));
    assert_int_equal(iova, 0x22000);
    assert_false(iotlb_next_miss(tlb, &iova, &access));
    /* Taken back before the answer came: it is asked for again. */
    iotlb_invalidate(tlb, 0x20000, PAGE);
    assert_int_equal(look(0x20000, 1, MEMMAP_READ, iov, 4), -EAGAIN);
    assert_true(iotlb_next_miss(tlb, &iova, &access));
    assert_int_equal(iova, 0x20000);
    assert_int_equal(access, MEMMAP_READ);
}

static void a_denied_right_is_final_until_it_is_given(void **state)
{
    struct iovec iov[4];

    assert_int_equal(iotlb_update(tlb, 0, PAGE, UVA, MEMMAP_READ), 0);
    assert_int_equal(look(0, 1, MEMMAP_WRITE, iov, 4), -EAGAIN);
    assert_int_equal(iotlb_update(tlb, 0, PAGE, UVA, MEMMAP_READ), 0);
    assert_int_equal(look(0, 1, MEMMAP_WRITE, iov, 4), -EACCES);
    assert_int_equal(look(0, 1, MEMMAP_READ, iov, 4), 1);
    assert_int_equal(iotlb_update(tlb, 0, PAGE, UVA, RW), 0);
    assert_int_equal(look(0, 1, MEMMAP_WRITE, iov, 4), 1);
}

static void other_memory_forgets_all(void **state)
{
    struct iovec iov[4];
    int fd = memfd_create("more", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(iotlb_update(tlb, 0, PAGE, UVA, RW), 0);
    assert_int_equal(memmap_add(&memory, 0, 0, PAGE, fd, 0, NULL), 0);
    assert_int_equal(look(0, 1, MEMMAP_READ, iov, 4), -EAGAIN);
    assert_int_equal(iotlb_update(tlb, 0, PAGE, UVA, RW), 0);
    assert_int_equal(memmap_remove(&memory, 0, 0, PAGE), 0);
    assert_int_equal(look(0, 1, MEMMAP_READ, iov, 4), -EAGAIN);
    close(fd);
}

struct model {
    int page; /* -1: not known */
    unsigned access;
};

/* Every byte of a range is where the model has it, with the right, or the range is missing. */
static void compare(const struct model *model, uint64_t iova, uint32_t len, unsigned access)
{
    struct iovec iov[PAGES + 1];
    int n = look(iova, len, (enum memmap_access)access, iov, PAGES + 1);
    bool there = true;
    uint64_t done = 0;

    for (uint64_t p = iova / PAGE; p <= (iova + len - 1) / PAGE; p++)
        there = there && model[p].page >= 0 && (access & ~model[p].access) == 0;
    if (!there) {
        assert_true(n == -EAGAIN || n == -EACCES);
        return;
    }
    assert_true(n > 0);
    for (int i = 0; i < n; done += iov[i++].iov_len)
        for (size_t b = 0; b < iov[i].iov_len; b += 256) {
            uint64_t at = iova + done + b;

            assert_ptr_equal((uint8_t *)iov[i].iov_base + b,
                             host((unsigned)model[at / PAGE].page, at % PAGE));
        }
    assert_int_equal(done, len);
}

static void a_page_table_and_its_model_agree(void **state)
{
    struct model model[PAGES * 2];
    struct dt_rng rng;
    uint64_t iova;
    unsigned access;

    for (unsigned i = 0; i < ARRAY_SIZE(model); i++)
        model[i] = (struct model){-1, 0};
    dt_rng_seed(&rng, 11);
    for (unsigned round = 0; round < 50000; round++) {
        uint64_t r = dt_rng_next(&rng);
        unsigned at = r % PAGES, n = 1 + (r >> 8) % 5, to = (r >> 16) % (PAGES - 5),
                 right = 1 + (r >> 32) % 3;

        if ((r >> 40) % 4 == 0) {
            iotlb_invalidate(tlb, at * PAGE, n * PAGE);
            for (unsigned i = 0; i < n; i++)
                model[at + i].page = -1;
        } else if ((r >> 40) % 4 == 1) {
            if (iotlb_update(tlb, at * PAGE, n * PAGE, UVA + to * PAGE, right) < 0)
                continue; /* across two regions */
            for (unsigned i = 0; i < n; i++)
                model[at + i] = (struct model){(int)(to + i), right};
        } else {
            compare(model, at * PAGE + (r >> 44) % PAGE, 1 + (r >> 20) % (4 * PAGE),
                    1 + (r >> 60) % 2);
        }
        /* An entry that overlaps what changes goes as a whole: the model follows by asking. */
        for (unsigned i = 0; i < ARRAY_SIZE(model); i++)
            if (model[i].page >= 0 && !iotlb_allows(tlb, i * PAGE, PAGE, model[i].access))
                model[i].page = -1;
        while (iotlb_next_miss(tlb, &iova, &access))
            ;
    }
}

static void there_is_always_room(void **state)
{
    struct iovec iov[4];

    for (uint64_t i = 0; i < IOTLB_ENTRIES * 2; i++) {
        assert_int_equal(iotlb_update(tlb, i * 2 * PAGE, PAGE, UVA, RW), 0);
        assert_int_equal(look(i * 2 * PAGE, 16, MEMMAP_READ, iov, 4), 1);
    }
    assert_int_equal(iotlb_count(tlb), IOTLB_ENTRIES);
    assert_int_equal(iotlb_stats(tlb)->evictions, IOTLB_ENTRIES);
    iotlb_invalidate(tlb, 0, 0);
    assert_int_equal(iotlb_count(tlb), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(pieces_are_joined_where_they_adjoin),
        TEST(pieces_of_two_regions_stay_apart),
        TEST(a_range_that_wraps_is_outside),
        TEST(misses_are_told_once_and_page_by_page),
        TEST(a_denied_right_is_final_until_it_is_given),
        TEST(other_memory_forgets_all),
        TEST(a_page_table_and_its_model_agree),
        TEST(there_is_always_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
