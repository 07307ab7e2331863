/* SPDX-License-Identifier: MIT */
/* prefix.h - lists of IPv4 and IPv6 addresses and prefixes, as a person writes them. */
#ifndef BASE_PREFIX_H
#define BASE_PREFIX_H

#include "base/base.h"

#define PREFIXES_MAX 16u

/** struct prefix - an IPv4 or IPv6 address and how many of its bits count. */
struct prefix {
    uint8_t bytes[16];
    uint8_t bits;
};
/** struct prefixes - all of one version of IP. */
struct prefixes {
    struct prefix list[PREFIXES_MAX];
    unsigned n;
};

/**
 * prefixes_parse() - read "192.0.2.7,10.1.0.0/16".
 * @v4, @v6: where addresses of each version go; NULL = they are not wanted here.
 * Return: 0, or -EINVAL with a text that names the word.
 */
int prefixes_parse(const char *text, struct prefixes *v4, struct prefixes *v6,
                   struct dt_error *err);
/** prefixes_contain() - is @address, 4 or 16 bytes as on the wire, within one of @list? */
bool prefixes_contain(const struct prefixes *list, const uint8_t *address);

#endif
