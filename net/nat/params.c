/* SPDX-License-Identifier: MIT */
/* params.c - nat's parameters, from words to numbers; all are read before any is changed. */
#include "net/nat/internal.h"

#include <arpa/inet.h>
#include <stdio.h>

#define FORWARDS_MAX 64u

/** struct forward - ports @low to @high of the wire's are those from @port on of the guest @inner. */
struct forward {
    enum protocol protocol;
    uint16_t low, high, port;
    uint32_t inner;
};
struct forwards {
    struct forward list[FORWARDS_MAX];
    unsigned n;
};

static bool read_address(const char *text, uint32_t *address)
{
    struct in_addr a;

    if (inet_pton(AF_INET, text, &a) != 1)
        return false;
    *address = ntohl(a.s_addr);
    return *address != 0;
}

/* "192.0.2.1/24". */
static int read_network(const char *name, const char *text, struct side *side, struct dt_error *err)
{
    _cleanup_free_ char *copy = xstrdup(text);
    char *slash = strchr(copy, '/'), end;
    unsigned bits;

    if (slash)
        *slash++ = '\0';
    if (!slash || sscanf(slash, "%u%c", &bits, &end) != 1 || bits > 32 ||
        !read_address(copy, &side->address))
        return dt_fail(err, -EINVAL,
                       "%s '%.40s' is no address with the length of its network, "
                       "such as 192.0.2.1/24",
                       name, text);
    side->mask = bits ? ~0u << (32 - bits) : 0;
    return 0;
}

static int read_mac(const char *name, const char *text, bool group, uint8_t mac[6],
                    struct dt_error *err)
{
    unsigned b[6];
    int end = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) !=
            6 ||
        text[end] || (b[0] & 1) != group)
        return dt_fail(err, -EINVAL, "%s '%.40s' is no %s", name, text,
                       group ? "group address such as 03:00:00:12:34:56"
                             : "card's address such as 52:54:00:12:34:56");
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return 0;
}

static int read_ports(const char *text, uint16_t *low, uint16_t *high, struct dt_error *err)
{
    unsigned a, b;
    char end;

    if (sscanf(text, "%5u-%5u%c", &a, &b, &end) != 2 || a < 1 || b > 65535 || a > b)
        return dt_fail(err, -EINVAL, "ports '%.40s' is no range such as 1024-65535", text);
    *low = (uint16_t)a;
    *high = (uint16_t)b;
    return 0;
}

/* A locally administered address, of one letter and an IPv4 address. */
static void make_mac(uint8_t mac[6], char letter, uint32_t address)
{
    mac[0] = 2;
    mac[1] = (uint8_t)letter;
    store_be32(mac + 2, address);
}

/* ---- Forwards ---- */

/* "tcp:8080:80", "udp:5000-5009:10.0.2.15:5000". */
static bool read_forward(char *word, uint32_t guest, struct forward *f)
{
    char *protocol = strsep(&word, ":"), *outer = strsep(&word, ":"), *inner = strsep(&word, ":");
    unsigned low, high, port;
    char end;
    int n;

    if (!inner || (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0))
        return false;
    f->protocol = *protocol == 't' ? TCP : UDP;
    f->inner = guest;
    if (word) {
        if (!read_address(inner, &f->inner))
            return false;
        inner = word;
    }
    n = sscanf(outer, "%5u-%5u%c", &low, &high, &end);
    if (n == 1 && sscanf(outer, "%5u%c", &low, &end) == 1)
        high = low;
    else if (n != 2)
        return false;
    if (sscanf(inner, "%5u%c", &port, &end) != 1 || low < 1 || high < low || high > 65535 ||
        port < 1 || port + (high - low) > 65535)
        return false;
    f->low = (uint16_t)low;
    f->high = (uint16_t)high;
    f->port = (uint16_t)port;
    return true;
}

static bool overlap(uint32_t a, uint32_t b, uint32_t an, uint32_t bn)
{
    return a < b + bn && b < a + an;
}

static bool collide(const struct forward *a, const struct forward *b)
{
    uint32_t an = a->high - a->low + 1u, bn = b->high - b->low + 1u;

    return a->protocol == b->protocol &&
           (overlap(a->low, b->low, an, bn) ||
            (a->inner == b->inner && overlap(a->port, b->port, an, bn)));
}

