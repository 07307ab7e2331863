/* SPDX-License-Identifier: MIT */
/*
 * match.h - which requests a layer is about: by operation, range, count and chance; and the parameters that say so.
 *
 * A request is judged in this order: operation and range; the first `after` of these pass; `times` must not be
 * used up; then the dice. Counts and dice are a sequence of one thread: the same seed and the same
 * requests in the same order are hit again, also over a restart.
 */
#ifndef BLK_MATCH_H
#define BLK_MATCH_H

#include "base/base.h"
#include <devtap/block.h>

/**
 * struct match - what a person chose.
 * @ops:         bit per enum dt_op.
 * @start:       first sector; @sectors: how many, 0 = to the end of the disk.
 * @probability: of each request that fits.
 * @after:       so many that fit pass first. @times: the end after so many hits; 0 = never.
 */
struct match {
    uint32_t ops;
    uint64_t start, sectors;
    double probability;
    uint64_t after, times;
};

/** struct match_sequence - how far one thread has come. A cache line, where there is one for each thread. */
struct match_sequence {
    struct dt_rng rng; /* the layer may draw from it for what it does to a hit */
    uint64_t matched, hits;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct match_sequence) == CACHE_LINE, "a cache line each");

/** match_restart() - @n sequences begin again, each from a seed of its own. */
void match_restart(struct match_sequence *s, unsigned n, uint64_t seed);
/** match_save() - dt_block_ext.save for a layer whose state they are. */
int64_t match_save(const struct match_sequence *s, unsigned n, uint64_t seed, void *buf,
                   size_t size);
/** match_load() - go on where match_save() was, unless seed or number are others: then they begin again. @version:
 *  must be MATCH_STATE. */
int match_load(struct match_sequence *s, unsigned n, uint64_t seed, const void *buf, size_t size,
               uint32_t version, struct dt_error *err);
#define MATCH_STATE 2u

#define MATCH_LIVE(at, field) .flags = DT_PARAM_LIVE, .offset = (at) + offsetof(struct match, field)
/**
 * MATCH_PARAMS() - six rows of a table of parameters, all live, from index @first on.
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
                                .help = "Chance of each request that matches."},             \
               [(first) + 4] = {.name = "after",                                             \
                                .type = DT_PARAM_UINT,                                       \
                                MATCH_LIVE(at, after),                                       \
                                .initial = "0",                                              \
                                .unit = "requests",                                          \
                                .help = "Let so many requests that match pass first."},      \
               [(first) + 5] = {.name = "times",                                             \
                                .type = DT_PARAM_UINT,                                       \
                                MATCH_LIVE(at, times),                                       \
                                .initial = "0",                                              \
                                .unit = "requests",                                          \
                                .help = "Stop after so many; 0 = never."}
#define MATCH_AFTER(first) ((first) + 4)
#define MATCH_TIMES(first) ((first) + 5)
#define MATCH_PARAM_COUNT  6

/** match_fits() - by operation and range. A flush has no range: its operation is enough. */
static inline bool match_fits(const struct match *m, const struct dt_req *req)
{
    if (!(m->ops & (1u << req->op)))
        return false;
    return req->op == DT_OP_FLUSH ||
           dt_req_overlaps(req, m->start, m->sectors ? m->sectors : UINT64_MAX);
}

/** match_hits() - and by count and dice: @req fits. */
static inline bool match_hits(const struct match *m, struct match_sequence *s)
{
    if (s->matched++ < m->after || (m->times && s->hits >= m->times) ||
        !dt_rng_chance(&s->rng, m->probability))
        return false;
    s->hits++;
    return true;
}

#endif
