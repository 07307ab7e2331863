/* SPDX-License-Identifier: MIT */
/*
 * recover.c - replaying what the journal tells since the root: devtap-pool(5), RECOVERY.
 *
 * Theory of operation: first the journal's end is found and judged, and every block that a record
 * names is reserved, so that replaying cannot take it for a node. Then the records are carried out
 * by the same code that carried them out before. They may be about as many leaves as there are records, all over the
 * pool; so these are asked for before, level by level, and the store reads them all at once. Until the new root is durable nothing is changed
 * that the old one reaches, so a crash on the way is harmless.
 *
 * Where a map that a record is about cannot be read any more, what it says is lost, and nobody is there to be told. Then the disk is
 * marked as damaged, and not written from now on; the pointer to the node is spoilt, so that what is older than the record never
 * appears again; and all else goes on.
 */
#include "parallax/internal.h"

#define LOOK_AHEAD 256u

struct replay {
    struct pool *pool;
    struct px_journal *blocks;
    uint64_t n, room;
    uint64_t generation; /* of the block that is read next */
    uint64_t closed;     /* so many are durable, and followed by another generation */
    uint64_t flushed;    /* all below this number are durable */
    uint64_t end_n;      /* the journal ends in this block... */
    uint32_t end_at;     /* ...before this byte */
    uint64_t records;
    struct past_note note; /* of the last stamp */
    uint64_t *wanted;      /* blocks that will be read soon */
    size_t wanted_n, wanted_room;
};

static int get_block(struct replay *r, uint64_t seq, struct px_journal *block)
{
    struct journal *j = &r->pool->journal;

    return r->pool->store->get(r->pool->store, block, j->first + seq % j->blocks, 1);
}

/* Blocks behind @end, which is missing, that are valid and know that the end is durable tell of
 * damage, not of a crash. */
static int look_ahead(struct replay *r, uint64_t end, struct dt_error *err)
{
    const struct journal *j = &r->pool->journal;
    _cleanup_free_ struct px_journal *block = xaligned(PX_BLOCK, PX_BLOCK);

    for (uint64_t i = 1; i < MIN(j->blocks - r->n, (uint64_t)LOOK_AHEAD); i++) {
        int ret = get_block(r, end + i, block);

        if (ret == 0 && journal_judge(block, r->generation, end + i) && block->flushed > end)
            return dt_fail(err, -EBADMSG,
                           "%s is damaged: block %llu of its journal was flushed and is not there; "
                           "what was written after it would be lost",
                           r->pool->store->name, (unsigned long long)end);
    }
    return 0;
}

/* For another block. */
static void make_room(struct replay *r)
{
    size_t room = MAX(2 * r->room, (uint64_t)16);
    struct px_journal *blocks;

    if (r->n < r->room)
        return;
    blocks = xaligned(PX_BLOCK, room * PX_BLOCK);
    if (r->n)
        memcpy(blocks, r->blocks, r->n * PX_BLOCK);
    free(r->blocks);
    r->blocks = blocks;
    r->room = room;
}

/* Does it follow the one before it? Else what is there of that is an earlier form of it. The first of a generation
 * follows none. */
static bool follows(const struct replay *r, uint64_t n)
{
    uint32_t before = n == r->closed ? 0 : r->blocks[n - 1].crc;

    return r->blocks[n].previous == before;
}

/* Blocks up to @end, or to the first that is not one; -errno. */
static int read_blocks(struct replay *r, uint64_t end, struct dt_error *err)
{
    const struct journal *j = &r->pool->journal;

    for (; r->n < end; r->n++) {
        int ret;

        make_room(r);
        ret = get_block(r, j->start + r->n, &r->blocks[r->n]);
        if (ret < 0)
            return dt_fail(err, ret, "%s: its journal cannot be read: %s", r->pool->store->name,
                           strerror(-ret));
        if (!journal_judge(&r->blocks[r->n], r->generation, j->start + r->n) ||
            (r->n && !follows(r, r->n)))
            break;
        r->flushed = MAX(r->flushed, r->blocks[r->n].flushed);
    }
    return 0;
}

