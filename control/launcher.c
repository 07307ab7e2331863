/* SPDX-License-Identifier: MIT */
/*
 * launcher.c - see launcher.h. One packet is one question, and each gets one answer; the worker
 * waits for it, which takes as long as a fork. A call to connect is the exception: its answer
 * takes as long as the network likes, and goes to a socket that comes with it. The seal has no answer: whatever
 * is asked after it comes after it.
 */
#include "control/launcher.h"

#include "base/packet.h"
#include "blk/channel/placed.h"
#include "control/confine.h"
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define ARGV_BYTES  2048u
#define ARGV_MAX    32u
#define KNOWN_MAX   256u
#define DIALLED_MAX 1024u
#define ANSWER_MS   5000
#define PROGRAM_TAG "devtap-launch"

enum launch_type {
    LAUNCH_START,
    LAUNCH_KILL,
    LAUNCH_REAP,
    LAUNCH_ADDRESS,
    LAUNCH_DIAL,
    LAUNCH_SEAL
};

/**
 * struct launch_question - @argv: words, each ended by a zero; @bytes of them. Of an address, the one
 * word. @index: the address to dial, as they were announced.
 */
struct launch_question {
    uint32_t type;
    uint32_t bytes;
    uint32_t index;
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

/** struct launcher - what it was told before the seal. */
struct launcher {
    struct launched *known;
    unsigned count;
    char **addresses;
    unsigned naddresses;
    bool sealed;
};

static bool is_known(const struct launcher *l, const struct launch_question *q)
{
    const struct launched *known = l->known;

    for (unsigned i = 0; i < l->count; i++)
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
    int pidfd = confine_next();

    if (pidfd < 0)
        return pidfd;
    for (uint32_t at = 0; at < q->bytes; at += (uint32_t)strlen(q->argv + at) + 1) {
        if (n == ARGV_MAX)
            return -E2BIG;
        argv[n++] = q->argv + at;
    }
    pidfd = n == 0 || sock < 0 ? -EINVAL : placed_fork(argv, sock, q->mem_limit, &pid);
    a->pid = pid;
    return pidfd;
}

/* Only what was started here and not yet reaped: so the number is still its own. */
static int kill_child(int64_t pid)
{
    siginfo_t info;

    if (pid <= 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
        return -ECHILD;
    return kill((pid_t)pid, SIGKILL) < 0 ? -errno : 0;
}

static void reap(const struct launch_question *q, struct launch_answer *a)
{
    siginfo_t info = {0};

    a->result = waitid(P_PID, (id_t)q->pid, &info, WEXITED | WNOHANG) < 0 ? -errno : 0;
    a->code = info.si_code;
    a->status = info.si_status;
}

/* Returns the pidfd to answer with, or -errno. */
static int start_known(struct launcher *l, struct launch_question *q, int sock,
                       struct launch_answer *a)
{
    if (!is_known(l, q)) {
        struct launched *known = &l->known[l->count];

        if (l->sealed || l->count == KNOWN_MAX)
            return -EPERM;
        known->bytes = q->bytes;
        known->mem_limit = q->mem_limit;
        memcpy(known->argv, q->argv, q->bytes);
        l->count++;
    }
    return start(q, sock, a);
}

static int take_address(struct launcher *l, const struct launch_question *q)
{
    if (l->sealed)
        return -EPERM;
    if (l->naddresses == DIALLED_MAX)
        return -ENOSPC;
    if (dial_judge(q->argv, NULL) < 0)
        return -EINVAL;
    l->addresses[l->naddresses++] = xstrdup(q->argv);
    return 0;
}

/* The answer socket is taken over; where nothing is dialled its end is the answer. */
static void dial_known(struct launcher *l, const struct launch_question *q, int answer)
{
    if (answer < 0)
        return;
    if (l->sealed && q->index < l->naddresses)
        dial_address(l->addresses[q->index], answer);
    else
        close(answer);
}

/* Returns the descriptor to answer with, or -1. */
static int answer(struct launcher *l, struct launch_question *q, int sock, struct launch_answer *a)
{
    bool text = q->type == LAUNCH_START || q->type == LAUNCH_ADDRESS;
    int pidfd = -1;

    if (text && (q->bytes == 0 || q->bytes > ARGV_BYTES || q->argv[q->bytes - 1] != '\0')) {
        a->result = -EINVAL;
    } else if (q->type == LAUNCH_KILL) {
        a->result = kill_child(q->pid);
    } else if (q->type == LAUNCH_REAP) {
        reap(q, a);
    } else if (q->type == LAUNCH_ADDRESS) {
        a->result = take_address(l, q);
    } else if (q->type == LAUNCH_START) {
        pidfd = start_known(l, q, sock, a);
        a->result = MIN(pidfd, 0);
    } else {
        a->result = -EINVAL;
    }
    return pidfd;
}

/*
 * A host is forked, since the program is loaded here already. But a thread that looks up a name may hold locks,
 * which no one would release in the child: then the program is executed.
 */
static const struct placed_config *how_to_fork(int (*host_main)(const char *name))
{
    static struct placed_config config = {.confine = confine_child};

    config.host_main = dial_count() == 0 ? host_main : NULL;
    return &config;
}

static _Noreturn void launch(int sock, uid_t uid, int (*host_main)(const char *name))
{
    struct launcher l = {.known = xcalloc(KNOWN_MAX, sizeof(*l.known)),
                         .addresses = xcalloc(DIALLED_MAX, sizeof(*l.addresses))};
    struct pollfd poll_fd = {.fd = sock, .events = POLLIN};

    prctl(PR_SET_NAME, PROGRAM_TAG);
    prctl(PR_SET_DUMPABLE, 0);
    confine_users(uid);
    if (setenv(CONFINE_ENVIRONMENT, "1", 1) < 0)
        _exit(1);
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
        if (q.type == LAUNCH_DIAL) {
            dial_known(&l, &q, fd);
            continue;
        }
        if (q.type == LAUNCH_SEAL) {
            l.sealed = true;
            continue;
        }
        placed_init(how_to_fork(host_main));
        with = answer(&l, &q, fd, &a);
        packet_send(sock, &a, sizeof(a), with);
        if (fd >= 0)
            close(fd);
        if (with >= 0)
            close(with);
    }
}

/* ---- In the worker -------------------------------------------------------------------------- */

static int launcher = -1; /* or there is none (any more) */
static bool needed;       /* it has started something, or may have to connect */

/* One question at a time, since answers bear no names: disks have threads of their own. */
static pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER;

static int await_answer(const struct launch_question *q, int sock, struct launch_answer *a, int *fd)
{
    struct pollfd poll_fd = {.fd = launcher, .events = POLLIN};
    int ret = packet_send(launcher, q, sizeof(*q), sock);

    if (ret < 0)
        return ret;
    if (poll(&poll_fd, 1, ANSWER_MS) <= 0)
        return -ETIMEDOUT;
    ret = packet_receive(launcher, a, sizeof(*a), fd);
    return ret > 0 ? a->result : ret ? ret : -EAGAIN;
}

static int ask(const struct launch_question *q, int sock, struct launch_answer *a, int *fd)
{
    int ret;

    *fd = -1;
    if (launcher < 0)
        return -EPERM; /* as it would say itself, to whatever is new after the seal */
    pthread_mutex_lock(&asking);
    ret = await_answer(q, sock, a, fd);
    pthread_mutex_unlock(&asking);
    return ret;
}

/* ---- Connections ---- */

/* As the launcher knows them. Written before there are threads, and never again. */
static char *addresses[DIALLED_MAX];
static unsigned naddresses;

static int find_address(const char *address)
{
    for (unsigned i = 0; i < naddresses; i++)
        if (strcmp(addresses[i], address) == 0)
            return (int)i;
    return -EPERM;
}

static int launcher_announce(const char *address, struct dt_error *err)
{
    struct launch_question q = {.type = LAUNCH_ADDRESS, .bytes = (uint32_t)strlen(address) + 1};
    struct launch_answer a;
    int fd, ret;

    if (find_address(address) >= 0)
        return 0;
    memcpy(q.argv, address, q.bytes); /* DT_ADDRESS_MAX at most */
    ret = ask(&q, -1, &a, &fd);
    if (ret == -EPERM)
        return dt_fail(err, ret,
                       "%s: this process is confined: it can connect only where it could "
                       "when it started",
                       address);
    if (ret < 0)
        return dt_fail(err, ret, "%s: it cannot be announced: %s", address, strerror(-ret));
    addresses[naddresses++] = xstrdup(address);
    needed = true;
    return 0;
}

static int launcher_dial(const char *address, int answer)
{
    struct launch_question q = {.type = LAUNCH_DIAL};
    int index = find_address(address), ret = index;

    if (index >= 0) {
        q.index = (uint32_t)index;
        ret = packet_send(launcher, &q, sizeof(q), answer);
    }
    close(answer);
    return MIN(ret, 0);
}

/* ---- Processes ---- */

/* Until it is reaped a child keeps its number, so @pidfd can be given back by it. */
static struct running {
    int pidfd;
    int64_t pid;
} running[KNOWN_MAX];
static pthread_mutex_t running_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_running(int pidfd, int64_t pid)
{
    pthread_mutex_lock(&running_lock);
    for (unsigned i = 0; i < KNOWN_MAX; i++)
        if (running[i].pid == 0) {
            running[i] = (struct running){pidfd, pid};
            break;
        }
    pthread_mutex_unlock(&running_lock);
}

static int64_t find_running(int pidfd, bool forget)
{
    int64_t pid = 0;

    pthread_mutex_lock(&running_lock);
    for (unsigned i = 0; i < KNOWN_MAX; i++)
        if (running[i].pid && running[i].pidfd == pidfd) {
            pid = running[i].pid;
            running[i].pid = forget ? 0 : pid;
        }
    pthread_mutex_unlock(&running_lock);
    return pid;
}

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
    needed = true;
    note_running(fd, a.pid);
    return fd;
}

