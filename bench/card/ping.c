/* SPDX-License-Identifier: MIT */
/*
 * ping.c - what a soft card adds to a round trip: an echo request (ICMP) to the host's own stack and its reply, one at a
 * time, through the card to one TAP interface, and beside it by a program that has another TAP interface itself.
 * With `sleep`, an eventfd's round trip between this processor and the back end's, too: what anybody in
 * another thread adds at least who is asleep. The three take turns, so that other load meets all alike.
 *
 * usage: card-ping SOCKET CARD_IF DIRECT_IF SECONDS poll|sleep
 * CARD_IF has 10.77.0.1 and DIRECT_IF 10.78.0.1, and both know a neighbour .2 at 52:54:00:00:00:01.
 * prints medians, then 99th percentiles, in microseconds: direct, card, eventfd.
 */
#include "bench/card/card.h"

#include "base/bytes.h"
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#define SAMPLES 1000000u
#define FRAME   98u /* ping's usual: 56 bytes of payload */
#define TX_PAGE 0u
#define RX_BASE PAGE_SIZE_4K

enum way { DIRECT, CARD, BARE, WAYS };
static uint64_t samples[WAYS][SAMPLES];
static bool sleeps;
static struct card card;
static int tap;
static int partner_request, partner_answer;

struct message {
    struct dt_vnet_header v;
    uint8_t frame[FRAME];
} __attribute__((packed));

/* ---- Requests and replies ---- */

static void interface_mac(const char *ifname, uint8_t mac[6])
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {0};

    snprintf(request.ifr_name, IFNAMSIZ, "%s", ifname);
    if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        card_fail(ifname, strerror(errno));
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    close(fd);
}

static void make_request(struct message *m, const char *ifname, uint32_t network)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 1};
    uint8_t *ip = m->frame + 14, *icmp = ip + 20;

    memset(m, 0, sizeof(*m));
    interface_mac(ifname, m->frame);
    memcpy(m->frame + 6, mac, 6);
    store_be16(m->frame + 12, ETHERTYPE_IP);
    card_ipv4(ip, IPPROTO_ICMP, FRAME - 14, network | 2, network | 1);
    icmp[0] = 8;
}

/* The checksum follows from the number: all else is 0 but the type. */
static void number(struct message *m, uint16_t n)
{
    uint8_t *icmp = m->frame + 34;
    uint32_t sum = 0x0800u + n;

    store_be16(icmp + 6, n);
    store_be16(icmp + 2, (uint16_t) ~((sum & 0xffff) + (sum >> 16)));
}

static bool is_reply(const struct message *m, size_t length, uint16_t n)
{
    const uint8_t *icmp = m->frame + 34;

    return length >= sizeof(*m) && load_be16(m->frame + 12) == ETHERTYPE_IP &&
           m->frame[23] == IPPROTO_ICMP && icmp[0] == 0 && load_be16(icmp + 6) == n;
}

/* ---- A program with the interface ---- */

static int open_tap(const char *ifname)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), header = CARD_HEADER;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

    snprintf(request.ifr_name, IFNAMSIZ, "%s", ifname);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
        card_fail(ifname, strerror(errno));
    return fd;
}

static void direct(struct message *m, uint16_t n)
{
    struct pollfd p = {.fd = tap, .events = POLLIN};
    struct message reply;
    ssize_t length;

    number(m, n);
    CHECK(write(tap, m, sizeof(*m)) == sizeof(*m));
    do {
        if (sleeps)
            poll(&p, 1, -1);
        length = read(tap, &reply, sizeof(reply));
    } while (length < 0 || !is_reply(&reply, (size_t)length, n));
}

/* ---- The card ---- */

static uint64_t page_of[CARD_RING]; /* by id */

static void offer(uint64_t page)
{
    int id =
        virtq_driver_add(&card.rings[CARD_RX], &(struct virtq_buffer){page, PAGE_SIZE_4K}, 0, 1);

    CHECK(id >= 0);
    page_of[id] = page;
    card_publish(&card, CARD_RX);
}

/* The back end makes it one for which its writer never waits, some time after the session began; the reader does wait. */
static void wait_for_call(void)
{
    eventfd_t value;

    while (eventfd_read(card.call[CARD_RX], &value) < 0)
        CHECK(errno == EAGAIN && fcntl(card.call[CARD_RX], F_SETFL, 0) == 0);
}

