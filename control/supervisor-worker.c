/* SPDX-License-Identifier: MIT */
/*
 * supervisor-worker.c - the one worker of all disks: started, watched, and replaced when it dies.
 *
 * Theory of operation: a worker's death is seen through its pidfd, which says that the kernel has
 * ended all its threads; only then are new links made and handed out. The successor is started at
 * once, or after a pause that doubles with each worker that died before it had served for a while. It is the
 * spare where there is one (supervisor-spare.c).
 */
#include "base/kill.h"
#include "base/packet.h"
#include "control/cause.h"
#include "control/supervisor-internal.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SERVED_WELL_NS DT_MS(100) /* a worker that lived longer is replaced at once */
#define SOON_ENOUGH    64         /* kills in a row that nobody means to be patient with */
#define BACKOFF_FIRST  DT_MS(5)
#define BACKOFF_MAX    DT_S(5)

/* ---- What it says -------------------------------------------------------------------------- */

/* A worker that was captured may say what it likes: to be words, it has to look like words. */
static void make_word(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (char *c = text; *c; c++)
        if (*c != '-' && (*c < 'a' || *c > 'z'))
            *c = '-';
}

static void make_name(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~')
            *c = '?';
}

static void add_number(json_t *fields, const char *name, uint64_t value)
{
    if (value)
        json_object_set_new(fields, name, json_integer((json_int_t)(value & INT64_MAX)));
}

/* What an event of a layer brings along. */
static json_t *event_fields(struct supply_message *m)
{
    json_t *fields = json_object();

    if (m->layer[0])
        json_object_set_new(fields, "layer", json_string(m->layer));
    if (m->why[0]) {
        json_object_set_new(fields, "why", json_string(m->why));
        if (strcmp(m->why, "stopped") != 0)
            json_object_set_new(fields, strcmp(m->why, "signal") == 0 ? "signal" : "status",
                                json_integer(m->status));
    }
    add_number(fields, "pause_ns", m->pause_ns);
    add_number(fields, "requests", m->requests);
    return fields;
}

static void hear_worker(struct supervisor *s, struct supply_message *m)
{
    m->text[sizeof(m->text) - 1] = '\0';
    make_word(m->event, sizeof(m->event));
    make_word(m->why, sizeof(m->why));
    make_name(m->layer, sizeof(m->layer));
    if (strcmp(m->event, "sandbox-lacks") == 0) {
        if (!s->sandbox_told)
            events_add(events(s), NULL, m->event, NULL,
                       "the sandbox lacks %s: start as root to have all of it", m->text);
        s->sandbox_told = true;
    } else if (strcmp(m->event, "start-failed") == 0) {
        snprintf(s->refusal, sizeof(s->refusal), "%s", m->text);
        snprintf(s->reason, sizeof(s->reason), "%s", m->text);
        if (s->config.ops->said)
            s->config.ops->said(s->config.arg, m->event, m->text);
    } else if (m->disk < s->config.count && strcmp(m->event, "left-out") == 0) {
        absent_heard(s, m->disk, m->text);
    } else if (m->disk < s->config.count) {
        events_add(events(s), s->config.disks[m->disk].name, m->event, event_fields(m), "%s",
                   m->text);
    } else if (strcmp(m->event, "serving") == 0 && s->config.count == 0) {
        super_worker_serves(s);
    } else if (s->config.ops->said) {
        s->config.ops->said(s->config.arg, m->event, m->text);
    }
}

static void run_supply(struct dt_watch *watch, uint32_t poll_events)
{
    struct supervisor *s = container_of(watch, struct supervisor, supply_watch);
    struct supply_message m;
    int fd, ret = packet_receive(watch->fd, &m, sizeof(m), &fd);

    if (fd >= 0)
        close(fd);
    if (ret > 0)
        hear_worker(s, &m);
    else if (ret < 0) { /* its pidfd says the rest */
        loop_watch_remove(s->config.loop, watch);
        watch->fd = -1;
    }
}

