/* SPDX-License-Identifier: MIT */
/*
 * answer.c - everybody but the guest itself is at the gateway's MAC address: proxy ARP (RFC 1027), and the same by neighbour
 * discovery (RFC 4861, 7.2; RFC 4389 of a link with one host).
 *
 * The guest's own addresses are answered by nobody, so its checks for duplicates find none (RFC 5227, RFC 4862). Its
 * link-local address we cannot know; so what asks for one from no address, as these checks do, is not answered.
 */
#include "net/route/internal.h"

#include "base/bytes.h"

enum { SOLICITATION = 135, ADVERTISEMENT = 136 };
enum { IS_ROUTER = 0x80, SOLICITED = 0x40, OVERRIDE = 0x20 };

const uint8_t route_gateway[6] = {2, 'r', 't', 0, 0, 1};

bool route_is_question(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    return h->flags & DT_HDR_ARP ||
           (h->flags & DT_HDR_ICMP6 && p->data[h->l4] >= 133 && p->data[h->l4] <= 137);
}

static uint32_t answer_arp(const struct route *r, struct dt_packet *p, uint8_t *reply)
{
    static const uint8_t head[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 2};
    const uint8_t *arp = p->data + dt_headers(p)->l3, *sender = arp + 8, *target = arp + 24;

    if (arp[6] != 0 || arp[7] != 1 || prefixes_contain(&r->own4, target))
        return 0;
    memset(reply, 0, 60);
    memcpy(reply, p->data + 6, 6);
    memcpy(reply + 6, route_gateway, 6);
    memcpy(reply + 12, head, sizeof(head));
    memcpy(reply + 22, route_gateway, 6);
    memcpy(reply + 28, target, 4);
    memcpy(reply + 32, sender, 10);
    return 60;
}

static uint16_t icmp6_sum(const uint8_t *ip, const uint8_t *icmp, uint32_t length)
{
    const uint8_t pseudo[8] = {0, 0, (uint8_t)(length >> 8), (uint8_t)length, 0, 0, 0, 58};
    uint16_t sum = dt_checksum(ip + 8, 32, 0);

    sum = dt_checksum(pseudo, sizeof(pseudo), sum);
    return dt_checksum(icmp, length, sum);
}

static bool is_solicitation(const struct dt_headers *h, const uint8_t *data)
{
    const uint8_t *ip = data + h->l3, *icmp = data + h->l4;

    return icmp[0] == SOLICITATION && icmp[1] == 0 && ip[7] == 255 && h->end - h->l4 >= 24 &&
           !(h->flags & DT_HDR_FRAGMENT) && icmp[8] != 0xff &&
           icmp6_sum(ip, icmp, h->end - h->l4) == 0xffff;
}

static uint32_t advertise(uint8_t *reply, const uint8_t *mac, const uint8_t *asker,
                          const uint8_t *target, bool nobody)
{
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    static const uint8_t head[] = {0x60, 0, 0, 0, 0, 32, 58, 255};
    uint8_t *ip = reply + 14, *icmp = ip + 40;

    memset(reply, 0, 14 + 40 + 32);
    memcpy(reply, nobody ? all_nodes_mac : mac, 6);
    memcpy(reply + 6, route_gateway, 6);
    memcpy(reply + 12, "\x86\xdd", 2);
    memcpy(ip, head, sizeof(head));
    memcpy(ip + 8, target, 16);
    memcpy(ip + 24, nobody ? all_nodes : asker, 16);
    icmp[0] = ADVERTISEMENT;
    icmp[4] = (uint8_t)(IS_ROUTER | OVERRIDE | (nobody ? 0 : SOLICITED));
    memcpy(icmp + 8, target, 16);
    icmp[24] = 2; /* option: the target's link-layer address */
    icmp[25] = 1;
    memcpy(icmp + 26, route_gateway, 6);
    store_be16(icmp + 2, (uint16_t)~icmp6_sum(ip, icmp, 32));
    return 14 + 40 + 32;
}

static uint32_t answer_solicitation(const struct route *r, struct dt_packet *p, uint8_t *reply)
{
    static const uint8_t none[16];
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *asker = p->data + h->l3 + 8, *target = p->data + h->l4 + 8;
    bool nobody = memcmp(asker, none, 16) == 0;

    if (!is_solicitation(h, p->data) || prefixes_contain(&r->own6, target) ||
        memcmp(asker, target, 16) == 0)
        return 0;
    if (nobody && target[0] == 0xfe && (target[1] & 0xc0) == 0x80)
        return 0;
    return advertise(reply, p->data + 6, asker, target, nobody);
}

uint32_t route_answer(const struct route *r, struct dt_packet *p, uint8_t reply[ROUTE_ANSWER_MAX])
{
    return dt_headers(p)->flags & DT_HDR_ARP ? answer_arp(r, p, reply)
                                             : answer_solicitation(r, p, reply);
}
