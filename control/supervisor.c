/* SPDX-License-Identifier: MIT */
/*
 * supervisor.c - starts, watches and replaces keepers and the worker. It never touches guest data.
 *
 * Theory of operation: a worker's death is seen through its pidfd, which says that the kernel has
 * ended all its threads; only then are new links made and handed out. The successor is started at
 * once, or after a pause that doubles with each worker that died before it had served for a while.
 *
 * An upgrade is the same road taken on purpose: the keepers let the worker finish and keep the
 * VMs waiting, the worker saves its state and ends, and one of the new program starts. If that one
 * does not come up, one of the program of before does.
 */
#include "control/supervisor.h"

#include "base/kill.h"
#include "base/packet.h"
#include "control/spawn.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SERVED_WELL_NS DT_MS(100) /* a worker that lived longer is replaced at once */
#define SOON_ENOUGH    64 /* kills in a row that nobody means to be patient with */
#define BACKOFF_FIRST  DT_MS(5)
#define BACKOFF_MAX    DT_S(5)
#define RELEASE_NS     DT_S(10)
#define STOP_NS        DT_S(40)

/** struct guard - a disk's keeper. */
struct guard {
    struct supervisor *s;
    const struct supervised_disk *disk;
    unsigned index;
    struct child child;
    struct dt_watch ended, words;
    bool ready, released;
};

enum upgrade_phase {
    UPGRADE_NONE,
    UPGRADE_RELEASING, /* keepers let the old worker finish */
    UPGRADE_ENDING,    /* it saves its state and ends */
    UPGRADE_STARTING,  /* the new one */
    UPGRADE_RESTORING, /* that one failed: one with the arguments of before is to serve again */
};

struct supervisor {
    struct supervisor_config config;
    int program, next_program, old_program;
    char *kill_points; /* for the next @kill_workers workers */
    unsigned kill_workers, kill_skip;
    struct guard *guards;
    bool was_ready, stopping, sandbox_told;

    struct child worker;
    struct dt_watch worker_ended;
    int control, supply; /* our ends */
    struct dt_watch supply_watch;
    int state_fd;
    void *state;
    uint64_t started_at, backoff, ready_at;
    bool innocent; /* the last worker was ended from outside */
    bool hung;     /* by us, since it got nowhere */
    struct watchdog watchdog;
    unsigned soon; /* workers that died soon, in a row */
    struct dt_timer restart, patience;
    enum upgrade_phase upgrade;
    const char *const *next_argv, *const *old_argv; /* of an upgrade that changes them */
    char reason[256]; /* the last worker's, for not serving */
    struct loop_deferred finish;
    int status;
};

