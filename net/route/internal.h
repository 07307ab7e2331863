/* SPDX-License-Identifier: MIT */
/* internal.h - the guest behind a route, and the files of the back. */
#ifndef NET_ROUTE_INTERNAL_H
#define NET_ROUTE_INTERNAL_H

#include "base/prefix.h"
#include "net/port/port.h"
#include "net/port/tun.h"

#define THREADS_MAX 64u

struct route {
    /* Parameters. */
    const char *ifname, *address_text, *mac_text;
    uint64_t mtu;
    /* What follows from them. */
    struct prefixes own4, own6;
    char name[IFNAMSIZ];
    int fds[THREADS_MAX];
    unsigned nfds;

    struct dt_layer *layer;
    uint64_t guest; /* its MAC address, by any thread: mac_pack(); 0 = not known yet */
};

struct route_ctx {
    struct port_in in;
};

enum route_counter {
    TX_FULL,
    FOREIGN,
    GROUP,
    UNKNOWN,
    ANSWERED,
    RX_SHORT,
    RX_HEADER,
    RX_FOREIGN,
    RX_NOBODY,
    RX_MEMORY,
};

/** route_gateway - under which MAC address everything else is, on every host: a guest that migrates need not learn another. */
extern const uint8_t route_gateway[6];

/* answer.c: who the guest believes to be beside it. */
#define ROUTE_ANSWER_MAX 86u
/** route_answer() - put the answer to @p, a question of ARP or neighbour discovery, into @reply. Return: its length; 0 = there
 *  is none. */
uint32_t route_answer(const struct route *r, struct dt_packet *p, uint8_t reply[ROUTE_ANSWER_MAX]);
/** route_is_question() - has @p to be answered by us, or by nobody? */
bool route_is_question(struct dt_packet *p);

/* install.c: the host's tables. */
/** route_install() - the interface is up, with its MTU, and all of the guest's addresses are behind it. */
int route_install(const struct route *r, struct dt_error *err);

static inline uint64_t mac_pack(const uint8_t mac[6])
{
    uint64_t packed = 0;

    memcpy(&packed, mac, 6);
    return packed;
}

#endif
