/* SPDX-License-Identifier: MIT */
/*
 * ring.h - guest memory and virtqueues.
 *
 * Everything read here was written by somebody hostile. The rules that make it safe:
 * each descriptor is copied once into private memory and judged there; no index, address or
 * length is read twice; every walk is bounded; what the device publishes comes from
 * private shadows, never from the ring.
 *
 * Sources: OASIS virtio 1.2, sections 2.6 to 2.8 (split and packed virtqueues); QEMU
 * docs/interop/vhost-user.rst, "Inflight I/O tracking" and "Migration".
 */
#ifndef RING_H
#define RING_H

#include "base/base.h"
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

/* ---- Guest memory ------------------------------------------------------------------- */

#define MEMMAP_MAX_REGIONS 512u

/**
 * struct memmap_region - one piece of guest memory, mapped shared into this process.
 * @gpa:  its address in the ring's address space (guest-physical).
 * @size: bytes.
 * @uva:  its address in the front end's own address space (ring addresses arrive so).
 * @host: where @gpa is here.
 * @mapping, @mapping_size: what to munmap; it also covers the offset within the file.
 * @fd_offset: offset in the file where the region starts.
 */
struct memmap_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t uva;
    uint8_t *host;
    void *mapping;
    size_t mapping_size;
    uint64_t fd_offset;
};

/**
 * struct memmap - all memory of one guest, sorted by @gpa, no two regions overlapping.
 * It must stay where it is while it has regions: the SIGBUS guard knows @faulted by address.
 * @faulted: set by the SIGBUS guard when the file behind a region turned out shorter than
 *           promised (the range reads as zeroes from then on): the session must break.
 *           memmap_faulted() reads it.
 * @generation: another number after each change, unlike that of any map of this process.
 * @iotlb: not NULL: no regions are here, and every address is one that a vIOMMU translates.
 *
 * Changed only while no thread walks a ring that uses it.
 */
struct memmap {
    struct memmap_region *regions;
    unsigned count;
    bool faulted; /* the signal handler of any thread sets it */
    uint64_t generation;
    struct iotlb *iotlb;
};

void memmap_init(struct memmap *map);
/** memmap_clear() - unmap everything. */
void memmap_clear(struct memmap *map);
/**
 * memmap_add() - map @size bytes of @fd at @offset.
 *
 * Refuses, with a text that names the numbers: size 0, wrap-around, overlap in @gpa (and in
 * @uva), more than MEMMAP_MAX_REGIONS, a file that cannot be mapped shared, a regular file or
 * memfd shorter than offset + size. Any page size, any alignment of @offset. The fd stays the
 * caller's.
 */
int memmap_add(struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size, int fd,
               uint64_t offset, struct dt_error *err);
/** memmap_remove() - unmap the region with exactly this gpa, uva and size; -ENOENT if none. */
int memmap_remove(struct memmap *map, uint64_t gpa, uint64_t uva, uint64_t size);
/** memmap_host() - where [@gpa, @gpa+@len) is here; NULL unless one region holds it all. */
void *memmap_host(const struct memmap *map, uint64_t gpa, uint64_t len);
/** memmap_uva_to_gpa() - translate a front-end virtual address; false unless one region has
 *  all of [@uva, @uva+@len). */
bool memmap_uva_to_gpa(const struct memmap *map, uint64_t uva, uint64_t len, uint64_t *gpa);
/** memmap_host_to_gpa() - the reverse of memmap_host() for the dirty log; false if outside. */
bool memmap_host_to_gpa(const struct memmap *map, const void *host, uint64_t *gpa);

enum memmap_access { MEMMAP_READ = 1, MEMMAP_WRITE = 2 };
/**
 * memmap_iov() - describe [@addr, @addr+@len) as vectors; a range may span adjacent regions.
 * @access: what will be done to it (regions allow both; a vIOMMU narrows it).
 * @hint:   in and out: index of the region that matched last, or 0.
 *
 * Return: entries written (>= 1), -EFAULT when any byte is outside the guest's memory,
 * -E2BIG when @max is too few; with a vIOMMU also -EAGAIN when a translation is not known yet, and
 * -EACCES when it does not allow @access.
 */
int memmap_iov_search(const struct memmap *map, uint64_t addr, uint32_t len,
                      enum memmap_access access, struct iovec *iov, unsigned max, unsigned *hint);
