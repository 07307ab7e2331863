/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_cache.c - the data cache of a pool: by itself, and as disks see it.
 */
#include "parallax/data-cache.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define READERS 500u

/* ---- The cache by itself ---- */

/** struct alone - a cache, and blocks whose contents follow from their address. */
struct alone {
    struct data_cache *cache;
    struct pool_cache_counters counters;
    struct list all;
    uint32_t most;
};

static void alone_begin(struct alone *a, uint64_t bytes)
{
    *a = (struct alone){0};
    list_init(&a->all);
    assert_int_equal(data_cache_new(&a->cache, bytes, &a->counters, &a->all), 0);
    a->most = data_cache_most(a->cache);
}

static const uint8_t *block_of(uint64_t addr, uint32_t crc)
{
    static uint64_t words[PX_BLOCK / 8];

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        words[i] = addr * 1000003 + crc + i;
    return (const uint8_t *)words;
}

/** struct asker - who asked for a block. */
struct asker {
    struct store_io sio;
    _Alignas(8) uint8_t bytes[PX_BLOCK];
    uint64_t addr;
    uint32_t crc, fill;
    unsigned told;
    int result;
    struct alone *then; /* is asked for the same block once more, from within */
};

static void told(struct store_io *sio, int result)
{
    struct asker *a = container_of(sio, struct asker, sio);

    a->told++;
    a->result = result;
    if (result == 0)
        assert_memory_equal(a->bytes, block_of(a->addr, a->crc), PX_BLOCK);
    if (a->then) {
        struct asker again = {.sio.iov = {again.bytes, PX_BLOCK}};
        uint32_t fill;

        assert_int_equal(data_cache_get(a->then->cache, a->addr, a->crc, &again.sio, &fill),
                         result ? CACHE_FILL : CACHE_HIT);
        if (result)
            data_cache_filled(a->then->cache, fill, NULL);
    }
}

static enum cached ask(struct alone *c, struct asker *a, uint64_t addr, uint32_t crc)
{
    enum cached how;

    a->addr = addr;
    a->crc = crc;
    a->sio.done = told;
    a->sio.iov = (struct iovec){a->bytes, PX_BLOCK};
    how = data_cache_get(c->cache, addr, crc, &a->sio, &a->fill);
    if (how == CACHE_HIT)
        assert_memory_equal(a->bytes, block_of(addr, crc), PX_BLOCK);
    return how;
}

/* As one reader would who reads at once what is not there. True: it was. */
static bool use(struct alone *c, uint64_t addr)
{
    uint32_t crc = crc32c(0, &addr, sizeof(addr));
    struct asker a = {0};
    enum cached how = ask(c, &a, addr, crc);

    if (how == CACHE_FILL)
        data_cache_filled(c->cache, a.fill, block_of(addr, crc));
    else
        assert_int_equal(how, CACHE_HIT);
    return how == CACHE_HIT;
}

static void one_read_for_all(void **state)
{
    struct asker *askers = xcalloc(READERS, sizeof(*askers));
    struct alone c;

    alone_begin(&c, DATA_CACHE_LEAST);
    assert_int_equal(ask(&c, &askers[0], 5, 7), CACHE_FILL);
    for (unsigned i = 1; i < READERS; i++)
        assert_int_equal(ask(&c, &askers[i], 5, 7), CACHE_WAIT);
    askers[1].then = &c;
    data_cache_filled(c.cache, askers[0].fill, block_of(5, 7));
    for (unsigned i = 1; i < READERS; i++) {
        assert_int_equal(askers[i].told, 1);
        assert_int_equal(askers[i].result, 0);
    }
    assert_int_equal(ask(&c, &askers[0], 5, 7), CACHE_HIT);
    assert_int_equal(c.counters.misses, 1);
    assert_int_equal(c.counters.waits, READERS - 1);
    assert_int_equal(c.counters.hits, 2);
    data_cache_free_all(&c.all);
    free(askers);
}

