/* SPDX-License-Identifier: MIT */
/*
 * assemble.c - who is in sync: found out at the start, recorded at each change, and again when a
 * leg that was lost answers.
 *
 * Until the start's finding is recorded no request is served, and until a loss is recorded no write
 * is acknowledged: so whatever the others know that a leg has missed, its absence is in their
 * superblocks.
 */
#include "blk/mirror/internal.h"

#include <stdio.h>
#include <sys/random.h>

/* ---- Recording ------------------------------------------------------------------------------- */

static void record_phase(struct mirror *m);

/* Nothing durable can be said: the next write tries again, and before the first one the next tick. */
static void not_recorded(struct mirror *m, int error)
{
    if (!m->unrecorded)
        dt_layer_event(m->layer, "record-failed",
                       "who is in sync cannot be written to any leg: %s; %s", strerror(-error),
                       m->running ? "writes fail" : "requests are held");
    m->unrecorded = true;
    m->recording = false;
    m->changed = true;
    mirror_acknowledge(m, error);
}

static void record_done(struct fan *fan)
{
    struct mirror *m = fan->m;

    for (unsigned i = 0; i < m->count; i++)
        if ((fan->failed >> i & 1) && !leg_lost(&m->legs[i], "its metadata cannot be written"))
            fan->ok = 0;
    if (!fan->ok) {
        not_recorded(m, fan->error ?: -EIO);
        return;
    }
    if (m->sb.generation % 2 || m->changed) {
        record_phase(m);
        return;
    }
    m->recording = m->unrecorded = false;
    m->confirmed = m->sb.generation;
    mirror_acknowledge(m, 0);
    if (!m->running) {
        m->running = true;
        m->refused[0] = '\0';
        mirror_run_waiting(m);
    }
    intent_kick(m);
    resync_kick(m);
}

/* The odd generation with what has changed; then the even one, when all have that. */
static void record_phase(struct mirror *m)
{
    if (m->sb.generation % 2 && !m->changed) {
        m->sb.generation++;
    } else {
        m->sb.generation = (m->sb.generation + 1) | 1;
        for (unsigned i = 0; i < m->count; i++) {
            uint8_t now = m->legs[i].state == LEG_IN_SYNC ? RECORD_IN_SYNC : RECORD_STALE;

            if (m->sb.state[i] == RECORD_IN_SYNC && now == RECORD_STALE)
                m->sb.base[i] = m->confirmed;
            m->sb.state[i] = now;
        }
    }
    m->changed = false;
    fan_begin(&m->record, m, true, record_done);
    for (unsigned i = 0; i < m->count; i++) {
        struct leg *leg = &m->legs[i];

        if (leg->state != LEG_IN_SYNC)
            continue;
        m->sb.leg = i;
        superblock_encode(&m->sb, leg->block);
        fan_send_bytes(&m->record, leg, DT_OP_WRITE, DT_REQ_FUA,
                       m->meta_at + (m->sb.generation % 2 ? META_SLOT : 0), leg->block, META_BLOCK);
    }
    fan_end(&m->record);
}

void mirror_record(struct mirror *m)
{
    if (m->recording)
        return; /* it looks at @changed when it is through */
    m->recording = true;
    record_phase(m);
}

/* ---- At the start ---------------------------------------------------------------------------- */

static void refuse(struct mirror *m, const char *why)
{
    snprintf(m->refused, sizeof(m->refused), "%s", why);
    dt_layer_event(m->layer, "refused", "%s; requests are held", why);
}

static void set_regions(struct mirror *m)
{
    m->regions = ((m->sb.sectors - 1) >> m->sb.region_shift) + 1;
    m->flags = xcalloc(m->regions, sizeof(*m->flags));
    m->busy = xcalloc(m->regions, sizeof(*m->busy));
}

/* What any leg in sync takes for different. A damaged sector of the bitmap knows nothing: all of
 * it. */
static void load_bitmap(struct mirror *m, const struct leg *leg)
{
    const uint8_t *meta = m->scratch + (size_t)leg->index * META_SECTORS * DT_SECTOR_SIZE;
    uint8_t bits[SECTOR_BITS / 8];

    for (unsigned s = 0; s < BITMAP_BLOCKS * 8; s++) {
        uint64_t first = (uint64_t)s * SECTOR_BITS;

        if (!bitmap_decode(meta + (META_BITMAP + s) * DT_SECTOR_SIZE, m->sb.set, s, bits))
            memset(bits, 0xff, sizeof(bits));
        for (uint64_t r = first; r < MIN(first + SECTOR_BITS, m->regions); r++)
            if (bits[(r - first) / 8] >> (r % 8) & 1)
                region_mark(m, r);
    }
}

