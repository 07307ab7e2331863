/* SPDX-License-Identifier: MIT */
/* text.h - what people write and read: chains, parameters, numbers with units, names that were meant. */
#ifndef CORE_TEXT_H
#define CORE_TEXT_H

#include "base/base.h"
#include <devtap/param.h>

/** struct setting - `key=value` as written; both owned. */
struct setting {
    char *key, *value;
};
/** struct layer_spec - one layer of a chain as written. @ordinal: N of "name#N", which is the Nth of
 *  that name for life, wherever it stands; 0 = the first number that is free. */
struct layer_spec {
    char *name;
    unsigned ordinal;
    struct setting *settings;
    unsigned count;
};
/** struct chain_spec - a parsed chain: extensions first, the back last. */
struct chain_spec {
    struct layer_spec *layers;
    unsigned count;
};
#define CHAIN_MAX_LAYERS  16u
#define LAYER_MAX_ORDINAL 999u
#define LAYER_NAME        64u

/**
 * chain_parse() - parse `name key=value ... | name ... | back key=value`.
 * Values may be quoted with "..." or '...'; a backslash escapes the next character outside
 * single quotes. Errors name the position.
 */
int chain_parse(struct chain_spec *spec, const char *text, struct dt_error *err);
void chain_spec_free(struct chain_spec *spec);
void layer_spec_clear(struct layer_spec *layer);
/** layer_spec_equal() - the same name and settings; the ordinal does not matter. */
bool layer_spec_equal(const struct layer_spec *a, const struct layer_spec *b);
void chain_spec_copy(struct chain_spec *to, const struct chain_spec *from);
/** chain_format() - as a person would write it, such that chain_parse() gives the same; owned. */
char *chain_format(const struct chain_spec *spec);

/**
 * struct chain_edit - a chain that is being changed. @names: what its layers are called in front of people;
 * ends with those that were there before and what new ones will probably be called.
 */
struct chain_edit {
    struct chain_spec spec;
    char names[CHAIN_MAX_LAYERS][LAYER_NAME];
};
/**
 * chain_edit_step() - apply one step, in words:
 *     insert POSITION EXTENSION [key=value...]
 *     remove LAYER
 *     move LAYER POSITION
 *     replace LAYER EXTENSION [key=value...]
 *     adopt LAYER: in the place of LAYER and all below it, the chain that it names with to='...'
 * POSITION: a number from 1, nearest the guest; `top`; `bottom`, right above the back; `above:LAYER` or
 * `below:LAYER`. A failed step may leave @edit half changed.
 */
int chain_edit_step(struct chain_edit *edit, const char *step, struct dt_error *err);

/** param_apply() - parse @value for @p into the layer's data at @base. A string replaces (and
 *  frees) the one before. */
int param_apply(const struct dt_param *p, void *base, const char *value, struct dt_error *err);
/** struct param_old - a field's former value while a live change is being judged. */
struct param_old {
    _Alignas(8) unsigned char bytes[8];
};
/** param_change() - as param_apply(), but what was there before can come back, exactly: if it
 *  returned 0, end with param_change_end(), to @keep the new value or to restore the old one. */
int param_change(const struct dt_param *p, void *base, const char *value, struct param_old *old,
                 struct dt_error *err);
void param_change_end(const struct dt_param *p, void *base, struct param_old *old, bool keep);
/** param_apply_all() - defaults, then the settings; unknown, repeated and missing ones refused,
 *  with the nearest known name suggested. Errors do not name the layer: the caller knows its name
 *  in the chain. */
int param_apply_all(const struct dt_param *params, void *base, const struct layer_spec *spec,
                    struct dt_error *err);
void param_free_all(const struct dt_param *params, void *base);
/** param_format() - the present value as a person would write it; owned by the caller. */
char *param_format(const struct dt_param *p, const void *base);
const char *param_type_name(const struct dt_param *p);
int param_find(const struct dt_param *params, const char *name);
/** param_size() - bytes of the field of this type; 0 for an unknown type. */
size_t param_size(const struct dt_param *p);

/* Numbers with units, for tools too: -EINVAL for what is none, -ERANGE for what is too large. */
int parse_uint(const char *text, uint64_t *value);   /* 20k = 20000 */
int parse_size(const char *text, uint64_t *bytes);   /* 64K = 65536 */
int parse_duration(const char *text, uint64_t *ns);  /* 5ms */
int parse_fraction(const char *text, double *value); /* 1% = 0.01 = 1e-2 */
int parse_bool(const char *text, bool *value);
/** parse_socket_group() - a group's name or number. parse_socket_mode() - octal. Who may use a socket that is made. */
int parse_socket_group(const char *text, long *group, struct dt_error *err);
int parse_socket_mode(const char *text, unsigned *mode, struct dt_error *err);
/* The reverse, exact, owned by the caller: "20k", "64K", "5ms". */
char *format_count(uint64_t n);
char *format_size(uint64_t bytes);
char *format_duration(uint64_t ns);

/**
 * struct nearest - finds the known name that a person probably meant. Set @wanted, zero the rest,
 * offer what is known, and let nearest_hint() add "; did you mean 'X'?" to an error.
 */
struct nearest {
    const char *wanted, *best;
    unsigned distance;
};
void nearest_offer(struct nearest *nearest, const char *name);
void nearest_hint(const struct nearest *nearest, struct dt_error *err);
/** word_list_add() - append ", word" to a list in a buffer of @size bytes; cut where it is full. */
void word_list_add(char *list, size_t size, const char *word);

#endif
