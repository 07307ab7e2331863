/* SPDX-License-Identifier: MIT */
/*
 * loop.c - the turn of the loop, and all of it that does not depend on the engine.
 *
 * Falling asleep: the thread stores `sleeping`, looks at the mailbox again, and enters the
 * kernel; a sender stores its message, looks at `sleeping`, and writes the eventfd if it was
 * set. All four are sequentially consistent, so at least one of them sees the other's store and
 * no wake-up is lost. While the loop is awake, a message costs its sender no system call.
 */
#include "loop/engine.h"

#include <sys/eventfd.h>

#define DEFERRED_ROUNDS 4 /* per turn, for what is deferred by the deferred */

static int engine_open(struct loop *loop, const struct loop_config *config, struct dt_error *err)
{
    unsigned entries = config->entries ? config->entries : 256;
    struct dt_error reason;
    int rc;

    if (config->engine != LOOP_EPOLL) {
        loop->engine = &engine_uring;
        rc = loop->engine->open(loop, entries, &reason);
        if (rc == 0)
            return 0;
        if (config->engine == LOOP_URING)
            return dt_fail(err, rc, "%s", reason.text);
        log_debug("using epoll: %s", reason.text);
    }
    loop->engine = &engine_epoll;
    return loop->engine->open(loop, entries, err);
}

int loop_new(struct loop **out, const struct loop_config *config, struct dt_error *err)
{
    struct loop *loop = xaligned(CACHE_LINE, sizeof(*loop));
    int rc;

    loop->magic = LOOP_MAGIC;
    loop->now_stale = true;
    loop->spin_ns = config->spin_ns;
    loop->deferred_tail = &loop->deferred_head;
    list_init(&loop->pollers);
    loop->cursor = &loop->pollers;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0) {
        rc = dt_fail(err, -errno, "cannot create an eventfd: %m");
        free(loop);
        return rc;
    }
    rc = engine_open(loop, config, err);
    if (rc < 0) {
        close(loop->wake_fd);
        free(loop);
        return rc;
    }
    *out = loop;
    return 0;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(loop->in_flight == 0); /* the kernel would write to memory that is soon freed */
    CHECK(list_empty(&loop->pollers));
    CHECK(loop->watches.used == 0);
    CHECK(loop->timers.n == 0);
    loop->engine->close(loop);
    close(loop->wake_fd);
    free(loop->watches.slots);
    free(loop->timers.entries);
    loop->magic = 0;
    free(loop);
}

const char *loop_engine_name(const struct loop *loop)
{
    return loop->engine->name;
}

uint64_t loop_now(struct loop *loop)
{
    if (loop->now_stale) {
        loop->now = dt_clock_ns();
        loop->now_stale = false;
    }
    return loop->now;
}

/*
 * last_work is 0 while the end of the last work is still to be stamped: busy turns need no clock.
 * Returns true when the spin time of an idle poller is over.
 */
static bool poller_rested(struct loop *loop, struct loop_poller *poller)
{
    if (loop->spin_ns == 0)
        return true;
    if (loop->spin_ns == UINT64_MAX || loop->stats.turns % LOOP_TICK_TURNS)
        return false;
    if (poller->last_work == 0) {
        poller->last_work = loop_now(loop) - loop->lent;
        return false;
    }
    return loop_now(loop) - loop->lent - poller->last_work >= loop->spin_ns;
}

/*
 * Nothing was found, and pollers are active. Who gets the processor back soon shares it with one that gives way as we do,
 * most likely the other end of our rings, and goes on polling. Else its owner is busy, and a sleeper is woken sooner than
 * a spinner has its turn: that time counts, and the spinning ends.
 */
static void give_way(struct loop *loop)
{
    uint64_t lent;

    if (loop->stats.turns % LOOP_TICK_TURNS)
        return;
    lent = spin_idle(&loop->spin, loop_now(loop));
    if (lent)
        loop->now_stale = true;
    if (lent < SPIN_TAKEN)
        loop->lent += lent;
}

