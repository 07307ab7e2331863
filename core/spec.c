/* SPDX-License-Identifier: MIT */
/*
 * spec.c - the chain as a person writes it:
 *
 *     trace out=/tmp/t | throttle iops=5000 | file path="/my disks/vm1.img"
 *
 * Words are separated by white space (line ends too, so that a chain may stand in a file) and
 * layers by '|'. Quotes and backslashes work as in a shell, anywhere in a word. "throttle#2" is the
 * second layer of that name wherever it stands: a chain that was changed while it ran is written so.
 */
#include "core/core.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#define SPEC_CONTEXT 24 /* characters of the chain shown around an error */

struct scanner {
    const char *text; /* the whole chain */
    const char *at;   /* the next character */
    struct dt_error *err;
};

/* Appends the surroundings of @at: "... near: throttle >>iops 5000 | fi...". */
static void mark_position(struct scanner *s, const char *at)
{
    size_t before = MIN((size_t)(at - s->text), (size_t)SPEC_CONTEXT);
    size_t after = strnlen(at, SPEC_CONTEXT);
    char near[2 * SPEC_CONTEXT + 16];

    snprintf(near, sizeof(near), "%s%.*s>>>%.*s%s", at - before > s->text ? "..." : "", (int)before,
             at - before, (int)after, at, at[after] ? "..." : "");
    for (char *p = near; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    if (s->err) {
        size_t used = strlen(s->err->text);

        snprintf(s->err->text + used, sizeof(s->err->text) - used, " (at >>> in: %s)", near);
    }
}

/* Fails at character @at of the chain. */
static int DT_PRINTF(3, 4) scan_fail(struct scanner *s, const char *at, const char *fmt, ...)
{
    char what[160];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    dt_fail(s->err, -EINVAL, "chain, column %zu: %s", (size_t)(at - s->text) + 1, what);
    mark_position(s, at);
    return -EINVAL;
}

static void skip_space(struct scanner *s)
{
    while (isspace((unsigned char)*s->at))
        s->at++;
}

static bool word_ends(char c)
{
    return c == '\0' || c == '|' || isspace((unsigned char)c);
}

/*
 * Reads one word and takes its quotes off. @equals is set to the offset in the word of the
 * first '=' that was written bare, or to -1.
 */
static int read_word(struct scanner *s, char **word, ssize_t *equals)
{
    const char *start = s->at, *opened = NULL;
    _cleanup_free_ char *out = xcalloc(strlen(start) + 1, 1);
    size_t n = 0;
    char quote = 0;

    *equals = -1;
    for (; quote ? *s->at != '\0' : !word_ends(*s->at); s->at++) {
        char c = *s->at;

        if (c == '\\' && quote != '\'') {
            if (s->at[1] == '\0')
                return scan_fail(s, s->at, "nothing follows the backslash");
            out[n++] = *++s->at;
        } else if (quote ? c == quote : c == '"' || c == '\'') {
            quote = quote ? 0 : c;
            opened = s->at;
        } else {
            if (c == '=' && !quote && *equals < 0)
                *equals = (ssize_t)n;
            out[n++] = c;
        }
    }
    if (quote)
        return scan_fail(s, opened, "the quote is never closed");
    *word = TAKE_PTR(out);
    return 0;
}

static int read_setting(struct scanner *s, struct layer_spec *layer)
{
    const char *start = s->at;
    _cleanup_free_ char *word = NULL;
    struct setting *setting;
    ssize_t equals;
    int ret = read_word(s, &word, &equals);

    if (ret < 0)
        return ret;
    if (equals < 0)
        return scan_fail(s, start, "expected key=value, found '%.40s'", word);
    if (equals == 0)
        return scan_fail(s, start, "a parameter's name is missing before '='");
    layer->settings = realloc(layer->settings, (layer->count + 1) * sizeof(*setting));
    CHECK(layer->settings);
    setting = &layer->settings[layer->count++];
    setting->key = strndup(word, (size_t)equals);
    CHECK(setting->key);
    setting->value = xstrdup(word + equals + 1);
    return 0;
}

/* Takes the number off "throttle#2"; what is no number of a layer is part of the name. */
static unsigned take_ordinal(char *name)
{
    char *hash = strrchr(name, '#'), *end;
    unsigned long n;

    if (!hash || hash == name || !isdigit((unsigned char)hash[1]))
        return 0;
    n = strtoul(hash + 1, &end, 10);
    if (*end || n < 1 || n > LAYER_MAX_ORDINAL)
        return 0;
    *hash = '\0';
    return (unsigned)n;
}

static int read_layer(struct scanner *s, struct chain_spec *spec)
{
    struct layer_spec *layer;
    const char *start = s->at;
    ssize_t equals;
    int ret;

    if (word_ends(*start))
        return scan_fail(s, start, "the name of an extension or back is missing");
    if (spec->count == CHAIN_MAX_LAYERS)
        return scan_fail(s, start, "a chain has at most %u layers", CHAIN_MAX_LAYERS);
    layer = &spec->layers[spec->count++];
    ret = read_word(s, &layer->name, &equals);
    if (ret < 0)
        return ret;
    if (equals >= 0)
        return scan_fail(s, start, "a layer begins with its name, found '%.40s'", layer->name);
    if (layer->name[0] == '\0')
        return scan_fail(s, start, "the name of an extension or back is empty");
    layer->ordinal = take_ordinal(layer->name);
    if (take_ordinal(layer->name))
        return scan_fail(s, start, "a layer has one number at most");
    for (skip_space(s); !word_ends(*s->at); skip_space(s)) {
        ret = read_setting(s, layer);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int chain_parse(struct chain_spec *spec, const char *text, struct dt_error *err)
{
    struct scanner s = {.text = text, .at = text, .err = err};
    int ret;

    spec->layers = xcalloc(CHAIN_MAX_LAYERS, sizeof(*spec->layers));
    spec->count = 0;
    skip_space(&s);
    if (*s.at == '\0') {
        chain_spec_free(spec);
        return dt_fail(err, -EINVAL,
                       "the chain is empty: it needs at least a back, such as "
                       "'file path=disk.img'");
    }
    for (;;) {
        ret = read_layer(&s, spec);
        if (ret < 0) {
            chain_spec_free(spec);
            return ret;
        }
        if (*s.at == '\0')
            return 0;
        s.at++; /* the '|' */
        skip_space(&s);
    }
}

void layer_spec_clear(struct layer_spec *layer)
{
    for (unsigned j = 0; j < layer->count; j++) {
        free(layer->settings[j].key);
        free(layer->settings[j].value);
    }
    free(layer->settings);
    free(layer->name);
    *layer = (struct layer_spec){0};
}

void chain_spec_free(struct chain_spec *spec)
{
    for (unsigned i = 0; i < spec->count; i++)
        layer_spec_clear(&spec->layers[i]);
    free(spec->layers);
    *spec = (struct chain_spec){0};
}

/* ---- Written again ------------------------------------------------------------------------- */

bool layer_spec_equal(const struct layer_spec *a, const struct layer_spec *b)
{
    if (strcmp(a->name, b->name) != 0 || a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++)
        if (strcmp(a->settings[i].key, b->settings[i].key) != 0 ||
            strcmp(a->settings[i].value, b->settings[i].value) != 0)
            return false;
    return true;
}

#define QUOTED " \t\r\n\v\f|\"'\\"

/* @special: what must not stand bare in it. */
static void put(FILE *out, const char *word, const char *special)
{
    if (*word && !word[strcspn(word, special)]) {
        fputs(word, out);
        return;
    }
    putc('"', out);
    for (; *word; word++) {
        if (*word == '"' || *word == '\\')
            putc('\\', out);
        putc(*word, out);
    }
    putc('"', out);
}

/* Its number, where it would get another by its place. */
static bool needs_ordinal(const struct chain_spec *spec, unsigned index)
{
    const struct layer_spec *layer = &spec->layers[index];

    if (layer->ordinal != 1)
        return layer->ordinal > 1;
    for (unsigned i = 0; i < spec->count; i++)
        if (spec->layers[i].ordinal == 0 && strcmp(spec->layers[i].name, layer->name) == 0)
            return true;
    return false;
}

char *chain_format(const struct chain_spec *spec)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    CHECK(out);
    for (unsigned i = 0; i < spec->count; i++) {
        const struct layer_spec *layer = &spec->layers[i];

        fputs(i ? " | " : "", out);
        put(out, layer->name, QUOTED "=");
        if (needs_ordinal(spec, i))
            fprintf(out, "#%u", layer->ordinal);
        for (unsigned j = 0; j < layer->count; j++) {
            putc(' ', out);
            put(out, layer->settings[j].key, QUOTED "=");
            putc('=', out);
            if (*layer->settings[j].value)
                put(out, layer->settings[j].value, QUOTED);
        }
    }
    CHECK(fclose(out) == 0);
    return text;
}

void chain_spec_copy(struct chain_spec *to, const struct chain_spec *from)
{
    to->layers = xcalloc(CHAIN_MAX_LAYERS, sizeof(*to->layers));
    to->count = from->count;
    for (unsigned i = 0; i < from->count; i++) {
        const struct layer_spec *layer = &from->layers[i];
        struct layer_spec *copy = &to->layers[i];

        *copy = (struct layer_spec){
            .name = xstrdup(layer->name), .ordinal = layer->ordinal, .count = layer->count};
        copy->settings = xcalloc(layer->count + 1, sizeof(struct setting));
        for (unsigned j = 0; j < layer->count; j++) {
            copy->settings[j].key = xstrdup(layer->settings[j].key);
            copy->settings[j].value = xstrdup(layer->settings[j].value);
        }
    }
}
