/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of this folder share: the in-flight log's layout, the order of
 * stores, and the walk that turns judged descriptors into vectors.
 */
#ifndef RING_INTERNAL_H
#define RING_INTERNAL_H

#include "ring/ring.h"

/*
 * Private arrays that a request touches, zeroed: nobody else's data lies in their cache lines, or
 * two threads' rings would slow each other down by the luck of the heap.
 */
static inline void *ring_array(size_t n, size_t size)
{
    return xaligned(CACHE_LINE, ALIGN_UP(n * size, (size_t)CACHE_LINE));
}

/* ---- Order ---------------------------------------------------------------------------- */

/*
 * RING_STEP() stands where the order of two stores decides what a successor finds after this
 * process was killed. Memory outlives the process and the dead have no store buffer, so holding
 * the compiler back is enough on every machine. The crash tests put a snapshot here.
 */
#ifdef RING_TEST_STEP
void ring_test_step(void);
#define RING_STEP() ring_test_step()
#else
#define RING_STEP() __asm__ volatile("" ::: "memory")
#endif

/* Orders an earlier store before a later load, which acquire and release do not. */
static inline void ring_full_fence(void)
{
#if defined(__x86_64__)
    /* Half the cost of mfence, and as strong for ordinary memory. */
    __asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#define ring_load_acquire(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ring_load(p)             __atomic_load_n(p, __ATOMIC_RELAXED)
#define ring_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define ring_store(p, v)         __atomic_store_n(p, v, __ATOMIC_RELAXED)

/* ---- I/O address translation ---------------------------------------------------------- */

/** span_last() - the last address of a range of @size, where 0 is all the rest. */
static inline uint64_t span_last(uint64_t first, uint64_t size)
{
    return size == 0 || size - 1 > UINT64_MAX - first ? UINT64_MAX : first + (size - 1);
}
/** iotlb_memory() - what a view's translations lead to. */
const struct memmap *iotlb_memory(const struct iotlb *tlb);
/** iotlb_iov() - as memmap_iov(), through the translations; notes what is missing. */
int iotlb_iov(struct iotlb *tlb, uint64_t iova, uint32_t len, unsigned access, struct iovec *iov,
              unsigned max);
/** iotlb_allows() - is all of it there, with that right? Notes nothing. */
bool iotlb_allows(const struct iotlb *tlb, uint64_t iova, uint64_t len, unsigned access);
/** iotlb_host() - one piece of this process's memory: 0, -EAGAIN, -EACCES, or -EFAULT where it is in pieces. */
int iotlb_host(struct iotlb *tlb, uint64_t iova, uint64_t len, unsigned access, void **host);

/* ---- In-flight log -------------------------------------------------------------------- */

/*
 * As in vhost-user, "Inflight I/O tracking". Fields that must change together share a word and
 * are stored as that word, which leaves fewer states for a successor to find.
 */
#define LOG_VERSION 1u
#define LOG_SPOILED 0xffffu /* somebody served the ring and kept no log */
#define LOG_LOOSE   0xfffeu /* the same, of a packed ring of packets, which may get lost */

union log_split_word {
    struct {
        uint8_t inflight;
        uint8_t attempts; /* padding in the specification */
        uint8_t pad[4];
        uint16_t next; /* the last batch: the head pushed before this one */
    };
    uint64_t whole;
};

struct log_split_entry {
    union log_split_word word;
    uint64_t counter;
};

/*
 * The first word of both layouts. The specification has no use for it yet and wants it to be 0; in ours it may say that there
 * is a tail (tail.c), and up to which place of the ring.
 */
#define LOG_TAIL     (1ull << 63)
#define LOG_NO_BATCH 0xffffu /* split, with a tail: what was published last was of the tail */

static inline void log_set_tail(void *log, uint16_t end)
{
    WRITE_ONCE(*(uint64_t *)log, LOG_TAIL | end);
    RING_STEP();
}

static inline void log_end_tail(void *log)
{
    WRITE_ONCE(*(uint64_t *)log, 0);
    RING_STEP();
}

struct log_split {
    uint64_t tail;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct log_split_entry desc[];
};

union log_packed_word {
    struct {
        uint8_t inflight;
        uint8_t attempts; /* padding in the specification */
        uint16_t next;    /* following entry of the chain, or of the free list */
        uint16_t last;
        uint16_t num;
    };
    uint64_t whole;
};

struct log_packed_entry {
    union log_packed_word word;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

union log_packed_lists {
    struct {
        uint16_t version;
        uint16_t desc_num;
        uint16_t free_head;
        uint16_t old_free_head;
    };
    uint64_t whole;
};

union log_packed_used {
    struct {
        uint16_t used_idx;
        uint16_t old_used_idx;
        uint8_t used_wrap;
        uint8_t old_used_wrap;
        uint8_t pad[2];
    };
    uint64_t whole;
};

struct log_packed {
    uint64_t tail;
    union log_packed_lists lists;
    union log_packed_used used;
    uint64_t pad;
    struct log_packed_entry desc[];
};

/* Both as the words that they are: put together from fields, the compiler stores and loads each. */
static inline uint64_t log_packed_lists(uint16_t size, uint16_t head, uint16_t old)
{
    return LOG_VERSION | (uint64_t)size << 16 | (uint64_t)head << 32 | (uint64_t)old << 48;
}
static inline uint64_t log_packed_taken(uint16_t next, uint16_t last, uint16_t num)
{
    return 1u | (uint64_t)next << 16 | (uint64_t)last << 32 | (uint64_t)num << 48;
}

_Static_assert(sizeof(struct log_split) == 16 && sizeof(struct log_split_entry) == 16,
               "layout of QueueRegionSplit");
_Static_assert(sizeof(struct log_packed) == 32 && sizeof(struct log_packed_entry) == 32,
               "layout of QueueRegionPacked");

/**
 * struct log_found - what a log says after recovery.
 * @order: log entries in flight, oldest first; room for the queue's size.
 * @count: of them.
 * @counter: the next submission number.
 * @next: packed: private copy of the links, room for the queue's size; the last entry of a chain
 *        in flight links to itself.
 * @descs: packed: ring descriptors in flight.
 * @free_head, @used_idx, @used_wrap: packed: where log and ring stand.
 * @tail: chains that were taken after those, and which only the ring tells.
 */
struct log_found {
    uint16_t *order;
    unsigned count;
    uint64_t counter;
    uint16_t *next;
    uint16_t descs;
    uint16_t free_head;
    uint16_t used_idx;
    bool used_wrap;
    uint16_t tail;
};

/* Is there a log at all? A buffer that was never formatted is zero. */
bool log_present(const void *mem);
/* Does it say that only the ring's own flags tell where it stands? */
bool log_loose(const void *mem);
/* An empty log in two steps: what log_format() made counts for nothing before log_commit(). */
void log_format(void *mem, uint16_t queue_size, bool packed);
void log_commit(void *mem);
/* All of log_format() but the version, which stays what it is until log_commit(). */
void log_fill(void *mem, uint16_t queue_size, bool packed);
/* Charge @chain, about to run again, with a crash; @attempts: in the log. */
void virtq_charge(const struct virtq *vq, struct virtq_chain *chain, uint8_t *attempts);
/** struct log_age - an entry of the log, and when it was made. */
struct log_age {
    uint64_t counter;
    uint16_t entry;
};
/** log_sort_ages() - the oldest first. */
void log_sort_ages(struct log_age *ages, unsigned n);
int log_split_recover(struct log_split *log, uint16_t size, uint16_t ring_used,
                      struct log_found *found, struct dt_error *err);
int log_packed_recover(struct log_packed *log, uint16_t size, const struct vring_packed_desc *ring,
                       struct log_found *found, struct dt_error *err);

/* ---- Long vectors --------------------------------------------------------------------- */

/* A list of VIRTQ_MAX_IOV entries, or NULL when all are taken. */
struct iovec *iovpool_get(struct iovpool *pool);
void iovpool_put(struct iovpool *pool, struct iovec *list);

/* ---- Virtqueue ------------------------------------------------------------------------ */

/** struct virtq_area - one of a ring's three: where, how long, and what is done to it. */
struct virtq_area {
    const char *name;
    uint64_t addr, len, align;
    unsigned access;
};
#define VIRTQ_AREAS 3u /* descriptors, driver, device */
void virtq_areas(const struct virtq_config *c, struct virtq_area areas[VIRTQ_AREAS]);
/** virtq_find_areas() - judge them, and set where they are here; as virtq_start(). */
int virtq_find_areas(struct virtq *vq, struct dt_error *err);
struct virtq_spans *virtq_spans_new(uint16_t size);
/** virtq_translate_log() - vIOMMU: the dirty log's address of the used ring, from where the ring is. */
void virtq_translate_log(struct virtq *vq);

/** struct virtq_span - all that a chain uses lies from @first to @last, both included; @first > @last: none. */
struct virtq_span {
    uint64_t first, last;
};
#define SPAN_NONE ((struct virtq_span){UINT64_MAX, 0})

/**
 * struct virtq_spans - vIOMMU: what chains use, by id. @now, @missing: of the walk under way: what it used so
 * far, and whether it goes on only to ask for all translations that it lacks at once.
 */
struct virtq_spans {
    struct virtq_span now;
    bool missing;
    struct virtq_span of[];
};

/* Record why the ring is corrupt; always -EPROTO. */
int virtq_fault(struct virtq *vq, const char *fmt, ...) DT_PRINTF(2, 3)
    __attribute__((cold, noinline));

static inline struct virtq_chain *virtq_slot(const struct virtq *vq, uint16_t id)
{
    return (struct virtq_chain *)((char *)vq->config.slots + id * vq->config.slot_stride);
}

/* ---- The tail (tail.c) ---- */

/** tail_place() - of the @i-th of the tail. */
static inline unsigned tail_place(const struct virtq *vq, unsigned i)
{
    unsigned size = vq->config.size, at = vq->last_avail;

    if (!vq->config.packed)
        return (at - vq->ntail + i) & (size - 1);
    at = at + size - vq->ntail + i;
    return at < size ? at : at - size;
}
static inline void tail_mark(struct virtq *vq, uint16_t at, bool wrap)
{
    if (vq->tail)
        log_set_tail(vq->config.inflight, (uint16_t)(at | (vq->config.packed ? wrap << 15 : 0)));
}
/** tail_taken() - chains were taken: a successor is to know. */
static inline void tail_taken(struct virtq *vq)
{
    tail_mark(vq, vq->last_avail, vq->avail_wrap);
}
/** tail_settle() - the log is as it should be, and has all; from here on there may be a tail, or is not to be one. */
void tail_settle(struct virtq *vq);
/** tail_end() - nothing is in flight: from here on the log is one as others know it. */
void tail_end(struct virtq *vq);
/** tail_is_done() - are the chains to be published the tail's first? Then they are in its order now. */
bool tail_is_done(struct virtq *vq);
/** tail_enter() - enter all of the tail in the log; then there is none. */
void tail_enter(struct virtq *vq);
void split_enter(struct virtq *vq, uint16_t id);
void packed_enter(struct virtq *vq, uint16_t place, uint16_t id);

int split_start(struct virtq *vq, uint32_t base, bool recover, struct dt_error *err);
unsigned split_take(struct virtq *vq, struct virtq_chain **out, unsigned max);
void split_put_back(struct virtq *vq);
void packed_put_back(struct virtq *vq);
int split_retake(struct virtq *vq, uint16_t head, struct virtq_chain **out);
bool split_publish(struct virtq *vq);
bool split_pending(struct virtq *vq);
void split_notify(struct virtq *vq, bool want);

int packed_start(struct virtq *vq, uint32_t base, bool recover, struct dt_error *err);
unsigned packed_take(struct virtq *vq, struct virtq_chain **out, unsigned max);
int packed_retake(struct virtq *vq, uint16_t entry, struct virtq_chain **out);
bool packed_publish(struct virtq *vq);
bool packed_pending(struct virtq *vq);
void packed_notify(struct virtq *vq, bool want);
/**
 * packed_find() - the base where the ring stands by its own flags; chains of which that cannot be told are used up.
 * Return: 0, or -EBADMSG for a ring that no driver and no device leave so.
 */
int packed_find(struct virtq *vq, uint32_t *base, struct dt_error *err);

/* Driver side. */
int split_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                     unsigned n, uint32_t max_len);
void split_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n);
bool split_driver_publish(struct virtq_driver *d);
int split_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max);
bool split_driver_pending(const struct virtq_driver *d);
void split_driver_notify(struct virtq_driver *d, bool want);