static void need_regions(struct mirror *m, bool all)
{
    for (uint64_t r = 0; r < m->regions; r++) {
        if (all)
            region_mark(m, r);
        if (region_test(m->set, r) && !(m->flags[r] & REGION_NEEDS)) {
            m->flags[r] |= REGION_NEEDS;
            m->needs++;
        }
    }
}

/* States are decided: write them down, and serve. */
static void begin(struct mirror *m)
{
    bool full = false;

    for (unsigned i = 0; i < m->count; i++)
        full |= m->legs[i].state == LEG_SYNCING && m->legs[i].full;
    if (legs_in(m, LEG_SYNCING) > 1)
        need_regions(m, full);
    intent_rewrite(m);
    m->joins++;
    m->changed = true;
    mirror_record(m);
}

static void create(struct mirror *m)
{
    uint64_t shift = REGION_LEAST;

    while (m->info.sectors >> shift >= BITMAP_BITS ||
           (m->region_size ? 1ull << (shift + DT_SECTOR_SHIFT) < m->region_size
                           : shift < REGION_DEFAULT))
        shift++;
    m->sb = (struct superblock){
        .legs = m->count, .region_shift = (uint32_t)shift, .sectors = m->info.sectors};
    if (getrandom(m->sb.set, sizeof(m->sb.set), 0) != sizeof(m->sb.set)) {
        refuse(m, "no random numbers for a new mirror");
        return;
    }
    set_regions(m);
    for (unsigned i = 0; i < m->count; i++) {
        m->legs[i].full = i > 0 && m->create == CREATE_SYNC;
        m->legs[i].state = m->legs[i].full ? LEG_SYNCING : LEG_IN_SYNC;
    }
    dt_layer_event(m->layer, "created", "a new mirror of %u legs%s", m->count,
                   m->create == CREATE_SYNC ? "; leg1 is copied to the others" : "");
    begin(m);
}

static void take_verdict(struct leg *leg, enum leg_verdict verdict)
{
    struct dt_layer *layer = leg->m->layer;

    if (verdict == LEG_IS_FOREIGN) {
        leg->removed = true;
        dt_layer_event(
            layer, "leg-foreign",
            "leg%u is no member of this mirror: the command `add leg%u` overwrites it with "
            "the disk",
            leg->index + 1, leg->index + 1);
    } else if (verdict == LEG_IS_OLD) {
        dt_layer_event(layer, "leg-old", "leg%u holds an old copy: all of it is copied again",
                       leg->index + 1);
    }
    if (verdict == LEG_IS_IN_SYNC)
        leg->state = LEG_IN_SYNC;
    else if (verdict >= LEG_IS_OLD)
        leg->state = LEG_SYNCING;
    leg->full = verdict == LEG_IS_OLD;
}

/* A leg that was never in sync since the mirror was made: it has no metadata before it is. */
static bool is_to_be_filled(const struct mirror *m, unsigned leg)
{
    return m->create != CREATE_OFF && m->views[leg].error == -ENOENT &&
           m->sb.state[leg] == RECORD_STALE && m->sb.base[leg] == 0;
}

static void fill(struct leg *leg)
{
    leg->state = LEG_SYNCING;
    leg->full = true;
}

static void assemble(struct mirror *m, unsigned newest, const enum leg_verdict *verdicts)
{
    m->sb = m->views[newest].sb;
    m->confirmed = m->sb.generation;
    if (m->sb.sectors != m->info.sectors) {
        refuse(m, "the legs' size is not that of the mirror");
        return;
    }
    set_regions(m);
    for (unsigned i = 0; i < m->count; i++) {
        if (is_to_be_filled(m, i))
            fill(&m->legs[i]);
        else
            take_verdict(&m->legs[i], verdicts[i]);
        if (verdicts[i] == LEG_IS_IN_SYNC)
            load_bitmap(m, &m->legs[i]);
    }
    begin(m);
}

