/* SPDX-License-Identifier: MIT */
/*
 * net-vnet.c - the header with which virtio (1.2, 5.1.6) and the kernel's TAP tell of offloads.
 *
 * Theory of operation: a guest's header says where a checksum goes and how to cut, in bytes of its own
 * choosing; believed, it would have us write anywhere, or a device behind us. So it only
 * chooses among what the packet's own headers show. What is left is three cases: the partial checksum of the TCP or
 * UDP header that we found; a super-frame of these; and a partial checksum elsewhere (within a tunnel,
 * behind a routing header), which is completed here and now, within the packet, and so becomes
 * nobody's business any more.
 */
#include "core/net.h"

#include "base/bytes.h"
#include <linux/virtio_net.h>
#include <netinet/in.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* Linux makes no segments with less payload (TCP_MIN_SND_MSS); who asks for it wants to make work. */
#define LEAST_SEGMENT 48u
/* Where a fragment lies is told in these (RFC 791, 8200). */
#define FRAGMENT_UNIT 8u

static uint16_t field_offset(const struct dt_headers *h)
{
    return h->flags & DT_HDR_TCP ? 16 : 6;
}

/* May the checksum be made anew, by whoever takes the packet? Options may put another destination into the
 * pseudo header. */
static bool plain(const struct dt_headers *h)
{
    return h->flags & (DT_HDR_TCP | DT_HDR_UDP) &&
           !(h->flags & (DT_HDR_FRAGMENT | DT_HDR_OPTIONS | DT_HDR_BROKEN));
}

static int complete_elsewhere(struct dt_packet *p, const struct dt_vnet_header *v)
{
    uint32_t start = v->csum_start, offset = v->csum_offset;
    uint16_t sum;

    if (start >= p->length || offset + 2 > p->length - start)
        return -EINVAL;
    sum = (uint16_t)~dt_checksum(p->data + start, p->length - start, 0);
    store_be16(p->data + start + offset,
               sum ? sum : 0xffff); /* right for UDP, and the same for all */
    dt_packet_changed(p);
    return 0;
}

/* Parsed with what lies behind those bytes, which is not the packet's: so what is found must end before. */
bool net_peekable(struct dt_packet *p, const struct dt_vnet_header *v)
{
    const struct dt_headers *h = dt_headers(p);

    return plain(h) && h->payload <= DT_PEEK_BYTES &&
           (!(v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) ||
            (v->csum_start == h->l4 && v->csum_offset == field_offset(h)));
}

static int read_checksum(struct dt_packet *p, const struct dt_vnet_header *v, uint32_t allowed)
{
    const struct dt_headers *h;

    if (!(allowed & DT_OFFLOAD_CSUM))
        return -EINVAL;
    h = dt_headers(p);
    if (!plain(h) || v->csum_start != h->l4 || v->csum_offset != field_offset(h))
        return complete_elsewhere(p, v);
    p->needs = DT_OFFLOAD_CSUM;
    return 0;
}

static uint8_t super_of(const struct dt_headers *h, uint8_t type)
{
    bool v4 = h->flags & DT_HDR_IPV4;

    switch (type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
        return v4 && h->flags & DT_HDR_TCP ? DT_OFFLOAD_TSO4 : 0;
    case VIRTIO_NET_HDR_GSO_TCPV6:
        return !v4 && h->flags & DT_HDR_TCP ? DT_OFFLOAD_TSO6 : 0;
    case VIRTIO_NET_HDR_GSO_UDP:
        return !(h->flags & DT_HDR_UDP) ? 0 : v4 ? DT_OFFLOAD_UFO4 : DT_OFFLOAD_UFO6;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
        return !(h->flags & DT_HDR_UDP) ? 0 : v4 ? DT_OFFLOAD_USO4 : DT_OFFLOAD_USO6;
    default:
        return 0;
    }
}

static int read_super(struct dt_packet *p, const struct dt_vnet_header *v, uint32_t allowed)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t super = super_of(h, v->gso_type);

    if (!(p->needs & DT_OFFLOAD_CSUM) || !(super & allowed) || v->gso_size < LEAST_SEGMENT)
        return -EINVAL;
    p->needs |= super;
    p->segment = super & DT_OFFLOAD_UFO ? v->gso_size & ~(FRAGMENT_UNIT - 1) : v->gso_size;
    if (h->end - net_cut_from(p) <= p->segment)
        p->needs &= (uint8_t)~super; /* one segment: an ordinary packet */
    return 0;
}

/* Of the bits of super-frames, at most one. */
static bool super_fits(struct dt_packet *p, const struct dt_headers *h)
{
    bool v4 = h->flags & DT_HDR_IPV4, tcp = h->flags & DT_HDR_TCP;
    uint8_t super = p->needs & DT_OFFLOAD_SUPER;
    uint8_t segments =
        tcp ? (v4 ? DT_OFFLOAD_TSO4 : DT_OFFLOAD_TSO6) : (v4 ? DT_OFFLOAD_USO4 : DT_OFFLOAD_USO6);
    bool fragments = !tcp && super == (v4 ? DT_OFFLOAD_UFO4 : DT_OFFLOAD_UFO6);

    return (super == segments || (fragments && p->segment % FRAGMENT_UNIT == 0)) &&
           p->needs & DT_OFFLOAD_CSUM && p->segment >= LEAST_SEGMENT &&
           h->end - net_cut_from(p) > p->segment;
}

bool net_needs_fit(struct dt_packet *p)
{
    const struct dt_headers *h;

    if (p->needs == 0)
        return true;
    h = dt_headers(p);
    if (p->needs & ~DT_OFFLOAD_ALL || !plain(h))
        return false;
    return !(p->needs & DT_OFFLOAD_SUPER) || super_fits(p, h);
}

int dt_vnet_read(struct dt_packet *p, const struct dt_vnet_header *v, uint32_t allowed)
{
    int ret = 0;

    p->needs = 0;
    if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        ret = read_checksum(p, v, allowed);
    else if (v->flags & VIRTIO_NET_HDR_F_DATA_VALID)
        p->flags |= DT_PACKET_CSUM_VALID;
    if (ret == 0 && v->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        ret = read_super(p, v, allowed);
    return ret;
}

void dt_vnet_write(struct dt_packet *p, struct dt_vnet_header *v)
{
    const struct dt_headers *h;

    *v = (struct dt_vnet_header){.num_buffers = 1};
    if (p->flags & DT_PACKET_CSUM_VALID)
        v->flags = VIRTIO_NET_HDR_F_DATA_VALID;
    if (!(p->needs & DT_OFFLOAD_ALL))
        return;
    h = dt_headers(p);
    v->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    v->csum_start = h->l4;
    v->csum_offset = field_offset(h);
    store_be16(p->data + h->l4 + v->csum_offset, net_pseudo_sum(h, p->data));
    if (!(p->needs & DT_OFFLOAD_SUPER))
        return;
    v->gso_type = p->needs & DT_OFFLOAD_TSO4   ? VIRTIO_NET_HDR_GSO_TCPV4
                  : p->needs & DT_OFFLOAD_TSO6 ? VIRTIO_NET_HDR_GSO_TCPV6
                  : p->needs & DT_OFFLOAD_UFO  ? VIRTIO_NET_HDR_GSO_UDP
                                               : VIRTIO_NET_HDR_GSO_UDP_L4;
    if (h->flags & DT_HDR_TCP && p->data[h->l4 + 13] & 128) /* CWR: whoever cuts must know of ECN */
        v->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    v->hdr_len = h->payload;
    v->gso_size = p->segment;
}
