/* SPDX-License-Identifier: MIT */
/*
 * leg.c - legs, and asking several of them one thing.
 *
 * A leg is a branch: a whole device with a chain of its own, on the same loop; the mirror is its front.
 */
#include "blk/mirror/internal.h"

#include "blk/branch/branch.h"

/* ---- The device ------------------------------------------------------------------------------ */

int leg_open(struct leg *leg, struct dt_error *err)
{
    struct mirror *m = leg->m;
    int ret = branch_open(&leg->dev, m->layer, m->specs[leg->index], err);

    if (ret < 0) {
        dt_fail_prefix(err, "leg%u", leg->index + 1);
        return ret;
    }
    leg->state = LEG_STALE;
    leg->block = xaligned(META_BLOCK, META_BLOCK);
    return 0;
}

/* ---- Fans ------------------------------------------------------------------------------------ */

void fan_begin(struct fan *fan, struct mirror *m, bool own, void (*done)(struct fan *fan))
{
    fan->m = m;
    fan->own = own;
    fan->done = done;
    fan->left = 1; /* until fan_end(): legs may answer at once */
    fan->ok = fan->failed = 0;
    fan->error = 0;
    if (own)
        ctx_busy(m->c, 1);
}

void fan_end(struct fan *fan)
{
    struct dt_ctx *c = fan->m->c;
    bool own = fan->own;

    if (--fan->left)
        return;
    fan->done(fan);
    if (own)
        ctx_busy(c, -1);
}

void fan_send(struct fan *fan, struct leg *leg, enum dt_op op, uint8_t flags, uint64_t sector,
              uint32_t sectors, const struct iovec *iov, unsigned n)
{
    struct leg_req *lr = &fan->lr[leg->index];
    struct request *r = &lr->req;

    lr->fan = fan;
    lr->leg = leg;
    lr->sent = dt_now(fan->m->c);
    r->pub =
        (struct dt_req){.op = (uint8_t)op, .flags = flags, .sector = sector, .sectors = sectors};
    r->iov = (struct iovec *)iov; /* core changes where it points, not what is there */
    r->niov = n;
    fan->left++;
    leg->in_flight++;
    lane_submit(leg->lane, &r, 1);
}

void fan_send_bytes(struct fan *fan, struct leg *leg, enum dt_op op, uint8_t flags, uint64_t sector,
                    void *bytes, size_t n)
{
    struct iovec *iov = &fan->lr[leg->index].iov;

    *iov = (struct iovec){bytes, n};
    fan_send(fan, leg, op, flags, sector, (uint32_t)(n >> DT_SECTOR_SHIFT), iov, 1);
}

static void leg_answered(struct leg_req *lr)
{
    struct leg *leg = lr->leg;
    struct fan *fan = lr->fan;
    const struct dt_req *req = &lr->req.pub;

    leg->in_flight--;
    if (req->op == DT_OP_READ) {
        uint64_t took = dt_clock_ns() - lr->sent;

        leg->reads++;
        leg->latency = leg->latency ? (leg->latency * 7 + took) / 8 : took;
    } else {
        leg->writes++;
    }
    if (req->error == 0) {
        fan->ok |= 1u << leg->index;
    } else {
        fan->failed |= 1u << leg->index;
        fan->error = fan->error ?: req->error;
    }
    fan_end(fan);
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        leg_answered(container_of(reqs[i], struct leg_req, req));
}

static void on_wake(struct lane *lane)
{
    struct leg *leg = lane_front(lane);

    if (leg)
        dt_wake(leg->m->c);
}

static void on_info_changed(void *front)
{
    struct leg *leg = front;

    dt_layer_event(leg->m->layer, "leg-changed",
                   "leg%u has changed its size: the mirror keeps the one it has", leg->index + 1);
}

int leg_start(struct leg *leg, struct dt_error *err)
{
    static const struct front_ops ops = {on_complete, on_wake, on_info_changed};
    int ret;

    leg->lane = branch_start(leg->dev, &ops, leg, &ret, err);
    return ret;
}

/* ---- Who is there ---------------------------------------------------------------------------- */

unsigned legs_in(const struct mirror *m, enum leg_state least)
{
    unsigned n = 0;

    for (unsigned i = 0; i < m->count; i++)
        n += m->legs[i].state >= least;
    return n;
}

struct leg *leg_primary(struct mirror *m)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->legs[i].state == LEG_IN_SYNC)
            return &m->legs[i];
    return NULL;
}

bool leg_lost(struct leg *leg, const char *why)
{
    struct mirror *m = leg->m;

    if (!leg_active(leg))
        return true;
    if (leg->state == LEG_IN_SYNC) {
        if (legs_in(m, LEG_IN_SYNC) == 1)
            return false;
        m->changed = true;
        leg->full = false; /* the bitmap knows all that it misses from now on */
    }
    leg->state = LEG_STALE;
    dt_count(m->c, LEGS_LOST, 1);
    dt_layer_event(m->layer, "leg-lost", "leg%u: %s; %u of %u legs are in sync", leg->index + 1,
                   why, legs_in(m, LEG_IN_SYNC), m->count);
    if (legs_in(m, LEG_SYNCING) == 1)
        resync_forget(m);
    if (m->changed)
        mirror_record(m);
    return true;
}
