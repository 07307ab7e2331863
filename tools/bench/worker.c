/* SPDX-License-Identifier: MIT */
/*
 * worker.c - one thread that keeps its queues full.
 *
 * What it costs must not show:
 * - Requests are reaped and submitted again in bursts of half the depth, and the ring is published
 *   once per burst. With all of them in one burst, one side would always wait for the other.
 * - Only some requests are timed, since reading the clock costs as much as a request may.
 */
#include "tools/bench/load.h"

#include <sched.h>
#include <stdio.h>
#include <time.h>

#define BURST           32u
#define SLEEP_MS        20
#define LOOKS_PER_CLOCK 16u               /* a look is cheaper than the clock */
#define BLOCK_TAG       0xffffffffffffull /* the low bits of a tag: its block */
#define TIMED_TAG       (1ull << 63)

static inline void count(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static void problem(struct worker *w, const char *text)
{
    if (!w->first_problem[0])
        snprintf(w->first_problem, sizeof(w->first_problem), "%s", text);
}

/* ---- Choosing ------------------------------------------------------------------------------ */

static inline uint64_t scale(uint64_t random, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random * bound) >> 64);
}

static inline uint64_t choose_block(struct worker *w, const struct load *load)
{
    uint64_t block;

    if (load->random)
        return scale(dt_rng_next(&w->rng), load->blocks);
    block = w->next_block;
    w->next_block += load->threads; /* all threads together walk the range */
    if (w->next_block >= load->blocks)
        w->next_block = w->index % load->blocks;
    return block;
}

static inline bool choose_write(struct worker *w, const struct load *load)
{
    if (!load->reads || !load->writes)
        return load->writes;
    return (uint32_t)dt_rng_next(&w->rng) >= load->read_share;
}

/* Until one is found that may be used now: the others are busy with a write. */
static uint64_t claim_block(struct worker *w, const struct load *load, bool write)
{
    uint64_t block = choose_block(w, load);

    while (!verify_claim(load->verify, block, write)) {
        w->claim_misses++;
        block = block + 1 < load->blocks ? block + 1 : 0;
    }
    return block;
}

/* ---- The load ------------------------------------------------------------------------------ */

/* Reading the clock is 20 ns; on a request that takes 100 it is done for few. */
static inline void maybe_time(struct worker *w, struct vblk_request *req, uint64_t *starts)
{
    if (likely(--w->countdown))
        return;
    w->countdown = __atomic_load_n(&w->sample_every, __ATOMIC_RELAXED);
    *starts = dt_clock_ns();
    req->tag |= TIMED_TAG;
}

static inline void send(struct worker *w, const struct load *load, struct vblk_queue *q,
                        struct vblk_request *req, uint64_t *starts)
{
    bool write = choose_write(w, load);
    uint64_t block;

    if (unlikely(load->verify)) {
        block = claim_block(w, load, write);
        if (write)
            verify_fill(load->verify, block, req->data);
    } else {
        block = choose_block(w, load);
    }
    req->type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    req->sector = block * (load->bytes >> DT_SECTOR_SHIFT);
    req->bytes = load->bytes;
    req->tag = block;
    maybe_time(w, req, starts);
    vblk_submit(q, req);
}

static void verify_done(struct worker *w, const struct load *load, struct vblk_request *req)
{
    bool write = req->type != VIRTIO_BLK_T_IN, ok = req->status == VIRTIO_BLK_S_OK;
    uint64_t block = req->tag & BLOCK_TAG;
    char why[200];

    if (write)
        verify_acknowledge(load->verify, block, ok);
    else if (ok && !verify_check(load->verify, block, req->data, why, sizeof(why))) {
        count(&w->mismatches, 1);
        problem(w, why);
    }
    verify_release(load->verify, block, write);
}

