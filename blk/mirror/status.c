/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a range holds: what all legs in sync say, since any of them may be read, and each is free to do with
 * a discard what it likes. A leg that is lost while this asks has all that was acknowledged before.
 */
#include "blk/mirror/internal.h"

struct look {
    const struct mirror *m;
    unsigned n;
    struct device *devs[MIRROR_LEGS];
};

static void look(void *arg)
{
    struct look *l = arg;

    for (unsigned i = 0; l->m->running && i < l->m->count; i++)
        if (l->m->legs[i].state == LEG_IN_SYNC)
            l->devs[l->n++] = l->m->legs[i].dev;
}

void mirror_status(struct dt_layer *layer, struct dt_extent *extent)
{
    struct look l = {.m = dt_layer_data(layer)};
    struct dt_extent answer;

    dt_layer_exclusive(layer, look, &l);
    for (unsigned i = 0; i < l.n; i++) {
        answer = *extent;
        device_status(l.devs[i], &answer);
        extent->sectors = answer.sectors;
        extent->status = i ? MIN(extent->status, answer.status) : answer.status;
    }
}
