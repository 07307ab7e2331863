/* SPDX-License-Identifier: MIT */
/*
 * transfer.c - see transfer.h. Both ways have the same pieces: here they are requests of the pool,
 * there of a virtio-blk driver, whose buffers are in memory that the pool's process sees.
 */
#include "tools/cvd/transfer.h"

#include "blk/driver/driver.h"

#include <linux/virtio_blk.h>

#define DEPTH     16u
#define ANSWER_MS 10000
#define WAIT_MS   200
#define STILL_NS  DT_S(5)

struct slot {
    struct piece piece;
    struct disk_req req;
    struct vblk_request *remote;
    struct transfer *transfer;
    bool busy;
};

struct transfer {
    struct target *t;
    struct disk *disk;
    struct vblk *driver;
    struct vblk_queue *queue;
    int (*landed)(void *arg, const struct piece *piece);
    void *arg;
    unsigned busy;
    int error;
    uint64_t moved; /* when something was done last, ns; 0: it was told that nothing is */
    struct slot slots[DEPTH];
};

/* ---- Ends ---- */

static void slot_done(struct slot *slot, int error)
{
    struct transfer *x = slot->transfer;

    if (!error && slot->piece.op == DISK_READ && !x->error && x->landed)
        error = x->landed(x->arg, &slot->piece);
    if (error && !x->error)
        x->error = error;
    slot->busy = false;
    x->busy--;
}

static void local_done(struct disk_req *req)
{
    slot_done(container_of(req, struct slot, req), req->error);
}

static int status_errno(uint8_t status)
{
    return status == VIRTIO_BLK_S_OK ? 0 : status == VIRTIO_BLK_S_UNSUPP ? -EOPNOTSUPP : -EIO;
}

/* The pool's process tells its log alone why it waits. */
static void say_still(struct transfer *x, bool still)
{
    uint64_t now = dt_clock_ns();

    if (!still) {
        x->moved = now;
    } else if (x->moved && now - x->moved > STILL_NS) {
        log_warning("%s/%s: nothing moves: is the pool full, or its file system, or the disk's "
                    "quota reached? (cvd pool info, cvd quota)",
                    x->t->path, x->t->name);
        x->moved = 0;
    }
}

static void wait_remote(struct transfer *x)
{
    struct vblk_request *done[DEPTH];
    bool changed;
    int n = vblk_reap(x->queue, done, DEPTH);

    if (n == 0) {
        vblk_wait(x->queue, WAIT_MS);
        n = vblk_reap(x->queue, done, DEPTH);
    }
    say_still(x, n == 0);
    for (int i = 0; i < n; i++)
        slot_done(&x->slots[done[i]->tag], status_errno(done[i]->status));
    if (n < 0 || (n == 0 && !vblk_alive(x->driver, &changed))) {
        x->error = x->error ?: -EPIPE;
        x->busy = 0; /* nothing comes back any more */
    }
}

/* Nobody else has the pool, so nobody would delete anything in it. */
static void wait_local(struct transfer *x)
{
    target_turn(x->t);
    if (pool_is_full(x->t->pool))
        disk_cancel_held(x->disk, -ENOSPC);
}

static void wait_some(struct transfer *x)
{
    if (x->driver)
        wait_remote(x);
    else
        wait_local(x);
}

static void wait_all(struct transfer *x)
{
    while (x->busy)
        wait_some(x);
}

/* ---- Requests ---- */

struct piece *transfer_get(struct transfer *x)
{
    while (!x->error) {
        for (unsigned i = 0; i < DEPTH; i++)
            if (!x->slots[i].busy)
                return &x->slots[i].piece;
        wait_some(x);
    }
    return NULL;
}

static void submit_remote(struct transfer *x, struct slot *slot)
{
    static const uint32_t types[] = {[DISK_READ] = VIRTIO_BLK_T_IN,
                                     [DISK_WRITE] = VIRTIO_BLK_T_OUT,
                                     [DISK_ZERO] = VIRTIO_BLK_T_WRITE_ZEROES,
                                     [DISK_FLUSH] = VIRTIO_BLK_T_FLUSH};
    const struct piece *p = &slot->piece;
    struct vblk_request *r = slot->remote;
    const struct virtio_blk_discard_write_zeroes range = {
        .sector = p->offset >> DT_SECTOR_SHIFT,
        .num_sectors = (uint32_t)(p->length >> DT_SECTOR_SHIFT),
        .flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};

    r->type = types[p->op];
    r->sector = p->offset >> DT_SECTOR_SHIFT;
    r->bytes = (uint32_t)p->length;
    r->tag = (uint64_t)(slot - x->slots);
    if (p->op == DISK_ZERO) {
        memcpy(r->data, &range, sizeof(range));
        r->bytes = sizeof(range);
        r->sector = 0;
    } else if (p->op == DISK_FLUSH) {
        r->bytes = 0;
        r->sector = 0;
    }
    vblk_submit(x->queue, r);
    vblk_publish(x->queue);
}

