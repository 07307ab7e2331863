/* SPDX-License-Identifier: MIT */
/* prefix.h - lists of IPv4 and IPv6 addresses and prefixes, as a person writes them. */
#ifndef BASE_PREFIX_H
#define BASE_PREFIX_H

#include "base/base.h"

#define PREFIXES_MAX 16u

/** struct prefix - an IPv4 or IPv6 address and how many of its bits count. @mask: of the first four bytes, as on the wire. */
struct prefix {
    uint8_t bytes[16];
    uint32_t mask;
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
/** prefix_rest() - are all of the bits of @prefix those of @address, whose first four bytes are? */
bool prefix_rest(const struct prefix *prefix, const uint8_t *address);

/** prefixes_contain() - is @address, 4 or 16 bytes as on the wire, within one of @list? */
static inline bool prefixes_contain(const struct prefixes *list, const uint8_t *address)
{
    for (unsigned i = 0; i < list->n; i++) {
        const struct prefix *prefix = &list->list[i];
        uint32_t first, own;

        memcpy(&first, address, 4);
        memcpy(&own, prefix->bytes, 4);
        if (((first ^ own) & prefix->mask) == 0 &&
            (prefix->bits <= 32 || prefix_rest(prefix, address)))
            return true;
    }
    return false;
}

#endif
