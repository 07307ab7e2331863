/* SPDX-License-Identifier: MIT */
/*
 * client.c - the client's end of the control socket: finds the process that serves a device by
 * asking all that have a socket in the runtime directory. See devtap-control(7).
 */
#include "tools/tools.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#define ANSWER_SECONDS  30
#define OUTCOME_SECONDS 60
#define OUTCOME_POLL_NS 10000000

struct client {
    int sock;
    bool adopted; /* the socket is somebody else's */
    char *path;
    long pid; /* by the socket's name; 0 = another name */
    char *device;
    char *buffer; /* what was received of the reply */
    size_t have, room;
};

char *runtime_dir(void)
{
    const char *dir = getenv("DEVTAP_RUNTIME_DIR");
    const char *user = getenv("XDG_RUNTIME_DIR");

    if (dir && *dir)
        return xstrdup(dir);
    if (geteuid() != 0 && user && *user)
        return xasprintf("%s/devtap", user);
    return xstrdup("/run/devtap");
}

void client_free(struct client *client)
{
    if (!client)
        return;
    if (client->sock >= 0 && !client->adopted)
        close(client->sock);
    free(client->path);
    free(client->device);
    free(client->buffer);
    free(client);
}

struct client *client_adopt(int sock, const char *name, unsigned seconds)
{
    const struct timeval patience = {.tv_sec = seconds};
    struct client *c = xcalloc(1, sizeof(*c));

    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    c->sock = sock;
    c->adopted = true;
    c->path = xstrdup(name);
    return c;
}

const char *client_path(const struct client *client)
{
    return client->path;
}

const char *client_device(const struct client *client)
{
    return client->device;
}

/* The directory may have a longer path than a socket address holds: go by its descriptor. */
static int connect_in(int dir, const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", dir, name);

    if (sock < 0)
        return -errno;
    if (n >= (int)sizeof(addr.sun_path)) {
        close(sock);
        return -ENAMETOOLONG;
    }
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int error = errno;

        close(sock);
        return -error;
    }
    return sock;
}

/* ---- One call ------------------------------------------------------------------------------ */

static int send_all(int sock, const char *text, size_t n)
{
    while (n) {
        ssize_t sent = send(sock, text, n, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -errno;
        text += sent;
        n -= (size_t)sent;
    }
    return 0;
}

static int receive_some(struct client *c)
{
    ssize_t got;

    if (c->room - c->have < 4096) {
        if (c->room >= CONTROL_MAX_REPLY)
            return -EMSGSIZE;
        c->room = MAX(2 * c->room, (size_t)16384);
        c->buffer = realloc(c->buffer, c->room);
        CHECK(c->buffer);
    }
    do
        got = recv(c->sock, c->buffer + c->have, c->room - c->have - 1, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (got == 0)
        return -ECONNRESET;
    c->have += (size_t)got;
    return 0;
}

/* The next line, as JSON; NULL with @error set if none came. */
static json_t *receive_reply(struct client *c, int *error)
{
    char *end = NULL;
    json_t *json;
    size_t n;

    while (!c->have || !(end = memchr(c->buffer, '\n', c->have))) {
        *error = receive_some(c);
        if (*error < 0)
            return NULL;
    }
    n = (size_t)(end - c->buffer);
    json = json_loadb(c->buffer, n, 0, NULL);
    memmove(c->buffer, end + 1, c->have - n - 1);
    c->have -= n + 1;
    *error = -EPROTO;
    return json;
}

static int errno_of(int status)
{
    static const int errors[] = {
        [STATUS_DONE] = EIO,         [STATUS_FAILED] = EIO,   [STATUS_USAGE] = EINVAL,
        [STATUS_NOT_FOUND] = ENODEV, [STATUS_IN_USE] = EBUSY, [STATUS_DENIED] = EACCES,
        [STATUS_FAULT] = EBADMSG,
    };

    return status >= 0 && status < (int)ARRAY_SIZE(errors) ? -errors[status] : -EIO;
}

static int judge_reply(json_t *reply, json_t **result, struct dt_error *err)
{
    const char *text = json_string_value(json_object_get(reply, "error"));

    if (json_is_true(json_object_get(reply, "ok"))) {
        if (result)
            *result = json_incref(json_object_get(reply, "result"));
        return 0;
    }
    return dt_fail(err, errno_of((int)json_integer_value(json_object_get(reply, "status"))), "%s",
                   text ? text : "the process did not say why it refused");
}

static int fail_call(const struct client *c, int error, struct dt_error *err)
{
    return dt_fail(err, error, "%s: no answer: %s", c->path,
                   error == -ECONNRESET ? "the process ended" : strerror(-error));
}

int client_reply(struct client *c, json_t **result, struct dt_error *err)
{
    int ret;
    json_t *reply = receive_reply(c, &ret);

    if (!reply)
        return fail_call(c, ret, err);
    ret = judge_reply(reply, result, err);
    json_decref(reply);
    return ret;
}

int client_call(struct client *c, json_t *request, json_t **result, struct dt_error *err)
{
    _cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
    int ret;

    json_decref(request);
    CHECK(text);
    ret = send_all(c->sock, text, strlen(text));
    ret = ret ?: send_all(c->sock, "\n", 1);
    return ret < 0 ? fail_call(c, ret, err) : client_reply(c, result, err);
}

/* ---- Outcomes ------------------------------------------------------------------------------ */

/* What the events so far say: 1 = done, 0 = nothing yet, or why not. */
static int outcome(struct client *client, json_int_t after, const char *device, const char *done,
                   const char *refused, struct dt_error *err)
{
    json_t *events = NULL, *event;
    int ret =
        client_call(client, json_pack("{ss sI}", "verb", "events", "after", after), &events, err);
    size_t i;

    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "event")) ?: "";
        const char *of = json_string_value(json_object_get(event, "device")) ?: "";

        if (device && strcmp(of, device) != 0)
            continue;
        if (strcmp(kind, done) == 0)
            ret = 1;
        else if (strcmp(kind, refused) == 0)
            ret = dt_fail(err, -ECANCELED, "%s",
                          json_string_value(json_object_get(event, "text")) ?: "refused");
    }
    json_decref(events);
    return ret;
}