static void poller_arm(struct loop *loop, struct loop_poller *poller)
{
    bool armed;

    poller->last_work = 1; /* loop_poller_wake() by the callback shows */
    armed = poller->arm(poller);
    if (loop->current != poller)
        return;
    if (armed && poller->last_work)
        loop_poller_remove(loop, poller);
    else
        poller->last_work = 0;
}

/*
 * A poller that found something is polled again before it rests: more may have come. But where a loop that does
 * not spin has found one request, and no other is under way, its driver most likely waits for
 * it: then one system call submits the I/O and puts the thread to sleep.
 */
static bool poller_done(struct loop *loop, struct loop_poller *poller, unsigned found)
{
    return found == 0 ? poller_rested(loop, poller)
                      : found == 1 && loop->spin_ns == 0 && loop->in_flight <= 1;
}

/*
 * Pollers may share what a limit lets through, and the first may leave nothing for the others. So where one found nothing
 * behind it, it is the last in the next turn. Who finds nothing is thus only ever moved forward, and those that all find
 * something keep their order, and the time between two looks.
 */
static unsigned run_pollers(struct loop *loop)
{
    bool move = false;
    unsigned done = 0;

    loop->first = NULL;
    for (struct list *node = loop->pollers.next; node != &loop->pollers; node = loop->cursor) {
        struct loop_poller *poller = list_entry(node, struct loop_poller, node);
        unsigned n;

        loop->cursor = node->next;
        loop->current = poller;
        n = poller->poll(poller);
        done += n;
        if (loop->current != poller)
            continue; /* it removed itself and may be gone */
        if (n) {
            poller->last_work = 0;
            if (!loop->first)
                loop->first = poller;
        } else if (loop->first) {
            move = true;
        }
        if (poller->arm && poller_done(loop, poller, n))
            poller_arm(loop, poller);
    }
    loop->current = NULL;
    if (move && loop->first) {
        list_del(&loop->first->node);
        list_add_tail(&loop->pollers, &loop->first->node);
    }
    return done;
}

/* Between two turns: before the one that was the first to find something, or it would be again. */
void loop_poller_wake(struct loop *loop, struct loop_poller *poller)
{
    poller->last_work = 0;
    if (list_empty(&poller->node))
        list_add_tail(loop->first && !loop->current ? &loop->first->node : &loop->pollers,
                      &poller->node);
}

void loop_poller_remove(struct loop *loop, struct loop_poller *poller)
{
    if (loop->cursor == &poller->node)
        loop->cursor = poller->node.next;
    if (loop->current == poller)
        loop->current = NULL;
    if (loop->first == poller)
        loop->first = NULL;
    list_del(&poller->node);
}

static unsigned run_messages(struct loop *loop)
{
    struct loop_message *newest, *oldest = NULL;
    unsigned done = 0;

    if (likely(!__atomic_load_n(&loop->mailbox, __ATOMIC_RELAXED)))
        return 0;
    newest = __atomic_exchange_n(&loop->mailbox, NULL, __ATOMIC_ACQUIRE);
    while (newest) {
        struct loop_message *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct loop_message *message = oldest;

        oldest = message->next;
        message->run(message);
        done++;
    }
    return done;
}

void loop_wake(struct loop *loop)
{
    const uint64_t one = 1;

    if (!__atomic_load_n(&loop->sleeping, __ATOMIC_SEQ_CST) ||
        !__atomic_exchange_n(&loop->sleeping, false, __ATOMIC_SEQ_CST))
        return;
    /* It cannot fail: the counter would need 2^64 - 2 wake-ups to be full. */
    CHECK(write(loop->wake_fd, &one, sizeof(one)) == sizeof(one));
}

