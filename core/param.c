/* SPDX-License-Identifier: MIT */
/*
 * param.c - parameters from their declaration: text to the layer's data and back.
 *
 * Each type is a row of one table: its C size, its name for the help, how to parse, how to
 * print. Strings and paths in the layer's data are always owned copies, so that a live change can
 * free the one before. Whatever fails leaves the field as it was.
 */
#include "core/core.h"

#include <limits.h>
#include <stdio.h>

union value {
    char *text;
    bool truth;
    uint64_t number;
    double fraction;
    unsigned choice;
    uint32_t ops;
};

/**
 * struct param_type - one type.
 * @parse:  text to a value; an error names what was expected, not the parameter.
 * @format: the reverse; the result is owned by the caller.
 */
struct param_type {
    const char *name;
    size_t size;
    int (*parse)(const struct dt_param *p, const char *text, union value *v, struct dt_error *err);
    char *(*format)(const struct dt_param *p, const union value *v);
};

/* ---- Texts ------------------------------------------------------------------------------- */

static int parse_text(const struct dt_param *p, const char *text, union value *v,
                      struct dt_error *err)
{
    v->text = xstrdup(text);
    return 0;
}

static char *format_text(const struct dt_param *p, const union value *v)
{
    return xstrdup(v->text);
}

static int parse_path(const struct dt_param *p, const char *text, union value *v,
                      struct dt_error *err)
{
    char cwd[PATH_MAX];

    if (*text == '\0')
        return dt_fail(err, -EINVAL, "a path is missing");
    if (*text == '/') {
        v->text = xstrdup(text);
        return 0;
    }
    if (!getcwd(cwd, sizeof(cwd)))
        return dt_fail(err, -errno, "cannot make it absolute: %s", strerror(errno));
    while (strncmp(text, "./", 2) == 0)
        text += 1 + strspn(text + 1, "/");
    v->text = xasprintf("%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, text);
    return 0;
}

/* ---- Numbers ----------------------------------------------------------------------------- */

static char *format_u64(unsigned type, uint64_t n)
{
    if (type == DT_PARAM_SIZE)
        return format_size(n);
    return type == DT_PARAM_DURATION ? format_duration(n) : format_count(n);
}

static char *format_number(const struct dt_param *p, const union value *v)
{
    return format_u64(p->type, v->number);
}

static int check_bounds(const struct dt_param *p, uint64_t n, struct dt_error *err)
{
    _cleanup_free_ char *min = NULL, *max = NULL;

    if ((p->min == 0 && p->max == 0) || (n >= p->min && n <= p->max))
        return 0;
    min = format_u64(p->type, p->min);
    max = format_u64(p->type, p->max);
    if (n < p->min)
        return dt_fail(err, -ERANGE, "too small: the least is %s", min);
    return dt_fail(err, -ERANGE, "too large: the most is %s", max);
}

static int parse_number(const struct dt_param *p, const char *text, union value *v,
                        struct dt_error *err)
{
    static const struct {
        int (*parse)(const char *text, uint64_t *n);
        const char *expected;
    } kinds[] = {
        [DT_PARAM_UINT] = {parse_uint, "not a number (such as 5000, 20k or 3M)"},
        [DT_PARAM_SIZE] = {parse_size, "not a size (such as 4096, 64K or 10G)"},
        [DT_PARAM_DURATION] = {parse_duration, "not a duration (such as 10us, 5ms or 1s)"},
    };
    uint64_t n;
    int ret = kinds[p->type].parse(text, &n);

    if (ret == -ERANGE)
        return dt_fail(err, ret, "too large a number");
    if (ret < 0 && p->type == DT_PARAM_DURATION && parse_uint(text, &n) == 0)
        return dt_fail(err, ret, "a duration needs its unit: %sus, %sms or %ss?", text, text, text);
    if (ret < 0)
        return dt_fail(err, ret, "%s", kinds[p->type].expected);
    ret = check_bounds(p, n, err);
    if (ret == 0)
        v->number = n;
    return ret;
}

static int parse_param_fraction(const struct dt_param *p, const char *text, union value *v,
                                struct dt_error *err)
{
    int ret = parse_fraction(text, &v->fraction);