static void a_failed_read_is_nobodys(void **state)
{
    struct asker askers[4] = {0};
    struct alone c;

    alone_begin(&c, DATA_CACHE_LEAST);
    assert_int_equal(ask(&c, &askers[0], 5, 7), CACHE_FILL);
    for (unsigned i = 1; i < 4; i++)
        assert_int_equal(ask(&c, &askers[i], 5, 7), CACHE_WAIT);
    askers[3].then = &c;
    data_cache_filled(c.cache, askers[0].fill, NULL);
    for (unsigned i = 1; i < 4; i++) {
        assert_int_equal(askers[i].told, 1);
        assert_int_equal(askers[i].result, -EAGAIN);
    }
    assert_int_equal(c.counters.failed, 2);
    assert_int_equal(data_cache_held(c.cache), 0);
    assert_false(use(&c, 5));
    assert_true(use(&c, 5));
    data_cache_free_all(&c.all);
}

/* A scan of many times the cache's size costs what is asked for again and again nothing. */
static void a_scan_leaves_the_rest(void **state)
{
    struct alone c;
    uint64_t hot;

    alone_begin(&c, 1 << 20);
    hot = c.most / 2;
    for (unsigned round = 0; round < 4; round++)
        for (uint64_t i = 0; i < hot; i++)
            assert_int_equal(use(&c, i), round > 0);
    for (uint64_t i = 0; i < 20 * c.most; i++)
        assert_false(use(&c, 1000000 + i));
    assert_int_equal(data_cache_held(c.cache), c.most);
    for (uint64_t i = 0; i < hot; i++)
        assert_true(use(&c, i));
    assert_int_equal(c.counters.evicted, hot + 20 * c.most - c.most);
    data_cache_free_all(&c.all);
}

/* What left, and is asked for soon after, is kept as if it had been asked for more often. */
static void who_comes_back_stays(void **state)
{
    struct alone c;

    alone_begin(&c, 1 << 20);
    for (uint64_t i = 0; i < c.most; i++)
        use(&c, i);
    for (uint64_t i = 0; i < c.most / 2; i++)
        use(&c, 5000 + i); /* now the first ones are out */
    assert_false(use(&c, 1));
    for (uint64_t i = 0; i < c.most / 2; i++)
        use(&c, 9000 + i);
    assert_true(use(&c, 1));
    assert_false(use(&c, 5000));
    data_cache_free_all(&c.all);
}

static void all_being_filled(void **state)
{
    struct asker *askers, more = {0};
    struct alone c;

    alone_begin(&c, DATA_CACHE_LEAST);
    askers = xcalloc(c.most, sizeof(*askers));
    for (uint64_t i = 0; i < c.most; i++)
        assert_int_equal(ask(&c, &askers[i], i, 7), CACHE_FILL);
    assert_int_equal(ask(&c, &more, 77, 7), CACHE_PASS);
    assert_int_equal(c.counters.passed, 1);
    for (uint64_t i = 0; i < c.most; i++)
        data_cache_filled(c.cache, askers[i].fill, block_of(i, 7));
    for (uint64_t i = 0; i < c.most; i++)
        assert_int_equal(ask(&c, &askers[i], i, 7), CACHE_HIT);
    assert_int_equal(ask(&c, &more, 77, 7), CACHE_FILL);
    data_cache_free_all(&c.all);
    free(askers);
}

