/* SPDX-License-Identifier: MIT */
/*
 * intent.c - the bitmap of regions in which the legs may differ.
 *
 * A region's bit is durable on all active legs before a write to it goes to any. It is cleared
 * lazily, when no write has been under way there since before a flush of all legs, and only while
 * every leg is in sync: otherwise it is what the absent have missed. One block of the bitmap is
 * written at a time; writes that wait for bits of the same block share it.
 */
#include "blk/mirror/internal.h"

static uint8_t *byte_of(struct region_bits *bits, uint64_t region)
{
    return &bits->sector[region / SECTOR_BITS][region % SECTOR_BITS / 8];
}

bool region_test(struct region_bits *bits, uint64_t region)
{
    return *byte_of(bits, region) >> (region % 8) & 1;
}

static void touch_block(struct mirror *m, uint64_t region)
{
    m->blocks_dirty |= 1u << region / (SECTOR_BITS * 8);
}

void region_mark(struct mirror *m, uint64_t region)
{
    if (region_test(m->set, region))
        return;
    *byte_of(m->set, region) |= (uint8_t)(1u << region % 8);
    touch_block(m, region);
}

static void region_clear(struct mirror *m, uint64_t region)
{
    *byte_of(m->set, region) &= (uint8_t) ~(1u << region % 8);
    touch_block(m, region);
}

bool intent_ready(struct mirror *m, uint64_t first, uint64_t last)
{
    bool ready = true;

    for (uint64_t r = first; r <= last; r++) {
        m->flags[r] &= (uint8_t) ~(REGION_IDLE | REGION_OLD);
        region_mark(m, r);
        if (!region_test(m->durable, r)) {
            touch_block(m, r);
            ready = false;
        }
    }
    return ready;
}

/* All of it is to be on all active legs again: one has joined them. */
void intent_rewrite(struct mirror *m)
{
    memset(m->durable, 0, sizeof(*m->durable));
    m->blocks_dirty = (1u << BITMAP_BLOCKS) - 1;
}

static void intent_done(struct fan *fan)
{
    struct mirror *m = fan->m;
    size_t at = (size_t)m->intent_block * 8;

    m->intent_busy = false;
    for (unsigned i = 0; i < m->count; i++)
        if ((fan->failed >> i & 1) && !leg_lost(&m->legs[i], "its bitmap cannot be written"))
            fan->ok = 0;
    if (fan->ok && m->intent_joins == m->joins)
        memcpy(m->durable->sector[at], m->writing->sector[at], sizeof(m->set->sector[0]) * 8);
    else if (fan->ok)
        m->blocks_dirty |= 1u << m->intent_block; /* a leg joined meanwhile, and has not got it */
    mirror_run_intents(m, fan->ok ? 0 : fan->error);
    intent_kick(m);
    resync_kick(m);
}

void intent_kick(struct mirror *m)
{
    struct fan *fan = &m->intent;
    size_t at;

    if (m->intent_busy || !m->blocks_dirty || legs_in(m, LEG_IN_SYNC) == 0)
        return;
    m->intent_busy = true;
    m->intent_joins = m->joins;
    m->intent_block = (unsigned)__builtin_ctz(m->blocks_dirty);
    m->blocks_dirty &= m->blocks_dirty - 1;
    at = (size_t)m->intent_block * 8;
    for (size_t s = at; s < at + 8; s++) {
        memcpy(m->writing->sector[s], m->set->sector[s], sizeof(m->set->sector[s]));
        for (size_t i = 0; i < sizeof(m->set->sector[s]); i++) /* may be gone from now on */
            m->durable->sector[s][i] &= m->set->sector[s][i];
        bitmap_encode(m->bitmap + (s - at) * DT_SECTOR_SIZE, m->sb.set, (unsigned)s,
                      m->set->sector[s]);
    }
    dt_count(m->c, INTENTS, 1);
    fan_begin(fan, m, true, intent_done);
    for (unsigned i = 0; i < m->count; i++)
        if (leg_active(&m->legs[i]))
            fan_send_bytes(fan, &m->legs[i], DT_OP_WRITE, DT_REQ_FUA, m->meta_at + META_BITMAP + at,
                           m->bitmap, META_BLOCK);
    fan_end(fan);
}

/* ---- Clearing -------------------------------------------------------------------------------- */

static void clean_done(struct fan *fan)
{
    struct mirror *m = fan->m;

    m->cleaning = false;
    for (unsigned i = 0; i < m->count; i++)
        if (fan->failed >> i & 1)
            leg_lost(&m->legs[i], "it cannot be flushed");
    if (fan->failed || legs_in(m, LEG_IN_SYNC) < m->count)
        return;
    for (uint64_t r = 0; r < m->regions; r++)
        if (m->flags[r] & REGION_IDLE) {
            m->flags[r] &= (uint8_t) ~(REGION_IDLE | REGION_OLD);
            region_clear(m, r);
        }
    intent_kick(m);
}

void intent_clean(struct mirror *m)
{
    bool any = false;

    if (m->cleaning || m->changed || m->recording || m->needs || m->intents.head ||
        legs_in(m, LEG_IN_SYNC) < m->count)
        return;
    for (uint64_t r = 0; r < m->regions; r++)
        if (region_test(m->set, r) && !m->busy[r]) {
            m->flags[r] |= m->flags[r] & REGION_OLD ? REGION_IDLE : REGION_OLD;
            any |= m->flags[r] & REGION_IDLE;
        }
    if (!any)
        return;
    m->cleaning = true;
    fan_begin(&m->cleaner, m, true, clean_done);
    for (unsigned i = 0; i < m->count; i++)
        fan_send(&m->cleaner, &m->legs[i], DT_OP_FLUSH, 0, 0, 0, NULL, 0);
    fan_end(&m->cleaner);
}
