/* SPDX-License-Identifier: MIT */
/*
 * edit.c - a chain changed step by step, as text: nothing is opened here, and nothing runs.
 *
 * Layers keep their numbers, and so their names, wherever they go; whoever opens the result tells
 * by them which layers are the same as before.
 */
#include "core/core.h"

#include <ctype.h>
#include <stdio.h>

/* The next word of @text, cut off; what follows it stays in @text. */
static char *next_word(char **text)
{
    char *word;

    *text += strspn(*text, " \t\n");
    word = *text;
    *text += strcspn(*text, " \t\n");
    if (**text)
        *(*text)++ = '\0';
    return word;
}

static int find_layer(const struct chain_edit *edit, const char *name, unsigned *index,
                      struct dt_error *err)
{
    struct nearest nearest = {.wanted = name};

    for (unsigned i = 0; i < edit->spec.count; i++) {
        if (strcmp(edit->names[i], name) == 0) {
            *index = i;
            return 0;
        }
        nearest_offer(&nearest, edit->names[i]);
    }
    if (!*name)
        return dt_fail(err, -EINVAL, "the name of a layer is missing");
    dt_fail(err, -ENOENT, "the chain has no layer '%.40s'", name);
    nearest_hint(&nearest, err);
    return -ENOENT;
}

/* Where a layer that is not in the chain (any more) goes: before the one at @index. */
static int find_position(const struct chain_edit *edit, const char *word, unsigned *index,
                         struct dt_error *err)
{
    unsigned back = edit->spec.count - 1;
    char *end;
    unsigned long n;
    int ret;

    if (strcmp(word, "top") == 0 || strcmp(word, "bottom") == 0) {
        *index = *word == 't' ? 0 : back;
        return 0;
    }
    if (strncmp(word, "above:", 6) == 0 || strncmp(word, "below:", 6) == 0) {
        ret = find_layer(edit, word + 6, index, err);
        if (ret == 0 && *word == 'b' && *index == back)
            ret = dt_fail(err, -EINVAL, "nothing can be below the back '%s'", word + 6);
        *index += ret == 0 && *word == 'b';
        return ret;
    }
    n = strtoul(word, &end, 10);
    if (!isdigit((unsigned char)*word) || *end)
        return dt_fail(err, -EINVAL,
                       "'%.40s' is no position: a number from 1, top, bottom, above:LAYER or "
                       "below:LAYER",
                       word);
    if (n < 1 || n > back + 1)
        return dt_fail(err, -EINVAL, "position %lu: the chain has positions 1 to %u above its back",
                       n, back + 1);
    *index = (unsigned)n - 1;
    return 0;
}

static bool name_taken(const struct chain_edit *edit, const char *name)
{
    for (unsigned i = 0; i < edit->spec.count; i++)
        if (strcmp(edit->names[i], name) == 0)
            return true;
    return false;
}

/* What a new layer is called: as its extension, with the first number that is free. Of a path or a
 * program only whoever opens it learns the name. */
static void name_layer(const struct chain_edit *edit, struct layer_spec *layer,
                       char name[LAYER_NAME])
{
    unsigned n = layer->ordinal ?: 1;

    name[0] = '\0';
    if (strchr(layer->name, '/') || strcmp(layer->name, "process") == 0)
        return;
    for (;; n++) {
        if (n == 1)
            snprintf(name, LAYER_NAME, "%.40s", layer->name);
        else
            snprintf(name, LAYER_NAME, "%.40s#%u", layer->name, n);
        if (layer->ordinal || !name_taken(edit, name))
            break;
    }
    layer->ordinal = n;
}

static int parse_layer(struct layer_spec *layer, const char *text, struct dt_error *err)
{
    struct chain_spec spec;
    int ret = chain_parse(&spec, text, err);

    if (ret < 0)
        return ret;
    if (spec.count == 1) {
        *layer = spec.layers[0];
        spec.count = 0;
    } else {
        ret = dt_fail(err, -EINVAL, "one layer at a time: '%.60s' has %u", text, spec.count);
    }
    chain_spec_free(&spec);
    return ret;
}

/* ---- Taking out and putting in --------------------------------------------------------------- */

static void open_gap(struct chain_edit *edit, unsigned at)
{
    struct chain_spec *spec = &edit->spec;
    unsigned after = spec->count++ - at;

    memmove(&spec->layers[at + 1], &spec->layers[at], after * sizeof(spec->layers[0]));
    memmove(edit->names[at + 1], edit->names[at], after * LAYER_NAME);
}

static void close_gap(struct chain_edit *edit, unsigned at)
{
    struct chain_spec *spec = &edit->spec;
    unsigned after = --spec->count - at;

    memmove(&spec->layers[at], &spec->layers[at + 1], after * sizeof(spec->layers[0]));
    memmove(edit->names[at], edit->names[at + 1], after * LAYER_NAME);
    spec->layers[spec->count] = (struct layer_spec){0};
}

static int no_more(const char *rest, struct dt_error *err)
{
    rest += strspn(rest, " \t\n");
    return *rest ? dt_fail(err, -EINVAL, "what is '%.40s' for?", rest) : 0;
}

/* ---- The steps ------------------------------------------------------------------------------- */

static int step_insert(struct chain_edit *edit, char *rest, struct dt_error *err)
{
    const char *where = next_word(&rest);
    struct layer_spec layer;
    char name[LAYER_NAME];
    unsigned at = 0;
    int ret = find_position(edit, where, &at, err);

    if (ret == 0 && edit->spec.count == CHAIN_MAX_LAYERS)
        ret = dt_fail(err, -E2BIG, "a chain has at most %u layers", CHAIN_MAX_LAYERS);
    ret = ret ?: parse_layer(&layer, rest, err);
    if (ret < 0)
        return ret;
    name_layer(edit, &layer, name);
    open_gap(edit, at);
    edit->spec.layers[at] = layer;
    memcpy(edit->names[at], name, LAYER_NAME);
    return 0;
}

