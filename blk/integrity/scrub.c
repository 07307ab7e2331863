/* SPDX-License-Identifier: MIT */
/*
 * scrub.c - reads in the background, piece by piece, each under the lock that writes take: first what was being
 * written when all stopped, at once and as fast as it goes, so that what is taken as it is is little and soon over; and the
 * whole disk when asked to, at a rate, which also learns checksums that are not known yet.
 */
#include "blk/integrity/internal.h"

static void next_piece(struct integrity_ctx *ic);

static void rest(struct integrity_ctx *ic, uint64_t pause)
{
    struct integrity_scrub *s = &ic->scrub;
    uint64_t now = dt_now(ic->c);

    dt_timer_set(ic->c, &s->timer, MAX(now + pause, s->rest_until));
}

/* ---- A piece ---- */

static void piece_done(struct integrity_ctx *ic)
{
    struct integrity_scrub *s = &ic->scrub;
    struct integrity *w = ic->c->layer_data;
    uint64_t pause = 0, region = s->at / w->header.region, end = s->at + s->length;

    dt_range_unlock(ic->c, &s->range);
    dt_count(ic->c, SCRUBBED, s->length);
    if (s->error) {
        dt_layer_event(w->layer, "scrub-error", "reading %llu bytes at byte %llu: %s",
                       (unsigned long long)s->length, (unsigned long long)s->at,
                       strerror(-s->error));
    } else if ((w->flags[region] & REGION_SUSPECT) && !w->failed &&
               (end % w->header.region == 0 || end == w->header.size)) {
        w->flags[region] &= (uint8_t)~REGION_SUSPECT;
        w->nsuspect--;
    }
    if (s->running)
        pause = (uint64_t)((double)s->length * 1e9 / (double)w->scrub_rate);
    s->at = end;
    rest(ic, pause);
    dt_busy_end(ic->c);
}

static void sums_put(struct dt_io *io, int result)
{
    struct integrity_ctx *ic = container_of(io, struct integrity_ctx, scrub.io);

    if (result != (int)ic->scrub.sums_iov.iov_len)
        ic->scrub.error = result < 0 ? result : -EIO;
    piece_done(ic);
}

/* True if checksums have to be written. */
static bool compare(struct integrity_ctx *ic)
{
    struct integrity_scrub *s = &ic->scrub;
    struct integrity *w = ic->c->layer_data;
    uint64_t first = s->at >> INTEGRITY_SHIFT;
    bool changed = false;

    for (uint64_t i = 0; i << INTEGRITY_SHIFT < s->length; i++) {
        uint64_t block = first + i, sum;

        sum = integrity_sum(s->data + (i << INTEGRITY_SHIFT), integrity_bytes(w, block), block);
        if (s->sums[i] == sum || (s->sums[i] == 0 && !s->running))
            continue;
        if (s->sums[i] == 0) {
            s->learned++;
        } else if (!integrity_judge(ic->c, block)) {
            s->damaged++;
            continue;
        }
        s->sums[i] = sum;
        changed = true;
    }
    if (changed)
        w->used[s->at / w->header.region] = w->era;
    return changed;
}

static void part_done(struct integrity_ctx *ic, int error)
{
    struct integrity_scrub *s = &ic->scrub;
    const struct integrity *w = ic->c->layer_data;

    if (error)
        s->error = error;
    if (--s->pending > 0)
        return;
    if (s->error || !compare(ic)) {
        piece_done(ic);
        return;
    }
    s->io.done = sums_put;
    dt_io_writev(ic->c, &s->io, w->file.map_fd, &s->sums_iov, 1,
                 integrity_sum_at(w, s->at >> INTEGRITY_SHIFT));
}

static void sums_got(struct dt_io *io, int result)
{
    struct integrity_ctx *ic = container_of(io, struct integrity_ctx, scrub.io);

    part_done(ic, result == (int)ic->scrub.sums_iov.iov_len ? 0 : result < 0 ? result : -EIO);
}

static void data_got(struct dt_ctx *c, struct dt_req *sub)
{
    int error = sub->error;

    dt_sub_free(c, sub);
    part_done(c->data, error);
}

static void locked(struct dt_ctx *c, struct dt_range *range)
{
    struct integrity_ctx *ic = c->data;
    struct integrity_scrub *s = &ic->scrub;
    const struct integrity *w = c->layer_data;
    uint64_t blocks = (s->length + INTEGRITY_BLOCK - 1) >> INTEGRITY_SHIFT;
    struct dt_req *sub;

    s->error = 0;
    s->pending = 2;
    s->data_iov = (struct iovec){s->data, s->length};
    s->sums_iov = (struct iovec){s->sums, blocks * sizeof(*s->sums)};
    sub = dt_sub_new(c, DT_OP_READ, s->at >> DT_SECTOR_SHIFT,
                     (uint32_t)(s->length >> DT_SECTOR_SHIFT), &s->data_iov, 1, data_got, ic);
    CHECK(sub);
    s->io.done = sums_got;
    dt_io_readv(c, &s->io, w->file.map_fd, &s->sums_iov, 1,
                integrity_sum_at(w, s->at >> INTEGRITY_SHIFT));
    dt_sub_submit(c, sub);
}

