/* SPDX-License-Identifier: MIT */
/* client-control.c - the conversation beside a channel's rings, on the extension's side: orders, answers, events. */
#include "channel/client.h"

#include <stdio.h>
#include <sys/mman.h>

/* ---- From the worker ---- */

static void take_memory(struct dt_channel *ch)
{
    struct control_frame *f = &ch->frame;
    int ret = memory_take(ch->memory, f);

    control_close_fds(f);
    if (ret < 0)
        dt_channel_answer_error(ch, f->seq, -ret, "the guest's memory cannot be mapped");
    else
        dt_channel_answer(ch, f->seq, NULL);
}

static unsigned control_event(struct dt_channel *ch, struct dt_channel_event *e)
{
    struct control_frame *f = &ch->frame;

    *e = (struct dt_channel_event){.type = DT_CHANNEL_CONTROL,
                                   .control = f->type,
                                   .seq = f->seq,
                                   .text = f->payload,
                                   .fd = -1};
    if (f->type == CONTROL_START) {
        int ret = client_attach(ch); /* and then the program hears of it */

        control_close_fds(f);
        if (ret < 0)
            client_end(ch, ret);
        return ret == 0;
    }
    if (f->type < CONTROL_INIT || f->type > CONTROL_LOAD) {
        control_close_fds(f);
        client_end(ch, -EPROTO);
        return 0;
    }
    if (f->nfds)
        e->fd = TAKE_FD(f->fds[0]);
    control_close_fds(f);
    return 1;
}

unsigned dt_channel_poll_control(struct dt_channel *ch, struct dt_channel_event *event)
{
    int ret;

    CHECK_MAGIC(ch, CLIENT_MAGIC);
    if (ch->ended || ch->sock < 0)
        return 0;
    while ((ret = control_recv(ch->sock, &ch->frame)) == 1 && ch->frame.type == CONTROL_MEMORY)
        take_memory(ch);
    if (ret < 0)
        client_end(ch, ret == -EPIPE ? 0 : ret);
    return ret == 1 ? control_event(ch, event) : 0;
}

/* ---- To the worker ---- */

static int send_all(struct dt_channel *ch, uint32_t type, uint32_t seq, const char *text, int fd)
{
    int ret = control_send(ch->sock, type, seq, text, &fd, fd >= 0);

    if (ret == -EPIPE)
        client_end(ch, 0);
    return ret;
}

int dt_channel_answer(struct dt_channel *ch, uint32_t seq, const char *json)
{
    return send_all(ch, CONTROL_ANSWER, seq, json ? json : "{}", -1);
}

/* Quotes @text as JSON, without what JSON strings may not hold; cut at the buffer's end. */
static void quote(char *to, size_t size, const char *text)
{
    size_t n = 0;

    to[n++] = '"';
    for (; *text && n < size - 4; text++) {
        if ((unsigned char)*text < 0x20)
            continue;
        if (*text == '"' || *text == '\\')
            to[n++] = '\\';
        to[n++] = *text;
    }
    to[n++] = '"';
    to[n] = '\0';
}

int dt_channel_answer_error(struct dt_channel *ch, uint32_t seq, int code, const char *text)
{
    char quoted[1024], json[1100];

    quote(quoted, sizeof(quoted), text ? text : strerror(code));
    snprintf(json, sizeof(json), "{\"code\":%d,\"error\":%s}", code < 0 ? -code : code, quoted);
    return send_all(ch, CONTROL_ANSWER, seq, json, -1);
}

int dt_channel_answer_state(struct dt_channel *ch, uint32_t seq, const void *state, size_t size)
{
    _cleanup_close_ int fd = memfd_create("devtap-state", MFD_CLOEXEC);

    if (fd < 0 || (size && pwrite(fd, state, size, 0) != (ssize_t)size))
        return dt_channel_answer_error(ch, seq, errno, "cannot pass the state on");
    return send_all(ch, CONTROL_ANSWER, seq, "{}", fd);
}

int dt_channel_event(struct dt_channel *ch, const char *event, const char *text)
{
    char name[64], quoted[1024], json[1200];

    quote(name, sizeof(name), event);
    quote(quoted, sizeof(quoted), text);
    snprintf(json, sizeof(json), "{\"event\":%s,\"text\":%s}", name, quoted);
    return send_all(ch, CONTROL_EVENT, 0, json, -1);
}
