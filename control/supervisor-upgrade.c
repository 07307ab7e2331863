/* SPDX-License-Identifier: MIT */
/*
 * supervisor-upgrade.c - another program, or the same with other arguments, takes over running
 * sessions.
 *
 * Theory of operation: the road of a worker's death, taken on purpose. Keepers of the new program
 * start first, and cost nobody anything. Then those of before let the worker finish, keep the VMs
 * waiting and send all that they are to their successors; the worker saves its state and ends, and
 * one of the new program is started and linked with the successors. Only once it serves are these
 * told to hear the VMs, and the keepers of before killed.
 *
 * Until then those are as good as they were: they have sent copies, and changed nothing. If
 * anything fails, the successors are killed, the keepers of before hear the VMs again, and a worker
 * of the program of before serves: the new one may have run requests by then, and that is the case
 * of a worker that died.
 *
 * Other arguments of the same program (a change of the chain) need no other keepers.
 */
#include "control/supervisor-internal.h"

#include "base/packet.h"

#include <fcntl.h>
#include <stdio.h>

#define PHASE_NS DT_S(10)

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
    spare_drop(s);
    s->config.worker_argv = argv;
    spare_renew(s);
}

bool supervisor_upgrading(const struct supervisor *s)
{
    return s->upgrade;
}

static void enter(struct supervisor *s, enum upgrade_phase phase)
{
    s->upgrade = phase;
    loop_timer_set(s->config.loop, &s->patience, dt_clock_ns() + PHASE_NS);
}

static void resume_keepers(struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        keeper_order(&s->guards[i], KEEPER_RESUME, -1);
}

/* ---- The way there -------------------------------------------------------------------------- */

/* With one end of a socket; the other is for its predecessor, once that has let the worker go. */
static int start_successor(struct guard *g, struct dt_error *err)
{
    int fds[2], ret = keeper_start(g, g->s->next_program, err);

    if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET) /* it has ended: its pidfd will say how */
        return ret;
    if (packet_pair(fds) < 0)
        return dt_fail(err, -errno, "cannot make sockets: %s", strerror(errno));
    keeper_order(g, KEEPER_TAKE_OVER, fds[0]);
    close(fds[0]);
    g->sender = fds[1];
    return 0;
}

static int start_successors(struct supervisor *s, struct dt_error *err)
{
    int ret = 0;

    s->standby = keepers_new(s);
    for (unsigned i = 0; ret == 0 && i < s->config.count; i++)
        ret = start_successor(&s->standby[i], err);
    if (ret < 0)
        keepers_free(s, TAKE_PTR(s->standby));
    return ret;
}

static void release_worker(struct supervisor *s)
{
    enter(s, UPGRADE_RELEASING);
    for (unsigned i = 0; i < s->config.count; i++) {
        s->guards[i].released = false;
        keeper_order(&s->guards[i], KEEPER_RELEASE, s->standby ? s->standby[i].sender : -1);
        if (s->standby)
            super_close(&s->standby[i].sender);
    }
}

int supervisor_upgrade(struct supervisor *s, const char *path, const char *const *argv,
                       struct dt_error *err)
{
    int fd, ret;

    if (s->upgrade || s->stopping || s->worker.pidfd < 0 || !s->ready_at)
        return dt_fail(err, -EBUSY, "an upgrade or a restart is under way");
    if (s->config.count == 0)
        return dt_fail(err, -EOPNOTSUPP, "there is no disk to take over");
    fd = path ? program_open(path, err) : fcntl(s->program, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return path ? fd : dt_fail(err, -errno, "no descriptor: %s", strerror(errno));
    super_close(&s->next_program);
    s->next_program = fd;
    s->next_argv = argv;
    s->upgrade_failed = false;
    s->absences.opened = NULL;
    s->reason[0] = '\0';
    spare_start(s, s->next_program, argv ?: s->config.worker_argv, true);
    if (argv) {
        release_worker(s);
        return 0;
    }
    ret = start_successors(s, err);
    if (ret < 0) {
        spare_renew(s);
        return ret;
    }
    events_add(events(s), NULL, "upgrade-begun", NULL, "%s is to take over",
               path ? path : "the program");
    enter(s, UPGRADE_PREPARING);
    return 0;
}

void upgrade_released(struct supervisor *s)
{
    if (s->upgrade != UPGRADE_RELEASING)
        return;
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->guards[i].released && s->guards[i].child.pidfd >= 0)
            return;
    enter(s, UPGRADE_ENDING);
    super_end_worker(s);
}

static void start_next(struct supervisor *s)
{
    struct guard *predecessors = s->guards;

    if (s->standby) {
        s->guards = s->standby;
        s->standby = predecessors;
    }
    s->old_program = s->program;
    s->program = TAKE_FD(s->next_program);
    s->old_argv = s->config.worker_argv;
    if (s->next_argv)
        s->config.worker_argv = s->next_argv;
    s->reason[0] = '\0';
    enter(s, UPGRADE_STARTING);
    super_start_worker(s);
}

