/* SPDX-License-Identifier: MIT */
/*
 * store.h - what a pool asks of the thing that holds its blocks. Kept narrow, so that it can be a
 * file, a block device, memory under test, or objects in a cluster.
 *
 * One process writes to a store (a *domain* of the pool): the lock sees to that. It gives out runs of blocks that nobody else has (@allocate), fills each once
 * before anything points there (@write, @save), gives them back (@punch), and switches from one state of all to the next by
 * one small block (@commit). The store promises: what was written
 * before a flush was begun is durable when that flush has succeeded; what was written by @write or
 * @put outlives the death of the process once it has returned or completed, with no flush. It
 * promises no order, and that a block which was being written in a power failure is old, new, or a
 * mixture in units of 512 bytes.
 *
 * Data travels by @read and @write, which return at once; so do nodes that requests wait for, by @fetch,
 * and those of a root, by @save. What else the pool's own structures need travels by @get and @put, which
 * block: it is rare, small, or goes to memory (the page cache of a file).
 */
#ifndef PARALLAX_STORE_H
#define PARALLAX_STORE_H

#include "loop/loop.h"
#include "parallax/format.h"

/** enum store_job - what a helper does for a store_io. ALLOCATE and ZERO are those of @allocate. */
enum store_job { STORE_SAVE, STORE_PUNCH, STORE_ALLOCATE, STORE_ZERO };

/** struct store_io - one transfer, flush or job under way; embed it. @result: 0 or -errno. */
struct store_io {
    struct dt_io io;
    struct iovec iov; /* iov_base NULL: so many bytes of the file, and no data */
    uint64_t at;      /* in bytes, of what a helper does */
    enum store_job job;
    void (*done)(struct store_io *sio, int result);
    struct store_io *next; /* of those that wait for a helper, or that it has finished */
    int result;
};

/**
 * struct store - set up by the kind of store, with what it needs behind it.
 * @blocks: its size.
 * @name:   for messages.
 * @holes:  what was never written, or was punched, may find no space when it is written: -ENOSPC or -EDQUOT, from @write,
 * @save and @put. Then there are @allocate and @backed.
 * @read, @write: @count consecutive blocks from @addr; @buf is aligned to 4096 and stays in place.
 * @save:   as @write, of what the pool's own structures are: may be slower, and, like a flush, may be under
 * way when the store loses its loop.
 * @flush:  all that completed before. Several may be under way.
 * @get, @put, @sync: the same, blocking.
 * @fetch:  as @get, but like @read it returns at once; @buf is aligned, too. NULL: there is only @get.
 * @punch:  these blocks are in no use, and are not before @sio is done: give their space back. A hint: its result
 * tells nothing. @sio NULL: blocking. May be NULL.
 * @allocate: have space for these blocks, of which the same holds; @full: and have it written, with zeroes. -ENOSPC: there is none;
 * -EOPNOTSUPP: the file system cannot. @sio NULL: blocking, and returns that. May be NULL.
 * @backed: the first run of blocks from @addr on and before @end that have space, or @from and @to are @end. Blocks. It may leave
 * some out, and, unless @finds_unwritten, those that were allocated and never written. May be NULL.
 * @commit: @root, one block, is what counts from now on: after a loss of power @recall finds it, if a flush that was begun since has
 * succeeded, or else it or the one before. @number: of this root, one more than of the last. -ENOSPC or -EDQUOT: nothing has changed. It blocks, as @put.
 * @recall: a root that was committed; the newest is among them, and so may be what became of others: the caller judges. @i: from 0 to where it returns
 * -ENOENT. It blocks.
 * @prefetch: these blocks will be asked for by @get soon: a hint, which returns at once. May be NULL.
 */
struct store {
    uint64_t blocks;
    const char *name;
    bool holes, finds_unwritten;
    void (*read)(struct store *s, struct store_io *sio, void *buf, uint64_t addr, unsigned count);
    void (*write)(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                  unsigned count);
    void (*save)(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                 unsigned count);
    void (*flush)(struct store *s, struct store_io *sio);
    int (*get)(struct store *s, void *buf, uint64_t addr, unsigned count);
    int (*put)(struct store *s, const void *buf, uint64_t addr, unsigned count);
    int (*sync)(struct store *s);
    int (*commit)(struct store *s, const void *root, uint64_t number);
    int (*recall)(struct store *s, void *root, unsigned i);
    void (*punch)(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count);
    int (*allocate)(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count,
                    bool full);
    int (*backed)(struct store *s, uint64_t addr, uint64_t end, uint64_t *from, uint64_t *to);
    void (*fetch)(struct store *s, struct store_io *sio, void *buf, uint64_t addr, unsigned count);
    void (*prefetch)(struct store *s, uint64_t addr, uint64_t count);
    void (*close)(struct store *s);
};

/** store_slots_commit() - @commit by two puts, where blocks can be written over; store_slots_recall() - @recall of these. */
int store_slots_commit(struct store *s, const void *root, uint64_t number);
int store_slots_recall(struct store *s, void *root, unsigned i);

/** store_is_full() - is it @error that says that there is no space for a hole? */
static inline bool store_is_full(int error)
{
    return error == -ENOSPC || error == -EDQUOT;
}

/**
 * struct store_file_options
 * @create: make a new file of @size bytes, or take a device; else the file must be there.
 */
struct store_file_options {
    bool create, read_only;
    uint64_t size;
};

/** store_file_open() - a pool in a regular file or on a block device. Until it is locked and has a
 * loop, it may only be read, with @get. */
int store_file_open(struct store **store, const char *path, const struct store_file_options *o,
                    struct dt_error *err);
/**
 * store_file_lock() - for this process alone (if opened read-only: shared with other readers), by
 * @deadline at the latest.
 *
 * The lock belongs to the open file description, so I/O of a process that was killed keeps it until
 * all of it has landed. Return: 0; -EBUSY and who has it; another -errno with @err.
 */
int store_file_lock(struct store *store, uint64_t deadline, struct dt_error *err);
/** store_pread() - all of @count blocks of a file; -EIO where it ends before. */
int store_pread(int fd, void *buf, uint64_t addr, unsigned count);
/** store_reader_open() - only to be read, by @get, past the page cache where that is possible, and at most @rate bytes per
 * second; 0: any. It takes no lock. */
int store_reader_open(struct store **store, const char *path, uint64_t rate, struct dt_error *err);
/** store_file_grow() - to @bytes, or what a device has now. */
int store_file_grow(struct store *store, uint64_t bytes, struct dt_error *err);
/** store_file_loop() - the loop that serves @read, @write and @flush from now on, on its thread;
 * NULL: none any more. Then no read or write may be under way; flushes and what else helpers do is waited for, and their
 * @done called. */
int store_file_loop(struct store *store, struct loop *loop);

#endif
