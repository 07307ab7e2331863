/* SPDX-License-Identifier: MIT */
/* program.c - the program that judges: from its connection to its end. See queue.h. */
#include "net/queue/queue.h"

#include "base/listen.h"
#include <jansson.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define GREETING_NS DT_S(5) /* from its connection to its HELLO */
#define SUPER_BYTES (16u << 20)

int program_bind(const char *path, struct dt_error *err)
{
    int fd = bind_path(path, SOCK_SEQPACKET, -1, -1, 0600, LISTEN_PATIENCE_MS, err);

    if (fd < 0 || listen(fd, 1) == 0)
        return fd;
    dt_fail(err, -errno, "%s: cannot listen: %m", path);
    close(fd);
    return -EIO;
}

/* ---- Waiting for one ---- */

static void look_for_program(struct queue_ctx *qc)
{
    qc->accepts.fd = queue_of(qc)->listener;
    qc->accepting = dt_watch_add(qc->c, &qc->accepts) == 0;
    if (!qc->accepting) /* no memory now: the timer of the greeting is free */
        dt_timer_set(qc->c, &qc->greeting, dt_clock_ns() + DT_S(1));
}

static void stop_looking(struct queue_ctx *qc)
{
    if (qc->accepting)
        dt_watch_remove(qc->c, &qc->accepts);
    qc->accepting = false;
}

static void run_accept(struct dt_watch *watch, uint32_t events)
{
    struct queue_ctx *qc = container_of(watch, struct queue_ctx, accepts);
    struct ucred peer = {.pid = 0};
    socklen_t size = sizeof(peer);
    int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;       /* it is gone again, or there is no descriptor now: the watch looks again */
    stop_looking(qc); /* a second program waits until the first is gone */
    qc->pid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
    qc->sock = qc->frames.fd = fd;
    qc->state = PROGRAM_GREETING;
    if (dt_watch_add(qc->c, &qc->frames) < 0) {
        close(TAKE_FD(qc->sock));
        qc->state = PROGRAM_NONE;
        look_for_program(qc);
        return;
    }
    dt_timer_set(qc->c, &qc->greeting, dt_clock_ns() + GREETING_NS);
}

static void run_greeting(struct dt_timer *timer)
{
    struct queue_ctx *qc = container_of(timer, struct queue_ctx, greeting);

    if (qc->state == PROGRAM_GREETING)
        program_lost(qc, "it did not say HELLO within 5 s");
    else if (qc->state == PROGRAM_NONE && !qc->accepting)
        look_for_program(qc);
}

/* In another process-id namespace it has no number here. */
static const char *name_of(const struct queue_ctx *qc, char *text, size_t size)
{
    if (qc->pid > 0)
        snprintf(text, size, "process %d", (int)qc->pid);
    else
        snprintf(text, size, "a program");
    return text;
}

/* ---- Its channel ---- */

static int send_json(struct queue_ctx *qc, uint32_t type, json_t *json, const int *fds,
                     unsigned nfds)
{
    char *text = json_dumps(json, JSON_COMPACT);
    int ret = text ? control_send(qc->sock, type, ++qc->seq, text, fds, nfds) : -ENOMEM;

    free(text);
    json_decref(json);
    return ret;
}

static json_t *describe(const struct queue_ctx *qc)
{
    static const char *const directions[] = {"both", "tx", "rx"};
    const struct queue *q = queue_of(qc);
    const struct dt_layer *layer = qc->c->layer;

    return json_pack("{ss ss ss si ss sI sI}", "class", "net", "device", dt_layer_device(layer),
                     "layer", dt_layer_name(layer), "mtu", (int)dt_layer_net_info(layer)->mtu,
                     "direction", directions[q->direction], "length", (json_int_t)q->length, "snap",
                     (json_int_t)qc->link.snap);
}

/* Pages for the packets of both directions; of super-frames fewer than there are slots, the others wait. */
static uint64_t data_bytes(const struct queue *q)
{
    return q->super ? SUPER_BYTES : 2 * q->length << CHANNEL_PAGE_SHIFT;
}

static int start_channel(struct queue_ctx *qc, struct dt_error *err)
{
    const struct queue *q = queue_of(qc);
    int memfd, ret;

    qc->link.snap = q->snap ? (uint32_t)MAX(q->snap, CHANNEL_FRAME_MIN) : CHANNEL_FRAME_MAX;
    memfd = packets_create(&qc->link, 2 * (uint32_t)q->length, 0, data_bytes(q), err);
    if (memfd < 0)
        return memfd;
    ret = send_json(qc, CONTROL_INIT, describe(qc), NULL, 0);
    ret = ret
              ?: send_json(qc, CONTROL_START, json_pack("{si}", "thread", 0),
                           (int[]){memfd, qc->link.kick_down, qc->link.kick_up}, 3);
    close(memfd);
    qc->kick.fd = qc->link.kick_up;
    ret = ret ?: dt_watch_add(qc->c, &qc->kick);
    if (ret == 0)
        return 0;
    packets_destroy(&qc->link);
    return dt_fail(err, ret, "%s", strerror(-ret));
}

