/* SPDX-License-Identifier: MIT */
/*
 * inflight.c - the in-flight log: layout, and what a successor makes of it.
 *
 * Theory of operation: recovery works on a private copy, judges all of it, and only then writes.
 * What it writes is ordered so that a crash within recovery leaves a log from which recovery
 * comes to the same result. An attempt is counted when the request is taken again, not before: who
 * only waited while another killed the process is not charged.
 *
 * Source: vhost-user, "Inflight I/O tracking". Where its text is not enough:
 *
 * Split: the whole batch list is cleared, not only its head. Packed: a batch of exactly the
 * ring's size leaves used_idx equal to old_used_idx; only the wrap bits tell. The free list has
 * no end mark, and when every entry is in flight its head is some entry in flight; so the list
 * is never walked further than the batch, and is made anew from the entries that no chain in
 * flight claims.
 */
#include "ring/internal.h"

#include <inttypes.h>

bool log_present(const void *mem)
{
    const struct log_split *log = mem; /* both layouts begin alike */

    return READ_ONCE(log->version) != 0;
}

size_t inflight_queue_size(uint16_t queue_size, bool packed)
{
    size_t size = packed ? sizeof(struct log_packed) + queue_size * sizeof(struct log_packed_entry)
                         : sizeof(struct log_split) + queue_size * sizeof(struct log_split_entry);

    return ALIGN_UP(size, (size_t)CACHE_LINE);
}

void inflight_clear(void *mem)
{
    struct log_split *log = mem;

    WRITE_ONCE(log->version, 0);
    RING_STEP();
}

void inflight_spoil(void *mem)
{
    struct log_split *log = mem;

    WRITE_ONCE(log->version, LOG_SPOILED);
}

void inflight_loosen(void *mem)
{
    struct log_split *log = mem;

    WRITE_ONCE(log->version, LOG_LOOSE);
}

bool log_loose(const void *mem)
{
    const struct log_split *log = mem;

    return READ_ONCE(log->version) == LOG_LOOSE;
}

void inflight_renumber(void *mem, uint16_t queue_size, uint64_t next)
{
    struct log_packed *log = mem;

    for (uint16_t i = 0; i < queue_size; i++) {
        bool last = i == 0 && next > 0;

        WRITE_ONCE(log->desc[i].word.num, last);
        WRITE_ONCE(log->desc[i].counter, last ? next - 1 : 0);
    }
}

uint64_t inflight_next(const void *mem, uint16_t queue_size)
{
    const struct log_packed *log = mem;
    uint64_t next = 0;

    for (uint16_t i = 0; i < queue_size; i++)
        if (READ_ONCE(log->desc[i].word.num) > 0)
            next = MAX(next, READ_ONCE(log->desc[i].counter) + 1);
    return next;
}

void inflight_format(void *mem, uint16_t queue_size, bool packed)
{
    log_format(mem, queue_size, packed);
    log_commit(mem);
}

void log_commit(void *mem)
{
    struct log_split *log = mem;

    RING_STEP();
    WRITE_ONCE(log->version, LOG_VERSION);
    RING_STEP();
}

void log_format(void *mem, uint16_t queue_size, bool packed)
{
    inflight_clear(mem);
    log_fill(mem, queue_size, packed);
}

void log_fill(void *mem, uint16_t queue_size, bool packed)
{
    size_t head = offsetof(struct log_split, version) + sizeof(((struct log_split *)0)->version);
    struct log_packed *p = mem;
    struct log_split *s = mem;

    memset((uint8_t *)mem + head, 0, inflight_queue_size(queue_size, packed) - head);
    s->tail = 0;
    if (!packed) {
        s->desc_num = queue_size;
        return;
    }
    for (uint16_t i = 0; i < queue_size; i++)
        p->desc[i].word.next = (uint16_t)(i + 1 < queue_size ? i + 1 : 0);
    p->used.used_wrap = p->used.old_used_wrap = 1;
    p->lists.desc_num = queue_size;
}

static int judge_header(uint64_t tail, uint16_t version, uint16_t desc_num, uint16_t size,
                        struct dt_error *err)
{
    if (version == LOG_SPOILED)
        return dt_fail(
            err, -EBADMSG,
            "the ring was served by somebody who keeps no in-flight log: what he had of it "
            "is lost");
    if (version != LOG_VERSION || (tail != 0 && (tail & ~(uint64_t)UINT16_MAX) != LOG_TAIL))
        return dt_fail(err, -EBADMSG,
                       "in-flight log of version %u with features 0x%" PRIx64
                       "; this program knows version %u, and of features its own alone",
                       version, tail, LOG_VERSION);
    if (desc_num != size)
        return dt_fail(err, -EBADMSG, "in-flight log for %u descriptors, but the queue has %u",
                       desc_num, size);
    return 0;
}

