/* SPDX-License-Identifier: MIT */
/*
 * process.c - the process of an extension: started, confined, killed, reaped.
 *
 * It inherits its control socket as descriptor 3, /dev/null as its input, and the log as its
 * output; nothing else. It sees the end of the worker as the end of that socket.
 */
#include "blk/channel/internal.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CONTROL_FD 3
#define HOST_VERB  "ext-host"
#define SELF       "/proc/self/exe"
#define FILES_MAX  512 /* four for each thread of a disk, and its own */

#if defined(__has_feature) /* clang's way to say it */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LIMIT_MEMORY 0
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMIT_MEMORY 0 /* the sanitizers reserve terabytes */
#endif
#if !defined(LIMIT_MEMORY)
#define LIMIT_MEMORY 1
#endif

/* Under the lock, or before anybody else knows of it. */
static void forget(struct process *p)
{
    p->pid = -1;
    p->pidfd = p->sock = -1;
    p->seq = 0;
    p->killed = false;
}

void process_init(struct process *p)
{
    pthread_mutex_init(&p->lock, NULL);
    forget(p);
}

static void limit(int resource, uint64_t n)
{
    struct rlimit limit = {n, n};

    setrlimit((__rlimit_resource_t)resource, &limit);
}

/* Not what the parent had open, nor how it takes signals; the rest of it is as a new process would be. */
_Noreturn static void become_host(const char *name, char *const *envp)
{
    environ = (char **)(uintptr_t)envp;
    if (syscall(SYS_close_range, CONTROL_FD + 1, ~0u, 0) < 0)
        _exit(127);
    signal(SIGABRT, SIG_DFL);
    prctl(PR_SET_NAME, HOST_VERB);
    _exit(placed_configuration->host_main(name));
}

