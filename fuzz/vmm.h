/* SPDX-License-Identifier: MIT */
/*
 * vmm.h - a VMM with a vIOMMU, in one thread with the back end that it talks to: it turns the back end's loop
 * between messages, and knows what it allowed.
 */
#ifndef FUZZ_VMM_H
#define FUZZ_VMM_H

#include "loop/loop.h"
#include "ring/ring.h"
#include "vhost/message.h"

#define VMM_PAGE       4096u
#define VMM_PAGES      64u
#define VMM_GPA        0x40000000ull
#define VMM_UVA        0x7f1200000000ull
#define VMM_RING_PAGES 2u /* the first */
#define VMM_RING       32u
#define VMM_TOLD       1024u

/**
 * struct vmm - @table: by I/O page: the page of memory and the right. @missed: by I/O page: asked for, and not answered yet.
 * @told: what the back end may use; @ntold reaches VMM_TOLD: no more is checked. @gone: the back end hung up. @waiting: for an answer.
 */
struct vmm {
    struct loop *loop;
    bool packed, gone, waiting;
    uint8_t *memory, *shadow;
    int memory_fd, sock, events, kick, call;
    struct vhost_stream stream, event_stream;
    struct virtq_driver ring;
    struct {
        unsigned to;
        uint8_t access;
    } table[VMM_PAGES];
    bool missed[VMM_PAGES];
    struct vhost_iotlb told[VMM_TOLD];
    unsigned ntold;
};

/** vmm_new() - Return: the back end's end of its socket. */
int vmm_new(struct vmm *v, struct loop *loop, bool packed);
void vmm_free(struct vmm *v);
/** vmm_attach() - negotiate, give memory, start the ring, whose areas begin at I/O address @base. */
void vmm_attach(struct vmm *v, uint64_t base);
void vmm_start_ring(struct vmm *v, uint64_t io_base, uint32_t base);
/** vmm_memory() - give the memory, or take it away. */
void vmm_memory(struct vmm *v, bool give);

/**
 * vmm_ask() - send @m, and turn until its answer came. If none did, the same call later waits for it again, without sending.
 * Return: true with the payload's first 8 bytes.
 */
bool vmm_ask(struct vmm *v, const struct vhost_message *m, uint64_t *answer);
/** vmm_turn() - turn the loop until nothing happens any more. */
void vmm_turn(struct vmm *v);
/** vmm_collect_misses() - note the I/O pages that the back end asked for. */
void vmm_collect_misses(struct vmm *v, uint64_t base);

/** vmm_allow(), vmm_forbid() - what an update allowed from now on, an invalidation took away. */
void vmm_allow(struct vmm *v, const struct vhost_iotlb *update);
void vmm_forbid(struct vmm *v, const struct vhost_iotlb *gone);
/** vmm_write() - the guest writes. vmm_wrote() - it did. */
void vmm_write(struct vmm *v, size_t at, const void *bytes, size_t n);
void vmm_wrote(struct vmm *v, size_t at, size_t n);
/** vmm_check() - has anything changed that nobody was allowed to write? */
void vmm_check(struct vmm *v);

#endif