static void failed(struct worker *w, const struct vblk_request *req)
{
    char text[120];

    count(&w->errors, 1);
    snprintf(text, sizeof(text), "a %s of sector %llu came back with status %u",
             req->type == VIRTIO_BLK_T_OUT  ? "write"
             : req->type == VIRTIO_BLK_T_IN ? "read"
                                            : "flush after a write",
             (unsigned long long)req->sector, req->status);
    problem(w, text);
}

/* Times of a queue's requests in flight, by their index. */
struct clocks {
    struct vblk_queue *q;
    struct vblk_request *first;
    uint64_t *starts;
    unsigned burst;
};

static inline void finish(struct worker *w, const struct load *load, struct vblk_request *req,
                          uint64_t *start)
{
    if (unlikely(req->tag & TIMED_TAG))
        histogram_add(&w->latencies, dt_clock_ns() - *start);
    if (unlikely(req->status != VIRTIO_BLK_S_OK))
        failed(w, req);
    if (unlikely(load->verify))
        verify_done(w, load, req);
}

/* A write that is to be durable: it is over when its flush is. */
static bool flush_next(const struct load *load, struct vblk_queue *q, struct vblk_request *req)
{
    if (!load->flush || req->type != VIRTIO_BLK_T_OUT || req->status != VIRTIO_BLK_S_OK)
        return false;
    req->type = VIRTIO_BLK_T_FLUSH;
    req->bytes = 0;
    vblk_submit(q, req);
    return true;
}

/* Reaps one queue and, where @again, submits what came back. Returns how many, or -EPROTO. */
static int serve(struct worker *w, const struct load *load, const struct clocks *c, bool again)
{
    struct vblk_request *done[BURST];
    int n = vblk_reap(c->q, done, c->burst), over = n;

    if (n <= 0)
        return n;
    for (int i = 0; i < n; i++) {
        uint64_t *start = &c->starts[done[i] - c->first];

        if (unlikely(again && flush_next(load, c->q, done[i]))) {
            over--;
            continue;
        }
        finish(w, load, done[i], start);
        if (likely(again))
            send(w, load, c->q, done[i], start);
    }
    count(&w->done, (uint64_t)over);
    if (likely(again))
        vblk_publish(c->q);
    return n;
}

static void fill(struct worker *w, const struct load *load, const struct clocks *c)
{
    for (unsigned i = 0; i < load->depth; i++) {
        struct vblk_request *req = vblk_request(c->q, i);

        if (!req->busy)
            send(w, load, c->q, req, &c->starts[i]);
    }
    vblk_publish(c->q);
}

/* ---- The thread ---------------------------------------------------------------------------- */

static void set_now(struct worker *w, enum worker_state state)
{
    __atomic_store_n(&w->now, state, __ATOMIC_RELEASE);
}

static enum worker_state wanted(const struct worker *w)
{
    return (enum worker_state)__atomic_load_n(&w->want, __ATOMIC_ACQUIRE);
}

static void broken_ring(struct worker *w, const struct clocks *c)
{
    count(&w->twice, 1);
    problem(w, vblk_fault(c->q));
    __atomic_store_n(&w->want, WORKER_QUIT, __ATOMIC_RELEASE);
}

static bool serve_all(struct worker *w, const struct load *load, struct clocks *clocks, unsigned n,
                      bool again)
{
    int total = 0;

    for (unsigned i = 0; i < n; i++) {
        int ret = serve(w, load, &clocks[i], again);

        if (unlikely(ret < 0)) {
            broken_ring(w, &clocks[i]);
            return false;
        }
        total += ret;
    }
    if (total > 0)
        spin_found(&w->spin);
    else if (load->sleep && n == 1)
        vblk_wait(clocks[0].q, SLEEP_MS);
    else if (++w->looks % LOOKS_PER_CLOCK == 0)
        spin_idle(&w->spin, dt_clock_ns());
    return total > 0;
}

static unsigned in_flight(const struct clocks *clocks, unsigned n)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += vblk_in_flight(clocks[i].q);
    return sum;
}

