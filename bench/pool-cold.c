/* SPDX-License-Identifier: MIT */
/*
 * pool-cold.c - makes a pool with a disk whose map is far larger than its data.
 *
 * Theory of operation: to measure reads whose maps are not in memory, the map must be as large as that of a large disk,
 * while the data need only be spread over more than anybody caches. So each block of the disk is mapped, and they share
 * DATA GiB of blocks, in turns: all that a read does is what it does in a true pool (each pointer, each checksum, and
 * each block on the store is real), and so is all of the map. But a block is the disk's many times over, which no true pool
 * knows: such a pool may be read, and nothing else.
 *
 * The data is also written to a plain file, for the same load beside it. bench/pool-cold runs this.
 */
#include "parallax/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define RUN       256u  /* blocks of a leaf */
#define LEAVES    8192u /* between two roots */
#define GIB_SHIFT 30u
#define ROOM_PERCENT \
    2u /* of what is mapped, for its maps: they take 0.4, twice while they are changed */

/** struct source - @runs of RUN blocks on the store, with their checksums. */
struct source {
    uint64_t runs, *addr;
    uint32_t (*crc)[RUN];
};

static void must(int ret, const char *text)
{
    if (ret >= 0)
        return;
    fprintf(stderr, "pool-cold: %s: %s\n", text, strerror(-ret));
    exit(1);
}

static struct pool *make_pool(const char *path, uint64_t blocks)
{
    const struct store_file_options o = {.create = true, .size = blocks << PX_BLOCK_SHIFT};
    const struct pool_create_options create = {0};
    const struct pool_options open = {0};
    struct dt_error err;
    struct store *store;
    struct pool *pool;

    must(store_file_open(&store, path, &o, &err), path);
    must(store_file_lock(store, dt_clock_ns() + DT_S(5), &err), path);
    must(pool_create(store, &create, &err), path);
    must(pool_open(&pool, store, &open, &err), path);
    return pool;
}

/* As many runs as @source has, of what nobody could compress or merge; beside them in @plain. */
static void write_data(struct pool *pool, struct source *source, int plain)
{
    uint64_t *data = xaligned(PX_BLOCK, (size_t)RUN * PX_BLOCK);
    struct dt_rng rng;

    dt_rng_seed(&rng, 1);
    source->addr = xcalloc(source->runs, sizeof(*source->addr));
    source->crc = xcalloc(source->runs, sizeof(*source->crc));
    for (uint64_t n = 0; n < source->runs;) {
        uint64_t addr;
        int got = space_alloc(pool, RUN, true, &addr);

        must(got, "no space for data");
        must(space_use(pool, addr, (unsigned)got), "free maps");
        if (got < (int)RUN)
            continue; /* the rest of a group: only whole runs are used */
        for (size_t i = 0; i < (size_t)RUN * PX_BLOCK / sizeof(*data); i++)
            data[i] = dt_rng_next(&rng);
        for (unsigned i = 0; i < RUN; i++)
            source->crc[n][i] = crc32c(0, (char *)data + (size_t)i * PX_BLOCK, PX_BLOCK);
        source->addr[n++] = addr;
        must(pool->store->put(pool->store, data, addr, RUN), "writing data");
        if (write(plain, data, (size_t)RUN * PX_BLOCK) != (ssize_t)RUN * PX_BLOCK)
            must(-EIO, "writing the plain file");
    }
    free(data);
}

static void map_all(struct pool *pool, uint32_t slot, uint64_t leaves, const struct source *source)
{
    struct dt_error err;

    for (uint64_t n = 0; n < leaves; n++) {
        struct tree t = catalog_tree(pool, slot);
        uint64_t from = n % source->runs;

        t.charged = NULL; /* for more than the pool has */
        must(tree_set(pool, &t, n * RUN, RUN, source->addr[from], source->crc[from]), "the map");
        if (n % LEAVES == LEAVES - 1 || n + 1 == leaves) {
            catalog_touch(pool, slot);
            must(pool_checkpoint(pool, &err), "a root");
        }
        node_trim(pool);
    }
}

int main(int argc, char **argv)
{
    struct source source;
    struct dt_error err;
    struct pool *pool;
    uint64_t mapped, data;
    int plain;

    if (argc != 5) {
        fputs("usage: pool-cold POOL PLAIN GIB DATA-GIB\n", stderr);
        return 2;
    }
    mapped = strtoull(argv[3], NULL, 0) << (GIB_SHIFT - PX_BLOCK_SHIFT);
    data = strtoull(argv[4], NULL, 0) << (GIB_SHIFT - PX_BLOCK_SHIFT);
    source.runs = data / RUN;
    plain = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(plain < 0 ? -errno : 0, argv[2]);
    pool = make_pool(argv[1], data + data / 8 + mapped / 100 * ROOM_PERCENT + (1u << 18));
    must(pool_create_disk(pool, "disk", mapped << PX_BLOCK_SHIFT, 512, &err), "the disk");
    write_data(pool, &source, plain);
    map_all(pool, pool_find(pool, "disk", &err), mapped / RUN, &source);
    must(pool_close(pool, &err), "closing");
    must(fdatasync(plain) < 0 ? -errno : 0, argv[2]);
    close(plain);
    free(source.addr);
    free(source.crc);
    return 0;
}
