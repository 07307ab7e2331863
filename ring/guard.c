/* SPDX-License-Identifier: MIT */
/*
 * guard.c - survive a guest memory file that shrinks under us.
 *
 * Theory of operation: whoever owns the file behind a region can truncate it after we judged
 * its size; the next access raises SIGBUS. One session must break, not the worker. The handler
 * finds the mapping in a fixed table, puts zero pages over all of it and sets the owner's flag;
 * the interrupted access then succeeds on zeroes, and the session sees the flag when it next
 * looks.
 *
 * The handler may interrupt any thread anywhere, so it takes no lock and calls nothing but
 * mmap(2), which is one system call. A slot is claimed with a compare-and-swap and becomes
 * visible by its @start, stored last; it is freed by clearing @start first. The handler reads
 * @start again after the other fields: a slot that changed hands meanwhile is not ours.
 */
#include "ring/internal.h"

#include <signal.h>
#include <sys/mman.h>

/* Eight guests with the most regions that a front end may send. */
#define GUARD_SLOTS   4096u
#define GUARD_CLAIMED 1u /* no mapping starts there */

struct guard_slot {
    uintptr_t start;
    size_t size;
    bool *faulted;
};

static struct guard_slot slots[GUARD_SLOTS];
static unsigned slots_used; /* only ever grows: bounds the handler's search */
static struct sigaction previous;

int memmap_guard_add(void *mapping, size_t size, bool *faulted)
{
    for (unsigned i = 0; i < GUARD_SLOTS; i++) {
        struct guard_slot *s = &slots[i];
        uintptr_t empty = 0;
        unsigned used = __atomic_load_n(&slots_used, __ATOMIC_RELAXED);

        if (!__atomic_compare_exchange_n(&s->start, &empty, GUARD_CLAIMED, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED))
            continue;
        while (used <= i && !__atomic_compare_exchange_n(&slots_used, &used, i + 1, false,
                                                         __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            ;
        __atomic_store_n(&s->size, size, __ATOMIC_RELAXED);
        __atomic_store_n(&s->faulted, faulted, __ATOMIC_RELAXED);
        __atomic_store_n(&s->start, (uintptr_t)mapping, __ATOMIC_RELEASE);
        return 0;
    }
    return -ENOSPC;
}

void memmap_guard_remove(void *mapping)
{
    for (unsigned i = 0; i < __atomic_load_n(&slots_used, __ATOMIC_ACQUIRE); i++) {
        if (__atomic_load_n(&slots[i].start, __ATOMIC_RELAXED) == (uintptr_t)mapping) {
            __atomic_store_n(&slots[i].start, 0, __ATOMIC_RELEASE);
            return;
        }
    }
}

static bool guard_replace(uintptr_t addr)
{
    for (unsigned i = 0; i < __atomic_load_n(&slots_used, __ATOMIC_ACQUIRE); i++) {
        struct guard_slot *s = &slots[i];
        uintptr_t start = __atomic_load_n(&s->start, __ATOMIC_ACQUIRE);
        size_t size = __atomic_load_n(&s->size, __ATOMIC_RELAXED);
        bool *faulted = __atomic_load_n(&s->faulted, __ATOMIC_RELAXED);

        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (start <= GUARD_CLAIMED || addr - start >= size ||
            __atomic_load_n(&s->start, __ATOMIC_RELAXED) != start)
            continue;
        if (mmap((void *)start, size, PROT_READ | PROT_WRITE,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            return false;
        __atomic_store_n(faulted, true, __ATOMIC_RELEASE);
        return true;
    }
    return false;
}

static void guard_handler(int sig, siginfo_t *info, void *context)
{
    int saved_errno = errno;

    /* si_code > 0: the kernel raised it for an access, so si_addr means something. */
    if (info->si_code > 0 && guard_replace((uintptr_t)info->si_addr)) {
        errno = saved_errno;
        return;
    }
    /* Not ours: the access faults again under the old action; a sent signal must be resent. */
    sigaction(SIGBUS, &previous, NULL);
    if (info->si_code <= 0)
        raise(SIGBUS);
    errno = saved_errno;
}

void memmap_guard_install(void)
{
    struct sigaction action = {.sa_sigaction = guard_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction now;

    /* Again where somebody else's handler took its place meanwhile. */
    CHECK(sigaction(SIGBUS, NULL, &now) == 0);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == guard_handler)
        return;
    previous = now;
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}
