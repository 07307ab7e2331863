/* SPDX-License-Identifier: MIT */
/*
 * link-transfer.c - the keeper's end, handed from one keeper to the next while no worker serves.
 *
 * The link is not part of it: the worker was let go before, and the next one is linked with whoever
 * goes on.
 */
#include "vhost/link-internal.h"
#include "vhost/transfer.h"

#include <inttypes.h>

/* ---- Leaving ---- */

int vhost_proxy_send(struct vhost_proxy *p, int sock, struct dt_error *err)
{
    struct transfer *t;
    int ret;

    CHECK_MAGIC(p, PROXY_MAGIC);
    if (p->sock >= 0)
        return dt_fail(err, -EBUSY, "a worker still serves");
    if (p->session && (ret = vhost_backend_freeze(p->session, err)) < 0)
        return ret;
    t = transfer_new();
    t->state.magic = TRANSFER_MAGIC;
    t->state.version = TRANSFER_VERSION;
    t->state.size = sizeof(t->state);
    t->state.have_floor = p->have_floor;
    t->state.floor = p->floor;
    t->state.lost_at = p->lost_at;
    t->state.attached = p->session != NULL;
    if (p->session)
        vhost_backend_export(p->session, t);
    ret = transfer_send(sock, t, err);
    transfer_free(t, false);
    if (ret < 0)
        vhost_proxy_thaw(p);
    return ret;
}

void vhost_proxy_thaw(struct vhost_proxy *p)
{
    CHECK_MAGIC(p, PROXY_MAGIC);
    if (p->session)
        vhost_backend_thaw(p->session);
}

/* ---- Coming ---- */

static int adopt_floor(struct vhost_proxy *p, const struct link_floor *floor, struct dt_error *err)
{
    if (floor->queues < 1 || floor->queues > VHOST_MAX_QUEUES)
        return dt_fail(err, -EINVAL, "the guest was promised %u queues", floor->queues);
    p->floor = *floor;
    p->have_floor = true;
    p->nqueues = floor->queues;
    return 0;
}

static int adopt_session(struct vhost_proxy *p, struct transfer *t, struct dt_error *err)
{
    const struct vhost_backend_config config = vproxy_backend_config(p);
    int ret = vhost_backend_adopt(&p->session, &config, t, err);
    const struct vhost_state *state;

    if (ret < 0)
        return ret;
    state = vhost_backend_state(p->session);
    for (unsigned q = 0; q < p->nqueues; q++)
        p->queues[q] = (struct proxy_queue){.started = state->queues[q].started};
    return 0;
}

int vhost_proxy_adopt(struct vhost_proxy *p, struct transfer *t, struct dt_error *err)
{
    uint64_t now = dt_clock_ns();
    int ret = 0;

    CHECK_MAGIC(p, PROXY_MAGIC);
    CHECK(!p->have_floor && !p->session);
    if (t->state.have_floor)
        ret = adopt_floor(p, &t->state.floor, err);
    if (ret == 0 && t->state.attached && !p->have_floor)
        ret = dt_fail(err, -EINVAL, "a VM is attached to a disk of which nothing is known");
    if (ret == 0 && t->state.attached)
        ret = adopt_session(p, t, err);
    p->lost_at = MIN(t->state.lost_at, now);
    return ret;
}
