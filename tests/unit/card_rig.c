/* SPDX-License-Identifier: MIT */
#include "card_rig.h"

#include "net/vhost-user/front.h"
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define RING_BYTES (CARD_DATA / CARD_RINGS)

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "card's guest: %s\n", what);
        abort();
    }
}

/* ---- The wire ---- */

static struct {
    pthread_mutex_t lock;
    struct card_frame frames[CARD_FRAMES];
    unsigned n;
} wire = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* More than anybody looks at are thrown away; all are judged. */
static void far_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    pthread_mutex_lock(&wire.lock);
    for (unsigned i = 0; i < n; i++) {
        const struct dt_packet *p = packets[i];

        must(net_needs_fit(packets[i]), "what is left to do does not fit the packet");
        if (wire.n == CARD_FRAMES)
            continue;
        wire.frames[wire.n] =
            (struct card_frame){malloc(p->length), p->length, p->segment, p->needs};
        memcpy(wire.frames[wire.n++].bytes, p->data, p->length);
    }
    pthread_mutex_unlock(&wire.lock);
    dt_sent(c, packets, n);
}

static uint8_t far_link;

static int far_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    info->mtu = 1500;
    info->link = __atomic_load_n(&far_link, __ATOMIC_RELAXED);
    return 0;
}

void wire_link(struct soft_disk *soft, enum dt_link link)
{
    __atomic_store_n(&far_link, (uint8_t)link, __ATOMIC_RELAXED);
    if (soft)
        dt_layer_info_changed(soft->dev->layers[soft->dev->nlayers]);
}

/* To the last: nobody listens any more. */
static void far_close(struct dt_layer *layer)
{
    dt_layer_info_changed(layer);
}

static const struct dt_net_ext far = {
    DT_NET_EXT_HEADER,
    .name = "far-end",
    .summary = "the other end, for tests",
    .flags = DT_BACK | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .transmit = far_transmit,
    .close = far_close,
    .info = far_info,
};

bool wire_take(struct card_frame *frame)
{
    bool found;

    pthread_mutex_lock(&wire.lock);
    found = wire.n > 0;
    if (found) {
        *frame = wire.frames[0];
        memmove(wire.frames, wire.frames + 1, --wire.n * sizeof(*frame));
    }
    pthread_mutex_unlock(&wire.lock);
    return found;
}

struct arrival {
    struct device *dev;
    const void *frame;
    uint32_t length;
    const struct dt_vnet_header *v;
};

static void arrive(void *arg)
{
    const struct arrival *a = arg;
    struct dt_ctx *c = dt_layer_ctx(a->dev->layers[a->dev->nlayers], 0);
    struct dt_packet *p = dt_packet_new(c, a->length);

    must(p, "no memory for a packet");
    memcpy(p->data, a->frame, a->length);
    must(!a->v || dt_vnet_read(p, a->v, DT_OFFLOAD_ALL) == 0, "a header of the test's was refused");
    dt_receive_one(c, p);
}

void wire_arrive(struct card_guest *g, const void *frame, uint32_t length,
                 const struct dt_vnet_header *v)
{
    struct arrival a = {g->soft.dev, frame, length, v};

    loop_call(g->soft.loop, arrive, &a);
}

/* ---- The guest ---- */

static void start_ring(struct card_guest *g, unsigned i)
{
    struct virtq_driver *ring = &g->rings[i];
    struct dt_error err = {""};
    uint8_t *memory = g->memory + i * (size_t)RING_BYTES;
    struct vhost_frontend_ring config = {.size = CARD_RING};

    must(virtq_driver_init(ring, CARD_RING, g->packed, false, memory, CARD_GPA + i * RING_BYTES) ==
             0,
         "ring");
    virtq_driver_disarm(ring);
    g->kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g->call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    config.base = g->packed ? 0x80008000u : 0;
    config.desc = (uintptr_t)memory + ring->desc_off;
    config.driver = (uintptr_t)memory + ring->driver_off;
    config.device = (uintptr_t)memory + ring->device_off;
    config.kick = g->kick[i];
    config.call = g->call[i];
    must(vhost_frontend_ring_start(g->front, i, &config, &err) == 0, err.text);
    must(vhost_frontend_ring_enable(g->front, i, true, &err) == 0, err.text);
}

