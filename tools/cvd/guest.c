/* SPDX-License-Identifier: MIT */
/*
 * guest.c - cvd guest: what a VM asks for about its own disks, through a virtio-serial port.
 *
 * Theory of operation: the VMM listens on the port's socket; we are its client, and connect again
 * whenever it goes away. Each line of the VM's is judged (guest-request.c), and becomes a command to the
 * process that serves the pool. Nothing is kept between two lines, so this can die at any moment.
 *
 * The VM may be hostile. It can name nothing but new snapshots of the disks that it was given, has
 * one request at a time, and is limited in how many: a snapshot costs metadata, and a journal's write
 * that all disks of the pool wait for.
 */
#include "tools/cvd/cvd.h"
#include "tools/cvd/guest-request.h"

#include <sys/socket.h>
#include <sys/un.h>

#define ANSWER_MS  60000
#define AT_ONCE    6u /* requests that may come together, if there were few before */
#define AGAIN_US   500000
#define INPUT_SIZE 4096u

/* @disks: as they were given, the first in @target; of one pool. */
struct port {
    struct target *target;
    char **disks;
    const char *path;
    uint64_t every, next; /* ns between requests on average; when the next would be due */
    bool json; /* tell what was asked and answered, a line for each, on standard output */
    int fd;
    char input[INPUT_SIZE];
    size_t filled;
    bool skipping; /* the rest of a line that is too long */
};

/* ---- Answers ---- */