    if (ret == -ERANGE)
        return dt_fail(err, ret, "a fraction lies between 0 and 1 (or 0%% and 100%%)");
    return ret ? dt_fail(err, ret, "not a fraction (such as 0.01 or 1%%)") : 0;
}

/* The shortest text that parses to the same value. */
static char *format_fraction(const struct dt_param *p, const union value *v)
{
    char text[32];
    double back;

    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v->fraction);
        if (parse_fraction(text, &back) == 0 && back == v->fraction)
            break;
    }
    return xstrdup(text);
}

/* ---- Words ------------------------------------------------------------------------------- */

static int parse_param_bool(const struct dt_param *p, const char *text, union value *v,
                            struct dt_error *err)
{
    return parse_bool(text, &v->truth) ? dt_fail(err, -EINVAL, "neither on nor off") : 0;
}

static char *format_bool(const struct dt_param *p, const union value *v)
{
    return xstrdup(v->truth ? "on" : "off");
}

static int parse_choice(const struct dt_param *p, const char *text, union value *v,
                        struct dt_error *err)
{
    struct nearest nearest = {.wanted = text};
    char known[256] = "";

    for (unsigned i = 0; p->choices[i]; i++) {
        if (strcmp(text, p->choices[i]) == 0) {
            v->choice = i;
            return 0;
        }
        word_list_add(known, sizeof(known), p->choices[i]);
        nearest_offer(&nearest, p->choices[i]);
    }
    dt_fail(err, -EINVAL, "not one of %s", known);
    nearest_hint(&nearest, err);
    return -EINVAL;
}

static char *format_choice(const struct dt_param *p, const union value *v)
{
    unsigned n = 0;

    while (p->choices[n])
        n++;
    return xstrdup(v->choice < n ? p->choices[v->choice] : "?");
}

#define ALL_OPS ((1u << DT_OP_COUNT) - 1)

static int parse_op_word(const char *word, uint32_t *mask, struct dt_error *err)
{
    struct nearest nearest = {.wanted = word};
    int op = dt_op_parse(word);

    if (op >= 0) {
        *mask |= 1u << op;
        return 0;
    }
    if (strcmp(word, "all") == 0) {
        *mask = ALL_OPS;
        return 0;
    }
    dt_fail(err, -EINVAL,
            "'%.32s' is no operation (read, write, flush, discard, write-zeroes or all)", word);
    for (op = 0; op < DT_OP_COUNT; op++)
        nearest_offer(&nearest, dt_op_name(op));
    nearest_hint(&nearest, err);
    return -EINVAL;
}

static int parse_ops(const struct dt_param *p, const char *text, union value *v,
                     struct dt_error *err)
{
    _cleanup_free_ char *words = xstrdup(text);
    char *rest = words, *word;
    uint32_t mask = 0;

    if (strcmp(text, "none") != 0)
        while ((word = strsep(&rest, ",")) != NULL) {
            int ret = parse_op_word(word, &mask, err);

            if (ret < 0)
                return ret;
        }
    v->ops = mask;
    return 0;
}

static char *format_ops(const struct dt_param *p, const union value *v)
{
    char text[64] = "";

    if ((v->ops & ALL_OPS) == ALL_OPS)
        return xstrdup("all");
    for (int op = 0; op < DT_OP_COUNT; op++)
        if (v->ops & (1u << op)) {
            size_t used = strlen(text);

            snprintf(text + used, sizeof(text) - used, "%s%s", used ? "," : "", dt_op_name(op));
        }
    return xstrdup(*text ? text : "none");
}

/* ---- The table --------------------------------------------------------------------------- */

