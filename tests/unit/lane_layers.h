/* SPDX-License-Identifier: MIT */
/* lane_layers.h - what test_lane.c sends requests through: a front and a disk in this process, and layers between them that
 * each use something else of what layers may do. */
#ifndef LANE_LAYERS_H
#define LANE_LAYERS_H

#include "core/core.h"
#include "keep.h"
#include "plus.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define DISK_SECTORS 4096u
#define SLOTS        64u

/* ---- A front in this process, and a disk of memory ----------------------------------------- */

static struct loop *loop;
static struct device *dev;
static unsigned completed, woken;
static char order[256];

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov[8];
    uint8_t *data;
    int error;
    bool done;
} CACHE_ALIGNED;
static struct slot *slots;

static void note(const char *what)
{
    strncat(order, what, sizeof(order) - strlen(order) - 1);
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct slot *s = container_of(reqs[i], struct slot, req);

        assert_false(s->done);
        s->done = true;
        s->error = reqs[i]->pub.error;
        completed++;
    }
}

static void on_wake(struct lane *lane)
{
    woken++;
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static uint8_t disk[DISK_SECTORS * DT_SECTOR_SIZE];
static uint32_t disk_max_sectors;
static bool disk_defers;
static struct dt_req *deferred[SLOTS * 4];
static unsigned ndeferred;
static struct dt_ctx *disk_ctx;

static int disk_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = DISK_SECTORS;
    info->max_sectors = disk_max_sectors;
    info->can_flush = info->can_discard = true;
    return 0;
}

static void disk_serve(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;

    if (dt_req_has_data(req)) {
        unsigned n = dt_req_map(c, req, &iov);
        uint8_t *at = disk + req->sector * DT_SECTOR_SIZE;

        assert_int_equal(dt_iov_length(iov, n), dt_req_bytes(req));
        if (req->op == DT_OP_WRITE)
            dt_iov_read(iov, n, 0, at, dt_req_bytes(req));
        else
            dt_iov_write(iov, n, 0, at, dt_req_bytes(req));
    }
    dt_complete_one(c, req, 0);
}

static void disk_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    disk_ctx = c;
    for (unsigned i = 0; i < n; i++) {
        if (disk_defers)
            deferred[ndeferred++] = reqs[i];
        else
            disk_serve(c, reqs[i]);
    }
}

static const struct dt_block_ext disk_ext = {
    DT_BLOCK_EXT_HEADER,       .name = "disk",
    .summary = "memory",       .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK, .write_data = DT_DATA_PEEK,
    .info = disk_info,         .submit = disk_submit,
};

/* ---- Extensions under test ---- */

static void a_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    note("a>");
    dt_forward(c, reqs, n);
}

static void a_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    note("<a");
    dt_complete(c, reqs, n);
}

static const struct dt_block_ext a_ext = {
    DT_BLOCK_EXT_HEADER,    .name = "a", .summary = "bursts", .submit = a_submit,
    .complete = a_complete,
};

static enum dt_verdict b_request(struct dt_ctx *c, struct dt_req *req)
{
    note("b>");
    if (req->op == DT_OP_DISCARD) {
        req->error = -EOPNOTSUPP;
        return DT_DONE;
    }
    return DT_PASS;
}

static enum dt_verdict b_response(struct dt_ctx *c, struct dt_req *req)
{
    note("<b");
    return DT_PASS;
}

static const struct dt_block_ext b_ext = {
    DT_BLOCK_EXT_HEADER,    .name = "b", .summary = "one by one", .request = b_request,
    .response = b_response,
};

/* Only looks at responses: requests must pass it by. */
static const struct dt_block_ext up_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "up",
    .summary = "responses only",
    .response = b_response,
};

static const struct dt_block_ext plus_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "plus",
    .summary = "transforms",
    .flags = DT_CONTENT_BEARING,
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .submit = plus_submit,
    .complete = plus_complete,
};

/* Needs bytes that stay as they are. */
static const struct dt_block_ext stable_ext = {
    DT_BLOCK_EXT_HEADER,          .name = "stable",
    .summary = "stable data",     .read_data = DT_DATA_STABLE,
    .write_data = DT_DATA_STABLE, .submit = a_submit,
};

/* Reads a sector by itself before it lets a write pass, under a lock of the range. */
struct guarded {
    struct dt_range range;
    struct dt_req *req;
};
static uint8_t before[DT_SECTOR_SIZE];
static struct iovec before_iov = {before, sizeof(before)};
static unsigned guarded_now, guarded_most;

static void guard_read_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct dt_req *req = dt_sub_arg(sub);

    assert_int_equal(sub->error, 0);
    dt_sub_free(c, sub);
    dt_forward_one(c, req);
}

static void guard_granted(struct dt_ctx *c, struct dt_range *range)
{
    struct guarded *g = container_of(range, struct guarded, range);
    struct dt_req *sub =
        dt_sub_new(c, DT_OP_READ, g->req->sector, 1, &before_iov, 1, guard_read_done, g->req);

    guarded_now++;
    guarded_most = MAX(guarded_most, guarded_now);
    assert_non_null(sub);
    dt_sub_submit(c, sub);
}

static enum dt_verdict guard_request(struct dt_ctx *c, struct dt_req *req)
{
    struct guarded *g = dt_frame(c, req);

    if (req->op != DT_OP_WRITE)
        return DT_PASS;
    *g = (struct guarded){.range.granted = guard_granted, .req = req};
    if (dt_range_lock(c, &g->range, req->sector, req->sectors))
        guard_granted(c, &g->range);
    return DT_HELD;
}

static enum dt_verdict guard_response(struct dt_ctx *c, struct dt_req *req)
{
    struct guarded *g = dt_frame(c, req);

    if (req->op == DT_OP_WRITE) {
        guarded_now--;
        dt_range_unlock(c, &g->range);
    }
    return DT_PASS;
}

static const struct dt_block_ext guard_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "guard",
    .summary = "locks and reads",
    .sub_requests = SLOTS,
    .frame_size = sizeof(struct guarded),
    .request = guard_request,
    .response = guard_response,
};

static const struct dt_block_ext *const lane_layers[] = {
    &disk_ext, &a_ext, &b_ext, &up_ext, &plus_ext, &stable_ext, &guard_ext, &keep_ext};

#endif
