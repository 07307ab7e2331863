/* SPDX-License-Identifier: MIT */
/*
 * supervisor-upgrade.c - another program, or the same with other arguments, takes over running
 * sessions.
 *
 * Theory of operation: the road of a worker's death, taken on purpose: the keepers let the worker
 * finish and keep the VMs waiting, the worker saves its state and ends, and one of the new program
 * starts. If that one does not come up, one of the program of before does.
 */
#include "control/supervisor-internal.h"

#include <fcntl.h>

#define RELEASE_NS DT_S(10)

int program_open(const char *path, struct dt_error *err)
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
    fd = path ? program_open(path, err) : fcntl(s->program, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return path ? fd : dt_fail(err, -errno, "no descriptor: %s", strerror(errno));
    super_close(&s->next_program);
    s->next_program = fd;
    s->next_argv = argv;
    s->upgrade = UPGRADE_RELEASING;
    if (path)
        events_add(events(s), NULL, "upgrade-begun", NULL, "a worker of %s is to take over", path);
    loop_timer_set(s->config.loop, &s->patience, dt_clock_ns() + RELEASE_NS);
    for (unsigned i = 0; i < s->config.count; i++) {
        s->guards[i].released = false;
        keeper_order(&s->guards[i], KEEPER_RELEASE, -1);
    }
    return 0;
}

/* Of one that brings other arguments; what it did not bring is told once a worker serves again. */
static void end_change(struct supervisor *s, bool good)
{
    const char *why = s->reason[0] ? s->reason : "the reason is in the log";

    if (s->upgrade == UPGRADE_STARTING && !good) {
        super_close(&s->program);
        s->program = TAKE_FD(s->old_program);
        s->config.worker_argv = s->old_argv;
        s->upgrade = UPGRADE_RESTORING;
        return;
    }
    super_close(&s->old_program);
    s->upgrade = UPGRADE_NONE;
    s->next_argv = s->old_argv = NULL;
    s->config.ops->changed(s->config.arg, good ? NULL : why);
}

void upgrade_end(struct supervisor *s, bool good)
{
    loop_timer_cancel(s->config.loop, &s->patience);
    if (s->next_argv) {
        end_change(s, good);
        return;
    }
    s->upgrade = UPGRADE_NONE;
    if (good) {
        super_close(&s->old_program);
        events_add(events(s), NULL, "upgraded", json_pack("{si}", "pid", (int)s->worker.pid),
                   "a worker of the new program serves");
        return;
    }
    super_close(&s->program);
    s->program = TAKE_FD(s->old_program);
    events_add(events(s), NULL, "upgrade-refused", NULL,
               "a worker of the new program cannot serve (its reason is in the log); one of the "
               "program before takes over again");
}

void upgrade_released(struct supervisor *s)
{
    if (s->upgrade != UPGRADE_RELEASING)
        return;
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->guards[i].released && s->guards[i].child.pidfd >= 0)
            return;
    s->upgrade = UPGRADE_ENDING;
    super_end_worker(s);
}

bool upgrade_go_on(struct supervisor *s)
{
    if (s->upgrade != UPGRADE_ENDING && s->upgrade != UPGRADE_RELEASING)
        return false;
    s->upgrade = UPGRADE_STARTING;
    s->old_program = s->program;
    s->program = TAKE_FD(s->next_program);
    s->old_argv = s->config.worker_argv;
    if (s->next_argv)
        s->config.worker_argv = s->next_argv;
    s->reason[0] = '\0';
    super_start_worker(s);
    return true;
}

/* What does not come to rest is killed: its requests are in the log. */
void upgrade_run_patience(struct dt_timer *timer)
{
    struct supervisor *s = container_of(timer, struct supervisor, patience);

    log_warning("the worker takes too long to %s: it is killed",
                s->upgrade == UPGRADE_STARTING ? "begin" : "end");
    for (unsigned i = 0; s->stopping && i < s->config.count; i++)
        child_kill(&s->guards[i].child);
    child_kill(&s->worker);
}