int packed_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                      unsigned n, uint32_t max_len);
void packed_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n);
bool packed_driver_publish(struct virtq_driver *d);
int packed_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max);
bool packed_driver_pending(const struct virtq_driver *d);
void packed_driver_notify(struct virtq_driver *d, bool want);

int driver_fault(struct virtq_driver *d, const char *fmt, ...) DT_PRINTF(2, 3)
    __attribute__((cold, noinline));

/*
 * Packed rings: is @event, the other side's event structure in one load, crossed by our move
 * from @old to @now? @wrap is our wrap counter at @now. With DESC a position counts, brought
 * into one lap with ours; @event_idx says whether DESC may be used, @valid whether @old is known.
 */
static inline bool packed_event_wanted(uint32_t event, bool event_idx, bool valid, uint16_t now,
                                       uint16_t old, bool wrap, uint16_t size)
{
    uint16_t off = event & 0x7fff;

    if (event >> 16 == VRING_PACKED_EVENT_FLAG_DISABLE)
        return false;
    if (event >> 16 != VRING_PACKED_EVENT_FLAG_DESC || !event_idx || !valid)
        return true;
    if ((event >> VRING_PACKED_EVENT_F_WRAP_CTR & 1) != wrap)
        off = (uint16_t)(off - size);
    if (now <= old)
        old = (uint16_t)(old - size);
    return vring_need_event(off, now, old);
}

