/* SPDX-License-Identifier: MIT */
/*
 * qmp.c - one JSON object a line, in both directions: QEMU's docs/interop/qmp-spec.rst. The socket's stream is
 * read by jansson, which takes objects apart by itself. QEMU is believed in what it says of itself; what it says
 * is judged by whoever uses it.
 */
#include "tools/attach/qmp.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define ANSWER_NS DT_S(20)

struct qmp {
    int sock;
    FILE *in;
    struct ucred peer;
    char *deleted; /* the device that went last */
};

static json_t *read_one(struct qmp *q)
{
    return json_loadf(q->in, JSON_DISABLE_EOF_CHECK, NULL);
}

static void note_event(struct qmp *q, json_t *message)
{
    const char *event = json_string_value(json_object_get(message, "event"));
    const char *device =
        json_string_value(json_object_get(json_object_get(message, "data"), "device"));

    if (!event || strcmp(event, "DEVICE_DELETED") != 0 || !device)
        return;
    free(q->deleted);
    q->deleted = xstrdup(device);
}

static void set_patience(int sock, uint64_t ns)
{
    const struct timeval patience = {.tv_sec = (time_t)(ns / DT_S(1)),
                                     .tv_usec = (suseconds_t)(ns % DT_S(1) / DT_US(1)) + 1};

    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

/* By reading, not by a look at the socket: the event may be in the stream's buffer already. */
int qmp_await_deleted(struct qmp *q, const char *id, uint64_t timeout)
{
    uint64_t end = dt_clock_ns() + timeout, now;
    json_t *message = NULL;

    while ((!q->deleted || strcmp(q->deleted, id) != 0) && (now = dt_clock_ns()) < end) {
        set_patience(q->sock, end - now);
        message = read_one(q);
        if (!message)
            break;
        note_event(q, message);
        json_decref(message);
    }
    clearerr(q->in);
    set_patience(q->sock, ANSWER_NS);
    return q->deleted && strcmp(q->deleted, id) == 0 ? 0 : -ETIMEDOUT;
}

int qmp_call(struct qmp *q, const char *command, json_t *arguments, json_t **result,
             struct dt_error *err)
{
    json_t *request = json_pack("{ss}", "execute", command), *reply, *failure;
    _cleanup_free_ char *text = NULL, *line = NULL;
    int ret = 0;

    if (arguments)
        json_object_set_new(request, "arguments", arguments);
    text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    line = xasprintf("%s\n", text);
    if (send(q->sock, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line))
        return dt_fail(err, -EPIPE, "QMP %s: cannot be sent", command);
    do {
        reply = read_one(q);
        if (!reply)
            return dt_fail(err, -ETIMEDOUT, "QMP %s: no answer", command);
        if (json_object_get(reply, "return") || json_object_get(reply, "error"))
            break;
        note_event(q, reply);
        json_decref(reply);
    } while (true);
    failure = json_object_get(reply, "error");
    if (failure)
        ret = dt_fail(err, -EREMOTEIO, "QMP %s: %s", command,
                      json_string_value(json_object_get(failure, "desc")) ?: "refused");
    else if (result)
        *result = json_incref(json_object_get(reply, "return"));
    json_decref(reply);
    return ret;
}

int qmp_open(struct qmp **out, const char *path, struct dt_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(struct ucred);
    struct qmp *q;
    json_t *greeting;
    int ret;

    if (strlen(path) >= sizeof(addr.sun_path))
        return dt_fail(err, -ENAMETOOLONG, "%s: too long for a socket's path", path);
    strcpy(addr.sun_path, path);
    q = xcalloc(1, sizeof(*q));
    q->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    set_patience(q->sock, ANSWER_NS);
    if (connect(q->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        getsockopt(q->sock, SOL_SOCKET, SO_PEERCRED, &q->peer, &len) < 0) {
        ret = dt_fail(err, -errno, "%s: %s", path, strerror(errno));
        qmp_close(q);
        return ret;
    }
    q->in = fdopen(fcntl(q->sock, F_DUPFD_CLOEXEC, 0), "r");
    CHECK(q->in);
    greeting = read_one(q);
    ret = json_object_get(greeting, "QMP")
              ? qmp_call(q, "qmp_capabilities", NULL, NULL, err)
              : dt_fail(err, -EPROTO,
                        "%s: nobody greets as QEMU does (QMP serves one "
                        "client at a time)",
                        path);
    json_decref(greeting);
    if (ret < 0)
        qmp_close(q);
    else
        *out = q;
    return ret;
}

const struct ucred *qmp_peer(const struct qmp *q)
{
    return &q->peer;
}

void qmp_close(struct qmp *q)
{
    if (!q)
        return;
    if (q->in)
        fclose(q->in);
    close(q->sock);
    free(q->deleted);
    free(q);
}