/* A block that was given back is not found again, even if it is being read at the time. */
static void given_back(void **state)
{
    struct asker first = {0}, waits = {0}, second = {0}, third = {0};
    struct alone c;

    alone_begin(&c, DATA_CACHE_LEAST);
    assert_false(use(&c, 5));
    data_cache_drop(c.cache, 5);
    data_cache_drop(c.cache, 6);
    assert_int_equal(c.counters.dropped, 1);
    assert_int_equal(ask(&c, &first, 5, 7), CACHE_FILL);
    assert_int_equal(ask(&c, &waits, 5, 7), CACHE_WAIT);
    data_cache_drop(c.cache, 5);
    assert_int_equal(ask(&c, &second, 5, 8), CACHE_FILL); /* it has been written again */
    data_cache_filled(c.cache, first.fill, block_of(5, 7));
    assert_int_equal(waits.told, 1);
    assert_int_equal(ask(&c, &third, 5, 8), CACHE_WAIT);
    data_cache_filled(c.cache, second.fill, block_of(5, 8));
    assert_int_equal(third.told, 1);
    assert_int_equal(third.result, 0);
    assert_int_equal(ask(&c, &first, 5, 8), CACHE_HIT);
    assert_int_equal(ask(&c, &first, 5, 7), CACHE_PASS); /* two pointers contradict each other */
    assert_int_equal(data_cache_held(c.cache), 1);
    data_cache_free_all(&c.all);
}

/* One that is replaced goes on until all that began with it has ended. */
static void retired(void **state)
{
    struct asker first = {0}, waits = {0};
    struct alone c;

    alone_begin(&c, DATA_CACHE_LEAST);
    assert_int_equal(ask(&c, &first, 5, 7), CACHE_FILL);
    assert_int_equal(ask(&c, &waits, 5, 7), CACHE_WAIT);
    data_cache_retire(c.cache);
    assert_false(list_empty(&c.all));
    data_cache_filled(c.cache, first.fill, block_of(5, 7));
    assert_int_equal(waits.told, 1);
    assert_true(list_empty(&c.all));
}

static void sizes(void **state)
{
    struct alone c = {0};

    list_init(&c.all);
    assert_int_equal(data_cache_new(&c.cache, 1000, &c.counters, &c.all), -EINVAL);
    assert_int_equal(data_cache_new(&c.cache, (uint64_t)1 << 47, &c.counters, &c.all), -EINVAL);
    for (uint64_t bytes = DATA_CACHE_LEAST; bytes < 40 * DATA_CACHE_LEAST; bytes += 4096 + 129) {
        alone_begin(&c, bytes);
        for (uint64_t i = 0; i < 2 * c.most; i++)
            use(&c, i); /* the tables end where the memory does */
        assert_int_equal(data_cache_held(c.cache), c.most);
        assert_in_range(c.most, bytes * 96 / 100 / PX_BLOCK - 1, bytes / PX_BLOCK);
        data_cache_free_all(&c.all);
    }
}

/* Of random uses, what is found is right, and what is there is counted. */
static void random_use(void **state)
{
    enum { ADDRS = 60, ASKERS = 40 };
    struct asker *askers = xcalloc(ASKERS, sizeof(*askers));
    bool fills[ASKERS] = {false}, waits[ASKERS] = {false};
    uint32_t crc[ADDRS] = {0};
    struct dt_rng rng;
    struct alone c;

    dt_rng_seed(&rng, 3);
    alone_begin(&c, DATA_CACHE_LEAST + 10 * 4160);
    for (unsigned step = 0; step < 200000; step++) {
        unsigned i = (unsigned)dt_rng_below(&rng, ASKERS), addr;
        struct asker *a = &askers[i];

        addr = (unsigned)MIN(dt_rng_below(&rng, ADDRS), dt_rng_below(&rng, ADDRS));
        if (waits[i] && a->told)
            waits[i] = false;
        if (fills[i]) {
            bool good = dt_rng_below(&rng, 8);

            data_cache_filled(c.cache, a->fill, good ? block_of(a->addr, a->crc) : NULL);
            fills[i] = false;
        } else if (dt_rng_below(&rng, 10) == 0) {
            data_cache_drop(c.cache, addr);
            crc[addr]++;
        } else if (!waits[i]) {
            enum cached how;

            a->told = 0;
            how = ask(&c, a, addr, crc[addr]);
            fills[i] = how == CACHE_FILL;
            waits[i] = how == CACHE_WAIT;
        }
        assert_in_range(data_cache_held(c.cache), 0, c.most);
    }
    assert_true(c.counters.hits && c.counters.waits && c.counters.evicted && c.counters.dropped);
    data_cache_free_all(&c.all);
    free(askers);
}

