/* SPDX-License-Identifier: MIT */
/*
 * request.c - the guest's requests.
 *
 * A write goes to all active legs, from one private copy, and is answered when all have answered
 * and whatever that changed is recorded. It waits before that for a region that is being copied,
 * and for its bits. Of two writes that overlap the second waits for the first: each leg is free to choose the order, and
 * they could choose differently. A read goes to the leg in sync that is expected to answer first: the one with
 * the least latency times what it has to do already. Where copies may differ it goes to the
 * primary.
 */
#include "blk/mirror/internal.h"

static struct mirror_wait *wait_of(struct dt_ctx *c, struct dt_req *req)
{
    return dt_frame(c, req);
}

static void regions_of(const struct mirror *m, const struct dt_req *req, uint64_t *first,
                       uint64_t *last)
{
    *first = req->sector >> m->sb.region_shift;
    *last = (req->sector + req->sectors - (req->sectors ? 1 : 0)) >> m->sb.region_shift;
}

/* ---- The end --------------------------------------------------------------------------------- */

static void finish(struct fan *fan, int error)
{
    struct mirror *m = fan->m;
    struct dt_req *req = fan->req;

    if (fan->locked)
        dt_range_unlock(m->c, &fan->range);
    fan->next = m->fan_free;
    m->fan_free = fan;
    dt_complete_one(m->c, req, error);
    if (m->waits.head)
        mirror_run_waiting(m);
}

/* Who is in sync must be recorded before anything is acknowledged that not all of them have. */
static void acknowledge(struct fan *fan)
{
    struct mirror *m = fan->m;

    if (!m->changed && !m->recording) {
        finish(fan, 0);
        return;
    }
    fan_list_add(&m->acks, fan);
    mirror_record(m);
}

void mirror_acknowledge(struct mirror *m, int error)
{
    struct fan *fan = m->acks.head;

    fan_list_init(&m->acks);
    while (fan) {
        struct fan *next = fan->next;

        finish(fan, error);
        fan = next;
    }
}

static bool any_in_sync(const struct mirror *m, uint32_t legs)
{
    for (unsigned i = 0; i < m->count; i++)
        if ((legs >> i & 1) && m->legs[i].state == LEG_IN_SYNC)
            return true;
    return false;
}

/* A leg that failed where another did not is lost. Where none did it, none is to blame. */
static bool blame(struct fan *fan, const char *why)
{
    struct mirror *m = fan->m;
    uint32_t failed = fan->failed;

    if (!failed)
        return true;
    if (!any_in_sync(m, fan->ok))
        return false;
    for (unsigned i = 0; i < m->count; i++)
        if (failed >> i & 1)
            leg_lost(&m->legs[i], why);
    return true;
}

/* ---- Writes and flushes ---------------------------------------------------------------------- */

static void write_done(struct fan *fan)
{
    struct mirror *m = fan->m;
    uint64_t first, last;
    bool good = blame(fan, "a write failed");

    regions_of(m, fan->req, &first, &last);
    for (uint64_t r = first; r <= last; r++) {
        m->busy[r]--;
        if (!good && !(m->flags[r] & REGION_NEEDS) && legs_in(m, LEG_SYNCING) > 1) {
            m->flags[r] |= REGION_NEEDS; /* some may have a part of it */
            m->needs++;
        }
    }
    if (m->needs)
        resync_kick(m);
    if (good)
        acknowledge(fan);
    else
        finish(fan, fan->error);
}

static void flush_done(struct fan *fan)
{
    if (blame(fan, "a flush failed"))
        acknowledge(fan);
    else
        finish(fan, fan->error);
}

static void send_to_all(struct fan *fan, void (*done)(struct fan *fan))
{
    struct mirror *m = fan->m;
    const struct dt_req *req = fan->req;
    const struct iovec *iov = NULL;
    unsigned n = dt_req_has_data(req) ? dt_req_map(m->c, fan->req, &iov) : 0;

    fan_begin(fan, m, false, done);
    for (unsigned i = 0; i < m->count; i++)
        if (leg_active(&m->legs[i]))
            fan_send(fan, &m->legs[i], (enum dt_op)req->op,
                     req->flags & (DT_REQ_REPLAYED | DT_REQ_UNMAP | DT_REQ_FUA), req->sector,
                     req->sectors, iov, n);
    fan_end(fan);
}

static void write_begin(struct fan *fan)
{
    struct mirror *m = fan->m;
    uint64_t first, last;

    regions_of(m, fan->req, &first, &last);
    if (m->copying >= first && m->copying <= last) {
        dt_count(m->c, WAITED, 1);
        fan_list_add(&m->blocked, fan);
        resync_hurry(m);
        return;
    }
    if (!intent_ready(m, first, last)) {
        fan_list_add(&m->intents, fan);
        intent_kick(m);
        return;
    }
    for (uint64_t r = first; r <= last; r++)
        m->busy[r]++;
    send_to_all(fan, write_done);
}

void mirror_run_list(struct mirror *m, struct fan_list *list)
{
    struct fan *fan = list->head;

    fan_list_init(list); /* what must wait again joins a fresh one */
    while (fan) {
        struct fan *next = fan->next;

        write_begin(fan);
        fan = next;
    }
}

