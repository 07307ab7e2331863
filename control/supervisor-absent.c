/* SPDX-License-Identifier: MIT */
/*
 * supervisor-absent.c - disks, and cards, that a worker cannot open.
 *
 * Theory of operation: the first start is all or nothing, and so is an upgrade. But a worker that takes the place of a dead one
 * leaves out what it cannot open (an image that is gone, an interface), says why, and serves the others: one device
 * is no reason for a VM to lose all of them. Its keeper keeps the VM's connection, whose requests wait.
 *
 * A worker is confined by the time it serves, and can open nothing any more. So a process of its own tries, at growing
 * intervals, whether one of those that are missing can be opened and locked, and does nothing else. If so, another worker takes
 * over in good order (supervisor-upgrade.c), which pauses the others once; and never for an attempt that fails. Where the attempt
 * works and the worker still cannot, as with saved state that is damaged, it is left alone until the next worker's death.
 *
 * Attempts are made one after the other. One that gets nowhere (a server that does not answer) is killed; until the kernel lets
 * it end nothing waits for it but another attempt with the same disk.
 *
 * A device that is alone is none to leave out: its workers are started again and again, as ever.
 */
#include "control/supervisor-internal.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#define RETRY_FIRST DT_S(1)
#define RETRY_MAX   DT_S(60)
#define PATIENCE    DT_S(30) /* with an attempt */

static unsigned number(const struct absence *a)
{
    return (unsigned)(a - a->s->absences.disks);
}

static bool to_be_tried(const struct absence *a)
{
    return a->now && !a->futile && a->attempt.pidfd < 0;
}

static void try_soon(struct absence *a)
{
    a->wait = RETRY_FIRST;
    a->due = dt_clock_ns() + a->wait;
}

static void try_later(struct absence *a)
{
    a->wait = MIN(2 * a->wait, RETRY_MAX);
    a->due = dt_clock_ns() + a->wait;
}

/* That which has waited longest. */
static struct absence *next_due(const struct supervisor *s)
{
    struct absence *next = NULL;

    for (unsigned i = 0; i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        if (to_be_tried(a) && (!next || a->due < next->due))
            next = a;
    }
    return next;
}

/* Where there is nothing to try, or an attempt is under way, whatever ends that comes by here again. */
static void set_timer(struct supervisor *s)
{
    struct absence *next = next_due(s);

    if (s->absences.trying)
        return;
    if (!next || s->stopping || !s->config.attempt)
        loop_timer_cancel(s->config.loop, &s->absences.retry);
    else
        loop_timer_set(s->config.loop, &s->absences.retry, next->due);
}

/* ---- Attempts ---- */

static void run_tried(struct dt_watch *watch, uint32_t poll_events)
{
    struct absence *a = container_of(watch, struct absence, ended);
    struct supervisor *s = a->s;
    int code, status;
    struct dt_error err;

    loop_watch_remove(s->config.loop, watch);
    if (child_reap(&a->attempt, &code, &status) < 0) {
        loop_watch_add(s->config.loop, watch);
        return;
    }
    if (s->absences.trying == a)
        s->absences.trying = NULL;
    /* Also if the upgrade fails: then it is to be tried again. */
    try_later(a);
    if (to_be_tried(a) && !s->stopping && code == CLD_EXITED && status == 0) {
        if (supervisor_upgrade(s, NULL, NULL, &err) == 0)
            s->absences.opened = a;
        else
            log_debug("what can be opened again waits: %s", err.text);
    }
    set_timer(s);
}

