/* SPDX-License-Identifier: MIT */
/*
 * queue.c - a program that judges packets (<devtap/queue.h>): a channel to the layer `queue`, and the table of what
 * waits for a verdict.
 */
#include "channel/client.h"
#include <devtap/queue.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define EVENTS   32u
#define RETRY_MS 20

struct dt_queue {
    struct dt_channel *ch;
    struct dt_queue_packet *waiting; /* by id; what has a verdict is stale */
    char *description;
};

/* ---- Opening ---- */

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, ret;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    ret = -errno;
    close(fd);
    return ret;
}

static bool may_come(int error)
{
    return error == -ENOENT || error == -ECONNREFUSED || error == -EAGAIN;
}

/* Milliseconds until @until, for poll(2). */
static int left_ms(uint64_t until)
{
    uint64_t now = dt_clock_ns();

    if (until == UINT64_MAX)
        return -1;
    return now >= until ? 0 : (int)MIN((until - now) / DT_MS(1) + 1, (uint64_t)INT32_MAX);
}

static int connect_in_time(const char *path, uint64_t until, struct dt_error *err)
{
    int fd;

    while ((fd = connect_to(path)) < 0 && may_come(fd) && left_ms(until) != 0)
        nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
    return fd < 0 ? dt_fail(err, fd, "%s: %s", path, strerror(-fd)) : fd;
}

/* One event of the conversation: 1 = the rings are there. */
static int take_control(struct dt_queue *q, const struct dt_channel_event *e)
{
    if (e->fd >= 0)
        close(e->fd);
    if (e->type == DT_CHANNEL_END)
        return e->error ? e->error : -EPIPE;
    if (e->type != DT_CHANNEL_CONTROL)
        return -EPROTO;
    if (e->control == DT_CHANNEL_INIT && !q->description)
        q->description = xstrdup(e->text);
    return e->control == DT_CHANNEL_START;
}

static int await_rings(struct dt_queue *q, const char *path, uint64_t until, struct dt_error *err)
{
    int ret = 0;

    while (ret == 0 && (left_ms(until) != 0 || until == UINT64_MAX)) {
        struct dt_channel_event e;

        dt_channel_wait(q->ch, left_ms(until));
        if (dt_channel_poll(q->ch, &e, 1))
            ret = take_control(q, &e);
    }
    if (ret == 0)
        return dt_fail(err, -ETIMEDOUT, "%s: another program has it", path);
    return ret < 0 ? dt_fail(err, ret, "%s: %s", path, strerror(-ret)) : 0;
}

int dt_queue_open(struct dt_queue **out, const char *path, int timeout_ms, struct dt_error *err)
{
    uint64_t until = timeout_ms < 0 ? UINT64_MAX : dt_clock_ns() + DT_MS((uint64_t)timeout_ms);
    int fd = connect_in_time(path, until, err), ret;
    struct dt_queue *q;
    char hello[64];

    if (fd < 0)
        return fd;
    q = xcalloc(1, sizeof(*q));
    snprintf(hello, sizeof(hello), "{\"class\":\"net\",\"pid\":%d}", (int)getpid());
    ret = dt_channel_open(&q->ch, fd, hello, err);
    if (ret < 0)
        close(fd);
    ret = ret ?: await_rings(q, path, until, err);
    if (ret < 0) {
        dt_queue_close(q);
        return ret;
    }
    q->waiting = xcalloc(dt_channel_slots(q->ch), sizeof(*q->waiting));
    *out = q;
    return 0;
}

void dt_queue_close(struct dt_queue *q)
{
    if (!q)
        return;
    dt_channel_free(q->ch);
    free(q->waiting);
    free(q->description);
    free(q);
}

const char *dt_queue_description(const struct dt_queue *q)
{
    return q->description ? q->description : "{}";
}

/* ---- Reading ---- */

static void take_packet(struct dt_queue *q, const struct dt_channel_event *e,
                        struct dt_queue_packet *p)
{
    *p = (struct dt_queue_packet){.id = e->id,
                                  .transmit = e->op == 0,
                                  .needs = e->flags,
                                  .segment = e->segment,
                                  .queue = e->queue,
                                  .length = e->length,
                                  .captured = e->bytes,
                                  .data = e->data,
                                  .when = e->when};
    dt_channel_packet(q->ch, e->id, &p->room);
    q->waiting[e->id] = *p;
}

/* What is there now. */
static int take_some(struct dt_queue *q, struct dt_queue_packet *packets, unsigned max)
{
    struct dt_channel_event events[EVENTS];
    unsigned n = dt_channel_poll(q->ch, events, MIN(max, EVENTS)), taken = 0;

    for (unsigned i = 0; i < n; i++) {
        int ret = 0;

        if (events[i].type == DT_CHANNEL_PACKET)
            take_packet(q, &events[i], &packets[taken++]);
        else
            ret = take_control(q, &events[i]);
        if (ret < 0 && taken == 0)
            return ret;
    }
    return (int)taken;
}

int dt_queue_read(struct dt_queue *q, struct dt_queue_packet *packets, unsigned max, int timeout_ms)
{
    uint64_t until = timeout_ms < 0 ? UINT64_MAX : dt_clock_ns() + DT_MS((uint64_t)timeout_ms);

    dt_channel_flush(q->ch);
    for (int ms = 1;;) {
        int n = take_some(q, packets, max);

        if (n != 0)
            return n;
        if (dt_channel_ended(q->ch))
            return -EPIPE;
        if (ms == 0)
            return 0;
        ms = left_ms(until);
        dt_channel_wait(q->ch, ms); /* also with 0: it looks for the end of the conversation */
    }
}

int dt_queue_get_packet(struct dt_queue *q, uint32_t id, struct dt_queue_packet *packet)
{
    if (!dt_channel_packet(q->ch, id, NULL))
        return -ENOENT;
    *packet = q->waiting[id];
    return 0;
}

/* ---- Deciding ---- */

int dt_queue_set_verdict(struct dt_queue *q, uint32_t id, enum dt_queue_verdict verdict,
                         const void *data, uint32_t length)
{
    struct dt_channel_verdict v = {
        .id = id, .decision = verdict == DT_QUEUE_DROP ? DT_CHANNEL_DROP : DT_CHANNEL_PASS};
    const struct dt_queue_packet *p;
    uint32_t room;
    void *to = dt_channel_packet(q->ch, id, &room);

    if (!to)
        return -ENOENT;
    p = &q->waiting[id];
    v.way = !p->transmit;
    if (data && verdict == DT_QUEUE_ACCEPT) {
        if (length > room)
            return -EMSGSIZE;
        if (data != to)
            memcpy(to, data, length);
        v.decision = DT_CHANNEL_CHANGED;
        v.length = length;
        v.needs = p->needs;
        v.segment = p->segment;
    }
    return dt_channel_verdict(q->ch, &v);
}

void dt_queue_flush(struct dt_queue *q)
{
    dt_channel_flush(q->ch);
}

int dt_queue_event(struct dt_queue *q, const char *event, const char *text)
{
    return dt_channel_event(q->ch, event, text);
}
