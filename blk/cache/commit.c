/* SPDX-License-Identifier: MIT */
/*
 * commit.c - flushes: what was completed must outlive a loss of power.
 *
 * A pass brings the map on the medium to what the slots are: it names the dirty ones, and no longer
 * those that are clean and whose blocks the disk below has flushed. In this order:
 *
 *   1. the file is flushed: the data of all dirty slots is durable;
 *   2. the pages of the map that differ are written; each slot's entry stands alone, so it does
 *      not matter which of them a crash leaves;
 *   3. the file is flushed again.
 *
 * Where nothing in the map changes, as with blocks that were dirty before, 1 is all. A slot whose
 * entry goes away is not used for another block before 3 is done. Flushes that come during a pass
 * share the next.
 *
 * After a flush of the file has failed nobody knows what is on the medium, and asking again would
 * tell lies: every later flush fails.
 */
#include "blk/cache/internal.h"

#include <unistd.h>

static void round_begin(struct cache *k);

/* ---- Pages ---------------------------------------------------------------------------------- */

/* Does a slot differ from its entry on the medium? Then it is, from now on, as it will be there. */
static bool slot_changes(struct cache *k, uint32_t slot)
{
    uint8_t *flags = &k->flags[slot];

    if (slot_dirty(k, slot) && !(*flags & SLOT_KEPT)) {
        *flags |= SLOT_KEPT;
        return true;
    }
    if (slot_valid(k, slot) && !slot_dirty(k, slot) && *flags & SLOT_KEPT && *flags & SLOT_SAFE) {
        *flags = (uint8_t)((*flags | SLOT_LEAVING) & ~(SLOT_KEPT | SLOT_SAFE));
        return true;
    }
    return false;
}

static bool page_changes(struct cache *k, uint64_t page)
{
    uint64_t first = page * CACHE_PAGE_SLOTS, end = MIN(first + CACHE_PAGE_SLOTS, k->slots);
    bool any = false;

    if (!k->page_touched[page])
        return false;
    k->page_touched[page] = false;
    for (uint64_t slot = first; slot < end; slot++)
        any |= slot_changes(k, (uint32_t)slot);
    return any;
}

static void page_build(const struct cache *k, uint64_t page, uint64_t *entries)
{
    uint64_t first = page * CACHE_PAGE_SLOTS;

    for (uint64_t i = 0; i < CACHE_PAGE_SLOTS; i++) {
        uint64_t slot = first + i;
        bool kept = slot < k->slots && k->flags[slot] & SLOT_KEPT;

        entries[i] = kept ? cache_entry(k->super.salt, slot,
                                        (k->index[slot] & CACHE_ENTRY_KEY) | CACHE_ENTRY_DIRTY)
                          : 0;
    }
}

static void page_written(struct cache *k, uint64_t page)
{
    uint64_t first = page * CACHE_PAGE_SLOTS, end = MIN(first + CACHE_PAGE_SLOTS, k->slots);

    for (uint64_t slot = first; slot < end; slot++) {
        if (!(k->flags[slot] & SLOT_LEAVING))
            continue;
        k->flags[slot] &= (uint8_t)~SLOT_LEAVING;
        if (slot_dirty(k, (uint32_t)slot)) /* written meanwhile */
            k->page_touched[page] = true;
    }
}

/* ---- A pass --------------------------------------------------------------------------------- */

static void lost(struct cache *k, int error)
{
    k->commit.error = error;
    if (k->failed)
        return;
    k->failed = true;
    dt_layer_event(k->layer, "cache-failed",
                   "%s: %s; no flush will succeed until it is opened again", k->file.path,
                   strerror(-error));
}

static void pass_end(struct cache *k)
{
    struct commit *m = &k->commit;
    struct frame_list served;
    int error = k->failed ? -EIO : m->error;

    m->active = false;
    frame_list_init(&served);
    frame_list_move(&served, &m->served);
    for (struct cache_frame *fr; (fr = frame_list_take(&served));)
        dt_complete_one(k->c, frame_req(fr), error);
    if ((m->waiting.head || m->wanted) && !m->active)
        commit_want(k);
    destage_kick(k);
}

static void second_sync_done(struct dt_io *io, int result)
{
    struct cache *k = container_of(io, struct cache, commit.sync);
    struct commit *m = &k->commit;

    if (result < 0)
        lost(k, result);
    for (unsigned i = 0; result >= 0 && i < m->npages; i++)
        page_written(k, m->pages[i]);
    if (m->cursor < k->pages && !k->failed)
        round_begin(k);
    else
        pass_end(k);
}

static void pages_done(struct cache *k)
{
    if (k->failed) {
        pass_end(k);
        return;
    }
    k->commit.sync.done = second_sync_done;
    dt_io_fdatasync(k->c, &k->commit.sync, k->file.fd);
}