static inline int memmap_iov(const struct memmap *map, uint64_t addr, uint32_t len,
                             enum memmap_access access, struct iovec *iov, unsigned max,
                             unsigned *hint)
{
    if (likely(*hint < map->count && max > 0)) {
        const struct memmap_region *r = &map->regions[*hint];
        uint64_t off = addr - r->gpa;

        if (likely(off < r->size && len <= r->size - off)) {
            *iov = (struct iovec){r->host + off, len};
            return 1;
        }
    }
    return memmap_iov_search(map, addr, len, access, iov, max, hint);
}

/**
 * memmap_guard_install() - handle SIGBUS: a fault inside a registered map replaces the
 * region by zero pages and sets @faulted; any other SIGBUS kills the process as before.
 * Idempotent; async-signal-safe inside.
 */
void memmap_guard_install(void);
/**
 * memmap_guard_add() - guard a mapping of shared memory that is no memmap region (a log).
 * @mapping, @size: whole pages. @faulted: set on a fault, like memmap's; read it with READ_ONCE().
 *
 * Return: 0, or -ENOSPC when the process guards as many mappings as it can (4,096).
 */
int memmap_guard_add(void *mapping, size_t size, bool *faulted);
/** memmap_guard_remove() - before the mapping goes; nothing happens if it was not guarded. */
void memmap_guard_remove(void *mapping);

/** memmap_faulted() - was a file of guest memory truncated? From any thread. */
bool iotlb_faulted(const struct iotlb *tlb);
static inline bool memmap_faulted(const struct memmap *map)
{
    return READ_ONCE(map->faulted) || (map->iotlb && iotlb_faulted(map->iotlb));
}

/* ---- I/O address translation (vIOMMU) ------------------------------------------------------ */

#define IOTLB_ENTRIES 4096u
#define IOTLB_MISSES  64u

/**
 * struct iotlb - the translations that the VMM gave one thread, and those that it misses.
 *
 * Its *view* takes the place of the guest's memory map in a ring's configuration: every address is
 * then an I/O virtual one, and reaches only what the guest mapped, with the right it gave. A view has
 * no regions, so rings without a vIOMMU pay nothing for it. Single-threaded.
 */
struct iotlb;
/** struct iotlb_stats - read from any thread. */
struct iotlb_stats {
    uint64_t misses, updates, invalidations, evictions;
};

struct iotlb *iotlb_new(void);
void iotlb_free(struct iotlb *tlb);
/** iotlb_bind() - @memory is what translations lead to from now on; those of another are forgotten. */
void iotlb_bind(struct iotlb *tlb, const struct memmap *memory);
const struct memmap *iotlb_view(const struct iotlb *tlb);
/**
 * iotlb_update() - [@iova, @iova+@size) is the front end's @uva and may be used for @access.
 * Return: 0; -EINVAL for a range that is empty or wraps or without any right; -EFAULT where no region of
 * guest memory holds it.
 */
int iotlb_update(struct iotlb *tlb, uint64_t iova, uint64_t size, uint64_t uva, unsigned access);
/** iotlb_invalidate() - forget all that touches [@iova, @iova+@size); @size 0: to the end. */
void iotlb_invalidate(struct iotlb *tlb, uint64_t iova, uint64_t size);
/** iotlb_next_miss() - a translation to be asked for, once each; false: no more. */
bool iotlb_next_miss(struct iotlb *tlb, uint64_t *iova, unsigned *access);
unsigned iotlb_count(const struct iotlb *tlb);
const struct iotlb_stats *iotlb_stats(const struct iotlb *tlb);

/* ---- Dirty-page log (live migration) ------------------------------------------------- */

#define DIRTYLOG_PAGE 4096u

/** struct dirtylog - one bit per 4 KiB page of guest-physical memory, shared with the VMM. */
struct dirtylog {
    uint8_t *bits; /* NULL = not logging */
    uint64_t size; /* bytes of @bits */
};
/** dirtylog_mark() - set the bits of [@gpa, @gpa+@len) atomically; beyond the log: ignored. */
void dirtylog_mark(const struct dirtylog *log, uint64_t gpa, uint64_t len);

/* ---- In-flight log -------------------------------------------------------------------- */

/*
 * One log per queue, in the layout of vhost-user's inflight region, in the VMM's memory where
 * INFLIGHT_SHMFD was negotiated and in a memfd of ours otherwise. A byte that the
 * specification pads counts how often an entry was found after a crash.
 */
