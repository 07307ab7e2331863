/* SPDX-License-Identifier: MIT */
/*
 * write.c - writes that are more than one transfer to slots that are there, and what discards and
 * zeroes ranges. All of them under the lock of their blocks.
 *
 * Writeback: where every block has a slot or gets one, the guest's data goes straight into the
 * slots, and the map says so when it has landed. A block that is not here and is written in part,
 * or for which its set has no room, goes below.
 *
 * Writethrough: straight below, where no block is here. Else through memory of ours, since two
 * places must get the same bytes: blocks that are here are taken out of the index first, then the
 * disk below is written, then their slots; so a crash never leaves the file with what the disk has
 * not.
 *
 * In both modes a *bound* block, one whose slot is dirty or named by the map on the medium, is
 * written in its slot: after a crash that slot would hide anything newer below.
 */
#include "blk/cache/internal.h"

static void write_piece(struct job *job);

static uint32_t most_blocks(const struct cache *k)
{
    return BUFFER >> (k->shift + DT_SECTOR_SHIFT);
}

/* Is all of block @i of the piece written? */
static bool covered(const struct job *job, uint32_t i)
{
    uint64_t sector = (job->first + i) << job->k->shift, end = (job->first + i + 1)
                                                               << job->k->shift;

    return sector >= job->at && end <= job->at + job->sectors;
}

/* Slots for what is missing and written as a whole. Those that are here are pinned, or they might
 * be what makes room. Return: how many blocks have none. */
static unsigned allocate(struct job *job)
{
    unsigned missing = 0;

    for (uint32_t i = 0; i < job->blocks; i++) {
        if (job->slots[i] != SLOT_NONE)
            continue;
        if (covered(job, i))
            job->slots[i] = index_take(job->k, job->first + i);
        job->fresh[i] = job->slots[i] != SLOT_NONE;
        missing += !job->fresh[i];
    }
    return missing;
}

static void give_back(struct job *job, uint8_t *which)
{
    for (uint32_t i = 0; i < job->blocks; i++) {
        if (!which[i])
            continue;
        index_give_back(job->k, job->slots[i]);
        job->slots[i] = SLOT_NONE;
        which[i] = 0;
    }
}

static void enter(struct job *job, uint8_t *which, bool dirty)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (which[i])
            index_set(job->k, job->slots[i], job->first + i, dirty);
}

/* ---- Below ---------------------------------------------------------------------------------- */

static void forwarded(struct job *job)
{
    struct cache *k = job->k;
    struct dt_req *req = job->req;
    int error = job->error;

    k->commit.below_unflushed = true;
    job_unlock(job);
    job_free(job);
    dt_complete_one(k->c, req, error); /* FUA went with it */
}

static bool any_bound(const struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (job->slots[i] != SLOT_NONE && !job->fresh[i] && slot_bound(job->k, job->slots[i]))
            return true;
    return false;
}

static void drop_unbound(struct job *job)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (job->slots[i] != SLOT_NONE && !slot_bound(job->k, job->slots[i])) {
            index_drop(job->k, job->slots[i]);
            job->slots[i] = SLOT_NONE;
        }
}

/* The whole request; nothing of it is bound. */
static void go_below(struct job *job)
{
    give_back(job, job->fresh);
    job_unpin(job);
    drop_unbound(job);
    dt_count(job->k->c, BYPASSED, 1);
    job_forward(job, forwarded);
}

/* ---- Straight into the slots ---------------------------------------------------------------- */

static void landed(struct job *job)
{
    job_unpin(job);
    if (job->error)
        give_back(job, job->fresh);
    else
        enter(job, job->fresh, true);
    job_end(job);
}

static void mark_dirty(struct job *job, const uint8_t *except)
{
    for (uint32_t i = 0; i < job->blocks; i++)
        if (job->slots[i] != SLOT_NONE && !job->fresh[i] && !except[i])
            index_dirty(job->k, job->slots[i]);
}

static void write_back(struct job *job)
{
    struct cache *k = job->k;
    bool whole;

    job_piece(job, MAX_BLOCKS);
    whole = job_find(job) == 0;
    job_pin(job);
    if (!whole && !any_bound(job) && cache_streams(k, job->req)) {
        go_below(job);
        return;
    }
    whole = allocate(job) == 0;
    if (!whole && !any_bound(job)) {
        go_below(job);
        return;
    }
    mark_dirty(job,
               job->late); /* before the first byte: half a write is no copy of what is below */
    job_go(job, landed);
    if (whole && job_io_guest(job, true)) {
        job_done(job, 0);
        return;
    }
    give_back(job, job->fresh);
    job_unpin(job);
    write_piece(job);
}

/* ---- Through memory of ours ----------------------------------------------------------------- */

static void piece_done(struct job *job)
{
    job_entered(job, job->late);
    job->error = 0; /* the disk below has it */
    job_unpin(job);
    job->done += job->sectors;
    if (job->done < job->req->sectors)
        write_piece(job);
    else
        job_end(job);
}

