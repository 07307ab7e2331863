/* SPDX-License-Identifier: MIT */
/* internal.h - what is translated, who is known on both sides, and the files of nat. */
#ifndef NET_NAT_INTERNAL_H
#define NET_NAT_INTERNAL_H

#include "base/base.h"
#include "base/bytes.h"
#include "net/table/table.h"
#include <devtap/net.h>

#define NEIGHBOURS    256u
#define FRAGMENTS     256u
#define FORWARDED_MAX 4096u /* ports of all forwards together */

enum protocol { TCP, UDP, ICMP, PROTOCOLS };
/** enum class - what may be forgotten when there is no room: never what was answered, but for ICMP, and never a forward. */
enum class { FRESH, ANSWERED, CLOSING, FORWARD, CLASSES };
enum mapping_flags { REPLIED = 1, FIN_OUT = 2, FIN_IN = 4 };

/**
 * struct mapping - a guest's port, and the one that the wire sees in its place. With ICMP the port is the identifier.
 * @age:  in nat.ages, in the order of @seen.
 * @seen: second of dt_clock_ns() in which the guest used it last.
 */
struct mapping {
    struct node node;
    struct list age;
    uint32_t inner, seen;
    uint16_t port, outer;
    uint8_t protocol, class, flags;
};

/** struct fragment - the datagram that the first fragment belonged to; the others are told by it. */
struct fragment {
    struct node node;
    uint32_t from, to, inner, seen;
    uint16_t id, new_id;
    uint8_t protocol, way;
};

/** struct neighbour - @address 0 = free; @known: there is a @mac, as of the second @seen. */
struct neighbour {
    uint32_t address, seen, asked;
    uint8_t mac[6];
    bool known;
};

/**
 * struct side - one of the two networks, and who we are there.
 * @mac:  under which frames leave. @told: what ARP says; another one where several cards share the address.
 * @way:  of packets that go there.
 */
struct side {
    uint32_t address, mask;
    uint8_t mac[6], told[6];
    enum dt_direction way;
    uint32_t second, asks; /* ARP requests in that second */
    struct neighbour list[NEIGHBOURS];
};

struct nat {
    /* Parameters. */
    const char *outer_text, *inner_text, *router_text, *mac_text, *shared_text, *ports_text;
    const char *forward_text, *guest_text;
    uint64_t tcp_timeout, transitory_timeout, udp_timeout, icmp_timeout, mappings_max;
    unsigned ipv6;
    /* What follows from them. */
    struct side inner, outer;
    struct neighbour router;
    uint32_t router_address;
    uint16_t low, high;

    struct dt_layer *layer;
    struct dt_ctx *c;
    struct dt_timer timer;
    uint64_t seed;
    uint32_t now; /* in seconds */
    uint32_t looked;
    uint32_t told_second, told; /* errors of our own in that second */
    uint32_t used[PROTOCOLS];   /* ports, without forwards */
    uint16_t next_id;
    struct table table, fragments;
    uint32_t *ports[PROTOCOLS]; /* the mapping of each port of the wire's */
    struct list ages[PROTOCOLS][CLASSES];
};

enum { IPV6_DROP, IPV6_PASS };
enum counter {
    CREATED,
    EXPIRED,
    FORGOTTEN,
    REFUSED,
    UNSOLICITED,
    OTHERS,
    FOREIGN,
    UNKNOWN,
    MALFORMED,
    TTL,
    EARLY,
    FRAGMENTS_FORGOTTEN,
    UNRESOLVED,
    ERRORS,
    HAIRPIN,
    ARP,
    CONFLICT,
    ECHO,
    DROPPED_IPV6,
    MEMORY,
};

/* mappings.c: which port stands for which. */
int nat_mappings_init(struct nat *n);
void nat_mappings_fini(struct nat *n);
/** nat_find() - of the guest's @inner and @port; NULL if there is none. */
struct mapping *nat_find(const struct nat *n, enum protocol protocol, uint32_t inner,
                         uint16_t port);
/** nat_find_outer() - by the port that the wire sees. */
struct mapping *nat_find_outer(const struct nat *n, enum protocol protocol, uint16_t outer);
/** nat_make() - a new one; NULL if there is no room. */
struct mapping *nat_make(struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port);
/** nat_add() - with a port that is known; takes the place of whatever is in its way, but not of @class FORWARD. */
struct mapping *nat_add(struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port,
                        uint16_t outer, enum class class);
