/* SPDX-License-Identifier: MIT */
/* placed_rig.c - verified random load through a chain, in one thread. */
#include "tests/unit/placed_common.h"

#include <stdio.h>
#include <sys/mman.h>

struct rig rig;

/* ---- A disk of memory that answers late and in any order ---- */

static uint8_t disk[DISK_BLOCKS * BLOCK];
static struct dt_req *waiting[4096];
static unsigned nwaiting;
static struct dt_ctx *disk_ctx;
static bool late;

static int disk_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = DISK_BLOCKS * BLOCK_SECTORS;
    info->can_flush = info->can_discard = true;
    return 0;
}

static void disk_serve(struct dt_req *req)
{
    const struct iovec *iov;
    uint8_t *at = disk + req->sector * DT_SECTOR_SIZE;

    if (dt_req_has_data(req)) {
        unsigned n = dt_req_map(disk_ctx, req, &iov);

        if (req->op == DT_OP_WRITE)
            dt_iov_read(iov, n, 0, at, dt_req_bytes(req));
        else
            dt_iov_write(iov, n, 0, at, dt_req_bytes(req));
    }
    req->error = 0;
}

static void disk_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    disk_ctx = c;
    if (late) {
        for (unsigned i = 0; i < n; i++) {
            CHECK(nwaiting < ARRAY_SIZE(waiting));
            waiting[nwaiting++] = reqs[i];
        }
        return;
    }
    for (unsigned i = 0; i < n; i++)
        disk_serve(reqs[i]);
    dt_complete(c, reqs, n);
}

static void disk_answer_some(void)
{
    unsigned n = nwaiting ? (unsigned)dt_rng_below(&rig.rng, nwaiting + 1) : 0;

    if (!late)
        n = nwaiting;
    while (n-- > 0 && nwaiting) {
        unsigned i = (unsigned)dt_rng_below(&rig.rng, nwaiting);
        struct dt_req *req = waiting[i];

        waiting[i] = waiting[--nwaiting];
        disk_serve(req);
        dt_complete(disk_ctx, &req, 1);
    }
}

static const struct dt_block_ext disk_ext = {
    DT_BLOCK_EXT_HEADER,       .name = "disk",
    .summary = "memory",       .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK, .write_data = DT_DATA_PEEK,
    .info = disk_info,         .submit = disk_submit,
};

const uint8_t *disk_block(unsigned block)
{
    return disk + (size_t)block * BLOCK;
}

void disk_late(bool value)
{
    late = value;
}

/* ---- Load: disjoint ranges, each block's content known ---- */

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov[3];
    uint8_t *data;
    uint32_t first, count, version;
    bool busy, by_hand, done;
} CACHE_ALIGNED;
static struct slot *slots;

/* The guest's memory, which holds the data of all slots. */
#define SLOT_BYTES   (64u * BLOCK)
#define MEMORY_BYTES ((size_t)DEPTH * SLOT_BYTES)
static uint8_t *memory;
static int memory_fd = -1;

static uint32_t versions[DISK_BLOCKS];
static bool block_busy[DISK_BLOCKS];

static void pattern(uint8_t *to, uint32_t block, uint32_t version)
{
    struct dt_rng rng;

    if (version == 0) {
        memset(to, 0, BLOCK);
        return;
    }
    dt_rng_seed(&rng, (uint64_t)block << 32 | version);
    for (unsigned i = 0; i < BLOCK; i += 8) {
        uint64_t n = dt_rng_next(&rng);

        memcpy(to + i, &n, 8);
    }
}