void mirror_run_intents(struct mirror *m, int error)
{
    struct fan *fan = m->intents.head;

    if (!error) {
        mirror_run_list(m, &m->intents);
        return;
    }
    fan_list_init(&m->intents);
    while (fan) {
        struct fan *next = fan->next;

        finish(fan, error);
        fan = next;
    }
}

/* ---- Reads ----------------------------------------------------------------------------------- */

static bool may_differ(const struct mirror *m, const struct dt_req *req)
{
    uint64_t first, last;

    if (!m->needs)
        return false;
    regions_of(m, req, &first, &last);
    for (uint64_t r = first; r <= last; r++)
        if (m->flags[r] & REGION_NEEDS)
            return true;
    return false;
}

static struct leg *choose(struct mirror *m, const struct dt_req *req, uint32_t tried)
{
    struct leg *best = NULL;

    if (may_differ(m, req)) {
        best = leg_primary(m);
        return best && !(tried >> best->index & 1) ? best : NULL;
    }
    for (unsigned i = 0; i < m->count; i++) {
        struct leg *leg = &m->legs[i];

        if (leg->state != LEG_IN_SYNC || (tried >> i & 1))
            continue;
        if (!best || leg->latency * (leg->in_flight + 1) < best->latency * (best->in_flight + 1))
            best = leg;
    }
    return best;
}

static void read_begin(struct fan *fan, uint32_t tried);

static void read_done(struct fan *fan)
{
    struct mirror *m = fan->m;
    uint32_t tried = fan->tried | fan->failed;

    if (!fan->failed) {
        finish(fan, 0);
        return;
    }
    if (choose(m, fan->req, tried)) {
        dt_count(m->c, READ_RETRIES, 1);
        for (unsigned i = 0; i < m->count; i++)
            if (fan->failed >> i & 1)
                leg_lost(&m->legs[i], "a read failed");
    }
    read_begin(fan, tried);
}

static void read_begin(struct fan *fan, uint32_t tried)
{
    struct mirror *m = fan->m;
    struct leg *leg = choose(m, fan->req, tried);
    const struct iovec *iov;
    unsigned n;

    if (!leg) {
        finish(fan, fan->error ?: -EIO);
        return;
    }
    n = dt_req_map(m->c, fan->req, &iov);
    fan_begin(fan, m, false, read_done);
    fan->tried = tried;
    fan_send(fan, leg, DT_OP_READ, fan->req->flags & DT_REQ_REPLAYED, fan->req->sector,
             fan->req->sectors, iov, n);
    fan_end(fan);
}

/* ---- The beginning --------------------------------------------------------------------------- */

static void granted(struct dt_ctx *c, struct dt_range *range)
{
    write_begin(container_of(range, struct fan, range));
}

static void request_begin(struct mirror *m, struct dt_req *req)
{
    struct fan *fan = m->fan_free;

    m->fan_free = fan->next;
    fan->m = m;
    fan->req = req;
    fan->error = 0;
    fan->locked = req->op != DT_OP_READ && req->op != DT_OP_FLUSH;
    fan->range.granted = granted;
    if (req->op == DT_OP_READ)
        read_begin(fan, 0);
    else if (req->op == DT_OP_FLUSH)
        send_to_all(fan, flush_done);
    else if (dt_range_lock(m->c, &fan->range, req->sector, req->sectors))
        write_begin(fan);
}

static void wait_add(struct mirror *m, struct mirror_wait *w, struct dt_req *req)
{
    *w = (struct mirror_wait){.req = req};
    mirror_waits_add(&m->waits, w);
}

static struct dt_req *wait_take(struct mirror *m)
{
    struct mirror_wait *w = mirror_waits_take(&m->waits);

    return w ? w->req : NULL;
}

void mirror_run_waiting(struct mirror *m)
{
    struct dt_req *req;

    while (m->running && m->fan_free && (req = wait_take(m)) != NULL)
        request_begin(m, req);
}

void mirror_let_go(struct mirror *m)
{
    struct dt_req *req;

    while ((req = wait_take(m)) != NULL)
        dt_complete_one(m->c, req, -ECANCELED);
}

static void rest_over(struct mirror *m)
{
    m->patience = (struct patience){0};
    resync_kick(m);
}

void mirror_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct mirror *m = c->layer_data;

    if (unlikely(rest_ended_by(&m->rest, c, reqs[0])))
        rest_over(m);
    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        bool none = (req->op == DT_OP_DISCARD && !m->info.can_discard) ||
                    (req->op == DT_OP_WRITE_ZEROES && !m->info.can_write_zeroes);

        if (none)
            dt_complete_one(c, req, -EOPNOTSUPP);
        else if (req->op != DT_OP_FLUSH && !req->sectors)
            dt_complete_one(c, req, 0);
        else if (!m->running || m->waits.head || !m->fan_free)
            wait_add(m, wait_of(c, req), req);
        else
            request_begin(m, req);
    }
}

int mirror_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct mirror *m = c->layer_data;

    if (!mirror_waits_remove(&m->waits, wait_of(c, req)))
        return -EBUSY; /* the legs have it */
    dt_complete_one(c, req, -ECANCELED);
    return 0;
}