/** inflight_queue_size() - bytes one queue's log takes (a multiple of 64). */
size_t inflight_queue_size(uint16_t queue_size, bool packed);
/** inflight_format() - make an empty log at @mem, which is zeroed. */
void inflight_format(void *mem, uint16_t queue_size, bool packed);
/** inflight_clear() - make the log at @mem record nothing: to recover from it is a fresh start. */
void inflight_clear(void *mem);
/** inflight_spoil() - make the log at @mem unfit to recover from: somebody serves the ring who keeps no
 *  log, and virtq_start() is to refuse it until the log is made anew. */
void inflight_spoil(void *mem);
/** inflight_loosen() - somebody serves the packed ring who keeps no log, and requests may get lost: whoever recovers
 *  goes on where the ring's own flags say. */
void inflight_loosen(void *mem);
/**
 * inflight_renumber() - set the number of the next request in a packed ring's log, of which none is in flight.
 * Whoever recovers from it goes on there.
 */
void inflight_renumber(void *mem, uint16_t queue_size, uint64_t next);
/**
 * inflight_next() - one more than the highest number of a request in a packed ring's log. The log may be another process's work: its word is good for statistics.
 */
uint64_t inflight_next(const void *mem, uint16_t queue_size);

/* ---- Virtqueue, device side ----------------------------------------------------------- */

#define VIRTQ_MAX_SIZE   32768u
#define VIRTQ_INLINE_IOV 10u
/* Longest vector of one chain: what the ring takes beyond is refused as hostile. */
#define VIRTQ_MAX_IOV 1024u

/**
 * struct virtq_chain - a descriptor chain, judged and translated; the first member of the
 * caller's slot for its id (see virtq_config.slots).
 * @id:       head index (split) or buffer id (packed).
 * @ndesc:    ring descriptors it occupies.
 * @attempts: crashes with which it is charged (0 = none).
 * @replayed: an earlier process left it. It may already
 *            have been executed.
 * @awaited:  the caller's: the VMM takes back memory that it may use, and waits for its end.
 * @copied, @owner: the caller's.
 * @nread, @nwrite: entries of @iov the device may read, followed by those it may write.
 * @read_len, @write_len: their bytes.
 * @iov: points to @inline_iov, or to a long list of the pool until virtq_push().
 */
struct virtq_chain {
    union {
        struct {
            uint16_t ndesc;
            uint8_t attempts;
            bool replayed;
            uint16_t nread;
            uint16_t nwrite;
        };
        uint64_t shape_; /* private: all of these in one store */
    };
    uint16_t id;
    bool awaited;
    bool copied;
    uint64_t read_len;
    uint64_t write_len;
    void *owner;
    struct iovec *iov;
    struct iovec inline_iov[VIRTQ_INLINE_IOV];
};

/** struct iovpool - preallocated long lists of VIRTQ_MAX_IOV entries, shared by a thread's rings.
 *  Pages are touched only when used. Single-threaded. */
struct iovpool;
struct iovpool *iovpool_new(unsigned lists);
void iovpool_free(struct iovpool *pool);

/**
 * struct virtq_config - what virtq_start() needs.
 * @desc, @driver, @device: guest-physical addresses of the three ring areas (split: descriptor
 *         table, available ring, used ring; packed: ring, driver event, device event).
 * @slots, @slot_stride: the caller's array of @size slots; each begins with a virtq_chain.
 * @inflight: this queue's log; never NULL.
 * @innocent: the process before did not die of what it did: charge its requests with nothing.
 * @tail: chains that are answered in the order in which they were taken need not be entered in the log (tail.c). For devices
 *         that mostly do so, and where nobody but virtq_start() reads the log of one that was killed.
 * @log_used: dirty-log address of the used ring, where @log_used_valid.
 */
struct virtq_config {
    uint16_t size;
    bool packed;
    bool event_idx;
    bool indirect;
    bool innocent;
    bool tail;
    uint64_t desc, driver, device;
    const struct memmap *map;
    struct iovpool *iovs;
    void *slots;
    size_t slot_stride;
    void *inflight;
    const struct dirtylog *dirty;
    uint64_t log_used;
    bool log_used_valid;
};

/** struct virtq_stats - per queue; read from any thread. */
struct virtq_stats {
    uint64_t taken, pushed, kicks_seen, calls, calls_suppressed, replayed;
};

