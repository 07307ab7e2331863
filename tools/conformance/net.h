/* SPDX-License-Identifier: MIT */
/* net.h - the conformance of network cards' layers: a card, and both of its ends. */
#ifndef TOOLS_CONFORMANCE_NET_H
#define TOOLS_CONFORMANCE_NET_H

#include "core/net.h"
#include "tools/conformance/internal.h"

#define CARD_SLOTS 256u /* descriptors of the guest's ring */
#define CARD_BURST NET_BURST

#define PACKET_MOST 9000u

/** struct card_slot - one descriptor; @frame: of a packet that a layer peeks at. */
struct card_slot {
    bool busy;
    uint8_t frame[PACKET_MOST];
    struct card_slot *next; /* of those that are free */
};

/** struct card_record - a packet that the chain has, for the process after a killed one. */
struct card_record {
    uint8_t busy, needs;
    uint16_t segment;
    uint32_t length;
    uint8_t frame[PACKET_MOST];
};

/** struct card_log - in shared memory. @blobs: what layers save, behind it. */
struct card_log {
    unsigned started;
    struct card_record records[CARD_SLOTS];
};

/**
 * struct card - the device under test.
 * @fed, @arrived: packets that were given to the chain, from the guest and from the wire.
 * @wired, @received: that came out, at the wire and at the guest.
 * @plain: the wire takes no offloads, and everything that leaves is judged.
 * @wire: the model's back, where the chain ends with it.
 * @log, @blobs: NULL except in `kill`.
 */
struct card {
    struct loop *loop;
    struct device *dev;
    struct lane *lane;
    struct dt_ctx *wire;
    struct card_slot slots[CARD_SLOTS], *free;
    unsigned outstanding;
    uint64_t fed, arrived, wired, received;
    bool plain, started;
    struct card_log *log;
    struct blob_area *blobs;
};
extern struct card card;

/* The card (net-card.c). */
extern const struct dt_net_ext card_wire, card_plain_wire;
/** card_chain() - the chain under test, with a wire below it where it has no back. */
void card_chain(struct bench *b, struct chain_spec *chain);
void card_build(struct bench *b);
void card_start(void);
void card_open(struct bench *b);
void card_stop(void);
void card_close(void);
/** card_burst() - up to @n random packets from the guest, and as many from the wire. */
void card_burst(struct bench *b, unsigned n);
/** card_load() - bursts of all sizes for @ns. */
void card_load(struct bench *b, uint64_t ns);
/** card_send() - a packet from the guest, with a descriptor of its own; there is one, and net_admit() has let it in. */
struct dt_packet *card_send(const uint8_t *frame, uint32_t length, uint8_t needs, uint16_t segment);
/** card_rest() - bring it to rest; NULL, or who was late. Nothing may be left in the chain. */
const char *card_rest(uint64_t ns);

/* Packets (net-packet.c). */
/** random_packet() - a frame at @to, of any kind; its offloads in @needs and @segment. Return: its length. */
uint32_t random_packet(struct dt_rng *rng, uint8_t *to, uint8_t *needs, uint16_t *segment);
/** packet_is_right() - has it the checksums that a receiver wants? All that random_packet() makes have, or will have. */
bool packet_is_right(struct dt_packet *p);

/* Properties (net-property.c). */
void card_property_open(struct bench *b);
void card_property_verdicts(struct bench *b);
void card_property_batches(struct bench *b);
void card_property_offloads(struct bench *b);
void card_property_quiesce(struct bench *b);
void card_property_restart(struct bench *b);
void card_property_kill(struct bench *b);
void card_property_state(struct bench *b);
void card_property_live(struct bench *b);
void card_property_parameters(struct bench *b);

#endif
