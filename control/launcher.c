/* SPDX-License-Identifier: MIT */
/*
 * launcher.c - see launcher.h. One packet is one question, and each gets one answer; the worker
 * waits for it, which takes as long as a fork.
 */
#include "control/launcher.h"

#include "blk/channel/placed.h"
#include "control/packet.h"
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ARGV_BYTES  2048u
#define ARGV_MAX    32u
#define KNOWN_MAX   256u
#define ANSWER_MS   5000
#define PROGRAM_TAG "devtap-launch"

enum launch_type { LAUNCH_START, LAUNCH_REAP, LAUNCH_SEAL };

/** struct launch_question - @argv: words, each ended by a zero; @bytes of them. */
struct launch_question {
    uint32_t type;
    uint32_t bytes;
    int64_t pid;
    uint64_t mem_limit;
    char argv[ARGV_BYTES];
};
struct launch_answer {
    int32_t result; /* 0 or -errno */
    int32_t code, status;
    int64_t pid;
};

/** struct launched - one command that was started before the seal. */
struct launched {
    uint32_t bytes;
    uint64_t mem_limit;
    char argv[ARGV_BYTES];
};

/* ---- In the launcher --------------------------------------------------------------------- */

static uid_t extension_uid;

/* Between fork and exec: system calls only. */
static int become_user(void)
{
    if (extension_uid == 0)
        return 0;
    if (syscall(SYS_setgroups, 0, NULL) < 0 ||
        syscall(SYS_setresgid, extension_uid, extension_uid, extension_uid) < 0 ||
        syscall(SYS_setresuid, extension_uid, extension_uid, extension_uid) < 0)
        return -errno;
    return 0;
}

static bool is_known(const struct launched *known, unsigned count, const struct launch_question *q)
{
    for (unsigned i = 0; i < count; i++)
        if (known[i].bytes == q->bytes && known[i].mem_limit == q->mem_limit &&
            memcmp(known[i].argv, q->argv, q->bytes) == 0)
            return true;
    return false;
}

static int start(struct launch_question *q, int sock, struct launch_answer *a)
{
    char *argv[ARGV_MAX + 1] = {NULL};
    pid_t pid = -1;
    unsigned n = 0;
    int pidfd;

    for (uint32_t at = 0; at < q->bytes; at += (uint32_t)strlen(q->argv + at) + 1) {
        if (n == ARGV_MAX)
            return -E2BIG;
        argv[n++] = q->argv + at;
    }
    pidfd = n == 0 || sock < 0 ? -EINVAL : placed_fork(argv, sock, q->mem_limit, &pid);
    a->pid = pid;
    return pidfd;
}

static void reap(const struct launch_question *q, struct launch_answer *a)
{
    siginfo_t info = {0};

    a->result = waitid(P_PID, (id_t)q->pid, &info, WEXITED | WNOHANG) < 0 ? -errno : 0;
    a->code = info.si_code;
    a->status = info.si_status;
}

/* Returns the descriptor to answer with, or -1. */
static int answer(struct launch_question *q, int sock, struct launched *known, unsigned *count,
                  bool *sealed, struct launch_answer *a)
{
    int pidfd;

    if (q->type == LAUNCH_SEAL) {
        *sealed = true;
        return -1;
    }
    if (q->type == LAUNCH_REAP) {
        reap(q, a);
        return -1;
    }
    if (q->bytes == 0 || q->bytes > ARGV_BYTES || q->argv[q->bytes - 1] != '\0') {
        a->result = -EINVAL;
        return -1;
    }
    if (!is_known(known, *count, q)) {
        if (*sealed || *count == KNOWN_MAX) {
            a->result = -EPERM;
            return -1;
        }
        known[*count].bytes = q->bytes;
        known[*count].mem_limit = q->mem_limit;
        memcpy(known[(*count)++].argv, q->argv, q->bytes);
    }
    pidfd = start(q, sock, a);
    a->result = MIN(pidfd, 0);
    return pidfd;
}