/* ---- Disks of a pool ---- */

#define BLOCKS 256u

static uint8_t expected[BLOCKS]; /* each byte of each block of the template */

static void right(const struct px_io *io, unsigned block, unsigned count)
{
    const uint8_t *bytes = io->req.buf;

    for (unsigned i = 0; i < count; i++)
        for (unsigned k = 0; k < PX_BLOCK; k++)
            assert_int_equal(bytes[(size_t)i * PX_BLOCK + k], expected[block + i]);
}

/* A template of @BLOCKS blocks, and clones c1 and so on. */
static void make_template(struct px_use *u, unsigned clones)
{
    struct disk *disk = px_create(u, "t", BLOCKS);
    struct dt_error err;

    for (unsigned b = 0; b < BLOCKS; b += 32) {
        struct px_io *io = px_submit(disk, DISK_WRITE, b, 32);

        for (unsigned i = 0; i < 32; i++)
            expected[b + i] = ((uint8_t *)io->req.buf)[(size_t)i * PX_BLOCK];
        px_run(u);
        assert_int_equal(px_finish(io), 0);
    }
    px_snapshot(u, "t", "v1");
    disk_close(disk);
    assert_int_equal(pool_label(u->pool, px_slot(u, "t@v1"), NULL, &err), 0);
    assert_int_equal(pool_clone(u->pool, px_slot(u, "t@v1"), "c", clones, true, 1, &err), 0);
}

static void begin(struct px_use *u, uint64_t bytes, unsigned clones)
{
    struct dt_error err;

    px_begin(u, 8192);
    make_template(u, clones);
    assert_int_equal(pool_set_data_cache(u->pool, bytes, &err), 0);
    px_run(u);
}

static struct pool_cache_counters counters(const struct px_use *u)
{
    struct pool_data_cache now;

    pool_data_cache(u->pool, &now);
    return now.counters;
}

static struct disk *clone_of(struct px_use *u, unsigned i)
{
    char name[20];

    snprintf(name, sizeof(name), "c%u", i + 1);
    return px_open(u, name);
}

static void read_right(struct px_use *u, struct disk *disk, unsigned block, unsigned count)
{
    struct px_io *io = px_submit(disk, DISK_READ, block, count);

    px_run(u);
    right(io, block, count);
    assert_int_equal(px_finish(io), 0);
}

/* All clones ask at the same moment for ranges that overlap. */
static void storm(void **state)
{
    struct px_io **ios = xcalloc(READERS, sizeof(struct px_io *));
    struct disk **disks = xcalloc(READERS, sizeof(struct disk *));
    struct px_use u;
    uint64_t before;

    begin(&u, 2 << 20, READERS);
    for (unsigned i = 0; i < READERS; i++)
        disks[i] = clone_of(&u, i);
    before = u.store->reads;
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < READERS; i++)
            ios[i] = px_submit(disks[i], DISK_READ, round * 50 + i % 3, 40);
        px_run(&u);
        for (unsigned i = 0; i < READERS; i++) {
            right(ios[i], round * 50 + i % 3, 40);
            assert_int_equal(px_finish(ios[i]), 0);
        }
    }
    assert_int_equal(u.store->reads - before, 4 * 42);
    assert_int_equal(counters(&u).read, 4 * 42);
    assert_int_equal(counters(&u).misses, 4 * 42);
    assert_int_equal(counters(&u).hits + counters(&u).waits, 4 * (40 * READERS - 42));
    assert_in_range(counters(&u).waits, 1, 4 * 40 * READERS);
    for (unsigned i = 0; i < READERS; i++)
        disk_close(disks[i]);
    px_end(&u);
    free(disks);
    free(ios);
}

