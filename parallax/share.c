/* SPDX-License-Identifier: MIT */
/*
 * share.c - disks get their share of the pool by weight, and an account of what they got.
 *
 * Theory of operation: as long as one disk alone has requests, they begin at once. When several
 * have, at most SHARE_DEPTH requests are under way, and who begins the next is decided by deficit
 * round robin [Shreedhar and Varghese, 1995]: each disk that has something waiting may spend, in
 * each round, bytes in proportion to its weight, where a request costs its bytes and a fixed
 * price for being a request (so the thesis's fair and accounted access, 3.4.2, counts both). A
 * round ends when nobody can afford its next request; a disk that has nothing waiting keeps
 * nothing. So nothing is reserved for anybody: what one leaves, others use.
 *
 * A request that waits for space or for its disk's quota is not under way in this sense: it would keep
 * others from what they need neither for. Flushes begin at once: one serves all disks.
 */
#include "parallax/io.h"

#define SHARE_DEPTH  32u
#define REQUEST_COST 16384u
#define ROUND_COST   1024u /* what a weight of 1 may spend in a round */

static unsigned weight_of(const struct disk *disk)
{
    return disk->weight ?: disk->record->weight ?: DISK_WEIGHT;
}

static uint64_t cost_of(const struct disk_req *req)
{
    bool data = req->op == DISK_READ || req->op == DISK_WRITE;

    return REQUEST_COST + (data ? req->length : 0);
}

/* ---- Rounds ---- */

static void leave(struct disk *disk)
{
    list_del(&disk->waiting);
    list_init(&disk->waiting);
    disk->deficit = 0;
    disk->pool->share.disks--;
}

/* As many rounds at once as it takes for one of them to afford something. */
static void next_round(struct share *s)
{
    uint64_t rounds = UINT64_MAX;

    list_for_each (it, &s->waiting) {
        const struct disk *d = list_entry(it, struct disk, waiting);
        uint64_t each = (uint64_t)weight_of(d) * ROUND_COST;
        uint64_t lacks = cost_of(d->queue.head) - MIN(d->deficit, cost_of(d->queue.head));

        rounds = MIN(rounds, (lacks + each - 1) / each);
    }
    list_for_each (it, &s->waiting) {
        struct disk *d = list_entry(it, struct disk, waiting);

        d->deficit += MAX(rounds, (uint64_t)1) * weight_of(d) * ROUND_COST;
    }
}

static struct disk *choose(struct share *s)
{
    for (unsigned looked = 0;;) {
        struct disk *d = list_entry(s->waiting.next, struct disk, waiting);

        if (d->deficit >= cost_of(d->queue.head))
            return d;
        list_del(&d->waiting);
        list_add_tail(&s->waiting, &d->waiting);
        if (++looked == s->disks) {
            next_round(s);
            looked = 0;
        }
    }
}

static bool may_begin(const struct share *s)
{
    return s->under_way < SHARE_DEPTH || s->busy <= 1;
}

bool share_admit(struct disk *disk, struct disk_req *req)
{
    struct share *s = &disk->pool->share;

    bool alone = s->busy == 0 || (s->busy == 1 && disk->in_flight);

    if (likely(!disk->queue.head && (alone || s->under_way < SHARE_DEPTH)) || req->op == DISK_FLUSH)
        return true;
    if (!disk->queue.head) {
        list_add_tail(&s->waiting, &disk->waiting);
        disk->deficit = (uint64_t)weight_of(disk) * ROUND_COST;
        s->disks++;
        s->busy += !disk->in_flight;
    }
    disk_queue_add(&disk->queue, req);
    disk->queued++;
    disk->account.waited++;
    return false;
}

/* What begins may end at once, which ends here again: so not from within. */
void share_next(struct pool *pool)
{
    struct share *s = &pool->share;

    if (likely(s->disks == 0) || s->choosing)
        return;
    s->choosing = true;
    while (s->disks && may_begin(s)) {
        struct disk *disk = choose(s);
        struct disk_req *req = disk_queue_take(&disk->queue);

        disk->deficit -= cost_of(req);
        disk->queued--;
        s->busy -= !disk->queue.head && !disk->in_flight; /* it is counted again as it begins */
        if (!disk->queue.head)
            leave(disk);
        op_begin(disk, req);
    }
    s->choosing = false;
}

/* ---- Accounts ---- */

void share_begun(struct op *op)
{
    struct disk *disk = op->disk;

    op->under_way = op->req->op != DISK_FLUSH;
    disk->pool->share.under_way += op->under_way;
    if (disk->in_flight++ == 0) {
        disk->pool->share.busy += !disk->queue.head;
        disk->busy_since = dt_clock_ns();
    }
}

void share_ended(struct op *op)
{
    struct disk *disk = op->disk;

    share_stalled(op);
    disk->account.requests++;
    if (op->req->op == DISK_READ || op->req->op == DISK_WRITE)
        disk->account.bytes += op->req->length;
    if (--disk->in_flight == 0) {
        disk->pool->share.busy -= !disk->queue.head;
        disk->account.busy_ns += dt_clock_ns() - disk->busy_since;
    }
}

void share_stalled(struct op *op)
{
    op->disk->pool->share.under_way -= op->under_way;
    op->under_way = false;
}

void disk_set_weight(struct disk *disk, unsigned weight)
{
    disk->weight = MIN(weight, DISK_MAX_WEIGHT);
}

void pool_accounts(struct pool *pool, void (*each)(void *arg, const struct disk_account *a),
                   void *arg)
{
    list_for_each (it, &pool->disks) {
        const struct disk *d = list_entry(it, struct disk, list);
        struct disk_account a = d->account;

        a.slot = d->slot;
        a.owner = d->owner;
        a.read_only = d->read_only;
        a.weight = weight_of(d);
        a.in_flight = d->in_flight;
        a.counters = &d->counters;
        a.queued = d->queued;
        if (d->in_flight)
            a.busy_ns += dt_clock_ns() - d->busy_since;
        each(arg, &a);
    }
}
