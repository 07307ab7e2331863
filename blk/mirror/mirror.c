/* SPDX-License-Identifier: MIT */
/*
 * mirror.c - the back `mirror`: the same disk on several legs, each a chain of its own.
 *
 * Theory of operation: each leg keeps, behind the disk's data, a superblock (who was in sync, as of
 * which generation) and a bitmap of the regions in which the legs may differ. A write is announced
 * in the bitmap, goes to all legs, and is answered when all have it; a leg that fails is recorded
 * as stale first. From then on the bitmap collects what it misses, and when it is back that is
 * copied to it. After a crash, what the bitmap says is copied from one leg to the others, so that
 * all tell the same.
 *
 * meta.c has the format and the judgement; assemble.c who is in sync; intent.c the bitmap;
 * request.c the guest's requests; resync.c the copying; leg.c the legs. All runs on one thread.
 */
#include "blk/mirror/internal.h"

static const char *const creates[] = {
    [CREATE_OFF] = "off", [CREATE_SYNC] = "sync", [CREATE_CLEAN] = "clean", NULL};
static const char *const missings[] = {[MISSING_KNOWN] = "known", [MISSING_ANY] = "any", NULL};

#define FIELD(field) .offset = offsetof(struct mirror, field)
#define LEG(n, more)                                                                   \
    {                                                                                  \
        .name = "leg" #n, .type = DT_PARAM_STRING, .flags = more, FIELD(specs[n - 1]), \
        .help = "A chain in quotes, such as leg" #n "='file path=/a/disk" #n ".img'.", \
    }