static _Noreturn void launch(int sock)
{
    static const struct placed_config config = {.confine = become_user};
    struct launched *known = xcalloc(KNOWN_MAX, sizeof(*known));
    struct pollfd poll_fd = {.fd = sock, .events = POLLIN};
    unsigned count = 0;
    bool sealed = false;

    prctl(PR_SET_NAME, PROGRAM_TAG);
    placed_init(&config);
    for (;;) {
        struct launch_question q;
        struct launch_answer a = {.pid = -1};
        int fd = -1, with, ret;

        poll(&poll_fd, 1, -1);
        ret = packet_receive(sock, &q, sizeof(q), &fd);
        if (ret == 0)
            continue;
        if (ret < 0)
            _exit(0); /* the worker is gone */
        with = answer(&q, fd, known, &count, &sealed, &a);
        packet_send(sock, &a, sizeof(a), with);
        if (fd >= 0)
            close(fd);
        if (with >= 0)
            close(with);
    }
}

/* ---- In the worker -------------------------------------------------------------------------- */

static int launcher = -1;

static int ask(const struct launch_question *q, int sock, struct launch_answer *a, int *fd)
{
    struct pollfd poll_fd = {.fd = launcher, .events = POLLIN};
    int ret = packet_send(launcher, q, sizeof(*q), sock);

    *fd = -1;
    if (ret < 0)
        return ret;
    if (poll(&poll_fd, 1, ANSWER_MS) <= 0)
        return -ETIMEDOUT;
    ret = packet_receive(launcher, a, sizeof(*a), fd);
    return ret > 0 ? a->result : ret ? ret : -EAGAIN;
}

/* Until it is reaped a child keeps its number, so @pidfd can be given back by it. */
static struct running {
    int pidfd;
    int64_t pid;
} running[KNOWN_MAX];

static int launcher_spawn(char *const *argv, int sock, uint64_t mem_limit, pid_t *pid)
{
    struct launch_question q = {.type = LAUNCH_START, .mem_limit = mem_limit};
    struct launch_answer a;
    int fd, ret;

    for (; *argv; argv++) {
        size_t n = strlen(*argv) + 1;

        if (q.bytes + n > sizeof(q.argv))
            return -E2BIG;
        memcpy(q.argv + q.bytes, *argv, n);
        q.bytes += (uint32_t)n;
    }
    ret = ask(&q, sock, &a, &fd);
    if (ret < 0 || fd < 0) {
        if (fd >= 0)
            close(fd);
        return ret < 0 ? ret : -EPROTO;
    }
    *pid = (pid_t)a.pid;
    for (unsigned i = 0; i < KNOWN_MAX; i++)
        if (running[i].pid == 0) {
            running[i] = (struct running){fd, a.pid};
            break;
        }
    return fd;
}

static int launcher_reap(int pidfd, siginfo_t *info)
{
    struct launch_question q = {.type = LAUNCH_REAP};
    struct launch_answer a;
    int fd, ret;

    for (unsigned i = 0; i < KNOWN_MAX; i++)
        if (running[i].pid && running[i].pidfd == pidfd) {
            q.pid = running[i].pid;
            running[i].pid = 0;
        }
    if (q.pid == 0)
        return -ECHILD;
    ret = ask(&q, -1, &a, &fd);
    info->si_code = a.code;
    info->si_status = a.status;
    return ret;
}

int launcher_start(uid_t uid, struct dt_error *err)
{
    static const struct placed_spawner spawner = {launcher_spawn, launcher_reap};
    static const struct placed_config config = {.spawner = &spawner};
    int fds[2];
    pid_t pid;

    if (packet_pair(fds) < 0)
        return dt_fail(err, -errno, "cannot make a socket: %s", strerror(errno));
    extension_uid = geteuid() == 0 ? uid : 0;
    pid = fork();
    if (pid < 0)
        return dt_fail(err, -errno, "cannot start a launcher: %s", strerror(errno));
    if (pid == 0) {
        if (dup2(fds[1], 3) != 3 || syscall(SYS_close_range, 4, ~0u, 0) < 0)
            _exit(1);
        launch(3);
    }
    close(fds[1]);
    launcher = fds[0];
    placed_init(&config);
    return 0;
}

int launcher_seal(struct dt_error *err)
{
    const struct launch_question q = {.type = LAUNCH_SEAL};
    struct launch_answer a;
    int fd, ret = ask(&q, -1, &a, &fd);

    return ret < 0 ? dt_fail(err, ret, "the launcher does not answer: %s", strerror(-ret)) : 0;
}
