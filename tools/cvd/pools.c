/* SPDX-License-Identifier: MIT */
/* pools.c - cvd pool create, info, grow. */
#include "tools/cvd/cvd.h"
#include "tools/pool/pool.h"

#include <inttypes.h>
#include <sys/stat.h>

#define ANSWER_MS     5000
#define CLOSE_NS      DT_S(45)
#define CLOSE_POLL_US 10000

/* From here on it is a pool: what is interrupted now can be gone on with. */
static int preallocate(struct store *store, struct dt_error *err)
{
    const struct pool_options plain = {0};
    struct pool *pool;
    int ret = pool_open(&pool, store, &plain, err);

    if (ret < 0) {
        store->close(store);
        return ret;
    }
    ret = preallocate_all(pool, err);
    if (ret < 0)
        pool_abandon(pool);
    else
        ret = pool_close(pool, err);
    return ret;
}

int cmd_pool_create(struct target *t, const struct cvd_options *o, int argc, char **argv,
                    struct dt_error *err)
{
    const struct pool_create_options create = {.journal = o->journal >> PX_BLOCK_SHIFT,
                                               .preallocation =
                                                   (enum px_preallocation)o->preallocation,
                                               .share = (enum px_share)o->share,
                                               .share_rate = o->rate ?: SHARE_RATE};
    struct store_file_options file = {.create = true, .size = o->size};
    struct store *store;
    struct stat st;
    bool there = stat(t->path, &st) == 0;
    int ret;

    if (there && S_ISREG(st.st_mode) && st.st_size > 0)
        return dt_fail(err, -EEXIST, "%s exists already", t->path);
    if (!(there && S_ISBLK(st.st_mode)) && o->size < (uint64_t)PX_MIN_BLOCKS * PX_BLOCK)
        return dt_fail(err, -EINVAL, "--size is missing, or less than 1M");
    ret = store_file_open(&store, t->path, &file, err);
    if (ret < 0)
        return ret;
    ret = store_file_lock(store, 0, err) ?: pool_create(store, &create, err);
    if (ret == 0 && o->preallocation)
        ret = preallocate(store, err);
    else
        store->close(store);
    if (ret < 0 && !there)
        unlink(t->path);
    return ret;
}

int cmd_pool_open(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err)
{
    const struct pool_open_options open = {.cache = o->cache,
                                           .data_cache = o->data_cache,
                                           .background = o->background,
                                           .sandbox = o->sandbox,
                                           .json = o->json && !o->background};
    int ret = pool_supervise(t->path, &open, err);

    if (ret == 0 && o->json && o->background) { /* by whoever is in the background, to nobody */
        _cleanup_free_ char *full = realpath(t->path, NULL);
        _cleanup_free_ char *socket = cvd_socket(full ?: t->path);

        print_json_line(
            json_pack("{ss ss ss}", "done", "pool open", "to", full ?: t->path, "socket", socket));
    }
    return ret;
}

/* Returns when it has let go of the pool. */
int cmd_pool_close(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err)
{
    int sock, ret = target_ask(t->path, json_pack("{ss}", "verb", "close"), ANSWER_MS, NULL, err);
    uint64_t deadline = dt_clock_ns() + CLOSE_NS;

    if (ret == -ECONNRESET || ret == -EPIPE)
        ret = 0; /* it was ending already */
    while (ret == 0 && (sock = target_served_by(t->path, err)) > 0) {
        close(sock);
        if (dt_clock_ns() >= deadline)
            ret = dt_fail(err, -ETIMEDOUT, "%s: its process does not end", t->path);
        usleep(CLOSE_POLL_US);
    }
    return ret;
}

void uuid_text(const uint8_t *id, char *text)
{
    for (unsigned i = 0; i < 16; i++)
        text += sprintf(text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
}

static uint64_t told(const json_t *cache, const char *what)
{
    return (uint64_t)json_integer_value(json_object_get(cache, what));
}

static void print_cache(const json_t *cache)
{
    uint64_t from = told(cache, "hits") + told(cache, "waits"), size = told(cache, "size");

    printf("cached     %s", human_bytes(told(cache, "held")));
    if (size)
        printf(" of %s", human_bytes(size));
    printf("; of %" PRIu64 " blocks that disks have in common, %" PRIu64 " were read\n",
           from + told(cache, "misses"), told(cache, "misses"));
}

int cmd_pool_info(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err)
{
    json_t *pin = pool_pin_ask(t->path);
    struct pool_share share;
    struct pool_info i;
    char uuid[UUID_TEXT];
    json_t *cache;

    pool_info(t->pool, &i);
    pool_share(t->pool, &share);
    uuid_text(i.uuid, uuid);
    cache = data_cache_ask(t->path);
    if (o->json) {
        print_json(json_pack(
            "{ss sI sI sI sI sI sI sI sI sI ss sI ss sI sI so* so*}", "uuid", uuid, "size",
            (json_int_t)(i.blocks << PX_BLOCK_SHIFT), "used",
            (json_int_t)(i.used << PX_BLOCK_SHIFT), "free", (json_int_t)(i.free << PX_BLOCK_SHIFT),
            "reserve", (json_int_t)(MIN(i.reserve, i.free) << PX_BLOCK_SHIFT), "disks",
            (json_int_t)i.disks, "snapshots", (json_int_t)i.snapshots, "being-deleted",
            (json_int_t)i.dying, "journal", (json_int_t)(i.journal << PX_BLOCK_SHIFT), "roots",
            (json_int_t)i.root_seq, "share", share_choices[share.share], "saved",
            (json_int_t)(share.shared << PX_BLOCK_SHIFT), "preallocation",
            preallocation_choices[i.preallocation], "preallocated",
            (json_int_t)(i.preallocated << PX_BLOCK_SHIFT), "damaged", (json_int_t)i.damaged,
            "data-cache", cache, "pin", pin));
        return 0;
    }
    printf("uuid       %s\nsize       %s\nused       %s\nfree       %s\n", uuid,
           human_bytes(i.blocks << PX_BLOCK_SHIFT), human_bytes(i.used << PX_BLOCK_SHIFT),
           human_bytes(i.free << PX_BLOCK_SHIFT));
    if (pin)
        pool_pin_print(pin);
    json_decref(pin);
    printf("disks      %" PRIu64 "\nsnapshots  %" PRIu64 "\n", i.disks, i.snapshots);
    if (share.share || share.shared)
        printf("saved      %s by sharing\n", human_bytes(share.shared << PX_BLOCK_SHIFT));
    if (i.preallocation != PX_THIN)
        printf("space      %s, %s of it\n", preallocation_choices[i.preallocation],
               human_bytes(i.preallocated << PX_BLOCK_SHIFT));
    if (i.dying)
        printf("deleting   %" PRIu64 "\n", i.dying);
    if (i.damaged)
        printf("damaged    %" PRIu64 " disks, which are not written (cvd list)\n", i.damaged);
    if (cache)
        print_cache(cache);
    json_decref(cache);
    return 0;
}

int cmd_pool_grow(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err)
{
    int ret = store_file_grow(pool_store(t->pool), o->size, err);
    struct pool_info i;

    ret = ret ?: pool_grow(t->pool, err);
    pool_info(t->pool, &i);
    if (ret == 0 && !t->live && i.preallocation != PX_THIN)
        ret = preallocate_all(t->pool, err);
    return ret;
}
