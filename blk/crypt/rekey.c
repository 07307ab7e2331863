/* SPDX-License-Identifier: MIT */
/*
 * rekey.c - the volume key changes while the guest works.
 *
 * Theory of operation: cryptsetup has prepared the change (`cryptsetup reencrypt --init-only`): the header has
 * both keys, and says for each part of the disk which holds there. From then on this is what `cryptsetup
 * reencrypt` would do, in the same steps and metadata, so that either continues where the other stopped. The
 * disk is taken zone by zone from its start:
 *
 *   1. The zone is locked; the guest's requests for it wait, all others pass.
 *   2. Its blocks are read, and their checksums go to the key slot's area; or they themselves do, as a journal.
 *   3. The header says: this zone is hot. From here on a crash leaves old and new blocks.
 *   4. Each block whose checksum is the stored one is still old: it is given the new key. All are written. With a journal,
 *      all blocks are old: those in the journal.
 *   5. The header says: up to the end of the zone the key is new. The zone is unlocked.
 *
 * Each step is durable before the next begins, and each copy of the header before the other is touched. Step 4 is also
 * the recovery: whoever finds a hot zone repeats it. A process that takes over may have read the
 * header while a dead one's writes were in flight, so each begins by reading it again, with the
 * whole disk locked. An I/O error does the same, a second later, with the zone still locked: what is on the disk decides how
 * to go on. With the last zone the header forgets the old key, and its key slots are wiped.
 */
#include "blk/crypt/internal.h"

#include <openssl/evp.h>

#define ZONE     (1u << 20) /* locked at a time: some milliseconds of work */
#define PIECE    (256u << 10)
#define SUMS     (ZONE / DT_SECTOR_SIZE * LUKS2_HASH)
#define RETRY_NS DT_S(1)

/**
 * struct rekey - places are bytes of the data.
 * @most: the longest zone. @at: the key is new before it. @length: of the zone. @done: of the zone, already dealt with.
 * @idle: nothing is under way: between zones while the layer quiesces, or until @timer after an error.
 */
struct rekey {
    struct dt_ctx *c;
    struct crypt *crypt;
    struct xts *fresh;
    struct luks2 luks;
    uint64_t total, most, at, length, done;
    struct dt_range zone;
    bool locked, idle, failed, quiet, finished;
    struct dt_timer timer;
    uint8_t *data, *sums, *header;
    struct luks2_area areas[LUKS2_SLOTS];
    int areas_left;

    /* The transfer under way, and what comes after it; places are bytes of the disk below. */
    enum dt_op op;
    uint64_t place, left;
    struct iovec iov;
    void (*then)(struct rekey *r);
    void (*header_then)(struct rekey *r);
};

static void next_zone(struct rekey *r);
static void read_header(struct rekey *r);

/* ---- Transfers -------------------------------------------------------------------------------- */

static void fail(struct rekey *r, const char *what, int error)
{
    if (!r->failed)
        dt_layer_event(r->c->layer, "rekey-stalled", "%s at %llu of %llu bytes: %s; trying again",
                       what, (unsigned long long)r->at, (unsigned long long)r->total,
                       strerror(-error));
    r->failed = r->idle = true;
    dt_timer_set(r->c, &r->timer, dt_clock_ns() + RETRY_NS);
}

static void next_piece(struct rekey *r);

static void piece_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct rekey *r = dt_sub_arg(sub);
    uint64_t bytes = dt_req_bytes(sub);
    int error = sub->error;

    dt_sub_free(c, sub);
    if (error) {
        fail(r, dt_op_name(r->op), error);
        return;
    }
    r->place += bytes;
    r->left -= bytes;
    r->iov.iov_base = (uint8_t *)r->iov.iov_base + bytes;
    if (r->left)
        next_piece(r);
    else
        r->then(r);
}

static void next_piece(struct rekey *r)
{
    uint32_t most = dt_layer_info(r->c->layer)->max_sectors;
    uint64_t bytes = MIN(r->left, (uint64_t)PIECE);
    struct dt_req *sub;

    if (most)
        bytes = MIN(bytes, (uint64_t)most << DT_SECTOR_SHIFT);
    r->iov.iov_len = bytes;
    sub = dt_sub_new(r->c, r->op, r->place >> DT_SECTOR_SHIFT, (uint32_t)(bytes >> DT_SECTOR_SHIFT),
                     &r->iov, r->op == DT_OP_FLUSH ? 0 : 1, piece_done, r);
    CHECK(sub); /* one at a time */
    dt_sub_submit(r->c, sub);
}

