/* SPDX-License-Identifier: MIT */
/* antispoof.h - what a card may call itself, and the judgement on one packet. */
#ifndef NET_ANTISPOOF_H
#define NET_ANTISPOOF_H

#include "base/prefix.h"
#include <devtap/net.h>

struct identity {
    uint8_t mac[6];
    struct prefixes ip4, ip6;
    bool dhcp;
};

/** enum trick - why a packet is not let through; the order of antispoof's counters. */
enum trick {
    TRICK_MALFORMED,
    TRICK_MAC,
    TRICK_VLAN,
    TRICK_TYPE,
    TRICK_ARP,
    TRICK_IP,
    TRICK_OPTIONS,
    TRICK_FRAGMENT,
    TRICK_DHCP_SERVER,
    TRICK_ROUTER,
    TRICK_NEIGHBOUR,
    TRICKS,
    HONEST = TRICKS,
};

/** antispoof_judge() - of one packet of the guest's. */
enum trick antispoof_judge(const struct identity *id, struct dt_packet *p);
/** identity_mac() - as a person writes it; 0 or -EINVAL. */
int identity_mac(const char *text, uint8_t mac[6], struct dt_error *err);

#endif
