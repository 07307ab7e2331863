/* SPDX-License-Identifier: MIT */
/*
 * test_ring_threads.c - driver and device in two threads: polling and sleeping on eventfds
 * without a lost wake-up, and a guest that rewrites everything while the device looks.
 */
#include "ring_common.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#define SIZE 64u

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#elif __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

/* Sanitizers slow this down by an order of magnitude. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define EXCHANGES 100000u
#else
#define EXCHANGES 5000000u
#endif

struct pair {
    struct rig rig;
    bool sleep; /* wait on the eventfds whenever there is nothing to do */
    uint64_t chains;
    int kick, call;
    bool stop;
    uint64_t sleeps;
};

/* A lost wake-up shows here: nothing in flight takes anywhere near this long. */
static void wait_for(int fd, const char *who)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t n;

    if (poll(&p, 1, 20000) != 1) {
        fprintf(stderr, "%s: a wake-up was lost\n", who);
        abort();
    }
    CHECK(read(fd, &n, sizeof(n)) == sizeof(n));
}

static void notify(int fd)
{
    uint64_t one = 1;

    CHECK(write(fd, &one, sizeof(one)) == sizeof(one));
}

static void *device_main(void *arg)
{
    struct virtq_chain *c[VIRTQ_BURST];
    struct pair *p = arg;
    struct virtq *vq = &p->rig.vq;
    uint64_t done = 0;

    virtq_disarm(vq);
    while (done < p->chains) {
        int n = virtq_take(vq, c, 1 + done % 7);

        CHECK(n >= 0);
        for (int i = 0; i < n; i++) {
            /* What the driver wrote before it offered the chain must be here. */
            CHECK(*(uint64_t *)c[i]->iov[0].iov_base == done + (unsigned)i);
            *(uint64_t *)c[i]->iov[1].iov_base = ~(done + (unsigned)i);
            virtq_push(vq, c[i], 8);
        }
        done += (unsigned)n;
        if (n > 0) {
            if (virtq_publish(vq))
                notify(p->call);
        } else if (!p->sleep) {
            sched_yield();
        } else if (virtq_arm(vq)) {
            wait_for(p->kick, "device");
            if (done % 3 == 0)
                virtq_disarm(vq);
        }
    }
    return NULL;
}

static void driver_reaps(struct pair *p, uint64_t *reaped)
{
    uint32_t lens[SIZE];
    uint16_t ids[SIZE];
    int n = virtq_driver_reap(&p->rig.driver, ids, lens, SIZE);

    CHECK(n >= 0);
    for (int i = 0; i < n; i++, ++*reaped) {
        CHECK(lens[i] == 8);
        CHECK(*(uint64_t *)rig_at(&p->rig, RIG_FAR + *reaped % SIZE * 64, 8) == ~*reaped);
    }
    if (n > 0)
        return;
    if (!p->sleep) {
        sched_yield();
    } else if (virtq_driver_arm(&p->rig.driver)) {
        p->sleeps++;
        wait_for(p->call, "driver");
        if (*reaped % 3 == 0)
            virtq_driver_disarm(&p->rig.driver);
    }
}

static void driver_main(struct pair *p)
{
    uint64_t added = 0, reaped = 0;

    virtq_driver_disarm(&p->rig.driver);
    while (reaped < p->chains) {
        for (unsigned burst = 1 + added % 5; burst > 0 && added < p->chains; burst--) {
            struct virtq_buffer bufs[2] = {{RIG_PART + added % SIZE * 64, 8},
                                           {RIG_FAR + added % SIZE * 64, 8}};

            if (added - reaped == SIZE || virtq_driver_add(&p->rig.driver, bufs, 1, 1) < 0)
                break;
            *(uint64_t *)rig_at(&p->rig, bufs[0].addr, 8) = added++;
        }
        if (virtq_driver_publish(&p->rig.driver))
            notify(p->kick);
        driver_reaps(p, &reaped);
    }
}

static void exchange(bool packed, bool event_idx, bool sleep)
{
    /* Each sleep is two context switches. */
    struct pair p = {.sleep = sleep, .chains = EXCHANGES / (sleep ? 10 : 1)};
    pthread_t device;

    rig_open(&p.rig, SIZE, packed, event_idx);
    p.kick = eventfd(0, EFD_CLOEXEC);
    p.call = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(pthread_create(&device, NULL, device_main, &p), 0);
    driver_main(&p);
    pthread_join(device, NULL);
    assert_int_equal(p.rig.driver.free_count, SIZE);
    if (sleep)
        assert_true(p.sleeps > 0);
    close(p.kick);
    close(p.call);
    rig_close(&p.rig);
}

static void test_polling(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++)
        exchange(kind & 1, kind & 2, false);
}