static void doze(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* The back end is gone: what it had finished still counts, then nobody may touch the rings. */
static void pause_here(struct worker *w, const struct load *load, struct clocks *clocks, unsigned n)
{
    while (serve_all(w, load, clocks, n, false))
        ;
    set_now(w, WORKER_PAUSE);
    while (wanted(w) == WORKER_PAUSE)
        doze();
}

static void work(struct worker *w, const struct load *load, struct clocks *clocks, unsigned n)
{
    enum worker_state state = WORKER_PAUSE;

    while ((state = wanted(w)) != WORKER_QUIT) {
        if (state == WORKER_PAUSE) {
            pause_here(w, load, clocks, n);
            continue;
        }
        if (state == WORKER_RUN && w->now != WORKER_RUN) {
            set_now(w, WORKER_RUN);
            for (unsigned i = 0; i < n; i++)
                fill(w, load, &clocks[i]);
        }
        serve_all(w, load, clocks, n, state == WORKER_RUN);
        if (state == WORKER_DRAIN && in_flight(clocks, n) == 0)
            break;
    }
    set_now(w, WORKER_QUIT);
}

static void pin(const struct worker *w)
{
    cpu_set_t set;

    if (w->cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)w->cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* What is written: not zeroes, nor anything that could be packed, for layers take those for less work. */
static void make_data(const struct load *load, unsigned queue)
{
    struct dt_rng rng;

    dt_rng_seed(&rng, load->seed + queue);
    for (unsigned i = 0; load->writes && i < load->depth; i++) {
        uint64_t *words = (uint64_t *)vblk_request(vblk_queue(load->driver, queue), i)->data;

        for (uint32_t w = 0; w < load->bytes / sizeof(*words); w++)
            words[w] = dt_rng_next(&rng);
    }
}

static void *run_worker(void *arg)
{
    struct worker *w = arg;
    const struct load *load = w->load;
    struct clocks clocks[VHOST_MAX_QUEUES];
    unsigned n = 0;

    pin(w);
    for (unsigned q = w->index; q < load->queues; q += load->threads) {
        struct clocks *c = &clocks[n++];

        c->q = vblk_queue(load->driver, q);
        c->first = vblk_request(c->q, 0);
        make_data(load, q);
        c->starts = xcalloc(load->depth, sizeof(uint64_t));
        c->burst = MAX(1u, MIN(load->depth / 2, BURST));
        if (!load->sleep)
            vblk_poll(c->q);
    }
    work(w, load, clocks, n);
    for (unsigned i = 0; i < n; i++)
        free(clocks[i].starts);
    return NULL;
}

int worker_start(struct worker *w, struct dt_error *err)
{
    int ret;

    w->want = w->now = WORKER_PAUSE;
    w->sample_every = w->countdown = 1;
    w->next_block = w->index % w->load->blocks;
    dt_rng_seed(&w->rng, w->load->seed * 1000003 + w->index);
    ret = pthread_create(&w->thread, NULL, run_worker, w);
    return ret ? dt_fail(err, -ret, "cannot start a thread: %s", strerror(ret)) : 0;
}

bool worker_wait(struct worker *workers, unsigned n, enum worker_state state, int timeout_ms)
{
    for (unsigned i = 0; i < n; i++)
        while (__atomic_load_n(&workers[i].now, __ATOMIC_ACQUIRE) != state) {
            if (__atomic_load_n(&workers[i].now, __ATOMIC_ACQUIRE) == WORKER_QUIT)
                break;
            if (timeout_ms-- <= 0)
                return false;
            doze();
        }
    return true;
}

void worker_ask(struct worker *workers, unsigned n, enum worker_state state)
{
    for (unsigned i = 0; i < n; i++)
        if (wanted(&workers[i]) != WORKER_QUIT)
            __atomic_store_n(&workers[i].want, state, __ATOMIC_RELEASE);
}