static struct events *events(const struct supervisor *s)
{
    return s->config.events;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static uid_t own_uid(const struct supervisor *s)
{
    return s->config.sandbox ? supervisor_uid() : 0;
}

/* ---- Words to keepers ----------------------------------------------------------------------- */

static void order(struct guard *g, enum keeper_type type, int fd)
{
    struct keeper_message m = {.type = type, .innocent = g->s->innocent};

    if (g->child.pidfd >= 0)
        packet_send(g->words.fd, &m, sizeof(m), fd);
}

/* A link: one end to the keeper, the other to the worker. */
static void link_up(struct guard *g)
{
    const struct supply_message supply = {.disk = g->index, .event = "link"};
    int fds[2];

    if (g->s->worker.pidfd < 0 || g->child.pidfd < 0)
        return;
    if (packet_pair(fds) < 0) {
        log_error("%s: cannot make a link: %s", g->disk->name, strerror(errno));
        return;
    }
    g->released = false;
    order(g, KEEPER_LINK, fds[0]);
    packet_send(g->s->supply, &supply, sizeof(supply), fds[1]);
    close(fds[0]);
    close(fds[1]);
}

/* ---- Why a process ended ---------------------------------------------------------------------- */

static const char *cause_of(int code, int status, char *text, size_t size)
{
    if (code != CLD_EXITED)
        snprintf(text, size, "%s", sigdescr_np(status) ? sigdescr_np(status) : "a signal");
    else if (status == EXIT_ASSERTION)
        snprintf(text, size, "a check of its own failed");
    else
        snprintf(text, size, "it exited with status %d", status);
    return text;
}

static json_t *cause_json(int code, int status, pid_t pid)
{
    const char *kind = code != CLD_EXITED         ? "signal"
                       : status == EXIT_ASSERTION ? "assertion"
                                                  : "exit";
    json_t *json = json_pack("{ss si}", "why", kind, "pid", (int)pid);

    if (code != CLD_EXITED)
        json_object_set_new(json, "signal", json_integer(status));
    else if (status != EXIT_ASSERTION)
        json_object_set_new(json, "status", json_integer(status));
    return json;
}

/* ---- The worker ---------------------------------------------------------------------------------- */

static void start_worker(struct supervisor *s);
static void serves(struct supervisor *s);

static void finish(struct supervisor *s, int status)
{
    s->status = status;
    loop_defer(s->config.loop, &s->finish);
}

static void hear_worker(struct supervisor *s, struct supply_message *m)
{
    m->event[sizeof(m->event) - 1] = m->text[sizeof(m->text) - 1] = '\0';
    for (char *c = m->event; *c; c++)
        if (*c != '-' && (*c < 'a' || *c > 'z'))
            *c = '-';
    if (strcmp(m->event, "sandbox-lacks") == 0) {
        if (!s->sandbox_told)
            events_add(events(s), NULL, m->event, NULL,
                       "the sandbox lacks %s: start as root to have all of it", m->text);
        s->sandbox_told = true;
    } else if (strcmp(m->event, "start-failed") == 0) {
        snprintf(s->reason, sizeof(s->reason), "%s", m->text);
        if (s->config.ops->said)
            s->config.ops->said(s->config.arg, m->event, m->text);
    } else if (m->disk < s->config.count) {
        events_add(events(s), s->config.disks[m->disk].name, m->event, NULL, "%s", m->text);
    } else if (strcmp(m->event, "serving") == 0 && s->config.count == 0) {
        serves(s);
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

static void forget_worker(struct supervisor *s)
{
    while (s->supply_watch.fd >= 0)
        run_supply(&s->supply_watch, 0); /* to the end: nobody sends any more */
    close_one(&s->control);
    close_one(&s->supply);
}

static void restart_later(struct supervisor *s, bool served)
{
    uint64_t wait = 0;

    if (served || s->innocent)
        s->backoff = 0;
    else
        wait = s->backoff = s->backoff ? MIN(2 * s->backoff, BACKOFF_MAX) : BACKOFF_FIRST;
    if (wait >= DT_MS(500))
        events_add(events(s), NULL, "worker-back-off", json_pack("{sI}", "wait_ns", (json_int_t)wait),
                   "workers die soon after their start: the next one comes in %llu ms",
                   (unsigned long long)(wait / 1000000));
    if (wait)
        loop_timer_set(s->config.loop, &s->restart, dt_clock_ns() + wait);
    else
        start_worker(s);
}

/* Of one that brings other arguments; what it did not bring is told once a worker serves again. */
static void end_change(struct supervisor *s, bool good)
{
    const char *why = s->reason[0] ? s->reason : "the reason is in the log";

    if (s->upgrade == UPGRADE_STARTING && !good) {
        close_one(&s->program);
        s->program = TAKE_FD(s->old_program);
        s->config.worker_argv = s->old_argv;
        s->upgrade = UPGRADE_RESTORING;
        return;
    }
    close_one(&s->old_program);
    s->upgrade = UPGRADE_NONE;
    s->next_argv = s->old_argv = NULL;
    s->config.ops->changed(s->config.arg, good ? NULL : why);
}

static void end_upgrade(struct supervisor *s, bool good)
{
    loop_timer_cancel(s->config.loop, &s->patience);
    if (s->next_argv) {
        end_change(s, good);
        return;
    }
    s->upgrade = UPGRADE_NONE;
    if (good) {
        close_one(&s->old_program);
        events_add(events(s), NULL, "upgraded", json_pack("{si}", "pid", (int)s->worker.pid),
                   "a worker of the new program serves");
        return;
    }
    close_one(&s->program);
    s->program = TAKE_FD(s->old_program);
    events_add(events(s), NULL, "upgrade-refused", NULL,
               "a worker of the new program cannot serve (its reason is in the log); one of the "
               "program before takes over again");
}

static void tell_death(struct supervisor *s, int code, int status, pid_t pid)
{
    char cause[80];

    if (s->hung)
        events_add(events(s), NULL, "worker-died",
                   json_pack("{ss si}", "why", "hang", "pid", (int)pid),
                   "worker %d hung for %.1f s and was killed", (int)pid,
                   (double)s->config.hang / 1e9);
    else
        events_add(events(s), NULL, "worker-died", cause_json(code, status, pid),
                   "worker %d died: %s", (int)pid, cause_of(code, status, cause, sizeof(cause)));
}

static void worker_is_gone(struct supervisor *s, int code, int status, pid_t pid)
{
    bool served = s->ready_at && dt_clock_ns() - s->ready_at > SERVED_WELL_NS;
    bool killed;

    forget_worker(s);
    watchdog_stop(&s->watchdog);
    s->ready_at = 0;
    /* SIGKILL comes from a person, or where memory is short; the latter may be a request's doing. */
    s->soon = served ? 0 : s->soon + 1;
    killed = code == CLD_EXITED ? status == KILL_STATUS : status == SIGKILL;
    s->innocent = (killed && !s->hung && s->soon < SOON_ENOUGH) || (code == CLD_EXITED && status == 0);
    if (s->stopping) {
        finish(s, code == CLD_EXITED ? status : 1);
        return;
    }
    if (!s->was_ready && code == CLD_EXITED) { /* its reason is in the log already */
        finish(s, status);
        return;
    }
    if (s->upgrade == UPGRADE_ENDING || s->upgrade == UPGRADE_RELEASING) {
        s->upgrade = UPGRADE_STARTING;
        s->old_program = s->program;
        s->program = TAKE_FD(s->next_program);
        s->old_argv = s->config.worker_argv;
        if (s->next_argv)
            s->config.worker_argv = s->next_argv;
        s->reason[0] = '\0';
        start_worker(s);
        return;
    }
    tell_death(s, code, status, pid);
    if (s->upgrade == UPGRADE_STARTING) {
        end_upgrade(s, false);
        start_worker(s);
        return;
    }
    restart_later(s, served);
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

static int start_worker_process(struct supervisor *s, struct dt_error *err)
{
    _cleanup_free_ char *environment =
        s->kill_points && s->kill_workers && !s->kill_skip
            ? xasprintf("DEVTAP_KILL=%s", s->kill_points) : NULL;
    int control[2] = {-1, -1}, supply[2] = {-1, -1}, ret;
    struct spawn spawn = {.program = s->program,
                          .argv = s->config.worker_argv,
                          .nfds = WORKER_FDS + (s->config.worker_fd > 0),
                          .isolate = s->config.sandbox,
                          .environment = environment};

    if (packet_pair(supply) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0)
        return dt_fail(err, -errno, "cannot make sockets: %s", strerror(errno));
    spawn.fds = (const int[]){[WORKER_CONTROL] = control[1],
                              [WORKER_SUPPLY] = supply[1],
                              [WORKER_STATE] = s->state_fd,
                              [WORKER_OWN] = s->config.worker_fd};
    ret = spawn_start(&s->worker, &spawn, err);
    close(control[1]);
    close(supply[1]);
    s->control = control[0];
    s->supply = supply[0];
    if (s->kill_skip)
        s->kill_skip--;
    else if (s->kill_workers)
        s->kill_workers--;
    return ret;
}

static void start_worker(struct supervisor *s)
{
    struct dt_error err;
    int ret = start_worker_process(s, &err);

    s->hung = false;
    if (ret == 0) {
        s->worker_ended = (struct dt_watch){
            .fd = s->worker.pidfd, .events = EPOLLIN, .ready = run_worker_ended};
        ret = loop_watch_add(s->config.loop, &s->worker_ended);
        s->supply_watch =
            (struct dt_watch){.fd = s->supply, .events = EPOLLIN, .ready = run_supply};
        if (loop_watch_add(s->config.loop, &s->supply_watch) < 0)
            s->supply_watch.fd = -1;
    }
    if (ret < 0) {
        log_error("%s", err.text);
        forget_worker(s);
        restart_later(s, false);
        return;
    }
    s->started_at = dt_clock_ns();
    for (unsigned i = 0; i < s->config.count; i++) {
        s->guards[i].ready = false;
        link_up(&s->guards[i]);
    }
}

static void run_restart(struct dt_timer *timer)
{
    start_worker(container_of(timer, struct supervisor, restart));
}

/* ---- What keepers say ------------------------------------------------------------------------------- */

static void serves(struct supervisor *s)
{
    s->ready_at = dt_clock_ns();
    if (!s->stopping)
        watchdog_start(&s->watchdog);
    if (s->upgrade == UPGRADE_STARTING || s->upgrade == UPGRADE_RESTORING)
        end_upgrade(s, s->upgrade == UPGRADE_STARTING);
    if (s->was_ready) {
        s->config.ops->restarted(s->config.arg);
        return;
    }
    s->was_ready = true;
    s->config.ops->ready(s->config.arg);
}

static void on_ready(struct guard *g)
{
    struct supervisor *s = g->s;

    g->ready = true;
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->guards[i].ready)
            return;
    serves(s);
}

static void on_recovered(struct guard *g, const struct vhost_recovery *r)
{
    events_add(events(g->s), g->disk->name, "recovered",
               json_pack("{sI sI si si}", "pause_ns", (json_int_t)r->pause, "fence_ns",
                         (json_int_t)r->fence, "rings", (int)r->rings, "replayed",
                         (int)r->replayed),
               "%u rings run again after %.1f ms, of which %.1f for I/O in flight to land; %u "
               "requests are run again",
               r->rings, (double)r->pause / 1e6, (double)r->fence / 1e6, r->replayed);
}

/* The worker broke the protocol, or shows a floor that will not do: it is of no use to anybody. */
static void on_lost(struct guard *g, const char *reason)
{
    if (!reason[0])
        return; /* it just went; its pidfd says why */
    events_add(events(g->s), g->disk->name, "worker-refused", NULL, "the worker is replaced: %s",
               reason);
    child_kill(&g->s->worker);
}

static void end_worker(struct supervisor *s)
{
    static const char quit[] = "{\"verb\":\"quit\"}\n";

    watchdog_stop(&s->watchdog); /* from here on it has other deadlines */
    if (s->upgrade == UPGRADE_RELEASING)
        s->upgrade = UPGRADE_ENDING;
    if (s->control >= 0 && send(s->control, quit, sizeof(quit) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        child_kill(&s->worker);
}

static void on_released(struct guard *g)
{
    struct supervisor *s = g->s;

    g->released = true;
    if (s->upgrade != UPGRADE_RELEASING)
        return;
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->guards[i].released && s->guards[i].child.pidfd >= 0)
            return;
    end_worker(s);
}

static void hear(struct guard *g, struct keeper_message *m)
{
    struct supervisor *s = g->s;

    m->text[sizeof(m->text) - 1] = '\0';
    switch (m->type) {
    case KEEPER_READY:
        on_ready(g);
        break;
    case KEEPER_LOST:
        on_lost(g, m->text);
        break;
    case KEEPER_RECOVERED:
        on_recovered(g, &m->recovery);
        break;
    case KEEPER_RELEASED:
        on_released(g);
        break;
    case KEEPER_ATTACHED:
        events_add(events(s), g->disk->name, "attached", NULL, "a VM attached");
        break;
    case KEEPER_DETACHED:
        if (m->text[0])
            events_add(events(s), g->disk->name, "session-broken", NULL, "the session broke: %s",
                       m->text);
        events_add(events(s), g->disk->name, "detached", NULL, "the VM detached");
        break;
    default:
        log_error("%s: the keeper says what nobody understands", g->disk->name);
        child_kill(&g->child);
    }
}

static void run_words(struct dt_watch *watch, uint32_t poll_events)
{
    struct guard *g = container_of(watch, struct guard, words);
    struct keeper_message m;
    int fd, ret = packet_receive(watch->fd, &m, sizeof(m), &fd);

    if (ret > 0)
        hear(g, &m);
    else if (ret < 0 && watch->fd >= 0) {
        loop_watch_remove(g->s->config.loop, watch); /* its pidfd says the rest */
        close_one(&watch->fd);
    }
    if (fd >= 0)
        close(fd);
}

/* ---- Keepers -------------------------------------------------------------------------------------------- */

static int start_keeper(struct guard *g, struct dt_error *err);

static bool keepers_gone(const struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        if (s->guards[i].child.pidfd >= 0)
            return false;
    return true;
}

static void close_words(struct guard *g)
{
    if (g->words.fd < 0)
        return;
    loop_watch_remove(g->s->config.loop, &g->words);
    close_one(&g->words.fd);
}

static void keeper_is_gone(struct guard *g, int code, int status, pid_t pid)
{
    struct supervisor *s = g->s;
    struct dt_error err;
    char cause[80];

    close_words(g);
    if (s->stopping || g->disk->socket == KEEPER_HAS_SESSION) {
        if (!keepers_gone(s))
            return;
        if (s->worker.pidfd >= 0)
            end_worker(s);
        else
            finish(s, 0);
        s->stopping = true;
        return;
    }
    events_add(events(s), g->disk->name, "keeper-died", cause_json(code, status, pid),
               "keeper %d died, and the VM's connection with it: %s", (int)pid,
               cause_of(code, status, cause, sizeof(cause)));
    if (start_keeper(g, &err) < 0)
        log_error("%s: %s", g->disk->name, err.text);
    else
        link_up(g);
}

static void run_keeper_ended(struct dt_watch *watch, uint32_t poll_events)
{
    struct guard *g = container_of(watch, struct guard, ended);
    pid_t pid = g->child.pid;
    int code, status;

    while (g->words.fd >= 0) { /* its last words first */
        struct keeper_message m;
        int fd, ret = packet_receive(g->words.fd, &m, sizeof(m), &fd);

        if (ret <= 0)
            break;
        hear(g, &m);
    }
    loop_watch_remove(g->s->config.loop, watch);
    if (child_reap(&g->child, &code, &status) == 0)
        keeper_is_gone(g, code, status, pid);
    else
        loop_watch_add(g->s->config.loop, watch);
}

static int serve(struct guard *g)
{
    struct keeper_message m = {.type = KEEPER_SERVE,
                               .socket = g->disk->socket,
                               .patience = g->s->config.patience,
                               .uid = own_uid(g->s)};

    snprintf(m.text, sizeof(m.text), "%s", g->disk->name);
    snprintf(m.path, sizeof(m.path), "%s", g->disk->connect ? g->disk->connect : "");
    return packet_send(g->words.fd, &m, sizeof(m), g->disk->sock);
}

static int start_keeper(struct guard *g, struct dt_error *err)
{
    struct supervisor *s = g->s;
    struct spawn spawn = {.program = s->program,
                          .argv = s->config.keeper_argv,
                          .nfds = 1,
                          .isolate = s->config.sandbox};
    int words[2], ret;

    if (packet_pair(words) < 0)
        return dt_fail(err, -errno, "cannot make sockets: %s", strerror(errno));
    spawn.fds = &words[1];
    ret = spawn_start(&g->child, &spawn, err);
    close(words[1]);
    g->words = (struct dt_watch){.fd = words[0], .events = EPOLLIN, .ready = run_words};
    if (ret < 0) {
        close_one(&g->words.fd);
        return ret;
    }
    g->ended =
        (struct dt_watch){.fd = g->child.pidfd, .events = EPOLLIN, .ready = run_keeper_ended};
    ret = loop_watch_add(s->config.loop, &g->words);
    ret = ret ?: loop_watch_add(s->config.loop, &g->ended);
    return ret ?: serve(g);
}

/* ---- Upgrade ---------------------------------------------------------------------------------------------- */

static int open_program(const char *path, struct dt_error *err)
{
    int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (faccessat(fd, "", X_OK, AT_EMPTY_PATH) < 0) {
        close(fd);
        return dt_fail(err, -EACCES, "%s is no program", path);
    }
    return fd;
}

void supervisor_set_argv(struct supervisor *s, const char *const *argv)
{
    CHECK(!s->upgrade);
    s->config.worker_argv = argv;
}

bool supervisor_upgrading(const struct supervisor *s)
{
    return s->upgrade;
}

int supervisor_upgrade(struct supervisor *s, const char *path, const char *const *argv,
                       struct dt_error *err)
{
    int fd;

    if (s->upgrade || s->stopping || s->worker.pidfd < 0 || !s->ready_at)
        return dt_fail(err, -EBUSY, "an upgrade or a restart is under way");
    fd = path ? open_program(path, err) : fcntl(s->program, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return path ? fd : dt_fail(err, -errno, "no descriptor: %s", strerror(errno));
    close_one(&s->next_program);
    s->next_program = fd;
    s->next_argv = argv;
    s->upgrade = UPGRADE_RELEASING;
    if (path)
        events_add(events(s), NULL, "upgrade-begun", NULL, "a worker of %s is to take over", path);
    loop_timer_set(s->config.loop, &s->patience, dt_clock_ns() + RELEASE_NS);
    for (unsigned i = 0; i < s->config.count; i++) {
        s->guards[i].released = false;
        order(&s->guards[i], KEEPER_RELEASE, -1);
    }
    return 0;
}

/* What does not come to rest is killed: its requests are in the log. */
static void run_patience(struct dt_timer *timer)
{
    struct supervisor *s = container_of(timer, struct supervisor, patience);

    log_warning("the worker takes too long to %s: it is killed",
                s->upgrade == UPGRADE_STARTING ? "begin" : "end");
    for (unsigned i = 0; s->stopping && i < s->config.count; i++)
        child_kill(&s->guards[i].child);
    child_kill(&s->worker);
}

/* ---- Life --------------------------------------------------------------------------------------------------- */

static void run_finish(struct loop_deferred *deferred)
{
    struct supervisor *s = container_of(deferred, struct supervisor, finish);

    s->config.ops->ended(s->config.arg, s->status);
}

/* DEVTAP_KILL=POINT:COUNT[:WORKERS[:SKIP]], in builds with kill points: for so many workers, after
 * the first SKIP. */
static void take_kill_points(struct supervisor *s)
{
    const char *text = getenv("DEVTAP_KILL");
    unsigned workers = 1, skip = 0;

    if (!text || !*text)
        return;
    s->kill_points = xstrdup(text);
    sscanf(text, "%*[^:]:%*u:%u:%u", &workers, &skip);
    s->kill_workers = workers;
    s->kill_skip = skip;
    unsetenv("DEVTAP_KILL");
}

static void run_hangs(struct watchdog *watchdog)
{
    struct supervisor *s = container_of(watchdog, struct supervisor, watchdog);

    s->hung = true;
    child_kill(&s->worker);
}

static size_t state_size(const struct supervisor *s)
{
    return s->config.count * s->config.state_bytes + sizeof(struct heartbeat);
}

/* It cannot be made shorter under us. */
static int make_state(struct supervisor *s, struct dt_error *err)
{
    size_t size = state_size(s);

    s->state_fd = memfd_create("devtap-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->state_fd < 0 || ftruncate(s->state_fd, (off_t)size) < 0 ||
        fcntl(s->state_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return dt_fail(err, -errno, "cannot make memory for the layers' state: %s",
                       strerror(errno));
    s->state = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->state_fd, 0);
    if (s->state == MAP_FAILED) {
        s->state = NULL;
        return dt_fail(err, -errno, "cannot map the layers' state: %s", strerror(errno));
    }
    watchdog_init(&s->watchdog, s->config.loop,
                  (const void *)((uint8_t *)s->state + size - sizeof(struct heartbeat)),
                  s->config.hang, run_hangs);
    return 0;
}

void *supervisor_state(const struct supervisor *s)
{
    return s->state;
}

int supervisor_new(struct supervisor **out, const struct supervisor_config *config,
                   struct dt_error *err)
{
    struct supervisor *s = xcalloc(1, sizeof(*s));
    int ret = 0;

    s->config = *config;
    s->guards = xcalloc(config->count, sizeof(*s->guards));
    s->supply_watch.fd = s->state_fd = -1;
    s->control = s->supply = s->next_program = s->old_program = -1;
    s->worker.pidfd = -1;
    s->restart.fire = run_restart;
    s->patience.fire = run_patience;
    s->finish.run = run_finish;
    take_kill_points(s);
    for (unsigned i = 0; i < config->count; i++)
        s->guards[i] = (struct guard){
            .s = s, .disk = &config->disks[i], .index = i, .child.pidfd = -1, .words.fd = -1};
    s->program = open_program(config->program, err);
    ret = s->program < 0 ? s->program : make_state(s, err);
    for (unsigned i = 0; ret == 0 && i < config->count; i++)
        ret = start_keeper(&s->guards[i], err);
    if (ret < 0) {
        supervisor_kill(s);
        supervisor_free(s);
        return ret;
    }
    *out = s;
    start_worker(s);
    return 0;
}

void supervisor_stop(struct supervisor *s)
{
    if (s->stopping)
        return;
    s->stopping = true;
    watchdog_stop(&s->watchdog);
    loop_timer_cancel(s->config.loop, &s->restart);
    loop_timer_set(s->config.loop, &s->patience, dt_clock_ns() + STOP_NS);
    for (unsigned i = 0; i < s->config.count; i++)
        order(&s->guards[i], KEEPER_CLOSE, -1);
    if (s->worker.pidfd < 0 && keepers_gone(s))
        finish(s, 0);
    else if (s->config.count == 0)
        end_worker(s);
}

void supervisor_kill(struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        child_kill(&s->guards[i].child);
    child_kill(&s->worker);
}

static void drop_child(struct supervisor *s, struct child *child, struct dt_watch *watch)
{
    siginfo_t info;

    if (child->pidfd < 0)
        return;
    loop_watch_remove(s->config.loop, watch);
    waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED);
    close_one(&child->pidfd);
}

void supervisor_free(struct supervisor *s)
{
    if (!s)
        return;
    supervisor_kill(s);
    loop_timer_cancel(s->config.loop, &s->restart);
    loop_timer_cancel(s->config.loop, &s->patience);
    watchdog_stop(&s->watchdog);
    loop_defer_cancel(s->config.loop, &s->finish);
    for (unsigned i = 0; i < s->config.count; i++) {
        drop_child(s, &s->guards[i].child, &s->guards[i].ended);
        close_words(&s->guards[i]);
    }
    drop_child(s, &s->worker, &s->worker_ended);
    forget_worker(s);
    if (s->state)
        munmap(s->state, state_size(s));
    close_one(&s->state_fd);
    close_one(&s->program);
    close_one(&s->next_program);
    close_one(&s->old_program);
    free(s->kill_points);
    free(s->guards);
    free(s);
}

uid_t supervisor_uid(void)
{
    return geteuid() == 0 ? SANDBOX_FIRST_UID + (uid_t)getpid() : 0;
}

int supervisor_worker(const struct supervisor *s)
{
    return s->worker.pidfd >= 0 ? s->control : -1;
}

pid_t supervisor_worker_pid(const struct supervisor *s)
{
    return s->worker.pidfd >= 0 ? s->worker.pid : 0;
}

pid_t supervisor_keeper_pid(const struct supervisor *s, unsigned disk)
{
    return s->guards[disk].child.pidfd >= 0 ? s->guards[disk].child.pid : 0;
}