void transfer_submit(struct transfer *x, struct piece *piece, enum disk_op op, uint64_t offset,
                     uint64_t length)
{
    struct slot *slot = container_of(piece, struct slot, piece);

    piece->op = op;
    piece->offset = offset;
    piece->length = length;
    slot->busy = true;
    x->busy++;
    if (x->driver) {
        submit_remote(x, slot);
        return;
    }
    slot->req.op = op;
    slot->req.offset = offset;
    slot->req.length = length;
    slot->req.buf = piece->buf;
    disk_submit(x->disk, &slot->req);
}

int transfer_zero(struct transfer *x, uint64_t offset, uint64_t length)
{
    uint64_t most = x->driver ? (uint64_t)vblk_info(x->driver)->disk.max_write_zeroes_sectors
                                    << DT_SECTOR_SHIFT
                              : UINT64_MAX;

    if (most == 0)
        return -EOPNOTSUPP;
    while (length) {
        struct piece *p = transfer_get(x);
        uint64_t n = MIN(length, most);

        if (!p)
            break;
        transfer_submit(x, p, DISK_ZERO, offset, n);
        offset += n;
        length -= n;
    }
    wait_all(x);
    return x->error;
}

/* ---- Life ---- */

static int open_local(struct transfer *x, bool read_only, struct dt_error *err)
{
    int ret = x->t->moment == PRESENT
                  ? disk_open(&x->disk, x->t->pool, x->t->slot, read_only, "cvd", err)
                  : disk_open_at(&x->disk, x->t->pool, x->t->slot, x->t->moment, "cvd", err);

    if (ret == 0 && !x->t->loop)
        ret = target_data(x->t, err);
    for (unsigned i = 0; i < DEPTH; i++) {
        x->slots[i].req.done = local_done;
        x->slots[i].piece.buf = xaligned(PX_BLOCK, TRANSFER_PIECE);
    }
    return ret;
}

static int open_remote(struct transfer *x, bool read_only, struct dt_error *err)
{
    struct vblk_config config = {.path = x->t->path,
                                 .queues = 1,
                                 .depth = DEPTH,
                                 .bytes = TRANSFER_PIECE,
                                 .timeout_ms = ANSWER_MS};
    int ret = cvd_ask_disk(x->t->sock, x->t->name, read_only, 0, "cvd", ANSWER_MS, err);

    if (ret < 0)
        return ret;
    config.sock = x->t->sock;
    x->t->sock = 0;
    ret = vblk_open(&x->driver, &config, err);
    if (ret < 0)
        return ret;
    x->queue = vblk_queue(x->driver, 0);
    x->moved = dt_clock_ns();
    for (unsigned i = 0; i < DEPTH; i++) {
        x->slots[i].remote = vblk_request(x->queue, i);
        x->slots[i].piece.buf = x->slots[i].remote->data;
    }
    return 0;
}

int transfer_open(struct transfer **out, struct target *t, bool read_only,
                  int (*landed)(void *arg, const struct piece *piece), void *arg,
                  struct dt_error *err)
{
    struct transfer *x = xcalloc(1, sizeof(*x));
    int ret;

    x->t = t;
    x->landed = landed;
    x->arg = arg;
    for (unsigned i = 0; i < DEPTH; i++)
        x->slots[i].transfer = x;
    ret = t->pool ? open_local(x, read_only, err) : open_remote(x, read_only, err);
    if (ret < 0) {
        transfer_close(x, false, ret, NULL, NULL);
        return ret;
    }
    *out = x;
    return 0;
}

uint64_t transfer_size(const struct transfer *x)
{
    return x->driver ? vblk_info(x->driver)->disk.capacity << DT_SECTOR_SHIFT
                     : pool_record(x->t->pool, disk_slot(x->disk))->size;
}

int transfer_settle(struct transfer *x)
{
    wait_all(x);
    return x->error;
}

int transfer_error(const struct transfer *x)
{
    return x->error;
}

static void close_local(struct transfer *x)
{
    while (x->t->loop && !pool_idle(x->t->pool))
        target_turn(x->t);
    for (unsigned i = 0; i < DEPTH; i++)
        free(x->slots[i].piece.buf);
    if (x->disk)
        disk_close(x->disk);
}

int transfer_close(struct transfer *x, bool durable, int ret, const char *what,
                   struct dt_error *err)
{
    struct piece *p = durable && ret == 0 ? (wait_all(x), transfer_get(x)) : NULL;

    if (p)
        transfer_submit(x, p, DISK_FLUSH, 0, 0);
    wait_all(x);
    if (ret == 0 && x->error)
        ret = dt_fail(err, x->error, "%s: %s", what, strerror(-x->error));
    if (x->driver)
        vblk_close(x->driver);
    else if (x->t->pool)
        close_local(x);
    free(x);
    return ret;
}