/* A chain between virtq_push() and virtq_publish(); its slot may already be gone. */
struct virtq_done {
    uint16_t id;
    uint16_t ndesc;
    uint32_t len;
};
/* A chain's first and last entry in a packed in-flight log. */
struct virtq_entered {
    uint16_t first, last;
};
enum virtq_id { VIRTQ_ID_FREE, VIRTQ_ID_TAKEN, VIRTQ_ID_PUSHED, VIRTQ_ID_RETURNED };

struct virtq {
    struct virtq_config config;
    bool started;
    bool broken;       /* virtq_take() found the ring corrupt */
    bool polling;      /* notifications are off: the device looks by itself */
    bool notify_known; /* the shared notification word is as @polling and @armed_at say */
    bool avail_wrap, used_wrap;
    bool signalled_valid;          /* EVENT_IDX: @signalled means something */
    uint16_t last_avail;           /* next available entry to take; packed: ring offset */
    uint16_t used;                 /* next used entry to publish; packed: ring offset */
    uint16_t avail_shadow;         /* split: driver's avail idx as last read */
    uint16_t armed_at;             /* EVENT_IDX: the event index the driver was given */
    uint16_t signalled;            /* EVENT_IDX: used index at the last call decision */
    uint16_t in_flight;            /* taken and not yet pushed */
    uint16_t descs;                /* packed: ring descriptors taken and not yet published */
    uint16_t log_free;             /* packed: head of the in-flight log's free list */
    uint16_t *log_next;            /* packed: private copy of that list's links */
    struct virtq_entered *entered; /* packed: by id: where the log has it */
    uint16_t *tail; /* the tail's ids, by place in the ring, split: in the available one; or NULL */
    uint16_t *tail_rank;                         /* by id: scratch */
    uint16_t ntail;                              /* taken last, and not entered in the log */
    struct ring_desc *copy;                      /* packed: the chain being judged */
    uint8_t *state;                              /* by id: enum virtq_id */
    void *desc_area, *driver_area, *device_area; /* where the three areas are here */
    struct virtq_done *done;                     /* pushed and not yet published */
    unsigned done_count;
    uint16_t *returned; /* ids to be put back (back.c) */
    unsigned returned_count;
    struct virtq_spans *spans; /* vIOMMU: the addresses that chains use; else NULL */
    bool missing;              /* vIOMMU: virtq_take() ended where a translation is not known */
    bool driver_writable;      /* vIOMMU: the driver area may be written */
    uint16_t *replay; /* found in the log, oldest first: heads (split) or log entries (packed) */
    unsigned replay_count, replay_next;
    uint64_t counter; /* in-flight log: submission order */
    unsigned hint;    /* last memory region, */
    unsigned other;   /* and the one before it: a tap's headers and its guest's data lie in two */
    struct virtq_stats stats;
    char fault[160]; /* why virtq_take() returned an error */
};

/**
 * virtq_start() - judge addresses, alignment and size; take up the ring where it stands.
 * @base: as SET_VRING_BASE gave it: split: next available index; packed: available and
 *        used offset with their wrap bits (15 and 31).
 * @recover: the in-flight log holds what an earlier process left: finish its last batch, set
 *        the indices from the ring's used index and the log (never from @base), and make
 *        virtq_take() return the unfinished chains first, oldest first, each charged with an attempt as
 *        it is taken. A log
 *        that is all zeroes (its version is 0) records nothing and counts as a fresh start; of one that
 *        inflight_loosen() has seen the ring's flags tell the rest.
 *        Without @recover the log is made anew.
 *
 * @vq is zeroed before its first start; statistics survive a stop.
 *
 * Return: 0; -EINVAL for a configuration that cannot be; -EFAULT for an area outside the guest's
 * memory; -EBADMSG for a log that no process of ours or of the specification can have left; -EAGAIN
 * while the vIOMMU's translation of an area is not known (try again when it is).
 */
int virtq_start(struct virtq *vq, const struct virtq_config *config, uint32_t base, bool recover,
                struct dt_error *err);
/** virtq_stop() - forget the ring. All chains must have been pushed and published; replayed ones
 *  not yet taken stay in the log (virtq_pending() tells).
 *  Return: the base for GET_VRING_BASE. */
uint32_t virtq_stop(struct virtq *vq);
/** virtq_set_dirty() - logging was switched on or off on a live ring. */
void virtq_set_dirty(struct virtq *vq, const struct dirtylog *dirty, uint64_t log_used,
                     bool log_used_valid);

