/* SPDX-License-Identifier: MIT */
/*
 * region.c - which parts of the disk are being written.
 *
 * A region is opened by its bit in the map, flushed before the first write to it goes down; while it is open,
 * writes cost nothing here. It is closed when no write is under way in it and all of them are durable, with their
 * checksums, and either it has been quiet for some flushes or too many are open; that is
 * written without a flush, for a bit that stays set does no harm. One round of writes to the map at a
 * time takes all that was asked for meanwhile.
 */
#include "blk/integrity/internal.h"

#define QUIET_ERAS 8u

static void round_begin(struct integrity_ctx *ic);

void integrity_regions_start(struct integrity_ctx *ic)
{
    const struct integrity *w = ic->c->layer_data;

    integrity_jobs_init(&ic->open_wait);
    integrity_jobs_init(&ic->open_round);
    ic->sectors = xcalloc(w->at.map_sectors, sizeof(*ic->sectors));
}

/* ---- A job's regions ---- */

static uint64_t first_region(const struct integrity *w, const struct integrity_job *job)
{
    return integrity_region(w, job->first);
}

static uint64_t last_region(const struct integrity *w, const struct integrity_job *job)
{
    return integrity_region(w, job->first + job->count - 1);
}

static bool all_open(const struct integrity *w, const struct integrity_job *job)
{
    for (uint64_t r = first_region(w, job); r <= last_region(w, job); r++)
        if (!(w->flags[r] & REGION_OPEN))
            return false;
    return true;
}

void integrity_regions_open(struct integrity_job *job)
{
    struct integrity_ctx *ic = job->iio->c->data;
    struct integrity *w = job->iio->c->layer_data;

    for (uint64_t r = first_region(w, job); r <= last_region(w, job); r++)
        w->busy[r]++;
    job->busy = true;
    if (all_open(w, job)) {
        integrity_opened(job);
        return;
    }
    integrity_jobs_add(&ic->open_wait, job);
    if (!ic->marking)
        round_begin(ic);
}

void integrity_regions_done(struct integrity_job *job)
{
    struct integrity *w = job->iio->c->layer_data;

    for (uint64_t r = first_region(w, job); r <= last_region(w, job); r++) {
        w->busy[r]--;
        w->used[r] = w->era;
    }
}

static void make_suspect(struct integrity *w, uint64_t region)
{
    w->nsuspect += !(w->flags[region] & REGION_SUSPECT);
    w->flags[region] |= REGION_SUSPECT;
}

void integrity_regions_suspect(struct integrity_job *job)
{
    struct integrity *w = job->iio->c->layer_data;

    for (uint64_t r = first_region(w, job); r <= last_region(w, job); r++)
        make_suspect(w, r);
}

void integrity_suspect_open(struct integrity *w)
{
    for (uint64_t i = 0; i < w->nopen; i++)
        make_suspect(w, w->open_list[i]);
}

/* ---- A round ---- */

static void round_end(struct integrity_ctx *ic, int error)
{
    struct integrity *w = ic->c->layer_data;
    struct integrity_jobs round = ic->open_round;
    struct integrity_job *job = round.head, *next;

    integrity_jobs_init(&ic->open_round);
    ic->marking = false;
    for (struct integrity_job *j = job; j && !error; j = j->next)
        for (uint64_t r = first_region(w, j); r <= last_region(w, j); r++) {
            if (w->flags[r] & REGION_OPEN)
                continue;
            w->flags[r] |= REGION_OPEN;
            w->open_list[w->nopen++] = (uint32_t)r;
            dt_count(ic->c, OPENED, 1);
        }
    for (; job; job = next) {
        next = job->next;
        job->error = error;
        integrity_opened(job);
    }
    if (w->nopen > w->open_max)
        integrity_flush_own(ic);
    if (!ic->marking && ic->open_wait.head)
        round_begin(ic);
    dt_busy_end(ic->c);
}

static void synced(struct dt_io *io, int result)
{
    round_end(container_of(io, struct integrity_ctx, sync), result);
}

static void sector_written(struct dt_io *io, int result);

