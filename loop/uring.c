/* SPDX-License-Identifier: MIT */
/*
 * uring.c - the loop's engine on io_uring.
 *
 * Theory of operation: I/O becomes an SQE at once and is submitted by the one
 * io_uring_enter(2) at the end of the turn, which also reaps, and sleeps when it may. With
 * DEFER_TASKRUN the kernel posts completions only inside that call, and a flag in shared memory
 * says when it is worth making; a spinning turn looks at the flag and makes no call.
 *
 * A watch is a one-shot poll, armed again at the end of the turn after its callback: arming looks
 * at the descriptor first, which is what makes the watch level triggered. It costs no system call of
 * its own. An edge-triggered watch is a multishot poll, which stays.
 *
 * The ring starts disabled, so that the thread which runs the loop first, and no other, becomes
 * its submitter. It refuses all opcodes but ours, registrations and SQE flags, because io_uring
 * escapes seccomp.
 *
 * The rings are mapped by liburing and driven by hand: its submit functions make a second call
 * where we need one.
 */
#include "loop/engine.h"

#include <liburing.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>

/* More in flight overflow into kernel memory: legal but slow. */
#define URING_MIN_CQ_ENTRIES 4096u

struct uring {
    struct io_uring ring;
    bool enabled;
    unsigned arm_head; /* watches to arm: slot index + 1, linked by watch_slot.next */
    bool wake_armed;
    bool starved; /* of kernel memory, and that was logged */
};

static const uint8_t uring_opcodes[] = {
    IORING_OP_READ,  IORING_OP_READV,     IORING_OP_WRITE,    IORING_OP_WRITEV,
    IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,
};

/* Not every liburing exports its own functions for restrictions and for enabling. */
static int ring_register(const struct uring *u, unsigned opcode, const void *arg, unsigned n)
{
    long rc = syscall(SYS_io_uring_register, u->ring.ring_fd, opcode, arg, n);

    return rc < 0 ? -errno : (int)rc;
}

/*
 * The best flags first. 6.1 has them all; what is missing or forbidden costs speed alone.
 * R_DISABLED is never given up: without it there are no restrictions.
 */
static int ring_setup(struct uring *u, unsigned entries)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        0,
    };
    int rc = -EINVAL;

    for (unsigned i = 0; i < ARRAY_SIZE(flags) && rc == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
            .cq_entries = MAX(entries * 4, URING_MIN_CQ_ENTRIES),
        };

        rc = io_uring_queue_init_params(entries, &u->ring, &params);
        if (rc == 0 && !(params.features & IORING_FEAT_EXT_ARG)) {
            io_uring_queue_exit(&u->ring);
            return -EOPNOTSUPP;
        }
    }
    return rc;
}

/* Registers our opcodes; what is not registered is refused: all else, every SQE flag too. */
static int ring_restrict(struct uring *u)
{
    struct io_uring_restriction list[ARRAY_SIZE(uring_opcodes)] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(uring_opcodes); i++) {
        list[i].opcode = IORING_RESTRICTION_SQE_OP;
        list[i].sqe_op = uring_opcodes[i];
    }
    return ring_register(u, IORING_REGISTER_RESTRICTIONS, list, ARRAY_SIZE(list));
}

static int uring_open(struct loop *loop, unsigned entries, struct dt_error *err)
{
    struct uring *u = xcalloc(1, sizeof(*u));
    int rc = ring_setup(u, entries);

    if (rc < 0) {
        free(u);
        return dt_fail(err, rc, "cannot create an io_uring: %s", strerror(-rc));
    }
    rc = ring_restrict(u);
    if (rc < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return dt_fail(err, rc, "cannot restrict an io_uring: %s", strerror(-rc));
    }
    for (unsigned i = 0; i < u->ring.sq.ring_entries; i++)
        u->ring.sq.array[i] = i; /* entry i is always SQE i */
    loop->state = u;
    return 0;
}

static bool ring_flagged(const struct uring *u)
{
    return __atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) &
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Publishes the new SQEs; returns how many the kernel has not consumed. */
static unsigned ring_flush(struct uring *u)
{
    struct io_uring_sq *sq = &u->ring.sq;

    sq->sqe_head = sq->sqe_tail; /* liburing's mark, which belongs to its own submit */
    __atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
    return sq->sqe_tail - __atomic_load_n(sq->khead, __ATOMIC_RELAXED);
}

static void uring_close(struct loop *loop)
{
    struct uring *u = loop->state;

    /* Polls being removed hold files; from another thread this fails and the kernel does it later.
     */
    if (u->enabled)
        io_uring_enter(u->ring.ring_fd, ring_flush(u), 0, IORING_ENTER_GETEVENTS, NULL);
    io_uring_queue_exit(&u->ring);
    free(u);
}

