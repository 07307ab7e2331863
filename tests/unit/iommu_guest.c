/* SPDX-License-Identifier: MIT */
#include "iommu_guest.h"
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "iommu guest: %s\n", what);
        abort();
    }
}

void iommu_guest_map(struct iommu_guest *g, unsigned at, unsigned to, unsigned access)
{
    g->pages[at].to = to;
    g->pages[at].access = (uint8_t)access;
}

void iommu_guest_start(struct iommu_guest *g, uint32_t base)
{
    struct dt_error err = {""};
    struct vhost_frontend_ring config = {
        .size = IO_RING,
        .base = base,
        .desc = iommu_guest_io(IO_RINGP, 0) + g->ring.desc_off,
        .driver = iommu_guest_io(IO_RINGP + g->apart, 0) + g->ring.driver_off,
        .device = iommu_guest_io(IO_RINGP, 0) + g->ring.device_off,
        .kick = g->kick,
        .call = g->call,
    };

    must(vhost_frontend_ring_start(g->front, g->index, &config, &err) == 0, err.text);
    must(vhost_frontend_ring_enable(g->front, g->index, true, &err) == 0, err.text);
}

uint32_t iommu_guest_stop(struct iommu_guest *g)
{
    struct dt_error err = {""};
    uint32_t base;

    must(vhost_frontend_ring_stop(g->front, g->index, &base, &err) == 0, err.text);
    return base;
}

static void attach(struct iommu_guest *g, const char *path, uint64_t features, uint64_t protocol)
{
    bool packed = g->packed;
    struct dt_error err = {""};
    unsigned queues;

    features |= 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_ACCESS_PLATFORM |
                1ull << VIRTIO_RING_F_INDIRECT_DESC | (packed ? 1ull << VIRTIO_F_RING_PACKED : 0);
    protocol |= 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS |
                1ull << VHOST_F_BACKEND_REQ;
    g->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    must(g->memory_fd >= 0 && ftruncate(g->memory_fd, IO_MEMORY) == 0, "memfd");
    g->memory = mmap(NULL, IO_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, g->memory_fd, 0);
    must(g->memory != MAP_FAILED, "mmap");
    must(vhost_frontend_connect(&g->front, path, 5000, &err) == 0, err.text);
    must(vhost_frontend_negotiate(g->front, &features, &protocol, 0, &queues, &err) == 0, err.text);
    must(features >> VIRTIO_F_ACCESS_PLATFORM & 1, "ACCESS_PLATFORM is not offered");
    must(vhost_frontend_add_memory(g->front, IO_GPA, (uintptr_t)g->memory, IO_MEMORY, g->memory_fd,
                                   0, &err) == 0,
         err.text);
    for (unsigned i = 0; i < IO_RING_PAGES; i++)
        iommu_guest_map(g, IO_RINGP + i, IO_RINGP + i, MEMMAP_READ | MEMMAP_WRITE);
    must(virtq_driver_bytes(IO_RING, packed) <= IO_RING_PAGES * IO_PAGE, "ring");
    must(virtq_driver_init(&g->ring, IO_RING, packed, false, g->memory + IO_RINGP * IO_PAGE,
                           iommu_guest_io(IO_RINGP, 0)) == 0,
         "ring");
    virtq_driver_disarm(&g->ring);
    g->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    iommu_guest_start(g, packed ? 0x8000 : 0);
}

void iommu_guest_attach(struct iommu_guest *g, const char *path, bool packed)
{
    *g = (struct iommu_guest){.packed = packed};
    attach(g, path, 1ull << VIRTIO_BLK_F_FLUSH, 1ull << VHOST_F_CONFIG);
}

void iommu_guest_attach_card(struct iommu_guest *g, const char *path, bool packed, unsigned index)
{
    *g = (struct iommu_guest){.packed = packed, .index = index};
    attach(g, path, 1ull << VIRTIO_NET_F_MRG_RXBUF, 1ull << VHOST_F_MQ);
}

void iommu_guest_detach(struct iommu_guest *g)
{
    vhost_frontend_free(g->front);
    virtq_driver_fini(&g->ring);
    munmap(g->memory, IO_MEMORY);
    close(g->memory_fd);
    close(g->kick);
    close(g->call);
}

/* What the VMM's IOMMU does: an address that leads nowhere gets no answer. */
static void answer(struct iommu_guest *g, const struct vhost_iotlb *miss)
{
    uint64_t page = (miss->iova - IO_BASE) / IO_PAGE;
    struct vhost_iotlb update = {
        .iova = IO_BASE + page * IO_PAGE, .size = IO_PAGE, .type = VHOST_IOTLB_UPDATE};
    struct dt_error err = {""};

    g->asked++;
    if (page >= IO_PAGES || !g->pages[page].access || g->mute)
        return;
    update.uaddr = (uintptr_t)g->memory + g->pages[page].to * (uint64_t)IO_PAGE;
    update.access = g->pages[page].access;
    if (vhost_frontend_iotlb(g->front, &update, &err) == 0)
        g->answered++; /* else it has hung up */
}

void iommu_guest_answer(struct iommu_guest *g)
{
    struct vhost_iotlb miss;

    while (vhost_frontend_miss(g->front, &miss) == 1)
        answer(g, &miss);
}

void iommu_guest_unmap(struct iommu_guest *g, unsigned at, unsigned n)
{
    struct vhost_iotlb gone = {.iova = iommu_guest_io(at, 0),
                               .size = (uint64_t)n * IO_PAGE,
                               .type = VHOST_IOTLB_INVALIDATE};
    struct dt_error err = {""};

    for (unsigned i = 0; i < n; i++)
        g->pages[at + i].access = 0;
    must(vhost_frontend_iotlb(g->front, &gone, &err) == 0, err.text);
}

void iommu_guest_offer(struct iommu_guest *g, const struct virtq_buffer *bufs, unsigned nread,
                       unsigned nwrite)
{
    const uint64_t one = 1;

    must(virtq_driver_add(&g->ring, bufs, nread, nwrite) >= 0, "the ring is full");
    virtq_driver_publish(&g->ring);
    must(write(g->kick, &one, sizeof(one)) == sizeof(one), "kick");
}

bool iommu_guest_gone(struct iommu_guest *g, int timeout_ms)
{
    struct pollfd p = {.fd = vhost_frontend_socket(g->front), .events = POLLRDHUP};

    return poll(&p, 1, timeout_ms) == 1 && (p.revents & (POLLHUP | POLLRDHUP));
}

int64_t iommu_guest_reap(struct iommu_guest *g, int timeout_ms)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(timeout_ms);
    uint32_t written;
    uint16_t id;
    int n;

    while ((n = virtq_driver_reap(&g->ring, &id, &written, 1)) == 0) {
        if (iommu_guest_gone(g, 0))
            return -ECONNRESET;
        if (dt_clock_ns() > deadline)
            return -ETIMEDOUT;
        iommu_guest_answer(g);
        usleep(50);
    }
    return n < 0 ? n : (int64_t)written;
}