static void transfer(struct rekey *r, enum dt_op op, uint64_t place, uint8_t *data, uint64_t bytes,
                     void (*then)(struct rekey *r))
{
    r->op = op;
    r->place = place;
    r->left = bytes;
    r->iov.iov_base = data;
    r->then = then;
    next_piece(r);
}

static void flush(struct rekey *r, void (*then)(struct rekey *r))
{
    if (dt_layer_info(r->c->layer)->can_flush)
        transfer(r, DT_OP_FLUSH, 0, NULL, 0, then);
    else
        then(r);
}

/* ---- The header, one copy after the other ------------------------------------------------------ */

static void second_written(struct rekey *r)
{
    flush(r, r->header_then);
}

static void write_copy(struct rekey *r, unsigned copy, void (*then)(struct rekey *r))
{
    int ret = luks2_write(&r->luks, copy, r->header);

    if (ret < 0)
        fail(r, "the header", ret);
    else
        transfer(r, DT_OP_WRITE, copy * r->luks.size, r->header, r->luks.size, then);
}

static void first_durable(struct rekey *r)
{
    write_copy(r, 1, second_written);
}

static void first_written(struct rekey *r)
{
    flush(r, first_durable);
}

static void write_header(struct rekey *r, void (*then)(struct rekey *r))
{
    r->header_then = then;
    write_copy(r, 0, first_written);
}

/* ---- The end ------------------------------------------------------------------------------------ */

static void unlock(struct rekey *r)
{
    if (!r->locked)
        return;
    r->locked = false;
    dt_range_unlock(r->c, &r->zone);
}

/* Requests that are on their way have their locks, and give them back as they come. */
static void finished(struct rekey *r)
{
    struct crypt *crypt = r->crypt;
    struct xts *old = crypt->threads[0];

    crypt->threads[0] = r->fresh;
    r->fresh = old;
    r->finished = r->idle = true;
    unlock(r);
    dt_layer_event(r->c->layer, "rekey-done", "the disk has its new key");
}

/* The old key's slots, with zeroes. */
static void wipe(struct rekey *r)
{
    struct luks2_area *area;
    uint64_t bytes, at;

    if (r->areas_left == 0) {
        flush(r, finished);
        return;
    }
    area = &r->areas[r->areas_left - 1];
    bytes = MIN(area->size, (uint64_t)ZONE);
    at = area->offset;
    area->offset += bytes;
    area->size -= bytes;
    if (area->size == 0)
        r->areas_left--;
    memset(r->data, 0, bytes);
    transfer(r, DT_OP_WRITE, at, r->data, bytes, wipe);
}

/* ---- Step 5 --------------------------------------------------------------------------------------- */

static void committed(struct rekey *r)
{
    dt_count(r->c, REKEYED, r->length);
    r->at += r->length;
    r->failed = false;
    if (r->at >= r->total) {
        wipe(r);
        return;
    }
    unlock(r);
    next_zone(r);
}

static void commit(struct rekey *r)
{
    const struct luks2_change *change = &r->crypt->volume.change;
    uint64_t at = r->at + r->length;

    if (at < r->total)
        luks2_set_progress(&r->luks, change, at, 0, r->total);
    else
        r->areas_left = luks2_finish(&r->luks, change, r->areas);
    write_header(r, committed);
}

/* ---- Step 4 --------------------------------------------------------------------------------------- */

static bool checksum(const struct rekey *r, uint64_t at, uint8_t *sum)
{
    return EVP_Digest(r->data + at, r->crypt->volume.change.block, sum, NULL, EVP_sha256(), NULL) ==
           1;
}

static void change_key(struct rekey *r, uint64_t at)
{
    uint32_t block = r->crypt->volume.change.block;
    struct iovec iov = {r->data + at, block};
    uint64_t iv = (r->at + r->done + at) >> DT_SECTOR_SHIFT;

    xts_decrypt(r->crypt->threads[0], iv, r->data + at, block, &iov, 1, 0);
    xts_encrypt(r->fresh, iv, &iov, 1, 0, r->data + at, block);
}

static uint64_t chunk(const struct rekey *r)
{
    return MIN(r->length - r->done, (uint64_t)ZONE);
}

