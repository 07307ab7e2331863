/* SPDX-License-Identifier: MIT */
/*
 * load.c - super-frames of TCP through a card to a TAP interface, or from it, as fast as the other side takes them.
 *
 * The rings and all buffers are as Linux's driver has them: an indirect table of a header and pages for what is
 * sent, mergeable buffers of a page for what comes; but the tables are written once, and nobody computes, so the
 * other side decides. What is sent is for an address that is not the interface's, and the host's stack drops it
 * at once. What comes is written to the interface by this thread, which never has more under way
 * than the ring holds, so none is lost.
 *
 * usage: card-load vhost SOCKET | qemu QTEST MEMORY, then send|receive IFNAME SECONDS
 * prints `begin`, and at the end: packets, bytes of payload, seconds, the features agreed on.
 */
#include "bench/card/card.h"

#include "base/bytes.h"
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define HEADERS 54u /* Ethernet, IPv4, TCP */
#define SEGMENT 1448u
#define PAYLOAD (44u * SEGMENT)
#define PAGES   ((PAYLOAD + PAGE_SIZE_4K - 1) / PAGE_SIZE_4K)
#define AHEAD   8u                            /* packets on their way to the card */
#define SLOT    (PAGE_SIZE_4K * (PAGES + 1u)) /* a packet's page for headers and table, then payload */
#define TX_BASE (2u << 20)                    /* below it a PC has its ROM */
#define RX_BASE (TX_BASE + (uint64_t)CARD_RING * SLOT)

static uint8_t frame[HEADERS];
static const uint8_t card_mac[6] = {0x52, 0x54, 0, 0, 0, 1}, nobody[6] = {2, 0, 0, 0, 0, 0x99};

static const struct dt_vnet_header vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                           .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                           .hdr_len = HEADERS,
                                           .gso_size = SEGMENT,
                                           .csum_start = 34,
                                           .csum_offset = 16};

static void make_frame(const uint8_t *to, const uint8_t *from)
{
    uint8_t *tcp = frame + 34;

    memcpy(frame, to, 6);
    memcpy(frame + 6, from, 6);
    store_be16(frame + 12, ETHERTYPE_IP);
    card_ipv4(frame + 14, IPPROTO_TCP, HEADERS - 14 + PAYLOAD, 0x0a4d0002, 0x0a4d0003);
    memset(tcp, 0, 20);
    store_be16(tcp, 5001);
    store_be16(tcp + 2, 5001);
    tcp[12] = 0x50;
    tcp[13] = 0x10;
    store_be16(tcp + 14, 65535);
    store_be16(tcp + 16, card_pseudo(frame + 14, IPPROTO_TCP, 20 + PAYLOAD));
}

struct result {
    uint64_t packets, bytes, begun, end;
};

/* ---- From the guest ---- */

static void make_table(struct card *card, unsigned id)
{
    uint64_t slot = TX_BASE + id * (uint64_t)SLOT;
    struct vring_desc *table = (void *)(card->memory + slot);
    uint64_t header = slot + PAGE_SIZE_4K / 2;
    uint32_t left = PAYLOAD;

    memcpy(card->memory + header, &vnet, CARD_HEADER);
    memcpy(card->memory + header + CARD_HEADER, frame, HEADERS);
    virtq_table_set(&card->rings[CARD_TX], table, 0,
                    (struct virtq_buffer){header, CARD_HEADER + HEADERS}, false, true);
    for (unsigned i = 0; i < PAGES; i++) {
        uint32_t n = MIN(left, (uint32_t)PAGE_SIZE_4K);
        uint64_t page = slot + (i + 1) * (uint64_t)PAGE_SIZE_4K;

        memset(card->memory + page, (int)i, n);
        virtq_table_set(&card->rings[CARD_TX], table, i + 1, (struct virtq_buffer){page, n}, false,
                        i + 1 < PAGES);
        left -= n;
    }
}

