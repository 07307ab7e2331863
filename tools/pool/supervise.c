/* SPDX-License-Identifier: MIT */
/* supervise.c - `cvd pool open`: the socket, and a worker that is started again whenever it dies. */
#include "tools/pool/pool.h"

#include "blk/cvd/ask.h"
#include "control/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define BACKLOG 1024 /* what connects while there is no worker waits there */

struct supervise {
    const struct pool_open_options *o;
    const char *path;
    char *socket;
    int fd;
    bool bound;
    struct loop *loop;
    struct signals signals;
    struct activation activation;
    struct supervisor *supervisor;
    struct events *events;
    char program[4096];
    char data_cache[24]; /* of the next worker */
    int ready;           /* a pipe to who waits for us, or -1 */
    int status;
};

/* ---- What the worker does ---- */

static void on_ready(void *arg)
{
    struct supervise *s = arg;

    fprintf(stderr, "cvd: serving %s at %s\n", s->path, s->socket);
    if (s->o->json) {
        print_json_line(
            json_pack("{ss ss ss}", "done", "pool open", "to", s->path, "socket", s->socket));
        fflush(stdout);
    }
    notify_manager("READY=1");
    if (s->ready < 0)
        return;
    if (write(s->ready, "", 1) < 0)
        log_debug("nobody waits: %m");
    close(TAKE_FD(s->ready));
}

static void on_restarted(void *arg)
{
    struct supervise *s = arg;

    events_add(s->events, NULL, "recovered", NULL, "%s is served again", s->path);
}

static void quit(void *arg)
{
    struct supervise *s = arg;

    signals_unblock();
    supervisor_stop(s->supervisor);
}

static void on_said(void *arg, const char *event, const char *text)
{
    struct supervise *s = arg;

    if (strcmp(event, "close") == 0) {
        log_info("stopping (cvd pool close)");
        quit(s);
    } else if (strcmp(event, "data-cache") == 0) {
        if (text[strspn(text, "0123456789")] == '\0')
            snprintf(s->data_cache, sizeof(s->data_cache), "%s", text);
    } else if (strcmp(event, "start-failed") == 0) {
        if (s->ready >= 0 && write(s->ready, text, strlen(text)) < 0)
            log_debug("nobody waits: %m");
    } else {
        events_add(s->events, NULL, event, NULL, "%s", text);
    }
}

static void on_ended(void *arg, int status)
{
    struct supervise *s = arg;

    s->status = status;
    loop_stop(s->loop);
}

static const struct supervisor_ops ops = {
    .ready = on_ready, .restarted = on_restarted, .said = on_said, .ended = on_ended};

/* ---- Life ---- */

static int open_socket(struct supervise *s, struct dt_error *err)
{
    s->fd = activation_take(&s->activation, "pool", true);
    if (s->fd >= 0)
        return 0;
    s->fd = listen_at(s->socket, -1, -1, SOCKET_MODE, LISTEN_PATIENCE_MS, err);
    s->bound = s->fd >= 0;
    if (s->fd >= 0 && listen(s->fd, BACKLOG) < 0)
        return dt_fail(err, -errno, "%s: cannot listen: %s", s->socket, strerror(errno));
    return MIN(s->fd, 0);
}

static int start(struct supervise *s, char *const words[], struct dt_error *err)
{
    const struct loop_config quiet = {.engine = LOOP_EPOLL};
    struct supervisor_config config = {
        .program = s->program,
        .worker_argv = (const char *const *)words,
        .worker_fd = s->fd,
        .sandbox = s->o->sandbox,
        .events = s->events,
        .ops = &ops,
        .arg = s,
    };
    ssize_t n = readlink("/proc/self/exe", s->program, sizeof(s->program) - 1);
    int ret = n < 0 ? dt_fail(err, -errno, "/proc/self/exe: %s", strerror(errno)) : 0;

    ret = ret ?: loop_new(&s->loop, &quiet, err);
    ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: open_socket(s, err);
    config.loop = s->loop;
    config.worker_fd = s->fd;
    return ret ?: supervisor_new(&s->supervisor, &config, err);
}

