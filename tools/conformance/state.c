/* SPDX-License-Identifier: MIT */
/*
 * state.c - the blobs of save() and load(): whole ones are taken back, those of an unknown version
 * and empty ones are refused, and damaged ones harm nobody.
 */
#include "tools/conformance/internal.h"

#define BLOB_MAX (16u << 20)
#define TRIALS   200u
#define CANARY   0x5a

struct blob {
    unsigned layer; /* index in the device */
    uint8_t *bytes;
    size_t size;
};

/* Too small a buffer must be refused, not overrun. */
static void save_into(struct dt_layer *layer, const struct blob *blob, size_t room)
{
    _cleanup_free_ uint8_t *small = xcalloc(room + 64, 1);
    int64_t n;

    memset(small, CANARY, room + 64);
    n = layer->ext->save(layer, small, room);
    for (unsigned i = 0; i < 64; i++)
        if (small[room + i] != CANARY)
            bench_fail("save() of layer %s wrote behind a buffer of %zu bytes", layer->name, room);
    if (n > (int64_t)room)
        bench_fail("save() of layer %s says %lld bytes, but the buffer has %zu", layer->name,
                   (long long)n, room);
}

static bool take_blob(struct bench *b, struct blob *blob)
{
    for (unsigned i = 1; i <= b->dev->nlayers; i++) {
        struct dt_layer *layer = b->dev->layers[i];
        int64_t n;

        if (!layer->ext->save || i <= blob->layer)
            continue;
        blob->layer = i;
        blob->bytes = xcalloc(BLOB_MAX, 1);
        n = layer->ext->save(layer, blob->bytes, BLOB_MAX);
        if (n < 0)
            bench_fail("save() of layer %s failed: %s", layer->name, strerror((int)-n));
        blob->size = (size_t)n;
        for (unsigned trial = 0; n && trial < 8; trial++)
            save_into(layer, blob, dt_rng_below(&b->rng, (uint64_t)n));
        return true;
    }
    return false;
}

/* Loads a copy of exactly @size bytes into a fresh device, and works with what came of it. */
static int load_fresh(struct bench *b, unsigned index, const uint8_t *bytes, size_t size,
                      uint32_t version)
{
    _cleanup_free_ uint8_t *copy = xcalloc(size, 1);
    struct dt_layer *layer;
    struct dt_error err = {""};
    int ret;

    memcpy(copy, bytes, size);
    memset(b->versions, 0xff,
           BENCH_SECTORS * sizeof(b->versions[0])); /* unknown: state may matter */
    bench_build(b, 1, false);
    layer = b->dev->layers[index];
    ret = layer->ext->load(layer, copy, size, version, &err);
    if (ret < 0 && !err.text[0])
        bench_fail("load() of layer %s refused a blob without a reason", layer->name);
    if (ret == 0) {
        bench_start(b);
        bench_load(b, DT_MS(1));
        bench_settle(b);
    }
    bench_close(b);
    return ret;
}

/* As many as there is time for: a layer in a process takes a new process for each. */
static void damage(struct bench *b, const struct blob *blob, uint32_t version)
{
    uint64_t end = dt_clock_ns() + 10 * b->config->duration;
    _cleanup_free_ uint8_t *copy = xcalloc(blob->size, 1);

    for (unsigned trial = 0; blob->size && trial < TRIALS && dt_clock_ns() < end; trial++) {
        size_t size = blob->size;

        memcpy(copy, blob->bytes, size);
        if (trial % 2)
            size = dt_rng_below(&b->rng, size);
        else
            for (uint64_t flips = 1 + dt_rng_below(&b->rng, 4); flips; flips--)
                copy[dt_rng_below(&b->rng, size)] ^= (uint8_t)(1 + dt_rng_below(&b->rng, 255));
        load_fresh(b, blob->layer, copy, size, version);
        b->verdict->count++;
    }
}

static void check_blob(struct bench *b, const struct blob *blob, const struct dt_block_ext *ext)
{
    uint32_t version = ext->state_version;

    if (load_fresh(b, blob->layer, blob->bytes, blob->size, version) < 0)
        bench_fail("load() of %s refused what its own save() wrote", ext->name);
    if (load_fresh(b, blob->layer, blob->bytes, blob->size, version + 1) == 0)
        bench_fail("load() of %s took a blob of version %u; it knows %u", ext->name, version + 1,
                   version);
    if (blob->size && load_fresh(b, blob->layer, blob->bytes, 0, version) == 0)
        bench_fail("load() of %s took an empty blob; its own has %zu bytes", ext->name, blob->size);
    damage(b, blob, version);
}

void property_state(struct bench *b)
{
    struct blob blobs[CHAIN_MAX_LAYERS] = {{0}};
    const struct dt_block_ext *exts[CHAIN_MAX_LAYERS];
    unsigned n = 0;

    bench_build(b, 1, false);
    bench_start(b);
    bench_load(b, DT_MS(50));
    bench_settle(b);
    while (n < CHAIN_MAX_LAYERS - 1 && take_blob(b, &blobs[n])) {
        exts[n] = b->dev->layers[blobs[n].layer]->ext;
        n++;
        blobs[n].layer = blobs[n - 1].layer;
    }
    if (n == 0)
        bench_skip("no layer has save() and load()");
    bench_close(b);
    for (unsigned i = 0; i < n; i++)
        check_blob(b, &blobs[i], exts[i]);
}
