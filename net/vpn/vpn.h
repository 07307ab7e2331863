/* SPDX-License-Identifier: MIT */
/*
 * vpn.h - encrypted Ethernet between hosts: what the parts of the back `vpn` share.
 *
 * Theory of operation: a card has one UDP socket and a session with each of its peers (wg.h). A frame of the guest's
 * goes to the peer that has its destination (macs.c), and to all of them where nobody knows; a frame of a peer's goes to
 * the guest and never to another peer, so there are no loops (split horizon). Without a session nothing is sent:
 * there is no way for a frame to reach the socket but through wg_session_seal().
 *
 * Sessions are kept up whether there is something to send or not (peer.c): who has a peer's address begins. Nothing of a
 * session is ever saved; a process that takes over knows where its peers were (state.c) and begins with all of them
 * at once, and they take up the new session with its first datagram.
 *
 * Inside a session a frame is as it is, or, for a peer that is a plain host with WireGuard, in GRE over IPv4 (gre.c).
 *
 * One thread. Nothing is allocated after start().
 */
#ifndef NET_VPN_H
#define NET_VPN_H

#include "net/port/port.h"
#include "net/vpn/wg.h"

#include <netinet/in.h>

#define VPN_PEERS 63u
#define VPN_GUEST 63u /* an owner of addresses, as the peers are by their numbers */
#define VPN_LISTS 32u /* addresses that a configuration may list for one owner */
#define VPN_BYTES 65536u

enum vpn_counter {
    HANDSHAKES,
    COOKIES,
    FLOODED,
    TX_DOWN,
    TX_FULL,
    TX_FRAGMENTS,
    TX_LONG,
    TX_SOURCE,
    RX_MALFORMED,
    RX_STRANGER,
    RX_FORGED,
    RX_REPLAYED,
    RX_SOURCE,
    RX_CROWDED,
    RX_FULL,
    RX_MEMORY,
};

/** union vpn_address - where a datagram goes to or comes from. */
union vpn_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};
static inline socklen_t vpn_address_size(const union vpn_address *a)
{
    return a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
}

/* ---- The configuration (conf.c) ---- */

struct vpn_macs_list {
    uint8_t mac[VPN_LISTS][6];
    unsigned n;
};
/** struct vpn_conf_peer - @tunnel: its address in the tunnel, network order; 0 = frames go as they are. */
struct vpn_conf_peer {
    uint8_t public_[WG_KEY], psk[WG_KEY];
    char endpoint[128];
    uint32_t tunnel, keepalive;
    struct vpn_macs_list macs;
    unsigned line;
    bool has_public;
};
struct vpn_conf {
    uint8_t private_[WG_KEY];
    bool has_private;
    uint16_t port;
    uint32_t tunnel;
    struct vpn_macs_list macs;
    unsigned npeers;
    struct vpn_conf_peer peers[VPN_PEERS];
};
/** vpn_conf_parse() - @text is changed. Messages name lines of @name. */
int vpn_conf_parse(struct vpn_conf *conf, char *text, const char *name, struct dt_error *err);
/** vpn_conf_read() - the file @path, which nobody else may read. *@conf is in memory of its own: sodium_free() it. */
int vpn_conf_read(struct vpn_conf **conf, const char *path, struct dt_error *err);

/* ---- Who has which address (macs.c) ---- */

#define MACS_BUCKETS 512u
#define MACS_WAYS    8u

/**
 * struct mac_entry - @mac: 0 = nobody. @allowed: bits of the owners that a configuration lists it for.
 */
struct mac_entry {
    uint64_t mac, allowed, seen;
    uint8_t owner;
};
#define MAC_NOBODY 0xff

/**
 * struct vpn_macs - @hold: ns for which nobody else may take an address after it was seen.
 * @listed: bits of the owners that may use listed addresses alone. @count: of each owner's unlisted ones.
 */
struct vpn_macs {
    uint64_t hold, multiplier, listed;
    uint16_t count[VPN_GUEST + 1];
    struct mac_entry entries[MACS_BUCKETS][MACS_WAYS];
};
void vpn_macs_init(struct vpn_macs *m);
/** vpn_macs_list() - @owner may use @list and nothing else. -ENOSPC. */
int vpn_macs_list(struct vpn_macs *m, const struct vpn_macs_list *list, unsigned owner);
/** vpn_macs_learn() - a frame of @owner's came from @mac. 0; -EPERM: another one has it; -ENOSPC. */
int vpn_macs_learn(struct vpn_macs *m, const uint8_t mac[6], unsigned owner, uint64_t now);
/** vpn_macs_owner() - or MAC_NOBODY. */
unsigned vpn_macs_owner(const struct vpn_macs *m, const uint8_t mac[6], uint64_t now);
/** vpn_macs_release() - what @owner had anybody may take. */
void vpn_macs_release(struct vpn_macs *m, unsigned owner);

/* ---- Peers ---- */

/**
 * struct vpn_peer - @name: the first characters of its public key.
 * @latest: of the initiations that it sent.
 * @now, @before, @next: the session that is sent with, the one before it, and one that we answered for and the
 *           peer has not used yet. @now is live exactly while @up.
 * @pending: @handshake awaits a response; @initiated: since when; @retry: not before; @tries: since the last session.
 * @heard, @sent: when; @unanswered: since when we sent frames and heard nothing; @owing: since when we heard a frame
 *           and sent nothing. 0 = not.
 */
