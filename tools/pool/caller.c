/* SPDX-License-Identifier: MIT */
/*
 * caller.c - connections until it is known what they want.
 *
 * A disk may still be another session's: that of a process that was killed lives on until the kernel has
 * torn it down, and until its requests are over. So whoever asks for it waits a while. This is
 * also the fence: an answer means that nothing of an earlier session can land any more.
 */
#include "tools/pool/pool.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define MAX_CALLERS 256u
#define SPEAK_NS    DT_S(10) /* whoever has not asked by then does not mean to */
#define PATIENCE_NS DT_MS(2500)
#define BUSY_NS     DT_MS(5) /* the pool is busy with its root: so soon it is asked again */

/** struct caller - one connection. */
struct caller {
    struct list node;
    struct pool_server *server;
    struct dt_watch watch; /* .fd = -1: taken over */
    struct dt_timer timer;
    bool parsed;
    struct pool_waiter waiter;
    char *output; /* of a command that is not durable yet: until it is, this stays */
    char *answer; /* what is left of it, from @sent on */
    size_t sent;
    bool gone;
    uint64_t give_up;
    struct pool_request request;
    size_t have;
    char line[REQUEST_MAX];
};

static void hang_up(struct caller *c)
{
    loop_timer_cancel(c->server->loop, &c->timer);
    if (c->watch.fd < 0)
        return;
    loop_watch_remove(c->server->loop, &c->watch);
    close(TAKE_FD(c->watch.fd));
}

static void caller_free(struct caller *c)
{
    hang_up(c);
    if (c->output) {
        c->gone = true;
        return;
    }
    free(c->answer);
    pool_request_free(&c->request);
    list_del(&c->node);
    free(c);
}

/* 1: all of it was sent; 0: there is more; -errno. */
static int send_more(struct caller *c)
{
    size_t n = strlen(c->answer + c->sent);
    ssize_t sent = send(c->watch.fd, c->answer + c->sent, n, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    c->sent += (size_t)sent;
    return (size_t)sent == n;
}

static int answer(struct caller *c, json_t *json)
{
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);

    json_decref(json);
    CHECK(text);
    c->answer = xasprintf("%s\n", text);
    return send_more(c);
}

/* The answer, and the end; lists of many disks may take the asker a while to read. */
static void finish(struct caller *c, json_t *json)
{
    if (answer(c, json)) {
        caller_free(c);
        return;
    }
    loop_watch_remove(c->server->loop, &c->watch);
    c->watch.events = EPOLLOUT;
    if (loop_watch_add(c->server->loop, &c->watch) < 0) {
        close(TAKE_FD(c->watch.fd));
        caller_free(c);
        return;
    }
    loop_timer_set(c->server->loop, &c->timer, dt_clock_ns() + SPEAK_NS);
}

static void refuse(struct caller *c, int ret, const struct dt_error *err)
{
    finish(c, json_pack("{sb si ss}", "ok", 0, "status", (int)exit_status_of(ret), "error",
                        err->text));
}

/* ---- What they want ---- */

/* The socket, which is another's from now on; with @told, that all is well is said before. */
static int hand_over(struct caller *c, bool told)
{
    int sock = c->watch.fd;

    loop_watch_remove(c->server->loop, &c->watch);
    if (told && answer(c, json_pack("{sb}", "ok", 1)) <= 0)
        shutdown(sock, SHUT_RDWR); /* whose it is will find out */
    c->watch.fd = -1;
    caller_free(c);
    return sock;
}

static int open_disk(struct caller *c, struct dt_error *err)
{
    struct export *e;
    int ret = export_new(&e, c->server, &c->request, err);

    if (ret == 0)
        export_begin(e, hand_over(c, true));
    return ret;
}

static void command_durable(struct pool_waiter *waiter, int error)
{
    struct caller *c = container_of(waiter, struct caller, waiter);
    _cleanup_free_ char *output = TAKE_PTR(c->output);
    struct dt_error err;

    if (c->gone) {
        caller_free(c);
    } else if (error) {
        dt_fail(&err, error, "%s cannot be made durable: %s", c->server->path, strerror(-error));
        refuse(c, error, &err);
    } else {
        finish(c, json_pack("{sb s{ss}}", "ok", 1, "result", "output", output));
    }
}

static int subscribe(struct caller *c, struct dt_error *err)
{
    struct subscriber *s;
    int ret = subscriber_new(&s, c->server, c->request.disk, err);

    if (ret == 0)
        subscriber_begin(s, hand_over(c, true));
    return ret;
}

/* The answer comes from there. */
static int pin_root(struct caller *c, struct dt_error *err)
{
    struct pinner *p;
    int ret = pinner_new(&p, c->server, &c->request, err);

    if (ret == 0)
        pinner_begin(p, hand_over(c, false));
    return ret;
}

