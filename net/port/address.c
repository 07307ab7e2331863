/* SPDX-License-Identifier: MIT */
/* address.c - HOST:PORT as a person writes it, to addresses. */
#include "net/port/address.h"

static int split(char *text, char **host, char **port)
{
    char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;

    if (n == 0 || !colon[1])
        return -EINVAL;
    *colon = '\0';
    *port = colon + 1;
    *host = text;
    if (text[0] == '[' && text[n - 1] == ']' && n > 2) {
        text[n - 1] = '\0';
        (*host)++;
        return 0;
    }
    return strchr(text, ':') || text[0] == '[' ? -EINVAL : 0;
}

int port_resolve(const char *text, const struct addrinfo *hints, struct addrinfo **list,
                 struct dt_error *err)
{
    _cleanup_free_ char *copy = xstrdup(text);
    char *host, *port;
    int ret = split(copy, &host, &port);

    if (ret < 0)
        return dt_fail(err, ret, "'%.200s' is no address: write HOST:PORT or [IPV6]:PORT", text);
    ret = getaddrinfo(host, port, hints, list);
    return ret ? dt_fail(err, -EHOSTUNREACH, "%.200s: %s", text, gai_strerror(ret)) : 0;
}
