/* SPDX-License-Identifier: MIT */
/*
 * fuzz_param.c - any text as a chain, its settings applied to a table with every type.
 *
 * Invariants: what was parsed can be written again (quoted) and parses to the same; a field that
 * was accepted is printed as text that gives the same field; an error has a text of one
 * line; nothing leaks.
 */
#include "core/core.h"

#include <stdio.h>

struct data {
    const char *text, *path;
    bool truth;
    uint64_t count, size, duration, bounded;
    double fraction;
    unsigned choice;
    uint32_t ops;
};

static const char *const choices[] = {"fast", "safe", "mixed", NULL};

#define FIELD(f) .name = #f, .offset = offsetof(struct data, f), .help = "A sentence."
static const struct dt_param params[] = {
    {FIELD(text), .type = DT_PARAM_STRING},
    {FIELD(path), .type = DT_PARAM_PATH, .initial = "a"},
    {FIELD(truth), .type = DT_PARAM_BOOL, .initial = "on"},
    {FIELD(count), .type = DT_PARAM_UINT, .initial = "20k"},
    {FIELD(size), .type = DT_PARAM_SIZE, .initial = "64K"},
    {FIELD(duration), .type = DT_PARAM_DURATION, .initial = "5ms"},
    {FIELD(bounded), .type = DT_PARAM_UINT, .initial = "7", .min = 5, .max = 99},
    {FIELD(fraction), .type = DT_PARAM_FRACTION, .initial = "1%"},
    {FIELD(choice), .type = DT_PARAM_ENUM, .choices = choices},
    {FIELD(ops), .type = DT_PARAM_OPS, .initial = "all"},
    {NULL},
};

static void check_error(const struct dt_error *err)
{
    CHECK(err->text[0] != '\0');
    CHECK(strnlen(err->text, sizeof(err->text)) < sizeof(err->text));
}

/* Writes @word so that it reads back as itself wherever it stands. */
static void quote(FILE *out, const char *word)
{
    fputc('\'', out);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc(*word, out);
    fputc('\'', out);
}

static void write_chain(FILE *out, const struct chain_spec *spec)
{
    for (unsigned i = 0; i < spec->count; i++) {
        const struct layer_spec *layer = &spec->layers[i];

        fputs(i ? "|" : "", out);
        quote(out, layer->name);
        for (unsigned j = 0; j < layer->count; j++) {
            fputc(' ', out);
            quote(out, layer->settings[j].key);
            fputc('=', out);
            quote(out, layer->settings[j].value);
        }
    }
}

static void check_same(const struct chain_spec *a, const struct chain_spec *b)
{
    CHECK(a->count == b->count);
    for (unsigned i = 0; i < a->count; i++) {
        const struct layer_spec *x = &a->layers[i], *y = &b->layers[i];

        CHECK(strcmp(x->name, y->name) == 0 && x->count == y->count);
        for (unsigned j = 0; j < x->count; j++)
            CHECK(strcmp(x->settings[j].key, y->settings[j].key) == 0 &&
                  strcmp(x->settings[j].value, y->settings[j].value) == 0);
    }
}

static void check_chain_round_trip(const struct chain_spec *spec)
{
    _cleanup_free_ char *text = NULL;
    struct chain_spec back;
    struct dt_error err;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    CHECK(out);
    write_chain(out, spec);
    fclose(out);
    CHECK(chain_parse(&back, text, &err) == 0);
    check_same(spec, &back);
    chain_spec_free(&back);
}

static void check_param_round_trip(const struct dt_param *p, const struct data *d)
{
    _cleanup_free_ char *text = param_format(p, d), *again = NULL;
    struct data other = {0};
    struct dt_error err;

    if (!text)
        return;
    CHECK(param_apply(p, &other, text, &err) == 0);
    again = param_format(p, &other);
    CHECK(strcmp(text, again) == 0);
    if (p->type != DT_PARAM_STRING && p->type != DT_PARAM_PATH)
        CHECK(memcmp((const char *)d + p->offset, (char *)&other + p->offset, param_size(p)) == 0);
    param_free_all(params, &other);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    _cleanup_free_ char *text = strndup((const char *)bytes, size);
    struct dt_error err = {""};
    struct chain_spec spec;

    if (chain_parse(&spec, text, &err) < 0) {
        check_error(&err);
        return 0;
    }
    check_chain_round_trip(&spec);
    for (unsigned i = 0; i < spec.count; i++) {
        struct data d = {0};

        err.text[0] = '\0';
        if (param_apply_all(params, &d, &spec.layers[i], &err) < 0) {
            check_error(&err);
            continue;
        }
        for (const struct dt_param *p = params; p->name; p++)
            check_param_round_trip(p, &d);
        param_free_all(params, &d);
    }
    chain_spec_free(&spec);
    return 0;
}
