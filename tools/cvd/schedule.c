/* SPDX-License-Identifier: MIT */
/* schedule.c - cvd schedule: every=30s keep=1h:all,1d:1m,30d:1h, read and printed. */
#include "tools/cvd/cvd.h"

#include <ctype.h>

struct unit {
    char letter;
    uint32_t seconds;
};
static const struct unit units[] = {{'y', 31536000}, {'w', 604800}, {'d', 86400},
                                    {'h', 3600},     {'m', 60},     {'s', 1}};

/* Up to @end, or -EINVAL. */
static int parse_seconds(const char *text, const char *end, uint32_t *seconds)
{
    uint64_t n = 0;

    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    for (; isdigit((unsigned char)*text) && n <= UINT32_MAX; text++)
        n = n * 10 + (uint64_t)(*text - '0');
    for (unsigned i = 0; i < ARRAY_SIZE(units); i++)
        if (text + 1 == end && *text == units[i].letter && n <= UINT32_MAX / units[i].seconds) {
            *seconds = (uint32_t)n * units[i].seconds;
            return n ? 0 : -EINVAL;
        }
    return -EINVAL;
}

static void print_seconds(FILE *out, uint32_t seconds)
{
    unsigned i = 0;

    while (seconds % units[i].seconds)
        i++;
    fprintf(out, "%u%c", seconds / units[i].seconds, units[i].letter);
}

static int parse_keep(const char *text, struct px_rule *rules, unsigned *n, struct dt_error *err)
{
    for (*n = 0; *text; ++*n) {
        const char *end = strchrnul(text, ','), *colon = memchr(text, ':', (size_t)(end - text));
        struct px_rule *r = &rules[*n];

        if (*n == PX_RULES)
            return dt_fail(err, -EINVAL, "keep= has at most %u rules", PX_RULES);
        if (!colon || parse_seconds(text, colon, &r->age) < 0)
            return dt_fail(err, -EINVAL, "'%.*s' is no AGE:INTERVAL or AGE:all, such as 1d:1m",
                           (int)(end - text), text);
        if (end - colon == 4 && strncmp(colon, ":all", 4) == 0)
            r->every = 0;
        else if (parse_seconds(colon + 1, end, &r->every) < 0)
            return dt_fail(err, -EINVAL, "'%.*s': the interval is all, or such as 1m",
                           (int)(end - text), text);
        text = *end ? end + 1 : end;
    }
    return 0;
}

static void print_schedule(struct target *t, bool json)
{
    const struct px_record *r = pool_record(t->pool, t->slot);
    char *keep = NULL;
    size_t size;
    FILE *out = open_memstream(&keep, &size);

    CHECK(out);
    for (unsigned i = 0; i < r->rules; i++) {
        fputs(i ? "," : "", out);
        print_seconds(out, r->rule[i].age);
        putc(':', out);
        if (r->rule[i].every)
            print_seconds(out, r->rule[i].every);
        else
            fputs("all", out);
    }
    fclose(out);
    if (json) {
        print_json_to(t->out, json_pack("{ss sI ss}", "name", r->name, "every",
                                        (json_int_t)r->every, "keep", keep));
    } else if (r->every == 0) {
        fprintf(t->out, "%s: no schedule\n", r->name);
    } else {
        fprintf(t->out, "%s: every=", r->name);
        print_seconds(t->out, r->every);
        fprintf(t->out, "%s%s\n", *keep ? " keep=" : "", keep);
    }
    free(keep);
}

int cmd_schedule(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err)
{
    struct px_rule rules[PX_RULES] = {{0}};
    uint32_t every = 0;
    unsigned n = 0;
    int ret = 0;

    for (int i = 1; i < argc && ret == 0; i++) {
        const char *end = argv[i] + strlen(argv[i]);

        if (strncmp(argv[i], "keep=", 5) == 0)
            ret = parse_keep(argv[i] + 5, rules, &n, err);
        else if (strncmp(argv[i], "every=", 6) == 0 && parse_seconds(argv[i] + 6, end, &every) == 0)
            continue;
        else if (strcmp(argv[i], "off") || argc > 2)
            ret = dt_fail(err, -EINVAL,
                          "'%s' is not every=INTERVAL (such as 30s), keep=..., or off", argv[i]);
    }
    if (ret == 0 && argc > 1 && every == 0 && strcmp(argv[1], "off"))
        ret = dt_fail(err, -EINVAL, "every=INTERVAL is missing");
    if (ret == 0 && argc > 1)
        ret = pool_set_schedule(t->pool, t->slot, every, rules, n, err);
    if (ret == 0 && (argc == 1 || o->json))
        print_schedule(t, o->json);
    return ret;
}
