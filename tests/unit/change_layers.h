/* SPDX-License-Identifier: MIT */
/* change_layers.h - the layers of test_change.c, which count how many of them are open, and a disk under them. */
#ifndef CHANGE_LAYERS_H
#define CHANGE_LAYERS_H

#include "core/core.h"
#include "keep.h"

#include <stdio.h>

#define DEPTH 32u /* requests under way on each thread */

struct tag {
    uint64_t id;
    bool fail_open, fail_start;
    uint64_t value; /* saved */
};

static const struct dt_param tag_params[] = {
    {"id", DT_PARAM_UINT, .offset = offsetof(struct tag, id), .initial = "0", .help = "It."},
    {"fail-open", DT_PARAM_BOOL, .offset = offsetof(struct tag, fail_open), .initial = "off",
     .help = "It."},
    {"fail-start", DT_PARAM_BOOL, .offset = offsetof(struct tag, fail_start), .initial = "off",
     .help = "It."},
    {NULL},
};
static const struct dt_counter tag_counters[] = {{"seen", "requests", "Seen."}, {NULL}};
static int opened, started;

static int tag_open(struct dt_layer *layer, struct dt_error *err)
{
    const struct tag *t = dt_layer_data(layer);

    if (t->fail_open)
        return dt_fail(err, -EIO, "told not to open");
    __atomic_add_fetch(&opened, 1, __ATOMIC_RELAXED);
    return 0;
}

static void tag_close(struct dt_layer *layer)
{
    __atomic_sub_fetch(&opened, 1, __ATOMIC_RELAXED);
}

static int tag_start(struct dt_ctx *c, struct dt_error *err)
{
    const struct tag *t = c->layer_data;

    if (t->fail_start && c->thread == dt_layer_threads(c->layer) - 1)
        return dt_fail(err, -EIO, "told not to start");
    __atomic_add_fetch(&started, 1, __ATOMIC_RELAXED);
    return 0;
}

static void tag_stop(struct dt_ctx *c)
{
    __atomic_sub_fetch(&started, 1, __ATOMIC_RELAXED);
}

/* Its frame must be its own, wherever it stands. */
static enum dt_verdict tag_request(struct dt_ctx *c, struct dt_req *req)
{
    *(uint64_t *)dt_frame(c, req) = (uint64_t)(uintptr_t)c->layer ^ req->sector;
    dt_count(c, 0, 1);
    return DT_PASS;
}

static enum dt_verdict tag_response(struct dt_ctx *c, struct dt_req *req)
{
    CHECK(*(uint64_t *)dt_frame(c, req) == ((uint64_t)(uintptr_t)c->layer ^ req->sector));
    return DT_PASS;
}

static int64_t tag_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct tag *t = dt_layer_data(layer);

    memcpy(buf, &t->value, sizeof(t->value));
    return sizeof(t->value);
}

static int tag_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                    struct dt_error *err)
{
    struct tag *t = dt_layer_data(layer);

    if (size != sizeof(t->value))
        return dt_fail(err, -EBADMSG, "damaged");
    memcpy(&t->value, buf, size);
    return 0;
}

static const struct dt_block_ext tag_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "tag",
    .summary = "marks requests",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = tag_params,
    .counters = tag_counters,
    .layer_size = sizeof(struct tag),
    .frame_size = 16,
    .open = tag_open,
    .close = tag_close,
    .start = tag_start,
    .stop = tag_stop,
    .request = tag_request,
    .response = tag_response,
    .save = tag_save,
    .load = tag_load,
};

/* The same, but not for a confined process; and one that decides what is read. */
static struct dt_block_ext outside_ext, bearing_ext;

/* Transforms nothing, but needs private memory. */
static enum dt_verdict stable_request(struct dt_ctx *c, struct dt_req *req)
{
    return DT_PASS;
}

static const struct dt_block_ext stable_ext = {
    DT_BLOCK_EXT_HEADER,         .name = "stable",
    .summary = "stable data",    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .read_data = DT_DATA_STABLE, .write_data = DT_DATA_STABLE,
    .request = stable_request,
};

/* A disk that never looks; its description can be chosen. */
struct plain {
    uint64_t sectors, max;
    bool read_only, flush, discard, zeroes;
};

static const struct dt_param plain_params[] = {
    {"sectors", DT_PARAM_UINT, .offset = offsetof(struct plain, sectors), .initial = "2048",
     .help = "It."},
    {"max", DT_PARAM_UINT, .offset = offsetof(struct plain, max), .initial = "0", .help = "It."},
    {"read-only", DT_PARAM_BOOL, .offset = offsetof(struct plain, read_only), .initial = "off",
     .help = "It."},
    {"flush", DT_PARAM_BOOL, .offset = offsetof(struct plain, flush), .initial = "on",
     .help = "It."},
    {"discard", DT_PARAM_BOOL, .offset = offsetof(struct plain, discard), .initial = "on",
     .help = "It."},
    {"zeroes", DT_PARAM_BOOL, .offset = offsetof(struct plain, zeroes), .initial = "on",
     .help = "It."},
    {NULL},
};
static unsigned ops_seen[DT_OP_COUNT], durable_seen;

static int plain_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct plain *p = dt_layer_data(layer);

    info->sectors = p->sectors;
    info->max_discard = (uint32_t)p->max;
    info->read_only = p->read_only;
    info->can_flush = p->flush;
    info->can_discard = p->discard;
    info->can_write_zeroes = p->zeroes;
    return 0;
}

static void plain_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        __atomic_add_fetch(&ops_seen[reqs[i]->op], 1, __ATOMIC_RELAXED);
        if (reqs[i]->flags & DT_REQ_FUA)
            __atomic_add_fetch(&durable_seen, 1, __ATOMIC_RELAXED);
        reqs[i]->error = 0;
    }
    dt_complete(c, reqs, n);
}

static const struct dt_block_ext plain_ext = {
    DT_BLOCK_EXT_HEADER,    .name = "plain",
    .summary = "nothing",   .flags = DT_BACK | DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = plain_params, .layer_size = sizeof(struct plain),
    .info = plain_info,     .submit = plain_submit,
};

static bool add_layers(void)
{
    const struct dt_block_ext *const exts[] = {&tag_ext,  &outside_ext, &bearing_ext,
                                               &keep_ext, &stable_ext,  &plain_ext};
    struct dt_error err;

    outside_ext = bearing_ext = tag_ext;
    outside_ext.name = "outside";
    outside_ext.flags = DT_PER_QUEUE;
    bearing_ext.name = "bearing";
    bearing_ext.flags |= DT_CONTENT_BEARING;
    for (unsigned i = 0; i < ARRAY_SIZE(exts); i++)
        if (registry_add(exts[i], &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            return false;
        }
    return true;
}

#endif