static void write_sector(struct integrity_map_io *mio)
{
    struct integrity_ctx *ic = mio->ic;
    struct integrity *w = ic->c->layer_data;
    uint64_t sector = ic->sectors[ic->next_sector++];

    mio->iov = (struct iovec){&w->map[sector], sizeof(w->map[sector])};
    mio->io.done = sector_written;
    ic->map_pending++;
    dt_io_writev(ic->c, &mio->io, w->file.map_fd, &mio->iov, 1,
                 INTEGRITY_MAP_OFFSET + sector * sizeof(w->map[sector]));
}

static void map_written(struct integrity_ctx *ic)
{
    const struct integrity *w = ic->c->layer_data;

    if (ic->map_error || !ic->open_round.head) {
        round_end(ic, ic->map_error);
        return;
    }
    ic->sync.done = synced;
    dt_io_fdatasync(ic->c, &ic->sync, w->file.map_fd);
}

static void sector_written(struct dt_io *io, int result)
{
    struct integrity_map_io *mio = container_of(io, struct integrity_map_io, io);
    struct integrity_ctx *ic = mio->ic;

    if (result != (int)sizeof(struct integrity_map_sector))
        ic->map_error = result < 0 ? result : -EIO;
    ic->map_pending--;
    if (ic->next_sector < ic->nsectors && !ic->map_error)
        write_sector(mio);
    else if (ic->map_pending == 0)
        map_written(ic);
}

static void change(struct integrity_ctx *ic, uint64_t region, bool on)
{
    struct integrity *w = ic->c->layer_data;
    uint64_t sector = region / INTEGRITY_BITS;

    integrity_bit_set(w->map, region, on);
    for (uint64_t i = 0; i < ic->nsectors; i++)
        if (ic->sectors[i] == sector)
            return;
    ic->sectors[ic->nsectors++] = (uint32_t)sector;
}

static bool may_close(const struct integrity *w, uint64_t r)
{
    return w->busy[r] == 0 && w->used[r] <= w->settled && !(w->flags[r] & REGION_SUSPECT);
}

/* @all that may be, or those that were quiet. */
static void close_some(struct integrity_ctx *ic, bool all)
{
    struct integrity *w = ic->c->layer_data;
    uint64_t kept = 0;

    for (uint64_t i = 0; i < w->nopen; i++) {
        uint32_t r = w->open_list[i];

        if (may_close(w, r) && (all || w->era - w->used[r] > QUIET_ERAS)) {
            w->flags[r] &= (uint8_t)~REGION_OPEN;
            change(ic, r, false);
        } else {
            w->open_list[kept++] = r;
        }
    }
    w->nopen = kept;
}

static void round_begin(struct integrity_ctx *ic)
{
    struct integrity *w = ic->c->layer_data;
    struct integrity_job *job;

    ic->nsectors = ic->next_sector = 0;
    ic->map_error = 0;
    close_some(ic, w->nopen > w->open_max);
    while ((job = integrity_jobs_take(&ic->open_wait)) != NULL) {
        for (uint64_t r = first_region(w, job); r <= last_region(w, job); r++)
            change(ic, r, true);
        integrity_jobs_add(&ic->open_round, job);
    }
    if (ic->nsectors == 0)
        return;
    ic->marking = true;
    dt_busy_begin(ic->c);
    for (uint64_t i = 0; i < ic->nsectors; i++)
        integrity_map_seal(&w->map[ic->sectors[i]], ic->sectors[i]);
    for (unsigned i = 0; i < INTEGRITY_MAP_IOS && ic->next_sector < ic->nsectors; i++) {
        ic->map_ios[i].ic = ic;
        write_sector(&ic->map_ios[i]);
    }
}

void integrity_settled(struct integrity_ctx *ic, uint64_t era)
{
    struct integrity *w = ic->c->layer_data;

    w->settled = MAX(w->settled, era);
    if (!ic->marking)
        round_begin(ic);
}

void integrity_regions_stop(struct integrity_ctx *ic)
{
    struct integrity *w = ic->c->layer_data;
    bool good = true;

    ic->nsectors = 0;
    if (!w->failed)
        close_some(ic, true);
    for (uint64_t i = 0; i < ic->nsectors && good; i++) {
        uint32_t sector = ic->sectors[i];

        integrity_map_seal(&w->map[sector], sector);
        good = storefile_write(w->file.map_fd, &w->map[sector], sizeof(w->map[sector]),
                               INTEGRITY_MAP_OFFSET + sector * sizeof(w->map[sector])) == 0;
    }
    free(ic->sectors);
}
