/* SPDX-License-Identifier: MIT */
/*
 * full.c - no space left: guests take an I/O error for a broken disk and go read-only, so writes
 * wait here instead, an event tells, and once a second all of them are tried again.
 *
 * A thread is `full` from the first write that it holds until a look finds none held: then all that
 * were tried again have gone through.
 */
#include "blk/file/internal.h"

#define RETRY         DT_S(1)
#define RETRY_QUIESCE DT_MS(50)

static void full_begin(struct file_ctx *fc, struct file *f)
{
    fc->full = true;
    if (__atomic_fetch_add(&f->full_threads, 1, __ATOMIC_RELAXED) == 0)
        dt_layer_event(f->layer, "full",
                       "no space left for %s: writes are held and tried again every second",
                       f->path);
}

static void full_end(struct file_ctx *fc, struct file *f)
{
    fc->full = false;
    if (__atomic_fetch_sub(&f->full_threads, 1, __ATOMIC_RELAXED) == 1)
        dt_layer_event(f->layer, "resumed", "%s takes writes again", f->path);
}

/* Between the end of patience and the deadline of a quiesce, writes fail; after that the device
 * has stopped, or goes on as if nothing had been. */
static bool giving_up(struct file_ctx *fc, uint64_t now)
{
    if (fc->give_up && now >= fc->deadline)
        fc->give_up = 0;
    return fc->give_up && now >= fc->give_up;
}

bool file_hold(struct file_io *fio)
{
    struct dt_ctx *c = fio->c;
    struct file_ctx *fc = c->data;
    struct file *f = c->layer_data;

    if (f->on_full == FULL_FAIL || giving_up(fc, dt_clock_ns()))
        return false;
    dt_count(c, HELD, 1);
    file_list_add(&fc->held, fio);
    if (!fc->full)
        full_begin(fc, f);
    if (!fc->retry.heap_index)
        dt_timer_set(c, &fc->retry, dt_now(c) + (fc->give_up ? RETRY_QUIESCE : RETRY));
    return true;
}

/* What is let go because a stop cannot wait was not served; the front may be able to leave it to the next one. */
int file_full_error(const struct file_io *fio, int error)
{
    const struct file *f = fio->c->layer_data;

    return f->on_full == FULL_FAIL ? error : -ECANCELED;
}

static void fail_held(struct file_ctx *fc)
{
    struct file_io *fio;

    while ((fio = file_list_take(&fc->held)) != NULL)
        file_finish(fio, file_full_error(fio, -ENOSPC));
}

static void retry(struct dt_timer *timer)
{
    struct file_ctx *fc = container_of(timer, struct file_ctx, retry);
    struct dt_ctx *c = fc->c;
    struct file *f = c->layer_data;
    uint64_t now = dt_now(c);
    struct file_io *fio = fc->held.head;

    if (fc->saturated) {
        fc->saturated = false;
        dt_wake(c);
    }
    if (!fc->full)
        return;
    if (!fio) {
        full_end(fc, f);
        return;
    }
    dt_timer_set(c, timer, now + (fc->give_up ? RETRY_QUIESCE : RETRY));
    if (f->on_full == FULL_FAIL || (fc->give_up && now >= fc->give_up)) {
        fail_held(fc);
        return;
    }
    /* The outcomes come later: what is held again is not in the list that is gone through. */
    file_list_init(&fc->held);
    while (fio) {
        struct file_io *next = fio->next;

        file_begin(fio);
        fio = next;
    }
}

void file_full_init(struct file_ctx *fc)
{
    file_list_init(&fc->held);
    fc->retry.fire = retry;
}

/* Space may still appear until shortly before the deadline; then they are let go of, unserved. */
void file_full_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct file_ctx *fc = c->data;
    uint64_t now = dt_clock_ns();
    uint64_t left = deadline > now ? deadline - now : 0;

    fc->deadline = deadline;
    fc->give_up = MAX(1u, deadline - MIN(deadline, MIN(left / 4, DT_MS(200))));
    if (fc->full)
        dt_timer_set(c, &fc->retry, now);
}