static int by_age(const void *a, const void *b)
{
    const struct log_age *x = a, *y = b;

    if (x->counter != y->counter)
        return x->counter < y->counter ? -1 : 1;
    return (int)x->entry - (int)y->entry;
}

void log_sort_ages(struct log_age *ages, unsigned n)
{
    qsort(ages, n, sizeof(*ages), by_age);
}

static void sort_found(struct log_age *ages, struct log_found *found)
{
    log_sort_ages(ages, found->count);
    for (unsigned i = 0; i < found->count; i++)
        found->order[i] = ages[i].entry;
    found->counter = found->count > 0 ? ages[found->count - 1].counter + 1 : 0;
}

void virtq_charge(const struct virtq *vq, struct virtq_chain *chain, uint8_t *attempts)
{
    if (vq->config.innocent)
        return;
    if (chain->attempts < UINT8_MAX)
        chain->attempts++;
    WRITE_ONCE(*attempts, chain->attempts);
}

/* ---- Split ---------------------------------------------------------------------------- */

/* How many there are in the tail, which begins at @first; a mark behind that is an old one. */
static uint16_t split_tail(const struct log_split *copy, uint16_t first, unsigned room)
{
    uint16_t n = (uint16_t)((uint16_t)copy->tail - first);

    return copy->tail && n <= room ? n : 0;
}

/* Clear the published batch in @copy; @batch gets its heads. */
static int split_judge_batch(struct log_split *copy, uint16_t size, uint16_t n, uint16_t *batch,
                             struct dt_error *err)
{
    _cleanup_free_ bool *seen = xcalloc(size, sizeof(*seen));
    uint16_t head = copy->last_batch_head;

    for (unsigned i = 0; i < n; i++) {
        if (head >= size || seen[head])
            return dt_fail(
                err, -EBADMSG,
                "in-flight log: head %u is the %u. of the last batch of %u, but it is %s", head,
                i + 1, n, head >= size ? "outside the queue" : "there already");
        seen[head] = true;
        batch[i] = head;
        copy->desc[head].word.inflight = 0;
        head = copy->desc[head].word.next;
    }
    return 0;
}

/* Nothing was in flight: where the ring stands now need not be where it stood then. A VMM keeps the log while a
 * back end without one serves the ring. */
static bool split_idle(const struct log_split *copy, uint16_t size)
{
    for (uint16_t i = 0; i < size; i++)
        if (copy->desc[i].word.inflight)
            return false;
    return true;
}

/* How many of the last batch's list the driver has seen, or -EBADMSG. */
static int split_batch_size(const struct log_split *copy, uint16_t size, uint16_t ring_used,
                            struct dt_error *err)
{
    uint16_t n = (uint16_t)(ring_used - copy->used_idx);
    int r = judge_header(copy->tail, copy->version, copy->desc_num, size, err);

    if (r < 0)
        return r;
    if (split_idle(copy, size))
        return 0;
    if (n > size)
        return dt_fail(err, -EBADMSG,
                       "in-flight log: used index %u, but the ring's is %u: more than the %u "
                       "descriptors apart",
                       copy->used_idx, ring_used, size);
    return copy->tail && copy->last_batch_head == LOG_NO_BATCH ? 0 : n;
}

static int split_judge(struct log_split *copy, uint16_t size, uint16_t ring_used, uint16_t *batch,
                       struct log_age *ages, struct log_found *found, struct dt_error *err)
{
    int n = split_batch_size(copy, size, ring_used, err);
    int r = n < 0 ? n : split_judge_batch(copy, size, (uint16_t)n, batch, err);

    if (r < 0)
        return r;
    for (uint16_t i = 0; i < size; i++) {
        const struct log_split_entry *e = &copy->desc[i];

        if (e->word.inflight > 1)
            return dt_fail(err, -EBADMSG, "in-flight log: entry %u says in flight %u", i,
                           e->word.inflight);
        if (e->word.inflight)
            ages[found->count++] = (struct log_age){e->counter, i};
    }
    sort_found(ages, found);
    found->tail = split_tail(copy, (uint16_t)(ring_used + found->count), size - found->count);
    return n;
}

