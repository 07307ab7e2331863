/* SPDX-License-Identifier: MIT */
/*
 * ask.c - one line of JSON there, one line back. The other side speaks only when asked, so no byte
 * behind the answer can be there yet.
 */
#include "blk/cvd/ask.h"

#include "base/base.h"
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define ANSWER_MAX   ((size_t)64 << 20) /* a table of all disks of a pool */
#define ANSWER_FIRST ((size_t)64 << 10)

/* Beside the pool, not beside a link to it: whoever serves it may have been told another. */
char *cvd_socket(const char *path)
{
    _cleanup_free_ char *full = realpath(path, NULL);

    return xasprintf("%s.sock", full ?: path);
}

/* 1: @events; 0: try again; -errno. */
static int await(int sock, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = sock, .events = events};
    uint64_t now = dt_clock_ns();

    if (now >= deadline)
        return -ETIMEDOUT;
    if (poll(&p, 1, (int)((deadline - now) / DT_MS(1)) + 1) < 0)
        return errno == EINTR ? 0 : -errno;
    return p.revents ? 1 : 0;
}

static int send_line(int sock, const char *line, uint64_t deadline)
{
    size_t n = strlen(line);

    while (n) {
        ssize_t sent = send(sock, line, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        int ret = sent < 0 && errno != EINTR && errno != EAGAIN ? -errno : 0;

        if (ret == 0 && sent < 0)
            ret = await(sock, POLLOUT, deadline);
        if (ret < 0)
            return ret;
        if (sent > 0) {
            line += sent;
            n -= (size_t)sent;
        }
    }
    return 0;
}

/* Until its newline, which is not kept; @line is the caller's, and grows. */
static int receive_line(int sock, char **line, uint64_t deadline)
{
    size_t have = 0, room = ANSWER_FIRST;

    *line = xcalloc(1, room);
    for (;;) {
        int ret = await(sock, POLLIN, deadline);
        ssize_t got;

        if (ret < 0)
            return ret;
        got = ret ? recv(sock, *line + have, room - have, MSG_DONTWAIT) : 0;
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (got == 0 && ret)
            return -ECONNRESET;
        have += got > 0 ? (size_t)got : 0;
        if (have && (*line)[have - 1] == '\n') {
            (*line)[have - 1] = '\0';
            return 0;
        }
        if (have == ANSWER_MAX)
            return -EMSGSIZE;
        if (have == room) {
            room *= 2;
            *line = realloc(*line, room);
            CHECK(*line);
        }
    }
}

static int errno_of(int status)
{
    switch (status) {
    case 2:
        return -EINVAL;
    case 3:
        return -ENOENT;
    case 4:
        return -EBUSY;
    case 5:
        return -EACCES;
    case 6:
        return -EBADMSG;
    default:
        return -EIO;
    }
}

static int judge(const char *line, json_t **result, struct dt_error *err)
{
    json_t *answer = json_loads(line, 0, NULL);
    const char *text = json_string_value(json_object_get(answer, "error"));
    int ret = 0;

    if (!json_is_true(json_object_get(answer, "ok")))
        ret = dt_fail(err, errno_of((int)json_integer_value(json_object_get(answer, "status"))),
                      "%s", text ? text : "the process that serves the pool gave no proper answer");
    else if (result)
        *result = json_incref(json_object_get(answer, "result"));
    json_decref(answer);
    return ret;
}

int cvd_ask(int sock, json_t *request, int timeout_ms, json_t **result, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + DT_MS((uint64_t)MAX(timeout_ms, 0));
    _cleanup_free_ char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
    _cleanup_free_ char *answer = NULL;
    int ret;

    json_decref(request);
    CHECK(text);
    line = xasprintf("%s\n", text);
    ret = send_line(sock, line, deadline);
    ret = ret ?: receive_line(sock, &answer, deadline);
    if (ret < 0)
        return dt_fail(err, ret, "the process that serves the pool %s",
                       ret == -ECONNRESET || ret == -EPIPE
                           ? "died meanwhile: see whether this was done"
                           : "does not answer");
    return judge(answer, result, err);
}

int cvd_ask_disk(int sock, const char *name, bool read_only, unsigned weight, const char *owner,
                 int timeout_ms, struct dt_error *err)
{
    return cvd_ask(sock,
                   json_pack("{ss ss sb si ss}", "verb", "open", "disk", name, "read-only",
                             read_only, "weight", (int)weight, "owner", owner),
                   timeout_ms, NULL, err);
}