static void check_read(struct slot *s)
{
    uint8_t expected[BLOCK];

    for (uint32_t i = 0; i < s->count; i++) {
        pattern(expected, s->first + i, versions[s->first + i]);
        /* What was never written is whatever the extension makes of zeroes. */
        if (versions[s->first + i] && memcmp(expected, s->data + (size_t)i * BLOCK, BLOCK) != 0)
            rig.mismatches++;
    }
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct slot *s = container_of(reqs[i], struct slot, req);
        struct dt_req *req = &reqs[i]->pub;

        if (!s->busy) {
            rig.doubled++;
            continue;
        }
        s->busy = false;
        s->done = true;
        rig.completed++;
        rig.in_flight--;
        if (req->error)
            rig.errors++;
        else if (req->op == DT_OP_READ && !s->by_hand)
            check_read(s);
        if (req->op == DT_OP_WRITE && !req->error && !s->by_hand)
            for (uint32_t k = 0; k < s->count; k++)
                versions[s->first + k] = s->version;
        for (uint32_t k = 0; k < s->count; k++)
            block_busy[s->first + k] = false;
    }
}

static void on_wake(struct lane *lane)
{
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static void fill_slot(struct slot *s, enum dt_op op, uint64_t sector, uint32_t sectors)
{
    size_t bytes = op <= DT_OP_WRITE ? (size_t)sectors * DT_SECTOR_SIZE : 0;

    /* Uneven vectors, as guests make them. */
    s->iov[0] = (struct iovec){s->data, bytes / 3};
    s->iov[1] = (struct iovec){s->data + bytes / 3, bytes ? 1 : 0};
    s->iov[2] = (struct iovec){s->data + bytes / 3 + 1, bytes ? bytes - bytes / 3 - 1 : 0};
    s->req.pub = (struct dt_req){.op = (uint8_t)op, .sector = sector, .sectors = sectors};
    s->req.iov = s->iov;
    s->req.niov = bytes ? 3 : 0;
    s->busy = true;
    s->by_hand = s->done = false;
    rig.submitted++;
    rig.in_flight++;
}

static bool range_free(uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (block_busy[first + i])
            return false;
    return true;
}

/* Fills a free slot with a random request; false if the blocks it drew are busy. */
static bool draw(struct slot *s)
{
    uint32_t count = 1 + (uint32_t)dt_rng_below(&rig.rng, rig.max_blocks);
    uint32_t first = (uint32_t)dt_rng_below(&rig.rng, DISK_BLOCKS - count + 1);
    bool write = dt_rng_below(&rig.rng, 2);
    static uint32_t next_version;

    if (dt_rng_below(&rig.rng, 64) == 0) {
        s->count = 0;
        fill_slot(s, DT_OP_FLUSH, 0, 0);
        return true;
    }
    if (!range_free(first, count))
        return false;
    s->first = first;
    s->count = count;
    s->version = ++next_version;
    for (uint32_t i = 0; i < count; i++) {
        block_busy[first + i] = true;
        if (write)
            pattern(s->data + (size_t)i * BLOCK, first + i, s->version);
    }
    fill_slot(s, write ? DT_OP_WRITE : DT_OP_READ, first * BLOCK_SECTORS, count * BLOCK_SECTORS);
    return true;
}

static void submit_some(void)
{
    struct lane *lane = device_lane(rig.dev, 0);
    struct request *burst[16];
    unsigned room = lane_admit(lane, ARRAY_SIZE(burst)), n = 0;

    for (unsigned i = 0; i < rig.depth && n < room; i++)
        if (!slots[i].busy && draw(&slots[i]))
            burst[n++] = &slots[i].req;
    if (n)
        lane_submit(lane, burst, n);
}

void rig_turn(void)
{
    if (!rig.stop)
        submit_some();
    disk_answer_some();
    loop_turn(rig.loop, false);
}

void rig_run(uint64_t ns)
{
    uint64_t until = dt_clock_ns() + ns;

    while (dt_clock_ns() < until)
        rig_turn();
}

bool rig_drain(uint64_t ns)
{
    uint64_t until = dt_clock_ns() + ns;

    rig.stop = true;
    while (rig.in_flight && dt_clock_ns() < until)
        rig_turn();
    rig.stop = false;
    return rig.in_flight == 0;
}

int rig_one(enum dt_op op, uint64_t sector, uint32_t sectors, uint64_t ns)
{
    struct slot *s = &slots[DEPTH - 1];
    uint64_t until = dt_clock_ns() + ns;
    struct request *r = &s->req;
    bool stop = rig.stop;

    CHECK(!s->busy && (size_t)sectors * DT_SECTOR_SIZE <= 64u * BLOCK);
    memset(s->data, 0, 64 * BLOCK);
    s->count = 0;
    fill_slot(s, op, sector, sectors);
    s->by_hand = true;
    lane_submit(device_lane(rig.dev, 0), &r, 1);
    rig.stop = true;
    while (!s->done && dt_clock_ns() < until)
        rig_turn();
    rig.stop = stop;
    return s->done ? r->pub.error : 1;
}

/* ---- Life ---- */

int rig_try(const char *chain, struct dt_error *err)
{
    _cleanup_free_ char *text = xasprintf("%s | disk", chain);
    struct loop_config config = {.spin_ns = DT_US(50)};
    struct chain_spec spec;
    int ret;

    memset(&rig, 0, sizeof(rig));
    memset(disk, 0, sizeof(disk));
    memset(versions, 0, sizeof(versions));
    memset(block_busy, 0, sizeof(block_busy));
    rig.depth = 32;
    rig.max_blocks = 4;
    dt_rng_seed(&rig.rng, 7);
    CHECK(loop_new(&rig.loop, &config, err) == 0);
    CHECK(chain_parse(&spec, text, err) == 0);
    ret = device_new(
        &rig.dev,
        &(struct device_config){.name = "t", .chain = &spec, .loops = &rig.loop, .threads = 1},
        err);
    chain_spec_free(&spec);
    if (ret == 0)
        ret = device_start(rig.dev, &front, NULL, err);
    if (ret < 0) {
        loop_free(rig.loop);
        return ret;
    }
    slots = xaligned(CACHE_LINE, DEPTH * sizeof(*slots));
    memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(memory_fd >= 0 && ftruncate(memory_fd, MEMORY_BYTES) == 0);
    memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    CHECK(memory != MAP_FAILED);
    for (unsigned i = 0; i < DEPTH; i++)
        slots[i].data = memory + (size_t)i * SLOT_BYTES;
    return 0;
}

void rig_open(const char *chain)
{
    struct dt_error err;

    if (rig_try(chain, &err) < 0) {
        fprintf(stderr, "%s: %s\n", chain, err.text);
        abort();
    }
}

void rig_close(void)
{
    CHECK(rig.in_flight == 0);
    device_stop(rig.dev);
    device_free(rig.dev);
    while (loop_turn(rig.loop, false))
        ;
    loop_free(rig.loop);
    munmap(memory, MEMORY_BYTES);
    close(memory_fd);
    free(slots);
    late = false;
}

pid_t rig_pid(unsigned *restarts)
{
    return placed_pid(device_layer(rig.dev, 1), restarts);
}

/* Uneven: neither begins with the file, nor ends between two slots. */
void rig_set_memory(unsigned regions)
{
    const size_t first = BLOCK, middle = 20 * SLOT_BYTES + 3 * BLOCK;
    struct device_region r[2] = {
        {.gpa = 0,
         .size = middle - first,
         .offset = first,
         .host = memory + first,
         .fd = memory_fd},
        {.gpa = 1u << 30,
         .size = MEMORY_BYTES - middle,
         .offset = middle,
         .host = memory + middle,
         .fd = memory_fd},
    };

    CHECK(rig.in_flight == 0 && regions <= 2);
    device_set_memory(rig.dev, r, regions);
}

extern const struct dt_block_ext *const placed_test_exts[];

void rig_register(void)
{
    struct dt_error err;

    CHECK(registry_add(&disk_ext, &err) == 0);
    for (unsigned i = 0; placed_test_exts[i]; i++)
        if (registry_add(placed_test_exts[i], &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
    placed_init(NULL);
}
