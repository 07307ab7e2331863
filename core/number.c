/* SPDX-License-Identifier: MIT */
/*
 * number.c - numbers as people write them: 20k, 1.5G, 5ms, 1%.
 *
 * All whole numbers are exact: `1.5k` is 1500, but `1.0005k` is refused and so is what
 * does not fit 64 bits. Counts are in thousands and sizes in 1024s, each by its own table.
 */
#include "core/core.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit count_units[] = {
    {"", 1},           {"k", 1000},          {"K", 1000}, {"M", 1000000},
    {"G", 1000000000}, {"T", 1000000000000}, {NULL, 0},
};

static const struct unit size_units[] = {
    {"", 1},
    {"k", 1ull << 10},
    {"K", 1ull << 10},
    {"KiB", 1ull << 10},
    {"m", 1ull << 20},
    {"M", 1ull << 20},
    {"MiB", 1ull << 20},
    {"g", 1ull << 30},
    {"G", 1ull << 30},
    {"GiB", 1ull << 30},
    {"t", 1ull << 40},
    {"T", 1ull << 40},
    {"TiB", 1ull << 40},
    {"P", 1ull << 50},
    {"PiB", 1ull << 50},
    {NULL, 0},
};

static const struct unit duration_units[] = {
    {"ns", 1},      {"us", 1000},      {"\xc2\xb5s", 1000}, {"ms", 1000000},
    {"s", DT_S(1)}, {"min", DT_S(60)}, {"h", DT_S(3600)},   {NULL, 0},
};

/* Appends a decimal digit; false when it does not fit. */
static bool append_digit(uint64_t *n, char digit)
{
    return !__builtin_mul_overflow(*n, 10, n) &&
           !__builtin_add_overflow(*n, (uint64_t)(digit - '0'), n);
}

/* Parses digits[.digits]UNIT. Returns 0, -EINVAL (not a number) or -ERANGE (too large). */
static int parse_with_units(const char *text, const struct unit *unit, uint64_t *value)
{
    uint64_t n = 0, divisor = 1, left;
    const char *p = text;

    if (!isdigit((unsigned char)*p))
        return -EINVAL;
    for (; isdigit((unsigned char)*p); p++)
        if (!append_digit(&n, *p))
            return -ERANGE;
    if (*p == '.') {
        if (!isdigit((unsigned char)*++p))
            return -EINVAL;
        for (; isdigit((unsigned char)*p); p++) {
            if (!isdigit((unsigned char)p[strspn(p, "0")]))
                continue; /* zeroes at the end say nothing and must not overflow */
            if (!append_digit(&n, *p) || __builtin_mul_overflow(divisor, 10, &divisor))
                return -EINVAL;
        }
    }
    for (; unit->name; unit++)
        if (strcmp(unit->name, p) == 0)
            break;
    if (!unit->name)
        return -EINVAL;

    unsigned __int128 product = (unsigned __int128)n * unit->factor;

    left = (uint64_t)(product % divisor);
    product /= divisor;
    if (left)
        return -EINVAL; /* a fraction of the smallest unit */
    if (product > UINT64_MAX)
        return -ERANGE;
    *value = (uint64_t)product;
    return 0;
}

int parse_uint(const char *text, uint64_t *value)
{
    return parse_with_units(text, count_units, value);
}

int parse_size(const char *text, uint64_t *bytes)
{
    return parse_with_units(text, size_units, bytes);
}

int dt_parse_size(const char *text, uint64_t *bytes)
{
    return parse_size(text, bytes);
}

int parse_duration(const char *text, uint64_t *ns)
{
    return parse_with_units(text, duration_units, ns);
}

int parse_fraction(const char *text, double *value)
{
    bool percent = false;
    size_t length = strlen(text);
    char *end;
    double f;

    /* strtod() would also take spaces, signs, hexadecimal, "inf" and "nan". */
    if (!isdigit((unsigned char)*text) || strspn(text, "0123456789.e-%") != length)
        return -EINVAL;
    f = strtod(text, &end);
    if (*end == '%') {
        percent = true;
        end++;
    }
    if (*end)
        return -EINVAL;
    if (percent)
        f /= 100;
    if (!(f >= 0 && f <= 1))
        return -ERANGE;
    *value = f;
    return 0;
}

int parse_bool(const char *text, bool *value)
{
    static const char *const words[2][4] = {
        {"off", "false", "no", "0"},
        {"on", "true", "yes", "1"},
    };

    for (unsigned truth = 0; truth < 2; truth++)
        for (unsigned i = 0; i < ARRAY_SIZE(words[truth]); i++)
            if (strcmp(text, words[truth][i]) == 0) {
                *value = truth;
                return 0;
            }
    return -EINVAL;
}

char *format_size(uint64_t n)
{
    static const char suffixes[] = "KMGTP";
    unsigned i = 0;

    while (n && n % 1024 == 0 && i < sizeof(suffixes) - 1) {
        n /= 1024;
        i++;
    }
    return i ? xasprintf("%" PRIu64 "%c", n, suffixes[i - 1]) : xasprintf("%" PRIu64, n);
}

/* 5000 stays as it is; 20000 reads better as 20k. */
char *format_count(uint64_t n)
{
    static const char suffixes[] = "kMGT";
    unsigned i = 0;

    if (n < 10000)
        return xasprintf("%" PRIu64, n);
    while (n % 1000 == 0 && i < sizeof(suffixes) - 1) {
        n /= 1000;
        i++;
    }
    return i ? xasprintf("%" PRIu64 "%c", n, suffixes[i - 1]) : xasprintf("%" PRIu64, n);
}

char *format_duration(uint64_t ns)
{
    static const struct unit units[] = {{"h", DT_S(3600)}, {"min", DT_S(60)}, {"s", DT_S(1)},
                                        {"ms", DT_MS(1)},  {"us", DT_US(1)},  {"ns", 1}};
    unsigned i = 0;

    if (ns == 0)
        return xstrdup("0s");
    while (ns % units[i].factor)
        i++;
    return xasprintf("%" PRIu64 "%s", ns / units[i].factor, units[i].name);
}
