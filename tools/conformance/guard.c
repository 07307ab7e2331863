/* SPDX-License-Identifier: MIT */
/*
 * guard.c - stands above each layer under test (and below the last), and watches what crosses.
 *
 * In each request a guard keeps a canary, and fills the bytes behind its own frame with a pattern;
 * what the layer below it may not touch must come back as it was. It also remembers which error
 * went up, so the guard above sees a layer that turned an error into success.
 */
#include "tools/conformance/internal.h"

#define PATTERN 0xc5

enum guard_state { WENT_DOWN = 0x600d0001, CAME_BACK };
struct guard_frame {
    uint64_t canary;
    int32_t error;
    uint32_t state;
};
_Static_assert(sizeof(struct guard_frame) == GUARD_FRAME, "guards have 16 bytes each");

struct guard {
    uint64_t index;
};

static uint64_t canary_of(const struct dt_req *req, uint64_t index)
{
    return ((uintptr_t)req ^ bench->seed) * 0x9e3779b97f4a7c15u + index;
}

static void guard_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    const struct guard *g = c->layer_data;

    for (unsigned i = 0; i < n; i++) {
        struct guard_frame *f = dt_frame(c, reqs[i]);

        *f = (struct guard_frame){canary_of(reqs[i], g->index), 0, WENT_DOWN};
        memset(f + 1, PATTERN, REQUEST_SIZE - c->frame_offset - sizeof(*f));
    }
    dt_forward(c, reqs, n);
}

static void check_bytes(const struct dt_req *req, const char *layer, uint32_t from, uint32_t to)
{
    const uint8_t *bytes = (const uint8_t *)req;

    for (uint32_t i = from; i < to; i++)
        if (bytes[i] != PATTERN)
            bench_fail("layer %s wrote behind its frame in a request (byte %u behind the end)",
                       layer, i - from);
}

/* The layer below this guard: did it stay in its frame, and pass errors on? */
static void check_layer(struct dt_ctx *c, const struct dt_req *req, uint64_t index)
{
    const struct dt_block_ext *ext = index < bench->user.count ? bench->exts[index] : NULL;
    bool last = index + 1 > bench->user.count - bench->has_back;
    uint32_t begin = c->frame_offset + GUARD_FRAME;
    uint32_t end = last ? REQUEST_SIZE : bench->guard_offset[index + 1];
    const struct guard_frame *below = (const void *)((const char *)req + end);
    char text[64];

    check_bytes(req, ext ? ext->name : model_ext.name, begin + (ext ? ext->frame_size : 0), end);
    if (last || below->state != CAME_BACK || below->error == 0 || req->error || ext->sub_requests)
        return;
    bench_fail("layer %s turned an error into success: a %s failed below with %s", ext->name,
               load_describe(req, text, sizeof(text)), strerror(-below->error));
}

static void guard_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    const struct guard *g = c->layer_data;

    for (unsigned i = 0; i < n; i++) {
        struct guard_frame *f = dt_frame(c, reqs[i]);

        if (f->canary != canary_of(reqs[i], g->index) || f->state != WENT_DOWN) {
            const struct dt_block_ext *suspect = bench->exts[g->index ? g->index - 1 : 0];

            bench_fail("layer %s wrote outside its frame in a request: its neighbour's was hit",
                       suspect->name);
        }
        check_layer(c, reqs[i], g->index);
        f->state = CAME_BACK;
        f->error = reqs[i]->error;
    }
    dt_complete(c, reqs, n);
}

static int guard_start(struct dt_ctx *c, struct dt_error *err)
{
    const struct guard *g = c->layer_data;

    bench->guard_offset[g->index] = c->frame_offset;
    return 0;
}

static const struct dt_param guard_params[] = {
    {.name = "index",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct guard, index),
     .help = "Which layer of the chain it stands above."},
    {NULL},
};

const struct dt_block_ext guard_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "conformance-guard",
    .summary = "The guard that devtap test puts between the layers",
    .flags = DT_PER_QUEUE,
    .params = guard_params,
    .layer_size = sizeof(struct guard),
    .frame_size = GUARD_FRAME,
    .start = guard_start,
    .submit = guard_submit,
    .complete = guard_complete,
};