void loop_post(struct loop *loop, struct loop_message *message)
{
    struct loop_message *head = __atomic_load_n(&loop->mailbox, __ATOMIC_RELAXED);

    do {
        message->next = head;
    } while (!__atomic_compare_exchange_n(&loop->mailbox, &head, message, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    loop_wake(loop);
}

/* Senders put messages before the first one and look at no other. */
bool loop_unpost(struct loop *loop, struct loop_message *message)
{
    struct loop_message *at = message;

    if (__atomic_compare_exchange_n(&loop->mailbox, &at, message->next, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_ACQUIRE))
        return true;
    while (at && at->next != message)
        at = at->next;
    if (at)
        at->next = message->next;
    return at != NULL;
}

void loop_defer(struct loop *loop, struct loop_deferred *deferred)
{
    if (deferred->pending)
        return;
    deferred->pending = true;
    deferred->next = NULL;
    *loop->deferred_tail = deferred;
    loop->deferred_tail = &deferred->next;
    loop->deferred_count++;
}

void loop_defer_cancel(struct loop *loop, struct loop_deferred *deferred)
{
    struct loop_deferred **link = &loop->deferred_head;

    if (!deferred->pending)
        return;
    while (*link != deferred)
        link = &(*link)->next;
    *link = deferred->next;
    if (!*link)
        loop->deferred_tail = link;
    deferred->pending = false;
    loop->deferred_count--;
}

static unsigned run_deferred(struct loop *loop)
{
    unsigned done = 0;

    for (unsigned round = 0; round < DEFERRED_ROUNDS && loop->deferred_head; round++) {
        for (unsigned n = loop->deferred_count; n && loop->deferred_head; n--) {
            struct loop_deferred *deferred = loop->deferred_head;

            loop_defer_cancel(loop, deferred);
            deferred->run(deferred);
            done++;
        }
    }
    return done;
}

static bool turn_callbacks(struct loop *loop)
{
    unsigned done;

    stat_add(&loop->stats.turns, 1);
    if (loop->stats.turns % LOOP_TICK_TURNS == 0)
        loop->now_stale = true;
    done = loop->engine->reap(loop);
    done += run_pollers(loop);
    if (loop->timers.n && loop_now(loop) >= loop->timers.entries[1].key)
        done += timers_fire(&loop->timers, loop->now);
    done += run_messages(loop);
    done += run_deferred(loop);
    if (done) {
        stat_add(&loop->stats.busy_turns, 1);
        loop->now_stale = true;
    }
    return done != 0;
}

/* 0 when a timer is due or there is other work to do at once. */
static uint64_t sleep_time(struct loop *loop)
{
    uint64_t key, now;

    if (!list_empty(&loop->pollers) || loop->deferred_head)
        return 0;
    if (!loop->timers.n)
        return LOOP_FOREVER;
    loop->now_stale = true;
    key = loop->timers.entries[1].key;
    now = loop_now(loop);
    return key > now ? key - now : 0;
}

static void turn_sleep(struct loop *loop, uint64_t timeout)
{
    __atomic_store_n(&loop->sleeping, true, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&loop->mailbox, __ATOMIC_SEQ_CST) ||
        __atomic_load_n(&loop->stop, __ATOMIC_SEQ_CST) || loop->engine->ready(loop))
        timeout = 0;
    else
        stat_add(&loop->stats.sleeps, 1);
    loop->engine->enter(loop, timeout);
    __atomic_store_n(&loop->sleeping, false, __ATOMIC_RELAXED);
    loop->now_stale = true;
}

bool loop_turn(struct loop *loop, bool wait)
{
    uint64_t timeout = wait ? sleep_time(loop) : 0;
    bool done;

    /* Sleep first: a caller that waits for what this turn brings would not come back to it. */
    if (timeout)
        turn_sleep(loop, timeout);
    done = turn_callbacks(loop);
    loop->engine->enter(loop, 0);
    return done;
}

bool loop_is_foreign(const struct loop *loop)
{
    pid_t owner = __atomic_load_n(&loop->owner, __ATOMIC_ACQUIRE);

    return owner != 0 && owner != gettid();
}

bool loop_is_own(const struct loop *loop)
{
    return __atomic_load_n(&loop->owner, __ATOMIC_ACQUIRE) == gettid();
}

bool loop_sleeps(const struct loop *loop)
{
    return __atomic_load_n(&loop->sleeping, __ATOMIC_RELAXED);
}

void loop_run(struct loop *loop)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    __atomic_store_n(&loop->owner, gettid(), __ATOMIC_RELEASE);
    for (;;) {
        uint64_t timeout;
        bool done = turn_callbacks(loop);

        if (__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE))
            break;
        /* One system call submits and sleeps. */
        timeout = sleep_time(loop);
        if (timeout)
            turn_sleep(loop, timeout);
        else
            loop->engine->enter(loop, 0);
        if (done || timeout)
            spin_found(&loop->spin);
        else
            give_way(loop);
    }
    loop->engine->enter(loop, 0);
    __atomic_store_n(&loop->stop, false, __ATOMIC_RELAXED);
    __atomic_store_n(&loop->owner, 0, __ATOMIC_RELEASE);
}

