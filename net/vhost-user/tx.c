/* SPDX-License-Identifier: MIT */
/*
 * tx.c - packets from the guest's rings into the chain.
 *
 * One copy: header and frame are read once, into private memory, and judged there. The descriptor goes back to
 * the guest when the packet has left the chain, at once or much later; the ring shows what came back
 * once per turn.
 *
 * While a layer peeks, of long packets only the headers are copied and judged, and the rest is when the packet is handed on
 * (card_fetch), or never: a back may have the kernel take it from where it is (card_pieces). Each byte is still read once. Guest memory stays where it is meanwhile, as for a disk's requests:
 * nobody takes it away before the layers have let go of all that is in flight.
 */
#include "net/vhost-user/internal.h"

#include <netinet/in.h>

#define LEAST_FRAME 14u
/* A packet that was in flight at so many crashes is not tried again. */
#define POISON_ATTEMPTS 2u
/* Below this two copies cost more than they may spare. */
#define PEEK_LEAST 512u

static inline void give_back(struct virtq_chain *chain)
{
    struct front_queue *q = chain->owner;

    virtq_push(&q->vq, chain, 0);
    front_mark_dirty(q);
    if (unlikely(chain->awaited))
        front_iommu_answered(q, chain);
}

static uint32_t header_of(const struct virtq_chain *chain)
{
    const struct front_queue *q = chain->owner;

    return CARD(q->front)->header;
}

/* What was copied already was judged, and is not read again. */
void card_fetch(struct lane *lane, void *arg, struct dt_packet *p)
{
    struct virtq_chain *chain = arg;

    chain->copied = true;
    dt_iov_read(chain->iov, chain->nread, header_of(chain) + DT_PEEK_BYTES, p->data + DT_PEEK_BYTES,
                p->length - DT_PEEK_BYTES);
}

unsigned card_pieces(void *arg, uint32_t length, struct iovec *iov, unsigned most)
{
    const struct virtq_chain *chain = arg;
    uint32_t skip = header_of(chain) + DT_PEEK_BYTES;

    return (unsigned)MAX(dt_iov_slice(chain->iov, chain->nread, skip, length, iov, most), 0);
}

void card_sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        give_back(slots[i]);
}

/* ---- Behind a vIOMMU: the guest takes memory back ---- */

bool card_uses(const struct virtq_chain *chain)
{
    return !chain->copied;
}

static bool is_awaited(const void *arg)
{
    const struct virtq_chain *chain = arg;

    return chain->awaited || front_iommu_drains(chain->owner);
}

void card_let_go(struct front_lane *fl)
{
    net_take_back(fl->lane, is_awaited);
}

/* ---- Taking ---- */

/* What of the header is for us to read: how many buffers a packet has is told to drivers alone (virtio 1.2, 5.1.6.2). */
#define HEADER_READ offsetof(struct dt_vnet_header, num_buffers)

/* Drivers put the header into a vector of its own, or before the frame; everything else is as valid. */
static void copy_in(const struct virtq_chain *chain, struct dt_vnet_header *v, uint32_t header,
                    uint8_t *data, uint32_t n)
{
    const struct iovec *iov = chain->iov;

    if (likely(iov[0].iov_len >= header)) {
        size_t first = MIN(iov[0].iov_len - header, n);

        memcpy(v, iov[0].iov_base, HEADER_READ);
        memcpy(data, (const char *)iov[0].iov_base + header, first);
        if (chain->nread > 1)
            dt_iov_read(iov + 1, chain->nread - 1u, 0, data + first, n - first);
    } else {
        dt_iov_read(iov, chain->nread, 0, v, HEADER_READ);
        dt_iov_read(iov, chain->nread, header, data, n);
    }
}

static void learn_queue(struct card_lane *cl, struct dt_packet *p)
{
    if (cl->pairs > 1)
        cl->flow_queue[dt_packet_flow(p) % CARD_FLOWS] = (uint8_t)(p->queue + 1);
}

static inline void hand_out(struct card_lane *cl, struct front_queue *q, struct virtq_chain *chain,
                            struct packet *p)
{
    p->pub.queue = (uint16_t)(q->index / 2);
    p->slot = chain;
    learn_queue(cl, &p->pub);
}

/* The packet in @chain, if it is a small one in one piece with nothing left to do, as most are; or NULL: judge it the long way. */
static inline struct packet *take_plain(const struct card_front *card, struct front_queue *q,
                                        struct virtq_chain *chain)
{
    const uint32_t header = card->header, most = NET_SMALL - sizeof(struct packet);
    const uint8_t *from = chain->iov[0].iov_base;
    uint32_t length = (uint32_t)chain->read_len - header;
    struct packet *p;
    uint16_t asked; /* flags and gso_type */