static const struct dt_param params[] = {
    LEG(1, DT_PARAM_REQUIRED),
    LEG(2, DT_PARAM_REQUIRED),
    LEG(3, 0),
    LEG(4, 0),
    LEG(5, 0),
    LEG(6, 0),
    LEG(7, 0),
    LEG(8, 0),
    {.name = "create",
     .type = DT_PARAM_ENUM,
     FIELD(create),
     .initial = "off",
     .choices = creates,
     .help =
         "If no leg is of a mirror, make one: sync copies leg1 to the others; clean takes them for "
         "equal."},
    {.name = "region",
     .type = DT_PARAM_SIZE,
     FIELD(region_size),
     .initial = "0",
     .max = 1ull << 40,
     .help = "Granularity of the bitmap of a new mirror; 0 = as the size asks for, 1M or more."},
    {.name = "missing",
     .type = DT_PARAM_ENUM,
     FIELD(missing),
     .initial = "known",
     .choices = missings,
     .help =
         "Start without a leg: known: if the others went on without it before; any: in any case."},
    {.name = "resync-rate",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(resync_rate),
     .initial = "0",
     .unit = "bytes/s",
     .help = "Copy to a leg no faster than this; 0 = as fast as the legs are."},
    {.name = "retry",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     FIELD(retry),
     .initial = "5s",
     .min = DT_MS(1),
     .max = DT_S(3600),
     .help = "How often a lost leg is looked for."},
    {.name = "settle",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     FIELD(settle),
     .initial = "5s",
     .min = DT_MS(1),
     .max = DT_S(3600),
     .help = "A region that was not written for so long is taken off the bitmap."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [INTENTS] = {"intents", "writes", "Blocks of the bitmap written."},
    [READ_RETRIES] = {"read-retries", "requests",
                      "Reads that failed on one leg and went to another."},
    [LEGS_LOST] = {"legs-lost", "legs", "Times that a leg was lost."},
    [RESYNCED_BYTES] = {"resynced", "bytes", "Bytes copied from one leg to others."},
    [WAITED] = {"waited", "requests", "Writes that waited for a region being copied."},
    {NULL},
};

/* ---- What the disk is ------------------------------------------------------------------------ */

static void mirror_close(struct dt_layer *layer)
{
    struct mirror *m = dt_layer_data(layer);

    for (unsigned i = 0; i < m->count; i++) {
        device_free(m->legs[i].dev);
        free(m->legs[i].block);
    }
}

/* What all legs can. */
static int join_info(struct mirror *m, const struct leg *leg, bool first, struct dt_error *err)
{
    const struct dt_block_info *l = device_info(leg->dev);
    struct dt_block_info *info = &m->info;
    uint64_t data =
        l->sectors > 2 * META_SECTORS
            ? ALIGN_DOWN(l->sectors - META_SECTORS, (uint64_t)META_BLOCK / DT_SECTOR_SIZE)
            : 0;

    if (data == 0)
        return dt_fail(err, -EINVAL, "leg%u has %llu sectors: a mirror needs more than %u",
                       leg->index + 1, (unsigned long long)l->sectors, 2 * META_SECTORS);
    if (l->read_only)
        return dt_fail(err, -EROFS, "leg%u is read-only", leg->index + 1);
    if (first) {
        *info = *l;
        info->sectors = data;
        return 0;
    }
    if (data != info->sectors)
        return dt_fail(
            err, -EINVAL,
            "leg%u has room for %llu sectors of data and another leg for %llu: they must "
            "be of the same size",
            leg->index + 1, (unsigned long long)data, (unsigned long long)info->sectors);
    info->logical_block = MAX(info->logical_block, l->logical_block);
    info->physical_block = MAX(info->physical_block, l->physical_block);
    info->optimal_io = MAX(info->optimal_io, l->optimal_io);
    info->discard_align = MAX(info->discard_align, l->discard_align);
    info->can_flush |= l->can_flush;
    info->can_discard &= l->can_discard;
    info->can_write_zeroes &= l->can_write_zeroes;
    info->write_zeroes_unmaps &= l->write_zeroes_unmaps;
    info->rotational |= l->rotational;
    return 0;
}

static int open_legs(struct mirror *m, struct dt_error *err)
{
    unsigned open = 0;
    int ret = -ENODEV;

    for (unsigned i = 0; i < m->count; i++) {
        struct leg *leg = &m->legs[i];

        *leg = (struct leg){.m = m, .index = i};
        ret = leg_open(leg, err);
        if (ret == 0) {
            ret = join_info(m, leg, open++ == 0, err);
            if (ret < 0)
                return ret;
        } else if (ret == -EINVAL || ret == -ENOEXEC) {
            return ret; /* not a leg that is away: a mistake in what was written */
        } else {
            dt_layer_event(m->layer, "leg-absent", "%s", err ? err->text : "");
        }
    }
    m->meta_at = m->info.sectors;
    m->info.max_sectors = m->info.max_segments = 0; /* each leg splits for itself */
    m->info.max_discard = m->info.max_write_zeroes = 1u << (30 - DT_SECTOR_SHIFT);
    return open ? 0 : ret; /* the last one's reason */
}

static int mirror_open(struct dt_layer *layer, struct dt_error *err)
{
    struct mirror *m = dt_layer_data(layer);
    int ret;

    m->layer = layer;
    while (m->count < MIRROR_LEGS && m->specs[m->count])
        m->count++;
    for (unsigned i = m->count; i < MIRROR_LEGS; i++)
        if (m->specs[i])
            return dt_fail(err, -EINVAL, "leg%u is missing before leg%u", m->count + 1, i + 1);
    ret = open_legs(m, err);
    if (ret < 0)
        mirror_close(layer);
    return ret;
}

static int mirror_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct mirror *m = dt_layer_data(layer);

    *info = m->info;
    return 0;
}

static int mirror_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    struct mirror *m = dt_layer_data(layer);
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < m->count; i++)
        if (m->legs[i].dev)
            ret = device_fence(m->legs[i].dev, err);
    return ret;
}

/* ---- On its thread --------------------------------------------------------------------------- */

static void run_tick(struct dt_timer *timer)
{
    struct mirror *m = container_of(timer, struct mirror, tick);
    uint64_t now = dt_clock_ns();

    dt_timer_set(m->c, timer, now + MIN(MIN(m->retry, m->settle), DT_S(1)));
    if (patience_over(&m->patience, now) && !m->running)
        mirror_let_go(m);
    if (rests(&m->rest, m->c))
        return;
    resync_kick(m);
    if (!m->running) {
        if (m->changed)
            mirror_record(m);
        return;
    }
    if (now >= m->next_clean) {
        m->next_clean = now + m->settle;
        intent_clean(m);
    }
    if (now >= m->next_probe) {
        m->next_probe = now + m->retry;
        mirror_probe(m);
    }
}

static void run_copy(struct dt_timer *timer)
{
    resync_kick(container_of(timer, struct mirror, copy_timer));
}

