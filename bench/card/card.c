/* SPDX-License-Identifier: MIT */
/* card.c - see card.h; and the card of a vhost-user back end. */
#include "bench/card/card.h"

#include "base/bytes.h"
#include "vhost/frontend.h"
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define BIT64(n)   (1ull << (n))
#define TIMEOUT_MS 10000

uint64_t card_wanted(uint64_t offered)
{
    const uint64_t known = BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_RING_F_INDIRECT_DESC) |
                           BIT64(VIRTIO_RING_F_EVENT_IDX) | BIT64(VIRTIO_NET_F_MRG_RXBUF) |
                           BIT64(VIRTIO_NET_F_CSUM) | BIT64(VIRTIO_NET_F_HOST_TSO4) |
                           BIT64(VIRTIO_NET_F_HOST_TSO6) | BIT64(VIRTIO_NET_F_GUEST_CSUM) |
                           BIT64(VIRTIO_NET_F_GUEST_TSO4) | BIT64(VIRTIO_NET_F_GUEST_TSO6);

    return offered & known;
}

_Noreturn void card_fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

void card_pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

void card_rings_init(struct card *card)
{
    size_t bytes = ALIGN_UP(virtq_driver_bytes(CARD_RING, false), (size_t)PAGE_SIZE_4K);

    for (unsigned i = 0; i < CARD_RINGS; i++) {
        uint64_t at = CARD_BUFFERS + i * bytes;

        CHECK(virtq_driver_init(&card->rings[i], CARD_RING, false,
                                card->features & BIT64(VIRTIO_RING_F_EVENT_IDX), card->memory + at,
                                at) == 0);
        virtq_driver_disarm(&card->rings[i]);
    }
}

static void kick_eventfd(struct card *card, enum card_ring ring)
{
    CHECK(eventfd_write(card->kicks[ring], 1) == 0);
}

static void share_memory(struct card *card, struct dt_error *err)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, CARD_MEMORY) < 0)
        card_fail("memory", strerror(errno));
    card->memory =
        mmap(NULL, CARD_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    CHECK(card->memory != MAP_FAILED);
    if (vhost_frontend_add_memory(card->session, 0, (uintptr_t)card->memory, CARD_MEMORY, fd, 0,
                                  err) < 0)
        card_fail("memory", err->text);
}

static void start_ring(struct card *card, enum card_ring ring, struct dt_error *err)
{
    const struct virtq_driver *d = &card->rings[ring];
    struct vhost_frontend_ring config = {.size = d->size,
                                         .desc = (uintptr_t)d->mem + d->desc_off,
                                         .driver = (uintptr_t)d->mem + d->driver_off,
                                         .device = (uintptr_t)d->mem + d->device_off};

    config.kick = card->kicks[ring] = eventfd(0, EFD_CLOEXEC);
    config.call = card->call[ring] = eventfd(0, EFD_CLOEXEC);
    if (vhost_frontend_ring_start(card->session, ring, &config, err) < 0 ||
        vhost_frontend_ring_enable(card->session, ring, true, err) < 0)
        card_fail("ring", err->text);
}

void card_open_vhost(struct card *card, const char *path)
{
    uint64_t protocol =
        BIT64(VHOST_F_MQ) | BIT64(VHOST_F_REPLY_ACK) | BIT64(VHOST_F_CONFIGURE_MEM_SLOTS);
    struct dt_error err;
    unsigned queues;

    card->features = card_wanted(UINT64_MAX);
    if (vhost_frontend_connect(&card->session, path, TIMEOUT_MS, &err) < 0)
        card_fail(path, err.text);
    vhost_frontend_queue_rings(card->session, CARD_RINGS);
    if (vhost_frontend_negotiate(card->session, &card->features, &protocol,
                                 BIT64(VIRTIO_F_VERSION_1), &queues, &err) < 0)
        card_fail(path, err.text);
    share_memory(card, &err);
    card_rings_init(card);
    card->kick = kick_eventfd;
    for (unsigned i = 0; i < CARD_RINGS; i++)
        start_ring(card, i, &err);
}

/* ---- Frames ---- */

static uint32_t sum(const uint8_t *p, uint32_t n, uint32_t value)
{
    for (uint32_t i = 0; i < n; i += 2)
        value += load_be16(p + i);
    return value;
}

static uint16_t fold(uint32_t value)
{
    while (value >> 16)
        value = (value & 0xffff) + (value >> 16);
    return (uint16_t)value;
}

uint16_t card_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t length)
{
    return fold(sum(ip + 12, 8, protocol + length));
}

void card_ipv4(uint8_t *ip, uint8_t protocol, uint32_t length, uint32_t from, uint32_t to)
{
    const uint8_t fixed[20] = {0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol};

    memcpy(ip, fixed, sizeof(fixed));
    store_be16(ip + 2, length);
    store_be32(ip + 12, from);
    store_be32(ip + 16, to);
    store_be16(ip + 10, (uint16_t)~fold(sum(ip, sizeof(fixed), 0)));
}