void loop_stop(struct loop *loop)
{
    __atomic_store_n(&loop->stop, true, __ATOMIC_SEQ_CST);
    loop_wake(loop);
}

int loop_watch_add(struct loop *loop, struct dt_watch *watch)
{
    unsigned index;
    int rc;

    CHECK_MAGIC(loop, LOOP_MAGIC);
    /* epoll's own rule, for both engines: one watch per descriptor. */
    for (unsigned i = 0; i < loop->watches.size; i++)
        if (loop->watches.slots[i].watch && loop->watches.slots[i].watch->fd == watch->fd)
            return -EEXIST;
    index = watch_slot_take(&loop->watches, watch);
    rc = loop->engine->watch_add(loop, index);
    if (rc < 0) {
        watch_slot_release(&loop->watches, index);
        watch->loop_private = NULL;
    }
    return rc;
}

void loop_watch_remove(struct loop *loop, struct dt_watch *watch)
{
    unsigned index;

    if (!watch->loop_private)
        return;
    index = watch_index(&loop->watches, watch);
    loop->engine->watch_remove(loop, index);
    watch_slot_release(&loop->watches, index);
    watch->loop_private = NULL;
}

void loop_timer_set(struct loop *loop, struct dt_timer *timer, uint64_t deadline)
{
    timers_set(&loop->timers, timer, deadline, loop->now);
}

void loop_timer_cancel(struct loop *loop, struct dt_timer *timer)
{
    timers_cancel(&loop->timers, timer);
}

static void io_start(struct loop *loop, const struct io_op *op)
{
    loop->in_flight++;
    loop->engine->start(loop, op);
}

void loop_readv(struct loop *loop, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                uint64_t offset)
{
    io_start(loop, &(struct io_op){
                       .code = IO_READ, .fd = fd, .iov = iov, .n = n, .offset = offset, .io = io});
}

void loop_writev(struct loop *loop, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                 uint64_t offset)
{
    io_start(loop, &(struct io_op){
                       .code = IO_WRITE, .fd = fd, .iov = iov, .n = n, .offset = offset, .io = io});
}

void loop_fdatasync(struct loop *loop, struct dt_io *io, int fd)
{
    io_start(loop, &(struct io_op){.code = IO_FDATASYNC, .fd = fd, .io = io});
}

void loop_fallocate(struct loop *loop, struct dt_io *io, int fd, int mode, uint64_t offset,
                    uint64_t length)
{
    io_start(loop, &(struct io_op){.code = IO_FALLOCATE,
                                   .fd = fd,
                                   .mode = mode,
                                   .offset = offset,
                                   .length = length,
                                   .io = io});
}

void loop_get_stats(const struct loop *loop, struct loop_stats *stats)
{
    const struct loop_stats *s = &loop->stats;

    stats->turns = __atomic_load_n(&s->turns, __ATOMIC_RELAXED);
    stats->busy_turns = __atomic_load_n(&s->busy_turns, __ATOMIC_RELAXED);
    stats->sleeps = __atomic_load_n(&s->sleeps, __ATOMIC_RELAXED);
    stats->submits = __atomic_load_n(&s->submits, __ATOMIC_RELAXED);
    stats->ios = __atomic_load_n(&s->ios, __ATOMIC_RELAXED);
}