#define PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED  (1u << VRING_PACKED_DESC_F_USED)

/*
 * Ask for the cache lines that follow descriptor @d, four descriptors each: where one chain is,
 * more are, and all their lines are with the other core. Past the ring's end the wish is wasted
 * but does no harm; a test for it costs more than it saves.
 */
static inline void packed_prefetch(const uint64_t *d)
{
    for (unsigned line = 1; line < 6; line++)
        __builtin_prefetch((const char *)d + line * CACHE_LINE);
}

/* Move a ring position @n <= @size descriptors on; the wrap counter turns at the end. */
static inline void ring_advance(uint16_t *at, bool *wrap, unsigned n, uint16_t size)
{
    unsigned to = *at + n;

    if (to >= size) {
        to -= size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)to;
}

/* ---- Descriptors ---------------------------------------------------------------------- */

/* The private copy of a descriptor; @next is the buffer id in a packed ring. */
struct ring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

/* An indirect table may lie at any address. */
typedef volatile uint64_t __attribute__((aligned(1), may_alias)) ring_word;

static inline struct ring_desc desc_split(uint64_t addr, uint64_t rest)
{
    return (struct ring_desc){addr, (uint32_t)rest, (uint16_t)(rest >> 32), (uint16_t)(rest >> 48)};
}