/* What the kernel could not do now is tried again: the SQEs stay where they are. */
static void ring_judge(struct uring *u, int rc)
{
    if (likely(rc >= 0) || rc == -ETIME || rc == -EINTR || rc == -EBUSY)
        return;
    if (rc == -EAGAIN || rc == -ENOMEM) {
        const struct timespec pause = {.tv_nsec = 100000};

        if (!u->starved)
            log_warning("io_uring: the kernel is short of memory; trying until it is not");
        u->starved = true;
        nanosleep(&pause, NULL);
        return;
    }
    log_error("io_uring_enter: %s%s", strerror(-rc),
              rc == -EEXIST ? " (two threads drive one loop)" : "");
    CHECK(!"io_uring_enter failed");
}

/* The first thread that needs the kernel becomes the loop's own. */
static void ring_enable(struct uring *u)
{
    int rc = ring_register(u, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

    if (rc < 0)
        log_error("cannot enable an io_uring: %s", strerror(-rc));
    CHECK(rc >= 0);
    u->enabled = true;
}

/*
 * I/Os that wait for the end of the turn leave the disk idle meanwhile; each system call costs
 * as much as starting one. Measured at depth 32 on one file: 0.82 of fio's IOPS with all of a burst
 * in one call, 0.96 by eights, 0.995 by fours.
 */
#define SUBMIT_BATCH 4u

/* Submits without reaping, because we may be in a callback. */
static void ring_submit(struct loop *loop)
{
    struct uring *u = loop->state;

    if (!u->enabled)
        ring_enable(u);
    stat_add(&loop->stats.submits, 1);
    ring_judge(u, io_uring_enter(u->ring.ring_fd, ring_flush(u), 0, 0, NULL));
}

static unsigned ring_queued(const struct uring *u)
{
    return u->ring.sq.sqe_tail - __atomic_load_n(u->ring.sq.khead, __ATOMIC_ACQUIRE);
}

static struct io_uring_sqe *ring_sqe(struct loop *loop)
{
    struct uring *u = loop->state;
    struct io_uring_sq *sq = &u->ring.sq;

    while (unlikely(ring_queued(u) == sq->ring_entries))
        ring_submit(loop);
    return &sq->sqes[sq->sqe_tail++ & (sq->ring_entries - 1)];
}

static void wake_arm(struct loop *loop)
{
    struct uring *u = loop->state;
    struct io_uring_sqe *sqe = ring_sqe(loop);

    /* Multishot, and the counter is never read: each write to an eventfd is an event anyway. */
    io_uring_prep_poll_multishot(sqe, loop->wake_fd, POLLIN);
    sqe->user_data = KEY_WAKE;
    u->wake_armed = true;
}

static void watches_arm(struct loop *loop)
{
    struct uring *u = loop->state;
    struct watch_table *table = &loop->watches;

    while (u->arm_head) {
        unsigned index = u->arm_head - 1;
        struct watch_slot *slot = &table->slots[index];
        struct io_uring_sqe *sqe;

        u->arm_head = slot->next;
        slot->next = 0;
        slot->queued = false;
        if (!slot->watch) {
            slot->next = table->free;
            table->free = index + 1;
            continue;
        }
        sqe = ring_sqe(loop);
        if (slot->watch->events & EPOLLET)
            io_uring_prep_poll_multishot(sqe, slot->watch->fd, slot->watch->events & ~EPOLLET);
        else
            io_uring_prep_poll_add(sqe, slot->watch->fd, slot->watch->events);
        sqe->user_data = watch_key(table, index);
        slot->armed = true;
    }
}

static void uring_enter(struct loop *loop, uint64_t timeout)
{
    struct uring *u = loop->state;
    unsigned flags = IORING_ENTER_GETEVENTS, waiting;
    struct __kernel_timespec ts;
    struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&ts};
    int rc;

    if (unlikely(u->arm_head))
        watches_arm(loop);
    if (timeout && unlikely(!u->wake_armed))
        wake_arm(loop);
    waiting = ring_flush(u);
    if (!waiting && !timeout && likely(!ring_flagged(u)))
        return;
    if (unlikely(!u->enabled))
        ring_enable(u);
    if (waiting)
        stat_add(&loop->stats.submits, 1);
    if (timeout && timeout != LOOP_FOREVER) {
        ts.tv_sec = (int64_t)(timeout / DT_S(1));
        ts.tv_nsec = (long long)(timeout % DT_S(1));
        flags |= IORING_ENTER_EXT_ARG;
        rc = io_uring_enter2(u->ring.ring_fd, waiting, 1, flags, (sigset_t *)&arg, sizeof(arg));
    } else {
        rc = io_uring_enter(u->ring.ring_fd, waiting, timeout ? 1 : 0, flags, NULL);
    }
    ring_judge(u, rc);
}

