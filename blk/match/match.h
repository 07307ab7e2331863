/* SPDX-License-Identifier: MIT */
/* match.h - which requests a layer is about: by operation, range and chance; and the parameters
 * that say so. */
#ifndef BLK_MATCH_H
#define BLK_MATCH_H

#include "base/base.h"
#include <devtap/block.h>

/**
 * struct match - what a person chose.
 * @ops:         bit per enum dt_op.
 * @start:       first sector; @sectors: how many, 0 = to the end of the disk.
 * @probability: of each request that fits.
 */
struct match {
    uint32_t ops;
    uint64_t start, sectors;
    double probability;
};

#define MATCH_LIVE(at, field) .flags = DT_PARAM_LIVE, .offset = (at) + offsetof(struct match, field)
/**
 * MATCH_PARAMS() - four rows of a table of parameters, all live, from index @first on.
 * @at: offset of the struct match within the layer's data. @ops_help: what befalls these
 * operations.
 */
#define MATCH_PARAMS(first, at, ops_help)                                                    \
    [(first) + 0] = {.name = "ops",                                                          \
                     .type = DT_PARAM_OPS,                                                   \
                     MATCH_LIVE(at, ops),                                                    \
                     .initial = "all",                                                       \
                     .help = ops_help},                                                      \
               [(first) + 1] = {.name = "start",                                             \
                                .type = DT_PARAM_UINT,                                       \
                                MATCH_LIVE(at, start),                                       \
                                .initial = "0",                                              \
                                .unit = "sectors",                                           \
                                .help = "First sector (of 512 bytes) of the range."},        \
               [(first) + 2] = {.name = "sectors",                                           \
                                .type = DT_PARAM_UINT,                                       \
                                MATCH_LIVE(at, sectors),                                     \
                                .initial = "0",                                              \
                                .unit = "sectors",                                           \
                                .help = "Length of the range; 0 = to the end of the disk."}, \
               [(first) + 3] = {.name = "probability",                                       \
                                .type = DT_PARAM_FRACTION,                                   \
                                MATCH_LIVE(at, probability),                                 \
                                .initial = "1",                                              \
                                .help = "Chance of each request that matches."}
#define MATCH_PARAM_COUNT 4

/** match_fits() - by operation and range. A flush has no range: its operation is enough. */
static inline bool match_fits(const struct match *m, const struct dt_req *req)
{
    if (!(m->ops & (1u << req->op)))
        return false;
    return req->op == DT_OP_FLUSH ||
           dt_req_overlaps(req, m->start, m->sectors ? m->sectors : UINT64_MAX);
}

/** match_chance() - and by the dice. */
static inline bool match_chance(const struct match *m, struct dt_rng *rng)
{
    return dt_rng_chance(rng, m->probability);
}

#endif
