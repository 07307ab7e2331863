/* SPDX-License-Identifier: MIT */
/*
 * dhcp.c - does a DHCP client speak for itself?
 *
 * A server knows clients by what they write: who names another card gets its lease, ends it, or takes a lease for
 * each of a thousand names. So a client's hardware address is the card's (RFC 2131, chaddr), it gives no address back but
 * its own, and an identifier that has the form of a hardware address is that (RFC 2132, 9.14). Others, as RFC 4361 and
 * RFC 8415 make them of a number that was drawn once, tell nothing of a card and cannot be judged.
 */
#include "net/antispoof/antispoof.h"

#include "base/bytes.h"

#define BOOTP_BYTES 236u
#define COOKIE      0x63825363u

enum { PAD = 0, OVERLOAD = 52, MESSAGE_TYPE = 53, CLIENT_ID = 61, RELAY = 82, END = 255 };
enum { DISCOVER = 1, REQUEST = 3, DECLINE = 4, RELEASE = 7, INFORM = 8 };

static bool is_clients_type(uint8_t type)
{
    return type == DISCOVER || type == REQUEST || type == DECLINE || type == RELEASE ||
           type == INFORM;
}

/* Ethernet's type and the address: seven bytes. */
static bool names_other(const struct identity *id, const uint8_t *value, uint8_t length)
{
    return length == 7 && value[0] == 1 && memcmp(value + 1, id->mac, 6) != 0;
}

/* Options may go on in other fields (OVERLOAD), and one in several parts (RFC 3396): no client needs that for these. */
static bool honest_options(const struct identity *id, const uint8_t *at, const uint8_t *end)
{
    unsigned ids = 0;

    while (at < end && *at != END) {
        const uint8_t *value = at + 2;

        if (*at == PAD) {
            at++;
            continue;
        }
        if (end - at < 2 || end - value < at[1])
            return false;
        ids += *at == CLIENT_ID;
        if (*at == OVERLOAD || *at == RELAY || ids > 1)
            return false;
        if (*at == MESSAGE_TYPE && (at[1] != 1 || !is_clients_type(*value)))
            return false;
        if (*at == CLIENT_ID && names_other(id, value, at[1]))
            return false;
        at = value + at[1];
    }
    return true;
}

static bool honest4(const struct identity *id, const uint8_t *m, size_t n)
{
    static const uint8_t ethernet_request[] = {1, 1, 6};
    const uint8_t *ciaddr = m + 12, *giaddr = m + 24, *chaddr = m + 28;

    if (n < BOOTP_BYTES || memcmp(m, ethernet_request, 3) != 0 || load_be32(giaddr) != 0 ||
        memcmp(chaddr, id->mac, 6) != 0)
        return false;
    if (load_be32(ciaddr) != 0 && !prefixes_contain(&id->ip4, ciaddr))
        return false;
    return n < BOOTP_BYTES + 4 || load_be32(m + BOOTP_BYTES) != COOKIE ||
           honest_options(id, m + BOOTP_BYTES + 4, m + n);
}

/* SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION-REQUEST (RFC 8415, 7.3). */
static bool honest6(const uint8_t *m, size_t n)
{
    const unsigned types =
        1u << 1 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 9 | 1u << 11;

    return n >= 4 && m[0] < 32 && types >> m[0] & 1;
}

bool antispoof_dhcp(const struct identity *id, unsigned version, const uint8_t *message, size_t n)
{
    return version == 4 ? honest4(id, message, n) : honest6(message, n);
}