/* What a disk wrote itself goes past the cache, also where it has snapshots; what it writes over is its own from then on. */
static void private_blocks(void **state)
{
    struct disk *a, *b;
    struct px_use u;

    begin(&u, 2 << 20, 2);
    a = clone_of(&u, 0);
    b = clone_of(&u, 1);
    assert_int_equal(px_do(&u, a, DISK_WRITE, 10, 4), 0);
    px_snapshot(&u, "c1", "s");
    assert_int_equal(px_do(&u, a, DISK_READ, 10, 4), 0);
    assert_int_equal(px_do(&u, a, DISK_READ, 10, 4), 0);
    assert_int_equal(counters(&u).misses + counters(&u).hits + counters(&u).passed, 0);
    assert_int_equal(counters(&u).read, 8);
    assert_int_equal(px_do(&u, a, DISK_READ, 8, 8),
                     0); /* in one transfer before, four blocks, two */
    assert_int_equal(counters(&u).misses, 4);
    assert_int_equal(counters(&u).read, 16);
    read_right(&u, b, 8, 8);
    assert_int_equal(counters(&u).hits, 4);
    assert_int_equal(counters(&u).read, 20);
    disk_close(a);
    disk_close(b);
    px_end(&u);
}

/* A label makes what a disk in use has something that others may have. */
static void labelled_in_use(void **state)
{
    struct dt_error err;
    struct disk *a;
    struct px_use u;

    begin(&u, 2 << 20, 1);
    a = clone_of(&u, 0);
    assert_int_equal(px_do(&u, a, DISK_WRITE, 10, 4), 0);
    px_snapshot(&u, "c1", "s");
    assert_int_equal(px_do(&u, a, DISK_WRITE, 20, 4), 0);
    assert_int_equal(pool_label(u.pool, px_slot(&u, "c1@s"), NULL, &err), 0);
    assert_int_equal(px_do(&u, a, DISK_READ, 10, 4), 0);
    assert_int_equal(counters(&u).misses, 4);
    assert_int_equal(px_do(&u, a, DISK_READ, 20, 4), 0);
    assert_int_equal(counters(&u).misses, 4);
    disk_close(a);
    px_end(&u);
}

/* Where pointers that were merged lead. */
static void merged_blocks(void **state)
{
    struct dt_error err;
    struct disk *a, *b;
    struct px_use u;

    px_begin(&u, 4096);
    assert_int_equal(pool_set_data_cache(u.pool, 2 << 20, &err), 0);
    assert_int_equal(pool_set_share(u.pool, PX_SHARE_ON, SHARE_RATE, &err), 0);
    a = px_create(&u, "a", 16);
    b = px_create(&u, "b", 16);
    for (unsigned i = 0; i < 2; i++) {
        struct px_io *io = xcalloc(1, sizeof(*io));

        io->req = (struct disk_req){.op = DISK_WRITE, .length = PX_BLOCK, .done = px_done};
        io->req.buf = xaligned(PX_BLOCK, PX_BLOCK);
        memset(io->req.buf, 0x77, PX_BLOCK);
        disk_submit(i ? b : a, &io->req);
        px_run(&u);
        assert_int_equal(px_finish(io), 0);
    }
    while (pool_share_now(u.pool, 1 << 20) > 0)
        ;
    assert_int_equal(px_do(&u, a, DISK_READ, 0, 1), 0);
    assert_int_equal(px_do(&u, b, DISK_READ, 0, 1), 0);
    assert_int_equal(counters(&u).misses, 1);
    assert_int_equal(counters(&u).hits, 1);
    disk_close(a);
    disk_close(b);
    px_end(&u);
}

/* ---- What goes wrong ---- */

#define FEW 20u

static void open_few(struct px_use *u, struct disk **disks)
{
    begin(u, 2 << 20, FEW);
    for (unsigned i = 0; i < FEW; i++)
        disks[i] = clone_of(u, i);
}

static void close_few(struct px_use *u, struct disk **disks)
{
    for (unsigned i = 0; i < FEW; i++)
        disk_close(disks[i]);
    px_end(u);
}