static void begin(struct queue_ctx *qc)
{
    struct dt_error err;
    char who[32];

    if (start_channel(qc, &err) < 0) {
        program_lost(qc, err.text);
        return;
    }
    dt_timer_cancel(qc->c, &qc->greeting);
    qc->state = PROGRAM_LIVE;
    qc->changed = qc->link.changed = 0;
    loop_poller_wake(ctx_loop(qc->c), &qc->poller);
    dt_count(qc->c, PROGRAMS, 1);
    dt_layer_event(qc->c->layer, "program-attached", "%s judges packets now",
                   name_of(qc, who, sizeof(who)));
    queue_begin(qc);
}

static unsigned poll_up(struct loop_poller *poller)
{
    struct queue_ctx *qc = container_of(poller, struct queue_ctx, poller);
    const char *why;
    int n = qc->state == PROGRAM_LIVE ? packets_take(&qc->link, &why) : 0;

    if (n > 0)
        queue_heard(qc);
    else if (n < 0)
        program_lost(qc, why);
    return n < 0 ? 1 : (unsigned)n;
}

static bool arm_up(struct loop_poller *poller)
{
    struct queue_ctx *qc = container_of(poller, struct queue_ctx, poller);

    return qc->state != PROGRAM_LIVE || channel_arm(&qc->link.up);
}

static void run_kick(struct dt_watch *watch, uint32_t events)
{
    struct queue_ctx *qc = container_of(watch, struct queue_ctx, kick);
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR) {
        program_lost(qc, "its eventfd cannot be read");
        return;
    }
    loop_poller_wake(ctx_loop(qc->c), &qc->poller);
}

/* ---- What it says ---- */

static void take_event(struct queue_ctx *qc, const struct control_frame *f)
{
    json_t *json = json_loadb(f->payload, f->length, 0, NULL);
    const char *event = json_string_value(json_object_get(json, "event"));
    const char *text = json_string_value(json_object_get(json, "text")) ?: "";
    char word[CONTROL_WORD_MAX];

    dt_layer_event(qc->c->layer, control_word(word, event, "program"), "%.300s", text);
    json_decref(json);
}

/* NULL, or what was wrong. */
static const char *take_frame(struct queue_ctx *qc, const struct control_frame *f)
{
    if (qc->state == PROGRAM_GREETING) {
        if (f->type != CONTROL_HELLO)
            return "its first word was not HELLO";
        begin(qc);
        return NULL;
    }
    if (f->type == CONTROL_EVENT)
        take_event(qc, f);
    else if (f->type != CONTROL_ANSWER)
        return "it sent a control message of an unknown kind";
    return NULL;
}

static void run_frames(struct dt_watch *watch, uint32_t events)
{
    struct queue_ctx *qc = container_of(watch, struct queue_ctx, frames);
    int ret = control_recv(qc->sock, qc->frame);
    const char *why = NULL;

    if (ret == 0)
        return;
    if (ret < 0) {
        why = ret == -EPIPE ? "it ended its connection" : "it sent a damaged control message";
    } else {
        control_close_fds(qc->frame);
        why = take_frame(qc, qc->frame);
    }
    if (why)
        program_lost(qc, why);
}

/* ---- Its end ---- */

static unsigned end_connection(struct queue_ctx *qc)
{
    bool live = qc->state == PROGRAM_LIVE;
    unsigned had;

    qc->state = PROGRAM_NONE; /* before packets move: what comes meanwhile finds nobody */
    if (live) {
        dt_watch_remove(qc->c, &qc->kick);
        loop_poller_remove(ctx_loop(qc->c), &qc->poller);
        loop_defer_cancel(ctx_loop(qc->c), &qc->flush);
    }
    dt_timer_cancel(qc->c, &qc->greeting);
    dt_watch_remove(qc->c, &qc->frames);
    close(TAKE_FD(qc->sock));
    had = live ? queue_orphans(qc) : 0;
    packets_destroy(&qc->link);
    return had;
}

void program_lost(struct queue_ctx *qc, const char *why)
{
    static const char *const what[] = {
        [ON_DEATH_HOLD] = "packets wait for the next one",
        [ON_DEATH_ACCEPT] = "packets pass without a verdict",
        [ON_DEATH_DROP] = "packets are dropped",
    };
    const char *word = qc->state == PROGRAM_LIVE ? "program-lost" : "program-refused";
    unsigned had = end_connection(qc);
    char who[32];

    dt_layer_event(qc->c->layer, word, "%s: %s; it had %u packets; %s",
                   name_of(qc, who, sizeof(who)), why, had, what[queue_of(qc)->on_death]);
    look_for_program(qc);
}

void program_start(struct queue_ctx *qc)
{
    qc->sock = -1;
    qc->frame = xcalloc(1, sizeof(*qc->frame));
    qc->accepts = (struct dt_watch){.ready = run_accept, .events = EPOLLIN};
    qc->frames = (struct dt_watch){.ready = run_frames, .events = EPOLLIN};
    qc->kick = (struct dt_watch){.ready = run_kick, .events = EPOLLIN};
    qc->greeting.fire = run_greeting;
    qc->poller = (struct loop_poller){.poll = poll_up, .arm = arm_up};
    list_init(&qc->poller.node);
    look_for_program(qc);
}

void program_stop(struct queue_ctx *qc)
{
    if (qc->state != PROGRAM_NONE)
        end_connection(qc);
    stop_looking(qc);
    dt_timer_cancel(qc->c, &qc->greeting);
    free(qc->frame);
}