/* Most chains that one virtq_take() returns, whatever its @max. */
#define VIRTQ_BURST 32u
/*
 * A good @max for a device that answers at once and publishes after each take. With all that is
 * there taken in one go, driver and device wait for each other in turn; with half of it, both
 * work: at depth 16 that is 50 ns a request instead of 70 (split) and 100 (packed).
 */
#define VIRTQ_GOOD_BURST 8u

/**
 * virtq_take() - take up to @max chains the driver made available.
 * @out: filled with pointers to the slots' chains.
 *
 * A descriptor of length 0 is tolerated and contributes nothing.
 *
 * Return: how many (0 = none, or the iovec pool is empty for now), or -EPROTO when the ring is
 * corrupt; virtq.fault then says how, and the session must break. Chains taken before the
 * fault in the same call are returned first; the fault comes with the next call.
 */
int virtq_take(struct virtq *vq, struct virtq_chain **out, unsigned max);
/* virtq_release_list() - @chain's long list goes back to the pool. */
void virtq_release_list(struct virtq *vq, struct virtq_chain *chain);
/** virtq_push() - a chain is done; @written bytes of its writable part were set. The
 *  driver sees it after virtq_publish(). The slot may be reused at once. */
static inline void virtq_push(struct virtq *vq, struct virtq_chain *chain, uint32_t written)
{
    CHECK(chain->id < vq->config.size && vq->state[chain->id] == VIRTQ_ID_TAKEN);
    vq->state[chain->id] = VIRTQ_ID_PUSHED;
    if (unlikely(chain->iov != chain->inline_iov))
        virtq_release_list(vq, chain);
    vq->done[vq->done_count++] = (struct virtq_done){
        .id = chain->id,
        .ndesc = chain->ndesc,
        .len = written,
    };
    vq->in_flight--;
}
/** virtq_return() - a chain will not be served by us: it is to be put back. The slot may be reused once it is
 *  taken again. */
void virtq_return(struct virtq *vq, struct virtq_chain *chain);
/** virtq_returns() - can chains be put back? Not into a split ring that the guest's IOMMU lets us only read. */
static inline bool virtq_returns(const struct virtq *vq)
{
    return !vq->spans || vq->config.packed || vq->driver_writable;
}
/**
 * virtq_put_back() - make the returned chains available again, as if they had never been taken: whoever
 * serves the ring next finds them there, even on another host. No chain is in flight, and all that were
 * pushed are published. Return: how many.
 */
unsigned virtq_put_back(struct virtq *vq);
/** virtq_publish() - show the pushed batch; return true if the driver wants a call. */
bool virtq_publish(struct virtq *vq);
/** virtq_abandon() - the session broke: forget the ring with chains in flight. They stay in the
 *  log; nobody may push them any more. */
void virtq_abandon(struct virtq *vq);
/**
 * virtq_uses() - vIOMMU: is chain @id in flight, with memory in [@iova, @iova+@size)? It may say yes
 * where the chain has memory on both sides of the range. @size 0: to the end.
 */
bool virtq_uses(const struct virtq *vq, uint16_t id, uint64_t iova, uint64_t size);
/** virtq_lies_in() - vIOMMU: is any part of the ring itself in the range? */
bool virtq_lies_in(const struct virtq *vq, uint64_t iova, uint64_t size);
/** virtq_unmap() - vIOMMU: nothing is in flight; the ring's memory may go. The next call is virtq_map(), or
 *  virtq_stop(). */
void virtq_unmap(struct virtq *vq);
/** virtq_map() - look the ring's memory up again. Return: as virtq_start(). */
int virtq_map(struct virtq *vq, struct dt_error *err);
static inline bool virtq_mapped(const struct virtq *vq)
{
    return vq->desc_area != NULL;
}
/** virtq_pending() - is there something to take, or a fault to fetch? Reads the ring once. */
bool virtq_pending(struct virtq *vq);
/** virtq_disarm() - the device polls: ask the driver not to kick. */
void virtq_disarm(struct virtq *vq);
/** virtq_arm() - ask for a kick, full fence, look again; true if nothing is pending. */
bool virtq_arm(struct virtq *vq);
/** virtq_dirty() - mark the writable vectors of @chain (first @written bytes) in the log. */
void virtq_dirty(struct virtq *vq, const struct virtq_chain *chain, uint64_t written);

/* ---- Virtqueue, driver side ------------------------------------------------------------ */

/** struct virtq_buffer - one descriptor: an address the device understands and a length. */
struct virtq_buffer {
    uint64_t addr;
    uint32_t len;
};