void nat_remove(struct nat *n, struct mapping *m);
/** nat_remove_class() - all of it. */
void nat_remove_class(struct nat *n, enum class class);
/** nat_use() - the guest sent by it: it is young again. */
void nat_use(struct nat *n, struct mapping *m);
void nat_set_class(struct nat *n, struct mapping *m, enum class class);
/** nat_expire() - forget what is too old; once in a second does something. */
void nat_expire(struct nat *n);

/* fragments.c: those that have no ports. */
int nat_fragments_init(struct nat *n);
/** nat_fragment_first() - @p is a first fragment, before its addresses are changed; those that follow belong to @inner. */
struct fragment *nat_fragment_first(struct nat *n, struct dt_packet *p, enum dt_direction way,
                                    uint32_t inner);
/** nat_fragment_later() - what its first one said, or NULL. */
struct fragment *nat_fragment_later(struct nat *n, struct dt_packet *p, enum dt_direction way);

/* translate.c: packets. */
enum dt_net_verdict nat_tx(struct dt_ctx *c, struct dt_packet *p);
enum dt_net_verdict nat_rx(struct dt_ctx *c, struct dt_packet *p);

/* rewrite.c: bytes. */
/** nat_rewrite() - another source (or destination) address and port; the port is ignored where there is none. Checksums follow,
 *  unless they are partial. */
void nat_rewrite(struct dt_packet *p, bool source, uint32_t address, uint16_t port);
/** nat_rewrite_id() - another identification of an IPv4 packet. */
void nat_rewrite_id(struct dt_packet *p, uint16_t id);
void nat_age_packet(struct dt_packet *p);
/** nat_ether() - other Ethernet addresses. */
void nat_ether(struct dt_packet *p, const uint8_t to[6], const uint8_t from[6]);

/* icmp.c: errors, which carry the head of a packet that they are about. */
/** struct quoted - that head: whose it is, by the @source or the destination in it. */
struct quoted {
    enum protocol protocol;
    uint32_t address;
    uint16_t port;
};
/** nat_quoted() - @source: is the end looked for its source, or its destination? False for what cannot be told. */
bool nat_quoted(struct dt_packet *p, bool source, struct quoted *q);
/** nat_rewrite_error() - in the head within @p and in @p itself; both checksums follow. */
void nat_rewrite_error(struct dt_packet *p, bool source, uint32_t address, uint16_t port);
/** nat_answer_echo() - for our own address @p is an echo request; false if it is none. */
bool nat_answer_echo(struct nat *n, struct dt_packet *p);
/** nat_tell_expired() - the time to live of @p, from a guest, is over: tell it. */
void nat_tell_expired(struct nat *n, struct dt_packet *p);

/* arp.c: who is where. */
/** nat_arp() - @p is ARP from @side: learn from it, and answer. */
void nat_arp(struct nat *n, struct side *side, struct dt_packet *p);
/** nat_resolve() - the MAC address of @address there; NULL if it has to be asked for, which is done. */
const uint8_t *nat_resolve(struct nat *n, struct side *side, uint32_t address);
/** nat_next_hop() - the same, of whom packets to @address are sent to on the wire. */
const uint8_t *nat_next_hop(struct nat *n, uint32_t address);
/** nat_learn() - put it down, whoever said so. */
void nat_learn(struct nat *n, struct side *side, uint32_t address, const uint8_t mac[6]);
/** nat_announce() - tell the wire where we are, and ask for the router. */
void nat_announce(struct nat *n);

/* state.c: what the next process should know. */
int64_t nat_save(struct dt_layer *layer, void *buf, size_t size);
int nat_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err);

/* params.c: words. */
/** nat_apply() - read all parameters; nothing is changed if one is wrong. @first: those that cannot change, too. */
int nat_apply(struct nat *n, bool first, struct dt_error *err);
/** nat_apply_forwards() - put the forwards into the table, instead of those that are there. */
int nat_apply_forwards(struct nat *n, struct dt_error *err);

static inline bool nat_within(const struct side *s, uint32_t address)
{
    return ((address ^ s->address) & s->mask) == 0;
}

#endif