void super_forget_worker(struct supervisor *s)
{
    while (s->supply_watch.fd >= 0)
        run_supply(&s->supply_watch, 0); /* to the end: nobody sends any more */
    super_close(&s->control);
    super_close(&s->supply);
}

/* ---- Its death ----------------------------------------------------------------------------- */

static void restart_later(struct supervisor *s, bool at_once)
{
    uint64_t wait = 0;

    if (at_once)
        s->backoff = 0;
    else
        wait = s->backoff = s->backoff ? MIN(2 * s->backoff, BACKOFF_MAX) : BACKOFF_FIRST;
    if (wait >= DT_MS(500))
        events_add(events(s), NULL, "worker-back-off",
                   json_pack("{sI}", "wait_ns", (json_int_t)wait),
                   "workers die soon after their start: the next one comes in %llu ms",
                   (unsigned long long)(wait / 1000000));
    if (wait)
        loop_timer_set(s->config.loop, &s->restart, dt_clock_ns() + wait);
    else
        super_start_worker(s);
}

/* It could not even start, and has said why: it has taken no request. */
static bool has_refused(const struct supervisor *s, int code)
{
    return code == CLD_EXITED && s->refusal[0];
}

static void tell_death(struct supervisor *s, int code, int status, pid_t pid)
{
    char cause[80];

    if (s->hung)
        events_add(
            events(s), NULL, "worker-died", json_pack("{ss si}", "why", "hang", "pid", (int)pid),
            "worker %d hung for %.1f s and was killed", (int)pid, (double)s->config.hang / 1e9);
    else if (has_refused(s, code))
        events_add(events(s), NULL, "worker-died", cause_json(code, status, pid),
                   "worker %d cannot serve: %s", (int)pid, s->refusal);
    else
        events_add(events(s), NULL, "worker-died", cause_json(code, status, pid),
                   "worker %d died: %s", (int)pid, cause_text(code, status, cause, sizeof(cause)));
}

/* SIGKILL comes from a person, or where memory is short; the latter may be a request's doing. */
static bool ended_from_outside(const struct supervisor *s, int code, int status)
{
    bool killed = code == CLD_EXITED ? status == KILL_STATUS : status == SIGKILL;

    return (killed && !s->hung && s->soon < SOON_ENOUGH) || (code == CLD_EXITED && status == 0);
}

static void worker_is_gone(struct supervisor *s, int code, int status, pid_t pid)
{
    bool served = s->ready_at && dt_clock_ns() - s->ready_at > SERVED_WELL_NS;
    bool refused = has_refused(s, code);

    super_forget_worker(s);
    watchdog_stop(&s->watchdog);
    s->ready_at = 0;
    s->soon = served ? 0 : s->soon + 1;
    if (!refused) /* else what its predecessor ran is still judged by how that one ended */
        s->innocent = ended_from_outside(s, code, status);
    if (s->stopping) {
        super_finish(s, code == CLD_EXITED ? status : 1);
        return;
    }
    if (!s->was_ready && code == CLD_EXITED) { /* its reason is in the log already */
        super_finish(s, status);
        return;
    }
    if (upgrade_go_on(s))
        return;
    tell_death(s, code, status, pid);
    if (s->upgrade == UPGRADE_STARTING) {
        /* Then what guests have written since is in the new chains alone. */
        bool any = s->next_argv && keepers_any_serve(s);

        if (s->upgrade == UPGRADE_STARTING) /* the last keeper's word ends it, too */
            upgrade_end(s, any);
        watchdog_stop(&s->watchdog);
        s->ready_at = 0;
        super_start_worker(s);
        return;
    }
    restart_later(s, served || (s->innocent && !refused));
}

static void run_worker_ended(struct dt_watch *watch, uint32_t poll_events)
{
    struct supervisor *s = container_of(watch, struct supervisor, worker_ended);
    pid_t pid = s->worker.pid;
    int code, status;

    loop_watch_remove(s->config.loop, watch);
    if (child_reap(&s->worker, &code, &status) < 0) {
        loop_watch_add(s->config.loop, watch);
        return;
    }
    worker_is_gone(s, code, status, pid);
}