static void read_chunk(struct rekey *r);

static void chunk_written(struct rekey *r)
{
    r->done += chunk(r);
    if (r->done < r->length)
        read_chunk(r);
    else
        flush(r, commit);
}

static bool is_old(const struct rekey *r, uint64_t at)
{
    const struct luks2_change *change = &r->crypt->volume.change;
    uint8_t sum[LUKS2_HASH];

    if (change->journal)
        return true;
    CHECK(checksum(r, at, sum));
    return memcmp(sum, r->sums + at / change->block * LUKS2_HASH, sizeof(sum)) == 0;
}

/* The chunk is in memory, and its checksums are. */
static void convert(struct rekey *r)
{
    uint64_t bytes = chunk(r);

    for (uint64_t at = 0; at < bytes; at += r->crypt->volume.change.block)
        if (is_old(r, at))
            change_key(r, at);
    transfer(r, DT_OP_WRITE, r->crypt->volume.change.data + r->at + r->done, r->data, bytes,
             chunk_written);
}

static uint64_t sums_bytes(const struct rekey *r)
{
    return ALIGN_UP(chunk(r) / r->crypt->volume.change.block * LUKS2_HASH, (uint64_t)PAGE_SIZE_4K);
}

static void chunk_read(struct rekey *r)
{
    const struct luks2_change *change = &r->crypt->volume.change;

    transfer(r, DT_OP_READ, change->area + r->done / change->block * LUKS2_HASH, r->sums,
             sums_bytes(r), convert);
}

static void read_chunk(struct rekey *r)
{
    const struct luks2_change *change = &r->crypt->volume.change;

    if (change->journal)
        transfer(r, DT_OP_READ, change->area + r->done, r->data, chunk(r), convert);
    else
        transfer(r, DT_OP_READ, change->data + r->at + r->done, r->data, chunk(r), chunk_read);
}

/* ---- Steps 1 to 3 --------------------------------------------------------------------------------- */

static void saved_durable(struct rekey *r)
{
    luks2_set_progress(&r->luks, &r->crypt->volume.change, r->at, r->length, r->total);
    write_header(r, convert);
}

static void saved(struct rekey *r)
{
    flush(r, saved_durable);
}

static void zone_read(struct rekey *r)
{
    const struct luks2_change *change = &r->crypt->volume.change;

    if (change->journal) {
        transfer(r, DT_OP_WRITE, change->area, r->data, r->length, saved);
        return;
    }
    memset(r->sums, 0, SUMS);
    for (uint64_t at = 0; at < r->length; at += change->block)
        CHECK(checksum(r, at, r->sums + at / change->block * LUKS2_HASH));
    transfer(r, DT_OP_WRITE, change->area, r->sums, sums_bytes(r), saved);
}

static void zone_locked(struct dt_ctx *c, struct dt_range *range)
{
    struct rekey *r = container_of(range, struct rekey, zone);

    r->locked = true;
    r->done = 0;
    transfer(r, DT_OP_READ, r->crypt->volume.change.data + r->at, r->data, r->length, zone_read);
}

static void next_zone(struct rekey *r)
{
    r->idle = r->quiet;
    if (r->quiet)
        return;
    r->length = MIN(r->total - r->at, r->most);
    r->zone.granted = zone_locked;
    if (dt_range_lock(r->c, &r->zone, r->at >> DT_SECTOR_SHIFT, r->length >> DT_SECTOR_SHIFT))
        zone_locked(r->c, &r->zone);
}

/* ---- What the disk says ----------------------------------------------------------------------- */

/* Is this the change whose keys we have? */
static bool same_change(const struct rekey *r, const struct luks2_change *now)
{
    const struct luks2_change *then = &r->crypt->volume.change;

    return now->data == then->data && now->unit == then->unit && now->block == then->block &&
           now->area == then->area && now->journal == then->journal &&
           now->at + now->hot <= r->total && !strcmp(now->old, then->old) &&
           !strcmp(now->fresh, then->fresh);
}

