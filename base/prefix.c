/* SPDX-License-Identifier: MIT */
/* prefix.c - see prefix.h. */
#include "base/prefix.h"

#include <arpa/inet.h>

static int add(char *word, struct prefixes *v4, struct prefixes *v6, struct dt_error *err)
{
    bool six = v6 && (!v4 || strchr(word, ':'));
    struct prefixes *to = six ? v6 : v4;
    unsigned long most = six ? 128 : 32, bits = most;
    char *slash = strchr(word, '/'), *end = NULL;
    struct prefix *prefix = &to->list[to->n];

    if (to->n == PREFIXES_MAX)
        return dt_fail(err, -EINVAL, "more than %u addresses", PREFIXES_MAX);
    if (slash) {
        *slash++ = '\0';
        bits = strtoul(slash, &end, 10);
    }
    if (inet_pton(six ? AF_INET6 : AF_INET, word, prefix->bytes) != 1)
        return dt_fail(err, -EINVAL, "'%.60s' is no %s address or prefix", word,
                       six ? "IPv6" : "IPv4");
    if (slash && (end == slash || *end || bits > most || *slash == '-'))
        return dt_fail(err, -EINVAL, "'%.60s/%.20s': an %s prefix has 0 to %lu bits", word, slash,
                       six ? "IPv6" : "IPv4", most);
    prefix->bits = (uint8_t)bits;
    prefix->mask = bits == 0 ? 0 : htonl(UINT32_MAX << (bits < 32 ? 32 - bits : 0));
    to->n++;
    return 0;
}

int prefixes_parse(const char *text, struct prefixes *v4, struct prefixes *v6, struct dt_error *err)
{
    _cleanup_free_ char *copy = xstrdup(text);
    char *rest = copy, *word;
    int ret = 0;

    if (v4)
        v4->n = 0;
    if (v6)
        v6->n = 0;
    while (ret == 0 && (word = strsep(&rest, ",")) != NULL)
        if (*word)
            ret = add(word, v4, v6, err);
    return ret;
}

bool prefix_rest(const struct prefix *prefix, const uint8_t *address)
{
    unsigned whole = prefix->bits / 8, rest = prefix->bits % 8;

    if (memcmp(prefix->bytes, address, whole) != 0)
        return false;
    return rest == 0 || ((prefix->bytes[whole] ^ address[whole]) >> (8 - rest)) == 0;
}