static void take_memory(struct mirror *m)
{
    m->fans = xaligned(CACHE_LINE, MIRROR_FANS * sizeof(struct fan));
    for (unsigned i = 0; i < MIRROR_FANS; i++) {
        m->fans[i].next = m->fan_free;
        m->fan_free = &m->fans[i];
    }
    m->set = xcalloc(1, sizeof(*m->set));
    m->durable = xcalloc(1, sizeof(*m->durable));
    m->writing = xcalloc(1, sizeof(*m->writing));
    m->bitmap = xaligned(META_BLOCK, META_BLOCK);
    m->copy = xaligned(META_BLOCK, COPY_BYTES);
    m->scratch = xaligned(META_BLOCK, (size_t)m->count * META_SECTORS * DT_SECTOR_SIZE);
}

static void mirror_stop(struct dt_ctx *c)
{
    struct mirror *m = c->layer_data;

    dt_timer_cancel(c, &m->tick);
    dt_timer_cancel(c, &m->copy_timer);
    for (unsigned i = 0; i < m->count; i++)
        if (m->legs[i].dev)
            device_stop(m->legs[i].dev);
    free(m->fans);
    free(m->set);
    free(m->durable);
    free(m->writing);
    free(m->bitmap);
    free(m->copy);
    free(m->scratch);
    free(m->flags);
    free(m->busy);
    /* All that a start finds out is forgotten, all that open() did is kept. */
    memset((char *)m + offsetof(struct mirror, sb), 0, sizeof(*m) - offsetof(struct mirror, sb));
    for (unsigned i = 0; i < m->count; i++)
        m->legs[i] = (struct leg){.m = m,
                                  .index = i,
                                  .dev = m->legs[i].dev,
                                  .state = m->legs[i].dev ? LEG_STALE : LEG_ABSENT,
                                  .block = m->legs[i].block};
}

static int mirror_start(struct dt_ctx *c, struct dt_error *err)
{
    struct mirror *m = c->layer_data;
    int ret = 0;

    m->c = c;
    take_memory(m);
    fan_list_init(&m->intents);
    fan_list_init(&m->blocked);
    fan_list_init(&m->acks);
    mirror_waits_init(&m->waits);
    m->copying = NO_REGION;
    m->tick.fire = run_tick;
    m->copy_timer.fire = run_copy;
    for (unsigned i = 0; ret == 0 && i < m->count; i++)
        if (m->legs[i].dev)
            ret = leg_start(&m->legs[i], err);
    if (ret < 0) {
        mirror_stop(c);
        return ret;
    }
    dt_timer_set(c, &m->tick, dt_clock_ns() + MIN(m->settle, DT_S(1)));
    mirror_assemble(m);
    return 0;
}

static unsigned mirror_admit(struct dt_ctx *c, unsigned want)
{
    const struct mirror *m = c->layer_data;

    for (unsigned i = 0; i < m->count && want; i++)
        if (leg_active(&m->legs[i]))
            want = lane_admit(m->legs[i].lane, want);
    return want;
}

/* Legs let go of what they hold; the mirror's own work rests. */
static void mirror_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct mirror *m = c->layer_data;

    rest_begin(&m->rest, deadline);
    patience_begin(&m->patience, dt_clock_ns(), deadline);
    for (unsigned i = 0; i < m->count; i++)
        if (m->legs[i].dev)
            lane_release(m->legs[i].lane, deadline);
    if (!m->running)
        dt_timer_set(c, &m->tick, m->patience.ends);
}

const struct dt_block_ext blk_mirror = {
    DT_BLOCK_EXT_HEADER,
    .name = "mirror",
    .summary = "The same disk on several legs, each a chain of its own",
    .help = "Writes go to all, reads to the fastest. A leg that fails is done without, and brought "
            "up to "
            "date when it is back; after a crash only what may differ is copied. Each leg keeps "
            "128 KiB "
            "of metadata behind the data.",
    .flags = DT_BACK,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_STABLE,
    .params = params,
    .counters = counters,
    .verbs = mirror_verbs,
    .layer_size = sizeof(struct mirror),
    .frame_size = sizeof(struct mirror_wait),
    .open = mirror_open,
    .close = mirror_close,
    .start = mirror_start,
    .stop = mirror_stop,
    .info = mirror_info,
    .submit = mirror_submit,
    .admit = mirror_admit,
    .quiesce = mirror_quiesce,
    .cancel = mirror_cancel,
    .fence = mirror_fence,
    .read_early = mirror_read_early,
    .status = mirror_status,
};
