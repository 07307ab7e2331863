/* SPDX-License-Identifier: MIT */
/*
 * replay.c - send a recorded trace to a vhost-user-blk back end.
 *
 * Theory of operation: one thread walks the steps in order of arrival. Open loop: each is sent when
 * the trace says so, the time divided by the speed, whatever came back until then; what finds no
 * free request waits, and its delay is in the report. Closed loop: each is sent as soon
 * as no more are in flight than were when it was recorded (or than --depth), so the load keeps its
 * shape and the disk sets its pace. With --verify a step also waits for those in flight that it
 * overlaps where one of them writes, since only then it is known what a read must find.
 */
#include "tools/trace/replay.h"

#include <inttypes.h>
#include <sched.h>
#include <time.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define BURST     32
#define NAP_NS    DT_US(50) /* shorter waits are spent looking */
#define ALIVE_NS  DT_MS(10)
#define ANSWER_NS DT_S(30) /* nothing came back for so long: it never will */

static void problem(struct replay *r, const char *fmt, ...) DT_PRINTF(2, 3);
static void problem(struct replay *r, const char *fmt, ...)
{
    va_list args;

    if (r->first_problem[0])
        return;
    va_start(args, fmt);
    vsnprintf(r->first_problem, sizeof(r->first_problem), fmt, args);
    va_end(args);
}

/* ---- What comes back ------------------------------------------------------------------------ */

static void note_change(struct replay *r, const struct flight *f, bool ok)
{
    if (!r->content || f->op == DT_OP_READ || f->op == DT_OP_FLUSH)
        return;
    if (ok && f->op == DT_OP_WRITE)
        replayed_written(r->content, f->sector, f->sectors, f->generation);
    else if (ok && f->op == DT_OP_WRITE_ZEROES)
        replayed_zeroed(r->content, f->sector, f->sectors);
    else
        replayed_lost(r->content, f->sector, f->sectors);
}

static void check_read(struct replay *r, const struct flight *f, const void *data)
{
    size_t bytes = (size_t)f->sectors << DT_SECTOR_SHIFT;
    char why[200];

    if (!r->content || f->op != DT_OP_READ)
        return;
    r->checked++;
    if (!replayed_check(r->content, f->sector, f->sectors, data, why, sizeof(why))) {
        r->mismatches++;
        problem(r, "%s", why);
    } else if (r->options->hashes && f->whole && f->step->hashed &&
               replayed_untouched(r->content, f->sector, f->sectors) &&
               (uint32_t)XXH3_64bits(data, bytes) != f->step->hash) {
        r->mismatches++;
        problem(r, "%u sectors at %" PRIu64 " differ from what was read when the trace was made",
                f->sectors, f->sector);
    }
}

static void finish(struct replay *r, struct replay_queue *q, struct vblk_request *req)
{
    const struct flight *f = &q->flights[req - q->first];
    bool ok = req->status == VIRTIO_BLK_S_OK;

    if (f->op <= DT_OP_WRITE)
        histogram_add(&r->latency[f->op], dt_clock_ns() - f->started);
    if (!ok) {
        r->errors++;
        problem(r, "a %s of %u sectors at %" PRIu64 " came back with status %u",
                dt_op_name((enum dt_op)f->op), f->sectors, f->sector, req->status);
    }
    note_change(r, f, ok);
    if (ok)
        check_read(r, f, req->data);
    q->free[q->nfree++] = req;
    r->in_flight--;
}

/* Returns how many came back, or -EPROTO. */
static int reap(struct replay *r)
{
    struct vblk_request *done[BURST];
    int total = 0;

    for (unsigned i = 0; i < r->nqueues; i++) {
        struct replay_queue *q = &r->queues[i];
        int n = vblk_reap(q->q, done, BURST);

        if (n < 0) {
            problem(r, "%s", vblk_fault(q->q));
            return n;
        }
        for (int k = 0; k < n; k++)
            finish(r, q, done[k]);
        total += n;
    }
    return total;
}

/* ---- What is sent --------------------------------------------------------------------------- */

static bool changes(uint8_t op)
{
    return op != DT_OP_READ && op != DT_OP_FLUSH;
}

static bool overlaps_in_flight(const struct replay *r, const struct trace_step *s)
{
    for (unsigned i = 0; i < r->nqueues; i++)
        for (unsigned k = 0; k < r->depth; k++) {
            const struct replay_queue *q = &r->queues[i];
            const struct flight *f = &q->flights[k];

            if (q->first[k].busy && f->sector < s->sector + s->sectors &&
                s->sector < f->sector + f->sectors && (changes(s->op) || changes(f->op)))
                return true;
        }
    return false;
}

/* May the next step go? */
static bool due(struct replay *r, const struct trace_step *s, uint64_t now)
{
    uint64_t limit = r->options->depth ? r->options->depth : s->depth;

    if (r->done)
        return true; /* the rest of one that began */
    if (r->options->closed)
        return r->in_flight < MAX(limit, (uint64_t)1);
    return (double)(now - r->started) * r->speed >= (double)s->time;
}

static uint32_t piece_limit(const struct replay *r, uint8_t op)
{
    const struct virtio_blk_config *disk = &vblk_info(r->driver)->disk;

    if (op == DT_OP_DISCARD)
        return disk->max_discard_sectors ?: UINT32_MAX;
    if (op == DT_OP_WRITE_ZEROES)
        return disk->max_write_zeroes_sectors ?: UINT32_MAX;
    return r->buffer_sectors;
}