/* It runs as another user, whom the worker may not signal. */
static int launcher_kill(int pidfd)
{
    const struct launch_question q = {.type = LAUNCH_KILL, .pid = find_running(pidfd, false)};
    struct launch_answer a;
    int fd;

    return q.pid ? ask(&q, -1, &a, &fd) : -ECHILD;
}

static int launcher_reap(int pidfd, siginfo_t *info)
{
    struct launch_question q = {.type = LAUNCH_REAP, .pid = find_running(pidfd, true)};
    struct launch_answer a;
    int fd, ret;

    if (q.pid == 0)
        return -ECHILD;
    ret = ask(&q, -1, &a, &fd);
    info->si_code = a.code;
    info->si_status = a.status;
    return ret;
}

int launcher_start(uid_t uid, int (*host_main)(const char *name), struct dt_error *err)
{
    static const struct placed_spawner spawner = {launcher_spawn, launcher_kill, launcher_reap};
    static const struct placed_config config = {.spawner = &spawner};
    static const struct connector connector = {launcher_announce, launcher_dial};
    int fds[2];
    pid_t pid;

    if (packet_pair(fds) < 0)
        return dt_fail(err, -errno, "cannot make a socket: %s", strerror(errno));
    pid = fork();
    if (pid < 0)
        return dt_fail(err, -errno, "cannot start a launcher: %s", strerror(errno));
    if (pid == 0) {
        if (dup2(fds[1], 3) != 3 || syscall(SYS_close_range, 4, ~0u, 0) < 0)
            _exit(1);
        launch(3, uid, host_main);
    }
    close(fds[1]);
    launcher = fds[0];
    placed_init(&config);
    connector_set(&connector);
    return 0;
}

int launcher_seal(struct dt_error *err)
{
    const struct launch_question q = {.type = LAUNCH_SEAL};
    int ret;

    if (!needed) { /* it goes now, so that the end of this process need not wait for it */
        signal(SIGCHLD, SIG_IGN);
        close(TAKE_FD(launcher));
        return 0;
    }
    ret = packet_send(launcher, &q, sizeof(q), -1);
    return ret < 0 ? dt_fail(err, ret, "the launcher is gone: %s", strerror(-ret)) : 0;
}