void super_run_hangs(struct watchdog *watchdog)
{
    struct supervisor *s = container_of(watchdog, struct supervisor, watchdog);

    s->hung = true;
    child_kill(&s->worker);
}

/* ---- Its start and its end ----------------------------------------------------------------- */

int super_spawn(struct supervisor *s, int program, const char *const *argv, struct newborn *born,
                struct dt_error *err)
{
    _cleanup_free_ char *environment = super_kill_point(s, false);
    int control[2] = {-1, -1}, supply[2] = {-1, -1}, ret;
    struct spawn spawn = {.program = program,
                          .argv = argv,
                          .nfds = WORKER_FDS + (s->config.worker_fd > 0),
                          .isolate = s->config.sandbox,
                          .environment = environment,
                          .cgroup = s->config.cgroup ?: -1};

    *born = (struct newborn){.child.pidfd = -1, .control = -1, .supply = -1};
    if (packet_pair(supply) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0)
        return dt_fail(err, -errno, "cannot make sockets: %s", strerror(errno));
    spawn.fds = (const int[]){[WORKER_CONTROL] = control[1],
                              [WORKER_SUPPLY] = supply[1],
                              [WORKER_STATE] = s->state_fd,
                              [WORKER_OWN] = s->config.worker_fd};
    ret = spawn_start(&born->child, &spawn, err);
    close(control[1]);
    close(supply[1]);
    born->control = control[0];
    born->supply = supply[0];
    return ret;
}

void super_start_worker(struct supervisor *s)
{
    struct newborn born;
    struct dt_error err;
    int ret = 0;

    absent_new_worker(s); /* it reads what it may leave out as soon as it runs */
    if (!spare_take(s, &born))
        ret = super_spawn(s, s->program, s->config.worker_argv, &born, &err);
    s->worker = born.child;
    s->control = born.control;
    s->supply = born.supply;
    s->hung = false;
    s->refusal[0] = '\0';
    if (ret == 0) {
        s->worker_ended =
            (struct dt_watch){.fd = s->worker.pidfd, .events = EPOLLIN, .ready = run_worker_ended};
        ret = loop_watch_add(s->config.loop, &s->worker_ended);
        s->supply_watch =
            (struct dt_watch){.fd = s->supply, .events = EPOLLIN, .ready = run_supply};
        if (loop_watch_add(s->config.loop, &s->supply_watch) < 0)
            s->supply_watch.fd = -1;
    }
    if (ret < 0) {
        log_error("%s", err.text);
        super_forget_worker(s);
        restart_later(s, false);
        return;
    }
    if (s->config.ops->started)
        s->config.ops->started(s->config.arg, s->control);
    for (unsigned i = 0; i < s->config.count; i++) {
        s->guards[i].ready = false;
        keeper_link(&s->guards[i]);
    }
}

void super_run_restart(struct dt_timer *timer)
{
    super_start_worker(container_of(timer, struct supervisor, restart));
}

void super_worker_serves(struct supervisor *s)
{
    s->ready_at = dt_clock_ns();
    if (!s->stopping)
        watchdog_start(&s->watchdog);
    if (s->upgrade == UPGRADE_STARTING || s->upgrade == UPGRADE_RESTORING)
        upgrade_end(s, s->upgrade == UPGRADE_STARTING);
    if (s->was_ready) {
        s->config.ops->restarted(s->config.arg);
    } else {
        s->was_ready = true;
        s->config.ops->ready(s->config.arg);
    }
    absent_worker_serves(s);
    spare_renew(s);
}

void super_end_worker(struct supervisor *s)
{
    static const char quit[] = "{\"verb\":\"quit\"}\n";

    watchdog_stop(&s->watchdog); /* from here on it has other deadlines */
    if (s->control >= 0 &&
        send(s->control, quit, sizeof(quit) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        child_kill(&s->worker);
}