static void send_all(struct card *card, struct result *result)
{
    struct virtq_driver *d = &card->rings[CARD_TX];
    struct virtq_table tables[CARD_RING];
    uint16_t ids[CARD_RING];

    make_frame(nobody, card_mac);
    for (unsigned id = 0; id < CARD_RING; id++)
        make_table(card, id);
    do {
        int done = virtq_driver_reap(d, ids, NULL, CARD_RING);
        unsigned n;

        if (done < 0)
            card_fail("transmit ring", d->fault);
        result->packets += (unsigned)done;
        n = virtq_driver_ids(d, ids, CARD_RING);
        for (unsigned i = 0; i < n; i++)
            tables[i] =
                (struct virtq_table){.addr = TX_BASE + ids[i] * (uint64_t)SLOT, .n = PAGES + 1};
        if (n) {
            virtq_driver_add_tables(d, tables, n);
            card_publish(card, CARD_TX);
        }
    } while (dt_clock_ns() < result->end);
    result->bytes = result->packets * PAYLOAD;
}

/* ---- To the guest ---- */

static int open_wire(const char *ifname)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(ifname)};

    if (fd < 0 || !at.sll_ifindex || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) < 0)
        card_fail(ifname, strerror(errno));
    return fd;
}

static uint64_t page_of[CARD_RING]; /* by id */

static void offer(struct card *card, uint64_t page)
{
    int id =
        virtq_driver_add(&card->rings[CARD_RX], &(struct virtq_buffer){page, PAGE_SIZE_4K}, 0, 1);

    CHECK(id >= 0);
    page_of[id] = page;
}

static unsigned take_back(struct card *card, struct result *result)
{
    struct virtq_driver *d = &card->rings[CARD_RX];
    uint32_t lengths[CARD_RING];
    uint64_t pages[CARD_RING];
    uint16_t ids[CARD_RING];
    int n = virtq_driver_reap(d, ids, lengths, CARD_RING);

    if (n < 0)
        card_fail("receive ring", d->fault);
    for (int i = 0; i < n; i++) {
        result->bytes += lengths[i];
        pages[i] = page_of[ids[i]];
    }
    for (int i = 0; i < n; i++)
        offer(card, pages[i]);
    if (n)
        card_publish(card, CARD_RX);
    return (unsigned)n;
}

static void receive_all(struct card *card, const char *ifname, struct result *result)
{
    const uint64_t whole = CARD_HEADER + HEADERS + PAYLOAD;
    static uint8_t payload[PAYLOAD];
    struct iovec iov[3] = {{(void *)(uintptr_t)&vnet, offsetof(struct dt_vnet_header, num_buffers)},
                           {frame, HEADERS},
                           {payload, PAYLOAD}};
    uint64_t sent = 0;
    int wire = open_wire(ifname);

    if (!(card->features & 1ull << VIRTIO_NET_F_MRG_RXBUF))
        card_fail(ifname, "the card has no mergeable buffers");
    make_frame(card_mac, nobody);
    for (unsigned i = 0; i < CARD_RING; i++)
        offer(card, RX_BASE + i * (uint64_t)PAGE_SIZE_4K);
    card_publish(card, CARD_RX);
    do {
        /* What the host's own stack says, of IPv6 and so on, counts little. */
        while (sent < result->bytes / whole + AHEAD) {
            if (writev(wire, iov, 3) < 0)
                card_fail(ifname, strerror(errno));
            sent++;
        }
        take_back(card, result);
    } while (dt_clock_ns() < result->end);
    result->packets = result->bytes / whole;
    result->bytes = result->packets * PAYLOAD;
}

int main(int argc, char **argv)
{
    bool qemu = argc == 7 && strcmp(argv[1], "qemu") == 0;
    struct result result = {0};
    struct card card = {0};

    if (!qemu && (argc != 6 || strcmp(argv[1], "vhost") != 0)) {
        fprintf(stderr, "usage: card-load vhost SOCKET | qemu QTEST MEMORY, "
                        "then send|receive IFNAME SECONDS\n");
        return 2;
    }
    card_pin(1);
    if (qemu)
        card_open_qemu(&card, argv[2], argv[3]);
    else
        card_open_vhost(&card, argv[2]);
    printf("begin\n");
    fflush(stdout);
    result.begun = dt_clock_ns();
    result.end = result.begun + DT_S(strtoull(argv[argc - 1], NULL, 10));
    if (strcmp(argv[argc - 3], "send") == 0)
        send_all(&card, &result);
    else
        receive_all(&card, argv[argc - 2], &result);
    printf("%" PRIu64 " %" PRIu64 " %.6f %#" PRIx64 "\n", result.packets, result.bytes,
           (double)(dt_clock_ns() - result.begun) / 1e9, card.features);
    return 0;
}
