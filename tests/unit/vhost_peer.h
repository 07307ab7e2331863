/* SPDX-License-Identifier: MIT */
/*
 * vhost_peer.h - a front end made by hand: it sends what a test says, in the order a test says, and
 * turns the loop of the back end between messages. With a guest's memory and real rings in it.
 */
#ifndef VHOST_PEER_H
#define VHOST_PEER_H

#include "vhost_toy.h"

#include <stdio.h>

#define PEER_GPA      0x40000000ull
#define PEER_UVA      0x7f1200000000ull
#define PEER_MEM_SIZE (2u << 20)
#define PEER_RING(q)  ((q)*0x20000u) /* offset of a ring in the memory */
#define PEER_BUFFERS  0x100000u

#define PROTOCOL_ALL                                                                         \
    (1ull << VHOST_F_MQ | 1ull << VHOST_F_LOG_SHMFD | 1ull << VHOST_F_REPLY_ACK |            \
     1ull << VHOST_F_BACKEND_REQ | 1ull << VHOST_F_CONFIG | 1ull << VHOST_F_INFLIGHT_SHMFD | \
     1ull << VHOST_F_RESET_DEVICE | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_STATUS)
#define F_PROTOCOL (1ull << VHOST_FEATURE_PROTOCOL)
#define F_LOG      (1ull << VHOST_FEATURE_LOG_ALL)
#define F_V1       (1ull << 32)
#define F_PACKED   (1ull << 34)

struct peer {
    struct loop *loop;
    struct toy *toy;
    int sock, mem_fd;
    uint8_t *mem;
    int kick[TOY_QUEUES], call[TOY_QUEUES];
    struct virtq_driver driver[TOY_QUEUES];
    struct vhost_stream stream;
    struct vhost_message reply; /* the last one received */
    FILE *record;               /* see vhost_record.h */
    uint8_t *shadow;            /* guest memory as last recorded */
};

/** peer_new() - a toy device on a loop, and the other end of its socket. */
struct peer *peer_new(uint64_t protocol);
/** peer_record() - from now on, if DEVTAP_RECORD asks for it. */
void peer_record(struct peer *p, const char *name);
/** peer_free() - hangs up, and checks that the session ends and nothing is left behind. */
void peer_free(struct peer *p);
/** peer_reconnect() - a new session of a new toy with the same guest. */
void peer_reconnect(struct peer *p, uint64_t protocol);
/** peer_turn() - turn the loop until nothing happens any more. */
void peer_turn(struct peer *p);

/** peer_send() - one message, whatever it is; then the loop turns. */
void peer_send(struct peer *p, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
               const int *fds, unsigned nfds);
void peer_empty(struct peer *p, uint32_t request);
void peer_u64(struct peer *p, uint32_t request, uint64_t value);
void peer_state(struct peer *p, uint32_t request, uint32_t index, uint32_t num);
/** peer_ring_fd() - KICK, CALL or ERR; @fd -1 = the flag for none. */
void peer_ring_fd(struct peer *p, uint32_t request, unsigned q, int fd);
/** peer_reply() - is there an answer? It is in @p->reply; its flags are checked. */
bool peer_reply(struct peer *p);
/** peer_expect() - there is exactly one answer, to @request, of @size bytes. */
void peer_expect(struct peer *p, uint32_t request, uint32_t size);
/** peer_ack() - send with need_reply, and return what was answered. */
uint64_t peer_ack(struct peer *p, uint32_t request, const void *payload, uint32_t size,
                  const int *fds, unsigned nfds);
uint64_t peer_ask_u64(struct peer *p, uint32_t request);

/* Pieces that most orders have in common. */
void peer_add_memory(struct peer *p);    /* ADD_MEM_REG, need_reply */
void peer_remove_memory(struct peer *p); /* REM_MEM_REG, need_reply */
void peer_memory_table(struct peer *p);  /* SET_MEM_TABLE */
void peer_ring_init(struct peer *p, unsigned q, uint16_t size, bool packed);
void peer_addr(struct peer *p, unsigned q, uint32_t flags);
uint32_t peer_get_base(struct peer *p, unsigned q);
/** peer_negotiate() - QEMU's way: features, protocol features, owner. */
void peer_negotiate(struct peer *p, uint64_t features, uint64_t protocol);
/** peer_start_ring() - NUM, BASE, ADDR, KICK, CALL, ENABLE. */
void peer_start_ring(struct peer *p, unsigned q, uint16_t size, uint32_t base, bool packed);
/** peer_offer() - put @n chains of one readable and one writable buffer on ring @q, and kick. */
void peer_offer(struct peer *p, unsigned q, unsigned n);
/** peer_reap() - how many came back? */
unsigned peer_reap(struct peer *p, unsigned q);
/** peer_io() - offer @n, and all come back. */
void peer_io(struct peer *p, unsigned q, unsigned n);
/** peer_broke() - the session ended; its reason holds @word. */
void peer_broke(struct peer *p, const char *word);

static inline bool peer_alive(const struct peer *p)
{
    return p->toy->session != NULL;
}
static inline bool peer_started(const struct peer *p, unsigned q)
{
    return p->toy->queues[q].vq.started;
}

#endif
