/* SPDX-License-Identifier: MIT */
/*
 * test_ext_twin_kill.c - a copy whose process is killed goes on where it was, and believes no region in which a write was
 * under way: here nobody sends such a write again, so nothing else would mend it.
 */
#include "ext_disk.h"
#include "scratch.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTORS 32768u /* 256 regions */
#define BYTES   (SECTORS * DT_SECTOR_SIZE)
#define DEPTH   32u
#define KILLS   4u

static uint8_t image[2][BYTES];
/* Of the process that serves, for the one that kills it: bytes copied so far, by all of them. */
static volatile uint64_t *copied;

static void open_copy(const char *more)
{
    disk_open("copy to='delay time=1ms jitter=1ms | file path=%s' %s | delay time=500us "
              "jitter=500us | file path=%s",
              path_of("new"), more, path_of("old"));
}

/* Writes all over the first half, some to one region at once; until it is killed. */
static _Noreturn void serve(unsigned seed, const char *more)
{
    static uint8_t bytes[DEPTH][8192];
    struct disk_slot *slots[DEPTH] = {NULL};

    open_copy(more);
    for (;;) {
        for (unsigned i = 0; i < DEPTH; i++) {
            unsigned r = (unsigned)rand_r(&seed);

            if (slots[i] && slots[i]->busy)
                continue;
            memset(bytes[i], (int)(r >> 3), sizeof(bytes[i]));
            slots[i] = disk_submit(r % 64 ? DT_OP_WRITE : DT_OP_DISCARD, 0,
                                   8 * (r / 64 % (r & 1 ? 16 : SECTORS / 16)), 16,
                                   r % 64 ? bytes[i] : NULL);
        }
        loop_turn(disk.loop, false);
        *copied = strtoull(disk_status("copy", "bytes-copied"), NULL, 10);
    }
}

/* Until so much has been copied. */
static void serve_and_kill(unsigned seed, const char *more, uint64_t until)
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0)
        serve(seed, more);
    while (*copied < until && waitpid(child, NULL, WNOHANG) == 0)
        usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_true(*copied >= until); /* it did not end by itself */
}

static void assert_same(void)
{
    get_file(path_of("old"), image[0], BYTES);
    get_file(path_of("new"), image[1], BYTES);
    assert_memory_equal(image[0], image[1], BYTES);
}

static void begin(void)
{
    memset(disk.blobs, 0, blob_area_size());
    *copied = 0;
    memset(image[0], 7, BYTES);
    put_file(path_of("old"), image[0], BYTES);
    memset(image[0], 3, BYTES);
    put_file(path_of("new"), image[0], BYTES);
}

static void test_resumes(void **state)
{
    begin();
    for (unsigned i = 1; i <= KILLS; i++)
        serve_and_kill(i, "", i * BYTES / (KILLS + 1));
    open_copy("");
    assert_true(strtoull(disk_status("copy", "bytes-left"), NULL, 10) < BYTES / 2);
    disk_until("copy", "state", "in step");
    assert_true(disk_counter("copy", "copied") < BYTES / 2);
    disk_rest_and_close();
    assert_same();
}

/* In step when it is killed: nothing is left but what was under way. */
static void test_in_step(void **state)
{
    begin();
    for (unsigned i = 0; i < KILLS; i++)
        serve_and_kill(i, "", BYTES + i * BYTES / 8);
    open_copy("");
    assert_true(strtoull(disk_status("copy", "bytes-left"), NULL, 10) > 0);
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
    assert_same();
}

/* What a process left that had another chain beside it, or none, is not believed. */
static void test_anew(void **state)
{
    begin();
    serve_and_kill(1, "", BYTES / 2);
    assert_int_equal(rename(path_of("new"), path_of("other")), 0);
    open_copy("");
    assert_string_equal(disk_status("copy", "state"), "absent");
    memset(image[0], 9, 8192);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 16, image[0]), 0);
    disk_rest_and_close();
    assert_int_equal(rename(path_of("other"), path_of("new")), 0);
    open_copy("rate=1K");
    assert_int_equal(strtoull(disk_status("copy", "bytes-left"), NULL, 10), BYTES);
    disk_set("copy", "rate", "0");
    disk_until("copy", "state", "in step");
    disk_rest_and_close();
    assert_same();
}

static int make_dir(void **state)
{
    scratch_make();
    disk.blobs = mmap(NULL, blob_area_size(), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    copied = mmap(NULL, sizeof(*copied), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return disk.blobs == MAP_FAILED || copied == MAP_FAILED ? -1 : 0;
}

static int remove_dir(void **state)
{
    return scratch_remove((const char *const[]){"old", "new", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumes),
        cmocka_unit_test(test_in_step),
        cmocka_unit_test(test_anew),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