static void fill_request(struct replay *r, struct vblk_request *req, struct flight *f)
{
    static const uint32_t types[] = {
        [DT_OP_READ] = VIRTIO_BLK_T_IN,
        [DT_OP_WRITE] = VIRTIO_BLK_T_OUT,
        [DT_OP_FLUSH] = VIRTIO_BLK_T_FLUSH,
        [DT_OP_DISCARD] = VIRTIO_BLK_T_DISCARD,
        [DT_OP_WRITE_ZEROES] = VIRTIO_BLK_T_WRITE_ZEROES,
    };
    struct virtio_blk_discard_write_zeroes range = {.sector = f->sector, .num_sectors = f->sectors};

    req->type = types[f->op];
    req->sector = f->op <= DT_OP_WRITE ? f->sector : 0;
    req->bytes = f->op <= DT_OP_WRITE ? f->sectors << DT_SECTOR_SHIFT : 0;
    if (f->op == DT_OP_DISCARD || f->op == DT_OP_WRITE_ZEROES) {
        memcpy(req->data, &range, sizeof(range));
        req->bytes = sizeof(range);
    } else if (f->op == DT_OP_WRITE) {
        f->generation = r->generation++;
        replayed_fill(r->options->seed, f->sector, f->sectors, f->generation, req->data);
    }
}

/* One step, or the next piece of one that is too large for a request. */
static void send(struct replay *r, struct replay_queue *q, const struct trace_step *s)
{
    struct vblk_request *req = q->free[--q->nfree];
    struct flight *f = &q->flights[req - q->first];
    uint32_t sectors = MIN(s->sectors - r->done, piece_limit(r, s->op));

    *f = (struct flight){.step = s,
                         .op = s->op,
                         .sector = s->sector + r->done,
                         .sectors = sectors,
                         .whole = sectors == s->sectors,
                         .started = dt_clock_ns()};
    fill_request(r, req, f);
    vblk_submit(q->q, req);
    r->in_flight++;
    r->bytes += s->op <= DT_OP_WRITE ? (uint64_t)sectors << DT_SECTOR_SHIFT : 0;
    r->done += sectors;
    if (r->done < s->sectors)
        return;
    r->requests[s->op]++;
    r->done = 0;
    r->next++;
}

static bool served(const struct replay *r, uint8_t op)
{
    static const unsigned features[DT_OP_COUNT] = {
        [DT_OP_FLUSH] = VIRTIO_BLK_F_FLUSH,
        [DT_OP_DISCARD] = VIRTIO_BLK_F_DISCARD,
        [DT_OP_WRITE_ZEROES] = VIRTIO_BLK_F_WRITE_ZEROES,
    };

    return !features[op] || vblk_info(r->driver)->features & 1ull << features[op];
}

static void note_delay(struct replay *r, const struct trace_step *s, uint64_t now)
{
    double planned = (double)s->time / r->speed, real = (double)(now - r->started);

    if (!r->options->closed && r->done == 0)
        histogram_add(&r->late, (uint64_t)MAX(real - planned, 0.0));
}

/* Sends what may go now. Returns whether there was any. */
static bool send_due(struct replay *r)
{
    uint64_t now = dt_clock_ns();
    bool any = false;

    while (r->next < r->steps.count) {
        const struct trace_step *s = &r->steps.list[r->next];
        struct replay_queue *q = &r->queues[s->queue % r->nqueues];

        if (!served(r, s->op)) {
            r->skipped++;
            r->next++;
            continue;
        }
        if (!due(r, s, now) || q->nfree == 0)
            break;
        if (r->content && overlaps_in_flight(r, s)) {
            r->ordered++;
            break;
        }
        note_delay(r, s, now);
        send(r, q, s);
        any = true;
    }
    for (unsigned i = 0; any && i < r->nqueues; i++)
        vblk_publish(r->queues[i].q);
    return any;
}

/* ---- The run -------------------------------------------------------------------------------- */

static void rest(const struct replay *r, uint64_t now)
{
    uint64_t at = UINT64_MAX;

    if (r->next < r->steps.count && !r->options->closed)
        at = r->started + (uint64_t)((double)r->steps.list[r->next].time / r->speed);
    if (r->in_flight == 0 && at != UINT64_MAX && at > now + NAP_NS)
        nanosleep(&(struct timespec){.tv_nsec = (long)MIN(at - now - NAP_NS, ALIVE_NS)}, NULL);
    else
        sched_yield();
}

int replay_run(struct replay *r, struct dt_error *err)
{
    uint64_t looked = dt_clock_ns(), moved = looked;
    bool changed;

    r->started = looked;
    r->generation = 1;
    while (r->next < r->steps.count || r->in_flight) {
        int back = reap(r);
        bool sent = back >= 0 && send_due(r);
        uint64_t now = dt_clock_ns();

        if (back < 0)
            return dt_fail(err, back, "%s", r->first_problem);
        if (back || sent || !r->in_flight)
            moved = now;
        if (now - looked > ALIVE_NS) {
            looked = now;
            if (!vblk_alive(r->driver, &changed))
                return dt_fail(err, -EIO, "the back end went away");
        }
        if (now - moved > ANSWER_NS) {
            r->lost = r->in_flight;
            break;
        }
        if (!back && !sent)
            rest(r, now);
    }
    r->ended = dt_clock_ns();
    return 0;
}
