/* SPDX-License-Identifier: MIT */
/*
 * resync.c - copies regions from the primary to the other active legs, one at a time, at the rate
 * that was asked for. Writes to the region under way wait, all others go on; they reach all legs,
 * so a region that has been copied stays right. When none is left, a leg that was SYNCING is
 * flushed and becomes IN_SYNC.
 */
#include "blk/mirror/internal.h"

static uint64_t region_end(const struct mirror *m)
{
    return MIN((m->copying + 1) << m->sb.region_shift, m->sb.sectors);
}

static void leave_region(struct mirror *m)
{
    m->copying = NO_REGION;
    mirror_run_list(m, &m->blocked);
}

void resync_forget(struct mirror *m)
{
    for (uint64_t r = 0; m->needs && r < m->regions; r++)
        m->flags[r] &= (uint8_t)~REGION_NEEDS;
    m->needs = 0;
    if (m->copying != NO_REGION)
        leave_region(m);
}

/* Never from within itself: legs may answer at once. */
static void go_on(struct mirror *m, uint64_t when)
{
    dt_timer_set(m->c, &m->copy_timer, when);
}

/* The rate is for what nobody waits for. */
static uint64_t next_time(const struct mirror *m)
{
    if (!m->resync_rate || m->blocked.head)
        return dt_now(m->c);
    return m->copy_started + m->copied * DT_MS(1) / MAX(m->resync_rate / 1000, 1u);
}

/* It waits for its rate, or it rests: nobody else would call it. */
void resync_hurry(struct mirror *m)
{
    if (!m->copy_busy && (m->resync_rate || !m->copy_timer.heap_index))
        go_on(m, dt_now(m->c));
}

static void step_failed(struct mirror *m)
{
    m->copy_busy = false;
    go_on(m, dt_now(m->c) + DT_S(1));
}

static void written(struct fan *fan)
{
    struct mirror *m = fan->m;

    m->copy_busy = false;
    for (unsigned i = 0; i < m->count; i++)
        if (fan->failed >> i & 1)
            leg_lost(&m->legs[i], "a region cannot be copied to it");
    if (m->copying == NO_REGION || m->legs[m->copy_from].state != LEG_IN_SYNC) {
        go_on(m, dt_now(m->c)); /* nobody to copy to, or another primary */
        return;
    }
    m->copied += (uint64_t)m->copy_now << DT_SECTOR_SHIFT;
    dt_count(m->c, RESYNCED_BYTES, (uint64_t)m->copy_now << DT_SECTOR_SHIFT);
    m->copy_at += m->copy_now;
    if (m->copy_at == region_end(m)) {
        m->flags[m->copying] &= (uint8_t)~REGION_NEEDS;
        m->needs--;
        leave_region(m);
    }
    go_on(m, next_time(m));
}

static void was_read(struct fan *fan)
{
    struct mirror *m = fan->m;

    if (fan->failed) {
        if (!leg_lost(&m->legs[m->copy_from], "a read failed"))
            dt_layer_event(m->layer, "resync-stuck",
                           "sectors %llu to %llu cannot be read from leg%u, the only one in sync",
                           (unsigned long long)m->copy_at,
                           (unsigned long long)m->copy_at + m->copy_now - 1, m->copy_from + 1);
        step_failed(m);
        return;
    }
    if (m->copying == NO_REGION || m->legs[m->copy_from].state != LEG_IN_SYNC) {
        step_failed(m);
        return;
    }
    fan_begin(fan, m, true, written);
    for (unsigned i = 0; i < m->count; i++)
        if (leg_active(&m->legs[i]) && i != m->copy_from)
            fan_send_bytes(fan, &m->legs[i], DT_OP_WRITE, 0, m->copy_at, m->copy,
                           (size_t)m->copy_now << DT_SECTOR_SHIFT);
    fan_end(fan);
}

static void copy_step(struct mirror *m)
{
    struct leg *from = leg_primary(m);

    while (!(m->flags[m->cursor % m->regions] & REGION_NEEDS))
        m->cursor++;
    if (m->copying == NO_REGION || m->copy_from != from->index) {
        m->copying = m->cursor % m->regions;
        m->copy_at = m->copying << m->sb.region_shift;
        m->copy_from = from->index;
    }
    if (m->busy[m->copying])
        return; /* the last of them calls again */
    if (!m->copied)
        m->copy_started = dt_now(m->c);
    m->copy_busy = true;
    m->copy_now = (uint32_t)MIN(region_end(m) - m->copy_at, COPY_BYTES >> DT_SECTOR_SHIFT);
    fan_begin(&m->copier, m, true, was_read);
    fan_send_bytes(&m->copier, from, DT_OP_READ, 0, m->copy_at, m->copy,
                   (size_t)m->copy_now << DT_SECTOR_SHIFT);
    fan_end(&m->copier);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void flushed(struct fan *fan)
{
    struct mirror *m = fan->m;
    uint64_t took = MAX(dt_now(m->c) - m->copy_started, DT_MS(1));

    m->copy_busy = false;
    for (unsigned i = 0; i < m->count; i++) {
        struct leg *leg = &m->legs[i];

        if (leg->state != LEG_SYNCING)
            continue;
        if (fan->failed >> i & 1) {
            leg_lost(leg, "it cannot be flushed");
        } else if ((fan->ok >> i & 1) && !m->needs && m->copy_joins == m->joins) {
            leg->state = LEG_IN_SYNC;
            leg->full = false;
            m->changed = true;
            dt_layer_event(m->layer, "resynced", "leg%u is in sync; %llu MiB copied in %llu ms",
                           i + 1, (unsigned long long)(m->copied >> 20),
                           (unsigned long long)(took / DT_MS(1)));
        }
    }
    m->copied = 0;
    if (m->changed)
        mirror_record(m);
    else
        resync_kick(m);
}

static void finish(struct mirror *m)
{
    if (legs_in(m, LEG_SYNCING) == legs_in(m, LEG_IN_SYNC)) {
        m->copied = 0;
        return;
    }
    if (m->blocks_dirty || m->intent_busy)
        return; /* a leg in sync has the bitmap; its last block calls again */
    m->copy_busy = true;
    m->copy_joins = m->joins;
    fan_begin(&m->copier, m, true, flushed);
    for (unsigned i = 0; i < m->count; i++)
        if (m->legs[i].state == LEG_SYNCING)
            fan_send(&m->copier, &m->legs[i], DT_OP_FLUSH, 0, 0, 0, NULL, 0);
    fan_end(&m->copier);
}

/* While the device is to rest it goes on only for writes that wait for the region it is in. */
static bool is_to_rest(const struct mirror *m)
{
    return !m->blocked.head && rests(&m->rest, m->c);
}

void resync_kick(struct mirror *m)
{
    if (!m->running || m->copy_busy || m->copy_timer.heap_index || is_to_rest(m))
        return;
    if (!m->needs)
        finish(m);
    else if (legs_in(m, LEG_SYNCING) == 1)
        resync_forget(m);
    else
        copy_step(m);
}
