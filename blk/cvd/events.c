/* SPDX-License-Identifier: MIT */
/*
 * events.c - a connection on which the pool's process tells what concerns a disk, one JSON object on a line.
 *
 * It is a stranger as any rear: what it says is shown to people, so it has to be one line of printable text.
 */
#include "blk/cvd/events.h"

#include "base/base.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/socket.h>

/* Letters of other scripts are UTF-8, which jansson has checked. */
static void copy_printable(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
    for (; *to; to++)
        if ((unsigned char)*to < ' ' || *to == 0x7f)
            *to = '?';
}

static bool is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz-");

    return n && !text[n] && n < sizeof(((struct cvd_event *)0)->event);
}

int cvd_event_parse(struct cvd_event *e, const char *line, size_t n)
{
    json_t *json = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    const char *event = json_string_value(json_object_get(json, "event"));
    const char *text = json_string_value(json_object_get(json, "text"));
    json_int_t missed = json_integer_value(json_object_get(json, "missed"));
    int ret = -EINVAL;

    if (json_is_true(json_object_get(json, "ok"))) {
        ret = 0;
    } else if (event && text && is_name(event) && missed >= 0) {
        copy_printable(e->event, sizeof(e->event), event);
        copy_printable(e->text, sizeof(e->text), text);
        e->missed = (uint64_t)missed;
        ret = 1;
    }
    json_decref(json);
    return ret;
}

int cvd_events_ask(struct cvd_events *e, int sock, const char *disk)
{
    json_t *request = json_pack("{ss ss}", "verb", "events", "disk", disk);
    _cleanup_free_ char *text = json_dumps(request, JSON_COMPACT), *line = NULL;

    json_decref(request);
    CHECK(text);
    line = xasprintf("%s\n", text);
    e->have = 0;
    return send(sock, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(line)
               ? 0
               : -EIO;
}

static int take_line(struct dt_layer *layer, const char *line, size_t n)
{
    struct cvd_event e;
    int ret = cvd_event_parse(&e, line, n);

    if (ret <= 0)
        return ret;
    if (e.missed)
        dt_layer_event(layer, e.event, "%s (%llu more were not told)", e.text,
                       (unsigned long long)e.missed);
    else
        dt_layer_event(layer, e.event, "%s", e.text);
    return 0;
}

int cvd_events_read(struct cvd_events *e, int sock, struct dt_layer *layer)
{
    ssize_t got = recv(sock, e->line + e->have, sizeof(e->line) - e->have, MSG_DONTWAIT);
    char *end;

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (got == 0)
        return -ECONNRESET;
    e->have += (size_t)got;
    while ((end = memchr(e->line, '\n', e->have))) {
        size_t n = (size_t)(end - e->line);
        int ret = take_line(layer, e->line, n);

        if (ret < 0)
            return ret;
        e->have -= n + 1;
        memmove(e->line, end + 1, e->have);
    }
    return e->have < sizeof(e->line) ? 0 : -EMSGSIZE;
}