static int run_command(struct caller *c, struct dt_error *err)
{
    char *output = NULL;
    int ret = pool_run(c->server, &c->request, &output, err);

    if (ret < 0) {
        free(output);
        return ret;
    }
    if (ret == POOL_RUN_LOOKED) {
        finish(c, json_pack("{sb s{ss}}", "ok", 1, "result", "output", output));
        free(output);
        return 0;
    }
    c->output = output ?: xstrdup("");
    c->waiter.done = command_durable;
    pool_when_durable(shared_pool(c->server->shared), &c->waiter);
    return 0;
}

static int map_disk(struct caller *c, struct dt_error *err)
{
    json_t *map = NULL;
    int ret = export_map(c->server, &c->request, &map, err);

    if (ret == 0)
        finish(c, json_pack("{sb so}", "ok", 1, "result", map));
    return ret;
}

static int tell_pinned(struct caller *c, struct dt_error *err)
{
    finish(c, json_pack("{sb so}", "ok", 1, "result", pinned(c->server)));
    return 0;
}

static int close_pool(struct caller *c, struct dt_error *err)
{
    finish(c, json_pack("{sb}", "ok", 1));
    pool_server_say("close", "asked to");
    return 0;
}

/* Done, refused, or to be tried again. */
static void attend(struct caller *c)
{
    static int (*const verbs[])(struct caller * c, struct dt_error * err) = {
        [REQUEST_OPEN] = open_disk,   [REQUEST_RUN] = run_command, [REQUEST_MAP] = map_disk,
        [REQUEST_EVENTS] = subscribe, [REQUEST_PIN] = pin_root,    [REQUEST_PINNED] = tell_pinned,
        [REQUEST_CLOSE] = close_pool,
    };
    struct dt_error err;
    int ret = verbs[c->request.verb](c, &err);

    if (ret == 0)
        return;
    if (dt_clock_ns() >= c->give_up || (ret != -EAGAIN && !(ret == -EBUSY && c->request.disk)))
        refuse(c, ret, &err);
    else
        loop_timer_set(c->server->loop, &c->timer,
                       ret == -EAGAIN ? dt_clock_ns() + BUSY_NS : c->give_up);
}

static void run_again(struct dt_timer *timer)
{
    struct caller *c = container_of(timer, struct caller, timer);

    if (c->parsed && !c->answer)
        attend(c);
    else
        caller_free(c); /* it does not speak, or does not read */
}

/* Now, from the loop: this is called when an export ends. */
void callers_retry(struct pool_server *s)
{
    list_for_each_safe (it, &s->callers) {
        struct caller *c = list_entry(it, struct caller, node);

        if (c->parsed && !c->output && !c->answer)
            loop_timer_set(s->loop, &c->timer, dt_clock_ns());
    }
}

/* ---- Receiving ---- */

static void take_line(struct caller *c, size_t n)
{
    struct dt_error err;
    int ret = n + 1 == c->have
                  ? pool_request_parse(&c->request, c->line, n, &err)
                  : dt_fail(&err, -EINVAL, "a connection has one request, and the answer to it");

    if (ret < 0) {
        refuse(c, ret, &err);
        return;
    }
    c->parsed = true;
    loop_timer_cancel(c->server->loop, &c->timer);
    c->give_up = dt_clock_ns() + PATIENCE_NS;
    attend(c);
}

static void run_caller(struct dt_watch *watch, uint32_t events)
{
    struct caller *c = container_of(watch, struct caller, watch);
    ssize_t n;
    char *end;

    if (c->answer) {
        if (send_more(c))
            caller_free(c);
        return;
    }
    n = recv(watch->fd, c->line + c->have, sizeof(c->line) - c->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    /* It hung up, or speaks out of turn, or without an end. */
    if (n <= 0 || c->parsed) {
        caller_free(c);
        return;
    }
    c->have += (size_t)n;
    end = memchr(c->line, '\n', c->have);
    if (end)
        take_line(c, (size_t)(end - c->line));
    else if (c->have == sizeof(c->line))
        caller_free(c);
}

void caller_take(struct pool_server *s, int sock)
{
    struct caller *c = xcalloc(1, sizeof(*c));
    unsigned n = 0;

    c->server = s;
    c->watch = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_caller};
    c->timer.fire = run_again;
    list_for_each_safe (it, &s->callers)
        n++;
    list_add_tail(&s->callers, &c->node);
    if (n < MAX_CALLERS && loop_watch_add(s->loop, &c->watch) == 0) {
        loop_timer_set(s->loop, &c->timer, dt_clock_ns() + SPEAK_NS);
        return;
    }
    log_limited(DT_LOG_WARNING, "a connection was refused: %u wait for an answer", n);
    close(TAKE_FD(c->watch.fd));
    caller_free(c);
}

void callers_free(struct pool_server *s)
{
    list_for_each_safe (it, &s->callers)
        caller_free(list_entry(it, struct caller, node));
    while (!list_empty(&s->callers))
        loop_turn(s->loop, true);
}