static inline struct ring_desc desc_packed(uint64_t addr, uint64_t rest)
{
    return (struct ring_desc){addr, (uint32_t)rest, (uint16_t)(rest >> 48), (uint16_t)(rest >> 32)};
}

/* Volatile loads: exactly one of each word, whatever the guest writes meanwhile. */
static inline struct ring_desc desc_read_split(const void *p)
{
    const ring_word *w = p;

    return desc_split(w[0], w[1]);
}

static inline struct ring_desc desc_read_packed(const void *p)
{
    const ring_word *w = p;

    return desc_packed(w[0], w[1]);
}

/**
 * struct walk - a chain being judged. Nothing of it shows in the virtq until it succeeded.
 * @table: inside an indirect table that descriptor @parent names; else @parent means nothing.
 */
struct walk {
    struct virtq *vq;
    struct virtq_chain *chain;
    struct iovec *iov;
    unsigned n, max, nread;
    bool writable;
    bool table;
    unsigned parent;
    uint64_t read_len, write_len;
};

static inline void walk_begin(struct walk *w, struct virtq *vq, struct virtq_chain *chain)
{
    *w = (struct walk){.vq = vq, .chain = chain, .iov = chain->inline_iov, .max = VIRTQ_INLINE_IOV};
}

int walk_add_slow(struct walk *w, const struct ring_desc *d, unsigned at);
int walk_indirect(struct walk *w, const struct ring_desc *d, unsigned at);
/* Give up: returns the long list to the pool and @error to the caller. */
int walk_abort(struct walk *w, int error);
int walk_fault(struct walk *w, unsigned at, const char *fmt, ...) DT_PRINTF(3, 4)
    __attribute__((cold, noinline));

static inline bool region_holds(const struct memmap_region *r, uint64_t addr, uint32_t len)
{
    uint64_t off = addr - r->gpa;

    return off < r->size && len <= r->size - off;
}