static void test_sleeping(void **state)
{
    for (unsigned kind = 0; kind < 4; kind++)
        exchange(kind & 1, kind & 2, true);
}

/* ---- The guest that rewrites ---------------------------------------------------------- */

/* These races are meant: TSan has nothing to say about them. */
#ifndef __SANITIZE_THREAD__
/* Descriptors, available entries and tables of plausible rubbish, without end. */
static void *scribble(void *arg)
{
    struct pair *p = arg;
    struct rig *rig = &p->rig;
    struct dt_rng rng;
    struct vring_avail *avail = rig_at(rig, rig->config.driver, 4);
    static const uint64_t addrs[] = {RIG_PART, RIG_FAR, RIG_TABLE, RIG_PART - 8, UINT64_MAX - 7};

    dt_rng_seed(&rng, 5);
    while (!__atomic_load_n(&p->stop, __ATOMIC_RELAXED)) {
        uint64_t x = dt_rng_next(&rng), at = x % SIZE;
        uint64_t table = RIG_TABLE + (x >> 8) % 64 * 16;
        uint64_t desc = rig->config.desc + at * 16;
        volatile struct vring_desc *d = rig_at(rig, x >> 16 & 1 ? table : desc, 16);

        d->addr = addrs[(x >> 20) % ARRAY_SIZE(addrs)];
        d->len = (x >> 24 & 3) ? (uint32_t)(x >> 26) % 1024 / 16 * 16 : (uint32_t)(x >> 26);
        if (rig->config.packed) {
            /* len, id, flags: mostly available in one of the two laps */
            ((volatile struct vring_packed_desc *)d)->id = (uint16_t)(x >> 40) % SIZE;
            ((volatile struct vring_packed_desc *)d)->flags =
                (uint16_t)((x >> 50 & 7) | (x >> 53 & 1 ? 1u << 7 : 1u << 15));
        } else {
            d->flags = (uint16_t)(x >> 50 & 7);
            d->next = (uint16_t)(x >> 40) % (SIZE + 1);
            ((volatile struct vring_avail *)avail)->ring[at] = (uint16_t)(x >> 32) % SIZE;
            if (x >> 57 == 0) /* seldom enough that the device is not always left behind */
                ((volatile struct vring_avail *)avail)->idx++;
        }
    }
    return NULL;
}

static void check_inside(const struct rig *rig, const struct virtq_chain *c)
{
    uint64_t lens[2] = {0, 0};

    CHECK(c->id < SIZE && (unsigned)c->nread + c->nwrite <= VIRTQ_MAX_IOV);
    for (unsigned i = 0; i < (unsigned)c->nread + c->nwrite; i++) {
        uint64_t gpa, len = c->iov[i].iov_len;

        CHECK(memmap_host_to_gpa(&rig->map, c->iov[i].iov_base, &gpa));
        CHECK(memmap_host(&rig->map, gpa, len) == c->iov[i].iov_base);
        lens[i >= c->nread] += len;
    }
    CHECK(lens[0] == c->read_len && lens[1] == c->write_len);
}

static void test_scribbling(void **state)
{
    for (int packed = 0; packed < 2; packed++) {
        struct pair p = {.stop = false};
        uint64_t taken = 0, faults = 0;
        pthread_t guest;

        rig_open(&p.rig, SIZE, packed, false);
        assert_int_equal(pthread_create(&guest, NULL, scribble, &p), 0);
        /* Until both have happened often, on however few cores. */
        for (unsigned turn = 0; turn < 100000 || taken < 1000 || faults < 1000; turn++) {
            struct virtq_chain *c[VIRTQ_BURST];
            const struct vring_avail *avail;
            int n = virtq_take(&p.rig.vq, c, VIRTQ_BURST);

            for (int i = 0; i < n; i++) {
                check_inside(&p.rig, c[i]);
                virtq_push(&p.rig.vq, c[i], 0);
            }
            virtq_publish(&p.rig.vq);
            taken += n > 0 ? (unsigned)n : 0;
            if (n >= 0)
                continue;
            /* A new session on the same, still hostile memory. */
            assert_true(p.rig.vq.fault[0] != 0);
            faults++;
            virtq_abandon(&p.rig.vq);
            avail = rig_at(&p.rig, p.rig.config.driver, 4);
            assert_int_equal(virtq_start(&p.rig.vq, &p.rig.config,
                                         packed ? 0x80008000u : READ_ONCE(avail->idx), false, NULL),
                             0);
        }
        p.stop = true;
        pthread_join(guest, NULL);
        assert_true(taken > 0 && faults > 0);
        rig_close(&p.rig);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_polling),
        cmocka_unit_test(test_sleeping),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test(test_scribbling),
#endif
    };

    return cmocka_run_group_tests_name("ring_threads", tests, NULL, NULL);
}
