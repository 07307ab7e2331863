/* SPDX-License-Identifier: MIT */
/*
 * devtap/queue.h - judge a virtual machine's packets in a program of your own, as with the kernel's netfilter queue
 * (libipq, libnetfilter_queue). libdevtap-channel; Python: `devtap.PacketQueue`.
 *
 * A card with the layer `queue socket=PATH` hands its packets to the program that connects there, and
 * waits for a verdict on each:
 *
 *     dt_queue_open(&q, "/run/vm1.queue", -1, &err);
 *     while ((n = dt_queue_read(q, packets, 32, -1)) >= 0)
 *         for each packet:
 *             dt_queue_set_verdict(q, packet.id, DT_QUEUE_ACCEPT, NULL, 0);
 *     dt_queue_close(q);
 *
 * Verdicts may come later, and in any order. They are sent together, by the next dt_queue_read() or dt_queue_flush().
 * All functions of a queue belong to one thread.
 *
 *     libipq                  libnetfilter_queue                  here
 *     ipq_create_handle()     nfq_open(), nfq_create_queue()      dt_queue_open()
 *     ipq_set_mode()          nfq_set_mode()                      parameters snap=, direction= of the layer
 *     ipq_read()              nfq_handle_packet()                 dt_queue_read()
 *     ipq_get_packet()        nfq_get_payload()                   dt_queue_get_packet()
 *     ipq_set_verdict()       nfq_set_verdict()                   dt_queue_set_verdict()
 *     ipq_destroy_handle()    nfq_close()                         dt_queue_close()
 */
#ifndef DEVTAP_QUEUE_H
#define DEVTAP_QUEUE_H

#include <devtap/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dt_queue;

enum dt_queue_verdict { DT_QUEUE_DROP, DT_QUEUE_ACCEPT };

/**
 * struct dt_queue_packet - an Ethernet frame that waits for a verdict.
 * @id:        for the verdict; used again after it.
 * @transmit:  from the guest to the wire; else the other way.
 * @needs, @segment: what is left to do on it, as in struct dt_packet; 0 unless the layer has super=on.
 * @queue:     the guest's queue pair that it came from.
 * @length:    of the frame; @captured: its first bytes, which are at @data until the verdict.
 * @room:      bytes that it can have after a change.
 * @when:      ns of CLOCK_MONOTONIC: when devtap got it.
 */
struct dt_queue_packet {
    uint32_t id;
    bool transmit;
    uint8_t needs;
    uint16_t segment, queue;
    uint32_t length, captured, room;
    const uint8_t *data;
    uint64_t when;
};

/**
 * dt_queue_open() - connect to the layer whose parameter socket= is @path.
 * @timeout_ms: wait so long for it to be there, and for another program to leave it; < 0 = for ever.
 * Return: 0; -ETIMEDOUT, -EPROTO, or what connect(2) says.
 */
DT_PUBLIC int dt_queue_open(struct dt_queue **q, const char *path, int timeout_ms,
                            struct dt_error *err);
/** dt_queue_close() - packets without a verdict have the fate that the layer's on-death= says. */
DT_PUBLIC void dt_queue_close(struct dt_queue *q);
/** dt_queue_description() - of the layer: a JSON object with "device", "layer", "mtu", "direction", "length", "snap". */
DT_PUBLIC const char *dt_queue_description(const struct dt_queue *q);

/**
 * dt_queue_read() - send the verdicts so far, and take up to @max packets.
 * @timeout_ms: wait so long for the first; 0 = do not, < 0 = for ever.
 * Return: how many; -EPIPE when the layer is gone (its worker was replaced, say: open it again), -EPROTO.
 */
DT_PUBLIC int dt_queue_read(struct dt_queue *q, struct dt_queue_packet *packets, unsigned max,
                            int timeout_ms);
/** dt_queue_get_packet() - one that waits for its verdict, again; -ENOENT if none of this @id does. */
DT_PUBLIC int dt_queue_get_packet(struct dt_queue *q, uint32_t id, struct dt_queue_packet *packet);
/**
 * dt_queue_set_verdict() - decide.
 * @data, @length: the packet as it shall be; NULL, 0 = as it is. Of a packet that is not all there (@captured below
 *                 @length), its first bytes, as many as there are.
 * Return: 0; -ENOENT: no such packet waits; -EMSGSIZE: @length is above its room.
 */
DT_PUBLIC int dt_queue_set_verdict(struct dt_queue *q, uint32_t id, enum dt_queue_verdict verdict,
                                   const void *data, uint32_t length);
/** dt_queue_flush() - send the verdicts so far; for whoever does not read again soon. */
DT_PUBLIC void dt_queue_flush(struct dt_queue *q);
/** dt_queue_event() - something that a person or a manager should know: for the card's log. */
DT_PUBLIC int dt_queue_event(struct dt_queue *q, const char *event, const char *text);

#ifdef __cplusplus
}
#endif
#endif