static void page_done(struct dt_io *io, int result)
{
    struct commit_io *cio = container_of(io, struct commit_io, io);
    struct cache *k = cio->k;

    if (result != (int)CACHE_PAGE_BYTES)
        lost(k, result < 0 ? result : -EIO);
    if (--k->commit.pending == 0)
        pages_done(k);
}

static void pages_write(struct cache *k)
{
    struct commit *m = &k->commit;

    m->pending = m->npages;
    for (unsigned i = 0; i < m->npages; i++) {
        struct commit_io *cio = &m->ios[i];

        page_build(k, m->pages[i], cio->iov.iov_base);
        cio->io.done = page_done;
        dt_io_writev(k->c, &cio->io, k->file.map_fd, &cio->iov, 1,
                     k->super.map_offset + m->pages[i] * CACHE_PAGE_BYTES);
    }
}

static void first_half_done(struct cache *k)
{
    if (--k->commit.pending)
        return;
    if (k->failed || k->commit.npages == 0)
        pass_end(k);
    else
        pages_write(k);
}

static void first_sync_done(struct dt_io *io, int result)
{
    struct cache *k = container_of(io, struct cache, commit.sync);

    if (result < 0)
        lost(k, result);
    first_half_done(k);
}

static void below_flushed(struct dt_ctx *c, struct dt_req *sub)
{
    struct cache *k = dt_sub_arg(sub);

    if (sub->error) {
        k->commit.error = sub->error;
        k->commit.below_unflushed = true;
    }
    dt_sub_free(c, sub);
    first_half_done(k);
}

/* The disk below has to be asked only for what went straight to it. */
static void flush_below(struct cache *k)
{
    struct commit *m = &k->commit;
    struct dt_req *sub;

    if (!m->below_unflushed)
        return;
    m->below_unflushed = false;
    if (!dt_layer_info(k->layer)->can_flush)
        return; /* what it has completed is durable */
    sub = dt_sub_new(k->c, DT_OP_FLUSH, 0, 0, NULL, 0, below_flushed, k);
    CHECK(sub); /* one is always left for it */
    m->pending++;
    dt_sub_submit(k->c, sub);
}

static void round_begin(struct cache *k)
{
    struct commit *m = &k->commit;

    m->pending = 1;
    m->npages = 0;
    for (; m->cursor < k->pages && m->npages < COMMIT_PAGES; m->cursor++)
        if (page_changes(k, m->cursor))
            m->pages[m->npages++] = m->cursor;
    if (m->served.head)
        flush_below(k);
    if (m->unsynced || m->npages) {
        m->unsynced = false;
        m->pending++;
        m->sync.done = first_sync_done;
        dt_io_fdatasync(k->c, &m->sync, k->file.fd);
    }
    first_half_done(k);
}

void commit_want(struct cache *k)
{
    struct commit *m = &k->commit;

    if (m->active) {
        m->wanted = true;
        return;
    }
    m->active = true;
    m->wanted = false;
    m->error = 0;
    m->cursor = 0;
    frame_list_move(&m->served, &m->waiting);
    if (k->failed) {
        pass_end(k);
        return;
    }
    dt_count(k->c, COMMITS, 1);
    round_begin(k);
}

void commit_flush(struct cache *k, struct dt_req *req)
{
    if (k->failed) {
        dt_complete_one(k->c, req, -EIO);
        return;
    }
    frame_list_add(&k->commit.waiting, dt_frame(k->c, req));
    commit_want(k);
}

/* ---- Life ----------------------------------------------------------------------------------- */

int commit_now(struct cache *k)
{
    _cleanup_free_ uint64_t *entries = xaligned(PAGE_SIZE_4K, CACHE_PAGE_BYTES);

    if (fdatasync(k->file.map_fd) < 0)
        return -errno;
    for (uint64_t page = 0; page < k->pages; page++) {
        if (!page_changes(k, page))
            continue;
        page_build(k, page, entries);
        if (storefile_write(k->file.map_fd, entries, CACHE_PAGE_BYTES,
                            k->super.map_offset + page * CACHE_PAGE_BYTES) < 0)
            return -EIO;
    }
    return fdatasync(k->file.map_fd) < 0 ? -errno : 0;
}

void commit_init(struct cache *k)
{
    struct commit *m = &k->commit;

    frame_list_init(&m->waiting);
    frame_list_init(&m->served);
    m->buffer = xaligned(PAGE_SIZE_4K, COMMIT_PAGES * CACHE_PAGE_BYTES);
    for (unsigned i = 0; i < COMMIT_PAGES; i++)
        m->ios[i] = (struct commit_io){
            .k = k, .iov = {(char *)m->buffer + i * CACHE_PAGE_BYTES, CACHE_PAGE_BYTES}};
    /* What went to the disk below before us was perhaps not flushed. */
    m->unsynced = m->below_unflushed = true;
}

void commit_fini(struct cache *k)
{
    CHECK(!k->commit.active && !k->commit.waiting.head);
    free(k->commit.buffer);
}