/* ---- Which piece ---- */

/* Where there is something to do from @at on; the end of the disk if there is nothing. */
static uint64_t find_work(const struct integrity *w, const struct integrity_scrub *s, uint64_t at)
{
    uint64_t region = at / w->header.region;

    if (s->running || at >= w->header.size || (w->flags[region] & REGION_SUSPECT))
        return MIN(at, w->header.size);
    while (region < w->at.regions && !(w->flags[region] & REGION_SUSPECT))
        region++;
    return MIN(region * w->header.region, w->header.size);
}

static void finished(struct integrity_ctx *ic)
{
    struct integrity_scrub *s = &ic->scrub;
    struct integrity *w = ic->c->layer_data;

    if (s->running)
        dt_layer_event(w->layer, "scrubbed",
                       "the whole disk was read: %llu blocks damaged, %llu checksums learned",
                       (unsigned long long)s->damaged, (unsigned long long)s->learned);
    s->running = false;
}

static void next_piece(struct integrity_ctx *ic)
{
    struct integrity_scrub *s = &ic->scrub;
    struct integrity *w = ic->c->layer_data;
    uint64_t region_end, most = dt_layer_info(w->layer)->max_sectors;

    s->at = find_work(w, s, s->at);
    if (s->at == w->header.size) {
        finished(ic);
        return;
    }
    region_end = (s->at / w->header.region + 1) * w->header.region;
    s->length =
        MIN(MIN((uint64_t)INTEGRITY_SCRUB_BYTES, region_end - s->at), w->header.size - s->at);
    if (most)
        s->length = MIN(s->length, ALIGN_DOWN(most << DT_SECTOR_SHIFT, (uint64_t)INTEGRITY_BLOCK));
    s->range.granted = locked;
    dt_busy_begin(ic->c);
    if (dt_range_lock(ic->c, &s->range, s->at >> DT_SECTOR_SHIFT, s->length >> DT_SECTOR_SHIFT))
        locked(ic->c, &s->range);
}

static void fire(struct dt_timer *timer)
{
    struct integrity_ctx *ic = container_of(timer, struct integrity_ctx, scrub.timer);

    if (dt_now(ic->c) < ic->scrub.rest_until)
        rest(ic, 0);
    else
        next_piece(ic);
}

/* ---- Life ---- */

void integrity_scrub_start(struct integrity_ctx *ic)
{
    struct integrity_scrub *s = &ic->scrub;
    const struct integrity *w = ic->c->layer_data;

    s->data = xaligned(INTEGRITY_BLOCK, INTEGRITY_SCRUB_BYTES);
    s->sums = xcalloc(INTEGRITY_SCRUB_BYTES / INTEGRITY_BLOCK, sizeof(*s->sums));
    s->timer.fire = fire;
    if (w->nsuspect)
        rest(ic, 0);
}

void integrity_scrub_stop(struct integrity_ctx *ic)
{
    dt_timer_cancel(ic->c, &ic->scrub.timer);
    free(ic->scrub.data);
    free(ic->scrub.sums);
}

/* Whether the device stops or goes on then: until the deadline nothing is begun. */
void integrity_scrub_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct integrity_ctx *ic = c->data;

    ic->scrub.rest_until = deadline;
    if (ic->scrub.timer.heap_index)
        dt_timer_set(c, &ic->scrub.timer, deadline);
}

static int scrub(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                 struct dt_error *err)
{
    struct dt_ctx *c = dt_layer_ctx(layer, 0);
    const struct integrity *w = dt_layer_data(layer);
    struct integrity_ctx *ic = c ? c->data : NULL;
    struct integrity_scrub *s = ic ? &ic->scrub : NULL;
    const char *what = argc == 1 ? argv[0] : argc == 0 ? "start" : "";

    if (!s)
        return dt_fail(err, -EAGAIN, "the device does not run");
    if (strcmp(what, "start") == 0) {
        if (s->running)
            return dt_fail(err, -EALREADY, "a scrub is under way: see 'scrub status'");
        s->running = true;
        s->damaged = s->learned = 0;
        if (w->nsuspect == 0) { /* else the pieces go on as they do */
            s->at = 0;
            rest(ic, 0);
        } else {
            s->at = 0;
        }
    } else if (strcmp(what, "stop") == 0) {
        s->running = false;
    } else if (strcmp(what, "status") != 0) {
        return dt_fail(err, -EINVAL, "usage: scrub [start|stop|status]");
    }
    dt_reply(reply, "state", "%s", s->running ? "running" : "idle");
    dt_reply_u64(reply, "done", s->running ? s->at : 0);
    dt_reply_u64(reply, "of", w->header.size);
    dt_reply_u64(reply, "damaged", s->damaged);
    dt_reply_u64(reply, "learned", s->learned);
    dt_reply_u64(reply, "suspect-regions", w->nsuspect);
    return 0;
}

const struct dt_verb integrity_verbs[] = {
    {"scrub", "[start|stop|status]",
     "Read the whole disk in the background, compare it with its checksums, and learn those that "
     "are not known.",
     scrub},
    {NULL},
};
