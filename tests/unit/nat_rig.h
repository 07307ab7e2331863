/* SPDX-License-Identifier: MIT */
/* nat_rig.h - a card with `nat`, two guests that it knows and a router, and their packets. The one that is being made is f. */
#ifndef TESTS_NAT_RIG_H
#define TESTS_NAT_RIG_H

#include "net/nat/internal.h"
#include "tests/unit/net_rig.h"

#define OUTER "192.0.2.10"
#define GUEST "10.0.2.15"
#define OTHER "10.0.2.16"
#define PEER  "198.51.100.1"
#define CARD  "nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1"

extern const uint8_t guest_mac[6], other_mac[6], gateway_mac[6], router_mac[6], outer_mac[6];
extern struct frame f;

/** begin() - serve @chain; both guests and the router have made themselves known. */
void begin(const char *chain);
void pass_time(uint64_t seconds);
uint64_t counter(const char *name);

enum kind { IS_TCP, IS_UDP, IS_ECHO, KINDS };
/** packet() - into f: from @from and @sport to @to and @dport; an echo's identifier is the port of the guest's end. @flags: of TCP. */
void packet(enum kind kind, const char *from, uint16_t sport, const char *to, uint16_t dport,
            uint8_t flags, uint32_t bytes);
void arp(uint16_t operation, const uint8_t mac[6], const char *sender, const char *target);
/** to_gateway(), to_outer() - the Ethernet addresses of f. */
void to_gateway(const uint8_t from[6]);
void to_outer(void);
/** from_guest(), from_wire() - f is sent. */
void from_guest(void);
void from_wire(void);

/** wire(), guest() - the bytes of frame @i that came out there. */
const uint8_t *wire(unsigned i);
const uint8_t *guest(unsigned i);
/** last() - the IPv4 packet that came last; whoever was not heard of for a minute is asked for before it. NULL = none. */
const struct rig_frame *last(const struct rig_list *list);
void assert_address(const uint8_t *p, const char *address);
void assert_sums(const struct rig_frame *frame);

/** out() - the guest's packet of @kind goes out; returns the port that the wire sees, 0 = it does not. */
uint16_t out(enum kind kind, const char *from, uint16_t port, const char *to, uint8_t flags);
/** in() - true if an answer to @port reaches the guest. */
bool in(enum kind kind, uint16_t port, uint8_t flags);

#endif
