/* SPDX-License-Identifier: MIT */
/*
 * test_fastpath.c - once a ring has warmed up, no request makes our code allocate or lock. The
 * linker routes every such call of ours through the counters below (--wrap); they count what the
 * serving thread does.
 */
#include "soft_disk.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define WARM_UP  20000u
#define REQUESTS 100000u
#define DEPTH    32u

static __thread bool serving;
static uint64_t allocations, locks;

static void count(uint64_t *counter)
{
    if (serving)
        __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

#define WRAP(type, name, counter, args, ...) \
    type __real_##name args;                 \
    type __wrap_##name args;                 \
    type __wrap_##name args                  \
    {                                        \
        count(&counter);                     \
        return __real_##name(__VA_ARGS__);   \
    }
WRAP(void *, malloc, allocations, (size_t n), n)
WRAP(void *, calloc, allocations, (size_t n, size_t m), n, m)
WRAP(void *, realloc, allocations, (void *p, size_t n), p, n)
WRAP(void *, aligned_alloc, allocations, (size_t a, size_t n), a, n)
WRAP(void, free, allocations, (void *p), p)
WRAP(int, pthread_mutex_lock, locks, (pthread_mutex_t * m), m)
WRAP(int, pthread_rwlock_rdlock, locks, (pthread_rwlock_t * l), l)
WRAP(int, pthread_spin_lock, locks, (pthread_spinlock_t * l), l)

static void now_serving(void)
{
    serving = true;
}

static void drive(struct vblk *driver, uint64_t requests)
{
    uint64_t sectors = vblk_info(driver)->disk.capacity, done = 0, submitted = 0;
    struct vblk_queue *q = vblk_queue(driver, 0);
    struct vblk_request *idle[DEPTH], *back[DEPTH];
    unsigned nidle = 0;

    for (unsigned i = 0; i < DEPTH; i++)
        idle[nidle++] = vblk_request(q, i);
    vblk_poll(q);
    while (done < requests) {
        int n;

        while (nidle > 0 && submitted < requests) {
            struct vblk_request *req = idle[--nidle];

            req->type = submitted % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
            req->bytes = 4096;
            req->sector = submitted++ * 8 % (sectors - 8);
            vblk_submit(q, req);
        }
        vblk_publish(q);
        n = vblk_reap(q, back, DEPTH);
        assert_true(n >= 0);
        for (int i = 0; i < n; i++) {
            assert_int_equal(back[i]->status, VIRTIO_BLK_S_OK);
            idle[nidle++] = back[i];
        }
        done += (unsigned)n;
    }
}

static void check(const char *chain, bool packed)
{
    struct vblk_config config = {
        .queues = 1, .depth = DEPTH, .bytes = 4096, .packed = packed, .timeout_ms = 5000};
    struct soft_disk disk = {.on_thread = now_serving};
    struct vblk *driver;
    struct dt_error err;

    soft_disk_start(&disk, chain);
    config.path = disk.socket;
    if (vblk_open(&driver, &config, &err) < 0)
        fail_msg("%s", err.text);
    drive(driver, WARM_UP);
    __atomic_store_n(&allocations, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&locks, 0, __ATOMIC_RELAXED);
    drive(driver, REQUESTS);
    assert_int_equal(__atomic_load_n(&allocations, __ATOMIC_RELAXED), 0);
    assert_int_equal(__atomic_load_n(&locks, __ATOMIC_RELAXED), 0);
    vblk_close(driver);
    soft_disk_stop(&disk);
}

static void null_allocates_and_locks_nothing(void **state)
{
    check("null size=1G", false);
    check("null size=1G", true);
}

static void mem_allocates_and_locks_nothing(void **state)
{
    check("mem size=16M", false);
    check("mem size=16M", true);
}

static void file_allocates_and_locks_nothing(void **state)
{
    char path[] = "fastpath-XXXXXX", chain[64];
    int fd = mkstemp(path);

    assert_true(fd >= 0 && ftruncate(fd, 16 << 20) == 0);
    close(fd);
    snprintf(chain, sizeof(chain), "file path=%s", path);
    check(chain, false);
    check(chain, true);
    unlink(path);
}

/* The tap's thread serves, and drives the rear's ring. */
static void tap_allocates_and_locks_nothing(void **state)
{
    struct soft_disk rear = {0};
    char chain[128];

    soft_disk_start(&rear, "null size=1G");
    snprintf(chain, sizeof(chain), "vhost-user path=%s", rear.socket);
    check(chain, false);
    soft_disk_stop(&rear);
}

/* The counters do see what the serving thread does: opening a session allocates. */
static void the_counters_count(void **state)
{
    struct soft_disk disk = {.on_thread = now_serving};
    struct vblk_config config = {.queues = 1, .depth = 1, .bytes = 512, .timeout_ms = 5000};
    struct vblk *driver;
    struct dt_error err;

    __atomic_store_n(&allocations, 0, __ATOMIC_RELAXED);
    soft_disk_start(&disk, "null size=1G");
    config.path = disk.socket;
    assert_int_equal(vblk_open(&driver, &config, &err), 0);
    assert_true(__atomic_load_n(&allocations, __ATOMIC_RELAXED) > 0);
    vblk_close(driver);
    soft_disk_stop(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_counters_count),
        cmocka_unit_test(null_allocates_and_locks_nothing),
        cmocka_unit_test(mem_allocates_and_locks_nothing),
        cmocka_unit_test(file_allocates_and_locks_nothing),
        cmocka_unit_test(tap_allocates_and_locks_nothing),
    };

    blk_register_builtin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
