/* SPDX-License-Identifier: MIT */
/*
 * spawn.c - clone3() and execveat(). Between the two the child may make system calls only: this
 * process may have threads.
 *
 * Namespaces need privileges, or one for users, in which whoever makes it has them all. There our user is
 * mapped to root and no other user exists; the files it may open remain ours.
 */
#include "control/spawn.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SPAWN_MAX_FDS 16u
#define HIGH_FD       64 /* above all targets, so that no source is overwritten */

#define NAMESPACES (CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)

extern char **environ;

static pid_t clone_child(struct child *child, uint64_t flags, int cgroup)
{
    struct clone_args args = {
        .flags = CLONE_PIDFD | flags | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)&child->pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
    };

    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* In the child: lay out the descriptors. */
static int place_fds(const struct spawn *spawn, int *program)
{
    int high[SPAWN_MAX_FDS], null = open("/dev/null", O_RDONLY);

    *program = fcntl(spawn->program, F_DUPFD_CLOEXEC, HIGH_FD);
    if (null < 0 || *program < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
        return -1;
    for (unsigned i = 0; i < spawn->nfds; i++) {
        high[i] = fcntl(spawn->fds[i], F_DUPFD_CLOEXEC, HIGH_FD);
        if (high[i] < 0)
            return -1;
    }
    for (unsigned i = 0; i < spawn->nfds; i++)
        if (dup2(high[i], SPAWN_FIRST_FD + (int)i) < 0)
            return -1;
    /* What is above belongs to nobody: @program goes with the exec. */
    return (int)syscall(SYS_close_range, SPAWN_FIRST_FD + spawn->nfds, ~0u, 4 /* CLOEXEC */);
}

/** struct user_maps - what makes us root of a user namespace, prepared before the fork. */
struct user_maps {
    char user[32], group[32];
};

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    /* Where this is forbidden the namespace gives no privileges, and the sandbox will say what it lacks. */
    if (fd >= 0 && write(fd, text, strlen(text)) >= 0)
        close(fd);
}

static void become_root_here(const struct user_maps *maps)
{
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", maps->user);
    write_file("/proc/self/gid_map", maps->group);
}

static _Noreturn void run_child(const struct spawn *spawn, char **environment,
                                const struct user_maps *maps)
{
    sigset_t none;
    int program;

    if (maps)
        become_root_here(maps);

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Its sockets and locks are for the next supervisor. A change of user undoes this: sandbox.c. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* a terminal's interrupt is for the supervisor */
    if (place_fds(spawn, &program) == 0)
        syscall(SYS_execveat, program, "", spawn->argv, environment, 0x1000 /* AT_EMPTY_PATH */);
    _exit(127);
}

static char **make_environment(const char *extra)
{
    unsigned n = 0;
    char **all;

    while (environ[n])
        n++;
    all = xcalloc(n + 2, sizeof(*all));
    memcpy(all, environ, n * sizeof(*all));
    all[n] = (char *)(uintptr_t)extra;
    return all;
}

int spawn_start(struct child *child, const struct spawn *spawn, struct dt_error *err)
{
    _cleanup_free_ char **environment = make_environment(spawn->environment);
    struct user_maps maps;
    bool users = false;
    pid_t pid;

    CHECK(spawn->nfds <= SPAWN_MAX_FDS);
    *child = (struct child){.pidfd = -1, .isolated = spawn->isolate};
    pid = clone_child(child, spawn->isolate ? NAMESPACES : 0, spawn->cgroup);
    if (pid < 0 && spawn->isolate) {
        users = true;
        snprintf(maps.user, sizeof(maps.user), "0 %u 1", geteuid());
        snprintf(maps.group, sizeof(maps.group), "0 %u 1", getegid());
        pid = clone_child(child, NAMESPACES | CLONE_NEWUSER, spawn->cgroup);
    }
    if (pid < 0 && spawn->isolate) {
        users = child->isolated = false;
        pid = clone_child(child, 0, spawn->cgroup);
    }
    if (pid == 0)
        run_child(spawn, environment, users ? &maps : NULL);
    if (pid < 0)
        return dt_fail(err, -errno, "cannot start a process: %s", strerror(errno));
    child->pid = pid;
    return 0;
}

void child_kill(const struct child *child)
{
    if (child->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, child->pidfd, SIGKILL, NULL, 0);
}

int child_reap(struct child *child, int *code, int *status)
{
    siginfo_t info = {0};

    if (waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG) < 0)
        return -errno;
    if (info.si_pid == 0)
        return -EAGAIN;
    *code = info.si_code;
    *status = info.si_status;
    close(child->pidfd);
    *child = (struct child){.pidfd = -1};
    return 0;
}
