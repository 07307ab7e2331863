/* SPDX-License-Identifier: MIT */
/* shortage.c - no space left: shortage.h. */
#include "blk/shortage/shortage.h"

#define RETRY         DT_S(1)
#define RETRY_QUIESCE DT_MS(50)

const char *const shortage_policies[] = {[SHORTAGE_HOLD] = "hold", [SHORTAGE_FAIL] = "fail", NULL};

static void begin(struct shortage_ctx *s)
{
    struct shortage *of = s->of;

    s->full = true;
    if (__atomic_fetch_add(&of->threads, 1, __ATOMIC_RELAXED) == 0)
        dt_layer_event(of->layer, "full",
                       "no space left for %s: writes are held and tried again every second",
                       of->path);
}

static void end(struct shortage_ctx *s)
{
    s->full = false;
    if (__atomic_fetch_sub(&s->of->threads, 1, __ATOMIC_RELAXED) == 1)
        dt_layer_event(s->of->layer, "resumed", "%s takes writes again", s->of->path);
}

static bool gives_up(struct shortage_ctx *s)
{
    return *s->of->policy == SHORTAGE_FAIL || patience_over(&s->patience, dt_clock_ns());
}

static void look_later(struct shortage_ctx *s)
{
    dt_timer_set(s->c, &s->retry, patience_look(&s->patience, dt_now(s->c), RETRY, RETRY_QUIESCE));
}

bool shortage_holds(struct shortage_ctx *s)
{
    if (gives_up(s))
        return false;
    if (!s->full)
        begin(s);
    if (!s->retry.heap_index)
        look_later(s);
    return true;
}

int shortage_error(const struct shortage_ctx *s, int error)
{
    return *s->of->policy == SHORTAGE_FAIL ? error : -ECANCELED;
}

static void run_retry(struct dt_timer *timer)
{
    struct shortage_ctx *s = container_of(timer, struct shortage_ctx, retry);

    if (!s->full)
        return;
    if (s->again(s, gives_up(s) ? shortage_error(s, -ENOSPC) : 0))
        look_later(s);
    else
        end(s);
}

void shortage_start(struct shortage_ctx *s, struct dt_ctx *c, struct shortage *of,
                    bool (*again)(struct shortage_ctx *s, int error))
{
    *s = (struct shortage_ctx){.of = of, .c = c, .again = again, .retry.fire = run_retry};
}

void shortage_stop(struct shortage_ctx *s)
{
    dt_timer_cancel(s->c, &s->retry);
}

void shortage_look(struct shortage_ctx *s)
{
    if (s->full)
        dt_timer_set(s->c, &s->retry, dt_clock_ns());
}

/* Space may still appear until shortly before the deadline. */
void shortage_quiesce(struct shortage_ctx *s, uint64_t deadline)
{
    patience_begin(&s->patience, dt_clock_ns(), deadline);
    shortage_look(s);
}

void shortage_layer_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    shortage_quiesce(c->data, deadline);
}

/* There may be no reason to hold any more. */
int shortage_layer_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    for (unsigned i = 0; i < dt_layer_threads(layer); i++) {
        struct dt_ctx *c = dt_layer_ctx(layer, i);

        if (c && c->data)
            shortage_look(c->data);
    }
    return 0;
}