void card_guest_attach(struct card_guest *g)
{
    uint64_t protocol = 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS |
                        1ull << VHOST_F_MQ | 1ull << VHOST_F_MTU | 1ull << VHOST_F_RARP;
    uint64_t features = g->features | 1ull << VHOST_FEATURE_PROTOCOL;
    struct dt_error err = {""};
    unsigned queues;

    features |= g->legacy ? 0 : 1ull << VIRTIO_F_VERSION_1;
    features |= g->packed ? 1ull << VIRTIO_F_RING_PACKED : 0;
    g->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    must(g->memory_fd >= 0 && ftruncate(g->memory_fd, CARD_MEMORY) == 0, "memfd");
    g->memory = mmap(NULL, CARD_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, g->memory_fd, 0);
    must(g->memory != MAP_FAILED, "mmap");
    must(vhost_frontend_connect(&g->front, g->soft.socket, CARD_WAIT_MS, &err) == 0, err.text);
    vhost_frontend_queue_rings(g->front, CARD_RINGS);
    must(vhost_frontend_negotiate(g->front, &features, &protocol, features, &queues, &err) == 0,
         err.text);
    must(vhost_frontend_add_memory(g->front, CARD_GPA, (uintptr_t)g->memory, CARD_MEMORY,
                                   g->memory_fd, 0, &err) == 0,
         err.text);
    for (unsigned i = 0; i < CARD_RINGS; i++)
        start_ring(g, i);
}

void card_guest_detach(struct card_guest *g)
{
    vhost_frontend_free(g->front);
    munmap(g->memory, CARD_MEMORY);
    close(g->memory_fd);
    for (unsigned i = 0; i < CARD_RINGS; i++) {
        virtq_driver_fini(&g->rings[i]);
        close(g->kick[i]);
        close(g->call[i]);
    }
}

void card_serve(struct soft_disk *soft)
{
    static bool registered;
    struct dt_error err = {""};

    must(registered || registry_add_net(&far, &err) == 0, err.text);
    registered = true;
    soft->card = &card_front;
    soft_disk_start(soft, "far-end");
}

void card_guest_start(struct card_guest *g)
{
    g->soft = (struct soft_disk){0};
    card_serve(&g->soft);
    card_guest_attach(g);
}

void card_guest_stop(struct card_guest *g)
{
    struct card_frame frame;

    card_guest_detach(g);
    soft_disk_stop(&g->soft);
    while (wire_take(&frame))
        free(frame.bytes);
}

void card_guest_offer(struct card_guest *g, enum card_ring ring, const struct virtq_buffer *bufs,
                      unsigned nread, unsigned nwrite)
{
    const uint64_t one = 1;

    must(virtq_driver_add(&g->rings[ring], bufs, nread, nwrite) >= 0, "the ring is full");
    if (virtq_driver_publish(&g->rings[ring]))
        must(write(g->kick[ring], &one, sizeof(one)) == sizeof(one), "kick");
}

int64_t card_guest_reap(struct card_guest *g, enum card_ring ring, uint16_t *id, int timeout_ms)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(timeout_ms);
    uint32_t written;
    int n;

    while ((n = virtq_driver_reap(&g->rings[ring], id, &written, 1)) == 0)
        if (dt_clock_ns() > deadline)
            return -ETIMEDOUT;
    return n < 0 ? n : (int64_t)written;
}

bool card_guest_gone(struct card_guest *g, int timeout_ms)
{
    struct pollfd p = {.fd = vhost_frontend_socket(g->front), .events = POLLIN | POLLRDHUP};

    return poll(&p, 1, timeout_ms) == 1 && (p.revents & (POLLHUP | POLLRDHUP));
}

struct question {
    struct front *front;
    json_t *answer;
};

static void ask(void *arg)
{
    struct question *q = arg;

    q->answer = front_show(q->front);
}

uint64_t card_guest_dropped(struct card_guest *g, const char *why)
{
    struct question q = {.front = g->soft.front};
    uint64_t n;

    loop_call(g->soft.loop, ask, &q);
    n = (uint64_t)json_integer_value(json_object_get(json_object_get(q.answer, "dropped"), why));
    json_decref(q.answer);
    return n;
}