/* Of the generation that the root before the last process was there has, all is durable that counts (reopen.c). */
static int read_closed(struct replay *r, struct dt_error *err)
{
    struct pool *pool = r->pool;
    struct px_root *root = &pool->root;
    uint64_t count = root->closed_blocks;
    int ret = read_blocks(r, count, err);

    if (ret < 0)
        return ret;
    if (r->n < count || r->blocks[count - 1].used < root->closed_bytes)
        return dt_fail(err, -EBADMSG,
                       "%s is damaged: block %llu of its journal was flushed and is not there; "
                       "what was written after it would be lost",
                       pool->store->name,
                       (unsigned long long)(pool->journal.start + MIN(r->n, count - 1)));
    r->blocks[count - 1].used = root->closed_bytes;
    r->closed = count;
    r->flushed = pool->journal.start + count;
    r->generation = root->next_generation;
    pool->recovery.again = true;
    root->next_generation = 0;
    root->closed_blocks = root->closed_bytes = 0;
    return 0;
}

static int read_journal(struct replay *r, struct dt_error *err)
{
    const struct journal *j = &r->pool->journal;
    uint64_t missing;
    int ret = r->pool->root.next_generation ? read_closed(r, err) : 0;

    ret = ret ?: read_blocks(r, j->blocks, err);
    if (ret < 0)
        return ret;
    r->end_n = r->n;
    missing = j->start + r->n;
    if (r->n > r->closed && r->n < j->blocks &&
        journal_judge(&r->blocks[r->n], r->generation, missing))
        missing--;
    return look_ahead(r, missing, err);
}

static int bad(const struct replay *r, uint64_t n, struct dt_error *err)
{
    return dt_fail(err, -EBADMSG, "%s is damaged: block %llu of its journal holds what cannot be",
                   r->pool->store->name, (unsigned long long)(r->pool->journal.start + n));
}

/* The record at @at of a block, judged by itself; NULL where none fits. */
static const struct px_entry *entry_at(const struct px_journal *block, uint32_t at)
{
    const struct px_entry *e = (const struct px_entry *)(block->records + at);
    const struct px_write *w = (const struct px_write *)e;

    if (at + sizeof(*e) > block->used || e->length < sizeof(*e) || e->length % 8 ||
        e->length > block->used - at)
        return NULL;
    switch (e->type) {
    case PX_WRITE:
        return e->length >= sizeof(*w) && w->count > 0 && w->count <= PX_FANOUT &&
                       e->length == ALIGN_UP(sizeof(*w) + w->count * 4ull, 8ull)
                   ? e
                   : NULL;
    case PX_ZERO:
        return e->length == sizeof(struct px_zero) ? e : NULL;
    case PX_CHANGE:
        return e->length == sizeof(struct px_change) ? e : NULL;
    case PX_STAMP:
        return e->length == sizeof(struct px_stamp) ? e : NULL;
    default:
        return NULL;
    }
}

static bool in_pool(const struct replay *r, const struct px_write *w)
{
    const struct space *s = &r->pool->space;

    return w->addr >= s->first && w->addr <= s->blocks && w->count <= s->blocks - w->addr;
}

/* 1: all of its data is there. */
static int data_arrived(struct replay *r, const struct px_write *w)
{
    _cleanup_free_ uint8_t *data = xaligned(PX_BLOCK, (size_t)w->count * PX_BLOCK);

    if (r->pool->store->get(r->pool->store, data, w->addr, w->count) < 0)
        return 0;
    for (uint32_t i = 0; i < w->count; i++)
        if (crc32c(0, data + (size_t)i * PX_BLOCK, PX_BLOCK) != w->crc[i])
            return 0;
    return 1;
}

/* 1: go on; 0: the journal ends here. */
static int reserve(struct replay *r, uint64_t n, const struct px_entry *e, struct dt_error *err)
{
    const struct px_write *w = (const struct px_write *)e;

    if (e->type != PX_WRITE)
        return 1;
    if (!in_pool(r, w))
        return bad(r, n, err);
    if (r->pool->journal.start + n >= r->flushed && !data_arrived(r, w))
        return 0;
    for (uint32_t i = 0; i < w->count; i++)
        if (space_reserve_exact(r->pool, w->addr + i) < 0)
            return bad(r, n, err);
    return 1;
}

static int reserve_all(struct replay *r, struct dt_error *err)
{
    for (uint64_t n = 0; n < r->n; n++)
        for (uint32_t at = 0; at < r->blocks[n].used;) {
            const struct px_entry *e = entry_at(&r->blocks[n], at);
            int ret = e ? reserve(r, n, e, err) : bad(r, n, err);

            if (ret < 0)
                return ret;
            if (ret == 0) {
                r->end_n = n;
                r->end_at = at;
                return 0;
            }
            at += e->length;
            r->records++;
        }
    return 0;
}

