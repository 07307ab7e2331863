/* SPDX-License-Identifier: MIT */
/*
 * fuzz_route.c - a frame of the guest's as a question: it is answered from the gateway's address, by a whole packet, or not at all. */
#include "net/route/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t *reply, uint32_t n, const struct route *r)
{
    struct dt_headers h;

    dt_parse(&h, reply, n);
    CHECK(!(h.flags & DT_HDR_BROKEN) && h.flags & (DT_HDR_ARP | DT_HDR_ICMP6));
    CHECK(memcmp(reply + 6, route_gateway, 6) == 0);
    CHECK(!prefixes_contain(h.flags & DT_HDR_ARP ? &r->own4 : &r->own6,
                            reply + (h.flags & DT_HDR_ARP ? 28 : 22)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct route r;
    uint8_t reply[ROUTE_ANSWER_MAX], frame[2048];
    struct dt_packet p = {.data = frame, .length = (uint32_t)size};
    struct dt_error err;
    uint32_t n;

    if (size < 14 || size > sizeof(frame))
        return 0;
    if (r.own4.n == 0)
        CHECK(prefixes_parse("10.0.0.5/32,2001:db8::5/128", &r.own4, &r.own6, &err) == 0);
    memcpy(frame, data, size);
    if (!route_is_question(&p))
        return 0;
    n = route_answer(&r, &p, reply);
    CHECK(n <= sizeof(reply));
    if (n)
        check(reply, n, &r);
    return 0;
}
