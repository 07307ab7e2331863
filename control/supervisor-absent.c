/* SPDX-License-Identifier: MIT */
/*
 * supervisor-absent.c - disks, and cards, that a worker cannot open.
 *
 * Theory of operation: the first start is all or nothing, and so is an upgrade. But a worker that takes the place of a dead one
 * leaves out what it cannot open (an image that is gone, an interface), says why, and serves the others: one device
 * is no reason for a VM to lose all of them. Its keeper keeps the VM's connection, whose requests wait.
 *
 * A worker is confined by the time it serves, and can open nothing any more. So a process of its own tries, at growing
 * intervals, whether one of those that are missing can be opened, and does nothing else. If so, another worker takes over
 * in good order (supervisor-upgrade.c), which pauses the others once; and never for an attempt that fails. Where the attempt
 * works and the worker still cannot, as with saved state that is damaged, it is left alone until the next worker's death.
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

static void wait_more(struct supervisor *s)
{
    struct absences *a = &s->absences;

    a->wait = a->wait ? MIN(2 * a->wait, RETRY_MAX) : RETRY_FIRST;
    loop_timer_set(s->config.loop, &a->retry, dt_clock_ns() + a->wait);
}

static bool to_be_tried(const struct supervisor *s, unsigned disk)
{
    const struct absence *a = &s->absences.disks[disk];

    return a->now && !a->futile;
}

static bool any(const struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        if (to_be_tried(s, i))
            return true;
    return false;
}

/* ---- Attempts ---- */

static void run_tried(struct dt_watch *watch, uint32_t poll_events)
{
    struct supervisor *s = container_of(watch, struct supervisor, absences.ended);
    int code, status;
    struct dt_error err;

    loop_watch_remove(s->config.loop, watch);
    if (child_reap(&s->absences.attempt, &code, &status) < 0) {
        loop_watch_add(s->config.loop, watch);
        return;
    }
    if (s->stopping || !any(s))
        return;
    /* Also if the upgrade fails: then it is to be tried again. */
    wait_more(s);
    if (code == CLD_EXITED && status == 0 && supervisor_upgrade(s, NULL, NULL, &err) < 0)
        log_debug("what can be opened again waits: %s", err.text);
}

static int start_attempt(struct supervisor *s, unsigned disk)
{
    struct absences *a = &s->absences;
    const char **argv = super_role_argv(s->config.worker_argv, NULL);
    char role[32];
    struct spawn spawn = {.program = s->program, .argv = argv, .cgroup = -1};
    struct dt_error err;
    int ret;

    snprintf(role, sizeof(role), "%s%u", s->config.attempt, disk);
    argv[1] = role;
    ret = spawn_start(&a->attempt, &spawn, &err);
    if (ret == 0) {
        a->ended = (struct dt_watch){.fd = a->attempt.pidfd, .events = EPOLLIN, .ready = run_tried};
        ret = loop_watch_add(s->config.loop, &a->ended);
        if (ret < 0) {
            child_kill(&a->attempt);
            super_close(&a->attempt.pidfd);
        }
    }
    free(argv);
    return ret;
}

/* One after the other. One that is still at it (a server that does not answer) has had its time. */
void absent_run_retry(struct dt_timer *timer)
{
    struct supervisor *s = container_of(timer, struct supervisor, absences.retry);
    struct absences *a = &s->absences;

    if (a->attempt.pidfd >= 0) {
        child_kill(&a->attempt); /* run_tried() goes on */
        return;
    }
    if (s->stopping || !any(s))
        return;
    do
        a->turn = (a->turn + 1) % s->config.count;
    while (!to_be_tried(s, a->turn));
    if (s->upgrade || start_attempt(s, a->turn) < 0)
        wait_more(s);
    else
        loop_timer_set(s->config.loop, timer, dt_clock_ns() + PATIENCE);
}

/* ---- What the supervisor sees ---- */

void absent_new_worker(struct supervisor *s)
{
    struct worker_page *page = super_page(s);

    s->absences.undisturbed = s->absences.attempt.pidfd < 0;
    child_kill(&s->absences.attempt);
    for (unsigned i = 0; i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        a->before = a->now;
        a->now = false;
        a->futile &= s->upgrade == UPGRADE_STARTING;
        page->dispensable[i] =
            s->was_ready && s->config.count > 1 && (s->upgrade != UPGRADE_STARTING || a->before);
    }
}

void absent_heard(struct supervisor *s, unsigned disk, const char *why)
{
    struct absence *a = &s->absences.disks[disk];

    if (!s->was_ready || a->now)
        return;
    a->now = true;
    a->futile |= a->before && s->upgrade == UPGRADE_STARTING && s->absences.undisturbed;
    if (!a->before)
        events_add(events(s), s->config.disks[disk].name, "left-out", NULL,
                   "%s; the others are served, and it is tried again", why);
    keepers_look(s);
}

void absent_worker_serves(struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++) {
        struct absence *a = &s->absences.disks[i];

        if (a->before && !a->now)
            events_add(events(s), s->config.disks[i].name, "served-again", NULL,
                       "it could be opened, and is served again");
        a->before = a->now;
    }
    if (!any(s)) {
        s->absences.wait = 0;
        loop_timer_cancel(s->config.loop, &s->absences.retry);
    } else if (s->absences.wait == 0 && s->config.attempt) {
        wait_more(s);
    }
}

void absent_stop(struct supervisor *s)
{
    loop_timer_cancel(s->config.loop, &s->absences.retry);
    child_kill(&s->absences.attempt);
    super_drop_child(s, &s->absences.attempt, &s->absences.ended);
}
