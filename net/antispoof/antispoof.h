/* SPDX-License-Identifier: MIT */
/* antispoof.h - what a card may call itself, and the judgement on one packet. */
#ifndef NET_ANTISPOOF_H
#define NET_ANTISPOOF_H

#include "base/prefix.h"
#include <devtap/net.h>

/** struct identity - @link_local: the address that RFC 4291 makes of @mac. @mac_ipv4: what stands from the source address on in a
 *  frame with IPv4 and no tags. */
struct identity {
    uint8_t mac[6], link_local[16], mac_ipv4[8];
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
    TRICK_DHCP,
    TRICK_ROUTER,
    TRICK_NEIGHBOUR,
    TRICKS,
    HONEST = TRICKS,
};

/** antispoof_judge() - of one packet of the guest's. */
enum trick antispoof_judge(const struct identity *id, struct dt_packet *p);
/** antispoof_judge_all() - the same, without the short cut for the usual ones. */
enum trick antispoof_judge_all(const struct identity *id, struct dt_packet *p);
/** identity_derive() - what follows from @id->mac. */
void identity_derive(struct identity *id);
/** antispoof_dhcp() - of a message to a server, in IPv4 (RFC 2131), or to one or a relay in IPv6 (RFC 8415): a client's, who
 *  speaks for itself? @version: of IP. */
bool antispoof_dhcp(const struct identity *id, unsigned version, const uint8_t *message, size_t n);
/**
 * antispoof_stamp() - have @p come from this card: the source of the frame, of IP where @id has one address of that version
 * and the packet names any, of ARP and neighbour discovery. What is judged after that is what is sent.
 * Return: was anything changed?
 */
bool antispoof_stamp(const struct identity *id, struct dt_packet *p);
/** identity_mac() - as a person writes it; 0 or -EINVAL. */
int identity_mac(const char *text, uint8_t mac[6], struct dt_error *err);

#endif
