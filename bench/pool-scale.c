/* SPDX-License-Identifier: MIT */
/*
 * pool-scale.c - what the metadata of a pool costs as it grows: snapshots, clones, deletion, opening.
 *
 * Theory of operation: the pool is a file as any, but data does not get there: a write is over at once. So hundreds of
 * GiB can be allocated in a sparse file, and times are those of the pool's own work. Nothing is flushed to the disk either
 * unless it says so. bench/pool-scale runs this; each part prints rows of a table.
 */
#include "base/base.h"
#include "parallax/parallax.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define RUN 64u /* blocks of a large request */

/** struct paper - a store whose @below is a file. @done: what is over, for the next turn. */
struct paper {
    struct store s;
    struct store *below;
    struct store_io *done, **tail;
    bool real; /* data gets there */
};

/** struct bench - @data: RUN blocks, none of them zero. */
struct bench {
    const char *path;
    struct paper *store;
    struct pool *pool;
    uint8_t *data;
    unsigned under_way;
};

/* ---- A store that does not wait ---- */

static struct paper *of(struct store *s)
{
    return container_of(s, struct paper, s);
}

static void over(struct paper *p, struct store_io *sio, int result)
{
    sio->result = result;
    sio->next = NULL;
    *p->tail = sio;
    p->tail = &sio->next;
}

static void paper_read(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                       unsigned count)
{
    over(of(s), sio, of(s)->below->get(of(s)->below, buf, addr, count));
}

static void paper_write(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                        unsigned count)
{
    over(of(s), sio, of(s)->real ? of(s)->below->put(of(s)->below, buf, addr, count) : 0);
}

static void paper_save(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                       unsigned count)
{
    over(of(s), sio, of(s)->below->put(of(s)->below, buf, addr, count));
}

static void paper_flush(struct store *s, struct store_io *sio)
{
    over(of(s), sio, 0);
}

static int paper_get(struct store *s, void *buf, uint64_t addr, unsigned count)
{
    return of(s)->below->get(of(s)->below, buf, addr, count);
}

static int paper_put(struct store *s, const void *buf, uint64_t addr, unsigned count)
{
    return of(s)->below->put(of(s)->below, buf, addr, count);
}

static int paper_sync(struct store *s)
{
    return 0;
}

static void paper_close(struct store *s)
{
    of(s)->below->close(of(s)->below);
    free(of(s));
}

static bool paper_turn(struct paper *p)
{
    struct store_io *sio = p->done, *next;

    p->done = NULL;
    p->tail = &p->done;
    for (; sio; sio = next) {
        next = sio->next;
        sio->done(sio, sio->result);
    }
    return p->done;
}

static struct paper *paper_open(const char *path, uint64_t size)
{
    const struct store_file_options o = {.create = size > 0, .size = size};
    struct paper *p = xcalloc(1, sizeof(*p));
    struct dt_error err;

    if (store_file_open(&p->below, path, &o, &err) < 0 ||
        store_file_lock(p->below, dt_clock_ns() + DT_S(5), &err) < 0) {
        fprintf(stderr, "pool-scale: %s\n", err.text);
        exit(1);
    }
    p->s = (struct store){.blocks = p->below->blocks,
                          .name = p->below->name,
                          .read = paper_read,
                          .write = paper_write,
                          .save = paper_save,
                          .flush = paper_flush,
                          .get = paper_get,
                          .put = paper_put,
                          .sync = paper_sync,
                          .commit = store_slots_commit,
                          .recall = store_slots_recall,
                          .close = paper_close};
    p->tail = &p->done;
    return p;
}

/* ---- A pool ---- */

static void must(int ret, const struct dt_error *err)
{
    if (ret == 0)
        return;
    fprintf(stderr, "pool-scale: %s\n", err->text);
    exit(1);
}

static void open_pool(struct bench *b)
{
    const struct pool_options o = {0};
    struct dt_error err;

    b->store = paper_open(b->path, 0);
    must(pool_open(&b->pool, &b->store->s, &o, &err), &err);
}

static void make_pool(struct bench *b, uint64_t size)
{
    const struct pool_create_options o = {0};
    struct dt_error err;

    b->store = paper_open(b->path, size);
    must(pool_create(&b->store->s, &o, &err), &err);
    b->store->s.close(&b->store->s);
    open_pool(b);
}

/* Until nothing moves: a checkpoint that was begun, too. */
static void settle(struct bench *b)
{
    bool more = true;

    while (more || b->under_way || b->store->done || !pool_idle(b->pool)) {
        paper_turn(b->store);
        more = pool_turn(b->pool);
    }
}

static void close_pool(struct bench *b)
{
    struct dt_error err;

    settle(b);
    must(pool_close(b->pool, &err), &err);
}

struct request {
    struct disk_req req;
    struct bench *b;
};

static void ended(struct disk_req *req)
{
    struct request *r = container_of(req, struct request, req);

    CHECK(req->error == 0);
    r->b->under_way--;
    free(r);
}