/* Whatever comes next, and its page. */
static uint32_t take(uint64_t *page)
{
    struct virtq_driver *d = &card.rings[CARD_RX];
    uint16_t id;
    uint32_t length;
    int n;

    while ((n = virtq_driver_reap(d, &id, &length, 1)) == 0)
        if (sleeps && virtq_driver_arm(d))
            wait_for_call();
    if (n < 0)
        card_fail("receive ring", d->fault);
    *page = page_of[id];
    return length;
}

static void through_card(struct message *m, uint16_t n)
{
    struct virtq_driver *d = &card.rings[CARD_TX];
    bool found;
    uint16_t id;

    number(m, n);
    memcpy(card.memory + TX_PAGE, m, sizeof(*m));
    CHECK(virtq_driver_add(d, &(struct virtq_buffer){TX_PAGE, sizeof(*m)}, 1, 0) >= 0);
    card_publish(&card, CARD_TX);
    do {
        uint64_t page;
        uint32_t length = take(&page);

        found = is_reply((void *)(card.memory + page), length, n);
        offer(page);
    } while (!found);
    while (virtq_driver_reap(d, &id, NULL, 1) == 0)
        ;
}

/* ---- An eventfd ---- */

static void *partner(void *arg)
{
    eventfd_t value;

    card_pin(0);
    while (eventfd_read(partner_request, &value) == 0 && value == 1)
        CHECK(eventfd_write(partner_answer, 1) == 0);
    return NULL;
}

static void bare(void)
{
    eventfd_t value;

    CHECK(eventfd_write(partner_request, 1) == 0);
    CHECK(eventfd_read(partner_answer, &value) == 0);
}

/* ---- All of it ---- */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void print(unsigned n, unsigned percent)
{
    for (unsigned way = 0; way < WAYS; way++)
        printf("%.2f%c", (double)samples[way][(uint64_t)n * percent / 100] / 1000.0,
               way + 1 < WAYS ? ' ' : '\n');
}

static unsigned measure(struct message m[2], uint64_t end)
{
    unsigned n = 0;

    do {
        uint64_t times[WAYS + 1];

        times[DIRECT] = dt_clock_ns();
        direct(&m[DIRECT], (uint16_t)n);
        times[CARD] = dt_clock_ns();
        through_card(&m[CARD], (uint16_t)n);
        times[BARE] = dt_clock_ns();
        if (sleeps)
            bare();
        times[WAYS] = dt_clock_ns();
        for (unsigned way = 0; way < WAYS; way++)
            samples[way][n] = times[way + 1] - times[way];
    } while (++n < SAMPLES && dt_clock_ns() < end);
    return n;
}

int main(int argc, char **argv)
{
    struct message requests[2];
    pthread_t thread;
    unsigned n;

    if (argc != 6) {
        fprintf(stderr, "usage: card-ping SOCKET CARD_IF DIRECT_IF SECONDS poll|sleep\n");
        return 2;
    }
    sleeps = strcmp(argv[5], "sleep") == 0;
    card_pin(1);
    tap = open_tap(argv[3]);
    card_open_vhost(&card, argv[1]);
    make_request(&requests[CARD], argv[2], 0x0a4d0000);
    make_request(&requests[DIRECT], argv[3], 0x0a4e0000);
    partner_request = eventfd(0, EFD_CLOEXEC);
    partner_answer = eventfd(0, EFD_CLOEXEC);
    CHECK(pthread_create(&thread, NULL, partner, NULL) == 0);
    for (unsigned i = 0; i < CARD_RING; i++)
        offer(RX_BASE + i * (uint64_t)PAGE_SIZE_4K);
    n = measure(requests, dt_clock_ns() + DT_S(strtoull(argv[4], NULL, 10)));
    CHECK(eventfd_write(partner_request, 2) == 0);
    pthread_join(thread, NULL);
    for (unsigned way = 0; way < WAYS; way++)
        qsort(samples[way], n, sizeof(samples[way][0]), compare);
    print(n, 50);
    print(n, 99);
    return 0;
}
