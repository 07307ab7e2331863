/* SPDX-License-Identifier: MIT */
#include "raw_guest.h"
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "raw guest: %s\n", what);
        abort();
    }
}

static void start_ring(struct raw_guest *g)
{
    struct dt_error err = {""};
    struct vhost_frontend_ring config = {
        .size = RAW_RING,
        .desc = (uintptr_t)g->memory + g->ring.desc_off,
        .driver = (uintptr_t)g->memory + g->ring.driver_off,
        .device = (uintptr_t)g->memory + g->ring.device_off,
        .kick = g->kick,
        .call = g->call,
    };

    must(vhost_frontend_ring_start(g->front, 0, &config, &err) == 0, err.text);
    must(vhost_frontend_ring_enable(g->front, 0, true, &err) == 0, err.text);
}

void raw_guest_attach(struct raw_guest *g, const char *path, uint64_t features)
{
    uint64_t protocol =
        1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_CONFIG;
    struct dt_error err = {""};
    unsigned queues;

    features |= 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_FEATURE_PROTOCOL;
    g->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    must(g->memory_fd >= 0 && ftruncate(g->memory_fd, RAW_MEMORY) == 0, "memfd");
    g->memory = mmap(NULL, RAW_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, g->memory_fd, 0);
    must(g->memory != MAP_FAILED, "mmap");
    must(vhost_frontend_connect(&g->front, path, 5000, &err) == 0, err.text);
    must(vhost_frontend_negotiate(g->front, &features, &protocol, 0, &queues, &err) == 0, err.text);
    must(vhost_frontend_add_memory(g->front, RAW_GPA, (uintptr_t)g->memory, RAW_MEMORY,
                                   g->memory_fd, 0, &err) == 0,
         err.text);
    must(virtq_driver_init(&g->ring, RAW_RING, false, false, g->memory, RAW_GPA) == 0, "ring");
    virtq_driver_disarm(&g->ring);
    g->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    start_ring(g);
}

void raw_guest_detach(struct raw_guest *g)
{
    vhost_frontend_free(g->front);
    virtq_driver_fini(&g->ring);
    munmap(g->memory, RAW_MEMORY);
    close(g->memory_fd);
    close(g->kick);
    close(g->call);
}

void raw_guest_kick(struct raw_guest *g)
{
    const uint64_t one = 1;

    must(write(g->kick, &one, sizeof(one)) == sizeof(one), "kick");
}

int64_t raw_guest_run(struct raw_guest *g, const struct virtq_buffer *bufs, unsigned nread,
                      unsigned nwrite, int timeout_ms)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(timeout_ms);
    uint32_t written;
    uint16_t id;
    int n;

    must(virtq_driver_add(&g->ring, bufs, nread, nwrite) >= 0, "the ring is full");
    if (virtq_driver_publish(&g->ring))
        raw_guest_kick(g);
    while ((n = virtq_driver_reap(&g->ring, &id, &written, 1)) == 0)
        if (dt_clock_ns() > deadline)
            return -ETIMEDOUT;
    return n < 0 ? n : (int64_t)written;
}

bool raw_guest_gone(struct raw_guest *g, int timeout_ms)
{
    struct pollfd p = {.fd = vhost_frontend_socket(g->front), .events = POLLIN | POLLRDHUP};

    return poll(&p, 1, timeout_ms) == 1 && (p.revents & (POLLHUP | POLLRDHUP));
}