int log_split_recover(struct log_split *log, uint16_t size, uint16_t ring_used,
                      struct log_found *found, struct dt_error *err)
{
    size_t bytes = inflight_queue_size(size, false);
    _cleanup_free_ struct log_split *copy = xcalloc(1, bytes);
    _cleanup_free_ struct log_age *ages = xcalloc(size, sizeof(*ages));
    _cleanup_free_ uint16_t *batch = xcalloc(size, sizeof(*batch));
    int n;

    memcpy(copy, log, bytes);
    __asm__ volatile("" ::: "memory"); /* the copy is made now and only once */
    n = split_judge(copy, size, ring_used, batch, ages, found, err);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++)
        log->desc[batch[i]].word.inflight = 0;
    RING_STEP();
    log->used_idx = ring_used;
    RING_STEP();
    return 0;
}

/* ---- Packed --------------------------------------------------------------------------- */

/* Ring descriptors of the last batch, or -EBADMSG. */
static int packed_batch_size(const struct log_packed *copy, uint16_t size, struct dt_error *err)
{
    unsigned used = copy->used.used_idx, old = copy->used.old_used_idx;
    bool wrapped = copy->used.used_wrap != copy->used.old_used_wrap;

    if (used >= size || old >= size || copy->lists.free_head >= size ||
        copy->lists.old_free_head >= size || copy->used.used_wrap > 1 ||
        copy->used.old_used_wrap > 1 || (wrapped ? used > old : used < old))
        return dt_fail(err, -EBADMSG,
                       "in-flight log: used %u/%u after %u/%u, free list %u after %u do not fit "
                       "a ring of %u",
                       used, copy->used.used_wrap, old, copy->used.old_used_wrap,
                       copy->lists.free_head, copy->lists.old_free_head, size);
    return (int)(wrapped ? used + size - old : used - old);
}

/* The driver saw the batch if the ring no longer shows its first descriptor as available. */
static bool packed_batch_published(const struct log_packed *copy,
                                   const struct vring_packed_desc *ring)
{
    uint16_t flags = READ_ONCE(ring[copy->used.old_used_idx].flags);
    bool avail = flags >> VRING_PACKED_DESC_F_AVAIL & 1;
    bool used = flags >> VRING_PACKED_DESC_F_USED & 1;

    return !(avail == copy->used.old_used_wrap && used != copy->used.old_used_wrap);
}

/* Commit or roll back what was under way; everything in @copy. */
static int packed_settle(struct log_packed *copy, uint16_t size,
                         const struct vring_packed_desc *ring, struct dt_error *err)
{
    int batch = packed_batch_size(copy, size, err);
    uint16_t at = copy->lists.free_head, old = copy->lists.old_free_head;

    if (batch < 0)
        return batch;
    if (batch > 0 && packed_batch_published(copy, ring)) {
        for (int i = 0; i < batch; i++, at = copy->desc[at].word.next) {
            if (at >= size)
                return dt_fail(err, -EBADMSG,
                               "in-flight log: entry %u of the last batch is outside", at);
            copy->desc[at].word.inflight = 0;
        }
        copy->lists.old_free_head = copy->lists.free_head;
        copy->used.old_used_idx = copy->used.used_idx;
        copy->used.old_used_wrap = copy->used.used_wrap;
        return 0;
    }
    /* A chain that was still being entered: the ring will give it again. */
    if (batch == 0 && (old != at || copy->desc[old].word.num == 0))
        copy->desc[old].word.inflight = 0;
    copy->lists.free_head = old;
    copy->used.used_idx = copy->used.old_used_idx;
    copy->used.used_wrap = copy->used.old_used_wrap;
    return 0;
}

/* Judge the chain that begins at @head; its links go to @next, its entries to @claimed. */
static int packed_claim(const struct log_packed *copy, uint16_t size, uint16_t head, bool *claimed,
                        bool *ids, struct log_found *found, struct dt_error *err)
{
    const union log_packed_word *h = &copy->desc[head].word;
    uint16_t at = head, last = head, id;

    if (h->inflight > 1 || h->num == 0 || h->num > size)
        return dt_fail(err, -EBADMSG,
                       "in-flight log: entry %u says in flight %u with %u descriptors", head,
                       h->inflight, h->num);
    for (unsigned i = 0; i < h->num; i++, at = copy->desc[at].word.next) {
        if (at >= size || claimed[at])
            return dt_fail(err, -EBADMSG,
                           "in-flight log: chain of entry %u reaches entry %u, which is %s", head,
                           at, at >= size ? "outside" : "taken");
        claimed[at] = true;
        found->next[last] = at;
        last = at;
    }
    found->next[last] = last;
    found->descs = (uint16_t)(found->descs + h->num);
    id = copy->desc[last].id;
    if (last != h->last || id >= size || ids[id])
        return dt_fail(
            err, -EBADMSG,
            "in-flight log: chain of entry %u ends at %u, not %u, or has the wrong id %u", head,
            last, h->last, id);
    ids[id] = true;
    return 0;
}