/**
 * struct virtq_entry - what the driver knows of a chain by its id, and of the descriptor of that number.
 * @max_len: of the chain: writable bytes offered. @ndesc: its descriptors, 0 = not outstanding.
 * @last: split: its last descriptor.
 * @next: of the descriptor, or of the id in a packed ring: free list, and split chains.
 */
struct virtq_entry {
    uint32_t max_len;
    uint16_t ndesc, last, next;
};

/**
 * struct virtq_driver - the driver's end of a ring: the front end library's, and the tap's when
 * it faces a rear. The device is not trusted either: ids and lengths it returns are checked.
 */
struct virtq_driver {
    uint16_t size;
    bool packed, event_idx;
    bool avail_wrap, used_wrap;
    bool polling;
    bool notify_known; /* the shared notification word is as @polling and @armed_at say */
    bool broken;       /* the device broke the ring; see @fault */
    uint8_t *mem;      /* the ring areas, contiguous, in shared memory */
    uint64_t addr;     /* where the device sees @mem */
    size_t desc_off, driver_off, device_off, total;
    uint16_t free_head, free_count; /* split: descriptors; packed: buffer ids and descriptors */
    uint16_t avail, avail_published, used;
    uint16_t used_shadow; /* split: device's used idx as last read */
    uint16_t armed_at;
    uint16_t first_at;   /* packed: where the first chain since the last publish begins */
    uint64_t first_word; /* packed: its len, id and flags, withheld until publish */
    struct virtq_entry *entries;
    char fault[160];
};

/** virtq_driver_bytes() - shared memory needed for the areas of a ring. */
size_t virtq_driver_bytes(uint16_t size, bool packed);
/** virtq_driver_init() - lay a new, empty ring out in @mem (zeroed by this call). */
int virtq_driver_init(struct virtq_driver *d, uint16_t size, bool packed, bool event_idx, void *mem,
                      uint64_t addr);
void virtq_driver_fini(struct virtq_driver *d);
/**
 * virtq_driver_add() - offer a chain: @nread device-readable buffers, then @nwrite writable.
 * Return: its id, or -ENOSPC when descriptors ran out, -EINVAL for none at all. Visible after
 * virtq_driver_publish().
 */
int virtq_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                     unsigned nwrite);
/** struct virtq_table - a chain whose @n descriptors are in an indirect table, which the device sees at @addr and
 *  which stays as it is until the chain came back. @max_len: bytes that they let the device write. */
struct virtq_table {
    uint64_t addr;
    uint32_t n, max_len;
};
/**
 * virtq_driver_add_tables() - offer @n chains in tables, where INDIRECT_DESC was negotiated: each takes one descriptor of
 * the ring, and virtq_driver_ids() told their ids.
 */
void virtq_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n);
/** virtq_driver_ids() - the ids of the chains that are added next, each in a table. Return: how many, at most @max,
 *  there is room for. */
unsigned virtq_driver_ids(const struct virtq_driver *d, uint16_t *ids, unsigned max);
/** virtq_table_set() - write descriptor @at of @table, which lies in shared memory. @more: others follow it. */
static inline void virtq_table_set(const struct virtq_driver *d, struct vring_desc *table,
                                   unsigned at, struct virtq_buffer buf, bool write, bool more)
{
    uint64_t flags = write ? VRING_DESC_F_WRITE : 0, rest = flags << 48;

    /* In the table of a packed ring neither order nor links are written: they follow from the place. */
    if (!d->packed)
        rest = (flags | (more ? VRING_DESC_F_NEXT : 0)) << 32 | (uint64_t)(at + 1) << 48;
    __atomic_store_n(&table[at].addr, buf.addr, __ATOMIC_RELAXED);
    __atomic_store_n((uint64_t *)(void *)&table[at].len, buf.len | rest, __ATOMIC_RELAXED);
}
/** virtq_driver_publish() - show what was added; true if the device wants a kick. */
bool virtq_driver_publish(struct virtq_driver *d);
/**
 * virtq_driver_reap() - collect finished chains.
 * Return: how many ids (and lengths, unless NULL) were stored, or -EPROTO with @fault set when
 * the device returned an id that was not outstanding or a length beyond what was offered.
 * Chains collected before the fault in the same call are returned first.
 */
int virtq_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max);
/** virtq_driver_arm() - ask for calls and look again: true if nothing is there to reap. */
bool virtq_driver_arm(struct virtq_driver *d);
void virtq_driver_disarm(struct virtq_driver *d);

#endif
