/* SPDX-License-Identifier: MIT */
/* gre.c - a frame in GRE in IPv4, as Linux's gretap has it: see vpn.h. */
#include "net/vpn/vpn.h"

#include "base/bytes.h"

#define PROTOCOL_GRE 47
#define BRIDGING     0x6558u /* transparent Ethernet bridging (RFC 1701) */
#define DONT         0x40u   /* fragment */

void vpn_gre_make(uint8_t out[VPN_GRE], uint32_t from, uint32_t to, uint32_t n)
{
    memset(out, 0, VPN_GRE);
    out[0] = 0x45;
    store_be16(out + 2, VPN_GRE + n);
    out[6] = DONT;
    out[8] = 64;
    out[9] = PROTOCOL_GRE;
    memcpy(out + 12, &from, 4);
    memcpy(out + 16, &to, 4);
    store_be16(out + 10, (uint16_t)~dt_checksum(out, 20, 0));
    store_be16(out + 22, BRIDGING);
}

/* No options, fragments, keys or sequence numbers: what a peer has to be configured without. */
ssize_t vpn_gre_read(const uint8_t *packet, size_t n, uint32_t from, uint32_t to,
                     const uint8_t **frame)
{
    uint32_t length;

    if (n < VPN_GRE || packet[0] != 0x45 || packet[9] != PROTOCOL_GRE)
        return -EBADMSG;
    length = load_be16(packet + 2); /* what follows is padding */
    if (length < VPN_GRE || length > n || (load_be16(packet + 6) & 0x3fff))
        return -EBADMSG;
    if (memcmp(packet + 12, &from, 4) != 0 || memcmp(packet + 16, &to, 4) != 0)
        return -EBADMSG;
    if (dt_checksum(packet, 20, 0) != 0xffff || load_be16(packet + 20) != 0 ||
        load_be16(packet + 22) != BRIDGING)
        return -EBADMSG;
    *frame = packet + VPN_GRE;
    return (ssize_t)(length - VPN_GRE);
}
