/* SPDX-License-Identifier: MIT */
/* disk.c - see disk.h. */
#include "tools/nbdkit/disk.h"

#include <poll.h>
#include <time.h>

#define CHUNK        (1u << 20)
#define TIMEOUT_MS   5000
#define LOOK_MS      200 /* how soon a back end that is gone is noticed */
#define RETRY_NS     DT_MS(50)
#define REAP_AT_ONCE 32u

/* ---- Life ------------------------------------------------------------------------------------ */

static void make_slots(struct disk *d)
{
    d->slots = xcalloc(d->depth, sizeof(*d->slots));
    for (unsigned i = 0; i < d->depth; i++) {
        struct disk_slot *s = &d->slots[i];

        s->req = vblk_request(d->queue, i);
        s->req->tag = i;
        s->next = d->free;
        d->free = s;
    }
}

int disk_open(struct disk *d, struct dt_error *err)
{
    const struct vblk_config config = {.path = d->path,
                                       .queues = 1,
                                       .depth = (unsigned)d->depth,
                                       .bytes = CHUNK,
                                       .event_idx = true,
                                       .timeout_ms = TIMEOUT_MS};
    int ret = vblk_open(&d->driver, &config, err);
    uint32_t most;

    if (ret < 0)
        return ret;
    d->queue = vblk_queue(d->driver, 0);
    most = disk_has(d, VIRTIO_BLK_F_SIZE_MAX) ? vblk_info(d->driver)->disk.size_max : 0;
    d->chunk = most >= PAGE_SIZE_4K ? MIN(ALIGN_DOWN(most, PAGE_SIZE_4K), CHUNK) : CHUNK;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->slot_free, NULL);
    pthread_cond_init(&d->progress, NULL);
    make_slots(d);
    return 0;
}

void disk_close(struct disk *d)
{
    if (!d->driver)
        return;
    vblk_close(d->driver);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->slot_free);
    pthread_cond_destroy(&d->progress);
    free(d->slots);
    d->driver = NULL;
}

void disk_config(struct disk *d, struct virtio_blk_config *config)
{
    bool changed;

    pthread_mutex_lock(&d->lock);
    vblk_alive(d->driver, &changed); /* hears of a resize; the leader sees to the rest */
    *config = vblk_info(d->driver)->disk;
    pthread_mutex_unlock(&d->lock);
}

bool disk_has(const struct disk *d, unsigned feature)
{
    return vblk_info(d->driver)->features >> feature & 1;
}

/* ---- A back end that went away ----------------------------------------------------------------- */

static void collect(struct disk *d)
{
    struct vblk_request *done[REAP_AT_ONCE];
    int n;

    while ((n = vblk_reap(d->queue, done, REAP_AT_ONCE)) > 0)
        for (int i = 0; i < n; i++)
            d->slots[done[i]->tag].done = true;
    if (n < 0 && !d->gone) {
        log_error("%s: the back end broke the ring: %s", d->path, vblk_fault(d->queue));
        d->gone = true;
    }
}

/* The lock is given up while waiting: others may submit, and find their requests served later. */
static void pause_unlocked(struct disk *d, uint64_t ns)
{
    const struct timespec time = {.tv_nsec = (long)ns};

    pthread_mutex_unlock(&d->lock);
    nanosleep(&time, NULL);
    pthread_mutex_lock(&d->lock);
}

static void find_again(struct disk *d)
{
    uint64_t deadline = dt_clock_ns() + d->patience;
    struct dt_error err;

    collect(d);
    log_warning("%s: the back end is gone; waiting for it", d->path);
    while (vblk_reconnect(d->driver, &err) < 0) {
        if (dt_clock_ns() >= deadline) {
            log_error("%s: the back end did not come back: %s", d->path, err.text);
            d->gone = true;
            return;
        }
        pause_unlocked(d, RETRY_NS);
    }
    log_info("%s: the back end is back", d->path);
}

/* ---- Waiting ------------------------------------------------------------------------------------ */

/* One round of the leader. Called and returns with the lock held. */
static void lead(struct disk *d)
{
    struct pollfd p = {.fd = vblk_arm(d->queue), .events = POLLIN};
    uint64_t count;
    bool changed;
    int ready = 1;

    if (p.fd >= 0) {
        pthread_mutex_unlock(&d->lock);
        ready = poll(&p, 1, LOOK_MS);
        if (ready > 0 && read(p.fd, &count, sizeof(count)) < 0)
            ready = 0;
        pthread_mutex_lock(&d->lock);
    }
    collect(d);
    if (ready == 0 && !d->gone && !vblk_alive(d->driver, &changed))
        find_again(d);
}

static void wait_for(struct disk *d, struct disk_slot *s)
{
    while (!s->done && !d->gone) {
        if (d->led) {
            pthread_cond_wait(&d->progress, &d->lock);
            continue;
        }
        d->led = true;
        lead(d);
        d->led = false;
        pthread_cond_broadcast(&d->progress);
    }
}

/* ---- One request ----------------------------------------------------------------------------- */

static struct disk_slot *take_slot(struct disk *d)
{
    struct disk_slot *s;