/* One of the two regions that matched last, if all of [@addr, @addr+@len) is there; else NULL. */
static inline const struct memmap_region *walk_region(struct virtq *vq, uint64_t addr, uint32_t len)
{
    const struct memmap *map = vq->config.map;
    unsigned hint = vq->hint, other = vq->other;

    if (likely(hint < map->count && region_holds(&map->regions[hint], addr, len)))
        return &map->regions[hint];
    if (other >= map->count || !region_holds(&map->regions[other], addr, len))
        return NULL;
    vq->hint = other;
    vq->other = hint;
    return &map->regions[other];
}
/* walk_iov() - as memmap_iov(); keeps both regions in mind. */
int walk_iov(struct virtq *vq, uint64_t addr, uint32_t len, enum memmap_access access,
             struct iovec *iov, unsigned max);

/* Translate descriptor @at; 0, -EPROTO (fault recorded) or -EAGAIN (no list, or no translation). */
static inline int walk_add(struct walk *w, const struct ring_desc *d, unsigned at)
{
    bool write = d->flags & VRING_DESC_F_WRITE;

    if (likely(w->n < w->max && w->writable <= write && d->len > 0)) {
        const struct memmap_region *r = walk_region(w->vq, d->addr, d->len);

        if (likely(r != NULL)) {
            w->iov[w->n++] = (struct iovec){r->host + (d->addr - r->gpa), d->len};
            w->writable = write;
            w->read_len += write ? 0 : d->len;
            w->write_len += write ? d->len : 0;
            w->nread += !write;
            return 0;
        }
    }
    return walk_add_slow(w, d, at);
}

/* With a vIOMMU: note what the chain uses; -EAGAIN where translations were missing. */
int walk_end_translated(struct walk *w, uint16_t id);
/* The walk under way is over. */
void walk_forget(struct walk *w);
/* Note that the walk uses [@addr, @addr+@len), @len > 0. */
void walk_span(struct walk *w, uint64_t addr, uint64_t len);

static inline int walk_end(struct walk *w, uint16_t id, unsigned ndesc, uint8_t attempts)
{
    struct virtq_chain *chain = w->chain;

    if (unlikely(w->vq->spans != NULL) && walk_end_translated(w, id) < 0)
        return -EAGAIN;

    chain->id = id;
    chain->ndesc = (uint16_t)ndesc;
    chain->attempts = attempts;
    chain->replayed = false;
    chain->nread = (uint16_t)w->nread;
    chain->nwrite = (uint16_t)(w->n - w->nread);
    chain->read_len = w->read_len;
    chain->write_len = w->write_len;
    chain->iov = w->iov;
    /* Whatever the device is, it reads the request's header next: the driver's core owns it. */
    __builtin_prefetch(w->iov[0].iov_base);
    return 0;
}

/**
 * struct nearby - the region that matched last, for a burst of chains: by value, since what is in memory has to be read again
 * after each store to the log. @size 0: there is none, and all walk.
 */
struct nearby {
    uint64_t gpa, size;
    uint8_t *host;
};
static inline struct nearby walk_nearby(const struct virtq *vq)
{
    const struct memmap *map = vq->config.map;
    const struct memmap_region *r;

    if (unlikely(vq->spans != NULL || vq->hint >= map->count))
        return (struct nearby){0};
    r = &map->regions[vq->hint];
    return (struct nearby){r->gpa, r->size, r->host};
}

#define SHAPE_READ  (1ull | 1ull << 32) /* one descriptor and vector, to be read; */
#define SHAPE_WRITE (1ull | 1ull << 48) /* or to be written */
_Static_assert(offsetof(struct virtq_chain, nread) == 4 &&
                   offsetof(struct virtq_chain, nwrite) == 6,
               "of virtq_chain.shape_");

/*
 * A chain of one ordinary descriptor in that region, as those of packets mostly are: judged as walk_add() and walk_end() do, without
 * what only others need. @d has neither NEXT nor INDIRECT. False: nothing was done, and the walk has to.
 */
static inline bool walk_single(const struct nearby *near, struct virtq_chain *chain,
                               struct ring_desc d, uint16_t id)
{
    uint64_t off = d.addr - near->gpa, len = d.len;
    bool write = d.flags & VRING_DESC_F_WRITE;

    if (unlikely(off >= near->size || off + len > near->size || len == 0))
        return false;
    chain->id = id;
    chain->shape_ = write ? SHAPE_WRITE : SHAPE_READ;
    chain->read_len = write ? 0 : len;
    chain->write_len = write ? len : 0;
    chain->iov = chain->inline_iov;
    chain->inline_iov[0] = (struct iovec){near->host + off, len};
    __builtin_prefetch(near->host + off);
    return true;
}

#endif