static int step_remove(struct chain_edit *edit, char *rest, struct dt_error *err)
{
    unsigned at = 0;
    int ret = find_layer(edit, next_word(&rest), &at, err);

    if (ret == 0 && at == edit->spec.count - 1)
        ret = dt_fail(err, -EINVAL, "'%s' is the back: it can be replaced, not removed",
                      edit->names[at]);
    ret = ret ?: no_more(rest, err);
    if (ret < 0)
        return ret;
    layer_spec_clear(&edit->spec.layers[at]);
    close_gap(edit, at);
    return 0;
}

static int step_move(struct chain_edit *edit, char *rest, struct dt_error *err)
{
    const char *name = next_word(&rest), *where = next_word(&rest);
    struct layer_spec layer;
    char own[LAYER_NAME];
    unsigned from = 0, to = 0;
    int ret = find_layer(edit, name, &from, err);

    if (ret == 0 && from == edit->spec.count - 1)
        ret = dt_fail(err, -EINVAL, "'%s' is the back: it stays where it is", name);
    if (ret == 0 && strchr(where, ':') && strcmp(strchr(where, ':') + 1, name) == 0)
        ret = dt_fail(err, -EINVAL, "'%s' cannot be moved next to itself", name);
    ret = ret ?: no_more(rest, err);
    if (ret < 0)
        return ret;
    layer = edit->spec.layers[from];
    memcpy(own, edit->names[from], LAYER_NAME);
    close_gap(edit, from);
    ret = find_position(edit, where, &to, err);
    if (ret < 0)
        to = from; /* the edit owns it in any case */
    open_gap(edit, to);
    edit->spec.layers[to] = layer;
    memcpy(edit->names[to], own, LAYER_NAME);
    return ret;
}

static int step_replace(struct chain_edit *edit, char *rest, struct dt_error *err)
{
    const char *word = next_word(&rest);
    struct layer_spec layer, *old;
    char name[LAYER_NAME];
    unsigned at = 0;
    int ret = find_layer(edit, word, &at, err) ?: parse_layer(&layer, rest, err);

    if (ret < 0)
        return ret;
    old = &edit->spec.layers[at];
    if (strcmp(old->name, layer.name) == 0 && layer.ordinal == 0) {
        layer.ordinal = old->ordinal; /* the same, with other parameters */
    } else {
        name_layer(edit, &layer, name);
        memcpy(edit->names[at], name, LAYER_NAME);
    }
    layer_spec_clear(old);
    *old = layer;
    return 0;
}

/* Number and name of a layer are of none that goes, so that it gets nothing of their state. */
static int step_adopt(struct chain_edit *edit, char *rest, struct dt_error *err)
{
    struct chain_spec spec = {0};
    const char *word = next_word(&rest), *text = NULL;
    unsigned at = 0;
    int ret = find_layer(edit, word, &at, err);

    for (unsigned i = 0; ret == 0 && i < edit->spec.layers[at].count; i++)
        if (strcmp(edit->spec.layers[at].settings[i].key, "to") == 0)
            text = edit->spec.layers[at].settings[i].value;
    if (ret == 0 && !text)
        ret = dt_fail(err, -EINVAL, "'%s' has no chain to='...' that could be adopted", word);
    ret = ret ?: no_more(rest, err);
    ret = ret ?: chain_parse(&spec, text, err);
    if (ret == 0 && edit->spec.count + spec.count > CHAIN_MAX_LAYERS)
        ret = dt_fail(err, -E2BIG, "a chain has at most %u layers", CHAIN_MAX_LAYERS);
    if (ret < 0) {
        chain_spec_free(&spec);
        return ret;
    }
    for (unsigned i = 0; i < spec.count; i++) {
        unsigned end = edit->spec.count;
        char name[LAYER_NAME];

        name_layer(edit, &spec.layers[i], name);
        open_gap(edit, end);
        edit->spec.layers[end] = spec.layers[i];
        memcpy(edit->names[end], name, LAYER_NAME);
    }
    for (unsigned gone = edit->spec.count - spec.count - at; gone > 0; gone--) {
        layer_spec_clear(&edit->spec.layers[at]);
        close_gap(edit, at);
    }
    free(spec.layers);
    return 0;
}

int chain_edit_step(struct chain_edit *edit, const char *step, struct dt_error *err)
{
    static const struct {
        const char *name;
        int (*run)(struct chain_edit *edit, char *rest, struct dt_error *err);
    } steps[] = {{"insert", step_insert},
                 {"remove", step_remove},
                 {"move", step_move},
                 {"replace", step_replace},
                 {"adopt", step_adopt}};
    _cleanup_free_ char *text = xstrdup(step);
    struct nearest nearest;
    char *rest = text;
    const char *word = next_word(&rest);
    int ret;

    CHECK(edit->spec.count >= 1);
    nearest = (struct nearest){.wanted = word};
    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        nearest_offer(&nearest, steps[i].name);
        if (strcmp(steps[i].name, word) != 0)
            continue;
        ret = steps[i].run(edit, rest, err);
        if (ret < 0)
            dt_fail_prefix(err, "%.60s", step);
        return ret;
    }
    dt_fail(err, -EINVAL, "'%.40s' is no step: insert, remove, move, replace or adopt", word);
    nearest_hint(&nearest, err);
    return -EINVAL;
}