struct vpn_peer {
    struct vpn *vpn;
    unsigned index;
    char name[12];
    struct wg_remote remote;
    struct wg_pass pass;
    union vpn_address address;
    bool has_address, up, pending;
    uint32_t tunnel;
    uint8_t latest[WG_STAMP];
    struct wg_session now, before, next;
    struct wg_handshake handshake;
    struct dt_timer timer;
    unsigned tries;
    uint64_t initiated, retry, heard, sent, unanswered, owing, keepalive, told;
};

/** struct vpn_mesh - all that has keys; in memory that is not swapped and in no core dump. */
struct vpn_mesh {
    struct wg_self self;
    struct wg_guard guard;
    uint32_t tunnel;
    uint64_t stamp; /* of our last initiation, ns of the host's clock */
    unsigned npeers;
    struct vpn_peer peers[];
};

enum { VPN_FLOOD, VPN_DROP };

/**
 * struct vpn_burst - datagrams for one peer that are sent by one call: @count of @size bytes each, the last of which may be
 * shorter (@closed) and ends it.
 */
struct vpn_burst {
    struct vpn_peer *peer;
    uint8_t *bytes;
    size_t used, size;
    unsigned count;
    bool closed;
};

/** struct vpn_input - what one call received: datagrams of @size bytes each, of which those from @at on are still to be read. */
struct vpn_input {
    union vpn_address from;
    uint8_t *bytes;
    size_t at, end, size;
};

/** struct vpn - the layer. @fits: the longest frame that needs no fragments; @limit: that is sent at all. */
struct vpn {
    const char *conf, *local;
    uint64_t path_mtu, mtu_given, hold;
    unsigned unknown;

    struct dt_layer *layer;
    struct dt_ctx *c; /* between start() and stop() */
    struct vpn_mesh *mesh;
    struct wg_cipher *cipher;
    struct vpn_macs macs;
    int fd;
    uint16_t mtu;
    uint32_t fits, limit;
    bool told_mtu;
    struct port_out out;
    struct dt_watch watch;
    struct dt_timer drain;
    bool watching, waited, draining;
    struct vpn_input input;
    struct vpn_burst burst;
    uint8_t *sealed; /* a datagram that does not go in a burst */
};

/* open.c: the layer and its socket. */
int vpn_open(struct dt_layer *layer, struct dt_error *err);
void vpn_close(struct dt_layer *layer);

/* socket.c: datagrams, several with each call. */
/** vpn_send_to() - a whole message. 0 or -errno. */
int vpn_send_to(struct vpn *v, const void *message, size_t n, const union vpn_address *to);
/** vpn_burst_flush() - send what was gathered. 0, or -EAGAIN: it is still there, and nothing may be added. */
int vpn_burst_flush(struct vpn *v);
/** vpn_burst_room() - for a message of @n bytes to @p, behind those that were gathered; or NULL as vpn_burst_flush(). */
uint8_t *vpn_burst_room(struct vpn_peer *p, size_t n);
/** vpn_burst_add() - they were put there. */
void vpn_burst_add(struct vpn_peer *p, size_t n);
/** vpn_read() - the next datagram, in place. Return: its length, or -errno. */
ssize_t vpn_read(struct vpn *v, uint8_t **message);

/* peer.c: sessions. */
void vpn_peer_start(struct vpn_peer *p);
void vpn_peer_stop(struct vpn_peer *p);
/** vpn_peer_send() - a frame, or with @n 0 a sign of life, at once. 0, -ENOTCONN without a session, or what sendto(2)
 *  said. */
int vpn_peer_send(struct vpn_peer *p, const uint8_t *frame, uint32_t n);
/** vpn_peer_gather() - a frame into the burst. 0, -ENOTCONN, or -EAGAIN: it was not taken. */
int vpn_peer_gather(struct vpn_peer *p, const uint8_t *frame, uint32_t n);
/** vpn_peer_heard() - it sent something that is proven, from @from, in the session *@s; @frame: no mere sign of life. */
void vpn_peer_heard(struct vpn_peer *p, const struct wg_session *s, const union vpn_address *from,
                    bool frame);
/** vpn_peer_initiated() - it answered our initiation: a session of @keys, with @remote's number for it. */
void vpn_peer_answered(struct vpn_peer *p, const struct wg_keys *keys, uint32_t remote);
/** vpn_peer_offered() - we answered its initiation: a session, which begins when the peer uses it. */
void vpn_peer_offered(struct vpn_peer *p, const struct wg_keys *keys, uint32_t local,
                      uint32_t remote);
/** vpn_peer_number() - a fresh number that messages to us name a session of @p by. */
uint32_t vpn_peer_number(const struct vpn_peer *p);
/** vpn_peer_session() - a live one of that number, or NULL. */
struct wg_session *vpn_peer_session(struct vpn_peer *p, uint32_t number);
void vpn_address_text(const union vpn_address *a, char *text, size_t size);

/* message.c: what comes from the network. */
/** vpn_message() - judge @n bytes at @message, and answer them. Return: a frame for the guest, or NULL. */
struct dt_packet *vpn_message(struct vpn *v, uint8_t *message, size_t n,
                              const union vpn_address *from);

/* gre.c: frames as a kernel's gretap has them: an IPv4 header and a GRE header (RFC 2784) before each. */
#define VPN_GRE 24u
/** vpn_gre_make() - the headers of a frame of @n bytes. */
void vpn_gre_make(uint8_t out[VPN_GRE], uint32_t from, uint32_t to, uint32_t n);
/** vpn_gre_read() - the frame within @n bytes. Return: its length, or -EBADMSG. */
ssize_t vpn_gre_read(const uint8_t *packet, size_t n, uint32_t from, uint32_t to,
                     const uint8_t **frame);

/* state.c: what the next process should know. */
int64_t vpn_save(struct dt_layer *layer, void *buf, size_t size);
int vpn_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err);

#endif