/* A newline first: half a line may lie in the port from an earlier connection. */
static int answer(struct port *p, json_t *json)
{
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);
    _cleanup_free_ char *line = xasprintf("\n%s\n", text);
    size_t n = strlen(line), done = 0;

    json_decref(json);
    while (done < n) {
        ssize_t sent = send(p->fd, line + done, n - done, MSG_NOSIGNAL);

        if (sent < 0 && errno != EINTR)
            return -errno;
        done += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* As it is answered, with what was asked, if that is known. */
static void tell(const struct port *p, const char *what, json_t *json)
{
    json_t *line;

    if (!p->json)
        return;
    line = json_pack("{ss ss*}", "socket", p->path, "do", what);
    json_object_update(line, json);
    print_json_line(line);
    fflush(stdout);
}

static int answer_error(struct port *p, json_int_t id, const char *text)
{
    json_t *json = json_pack("{sI ss}", "id", id, "error", text);

    fprintf(stderr, "cvd: %s: refused: %s\n", p->path, text);
    tell(p, NULL, json);
    return answer(p, json);
}

/* ---- Requests ---- */

static json_t *words_for(const struct port *p, const struct guest_request *r)
{
    json_t *words;

    if (r->verb == GUEST_SYNC)
        return json_pack("[s, s]", "sync", p->target->path);
    words = json_pack("[s]", "snap");
    for (char **disk = p->disks; *disk; disk++)
        json_array_append_new(words, json_string(*disk));
    if (r->name)
        json_array_append_new(words, json_sprintf("--name=%s", r->name));
    json_array_append_new(words, json_string("--json"));
    return words;
}

/* With a connection of its own, as any command. */
static int carry_out(struct port *p, const struct guest_request *r, json_t **result,
                     struct dt_error *err)
{
    const char *pool = p->target->path;
    int sock = target_served_by(pool, err), ret;

    if (sock <= 0)
        return sock ?: dt_fail(err, -ENOENT, "nobody serves the pool");
    ret = cvd_ask(sock,
                  json_pack("{ss ss so}", "verb", "run", "pool", pool, "words", words_for(p, r)),
                  ANSWER_MS, result, err);
    close(sock);
    return ret;
}

/* So often on average, and AT_ONCE at once (the generic cell rate algorithm of ATM, I.371). */
static bool is_allowed(struct port *p)
{
    uint64_t now = dt_clock_ns(), saved = (AT_ONCE - 1) * p->every;

    if (p->next > now)
        return false;
    p->next = MAX(p->next, now > saved ? now - saved : 0) + p->every;
    return true;
}

static int take_request(struct port *p, const struct guest_request *r)
{
    json_t *result = NULL, *done;
    struct dt_error err = {""};
    const char *output;

    if (!is_allowed(p))
        return answer_error(p, r->id, "too many requests: try later");
    if (carry_out(p, r, &result, &err) < 0)
        return answer_error(p, r->id, err.text);
    done = json_pack("{sI sb}", "id", r->id, "done", 1);
    output = json_string_value(json_object_get(result, "output"));
    if (r->verb == GUEST_SNAPSHOT)
        json_object_set_new(done, "snapshots", json_loads(output ?: "[]", 0, NULL) ?: json_array());
    json_decref(result);
    fprintf(stderr, "cvd: %s: %s\n", p->path, r->verb == GUEST_SYNC ? "sync" : "snapshot");
    tell(p, r->verb == GUEST_SYNC ? "sync" : "snapshot", done);
    return answer(p, done);
}

static int take_line(struct port *p, const char *line, size_t n)
{
    struct guest_request r;
    struct dt_error err;
    int ret;

    if (n == 0)
        return 0;
    if (n > GUEST_REQUEST_MAX)
        return answer_error(p, 0, "a request has at most 1024 bytes");
    if (guest_request_parse(&r, line, n, &err) < 0)
        return answer_error(p, r.id, err.text);
    ret = take_request(p, &r);
    guest_request_free(&r);
    return ret;
}

/* Whole lines are taken out of the input; one that can have no end any more is answered and skipped. */
static int take_input(struct port *p)
{
    char *from = p->input, *end = p->input + p->filled, *newline;
    int ret = 0;

    while (ret == 0 && (newline = memchr(from, '\n', (size_t)(end - from)))) {
        if (!p->skipping)
            ret = take_line(p, from, (size_t)(newline - from));
        p->skipping = false;
        from = newline + 1;
    }
    p->filled = (size_t)(end - from);
    memmove(p->input, from, p->filled);
    if (p->filled > GUEST_REQUEST_MAX) {
        if (!p->skipping && ret == 0)
            ret = take_line(p, p->input, p->filled);
        p->skipping = true;
        p->filled = 0;
    }
    return ret;
}

/* ---- The port ---- */

static int join(const struct port *p)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(at.sun_path, sizeof(at.sun_path), "%s", p->path);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&at, sizeof(at)) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static void serve(struct port *p)
{
    int ret = 0;

    p->filled = 0;
    p->skipping = false;
    while (ret == 0) {
        ssize_t n = read(p->fd, p->input + p->filled, sizeof(p->input) - p->filled);

        if (n == 0 || (n < 0 && errno != EINTR))
            return;
        p->filled += n > 0 ? (size_t)n : 0;
        ret = take_input(p);
    }
}

static int check_disks(struct port *p, struct dt_error *err)
{
    for (char **disk = p->disks; *disk; disk++) {
        _cleanup_free_ char *path = NULL, *name = NULL;
        int ret = target_split(*disk, &path, &name, err);

        if (ret < 0)
            return ret;
        if (strchr(name, '@'))
            return dt_fail(err, -EINVAL, "%s is no disk that a VM writes to", *disk);
        if (strcmp(path, p->target->path))
            return dt_fail(err, -EINVAL, "%s and %s are two pools", path, p->target->path);
    }
    return 0;
}

int cmd_guest(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err)
{
    struct port p = {
        .target = t, .disks = argv, .path = o->socket, .every = o->every, .json = o->json};
    bool said = false;
    int ret;

    if (!o->socket || strlen(o->socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return dt_fail(err, -EINVAL, "--socket is missing, or longer than a socket's path may be");
    ret = check_disks(&p, err);
    if (ret < 0)
        return ret;
    for (;; usleep(AGAIN_US)) {
        p.fd = join(&p);
        if (p.fd < 0 && !said)
            fprintf(stderr, "cvd: %s: %s: waiting for it\n", p.path, strerror(-p.fd));
        said = p.fd < 0;
        if (p.fd < 0)
            continue;
        fprintf(stderr, "cvd: answering %s\n", p.path);
        serve(&p);
        close(p.fd);
    }
}
