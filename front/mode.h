/* SPDX-License-Identifier: MIT */
/* mode.h - the tap's switch (mode.c), as the rest of the front sees it. */
#ifndef FRONT_MODE_H
#define FRONT_MODE_H

#include "core/passthrough.h"
#include "front/served.h"

enum front_mode_state { MODE_INTERPOSE, MODE_ENTERING, MODE_PASSTHROUGH, MODE_LEAVING };

/**
 * struct front_mode - see mode.c. On the front's loop.
 * @front: whose it is.
 * @wanted: a person wants passthrough.
 * @leave_asked: and something else wants the rings here, as soon as that can be.
 * @why: it is not as wanted.
 * @result, @reason: what the back said last.
 */
struct front_mode {
    struct front *front;
    bool wanted, leave_asked;
    enum front_mode_state state;
    char why[512];
    struct dt_layer *back;
    const struct passthrough_ops *ops;
    struct passthrough rings;
    struct loop_message entered, left;
    struct dt_timer again, count;
    int result;
    char reason[512];
    uint64_t passed, changes; /* requests that the rear answered; changes of mode */
    /* Of the last change: when it began, how long requests in flight took to end, and what came then. */
    uint64_t began, drain_ns, switch_ns;
};

/** front_mode_init() - of a front whose class has modes; all others have front.mode NULL, and may call these. */
void front_mode_init(struct front *front);
void front_mode_fini(struct front *front);
/** front_mode_leave() - true: the rings are here. Else they will be, and what was deferred is done then.
 *  @urgent: and the VMM waits, so layers that hold requests are not waited for. */
bool front_mode_leave(struct front *front, bool urgent);
/** front_mode_session() - the session changed something: look again whether passthrough can be. */
void front_mode_session(struct front *front);
void front_mode_paused(struct front *front);
void front_mode_call_changed(void *dev, unsigned q);
void front_mode_show(struct front *front, json_t *show);
int front_set_passthrough(struct lane *lane, bool on, struct dt_error *err);

#endif
