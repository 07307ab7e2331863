/* SPDX-License-Identifier: MIT */
/*
 * fuzz_antispoof.c - a guest's frame is judged: what passes comes from the card; with its addresses written into it, sums that were right
 * are right still, and to do it again changes nothing.
 */
#include "net/antispoof/antispoof.h"
#include "tests/unit/net_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct identity *card(void)
{
    static struct identity id = {.mac = {0x52, 0x54, 0, 0, 0, 1}, .dhcp = true};
    struct dt_error err;

    if (id.ip4.n == 0) {
        identity_derive(&id);
        CHECK(prefixes_parse("192.0.2.7,2001:db8::7", &id.ip4, &id.ip6, &err) == 0);
    }
    return &id;
}

static bool is_zero(const uint8_t *p, unsigned n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Of a packet that passed. */
static void check_source(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *ip = p->data + h->l3;

    CHECK(memcmp(p->data + 6, id->mac, 6) == 0 && h->vlans == 0 && !(h->flags & DT_HDR_BROKEN));
    if (h->flags & DT_HDR_IPV4)
        CHECK(is_zero(ip + 12, 4) || prefixes_contain(&id->ip4, ip + 12));
    else if (h->flags & DT_HDR_IPV6)
        CHECK(is_zero(ip + 8, 16) || prefixes_contain(&id->ip6, ip + 8) ||
              memcmp(ip + 8, id->link_local, 16) == 0);
}

/* The short cut comes to no other judgement. */
static void judge(struct dt_packet *p)
{
    enum trick trick = antispoof_judge(card(), p);

    CHECK(trick == antispoof_judge_all(card(), p));
    if (trick == HONEST)
        check_source(card(), p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *frame = xcalloc(1, size); /* of its very size: what is read behind it is found */
    struct dt_packet p = {.data = frame, .length = (uint32_t)size}, again;
    bool right;

    if (size < 14 || size > NET_MAX_FRAME) {
        free(frame);
        return 0;
    }
    memcpy(frame, data, size);
    judge(&p);
    right = p.headers_.flags & (DT_HDR_TCP | DT_HDR_UDP) &&
            !(p.headers_.flags & (DT_HDR_FRAGMENT | DT_HDR_BROKEN)) &&
            frame_sums_right(frame, (uint32_t)size);
    antispoof_stamp(card(), &p);
    again = p;
    CHECK(!antispoof_stamp(card(), &again));
    if (right)
        CHECK(frame_sums_right(frame, (uint32_t)size));
    judge(&p);
    free(frame);
    return 0;
}
