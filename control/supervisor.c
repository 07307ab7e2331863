/* SPDX-License-Identifier: MIT */
/*
 * supervisor.c - the life of keepers and worker together. It never touches guest data.
 *
 * supervisor-worker.c starts and replaces the worker, supervisor-spare.c has the next one ready,
 * supervisor-keepers.c starts the keepers, and supervisor-upgrade.c lets another program take over.
 */
#include "control/supervisor-internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define STOP_NS DT_S(40)

static void run_finish(struct loop_deferred *deferred)
{
    struct supervisor *s = container_of(deferred, struct supervisor, finish);

    s->config.ops->ended(s->config.arg, s->status);
}

void super_finish(struct supervisor *s, int status)
{
    s->status = status;
    loop_defer(s->config.loop, &s->finish);
}

/* DEVTAP_KILL=POINT:COUNT[:PROCESSES[:SKIP]], in builds with kill points: for so many workers, or keepers
 * where it is a point of theirs, after the first SKIP. */
static void take_kill_points(struct supervisor *s)
{
    const char *text = getenv("DEVTAP_KILL");
    unsigned processes = 1, skip = 0;

    if (!text || !*text)
        return;
    s->kill_points = xstrdup(text);
    sscanf(text, "%*[^:]:%*u:%u:%u", &processes, &skip);
    s->kill_count = processes;
    s->kill_skip = skip;
    unsetenv("DEVTAP_KILL");
}

char *super_kill_point(struct supervisor *s, bool keeper)
{
    if (!s->kill_points || keeper != (strncmp(s->kill_points, "keeper-", 7) == 0))
        return NULL;
    if (s->kill_skip) {
        s->kill_skip--;
        return NULL;
    }
    if (s->kill_count == 0)
        return NULL;
    s->kill_count--;
    return xasprintf("DEVTAP_KILL=%s", s->kill_points);
}

static size_t state_size(const struct supervisor *s)
{
    return s->config.count * s->config.state_bytes + sizeof(struct worker_page);
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
    watchdog_init(&s->watchdog, s->config.loop, &super_page(s)->heart, s->config.hang,
                  super_run_hangs);
    return 0;
}

struct worker_page *super_page(const struct supervisor *s)
{
    return (void *)((uint8_t *)s->state + s->config.count * s->config.state_bytes);
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

    CHECK(config->count <= SUPERVISED_DISKS);
    s->config = *config;
    s->guards = keepers_new(s);
    absent_init(s);
    s->supply_watch.fd = s->state_fd = -1;
    s->control = s->supply = s->next_program = s->old_program = -1;
    s->worker.pidfd = s->spare.born.child.pidfd = -1;
    s->restart.fire = super_run_restart;
    s->patience.fire = upgrade_run_patience;
    s->finish.run = run_finish;
    s->upgrade_step.run = upgrade_run_step;
    take_kill_points(s);
    s->program = program_open(config->program, err);
    ret = s->program < 0 ? s->program : make_state(s, err);
    for (unsigned i = 0; ret == 0 && i < config->count; i++)
        ret = keeper_start(&s->guards[i], s->program, err);
    if (ret < 0) {
        supervisor_kill(s);
        supervisor_free(s);
        return ret;
    }
    *out = s;
    super_start_worker(s);
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
    spare_drop(s);
    absent_stop(s);
    keepers_free(s, TAKE_PTR(s->standby));
    for (unsigned i = 0; i < s->config.count; i++) {
        keeper_order(&s->guards[i], KEEPER_RESUME, -1);
        keeper_order(&s->guards[i], KEEPER_CLOSE, -1);
    }
    if (s->worker.pidfd < 0 && keepers_gone(s))
        super_finish(s, 0);
    else if (s->config.count == 0)
        super_end_worker(s);
}

void supervisor_kill(struct supervisor *s)
{
    keepers_kill(s, s->standby);
    keepers_kill(s, s->guards);
    child_kill(&s->worker);
    child_kill(&s->spare.born.child);
}

void super_drop_child(struct supervisor *s, struct child *child, struct dt_watch *watch)
{
    siginfo_t info;

    if (child->pidfd < 0)
        return;
    loop_watch_remove(s->config.loop, watch);
    waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED);
    super_close(&child->pidfd);
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
    loop_defer_cancel(s->config.loop, &s->upgrade_step);
    keepers_free(s, s->standby);
    keepers_free(s, s->guards);
    spare_drop(s);
    absent_stop(s);
    free(s->absences.disks);
    super_drop_child(s, &s->worker, &s->worker_ended);
    super_forget_worker(s);
    if (s->state)
        munmap(s->state, state_size(s));
    super_close(&s->state_fd);
    super_close(&s->program);
    super_close(&s->next_program);
    super_close(&s->old_program);
    free(s->kill_points);
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
