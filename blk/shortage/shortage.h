/* SPDX-License-Identifier: MIT */
/*
 * shortage.h - what a layer that writes files does when there is no space left: guests take an I/O error
 * for a broken disk and go read-only, so writes wait, an event tells, and once a second all of them
 * are tried again.
 *
 * The layer keeps the list of what it holds; this keeps the time, the events and the policy.
 */
#ifndef BLK_SHORTAGE_H
#define BLK_SHORTAGE_H

#include "base/patience.h"
#include <devtap/block.h>

/** enum shortage_policy - the parameter on-full=; its names are shortage_policies. */
enum shortage_policy { SHORTAGE_HOLD, SHORTAGE_FAIL };
extern const char *const shortage_policies[];

/* The parameter; @at: where the layer has it. */
#define SHORTAGE_PARAM(at)                                                                   \
    {                                                                                        \
        .name = "on-full", .type = DT_PARAM_ENUM, .flags = DT_PARAM_LIVE, .offset = at,      \
        .initial = "hold", .choices = shortage_policies,                                     \
        .help = "When there is no space left: hold writes until there is, or let them fail." \
    }

/**
 * struct shortage - of a layer: zero, then by its open().
 * @path:    the file, for the events.
 * @policy:  enum shortage_policy, where the parameter is.
 * @threads: private; how many are short of space.
 */
struct shortage {
    struct dt_layer *layer;
    const char *path;
    const unsigned *policy;
    unsigned threads;
};

/**
 * struct shortage_ctx - of a layer on one thread. A thread is @full from the first write that it holds until
 * a look finds none held: then all that were tried again have gone through.
 * @again: begin all that is held once more or, with an error, end it with that. What comes of it comes
 *         later, or is held anew. Return: false if nothing was held.
 */
struct shortage_ctx {
    struct shortage *of;
    struct dt_ctx *c;
    bool (*again)(struct shortage_ctx *s, int error);
    struct dt_timer retry;
    struct patience patience;
    bool full;
};

/** shortage_is() - is it @error that says so? */
static inline bool shortage_is(int error)
{
    return error == -ENOSPC || error == -EDQUOT;
}
/** shortage_start(), shortage_stop() - with the layer's thread. */
void shortage_start(struct shortage_ctx *s, struct dt_ctx *c, struct shortage *of,
                    bool (*again)(struct shortage_ctx *s, int error));
void shortage_stop(struct shortage_ctx *s);
/** shortage_holds() - may a write that found no space be held? Then the caller puts it on its list. */
bool shortage_holds(struct shortage_ctx *s);
/**
 * shortage_error() - what a write that found no space ends with if it is not held.
 * @error: what the file system said.
 * Return: @error where the policy is to fail; else -ECANCELED: a stop cannot wait, and the write was
 * not served (patience.h).
 */
int shortage_error(const struct shortage_ctx *s, int error);
/** shortage_look() - look at once: the policy has changed. From any thread while all stand still. */
void shortage_look(struct shortage_ctx *s);
/** shortage_quiesce() - from the layer's quiesce(). */
void shortage_quiesce(struct shortage_ctx *s, uint64_t deadline);

/** shortage_layer_quiesce(), shortage_layer_set() - quiesce() and set() of a layer that does
 * nothing else there and whose data of a thread begin with the struct shortage_ctx. */
void shortage_layer_quiesce(struct dt_ctx *c, uint64_t deadline);
int shortage_layer_set(struct dt_layer *layer, unsigned index, struct dt_error *err);

#endif