/* @more: it is a multishot poll that stays. */
static void watch_event(struct loop *loop, uint64_t key, int result, bool more)
{
    struct uring *u = loop->state;
    struct watch_table *table = &loop->watches;
    struct watch_slot *slot;
    uint32_t events = (uint32_t)result;
    unsigned index;

    if (!watch_find(table, key, &index))
        return; /* removed while the event was on its way */
    slot = &table->slots[index];
    slot->armed = more;
    if (result < 0) {
        log_error("cannot watch descriptor %d: %s", slot->watch->fd, strerror(-result));
        events = EPOLLERR | EPOLLHUP;
    } else if (!more) {
        slot->queued = true; /* before the callback, which may remove it */
        slot->next = u->arm_head;
        u->arm_head = index + 1;
    }
    slot->watch->ready(slot->watch, events);
}

static unsigned uring_reap(struct loop *loop)
{
    struct uring *u = loop->state;
    struct io_uring_cq *cq = &u->ring.cq;
    unsigned head = *cq->khead;
    unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE);
    unsigned mask = cq->ring_entries - 1, done = 0;

    for (; head != tail; head++) {
        struct io_uring_cqe cqe = cq->cqes[head & mask];

        /* Given back first: the callback may submit, and submission posts completions. */
        __atomic_store_n(cq->khead, head + 1, __ATOMIC_RELEASE);
        switch (cqe.user_data & KEY_TAG_MASK) {
        case 0:
            io_finish(loop, (struct dt_io *)(uintptr_t)cqe.user_data, cqe.res);
            done++;
            break;
        case KEY_WATCH:
            watch_event(loop, cqe.user_data, cqe.res, cqe.flags & IORING_CQE_F_MORE);
            done++;
            break;
        case KEY_WAKE:
            if (!(cqe.flags & IORING_CQE_F_MORE))
                u->wake_armed = false;
            break;
        default:
            break;
        }
    }
    return done;
}

static bool uring_ready(struct loop *loop)
{
    struct uring *u = loop->state;

    return *u->ring.cq.khead != __atomic_load_n(u->ring.cq.ktail, __ATOMIC_RELAXED);
}

static void prep_data(struct io_uring_sqe *sqe, const struct io_op *op)
{
    bool read = op->code == IO_READ;

    /* One entry needs no import of a vector; its length field has 32 bits. */
    if (op->n == 1 && op->iov->iov_len <= INT32_MAX)
        io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, op->fd, op->iov->iov_base,
                         (unsigned)op->iov->iov_len, op->offset);
    else
        io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, op->fd, op->iov, op->n,
                         op->offset);
}

static void uring_start(struct loop *loop, const struct io_op *op)
{
    struct uring *u = loop->state;
    struct io_uring_sqe *sqe = ring_sqe(loop);

    switch (op->code) {
    case IO_READ:
    case IO_WRITE:
        prep_data(sqe, op);
        break;
    case IO_FDATASYNC:
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
        break;
    case IO_FALLOCATE:
        /* The prep function's prototype differs between versions of liburing. */
        io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, op->fd, (void *)(uintptr_t)op->length,
                         (unsigned)op->mode, op->offset);
        break;
    }
    sqe->user_data = (uintptr_t)op->io;
    CHECK((sqe->user_data & KEY_TAG_MASK) == 0);
    if (u->enabled && ring_queued(u) >= SUBMIT_BATCH)
        ring_submit(loop);
}

void uring_start_opcode(struct loop *loop, struct dt_io *io, uint8_t opcode)
{
    struct io_uring_sqe *sqe = ring_sqe(loop);

    loop->in_flight++;
    io_uring_prep_rw(opcode, sqe, -1, NULL, 0, 0);
    sqe->user_data = (uintptr_t)io;
}

static int uring_watch_add(struct loop *loop, unsigned index)
{
    struct uring *u = loop->state;
    struct watch_slot *slot = &loop->watches.slots[index];

    if (fcntl(slot->watch->fd, F_GETFD) < 0)
        return -errno;
    slot->queued = true;
    slot->next = u->arm_head;
    u->arm_head = index + 1;
    return 0;
}

static void uring_watch_remove(struct loop *loop, unsigned index)
{
    struct io_uring_sqe *sqe;

    if (!loop->watches.slots[index].armed)
        return;
    /* The poll holds the file: it must go soon, but nobody waits for it. */
    sqe = ring_sqe(loop);
    io_uring_prep_rw(IORING_OP_POLL_REMOVE, sqe, -1, NULL, 0, 0);
    sqe->addr = watch_key(&loop->watches, index);
    sqe->user_data = KEY_INTERNAL;
}

const struct engine engine_uring = {
    .name = "io_uring",
    .open = uring_open,
    .close = uring_close,
    .reap = uring_reap,
    .enter = uring_enter,
    .ready = uring_ready,
    .start = uring_start,
    .watch_add = uring_watch_add,
    .watch_remove = uring_watch_remove,
};
