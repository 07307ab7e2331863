/* SPDX-License-Identifier: MIT */
/*
 * map.c - what status() says of a disk at rest: what it calls zeroes or a hole must read as zeroes.
 *
 * Another thread asks, as the one that answers the control socket does; also under load, when the answers
 * cannot be judged.
 */
#include "tools/conformance/internal.h"

#define LOAD_NS DT_MS(20) /* between two looks */

/** struct asker - the thread that asks. @claims: of each sector, enum dt_status. @stop, @done: atomic. */
struct asker {
    struct bench *b;
    uint8_t *claims;
    bool again, stop, done;
    pthread_t thread;
};

static uint8_t *claims;

static void ask_all(struct asker *a)
{
    for (uint64_t at = 0; at < a->b->sectors;) {
        struct dt_extent e = {.sector = at, .sectors = a->b->sectors - at};

        device_status(a->b->dev, &e);
        memset(a->claims + at, (int)e.status, e.sectors);
        at += e.sectors;
    }
}

static void *ask_main(void *arg)
{
    struct asker *a = arg;

    do
        ask_all(a);
    while (a->again && !__atomic_load_n(&a->stop, __ATOMIC_ACQUIRE));
    __atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void ask_begin(struct asker *a, struct bench *b, bool again)
{
    *a = (struct asker){.b = b, .claims = claims, .again = again};
    CHECK(pthread_create(&a->thread, NULL, ask_main, a) == 0);
}

/* Its questions need the turns of the disk's thread, which is this one. */
static void ask_end(struct asker *a)
{
    __atomic_store_n(&a->stop, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&a->done, __ATOMIC_ACQUIRE))
        bench_step(a->b);
    pthread_join(a->thread, NULL);
}

static void compare(struct bench *b, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    struct load *load = &b->loads[0];
    char found[128];

    if (req->error)
        return;
    dt_iov_read(s->iov, s->niov, 0, load->scratch, dt_req_bytes(req));
    for (uint32_t i = 0; i < req->sectors; i++) {
        const uint8_t *bytes = load->scratch + i * DT_SECTOR_SIZE;
        uint64_t sector = req->sector + i;

        if (claims[sector] == DT_STATUS_DATA)
            continue;
        if (!content_is(bytes, b->seed, sector, VERSION_ZERO)) {
            content_describe(bytes, b->seed, sector, found, sizeof(found));
            bench_fail("sector %llu is said to be a %s, but holds %s", (unsigned long long)sector,
                       dt_status_name(claims[sector]), found);
        }
        b->verdict->count++;
    }
}

void property_map(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;
    struct asker asker;

    claims = xcalloc(BENCH_SECTORS, 1);
    bench_open(b, 1);
    do {
        ask_begin(&asker, b, true);
        bench_load(b, LOAD_NS);
        ask_end(&asker);
        bench_settle(b);
        ask_begin(&asker, b, false);
        ask_end(&asker);
        bench_pass(b, DT_OP_READ, compare);
    } while (dt_clock_ns() < end);
    bench_close(b);
    free(claims);
    if (b->verdict->count == 0)
        bench_skip("nothing is said to be zeroes or a hole");
}