static int add_forward(const struct nat *n, struct forwards *all, char *word, struct dt_error *err)
{
    _cleanup_free_ char *said = xstrdup(word);
    struct forward *f = &all->list[all->n];
    uint32_t guest = 0;

    if (all->n == FORWARDS_MAX)
        return dt_fail(err, -EINVAL, "more than %u forwards", FORWARDS_MAX);
    if (*n->guest_text && !read_address(n->guest_text, &guest))
        return dt_fail(err, -EINVAL, "guest '%.40s' is no IPv4 address", n->guest_text);
    if (!read_forward(word, guest, f))
        return dt_fail(err, -EINVAL,
                       "forward '%.60s' is not like tcp:8080:80 or "
                       "udp:5000-5009:10.0.2.15:5000",
                       said);
    if (!f->inner)
        return dt_fail(err, -EINVAL,
                       "forward '%.60s' names no guest: write "
                       "PROTOCOL:PORT:GUEST:PORT, or give guest=",
                       said);
    if (!nat_within(&n->inner, f->inner) || f->inner == n->inner.address)
        return dt_fail(err, -EINVAL,
                       "forward '%.60s': no guest of the inner network has that "
                       "address",
                       said);
    for (unsigned i = 0; i < all->n; i++)
        if (collide(f, &all->list[i]))
            return dt_fail(err, -EINVAL, "forward '%.60s' is in another one's way", said);
    all->n++;
    return 0;
}

static int read_forwards(const struct nat *n, struct forwards *all, struct dt_error *err)
{
    _cleanup_free_ char *copy = xstrdup(n->forward_text);
    char *rest = copy, *word;
    uint32_t ports = 0;
    int ret = 0;

    all->n = 0;
    while (ret == 0 && (word = strsep(&rest, ",")) != NULL)
        if (*word)
            ret = add_forward(n, all, word, err);
    for (unsigned i = 0; i < all->n; i++)
        ports += all->list[i].high - all->list[i].low + 1u;
    if (ret == 0 && ports > FORWARDED_MAX)
        ret = dt_fail(err, -EINVAL, "%u forwarded ports are more than %u", ports, FORWARDED_MAX);
    return ret;
}

int nat_apply_forwards(struct nat *n, struct dt_error *err)
{
    struct forwards all;
    int ret = read_forwards(n, &all, err);

    if (ret < 0)
        return ret;
    nat_remove_class(n, FORWARD);
    for (unsigned i = 0; i < all.n; i++)
        for (uint32_t k = 0; k <= (uint32_t)(all.list[i].high - all.list[i].low); k++) {
            const struct forward *f = &all.list[i];

            CHECK(nat_add(n, f->protocol, f->inner, (uint16_t)(f->port + k), (uint16_t)(f->low + k),
                          FORWARD));
        }
    return 0;
}

/* ---- All ---- */

static int read_fixed(struct nat *n, struct dt_error *err)
{
    int ret = read_network("outer", n->outer_text, &n->outer, err);

    ret = ret ?: read_network("inner", n->inner_text, &n->inner, err);
    if (ret == 0 && (nat_within(&n->inner, n->outer.address) ||
                     (n->outer.mask && nat_within(&n->outer, n->inner.address))))
        ret = dt_fail(err, -EINVAL, "outer %s and inner %s are in one network", n->outer_text,
                      n->inner_text);
    ret = ret ?: read_ports(n->ports_text, &n->low, &n->high, err);
    n->outer.way = DT_TX;
    n->inner.way = DT_RX;
    make_mac(n->inner.mac, 'i', n->inner.address);
    make_mac(n->outer.mac, 'o', n->outer.address);
    if (ret == 0 && *n->mac_text)
        ret = read_mac("mac", n->mac_text, false, n->outer.mac, err);
    memcpy(n->inner.told, n->inner.mac, 6);
    memcpy(n->outer.told, n->outer.mac, 6);
    if (ret == 0 && *n->shared_text)
        ret = read_mac("shared-mac", n->shared_text, true, n->outer.told, err);
    return ret;
}

int nat_apply(struct nat *n, bool first, struct dt_error *err)
{
    uint32_t router = 0;
    int ret = first ? read_fixed(n, err) : 0;

    if (ret < 0)
        return ret;
    if (*n->router_text && (!read_address(n->router_text, &router) || router == n->outer.address ||
                            nat_within(&n->inner, router)))
        return dt_fail(err, -EINVAL, "router '%.40s' is no IPv4 address on the wire",
                       n->router_text);
    ret = nat_apply_forwards(n, err);
    if (ret == 0 && router != n->router_address) {
        n->router_address = router;
        n->router = (struct neighbour){.address = router};
    }
    return ret;
}