bool upgrade_go_on(struct supervisor *s)
{
    if (s->upgrade != UPGRADE_ENDING && s->upgrade != UPGRADE_RELEASING)
        return false;
    enter(s, UPGRADE_HANDING);
    loop_defer(s->config.loop, &s->upgrade_step);
    return true;
}

/* ---- What keepers have to say --------------------------------------------------------------- */

void upgrade_keeper_said(struct supervisor *s)
{
    loop_defer(s->config.loop, &s->upgrade_step);
}

void upgrade_keeper_failed(struct guard *g, const char *why)
{
    struct supervisor *s = g->s;

    if (!s->standby || s->upgrade_failed)
        return;
    s->upgrade_failed = true;
    snprintf(s->reason, sizeof(s->reason), "%s: %s", g->disk->name, why);
    if (s->upgrade == UPGRADE_STARTING)
        child_kill(&s->worker);
    else
        loop_defer(s->config.loop, &s->upgrade_step);
}

static bool all_taking(const struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->standby[i].taking)
            return false;
    return true;
}

static bool all_took(const struct supervisor *s)
{
    for (unsigned i = 0; s->standby && i < s->config.count; i++)
        if (!s->standby[i].took)
            return false;
    return true;
}

/* Nothing of the next program has served yet. */
static void give_up(struct supervisor *s)
{
    enum upgrade_phase phase = s->upgrade;

    loop_timer_cancel(s->config.loop, &s->patience);
    s->upgrade = UPGRADE_NONE;
    keepers_free(s, TAKE_PTR(s->standby));
    super_close(&s->next_program);
    resume_keepers(s);
    events_add(events(s), NULL, "upgrade-refused", NULL,
               "a keeper of the new program cannot take over (%s); the program before serves on",
               s->reason);
    if (phase == UPGRADE_HANDING)
        super_start_worker(s);
    else
        spare_renew(s);
}

/* From the loop alone, since keepers go here and one of them may just have said something. */
void upgrade_run_step(struct loop_deferred *deferred)
{
    struct supervisor *s = container_of(deferred, struct supervisor, upgrade_step);

    if (s->stopping)
        return;
    if (s->upgrade == UPGRADE_PREPARING && s->upgrade_failed)
        give_up(s);
    else if (s->upgrade == UPGRADE_PREPARING && all_taking(s))
        release_worker(s);
    else if (s->upgrade == UPGRADE_HANDING && s->upgrade_failed)
        give_up(s);
    else if (s->upgrade == UPGRADE_HANDING && all_took(s))
        start_next(s);
}

/* What takes too long: a worker is killed, since its requests are in the log; a keeper is not
 * waited for. */
void upgrade_run_patience(struct dt_timer *timer)
{
    struct supervisor *s = container_of(timer, struct supervisor, patience);

    if (!s->stopping && (s->upgrade == UPGRADE_PREPARING || s->upgrade == UPGRADE_HANDING)) {
        upgrade_keeper_failed(&s->standby[0], "keepers of the new program do not answer");
        return;
    }
    log_warning("the worker takes too long to %s: it is killed",
                s->upgrade == UPGRADE_STARTING ? "begin" : "end");
    for (unsigned i = 0; s->stopping && i < s->config.count; i++)
        child_kill(&s->guards[i].child);
    child_kill(&s->worker);
}

/* ---- The end -------------------------------------------------------------------------------- */

static void restore_program(struct supervisor *s)
{
    super_close(&s->program);
    s->program = TAKE_FD(s->old_program);
}

/* Back to the keepers of before; one that died meanwhile took its VM's connection with it. */
static void restore_keepers(struct supervisor *s)
{
    struct guard *successors = s->guards;
    struct dt_error err;

    if (!s->standby)
        return;
    s->guards = TAKE_PTR(s->standby);
    keepers_free(s, successors);
    for (unsigned i = 0; i < s->config.count; i++)
        if (s->guards[i].child.pidfd < 0 && keeper_start(&s->guards[i], s->program, &err) < 0)
            log_error("%s: %s", s->guards[i].disk->name, err.text);
    resume_keepers(s);
}

/* Of one that brings other arguments; what it did not bring is told once a worker serves again. */
static void end_change(struct supervisor *s, bool good)
{
    const char *why = s->reason[0] ? s->reason : "the reason is in the log";

    if (s->upgrade == UPGRADE_STARTING && !good) {
        restore_program(s);
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
        resume_keepers(s);
        keepers_free(s, TAKE_PTR(s->standby));
        super_close(&s->old_program);
        events_add(events(s), NULL, "upgraded", json_pack("{si}", "pid", (int)s->worker.pid),
                   "keepers and a worker of the new program serve");
        return;
    }
    restore_program(s);
    restore_keepers(s);
    events_add(events(s), NULL, "upgrade-refused", NULL,
               "a worker of the new program cannot serve (%s); one of the program before takes "
               "over again",
               s->reason[0] ? s->reason : "its reason is in the log");
}
