/* SPDX-License-Identifier: MIT */
/*
 * iommu_guest.h - a guest with a vIOMMU, and its VMM: a page table of its own, and one ring.
 *
 * I/O addresses are page numbers in no order of the memory behind them, so whoever takes one for a
 * guest-physical address is found out.
 */
#ifndef TESTS_IOMMU_GUEST_H
#define TESTS_IOMMU_GUEST_H

#include "vhost/frontend.h"
#include <linux/virtio_blk.h>

#define IO_PAGE       4096u
#define IO_PAGES      256u
#define IO_MEMORY     (IO_PAGES * IO_PAGE)
#define IO_BASE       0xfff00000ull  /* of I/O addresses */
#define IO_GPA        0x140000000ull /* of the memory */
#define IO_RING       64u
#define IO_RINGP      0u /* first of the ring's pages */
#define IO_RING_PAGES 4u

/** struct iommu_guest - @pages: by I/O page: the page of memory, and the right. */
struct iommu_guest {
    struct vhost_frontend *front;
    struct virtq_driver ring;
    uint8_t *memory;
    int memory_fd, kick, call;
    unsigned index; /* of the ring */
    unsigned apart; /* I/O pages by which the driver's area is further on than it would be */
    bool packed;
    struct {
        unsigned to;
        uint8_t access; /* 0 = not mapped */
    } pages[IO_PAGES];
    unsigned asked, answered; /* misses, and those that led somewhere */
    bool mute;                /* do not answer */
};

void iommu_guest_attach(struct iommu_guest *g, const char *path, bool packed);
/** iommu_guest_attach_card() - ring @index of a network card: 0 for what the guest gets, 1 for what it sends. */
void iommu_guest_attach_card(struct iommu_guest *g, const char *path, bool packed, unsigned index);
void iommu_guest_detach(struct iommu_guest *g);
/** iommu_guest_start() - the ring runs. _stop() - and no more; the base is kept. */
void iommu_guest_start(struct iommu_guest *g, uint32_t base);
uint32_t iommu_guest_stop(struct iommu_guest *g);
/** iommu_guest_map() - I/O page @at leads to page @to of the memory. Nobody is told. */
void iommu_guest_map(struct iommu_guest *g, unsigned at, unsigned to, unsigned access);
/** iommu_guest_unmap() - @n pages, and the back end is told: when this returns, it uses none. */
void iommu_guest_unmap(struct iommu_guest *g, unsigned at, unsigned n);
/** iommu_guest_answer() - answer the misses that came. */
void iommu_guest_answer(struct iommu_guest *g);
static inline uint64_t iommu_guest_io(unsigned page, unsigned offset)
{
    return IO_BASE + (uint64_t)page * IO_PAGE + offset;
}
/** iommu_guest_offer() - one chain, and a kick. */
void iommu_guest_offer(struct iommu_guest *g, const struct virtq_buffer *bufs, unsigned nread,
                       unsigned nwrite);
/** iommu_guest_reap() - answer misses until a chain came back: bytes written, or -ETIMEDOUT, -EPROTO,
 *  -ECONNRESET when the back end hung up. */
int64_t iommu_guest_reap(struct iommu_guest *g, int timeout_ms);
bool iommu_guest_gone(struct iommu_guest *g, int timeout_ms);

#endif
