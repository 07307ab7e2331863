/* SPDX-License-Identifier: MIT */
/* test_blob.c - state that outlives the process: two slots, torn ones, hostile ones. */
#include "core/core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <cmocka.h>

static struct blob_area *area;

static int setup(void **state)
{
    area = mmap(NULL, blob_area_size(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return area == MAP_FAILED;
}

static int teardown(void **state)
{
    return munmap(area, blob_area_size());
}

static int64_t fill(void *arg, void *bytes, size_t room)
{
    size_t n = strlen(arg);

    assert_true(n <= room);
    memcpy(bytes, arg, n);
    return (int64_t)n;
}

static int64_t fill_half(void *arg, void *bytes, size_t room)
{
    memset(bytes, 0xee, room);
    return -EIO;
}

static void save(const char *text)
{
    assert_int_equal(blob_write(area, 2, "layer", 7, fill, (void *)(uintptr_t)text), strlen(text));
}

static void expect(const char *text)
{
    char name[BLOB_NAME];
    uint32_t version;
    void *bytes;
    size_t length;

    assert_int_equal(blob_read(area, 2, name, &version, &bytes, &length), 0);
    assert_string_equal(name, "layer");
    assert_int_equal(version, 7);
    assert_int_equal(length, strlen(text));
    assert_memory_equal(bytes, text, length);
    free(bytes);
}

static int read_error(void)
{
    char name[BLOB_NAME];
    uint32_t version;
    void *bytes;
    size_t length;

    return blob_read(area, 2, name, &version, &bytes, &length);
}

static void test_newest_counts(void **state)
{
    assert_int_equal(read_error(), -ENOENT);
    save("one");
    expect("one");
    save("second");
    expect("second");
    save("3");
    expect("3");
    blob_clear(area, 2);
    assert_int_equal(read_error(), -ENOENT);
}

/* A save that fails half-way leaves what was there. */
static void test_failed_save(void **state)
{
    save("one");
    assert_int_equal(blob_write(area, 2, "layer", 7, fill_half, NULL), -EIO);
    expect("one");
    save("two");
    expect("two");
}

/* Any byte of the newest may be wrong: then the one before counts, or none; never a false one. */
static void test_torn(void **state)
{
    uint8_t *memory = (uint8_t *)area;
    unsigned older = 0, none = 0;

    for (size_t at = 0; at < 160; at++) {
        char name[BLOB_NAME];
        uint32_t version;
        void *bytes;
        size_t length, slot = blob_area_size() / (2 * BLOB_SLOTS);

        memset(memory + 4 * slot, 0, 4096);
        memset(memory + 5 * slot, 0, 4096);
        save("the one before");
        save("the newest");
        for (int i = 0; i < 2; i++)
            memory[(4 + (size_t)i) * slot + at] ^= i ? 0 : 0x55;
        if (blob_read(area, 2, name, &version, &bytes, &length) < 0) {
            none++;
            continue;
        }
        older += length == strlen("the one before");
        assert_true(length == strlen("the one before") || length == strlen("the newest"));
        assert_memory_equal(bytes, length == 10 ? "the newest" : "the one before", length);
        free(bytes);
    }
    assert_true(older > 0 || none == 0);
}

static void test_hostile(void **state)
{
    uint8_t *memory = (uint8_t *)area;
    size_t slot = blob_area_size() / (2 * BLOB_SLOTS);
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    for (unsigned n = 0; n < 2000; n++) {
        for (size_t i = 0; i < 256; i++) {
            memory[4 * slot + i] = (uint8_t)dt_rng_next(&rng);
            memory[5 * slot + i] = (uint8_t)dt_rng_next(&rng);
        }
        assert_int_equal(read_error(), -EBADMSG);
    }
    save("sane again");
    expect("sane again");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_newest_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
    };

    return cmocka_run_group_tests_name("blob", tests, NULL, NULL);
}
