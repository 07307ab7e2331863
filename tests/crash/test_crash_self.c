/* SPDX-License-Identifier: MIT */
/*
 * test_crash_self.c - the harness itself: the back `file` passes; layers that are broken in ways that
 * only a crash shows do not, however well they serve while they run.
 *
 * The toy is a back that writes each block to a fresh slot of its file and points a map at it. Right:
 * data, flush, map, flush. Its variants leave out what matters.
 */
#include "tests/crash/crash.h"
#include "tests/unit/ext_disk.h"

#include <fcntl.h>

#define BLOCKS 32u
#define SLOTS  512u
#define MAP_AT ((off_t)SLOTS * 512)

enum fault { NONE, MAP_FIRST, NO_FLUSH, FAILURE_FORGOTTEN };

struct toy {
    const char *path;
    uint64_t fault;
    int fd;
    uint32_t map[128]; /* one sector, so never torn */
    uint32_t next;
    bool failed;
};

static const struct dt_param toy_params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .offset = offsetof(struct toy, path),
     .help = "Data and map."},
    {.name = "fault",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct toy, fault),
     .initial = "0",
     .help = "What is wrong with it."},
    {NULL},
};

static int toy_open(struct dt_layer *layer, struct dt_error *err)
{
    struct toy *t = dt_layer_data(layer);

    t->fd = open(t->path, O_RDWR | O_CLOEXEC);
    if (t->fd < 0 || pread(t->fd, t->map, sizeof(t->map), MAP_AT) != sizeof(t->map))
        return dt_fail(err, -EIO, "cannot read the map");
    for (unsigned i = 0; i < BLOCKS; i++)
        t->next = MAX(t->next, t->map[i]);
    return 0;
}

static void toy_close(struct dt_layer *layer)
{
    struct toy *t = dt_layer_data(layer);

    close(t->fd);
}

static int toy_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = BLOCKS;
    info->can_flush = true;
    return 0;
}

static int toy_failed(struct toy *t)
{
    t->failed = t->fault != FAILURE_FORGOTTEN;
    return -EIO;
}

static int toy_flush(struct toy *t)
{
    if (t->fault == NO_FLUSH)
        return 0;
    if (t->failed || (t->fault != MAP_FIRST && fdatasync(t->fd) < 0))
        return toy_failed(t);
    if (pwrite(t->fd, t->map, sizeof(t->map), MAP_AT) != sizeof(t->map) || fdatasync(t->fd) < 0)
        return toy_failed(t);
    return 0;
}

static void toy_serve(struct dt_ctx *c, struct dt_req *req)
{
    struct toy *t = c->layer_data;
    const struct iovec *iov;
    uint8_t sector[512];

    for (uint32_t i = 0, n = dt_req_has_data(req) ? dt_req_map(c, req, &iov) : 0; i < req->sectors;
         i++) {
        uint32_t *slot = &t->map[req->sector + i];

        if (req->op == DT_OP_WRITE) {
            dt_iov_read(iov, n, i * 512u, sector, sizeof(sector));
            *slot = ++t->next;
            assert_true(*slot < SLOTS);
            assert_int_equal(pwrite(t->fd, sector, 512, *slot * 512), 512);
        } else {
            memset(sector, 0, sizeof(sector));
            if (*slot)
                assert_int_equal(pread(t->fd, sector, 512, *slot * 512), 512);
            dt_iov_write(iov, n, i * 512u, sector, sizeof(sector));
        }
    }
    if (req->op == DT_OP_FLUSH || (req->flags & DT_REQ_FUA))
        req->error = toy_flush(t);
}

static void toy_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        toy_serve(c, reqs[i]);
    dt_complete(c, reqs, n);
}

static const struct dt_block_ext toy = {
    DT_BLOCK_EXT_HEADER,
    .name = "toy",
    .summary = "A back with a map",
    .flags = DT_BACK,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = toy_params,
    .layer_size = sizeof(struct toy),
    .open = toy_open,
    .close = toy_close,
    .info = toy_info,
    .submit = toy_submit,
};

static enum dt_verdict deaf_request(struct dt_ctx *c, struct dt_req *req)
{
    req->flags &= (uint8_t)~DT_REQ_FUA;
    return req->op == DT_OP_FLUSH ? DT_DONE : DT_PASS;
}

static const struct dt_block_ext deaf = {
    DT_BLOCK_EXT_HEADER,
    .name = "deaf",
    .summary = "Does not pass flushes on",
    .request = deaf_request,
};

/* ---- Setups ---- */

static const char *const files[] = {"disk", NULL};

static void make_disk(const char *dir)
{
    _cleanup_free_ char *path = xasprintf("%s/disk", dir);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT, 0600);

    assert_int_equal(ftruncate(fd, MAP_AT + 4096), 0);
}

#define FILE_SETUP                                                                            \
    .files = files, .sectors = MAP_AT / 512 + 8, .block = 1, .prepare = make_disk, .ops = 60, \
    .depth = 6
#define TOY_SETUP                                                                               \
    .files = files, .sectors = BLOCKS, .block = 1, .prepare = make_disk, .ops = 60, .depth = 1, \
    .no_discard = true
#define TOY_POWER TOY_SETUP, .power_only = true

static void right_ones_pass(void **state)
{
    static const struct crash_setup file = {
        .name = "file", .chain = "file path=@/disk cache=writeback", FILE_SETUP};
    static const struct crash_setup good_toy = {
        .name = "toy", .chain = "toy path=@/disk", TOY_POWER};

    crash_test(&file, 600);
    crash_test(&good_toy, 600);
}

static void broken_ones_are_caught(void **state)
{
    static const struct crash_setup setups[] = {
        {.name = "deaf", .chain = "deaf | file path=@/disk cache=writeback", FILE_SETUP},
        /* Its map is in the process's memory until a flush. */
        {.name = "forgetful", .chain = "toy path=@/disk", TOY_SETUP},
        {.name = "map-first", .chain = "toy path=@/disk fault=1", TOY_POWER},
        {.name = "no-flush", .chain = "toy path=@/disk fault=2", TOY_POWER},
        {.name = "failure-forgotten", .chain = "toy path=@/disk fault=3", TOY_POWER},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++) {
        char failed[512], again[512];
        unsigned tried = crash_run(&setups[i], 20000, failed);

        printf("# %s: found at state %u: %s\n", setups[i].name, tried, failed);
        if (!failed[0])
            fail_msg("%s was not found out", setups[i].name);
        /* And the same once more: a seed repeats a run. */
        assert_int_equal(crash_run(&setups[i], 20000, again), tried);
        assert_string_equal(again, failed);
    }
}

static int register_toys(void **state)
{
    struct dt_error err;

    return registry_add(&toy, &err) < 0 || registry_add(&deaf, &err) < 0 ? -1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_ones_pass),
        cmocka_unit_test(broken_ones_are_caught),
    };

    return cmocka_run_group_tests(tests, register_toys, NULL);
}
