/* SPDX-License-Identifier: MIT */
/* queue.c - requests on one ring: the part that is as fast as the device it drives. */
#include "blk/driver/internal.h"

#include <poll.h>
#include <sys/eventfd.h>

#define DESCRIPTORS_PER_REQUEST 3u
#define RING_MIN                16u
#define REAP_BURST              64u

/* ---- Requests ------------------------------------------------------------------------------ */

struct vblk_request *vblk_request(struct vblk_queue *q, unsigned index)
{
    CHECK(index < q->depth);
    return &q->requests[index];
}

/* Which way the data goes: does the back end write it? */
static inline bool fills_data(uint32_t type)
{
    return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

static void add_to_ring(struct vblk_queue *q, struct vblk_request *req)
{
    struct virtq_buffer *bufs = req->bufs_;
    int id;

    if (unlikely(req->bytes == 0)) {
        struct virtq_buffer two[2] = {bufs[0], bufs[2]};

        id = virtq_driver_add(&q->ring, two, 1, 1);
    } else {
        unsigned nread = fills_data(req->type) ? 1 : 2;

        bufs[1].len = req->bytes;
        id = virtq_driver_add(&q->ring, bufs, nread, 3 - nread);
    }
    CHECK(id >= 0); /* the ring has room for all requests */
    q->by_id[id] = req;
}

void vblk_submit(struct vblk_queue *q, struct vblk_request *req)
{
    struct vblk_line *line = req->line_;

    CHECK(!req->busy);
    line->header.type = req->type;
    line->header.sector = req->sector;
    line->status = 0xff;
    req->busy = true;
    q->in_flight++;
    add_to_ring(q, req);
}

static void signal_eventfd(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void vblk_publish(struct vblk_queue *q)
{
    if (virtq_driver_publish(&q->ring))
        signal_eventfd(q->kick);
}

int vblk_reap(struct vblk_queue *q, struct vblk_request **done, unsigned max)
{
    uint16_t ids[REAP_BURST];
    int n = virtq_driver_reap(&q->ring, ids, NULL, MIN(max, REAP_BURST));

    for (int i = 0; i < n; i++) {
        struct vblk_request *req = q->by_id[ids[i]];

        req->busy = false;
        req->status = READ_ONCE(req->line_->status);
        done[i] = req;
    }
    if (n > 0)
        q->in_flight -= (unsigned)n;
    return n;
}

const char *vblk_fault(const struct vblk_queue *q)
{
    return q->ring.fault;
}

unsigned vblk_in_flight(const struct vblk_queue *q)
{
    return q->in_flight;
}

void vblk_poll(struct vblk_queue *q)
{
    virtq_driver_disarm(&q->ring);
}

int vblk_arm(struct vblk_queue *q)
{
    return virtq_driver_arm(&q->ring) ? q->call : -1;
}

void vblk_wait(struct vblk_queue *q, int timeout_ms)
{
    struct pollfd p = {.fd = vblk_arm(q), .events = POLLIN};
    uint64_t count;

    if (p.fd < 0)
        return;
    if (poll(&p, 1, timeout_ms) > 0 && read(q->call, &count, sizeof(count)) < 0) {
        /* Somebody else's wake-up: the ring tells what there is. */
    }
}

/* ---- Life ---------------------------------------------------------------------------------- */

static uint16_t ring_size_for(unsigned depth)
{
    unsigned size = RING_MIN;

    while (size < depth * DESCRIPTORS_PER_REQUEST)
        size *= 2;
    return (uint16_t)size;
}

/* The three parts of a queue's memory, each on pages of its own. */
static size_t ring_part(const struct vblk_config *config)
{
    return ALIGN_UP(virtq_driver_bytes(ring_size_for(config->depth), config->packed),
                    (size_t)PAGE_SIZE_4K);
}

static size_t line_part(const struct vblk_config *config)
{
    return ALIGN_UP(config->depth * sizeof(struct vblk_line), (size_t)PAGE_SIZE_4K);
}

static size_t data_stride(const struct vblk_config *config)
{
    return ALIGN_UP((size_t)config->bytes, (size_t)PAGE_SIZE_4K);
}

size_t vblk_queue_bytes(const struct vblk_config *config)
{
    return ring_part(config) + line_part(config) + config->depth * data_stride(config);
}

static void init_request(struct vblk *d, struct vblk_request *req, struct vblk_line *line,
                         uint8_t *data)
{
    uint64_t at = vblk_gpa(d, line);

    req->data = data;
    req->line_ = line;
    req->bufs_[0] = (struct virtq_buffer){at, sizeof(line->header)};
    req->bufs_[1] = (struct virtq_buffer){vblk_gpa(d, data), 0};
    req->bufs_[2] = (struct virtq_buffer){at + offsetof(struct vblk_line, status), 1};
}

static int init_ring(struct vblk *d, struct vblk_queue *q)
{
    return virtq_driver_init(&q->ring, q->ring_size, d->config.packed,
                             d->info.features & 1ull << VIRTIO_RING_F_EVENT_IDX, q->ring_memory,
                             vblk_gpa(d, q->ring_memory));
}

int vblk_queue_init(struct vblk *d, unsigned index, uint8_t *memory, struct dt_error *err)
{
    struct vblk_queue *q = &d->queues[index];
    struct vblk_line *lines = (void *)(memory + ring_part(&d->config));
    uint8_t *data = (uint8_t *)lines + line_part(&d->config);

    q->depth = d->config.depth;
    q->ring_size = ring_size_for(q->depth);
    q->ring_memory = memory;
    q->requests = xcalloc(q->depth, sizeof(*q->requests));
    q->by_id = xcalloc(q->ring_size, sizeof(*q->by_id));
    for (unsigned i = 0; i < q->depth; i++)
        init_request(d, &q->requests[i], &lines[i], data + i * data_stride(&d->config));
    q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick < 0 || q->call < 0)
        return dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    CHECK(init_ring(d, q) == 0);
    return 0;
}

void vblk_queue_fini(struct vblk_queue *q)
{
    virtq_driver_fini(&q->ring);
    free(q->requests);
    free(q->by_id);
    if (q->kick >= 0)
        close(q->kick);
    if (q->call >= 0)
        close(q->call);
}

/* Without an in-flight log nobody remembers what was under way: begin a new ring with all of it. */
static void submit_again(struct vblk *d, struct vblk_queue *q)
{
    bool polling = q->ring.polling;

    virtq_driver_fini(&q->ring);
    CHECK(init_ring(d, q) == 0);
    for (unsigned i = 0; i < q->depth; i++)
        if (q->requests[i].busy)
            add_to_ring(q, &q->requests[i]);
    if (polling)
        virtq_driver_disarm(&q->ring);
}

/*
 * Where the new back end begins if it has no log: split: what is next in the available ring is
 * unknown to us if the old one crashed, so the used index, as QEMU does (the log knows what lies
 * between).
 */
static uint32_t ring_base(const struct vblk_queue *q)
{
    const struct virtq_driver *r = &q->ring;

    if (!r->packed)
        return r->used;
    return r->used | (uint32_t)r->used_wrap << 15 | (uint32_t)r->used << 16 |
           (uint32_t)r->used_wrap << 31;
}

int vblk_queue_start(struct vblk *d, unsigned index, bool again, struct dt_error *err)
{
    struct vblk_queue *q = &d->queues[index];
    struct vhost_frontend_ring ring = {.size = q->ring_size, .kick = q->kick, .call = q->call};
    uint64_t at = (uintptr_t)q->ring_memory;
    int ret;

    if (again && !d->info.inflight)
        submit_again(d, q);
    ring.base = ring_base(q);
    ring.desc = at + q->ring.desc_off;
    ring.driver = at + q->ring.driver_off;
    ring.device = at + q->ring.device_off;
    ret = vhost_frontend_ring_start(d->session, index, &ring, err);
    if (ret == 0 && again) {
        virtq_driver_publish(&q->ring);
        signal_eventfd(q->kick);
    }
    return ret;
}
