/* SPDX-License-Identifier: MIT */
/*
 * watchpoint.c - a worked example: notice when a chosen range of the disk is written.
 *
 *     cc -shared -fPIC $(pkg-config --cflags devtap) -o watchpoint.so watchpoint.c
 *     devtap run --disk vm1 --socket vm1.sock \
 *         './watchpoint.so start=2048 count=8 | file path=vm1.img'
 *     devtap stats vm1                       # "hits" counts
 *     devtap set vm1 watchpoint start=4096   # moves the range while the VM runs
 */
#include <devtap/block.h>

/* The extension's state for one disk. The parameters below are parsed straight into it. */
struct watchpoint {
    uint64_t start, count;
};

/* From these lines come the parsing, the error messages, the help and the live changes. */
static const struct dt_param params[] = {
    {.name = "start",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .initial = "0",
     .offset = offsetof(struct watchpoint, start),
     .unit = "sectors",
     .help = "First sector (of 512 bytes) to watch."},
    {.name = "count",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .initial = "1",
     .offset = offsetof(struct watchpoint, count),
     .unit = "sectors",
     .help = "How many sectors to watch."},
    {NULL},
};

enum { HITS };
static const struct dt_counter counters[] = {
    [HITS] = {"hits", "requests", "Requests that changed the range."},
    {NULL},
};

/* Called for every request of the guest, on its way down. No locks: what we touch here is either
 * this thread's own (the counters) or changes only while no thread is in here (the parameters). */
static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    const struct watchpoint *w = c->layer_data;
    /* Written so that no sum can overflow, whatever numbers the parameters hold. */
    bool overlaps = req->sector < w->start ? w->start - req->sector < req->sectors
                                           : req->sectors && req->sector - w->start < w->count;

    if (req->op != DT_OP_READ && overlaps && w->count) {
        dt_count(c, HITS, 1);
        dt_layer_event(c->layer, "watchpoint", "%s of %u sectors at %llu", dt_op_name(req->op),
                       req->sectors, (unsigned long long)req->sector);
    }
    return DT_PASS; /* on to the next layer; DT_DONE would answer the guest from here */
}

static const struct dt_block_ext watchpoint = {
    DT_BLOCK_EXT_HEADER,
    .name = "watchpoint",
    .summary = "Tell when a range of the disk is written (a worked example)",
    .flags = DT_PER_QUEUE, /* may run on several threads at once */
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct watchpoint),
    .request = request,
    /* No `response`: answers pass by without a detour. No read_data, write_data: we never look. */
};
DT_BLOCK_EXTENSION(watchpoint)