static void views_done(struct fan *fan)
{
    struct mirror *m = fan->m;
    enum leg_verdict verdicts[MIRROR_LEGS];
    unsigned newest;
    struct dt_error err;

    m->probing = false;
    for (unsigned i = 0; i < m->count; i++) {
        m->views[i].error = m->legs[i].dev ? -EIO : -ENODEV;
        if (fan->ok >> i & 1)
            leg_view_read(&m->views[i], m->scratch + (size_t)i * META_SECTORS * DT_SECTOR_SIZE);
    }
    if (m->create != CREATE_OFF && mirror_is_new(m->views, m->count))
        create(m);
    else if (mirror_judge(m->views, m->count, m->missing == MISSING_ANY, verdicts, &newest, &err) <
             0)
        refuse(m, err.text);
    else
        assemble(m, newest, verdicts);
}

void mirror_assemble(struct mirror *m)
{
    m->probing = true;
    fan_begin(&m->probe, m, true, views_done);
    for (unsigned i = 0; i < m->count; i++)
        if (m->legs[i].dev)
            fan_send_bytes(&m->probe, &m->legs[i], DT_OP_READ, 0, m->meta_at,
                           m->scratch + (size_t)i * META_SECTORS * DT_SECTOR_SIZE,
                           META_SECTORS * DT_SECTOR_SIZE);
    fan_end(&m->probe);
}

int mirror_use(struct mirror *m, unsigned leg, struct dt_error *err)
{
    enum leg_verdict verdicts[MIRROR_LEGS];
    uint64_t most = 0;

    if (m->running || !m->refused[0])
        return dt_fail(err, -EBUSY, "the mirror serves; this is for one that was refused");
    if (m->views[leg].error)
        return dt_fail(err, -EINVAL, "leg%u has no metadata to begin with", leg + 1);
    for (unsigned i = 0; i < m->count; i++) {
        verdicts[i] = i == leg                       ? LEG_IS_IN_SYNC
                      : m->views[i].error == -ENODEV ? LEG_IS_ABSENT
                      : m->views[i].error            ? LEG_IS_FOREIGN
                      : m->views[i].sb.leg == i      ? LEG_IS_OLD
                                                     : LEG_IS_FOREIGN;
        if (!m->views[i].error)
            most = MAX(most, m->views[i].sb.generation);
    }
    if (m->views[leg].sb.leg != leg || m->views[leg].sb.legs != m->count)
        return dt_fail(err, -EINVAL,
                       "leg%u is not that leg of its mirror: name them in their order", leg + 1);
    m->refused[0] = '\0';
    /* Ahead of whatever the others believe, by more than one step. */
    m->views[leg].sb.generation = MAX(m->views[leg].sb.generation, most + 4);
    assemble(m, leg, verdicts);
    return 0;
}

/* ---- Lost and found -------------------------------------------------------------------------- */

void leg_readmit(struct leg *leg)
{
    struct mirror *m = leg->m;

    leg->state = LEG_SYNCING;
    leg->removed = false;
    m->joins++;
    need_regions(m, leg->full);
    intent_rewrite(m);
    dt_layer_event(m->layer, "leg-back",
                   "leg%u is there again: %llu of %llu regions are copied to it", leg->index + 1,
                   (unsigned long long)m->needs, (unsigned long long)m->regions);
    intent_kick(m);
    resync_kick(m);
}

static void probe_done(struct fan *fan)
{
    struct mirror *m = fan->m;
    struct leg *leg = &m->legs[m->probed];
    uint64_t base = m->sb.base[m->probed];
    struct leg_view view = {.error = -EIO};

    m->probing = false;
    if (fan->ok)
        leg_view_read(&view, m->scratch);
    if (leg->state != LEG_STALE || leg->removed || view.error ||
        memcmp(view.sb.set, m->sb.set, sizeof(m->sb.set)) != 0 || view.sb.leg != leg->index)
        return;
    if (view.sb.generation + 1 < base || view.sb.generation > base + 1)
        leg->full = true; /* not the copy that was lost */
    leg_readmit(leg);
}

void mirror_probe(struct mirror *m)
{
    if (m->probing || !m->running || m->recording || m->changed)
        return;
    for (unsigned n = 0; n < m->count; n++) {
        struct leg *leg = &m->legs[++m->probed % m->count];

        if (leg->state != LEG_STALE || leg->removed)
            continue;
        m->probed = leg->index;
        m->probing = true;
        fan_begin(&m->probe, m, true, probe_done);
        fan_send_bytes(&m->probe, leg, DT_OP_READ, 0, m->meta_at, m->scratch,
                       2 * META_SLOT * DT_SECTOR_SIZE);
        fan_end(&m->probe);
        return;
    }
}