static void submit(struct bench *b, struct disk *disk, enum disk_op op, uint64_t block,
                   unsigned count)
{
    struct request *r = xcalloc(1, sizeof(*r));

    r->b = b;
    r->req = (struct disk_req){.op = op,
                               .offset = block << PX_BLOCK_SHIFT,
                               .length = (uint64_t)count << PX_BLOCK_SHIFT,
                               .buf = b->data,
                               .done = ended};
    b->under_way++;
    disk_submit(disk, &r->req);
    while (b->under_way > 16) {
        pool_turn(b->pool);
        paper_turn(b->store);
    }
}

static uint32_t slot_of(struct bench *b, const char *name)
{
    struct dt_error err;
    uint32_t slot = pool_find(b->pool, name, &err);

    must(slot == NO_SLOT ? -ENOENT : 0, &err);
    return slot;
}

static struct disk *open_disk(struct bench *b, const char *name)
{
    struct dt_error err;
    struct disk *disk;

    must(disk_open(&disk, b->pool, slot_of(b, name), false, "bench", &err), &err);
    return disk;
}

static struct disk *make_disk(struct bench *b, const char *name, uint64_t size)
{
    struct dt_error err;

    must(pool_create_disk(b->pool, name, size, 512, &err), &err);
    return open_disk(b, name);
}

static void fill(struct bench *b, struct disk *disk, uint64_t blocks)
{
    for (uint64_t at = 0; at < blocks; at += RUN)
        submit(b, disk, DISK_WRITE, at, RUN);
    settle(b);
}

static void snap(struct bench *b, uint32_t slot, uint64_t number)
{
    char text[32];
    const char *name = text;
    struct dt_error err;
    int ret;

    snprintf(text, sizeof(text), "s%llu", (unsigned long long)number);
    while ((ret = pool_snapshot(b->pool, &slot, 1, &name, NULL, &err)) == -EAGAIN)
        settle(b); /* the journal is full until the next root */
    must(ret, &err);
}

/* Processor time of this process, seconds. */
static double cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- Snapshots ---- */

#define WINDOW    ((uint64_t)64 << 20) /* of the disk, that writes go to */
#define WRITES    20000u
#define SNAPSHOTS 1000u

static void write_somewhere(struct bench *b, struct disk *disk, struct dt_rng *rng)
{
    submit(b, disk, DISK_WRITE, dt_rng_below(rng, WINDOW >> PX_BLOCK_SHIFT), 1);
}

/* Up to @to of them, one in @sparse after a write; us of one of the last. */
static double take(struct bench *b, struct disk *disk, uint64_t from, uint64_t to, unsigned sparse,
                   struct dt_rng *rng)
{
    double begun = 0;

    for (uint64_t n = from; n < to; n++) {
        if (n + SNAPSHOTS == to) {
            settle(b);
            begun = cpu();
        }
        if (n % sparse == 0)
            write_somewhere(b, disk, rng);
        settle(b);
        snap(b, disk_slot(disk), n);
    }
    settle(b);
    return (cpu() - begun) / SNAPSHOTS * 1e6;
}

static double rewrite(struct bench *b, struct disk *disk, struct dt_rng *rng)
{
    double begun = cpu();

    for (unsigned n = 0; n < WRITES; n++)
        write_somewhere(b, disk, rng);
    settle(b);
    return (cpu() - begun) / WRITES * 1e6;
}

/* One of the first of a line goes, and another one comes; us of both. */
static double replace(struct bench *b, struct disk *disk, uint64_t number, uint64_t *victim)
{
    double begun = cpu();
    struct dt_error err;
    char name[32];

    for (unsigned n = 0; n < 100; n++) {
        snprintf(name, sizeof(name), "disk0@s%llu", (unsigned long long)(*victim)++);
        must(pool_delete_snapshot(b->pool, slot_of(b, name), &err), &err);
        settle(b);
        snap(b, disk_slot(disk), number + n);
        settle(b);
    }
    return (cpu() - begun) / 100 * 1e6;
}

static double reopen(struct bench *b)
{
    double begun;

    close_pool(b);
    begun = cpu();
    open_pool(b);
    return (cpu() - begun) * 1e3;
}

/* @most snapshots on @disks disks. */
static void part_snapshots(struct bench *b, uint64_t most, unsigned disks)
{
    unsigned sparse = most > 100000 ? 10 : 1; /* each maps 16 KiB anew */
    uint64_t have = 0, victim = 10;
    struct dt_rng rng;
    char name[32];

    dt_rng_seed(&rng, 1);
    make_pool(b, (uint64_t)256 << 30);
    for (unsigned d = 0; d < disks; d++) {
        struct disk *disk;

        snprintf(name, sizeof(name), "disk%u", d);
        disk = make_disk(b, name, (uint64_t)32 << 30);
        fill(b, disk, WINDOW >> PX_BLOCK_SHIFT);
        disk_close(disk);
    }
    for (uint64_t want = (uint64_t)SNAPSHOTS * disks; want <= most; want *= 10) {
        double snapshot = 0, again, replaced, opened;
        struct disk *disk = NULL;

        for (unsigned d = disks; d-- > 0;) {
            snprintf(name, sizeof(name), "disk%u", d);
            disk = open_disk(b, name);
            snapshot = take(b, disk, have / disks, want / disks, sparse, &rng);
            if (d)
                disk_close(disk);
        }
        have = want;
        again = rewrite(b, disk, &rng);
        replaced = replace(b, disk, 2 * most + want, &victim);
        disk_close(disk);
        opened = reopen(b);
        printf("| %llu on %u | %.1f | %.1f | %.1f | %.1f |\n", (unsigned long long)want, disks,
               snapshot, again, replaced, opened);
        fflush(stdout);
    }
    close_pool(b);
}

