/* SPDX-License-Identifier: MIT */
/*
 * control.c - the control socket's connections, on the main thread's loop. A client that does
 * not read its replies is not waited for: what it is owed is kept up to a limit, then it is
 * dropped.
 */
#include "tools/run/run.h"

#include "loop/listener.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define MAX_CLIENTS 32u
#define MAX_OWED    CONTROL_MAX_REPLY
#define BACKLOG     16

/** struct connection - one client. */
struct connection {
    struct list node;
    struct control *control;
    struct dt_watch watch;
    bool closing; /* after the last reply */
    size_t have;
    char *owed; /* replies not yet sent: [sent, owed_n) */
    size_t sent, owed_n;
    char request[CONTROL_MAX_REQUEST + 1];
};

struct control {
    struct loop *loop;
    int listening; /* or -1 */
    struct listener listener;
    char *path;
    struct list connections;
    unsigned count;
    const struct protocol_ops *ops;
    void *arg;
    void (*gone)(void *arg); /* of an adopted client */
};

static void connection_free(struct connection *c)
{
    struct control *control = c->control;

    loop_watch_remove(c->control->loop, &c->watch);
    close(c->watch.fd);
    list_del(&c->node);
    control->count--;
    free(c->owed);
    free(c);
    if (control->gone)
        control->gone(control->arg);
}

/* ---- Sending ------------------------------------------------------------------------------- */

/* Returns false when the connection is over. */
static bool send_owed(struct connection *c)
{
    while (c->sent < c->owed_n) {
        ssize_t n =
            send(c->watch.fd, c->owed + c->sent, c->owed_n - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->sent += (size_t)n;
    }
    free(c->owed);
    c->owed = NULL;
    c->sent = c->owed_n = 0;
    return !c->closing;
}

static bool owe(struct connection *c, const char *text)
{
    size_t n = strlen(text);

    if (c->owed_n - c->sent + n > MAX_OWED)
        return false;
    c->owed = realloc(c->owed, c->owed_n + n);
    CHECK(c->owed);
    memcpy(c->owed + c->owed_n, text, n);
    c->owed_n += n;
    return true;
}

/* What to wait for: while replies are owed, nothing more is read. */
static bool rearm(struct connection *c)
{
    uint32_t events = c->owed_n ? EPOLLOUT : EPOLLIN;

    if (events == c->watch.events)
        return true;
    loop_watch_remove(c->control->loop, &c->watch);
    c->watch.events = events;
    return loop_watch_add(c->control->loop, &c->watch) == 0;
}

/* ---- Receiving ----------------------------------------------------------------------------- */

static bool answer(struct connection *c, size_t n)
{
    const struct control *control = c->control;
    bool fatal;
    _cleanup_free_ char *reply = protocol_answer(control->ops, control->arg, c->request, n, &fatal);

    c->closing |= fatal;
    return owe(c, reply);
}

/* Answers whole lines; the rest stays. */
static bool answer_lines(struct connection *c)
{
    char *end;

    while (!c->closing && (end = memchr(c->request, '\n', c->have)) != NULL) {
        size_t n = (size_t)(end - c->request);

        if (!answer(c, n))
            return false;
        memmove(c->request, end + 1, c->have - n - 1);
        c->have -= n + 1;
    }
    if (!c->closing && c->have == sizeof(c->request))
        return answer(c, c->have); /* too long, and says so */
    return true;
}

static bool serve(struct connection *c, uint32_t events)
{
    ssize_t n;

    if (c->watch.events & EPOLLIN) {
        n = recv(c->watch.fd, c->request + c->have, sizeof(c->request) - c->have, MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        if (n == 0)
            return false;
        c->have += (size_t)n;
        if (!answer_lines(c))
            return false;
    }
    return send_owed(c);
}

static void run_connection(struct dt_watch *watch, uint32_t events)
{
    struct connection *c = container_of(watch, struct connection, watch);

    if (!serve(c, events) || !rearm(c))
        connection_free(c);
}

static void take_client(struct control *control, int sock)
{
    struct connection *c = xcalloc(1, sizeof(*c));

    c->control = control;
    c->watch = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_connection};
    list_add_tail(&control->connections, &c->node);
    control->count++;
    if (loop_watch_add(control->loop, &c->watch) < 0)
        connection_free(c);
}

static void on_connection(struct listener *listener, int sock)
{
    struct control *control = container_of(listener, struct control, listener);

    if (control->count < MAX_CLIENTS) {
        take_client(control, sock);
        return;
    }
    log_warning("control socket: more than %u clients", MAX_CLIENTS);
    close(sock);
}

/* ---- Life ---------------------------------------------------------------------------------- */

static int default_path(char **path, struct dt_error *err)
{
    _cleanup_free_ char *dir = runtime_dir();

    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        return dt_fail(err, -errno, "%s: cannot make the directory of control sockets: %s", dir,
                       strerror(errno));
    *path = xasprintf("%s/%ld.sock", dir, (long)getpid());
    return 0;
}

int control_new(struct control **out, struct loop *loop, const char *path,
                const struct protocol_ops *ops, void *arg, struct dt_error *err)
{
    struct control *control = xcalloc(1, sizeof(*control));
    int ret = 0;

    control->loop = loop;
    control->ops = ops;
    control->arg = arg;
    control->listening = -1;
    list_init(&control->connections);
    if (path)
        control->path = xstrdup(path);
    else
        ret = default_path(&control->path, err);
    if (ret == 0)
        ret = control->listening = listen_at(control->path, -1, -1, 0600, LISTEN_PATIENCE_MS, err);
    if (ret >= 0 && listen(control->listening, BACKLOG) < 0)
        ret = dt_fail(err, -errno, "%s: %s", control->path, strerror(errno));
    if (ret >= 0 &&
        (ret = listener_start(&control->listener, loop, control->listening, on_connection)) < 0)
        dt_fail(err, ret, "%s: %s", control->path, strerror(-ret));
    if (ret < 0) {
        if (control->listening >= 0) {
            unlink(control->path);
            close(control->listening);
        }
        free(control->path);
        free(control);
        return ret;
    }
    *out = control;
    return 0;
}

int control_adopt(struct control **out, struct loop *loop, int fd, const struct protocol_ops *ops,
                  void *arg, void (*gone)(void *arg), struct dt_error *err)
{
    struct control *control = xcalloc(1, sizeof(*control));

    control->loop = loop;
    control->ops = ops;
    control->arg = arg;
    control->listening = -1;
    list_init(&control->connections);
    take_client(control, fd);
    if (control->count == 0) {
        free(control);
        return dt_fail(err, -EIO, "cannot watch the supervisor's connection");
    }
    control->gone = gone;
    *out = control;
    return 0;
}

void control_catch_up(struct control *control)
{
    while (!list_empty(&control->connections)) {
        struct connection *c = list_entry(control->connections.next, struct connection, node);
        struct pollfd there = {.fd = c->watch.fd, .events = POLLIN};

        if (c->watch.events != EPOLLIN || poll(&there, 1, 0) <= 0)
            return;
        run_connection(&c->watch, EPOLLIN);
    }
}

void control_free(struct control *control)
{
    if (!control)
        return;
    control->gone = NULL;
    list_for_each_safe (it, &control->connections) {
        struct connection *c = list_entry(it, struct connection, node);

        send_owed(c); /* the reply to `quit`, for one */
        connection_free(c);
    }
    if (control->path) {
        listener_stop(&control->listener);
        close(control->listening);
        unlink(control->path);
    }
    free(control->path);
    free(control);
}
