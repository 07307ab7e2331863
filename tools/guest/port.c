/* SPDX-License-Identifier: MIT */
/*
 * port.c - the virtio-serial port: found by its name, and one question at a time.
 *
 * An answer to an earlier question, whose asker did not wait for it, may still come: answers have the
 * number of their question.
 */
#include "tools/guest/guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define CLASS      "/sys/class/virtio-ports"
#define ANSWER_MAX 16384u
#define AGAIN_MS   50 /* while nobody on the host has the other end open, poll() does not wait */

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- Finding it ---- */

/* Where there is no udev to make links in /dev/virtio-ports. */
static bool has_name(const char *port)
{
    char path[512], name[64] = "";
    FILE *file;

    snprintf(path, sizeof(path), CLASS "/%s/name", port);
    file = fopen(path, "re");
    if (!file)
        return false;
    if (fscanf(file, "%63s", name) != 1)
        name[0] = '\0';
    fclose(file);
    return strcmp(name, PORT_NAME) == 0;
}

static bool find(char *path, size_t size)
{
    struct dirent *entry;
    bool found = false;
    DIR *dir = opendir(CLASS);

    while (dir && !found && (entry = readdir(dir))) {
        found = has_name(entry->d_name);
        snprintf(path, size, "/dev/%s", entry->d_name);
    }
    if (dir)
        closedir(dir);
    return found;
}

enum guest_status port_open(int *fd, const char *path)
{
    char found[512];

    if (!path && !find(found, sizeof(found)))
        return complain(GUEST_NO_PORT, "this VM has no virtio-serial port named " PORT_NAME);
    path = path ?: found;
    *fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (*fd >= 0)
        return GUEST_DONE;
    if (errno == EBUSY)
        return complain(GUEST_PORT_USED, "%s is in use", path);
    return complain(errno == EACCES ? GUEST_DENIED : GUEST_NO_PORT, "%s: %s", path,
                    strerror(errno));
}

/* ---- Asking ---- */

static bool wait_until(int fd, short events, double end)
{
    struct pollfd p = {.fd = fd, .events = events};
    double left = end - seconds();

    if (left <= 0)
        return false;
    poll(&p, 1, (int)(left * 1000) + 1);
    if (!(p.revents & events))
        poll(NULL, 0, AGAIN_MS);
    return true;
}

/* A newline first ends what an asker who was killed may have left half written. */
static bool send_line(int fd, const char *text, double end)
{
    size_t n = strlen(text) + 2, done = 0;
    char *line = malloc(n + 1);

    if (!line)
        return false;
    snprintf(line, n + 1, "\n%s\n", text);
    while (done < n) {
        ssize_t sent = write(fd, line + done, n - done);

        if (sent > 0)
            done += (size_t)sent;
        else if (!wait_until(fd, POLLOUT, end))
            break;
    }
    free(line);
    return done == n;
}

static json_t *answer_in(const char *line, size_t n, json_int_t id)
{
    json_t *json = json_loadb(line, n, 0, NULL);

    if (json && json_integer_value(json_object_get(json, "id")) == id)
        return json;
    json_decref(json);
    return NULL;
}

/* Other lines are thrown away. */
static json_t *receive(int fd, json_int_t id, double end)
{
    char *input = malloc(ANSWER_MAX);
    size_t filled = 0;
    json_t *json = NULL;

    while (input && !json) {
        ssize_t n = read(fd, input + filled, ANSWER_MAX - filled);
        char *from = input, *newline;

        if (n <= 0 && !wait_until(fd, POLLIN, end))
            break;
        filled += n > 0 ? (size_t)n : 0;
        while (!json && (newline = memchr(from, '\n', (size_t)(input + filled - from)))) {
            json = answer_in(from, (size_t)(newline - from), id);
            from = newline + 1;
        }
        filled = (size_t)(input + filled - from);
        memmove(input, from, filled);
        if (filled == ANSWER_MAX)
            filled = 0;
    }
    free(input);
    return json;
}

enum guest_status port_ask(int fd, json_t *request, unsigned timeout_s, json_t **answer)
{
    double end = seconds() + timeout_s;
    const char *error;
    unsigned id = 0;
    char *text;
    bool sent;

    if (getrandom(&id, sizeof(id), GRND_NONBLOCK) != sizeof(id))
        id = (unsigned)getpid() ^ (unsigned)time(NULL);
    json_object_set_new(request, "id", json_integer(id));
    text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    sent = text && send_line(fd, text, end);
    free(text);
    *answer = sent ? receive(fd, id, end) : NULL;
    if (!*answer)
        return complain(GUEST_NO_ANSWER, "the host does not answer: is 'cvd guest' running there?");
    error = json_string_value(json_object_get(*answer, "error"));
    if (!error)
        return GUEST_DONE;
    complain(GUEST_FAILED, "%s", error);
    json_decref(*answer);
    *answer = NULL;
    return GUEST_FAILED;
}