static void header_read(struct rekey *r)
{
    struct luks2_change now;
    struct dt_error err;
    const char *why;
    int ret;

    luks2_free(&r->luks);
    ret = luks2_read(&r->luks, r->header, r->crypt->volume.header, &err);
    if (ret == 0)
        ret = luks2_change(r->luks.json, &now, &why);
    else
        ret = -EBADMSG;
    if (ret == 0 && luks2_slots(r->luks.json, r->crypt->volume.change.fresh) &&
        !luks2_slots(r->luks.json, r->crypt->volume.change.old)) {
        r->at = r->total; /* we, or whoever had the disk before us, had come to the end */
        wipe(r);
        return;
    }
    if (ret != 1 || !same_change(r, &now)) {
        fail(r, "the header is not what it was", ret < 0 ? ret : -ESTALE);
        return;
    }
    r->at = now.at;
    r->length = now.hot;
    r->done = 0;
    if (now.hot) {
        read_chunk(r);
        return;
    }
    unlock(r);
    next_zone(r);
}

static void read_header(struct rekey *r)
{
    r->idle = false;
    transfer(r, DT_OP_READ, 0, r->header, 2 * r->crypt->volume.header, header_read);
}

static void fire(struct dt_timer *timer)
{
    struct rekey *r = container_of(timer, struct rekey, timer);

    r->quiet = false;
    if (!r->idle || r->finished)
        return;
    if (r->failed)
        read_header(r);
    else
        next_zone(r);
}

/* ---- Life ----------------------------------------------------------------------------------------- */

int rekey_new(struct dt_layer *layer, struct dt_error *err)
{
    struct crypt *crypt = dt_layer_data(layer);
    const struct volume *v = &crypt->volume;
    uint64_t total = (dt_layer_info(layer)->sectors - v->offset) << DT_SECTOR_SHIFT;
    struct rekey *r;
    int ret;

    total -= total % MAX(v->unit, dt_layer_info(layer)->logical_block);
    if (total % v->change.block)
        return dt_fail(err, -EBUSY,
                       "the disk is being re-encrypted, which cannot go on here: its size is not a "
                       "multiple of %u; finish it with 'cryptsetup reencrypt --resume-only'",
                       v->change.block);
    r = xcalloc(1, sizeof(*r));
    ret = xts_new(&r->fresh, v->fresh.bytes, v->fresh.length, v->unit, err);
    if (ret < 0) {
        free(r);
        return ret;
    }
    r->crypt = crypt;
    r->total = total;
    r->most =
        v->change.journal ? MIN(ALIGN_DOWN(v->change.area_size, 4096u), (uint64_t)ZONE) : ZONE;
    r->at = v->change.at;
    r->data = xaligned(PAGE_SIZE_4K, ZONE);
    r->sums = xaligned(PAGE_SIZE_4K, SUMS);
    r->header = xaligned(PAGE_SIZE_4K, 2 * v->header);
    r->timer.fire = fire;
    crypt->rekey = r;
    return 0;
}

void rekey_free(struct crypt *crypt)
{
    struct rekey *r = crypt->rekey;

    if (!r)
        return;
    xts_free(r->fresh);
    luks2_free(&r->luks);
    explicit_bzero(r->data, ZONE);
    free(r->data);
    free(r->sums);
    free(r->header);
    free(r);
    crypt->rekey = NULL;
}

/* Nobody else has a lock yet. */
int rekey_start(struct dt_ctx *c)
{
    struct crypt *crypt = c->layer_data;
    struct rekey *r = crypt->rekey;

    if (!r || r->finished)
        return 0;
    r->c = c;
    r->locked = dt_range_lock(c, &r->zone, 0, r->total >> DT_SECTOR_SHIFT);
    CHECK(r->locked);
    read_header(r);
    return 0;
}

void rekey_stop(struct dt_ctx *c)
{
    struct crypt *crypt = c->layer_data;

    if (!crypt->rekey)
        return;
    dt_timer_cancel(c, &crypt->rekey->timer);
    unlock(crypt->rekey);
}

/* The zone under way is brought to its end. Should the disk go on after all, so does this. */
void rekey_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct crypt *crypt = c->layer_data;
    struct rekey *r = crypt->rekey;

    if (!r || r->finished)
        return;
    r->quiet = true;
    dt_timer_set(c, &r->timer, r->failed ? dt_clock_ns() : deadline + RETRY_NS);
}

struct xts *rekey_fresh(const struct rekey *r, uint64_t *until)
{
    /* When it is finished the new key is the only one. */
    *until = r->finished ? 0 : r->at >> DT_SECTOR_SHIFT;
    return r->fresh;
}