/* In the place of a worker: what it starts to open a disk is confined as a worker's is. */
static int start_attempt(struct absence *a)
{
    struct supervisor *s = a->s;
    const char **argv = super_role_argv(s->config.worker_argv, NULL);
    char role[32];
    struct spawn spawn = {.program = s->program,
                          .argv = argv,
                          .isolate = s->config.sandbox,
                          .cgroup = s->config.cgroup ?: -1};
    siginfo_t info;
    struct dt_error err;
    int ret;

    snprintf(role, sizeof(role), "%s%u", s->config.attempt, number(a));
    argv[1] = role;
    ret = spawn_start(&a->attempt, &spawn, &err);
    if (ret == 0) {
        a->ended = (struct dt_watch){.fd = a->attempt.pidfd, .events = EPOLLIN, .ready = run_tried};
        ret = loop_watch_add(s->config.loop, &a->ended);
        if (ret < 0) {
            child_kill(&a->attempt); /* it has opened nothing that might keep it */
            waitid(P_PIDFD, (id_t)a->attempt.pidfd, &info, WEXITED);
            super_close(&a->attempt.pidfd);
        }
    }
    free(argv);
    return ret;
}

void absent_run_retry(struct dt_timer *timer)
{
    struct supervisor *s = container_of(timer, struct supervisor, absences.retry);
    struct absence *next;

    if (s->absences.trying) { /* it has had its time */
        child_kill(&s->absences.trying->attempt);
        s->absences.trying = NULL;
        set_timer(s);
        return;
    }
    next = next_due(s);
    if (!next || s->stopping)
        return;
    if (s->upgrade || !s->ready_at) { /* another worker comes, and tries itself */
        loop_timer_set(s->config.loop, timer, dt_clock_ns() + RETRY_FIRST);
    } else if (start_attempt(next) < 0) {
        try_later(next);
        set_timer(s);
    } else {
        s->absences.trying = next;
        loop_timer_set(s->config.loop, timer, dt_clock_ns() + PATIENCE);
    }
}

/* ---- What the supervisor sees ---- */

void absent_init(struct supervisor *s)
{
    s->absences.retry.fire = absent_run_retry;
    s->absences.disks = xcalloc(s->config.count, sizeof(*s->absences.disks));
    for (unsigned i = 0; i < s->config.count; i++)
        s->absences.disks[i] = (struct absence){.s = s, .attempt.pidfd = -1};
}

void absent_new_worker(struct supervisor *s)
{
    struct worker_page *page = super_page(s);

    s->absences.undisturbed = true;
    for (unsigned i = 0; i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        s->absences.undisturbed &= a->attempt.pidfd < 0;
        child_kill(&a->attempt);
        a->now = false;
        a->futile &= s->upgrade == UPGRADE_STARTING;
        a->allowed =
            s->was_ready && s->config.count > 1 && (s->upgrade != UPGRADE_STARTING || a->told);
        page->dispensable[i] = a->allowed;
    }
}

void absent_heard(struct supervisor *s, unsigned disk, const char *why)
{
    struct absence *a = &s->absences.disks[disk];

    /* What the page says, and when this is said, is as the worker likes. */
    if (!a->allowed || a->now || s->ready_at || s->guards[disk].ready)
        return;
    a->now = true;
    a->futile |=
        s->upgrade == UPGRADE_STARTING && s->absences.opened == a && s->absences.undisturbed;
    if (!a->told) {
        a->told = true;
        try_soon(a);
        events_add(events(s), s->config.disks[disk].name, "left-out", NULL,
                   "%s; the others are served, and it is tried again", why);
    }
    keepers_look(s);
}

void absent_worker_serves(struct supervisor *s)
{
    bool again = false;

    for (unsigned i = 0; i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        if (!a->told || a->now)
            continue;
        a->told = false;
        again = true;
        events_add(events(s), s->config.disks[i].name, "served-again", NULL,
                   "it could be opened, and is served again");
    }
    for (unsigned i = 0; again && i < s->config.count; i++)
        try_soon(&s->absences.disks[i]); /* what brought back one may have brought others */
    set_timer(s);
}

/* Without waiting: the kernel may keep one that waits for a server. */
void absent_stop(struct supervisor *s)
{
    loop_timer_cancel(s->config.loop, &s->absences.retry);
    s->absences.trying = NULL;
    for (unsigned i = 0; s->absences.disks && i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        if (a->attempt.pidfd < 0)
            continue;
        child_kill(&a->attempt);
        loop_watch_remove(s->config.loop, &a->ended);
        super_close(&a->attempt.pidfd);
    }
}