static void submit_few(struct disk **disks, struct px_io **ios)
{
    for (unsigned i = 0; i < FEW; i++)
        ios[i] = px_submit(disks[i], DISK_READ, 100, 8);
}

/* A transfer that goes wrong once is nobody's fault; who waited for it reads for himself. */
static void wrong_once(void **state)
{
    struct disk *disks[FEW];
    struct px_io *ios[FEW];
    struct px_use u;

    open_few(&u, disks);
    u.store->spoil_reads = 1;
    submit_few(disks, ios);
    px_run(&u);
    for (unsigned i = 0; i < FEW; i++) {
        right(ios[i], 100, 8);
        assert_int_equal(px_finish(ios[i]), 0);
    }
    assert_int_equal(counters(&u).failed, 1);
    assert_int_equal(u.others, 0);
    close_few(&u, disks);
}

/* What cannot be read is an error of whose transfer it was, and of no other. */
static void an_error_is_not_shared(void **state)
{
    struct disk *disks[FEW];
    struct px_io *ios[FEW];
    unsigned errors = 0;
    struct px_use u;

    open_few(&u, disks);
    u.store->fail_reads = 1;
    submit_few(disks, ios);
    px_run(&u);
    for (unsigned i = 0; i < FEW; i++) {
        if (ios[i]->req.error == 0)
            right(ios[i], 100, 8);
        errors += px_finish(ios[i]) == -EIO;
    }
    assert_int_equal(errors, 1);
    assert_int_equal(counters(&u).failed, 8);
    close_few(&u, disks);
}

/* Where a block of the template is on the store: the only one with these bytes at this length is looked for. */
static uint8_t *place_of(struct px_use *u, unsigned block)
{
    uint8_t *found = NULL;

    for (uint64_t at = 0; at < u->store->s.blocks && !found; at++) {
        uint8_t *bytes = u->store->bytes + at * PX_BLOCK;

        if (*bytes == expected[block] && memcmp(bytes, bytes + 1, PX_BLOCK - 1) == 0)
            found = bytes;
    }
    assert_non_null(found);
    return found;
}

/* Bit rot: each read of that block fails, and no other; each names it; mended, it is read again. */
static void rot(void **state)
{
    struct disk *disks[FEW];
    struct px_io *ios[FEW];
    struct px_use u;
    uint8_t *place;

    open_few(&u, disks);
    place = place_of(&u, 103);
    place[17] ^= 4;
    submit_few(disks, ios);
    px_run(&u);
    for (unsigned i = 0; i < FEW; i++)
        assert_int_equal(px_finish(ios[i]), -EIO);
    assert_int_equal(u.others, FEW);
    assert_non_null(strstr(u.last, "differs from its checksum"));
    read_right(&u, disks[0], 100, 3);
    read_right(&u, disks[0], 104, 4);
    assert_int_equal(counters(&u).hits, 7);
    place[17] ^= 4;
    read_right(&u, disks[1], 100, 8);
    read_right(&u, disks[2], 100, 8);
    assert_int_equal(u.others, FEW);
    close_few(&u, disks);
}

/* The template and its clones go; their blocks are others' then. */
static void given_back_and_used_again(void **state)
{
    struct dt_error err;
    struct disk *a;
    struct px_use u;

    begin(&u, 2 << 20, 1);
    a = clone_of(&u, 0);
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned b = 0; b < BLOCKS; b += 32)
            read_right(&u, a, b, 32);
        disk_close(a);
        assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "c1"), &err), 0);
        assert_int_equal(pool_unlabel(u.pool, px_slot(&u, "t@v1"), &err), 0);
        assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "t"), &err), 0);
        px_run(&u);
        assert_int_equal(pool_checkpoint(u.pool, &err), 0);
        assert_int_equal(counters(&u).dropped, (round + 1) * BLOCKS);
        make_template(&u, 1);
        a = clone_of(&u, 0);
    }
    disk_close(a);
    px_end(&u);
}