static const struct param_type types[] = {
    [DT_PARAM_STRING] = {"text", sizeof(char *), parse_text, format_text},
    [DT_PARAM_PATH] = {"path", sizeof(char *), parse_path, format_text},
    [DT_PARAM_BOOL] = {"on|off", sizeof(bool), parse_param_bool, format_bool},
    [DT_PARAM_UINT] = {"number", sizeof(uint64_t), parse_number, format_number},
    [DT_PARAM_SIZE] = {"size", sizeof(uint64_t), parse_number, format_number},
    [DT_PARAM_DURATION] = {"duration", sizeof(uint64_t), parse_number, format_number},
    [DT_PARAM_FRACTION] = {"fraction", sizeof(double), parse_param_fraction, format_fraction},
    [DT_PARAM_ENUM] = {"choice", sizeof(unsigned), parse_choice, format_choice},
    [DT_PARAM_OPS] = {"operations", sizeof(uint32_t), parse_ops, format_ops},
};

static const struct param_type *type_of(const struct dt_param *p)
{
    CHECK(p->type < ARRAY_SIZE(types)); /* the registry refused anything else */
    return &types[p->type];
}

static bool is_text(const struct dt_param *p)
{
    return p->type == DT_PARAM_STRING || p->type == DT_PARAM_PATH;
}

const char *param_type_name(const struct dt_param *p)
{
    return type_of(p)->name;
}

size_t param_size(const struct dt_param *p)
{
    return p->type < ARRAY_SIZE(types) ? types[p->type].size : 0;
}

int param_find(const struct dt_param *params, const char *name)
{
    for (int i = 0; params && params[i].name; i++)
        if (strcmp(params[i].name, name) == 0)
            return i;
    return -ENOENT;
}

int param_apply(const struct dt_param *p, void *base, const char *value, struct dt_error *err)
{
    const struct param_type *type = type_of(p);
    void *field = (char *)base + p->offset;
    union value v = {0};
    int ret = type->parse(p, value, &v, err);

    if (ret < 0) {
        bool shown = !(p->flags & DT_PARAM_SECRET);

        dt_fail_prefix(err, "%s=%.64s%s", p->name, shown ? value : "(secret)",
                       shown && strlen(value) > 64 ? "..." : "");
        return ret;
    }
    if (is_text(p))
        free(*(char **)field);
    memcpy(field, &v, type->size);
    return 0;
}

int param_change(const struct dt_param *p, void *base, const char *value, struct param_old *old,
                 struct dt_error *err)
{
    void *field = (char *)base + p->offset;
    int ret;

    _Static_assert(sizeof(old->bytes) >= sizeof(union value), "holds a field of any type");
    memcpy(old->bytes, field, type_of(p)->size);
    if (is_text(p))
        *(char **)field = NULL; /* not freed: it may come back */
    ret = param_apply(p, base, value, err);
    if (ret < 0)
        memcpy(field, old->bytes, type_of(p)->size);
    return ret;
}

void param_change_end(const struct dt_param *p, void *base, struct param_old *old, bool keep)
{
    void *field = (char *)base + p->offset;

    if (is_text(p))
        free(keep ? *(char **)old->bytes : *(char **)field);
    if (!keep)
        memcpy(field, old->bytes, type_of(p)->size);
}

char *param_format(const struct dt_param *p, const void *base)
{
    const struct param_type *type = type_of(p);
    union value v = {0};

    memcpy(&v, (const char *)base + p->offset, type->size);
    if (is_text(p) && !v.text)
        return NULL;
    if (p->flags & DT_PARAM_SECRET)
        return xstrdup("(secret)");
    return type->format(p, &v);
}

void param_free_all(const struct dt_param *params, void *base)
{
    for (const struct dt_param *p = params; p && p->name; p++)
        if (is_text(p)) {
            char **field = (char **)((char *)base + p->offset);

            free(*field);
            *field = NULL;
        }
}