/* ---- Reading ahead ---- */

static void want(struct replay *r, const struct tree *t, uint64_t index, unsigned level)
{
    struct pool *pool = r->pool;
    struct px_ptr ptr;

    /* What is wrong shows when it is carried out. */
    if (tree_above(pool, t, index, level, &ptr) < 0 || !node_wanted(pool, ptr))
        return;
    if (r->wanted_n == r->wanted_room) {
        r->wanted_room = MAX(2 * r->wanted_room, (size_t)1024);
        r->wanted = realloc(r->wanted, r->wanted_room * sizeof(*r->wanted));
        CHECK(r->wanted);
    }
    r->wanted[r->wanted_n++] = ptr_addr(ptr);
}

static int by_address(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Each once, however many records need it, and in the order in which they lie. */
static void prefetch_wanted(struct replay *r)
{
    struct store *store = r->pool->store;
    size_t n = r->wanted_n;

    if (n)
        qsort(r->wanted, n, sizeof(*r->wanted), by_address);
    for (size_t i = 0, next; i < n; i = next) {
        uint64_t end = r->wanted[i] + 1;

        for (next = i + 1; next < n && r->wanted[next] <= end; next++)
            end = r->wanted[next] + 1;
        store->prefetch(store, r->wanted[i], end - r->wanted[i]);
    }
    r->wanted_n = 0;
}

/* Of where it was written, and of what the disk alone had there: that is given back. */
static void want_free_maps(struct replay *r, const struct tree *t, const struct px_write *w)
{
    struct tree space = pool_space_tree(r->pool);
    struct px_ptr old[PX_FANOUT];

    if (w->head.type != PX_WRITE)
        return;
    want(r, &space, w->addr >> PX_GROUP_SHIFT, 0);
    if (tree_lookup(r->pool, t, w->index, w->count, old) < 0)
        return;
    for (uint32_t i = 0; i < w->count; i++)
        if (!ptr_hole(old[i]) && tree_owned(t, ptr_birth(old[i]), w->index + i + 1))
            want(r, &space, ptr_addr(old[i]) >> PX_GROUP_SHIFT, 0);
}

/* The node at @level for each record; 0: the free maps of what it replaces. */
static void want_level(struct replay *r, unsigned level)
{
    struct pool *pool = r->pool;

    for (uint64_t n = 0; n < r->n; n++) {
        for (uint32_t at = 0; at < r->blocks[n].used;) {
            const struct px_entry *e = entry_at(&r->blocks[n], at);
            const struct px_write *w = (const struct px_write *)e;
            const struct px_record *record = e ? pool_record(pool, e->slot) : NULL;
            struct tree t;

            if (!e)
                return;
            at += e->length;
            if ((e->type != PX_WRITE && e->type != PX_ZERO) || !record || record->kind != PX_DISK ||
                w->index >= record->size >> PX_BLOCK_SHIFT)
                continue;
            t = catalog_tree(pool, e->slot);
            if (level)
                want(r, &t, w->index, level);
            else
                want_free_maps(r, &t, w);
        }
        node_trim(pool);
    }
}

/* Data of writes that are not known to be flushed, which will be compared: often one write's follows the other's. */
static void hint_data(struct replay *r)
{
    struct store *store = r->pool->store;
    uint64_t first = 0, count = 0;

    for (uint64_t n = r->flushed - MIN(r->flushed, r->pool->journal.start); n < r->n; n++)
        for (uint32_t at = 0; at < r->blocks[n].used;) {
            const struct px_entry *e = entry_at(&r->blocks[n], at);
            const struct px_write *w = (const struct px_write *)e;

            if (!e)
                return;
            at += e->length;
            if (e->type != PX_WRITE || !in_pool(r, w))
                continue;
            if (w->addr != first + count) {
                if (count)
                    store->prefetch(store, first, count);
                first = w->addr;
                count = 0;
            }
            count += w->count;
        }
    if (count)
        store->prefetch(store, first, count);
}

static void hint_all(struct replay *r)
{
    if (!r->pool->store->prefetch)
        return;
    hint_data(r);
    for (unsigned level = PX_MAX_LEVELS; level-- > 0;) {
        want_level(r, level);
        prefetch_wanted(r);
    }
    free(r->wanted);
}

/* ---- Carrying out ---- */

static void mark_damaged(struct pool *pool, uint32_t slot, const struct tree_lost *lost)
{
    struct px_record *r = catalog_record(pool, slot);
    char name[2 * PX_NAME];

    pool->lost += lost->nodes;
    if (!lost->spoilt)
        return;
    if (!r->damaged) {
        pool_full_name(pool, slot, name);
        pool_say_of(pool, slot, "damage",
                    "%s: block %llu of the map of %s cannot be read, and what was last written "
                    "there is lost: "
                    "it is not written any more",
                    pool->store->name, (unsigned long long)lost->spoilt, name);
    }
    r->damaged = r->damaged ?: lost->spoilt;
}

static int replay_map(struct replay *r, uint64_t n, const struct px_entry *e, struct dt_error *err)
{
    struct pool *pool = r->pool;
    const struct px_write *w = (const struct px_write *)e;
    const struct px_zero *z = (const struct px_zero *)e;
    const struct px_record *record = pool_record(pool, e->slot);
    uint64_t count = e->type == PX_WRITE ? w->count : z->count;
    struct tree_lost lost = {0};
    struct tree t;
    int ret;

    if (!record || record->kind != PX_DISK || w->index > record->size >> PX_BLOCK_SHIFT ||
        count > (record->size >> PX_BLOCK_SHIFT) - w->index)
        return bad(r, n, err);
    (void)past_goes_on(pool, e->slot);
    t = catalog_tree(pool, e->slot);
    t.lost = &lost;
    catalog_touch(pool, e->slot);
    past_replay(pool, &t, &r->note, e->slot);
    if (e->type == PX_WRITE) {
        ret = space_use(pool, w->addr, w->count);
        ret = ret ?: tree_set(pool, &t, w->index, w->count, w->addr, w->crc);
    } else {
        ret = tree_zero(pool, &t, z->index, z->index + z->count);
    }
    mark_damaged(pool, e->slot, &lost);
    return ret < 0
               ? dt_fail(err, ret, "%s cannot be recovered: %s", pool->store->name, strerror(-ret))
               : 0;
}

static int replay_all(struct replay *r, struct dt_error *err)
{
    int ret = 0;

    for (uint64_t n = 0; n < r->n && n <= r->end_n; n++) {
        uint32_t end = n == r->end_n ? r->end_at : r->blocks[n].used;

        for (uint32_t at = 0; at < end && ret == 0;) {
            const struct px_entry *e = entry_at(&r->blocks[n], at);

            if (e->type == PX_STAMP)
                past_stamped(r->pool, &r->note, (const struct px_stamp *)e);
            else if (e->type == PX_CHANGE)
                ret = change_apply(r->pool, (const struct px_change *)e, err);
            else
                ret = replay_map(r, n, e, err);
            at += e->length;
        }
        if (ret < 0)
            return ret;
        node_trim(r->pool);
    }
    past_replayed(r->pool);
    return 0;
}

/* How much of the journal was carried out. */
static void tell_end(const struct replay *r)
{
    struct recovery *told = &r->pool->recovery;
    bool part = r->end_n < r->n && r->end_at;
    uint64_t blocks = r->end_n + part;

    told->blocks = (uint32_t)blocks;
    told->bytes = part ? r->end_at : blocks ? r->blocks[blocks - 1].used : 0;
}

int recover(struct pool *pool, struct dt_error *err)
{
    struct replay r = {
        .pool = pool, .generation = pool->journal.generation, .flushed = pool->journal.start};
    int ret = read_journal(&r, err);

    pool->replaying = true;
    if (ret == 0)
        hint_all(&r);
    ret = ret ?: reserve_all(&r, err);
    ret = ret ?: replay_all(&r, err);
    pool->replaying = false;
    pool->recovered = r.records > 0;
    tell_end(&r);
    if (ret == 0 && r.end_n < r.n)
        log_info("%s: the last writes had not reached the store when it was last used; they were "
                 "not flushed either",
                 pool->store->name);
    /* Numbers are not used twice; the generation tells those of another time apart. */
    pool->journal.seq = pool->journal.start + r.n + 1;
    free(r.blocks);
    return ret;
}