/* It is turned off, and on again with another size, while reads are under way. */
static void sized_in_use(void **state)
{
    const uint64_t bytes[] = {0, 1 << 20, DATA_CACHE_LEAST, 0, 0, 2 << 20};
    struct disk *disks[FEW];
    struct px_io *ios[FEW];
    struct pool_data_cache now;
    struct dt_error err;
    struct px_use u;

    open_few(&u, disks);
    for (unsigned r = 0; r < ARRAY_SIZE(bytes); r++) {
        submit_few(disks, ios);
        rig_turn(u.store);
        assert_int_equal(pool_set_data_cache(u.pool, bytes[r], &err), 0);
        pool_data_cache(u.pool, &now);
        assert_int_equal(now.bytes, bytes[r]);
        assert_int_equal(now.held, 0);
        assert_int_equal(now.most > 0, bytes[r] > 0);
        px_run(&u);
        for (unsigned i = 0; i < FEW; i++) {
            right(ios[i], 100, 8);
            assert_int_equal(px_finish(ios[i]), 0);
        }
    }
    read_right(&u, disks[0], 100, 8);
    pool_data_cache(u.pool, &now);
    assert_int_equal(now.held, 8);
    assert_int_equal(pool_set_data_cache(u.pool, 1000, &err), -EINVAL);
    assert_int_equal(pool_set_data_cache(u.pool, DATA_CACHE_MOST + 1, &err), -EINVAL);
    pool_data_cache(u.pool, &now);
    assert_int_equal(now.held, 8);
    close_few(&u, disks);
}

/* Reads of parts, and writes of parts, of blocks that others have. */
static void parts_of_blocks(void **state)
{
    struct disk *a, *b;
    struct px_io *io;
    struct px_use u;

    begin(&u, 2 << 20, 2);
    a = clone_of(&u, 0);
    b = clone_of(&u, 1);
    io = px_submit(a, DISK_READ, 0, 1);
    px_run(&u);
    assert_int_equal(px_finish(io), 0);
    io = xcalloc(1, sizeof(*io));
    io->req = (struct disk_req){.op = DISK_WRITE, .offset = 512, .length = 1024, .done = px_done};
    io->req.buf = xaligned(PX_BLOCK, PX_BLOCK);
    memset(io->req.buf, 0xee, 1024);
    disk_submit(a, &io->req);
    px_run(&u);
    assert_int_equal(counters(&u).hits, 1); /* what it does not write came from there */
    assert_int_equal(px_finish(io), 0);
    io = px_submit(a, DISK_READ, 0, 1);
    px_run(&u);
    assert_int_equal(((uint8_t *)io->req.buf)[0], expected[0]);
    assert_int_equal(((uint8_t *)io->req.buf)[512], 0xee);
    assert_int_equal(((uint8_t *)io->req.buf)[1536], expected[0]);
    assert_int_equal(px_finish(io), 0);
    read_right(&u, b, 0, 1);
    disk_close(a);
    disk_close(b);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_read_for_all),
        cmocka_unit_test(a_failed_read_is_nobodys),
        cmocka_unit_test(a_scan_leaves_the_rest),
        cmocka_unit_test(who_comes_back_stays),
        cmocka_unit_test(all_being_filled),
        cmocka_unit_test(given_back),
        cmocka_unit_test(retired),
        cmocka_unit_test(sizes),
        cmocka_unit_test(random_use),
        cmocka_unit_test(storm),
        cmocka_unit_test(private_blocks),
        cmocka_unit_test(labelled_in_use),
        cmocka_unit_test(merged_blocks),
        cmocka_unit_test(wrong_once),
        cmocka_unit_test(an_error_is_not_shared),
        cmocka_unit_test(rot),
        cmocka_unit_test(given_back_and_used_again),
        cmocka_unit_test(sized_in_use),
        cmocka_unit_test(parts_of_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
