/* SPDX-License-Identifier: MIT */
/*
 * pin.c - a root that stays readable while the pool goes on.
 *
 * Theory of operation: nothing that a root reaches is ever written over; it is only given out again when a later
 * root that dropped it is durable. So whoever wants to read a root, from another process and for as long as it
 * takes, needs no more than that this be put off: space.c keeps what the pinned root reaches *held*. The pin
 * is in memory alone. It costs the space that is given up meanwhile, and it goes before anything has to
 * wait for that space.
 */
#include "parallax/internal.h"

#include <time.h>

static void lose(struct pool *pool, const char *why)
{
    struct pool_pin *pin = pool->pin;

    pool->pin = NULL;
    pin->lost(pin, why); /* before anything is given out */
    space_unpin(pool);
}

int pool_pin(struct pool *pool, struct pool_pin *pin, struct dt_error *err)
{
    struct timespec now;

    CHECK_MAGIC(pool, POOL_MAGIC);
    if (pool->pin)
        return dt_fail(err, -EBUSY, "%s is being read by %s already", pool->store->name,
                       pool->pin->owner);
    if (pool->failed || pool->o.read_only)
        return dt_fail(err, -EIO, "%s makes no roots any more", pool->store->name);
    clock_gettime(CLOCK_REALTIME, &now);
    pin->since = (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
    pool->pin = pin;
    pool->space.pin = PIN_WANTED;
    pool_kick(pool);
    return 0;
}

void pool_unpin(struct pool *pool, struct pool_pin *pin)
{
    CHECK_MAGIC(pool, POOL_MAGIC);
    if (pool->pin != pin)
        return;
    pool->pin = NULL;
    space_unpin(pool);
    pool_kick(pool); /* somebody may wait for space */
}

const struct pool_pin *pool_pinned(const struct pool *pool, uint64_t *held)
{
    *held = pool->space.held;
    return pool->pin;
}

void pin_written(struct pool *pool, const struct px_root *root)
{
    if (pool->space.pin == PIN_BEGUN)
        pool->pin->root = *root;
}

/* It holds from the moment when the root after which it is named is durable. */
void pin_durable(struct pool *pool)
{
    struct pool_pin *pin = pool->pin;

    if (pin && pool->space.pin == PIN_HOLDS && pin->root.seq == pool->root.seq)
        pin->held(pin, &pin->root);
}

bool pin_yield(struct pool *pool)
{
    if (likely(!pool->space.held))
        return false;
    lose(pool, "the pool is nearly full, and the space is needed that waits for this");
    return true;
}

void pin_turn(struct pool *pool)
{
    const struct space *s = &pool->space;

    if (likely(!pool->pin))
        return;
    if (pool->failed)
        lose(pool, "the pool has failed");
    else if (space_free_now(s) <
                 s->reserve || /* which is for what gives space back, and no write waits for it */
             (s->spare.host_full && io_stalled(pool)))
        pin_yield(pool);
}

const struct px_root *pool_root(const struct pool *pool)
{
    return pool->ckpt.root.seq ? &pool->ckpt.root : &pool->root;
}