/* In the child, between fork and exec: async-signal-safe calls only. */
_Noreturn static void become(int sock, char *const *argv, char *const *envp, uint64_t mem_limit)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    /* 2 -> 1: what a program prints belongs to the log. */
    if (null < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
        _exit(127);
    if (sock == CONTROL_FD ? fcntl(sock, F_SETFD, 0) < 0 : dup2(sock, CONTROL_FD) < 0)
        _exit(127);
    if (syscall(SYS_close_range, CONTROL_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        _exit(127);
    setpgid(0, 0); /* a terminal's ^C is for the worker, which ends us in good order */
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, FILES_MAX);
    if (LIMIT_MEMORY && mem_limit)
        limit(mem_limit & PLACED_LIMIT_PRIVATE ? RLIMIT_DATA : RLIMIT_AS,
              mem_limit & ~PLACED_LIMIT_PRIVATE);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        _exit(127);
    if (placed_configuration->confine && placed_configuration->confine() < 0)
        _exit(126);
    if (placed_configuration->host_main && strcmp(argv[0], SELF) == 0)
        become_host(argv[2], envp);
    execvpe(argv[0], argv, envp);
    _exit(errno == ENOENT ? 127 : 126);
}

/* The environment, with the control socket's number. */
static char **make_environment(void)
{
    static char channel[] = "DEVTAP_CHANNEL=3";
    unsigned n = 0;
    char **envp;

    while (environ[n])
        n++;
    envp = xcalloc(n + 2, sizeof(*envp));
    memcpy(envp, environ, n * sizeof(*envp));
    envp[n] = channel;
    return envp;
}

int placed_fork(char *const *argv, int sock, uint64_t mem_limit, pid_t *pid)
{
    _cleanup_free_ char **envp = make_environment();
    int pidfd, code;

    *pid = fork();
    if (*pid == 0)
        become(sock, argv, envp, mem_limit);
    if (*pid < 0)
        return -errno;
    pidfd = (int)syscall(SYS_pidfd_open, *pid, 0);
    if (pidfd >= 0)
        return pidfd;
    code = -errno;
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    return code;
}

static int reap_child(int pidfd, siginfo_t *info)
{
    int ret;

    do {
        ret = waitid(P_PIDFD, (id_t)pidfd, info, WEXITED);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int kill_child(int pidfd)
{
    return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 ? -errno : 0;
}

static const struct placed_spawner *spawner(void)
{
    static const struct placed_spawner forks = {placed_fork, kill_child, reap_child};

    return placed_configuration->spawner ?: &forks;
}

int process_start(struct process *p, const struct wrapped *w, uint64_t mem_limit,
                  struct dt_error *err)
{
    static char host_verb[] = HOST_VERB, self[] = SELF;
    const char *host = placed_configuration->host;
    char *const hosted[] = {host ? (char *)(uintptr_t)host : self, host_verb, w->name, NULL};
    int pair[2], pidfd;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return dt_fail(err, -errno, "cannot make a control socket: %m");
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    pidfd = spawner()->start(w->argv ? w->argv : hosted, pair[1], mem_limit, &pid);
    close(pair[1]);
    if (pidfd < 0) {
        close(pair[0]);
        return dt_fail(err, pidfd, "cannot start a process: %s", strerror(-pidfd));
    }
    pthread_mutex_lock(&p->lock);
    forget(p);
    p->pid = pid;
    p->sock = pair[0];
    p->pidfd = pidfd;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

void process_kill(struct process *p, const char *fmt, ...)
{
    va_list args;
    int ret = 0;

    pthread_mutex_lock(&p->lock);
    if (p->pidfd >= 0 && !p->killed) {
        p->killed = true;
        va_start(args, fmt);
        vsnprintf(p->why, sizeof(p->why), fmt, args);
        va_end(args);
        ret = spawner()->kill(p->pidfd);
    }
    if (ret < 0)
        log_error("process %d of an extension cannot be killed: %s", (int)p->pid, strerror(-ret));
    pthread_mutex_unlock(&p->lock);
}

bool process_killed(struct process *p)
{
    bool killed;

    pthread_mutex_lock(&p->lock);
    killed = p->killed;
    pthread_mutex_unlock(&p->lock);
    return killed;
}

bool process_was_asked(struct process *p, uint32_t seq)
{
    bool asked;

    pthread_mutex_lock(&p->lock);
    asked = seq != 0 && seq <= p->seq;
    pthread_mutex_unlock(&p->lock);
    return asked;
}

static void describe_end(const struct process *p, const siginfo_t *info, struct ending *end)
{
    int status = info->si_status;
    size_t size = sizeof(end->cause);

    end->own = true;
    if (p->killed) {
        snprintf(end->cause, size, "%s", p->why);
        return;
    }
    end->why = info->si_code == CLD_EXITED ? "exit" : "signal";
    end->status = status;
    if (info->si_code == CLD_EXITED && (status == 126 || status == 127)) {
        snprintf(end->cause, size, "the program could not be executed (status %d)", status);
    } else if (info->si_code == CLD_EXITED) {
        snprintf(end->cause, size, "it exited with status %d", status);
    } else {
        snprintf(end->cause, size, "killed by signal %d (%s)", status, strsignal(status));
        /* Nothing that a request can do to it: an operator, or the host out of memory. */
        end->own = status != SIGKILL && status != SIGTERM && status != SIGINT && status != SIGHUP;
    }
}

void process_reap(struct process *p, struct ending *end)
{
    siginfo_t info = {0};

    pthread_mutex_lock(&p->lock);
    *end = (struct ending){.why = p->killed ? "stopped" : NULL, .own = p->killed};
    if (spawner()->reap(p->pidfd, &info) == 0)
        describe_end(p, &info, end);
    else
        snprintf(end->cause, sizeof(end->cause), "%s",
                 p->killed ? p->why : "it ended, nobody knows how");
    close(p->pidfd);
    close(p->sock);
    forget(p);
    pthread_mutex_unlock(&p->lock);
}

int64_t process_send(struct process *p, uint32_t type, const char *text, const int *fds,
                     unsigned nfds)
{
    uint32_t seq;
    int ret;

    pthread_mutex_lock(&p->lock);
    seq = ++p->seq;
    ret = p->sock < 0 ? -EPIPE : control_send(p->sock, type, seq, text, fds, nfds);
    pthread_mutex_unlock(&p->lock);
    return ret < 0 ? ret : (int64_t)seq;
}
