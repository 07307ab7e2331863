/* SPDX-License-Identifier: MIT */
/* describe.h - an extension's declaration, for people and as JSON. */
#ifndef TOOLS_DESCRIBE_H
#define TOOLS_DESCRIBE_H

#include "tools/tools.h"

json_t *describe_json(const struct dt_block_ext *ext);
/** describe_verb_json() - a verb of devtap: its arguments and options. */
json_t *describe_verb_json(const struct verb *verb);
void describe_print(const struct dt_block_ext *ext, FILE *out);
void describe_print_params(const struct dt_param *params, FILE *out);

#endif