    if (unlikely(chain->nread != 1 || chain->attempts ||
                 length - LEAST_FRAME > most - LEAST_FRAME || net_peeks(q->lane->lane)))
        return NULL;
    memcpy(&asked, from, sizeof(asked));
    if (asked)
        return NULL;
    p = net_packet_new(q->lane->lane, length);
    CHECK(p); /* net_admit() has seen it */
    card_copy(p->pub.data, from + header, length);
    chain->copied = true;
    return p;
}

/* Whatever is in @chain; NULL where there is nothing that may be sent. */
static struct packet *take(struct card_front *card, struct card_lane *cl, struct front_queue *q,
                           struct virtq_chain *chain)
{
    struct dt_vnet_header v = {0};
    struct packet *p;
    bool peeked;

    if (unlikely(chain->read_len < card->header + LEAST_FRAME ||
                 chain->read_len > card->header + NET_MAX_FRAME ||
                 chain->attempts >= POISON_ATTEMPTS)) {
        cl->drops[DROP_LENGTH]++;
        return NULL;
    }
    p = net_packet_new(q->lane->lane, (uint32_t)chain->read_len - card->header);
    CHECK(p); /* net_admit() has seen it */
    peeked = unlikely(net_peeks(q->lane->lane)) && p->pub.length >= PEEK_LEAST;
    copy_in(chain, &v, card->header, p->pub.data, peeked ? DT_PEEK_BYTES : p->pub.length);
    if (unlikely(peeked) && !net_peekable(&p->pub, &v)) {
        card_fetch(q->lane->lane, chain, &p->pub);
        dt_packet_changed(&p->pub);
        peeked = false;
    }
    if (unlikely((v.flags | v.gso_type) && dt_vnet_read(&p->pub, &v, card->allowed) < 0)) {
        cl->drops[DROP_HEADER]++;
        net_packet_free(q->lane->lane, p);
        return NULL;
    }
    chain->copied = !peeked;
    if (unlikely(peeked))
        p->pub.needs |= DT_OFFLOAD_FETCH;
    return p;
}

/* Each is a line that the guest's core has: they come while the first ones are judged. Those that chains begin with were
 * asked for when these were taken; a header is by itself, or the frame goes on in the next line. */
static void prefetch(struct virtq_chain *const *chains, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        __builtin_prefetch(chains[i]->nread > 1 ? chains[i]->iov[1].iov_base
                                                : (char *)chains[i]->iov[0].iov_base + CACHE_LINE);
}

unsigned card_tx_poll(struct front_queue *q)
{
    struct card_front *card = CARD(q->front);
    struct card_lane *cl = card_lane(q->lane);
    struct virtq_chain *chains[CARD_BURST];
    struct dt_packet *packets[CARD_BURST];
    unsigned want = net_admit(q->lane->lane, CARD_BURST), npackets = 0;
    int n;

    q->blocked = want == 0;
    if (unlikely(q->state == QUEUE_STOPPING))
        want = MIN(want, q->vq.replay_count - q->vq.replay_next);
    if (want == 0)
        return 0;
    n = virtq_take(&q->vq, chains, want);
    if (unlikely(n < 0 || memmap_faulted(q->vq.config.map))) {
        front_lane_fault(q->lane, "queue %u: %s", q->index,
                         n < 0 ? q->vq.fault : "guest memory was truncated");
        if (n < 0)
            return 0;
    }
    if (unlikely(q->translated) && n == 0 && front_iommu_blocked(q))
        front_mark_dirty(q);
    if (n)
        q->lane->turn = q->index + 1;
    prefetch(chains, (unsigned)n);
    for (int i = 0; i < n; i++) {
        struct virtq_chain *chain = chains[i];
        struct packet *p;

        chain->owner = q;
        p = take_plain(card, q, chain) ?: take(card, cl, q, chain);
        if (unlikely(!p)) {
            give_back(chain);
            continue;
        }
        hand_out(cl, q, chain, p);
        packets[npackets++] = &p->pub;
    }
    if (npackets)
        net_transmit(q->lane->lane, packets, npackets);
    return (unsigned)n;
}

/* RFC 903: who has @mac asks for its own address; switches learn from it where it is now. */
void card_announce(struct front *front, const uint8_t mac[6])
{
    static const uint8_t fixed[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    struct lane *lane = front->lanes[0].lane;
    struct packet *p = net_packet_new(lane, 60);
    struct dt_packet *packet;
    uint8_t *data;

    if (!p)
        return;
    packet = &p->pub;
    data = packet->data;
    memset(data, 0, packet->length);
    memset(data, 0xff, 6);
    memcpy(data + 6, mac, 6);
    memcpy(data + 12, fixed, sizeof(fixed));
    memcpy(data + 22, mac, 6);
    memcpy(data + 32, mac, 6);
    packet->queue = 0;
    net_transmit(lane, &packet, 1);
}