static void first_places_done(struct job *job)
{
    if (job->error) {
        job_unpin(job);
        give_back(job, job->fresh);
        give_back(job, job->late);
        job_end(job);
        return;
    }
    enter(job, job->fresh, true);
    job_go(job, piece_done);
    job_io_buffer(job, job->late, true, true);
    job_done(job, 0);
}

/* What becomes of each block: @late for those that follow the disk below, slots for what is
 * written at once, and none for what is written below alone. */
static void place(struct job *job)
{
    struct cache *k = job->k;

    for (uint32_t i = 0; k->mode == CACHE_WRITETHROUGH && i < job->blocks; i++) {
        uint32_t slot = job->slots[i];

        if (slot == SLOT_NONE || slot_bound(k, slot))
            continue;
        job->late[i] = k->users[slot] == 0;
        if (job->late[i])
            index_reuse(k, slot);
        else
            index_drop(k, slot);
        if (!job->late[i])
            job->slots[i] = SLOT_NONE;
    }
    job_pin(job);
    if (k->mode == CACHE_WRITEBACK)
        allocate(job);
    job->hull_from = job->hull_to = 0;
    for (uint32_t i = 0; i < job->blocks; i++) {
        bool below = job->slots[i] == SLOT_NONE || job->late[i];

        job->want[i] = !below;
        if (below && job->hull_to == 0)
            job->hull_from = i;
        if (below)
            job->hull_to = i + 1;
    }
    mark_dirty(job, job->late);
}

static void write_piece(struct job *job)
{
    struct cache *k = job->k;
    const struct iovec *iov;
    unsigned n = dt_req_map(k->c, job->req, &iov);
    uint64_t from, until;

    job_piece(job, most_blocks(k));
    job_find(job);
    place(job);
    dt_iov_read(iov, n, job->done << DT_SECTOR_SHIFT,
                job->buffer + ((job->at - (job->first << k->shift)) << DT_SECTOR_SHIFT),
                (size_t)job->sectors << DT_SECTOR_SHIFT);
    dt_count(k->c, COPIED, 1);
    job_go(job, first_places_done);
    job_io_buffer(job, job->want, true, true);
    if (job->hull_to) {
        from = MAX((job->first + job->hull_from) << k->shift, job->at);
        until = MIN((job->first + job->hull_to) << k->shift, job->at + job->sectors);
        job_below(job, DT_OP_WRITE, from, (uint32_t)(until - from));
    }
    job_done(job, 0);
}

static void write_locked(struct job *job)
{
    struct cache *k = job->k;
    unsigned missing;

    if (k->mode == CACHE_WRITEBACK) {
        write_back(job);
        return;
    }
    job_piece(job, MAX_BLOCKS);
    missing = job_find(job);
    if (missing == job->blocks)
        job_forward(job, forwarded);
    else
        write_piece(job);
}

void write_begin(struct cache *k, struct dt_req *req)
{
    struct job *job = job_take(k, req);

    if (!job)
        return;
    dt_count(k->c, WRITE_MISSES, 1);
    job_lock(job, write_locked);
}

/* ---- Discards and zeroes -------------------------------------------------------------------- */

static void range_pieces(struct job *job);

static void range_forwarded(struct job *job)
{
    job->k->commit.below_unflushed = true;
    job_end(job);
}

static void zeroed(struct job *job)
{
    job_unpin(job);
    if (job->error) {
        job_end(job);
        return;
    }
    job->done += job->sectors;
    range_pieces(job);
}

/* Clean blocks leave; bound ones are zeroed in their slots, as below nobody would see it. What is
 * discarded may as well stay as it is. True if the piece needs no I/O. */
static bool range_piece(struct job *job)
{
    bool any = false;

    job_piece(job, most_blocks(job->k));
    job_find(job);
    drop_unbound(job);
    for (uint32_t i = 0; i < job->blocks; i++) {
        job->want[i] = job->req->op == DT_OP_WRITE_ZEROES && job->slots[i] != SLOT_NONE;
        if (!job->want[i])
            job->slots[i] = SLOT_NONE;
        any |= job->want[i];
    }
    return !any;
}

static void range_pieces(struct job *job)
{
    struct cache *k = job->k;

    while (job->done < job->req->sectors && range_piece(job))
        job->done += job->sectors;
    if (job->done == job->req->sectors) {
        job_forward(job, range_forwarded);
        return;
    }
    mark_dirty(job, job->late);
    job_pin(job);
    memset(job->buffer, 0, job->blocks << (k->shift + DT_SECTOR_SHIFT));
    job_go(job, zeroed);
    job_io_buffer(job, job->want, true, true);
    job_done(job, 0);
}

void range_begin(struct cache *k, struct dt_req *req)
{
    struct job *job = job_take(k, req);

    if (job)
        job_lock(job, range_pieces);
}