static void finish(struct supervise *s)
{
    supervisor_free(s->supervisor);
    if (s->bound)
        unlink(s->socket);
    if (s->fd >= 0)
        close(s->fd);
    if (s->loop) {
        signals_unwatch(&s->signals, s->loop);
        loop_free(s->loop);
    }
    events_free(s->events);
    activation_free(&s->activation);
    free(s->socket);
}

/* @path is absolute: a confined worker knows no directories. */
static int supervise(char *path, const struct pool_open_options *o, int ready, struct dt_error *err)
{
    struct supervise s = {.o = o,
                          .path = path,
                          .socket = cvd_socket(path),
                          .fd = -1,
                          .ready = ready,
                          .events = events_new(),
                          .signals = {.watch.fd = -1, .quit = quit, .arg = &s}};
    _cleanup_free_ char *uid = xasprintf("%u", supervisor_uid());
    _cleanup_free_ char *holder = xasprintf("cvd pool open (pid %d)", (int)getpid());
    _cleanup_free_ char *cache = xasprintf("%llu", (unsigned long long)o->cache);
    char *words[] = {
        "cvd",        "pool-worker", uid, holder, path, cache, o->sandbox ? "on" : "off",
        s.data_cache, NULL};
    int ret;

    snprintf(s.data_cache, sizeof(s.data_cache), "%llu", (unsigned long long)o->data_cache);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    log_set_level(DT_LOG_INFO);
    activation_init(&s.activation);
    ret = start(&s, words, err);
    if (ret == 0) {
        loop_run(s.loop);
        notify_manager("STOPPING=1");
    }
    finish(&s);
    return ret ?: s.status;
}

/* ---- In the background ---- */

/* Whoever started it may wait for the end of what it holds open; so its log is a file. */
static void leave_terminal(const char *path)
{
    _cleanup_free_ char *name = xasprintf("%s.log", path);
    _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    _cleanup_close_ int log = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    setsid();
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(log >= 0 ? log : null, STDERR_FILENO);
}

/* Until the pool is served, which a zero byte tells, or is not, with the reason. */
static int await_ready(int from, pid_t pid, struct dt_error *err)
{
    char text[256] = "";
    ssize_t n = read(from, text, sizeof(text) - 1);
    int status = 0;

    if (n == 1 && text[0] == '\0')
        return 1;
    waitpid(pid, &status, 0);
    return dt_fail(err, WIFEXITED(status) && WEXITSTATUS(status) == STATUS_IN_USE ? -EBUSY : -EIO,
                   "%s", n > 0 ? text : "it does not serve the pool, and its log says why");
}

/* Return: 0 in the child, which has @ready; in the parent 1, or -errno. */
static int into_background(const char *path, int *ready, struct dt_error *err)
{
    int fds[2], ret;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0)
        return dt_fail(err, -errno, "cannot go into the background: %s", strerror(errno));
    if (pid == 0) {
        close(fds[0]);
        leave_terminal(path);
        *ready = fds[1];
        return 0;
    }
    close(fds[1]);
    ret = await_ready(fds[0], pid, err);
    close(fds[0]);
    return ret;
}

int pool_supervise(const char *path, const struct pool_open_options *o, struct dt_error *err)
{
    _cleanup_free_ char *full = realpath(path, NULL);
    int ready = -1, ret = 0;

    if (!full)
        return dt_fail(err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (o->background)
        ret = into_background(full, &ready, err);
    if (ret == 0)
        ret = supervise(full, o, ready, err);
    else if (ret == 1)
        ret = STATUS_DONE;
    if (ret < 0 && ready >= 0 && write(ready, err->text, strlen(err->text)) < 0)
        log_debug("nobody waits: %m");
    return ret;
}