/* ---- Space ---- */

/* The longest turn of the pool is how long requests may have had to wait. */
static double give_back(struct bench *b, double *longest)
{
    double begun = cpu(), before = begun, now;
    bool more = true;

    *longest = 0;
    while (more || b->store->done || !pool_idle(b->pool)) {
        paper_turn(b->store);
        more = pool_turn(b->pool);
        now = cpu();
        *longest = MAX(*longest, now - before);
        before = now;
    }
    return before - begun;
}

static void part_delete(struct bench *b, uint64_t gib, unsigned snapshots)
{
    uint64_t blocks = gib << (30 - PX_BLOCK_SHIFT);
    struct pool_info empty, full;
    struct disk *disk;
    double seconds, longest, freed, begun;
    struct dt_error err;
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    make_pool(b, (gib + gib / 8 + 1) << 30);
    pool_info(b->pool, &empty);
    disk = make_disk(b, "disk", gib << 30);
    fill(b, disk, blocks);
    pool_info(b->pool, &full);
    printf("| maps of a filled disk of %llu GiB | %.2f %% |\n", (unsigned long long)gib,
           100.0 * (double)(full.used - empty.used - blocks) / (double)blocks);
    for (unsigned n = 0; n < snapshots; n++) {
        submit(b, disk, DISK_WRITE, dt_rng_below(&rng, blocks), 1);
        settle(b);
        snap(b, disk_slot(disk), n);
    }
    settle(b);
    disk_close(disk);
    pool_info(b->pool, &full);
    begun = cpu();
    must(pool_delete_disk(b->pool, slot_of(b, "disk"), &err), &err);
    printf("| deleting it and %u snapshots: the command | %.1f ms |\n", snapshots,
           (cpu() - begun) * 1e3);
    seconds = give_back(b, &longest);
    freed = (double)((full.used - empty.used) << PX_BLOCK_SHIFT) / 1e9;
    printf("| what it occupied given back | %.1f GB/s; the longest turn %.1f ms |\n",
           freed / seconds, longest * 1e3);
    close_pool(b);
}

/* ---- Opening after a crash ---- */

/* @disks clones of a filled disk, one of which had random writes since the last root, all of them flushed. */
static void part_crash(struct bench *b, uint64_t gib, unsigned disks)
{
    uint64_t blocks = gib << (30 - PX_BLOCK_SHIFT);
    struct disk *disk;
    struct pool_info info;
    struct dt_error err;
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    make_pool(b, (gib + gib / 16 + 1) << 30);
    disk = make_disk(b, "disk", gib << 30);
    fill(b, disk, blocks);
    snap(b, disk_slot(disk), 1);
    must(pool_label(b->pool, slot_of(b, "disk@s1"), "v1", &err), &err);
    must(pool_clone(b->pool, slot_of(b, "disk@v1"), "c", disks, true, 1, &err), &err);
    settle(b);
    must(pool_checkpoint(b->pool, &err), &err);
    b->store->real = true;
    do {
        submit(b, disk, DISK_WRITE, dt_rng_below(&rng, blocks), 1);
        pool_info(b->pool, &info);
    } while (info.dirty_nodes < 15000 && info.journal_used < info.journal / 2 - 16);
    while (b->under_way)
        paper_turn(b->store), pool_turn(b->pool);
    printf("%llu blocks of the journal, %llu changed nodes\n",
           (unsigned long long)info.journal_used, (unsigned long long)info.dirty_nodes);
    b->store->below->sync(b->store->below);
    fflush(stdout);
    _exit(0);
}

static int usage(void)
{
    fputs("usage: pool-scale FILE snapshots MOST DISKS | delete GIB SNAPSHOTS | crash GIB DISKS\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct bench b = {.path = argc > 1 ? argv[1] : NULL};

    if (argc != 5)
        return usage();
    log_set_level(DT_LOG_ERROR);
    b.data = xaligned(PX_BLOCK, (size_t)RUN * PX_BLOCK);
    memset(b.data, 0x5a, (size_t)RUN * PX_BLOCK);
    unlink(b.path);
    if (strcmp(argv[2], "snapshots") == 0)
        part_snapshots(&b, strtoull(argv[3], NULL, 0), (unsigned)atoi(argv[4]));
    else if (strcmp(argv[2], "delete") == 0)
        part_delete(&b, strtoull(argv[3], NULL, 0), (unsigned)atoi(argv[4]));
    else if (strcmp(argv[2], "crash") == 0)
        part_crash(&b, strtoull(argv[3], NULL, 0), (unsigned)atoi(argv[4]));
    else
        return usage();
    free(b.data);
    return 0;
}