int client_outcome(struct client *client, json_int_t after, const char *device, const char *done,
                   const char *refused, struct dt_error *err)
{
    const struct timespec pause = {.tv_nsec = OUTCOME_POLL_NS};
    uint64_t until = dt_clock_ns() + DT_S(OUTCOME_SECONDS);
    int ret;

    while ((ret = outcome(client, after, device, done, refused, err)) == 0) {
        if (dt_clock_ns() > until)
            return dt_fail(err, -ETIMEDOUT, "no outcome after %u s; see devtap events",
                           OUTCOME_SECONDS);
        nanosleep(&pause, NULL);
    }
    return MIN(ret, 0);
}

/* ---- All processes ------------------------------------------------------------------------- */

static int visit(int dir, const char *dir_path, const char *name,
                 int (*fn)(struct client *client, void *arg), void *arg)
{
    int sock = connect_in(dir, name), ret;
    struct client *c;

    if (sock == -ECONNREFUSED)
        unlinkat(dir, name, 0); /* its process is gone */
    if (sock < 0)
        return sock == -EACCES || sock == -EPERM ? -EACCES : 0;
    c = xcalloc(1, sizeof(*c));
    c->sock = sock;
    c->path = xasprintf("%s/%s", dir_path, name);
    c->pid = strtol(name, NULL, 10);
    ret = fn(c, arg);
    if (ret <= 0) /* 1: fn() keeps it */
        client_free(c);
    return ret < 0 ? ret : 0;
}

/* Only PID.sock: other sockets may lie there, and a front takes whoever connects for a VM. */
static bool is_control_socket(int dir, const char *name)
{
    size_t digits = strspn(name, "0123456789");
    struct stat st;

    return digits && strcmp(name + digits, ".sock") == 0 &&
           fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode);
}

int client_each(int (*fn)(struct client *client, void *arg), void *arg, struct dt_error *err)
{
    _cleanup_free_ char *path = runtime_dir();
    DIR *dir = opendir(path);
    struct dirent *entry;
    bool denied = false;
    int ret = 0;

    if (!dir)
        return errno == ENOENT ? 0 : dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    while (ret == 0 && (entry = readdir(dir)) != NULL) {
        if (!is_control_socket(dirfd(dir), entry->d_name))
            continue;
        ret = visit(dirfd(dir), path, entry->d_name, fn, arg);
        if (ret == -EACCES) {
            denied = true;
            ret = 0;
        }
    }
    closedir(dir);
    if (ret == 0 && denied)
        return dt_fail(err, -EACCES, "%s: some processes are another user's", path);
    return ret;
}

/* ---- The one that serves a device ---------------------------------------------------------- */

struct search {
    const char *name;
    long pid; /* 0 = any */
    struct client *found;
    long other;
    struct nearest nearest;
    char best[64];
};

static bool serves(json_t *list, struct search *s)
{
    bool found = false;
    json_t *disk;
    size_t i;

    json_array_foreach(list, i, disk)
    {
        const char *name = json_string_value(json_object_get(disk, "name"));

        if (!name)
            continue;
        found |= strcmp(name, s->name) == 0;
        s->nearest.best = s->best[0] ? s->best : NULL;
        nearest_offer(&s->nearest, name);
        if (s->nearest.best == name) /* outlives the reply */
            snprintf(s->best, sizeof(s->best), "%s", name);
    }
    return found;
}

static int search_one(struct client *c, void *arg)
{
    struct search *s = arg;
    struct dt_error err;
    json_t *list = NULL;
    bool found;

    if (s->pid && c->pid != s->pid)
        return 0;
    if (client_call(c, json_pack("{ss}", "verb", "list"), &list, &err) < 0)
        return 0; /* it is ending */
    found = serves(list, s);
    json_decref(list);
    if (found && s->found) {
        s->other = c->pid;
        return 0;
    }
    if (found)
        s->found = c;
    return found;
}

int client_find(struct client **client, const char *device, struct dt_error *err)
{
    const char *slash = strchr(device, '/');
    struct search s = {.name = slash ? slash + 1 : device,
                       .pid = slash ? strtol(device, NULL, 10) : 0};
    int ret;

    if (slash && s.pid <= 0)
        return dt_fail(err, -EINVAL, "'%.64s': NAME or PID/NAME was expected", device);
    s.nearest.wanted = s.name;
    ret = client_each(search_one, &s, err);
    if (!s.found) {
        if (ret < 0)
            return ret;
        dt_fail(err, -ENODEV, "no running device is named '%.64s'", device);
        s.nearest.best = s.best[0] ? s.best : NULL;
        nearest_hint(&s.nearest, err);
        return -ENODEV;
    }
    if (s.other) {
        long first = s.found->pid;

        client_free(s.found);
        return dt_fail(err, -ENOTUNIQ, "'%s' is served by processes %ld and %ld: say %ld/%s",
                       s.name, first, s.other, first, s.name);
    }
    s.found->device = xstrdup(s.name);
    *client = s.found;
    return 0;
}