    pthread_mutex_lock(&d->lock);
    while (!d->free && !d->gone)
        pthread_cond_wait(&d->slot_free, &d->lock);
    s = d->gone ? NULL : d->free;
    if (s)
        d->free = s->next;
    pthread_mutex_unlock(&d->lock);
    return s;
}

static void give_slot(struct disk *d, struct disk_slot *s)
{
    pthread_mutex_lock(&d->lock);
    s->next = d->free;
    d->free = s;
    pthread_cond_signal(&d->slot_free);
    pthread_mutex_unlock(&d->lock);
}

static int gone(const struct disk *d, struct dt_error *err)
{
    return dt_fail(err, -EIO, "the back end at %s is gone", d->path);
}

static int run(struct disk *d, struct disk_slot *s, uint32_t type, uint32_t bytes, uint64_t offset,
               struct dt_error *err)
{
    bool done;

    s->req->type = type;
    s->req->bytes = bytes;
    s->req->sector = offset >> DT_SECTOR_SHIFT;
    s->done = false;
    pthread_mutex_lock(&d->lock);
    if (!d->gone) {
        vblk_submit(d->queue, s->req);
        vblk_publish(d->queue);
    }
    wait_for(d, s);
    done = s->done;
    if (d->gone)
        pthread_cond_broadcast(&d->slot_free);
    pthread_mutex_unlock(&d->lock);
    if (!done)
        return gone(d, err);
    if (s->req->status == VIRTIO_BLK_S_UNSUPP)
        return dt_fail(err, -EOPNOTSUPP, "the disk does not support this");
    if (s->req->status != VIRTIO_BLK_S_OK)
        return dt_fail(err, -EIO, "I/O error of the disk at %llu", (unsigned long long)offset);
    return 0;
}

/* ---- What is asked ------------------------------------------------------------------------------ */

int disk_read(struct disk *d, void *data, uint32_t bytes, uint64_t offset, struct dt_error *err)
{
    struct disk_slot *s = take_slot(d);
    int ret = s ? 0 : gone(d, err);

    for (uint32_t at = 0; ret == 0 && at < bytes; at += d->chunk) {
        uint32_t n = MIN(bytes - at, d->chunk);

        ret = run(d, s, VIRTIO_BLK_T_IN, n, offset + at, err);
        if (ret == 0)
            memcpy((uint8_t *)data + at, s->req->data, n);
    }
    if (s)
        give_slot(d, s);
    return ret;
}

int disk_write(struct disk *d, const void *data, uint32_t bytes, uint64_t offset,
               struct dt_error *err)
{
    struct disk_slot *s = take_slot(d);
    int ret = s ? 0 : gone(d, err);

    for (uint32_t at = 0; ret == 0 && at < bytes; at += d->chunk) {
        uint32_t n = MIN(bytes - at, d->chunk);

        memcpy(s->req->data, (const uint8_t *)data + at, n);
        ret = run(d, s, VIRTIO_BLK_T_OUT, n, offset + at, err);
    }
    if (s)
        give_slot(d, s);
    return ret;
}

int disk_flush(struct disk *d, struct dt_error *err)
{
    struct disk_slot *s = take_slot(d);
    int ret = s ? run(d, s, VIRTIO_BLK_T_FLUSH, 0, 0, err) : gone(d, err);

    if (s)
        give_slot(d, s);
    return ret;
}

/* Ranges go in the data, as many sectors at a time as the disk takes. */
static int run_ranges(struct disk *d, uint32_t type, uint32_t most, uint32_t flags, uint32_t bytes,
                      uint64_t offset, struct dt_error *err)
{
    uint32_t block = vblk_info(d->driver)->disk.blk_size, step;
    struct disk_slot *s = take_slot(d);
    int ret = s ? 0 : gone(d, err);

    most = most ? MIN(most, UINT32_MAX >> DT_SECTOR_SHIFT) : UINT32_MAX >> DT_SECTOR_SHIFT;
    step = MAX(ALIGN_DOWN(most << DT_SECTOR_SHIFT, block), block);
    for (uint32_t n; ret == 0 && bytes; bytes -= n, offset += n) {
        struct virtio_blk_discard_write_zeroes *range = (void *)s->req->data;

        n = MIN(bytes, step);
        *range = (struct virtio_blk_discard_write_zeroes){.sector = offset >> DT_SECTOR_SHIFT,
                                                          .num_sectors = n >> DT_SECTOR_SHIFT,
                                                          .flags = flags};
        ret = run(d, s, type, sizeof(*range), 0, err);
    }
    if (s)
        give_slot(d, s);
    return ret;
}

int disk_discard(struct disk *d, uint32_t bytes, uint64_t offset, struct dt_error *err)
{
    return run_ranges(d, VIRTIO_BLK_T_DISCARD, vblk_info(d->driver)->disk.max_discard_sectors, 0,
                      bytes, offset, err);
}

int disk_zero(struct disk *d, uint32_t bytes, uint64_t offset, bool unmap, struct dt_error *err)
{
    const struct virtio_blk_config *disk = &vblk_info(d->driver)->disk;
    uint32_t flags = unmap && disk->write_zeroes_may_unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

    return run_ranges(d, VIRTIO_BLK_T_WRITE_ZEROES, disk->max_write_zeroes_sectors, flags, bytes,
                      offset, err);
}