/* The tail, which began where the log's last chain ends, and of which the driver may have got the first ones. */
static void packed_find_tail(struct log_packed *copy, uint16_t size,
                             const struct vring_packed_desc *ring, struct log_found *found)
{
    unsigned at = copy->used.used_idx + (copy->used.used_wrap ? size : 0);
    unsigned end = (copy->tail & 0x7fff) + (copy->tail >> 15 & 1 ? size : 0);
    unsigned n = (end + 2u * size - at - found->descs) % (2u * size);
    uint16_t used = copy->used.used_idx;
    bool wrap = copy->used.used_wrap;

    /* A mark behind the beginning is an old one. */
    if (!copy->tail || (copy->tail & 0x7fff) >= size || n + found->descs > size)
        return;
    for (; n > 0 && !!(READ_ONCE(ring[used].flags) & PACKED_USED) == wrap; n--)
        ring_advance(&used, &wrap, 1, size);
    copy->used.used_idx = copy->used.old_used_idx = used;
    copy->used.used_wrap = copy->used.old_used_wrap = wrap;
    found->tail = (uint16_t)n;
}

static int packed_judge(struct log_packed *copy, uint16_t size,
                        const struct vring_packed_desc *ring, bool *claimed, struct log_age *ages,
                        struct log_found *found, struct dt_error *err)
{
    _cleanup_free_ bool *ids = xcalloc(size, sizeof(*ids));
    int r = judge_header(copy->tail, copy->lists.version, copy->lists.desc_num, size, err);

    if (r == 0)
        r = packed_settle(copy, size, ring, err);
    for (uint16_t i = 0; r == 0 && i < size; i++) {
        if (!copy->desc[i].word.inflight)
            continue;
        r = packed_claim(copy, size, i, claimed, ids, found, err);
        ages[found->count++] = (struct log_age){copy->desc[i].counter, i};
    }
    if (r == 0) {
        sort_found(ages, found);
        found->counter = inflight_next(copy, size);
        packed_find_tail(copy, size, ring, found);
    }
    return r;
}

/* Write the judged state back: flags, lists, indices; each step may be the last. */
static void packed_commit(struct log_packed *log, const struct log_packed *copy, uint16_t size)
{
    for (uint16_t i = 0; i < size; i++) {
        if (!copy->desc[i].word.inflight)
            log->desc[i].word.inflight = 0;
    }
    RING_STEP();
    WRITE_ONCE(log->lists.whole, copy->lists.whole);
    RING_STEP();
    WRITE_ONCE(log->used.whole, copy->used.whole);
    RING_STEP();
}

/* Link all entries that nobody claims; the private links in @found are the same. */
static void packed_relink(struct log_packed *log, union log_packed_lists lists, uint16_t size,
                          const bool *claimed, struct log_found *found)
{
    uint16_t first = 0;

    for (unsigned i = size; i-- > 0;) {
        if (claimed[i])
            continue;
        found->next[i] = first;
        log->desc[i].word.next = first;
        first = (uint16_t)i;
    }
    RING_STEP();
    lists.free_head = lists.old_free_head = found->free_head = first;
    WRITE_ONCE(log->lists.whole, lists.whole);
}

int log_packed_recover(struct log_packed *log, uint16_t size, const struct vring_packed_desc *ring,
                       struct log_found *found, struct dt_error *err)
{
    size_t bytes = inflight_queue_size(size, true);
    _cleanup_free_ struct log_packed *copy = xcalloc(1, bytes);
    _cleanup_free_ struct log_age *ages = xcalloc(size, sizeof(*ages));
    _cleanup_free_ bool *claimed = xcalloc(size, sizeof(*claimed));
    int r;

    memcpy(copy, log, bytes);
    __asm__ volatile("" ::: "memory"); /* the copy is made now and only once */
    r = packed_judge(copy, size, ring, claimed, ages, found, err);
    if (r < 0)
        return r;
    packed_commit(log, copy, size);
    packed_relink(log, copy->lists, size, claimed, found);
    found->used_idx = copy->used.used_idx;
    found->used_wrap = copy->used.used_wrap;
    return 0;
}
