/* SPDX-License-Identifier: MIT */
/*
 * devtap/param.h - parameters declared once: their parsing, checks, errors, help, man-page
 * tables, JSON and live changes all come from the declaration.
 */
#ifndef DEVTAP_PARAM_H
#define DEVTAP_PARAM_H

#include <devtap/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** enum dt_param_type - the C type at @offset, and what a person writes. */
enum dt_param_type {
    DT_PARAM_STRING,   /* const char *: any text; NULL when not given and without default */
    DT_PARAM_PATH,     /* const char *: made absolute */
    DT_PARAM_BOOL,     /* bool: on|off, true|false, yes|no, 1|0 */
    DT_PARAM_UINT,     /* uint64_t: 5000, 20k (thousands), 3M, 1G */
    DT_PARAM_SIZE,     /* uint64_t bytes: 4096, 64K (1024s), 1M, 10G, 1T */
    DT_PARAM_DURATION, /* uint64_t ns: 10us, 5ms, 1s; a bare number is refused */
    DT_PARAM_FRACTION, /* double 0..1: 0.01 or 1% */
    DT_PARAM_ENUM,     /* unsigned: index into @choices */
    DT_PARAM_OPS,      /* uint32_t: bit per enum dt_op: read,write,flush,discard,write-zeroes,all */
};

enum dt_param_flags {
    DT_PARAM_REQUIRED = 1,
    DT_PARAM_LIVE = 2,   /* may be changed while the device runs: devtap set */
    DT_PARAM_SECRET = 4, /* never printed back */
};

/**
 * struct dt_param - one parameter.
 * @name:    as written before '='.
 * @type:    enum dt_param_type.
 * @flags:   enum dt_param_flags.
 * @offset:  offsetof(struct of the layer's data, field).
 * @initial: the default as a person would write it, or NULL.
 * @unit:    for the help: "requests/s"; NULL where the type says it.
 * @help:    one sentence.
 * @min, @max: inclusive bounds for numbers (in the field's unit); both 0 = any.
 * @choices: NULL-terminated, for DT_PARAM_ENUM.
 */
struct dt_param {
    const char *name;
    uint8_t type;
    uint8_t flags;
    size_t offset;
    const char *initial;
    const char *unit;
    const char *help;
    uint64_t min, max;
    const char *const *choices;
};

/** dt_parse_size() - what DT_PARAM_SIZE takes, for the arguments of verbs: "64K", "10G".
 *  -EINVAL for what is none, -ERANGE for what is too large. */
DT_PUBLIC int dt_parse_size(const char *text, uint64_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
