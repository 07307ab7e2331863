/* SPDX-License-Identifier: MIT */
/*
 * ports.c - ports that come and go while the switch runs, and parameters of their layers that change.
 *
 * Theory of operation: the switch has given up its rights and can make no socket. So it asks the process that would start it
 * again, which judges the port's words anew (the one who asks may have been taken over by a guest), makes the socket
 * in the switch's directory and hands it over, and keeps the port in mind for the next one that it starts. Likewise it
 * keeps what was set, in the order in which it was.
 */
#include "tools/switch/switch.h"

#include "base/packet.h"

#include <poll.h>
#include <sys/socket.h>

#define PATIENCE_MS 5000
#define MAX_VALUES  1024u /* that are kept: more are no person's */

/* @words, each with its zero, for one may be empty: those of a port; the name alone of one that goes; port, layer, parameter and
 * value. @number: of a question, and of its answer. @ret: of an answer, with an error's text. MESSAGE_READY has none. */
struct message {
    enum { MESSAGE_ADD, MESSAGE_REMOVE, MESSAGE_SET, MESSAGE_READY, MESSAGE_ANSWER } what;
    int ret;
    unsigned number, words;
    char text[2048];
};

/* ---- The process that is not confined ---- */

static int make_socket(const struct switch_config *c, const char *name, struct dt_error *err)
{
    _cleanup_free_ char *path = switch_socket(c, name);
    int sock = listen_at(path, -1, -1, SOCKET_MODE, 0, err);

    if (sock >= 0 && listen(sock, 1) < 0) {
        dt_fail(err, -errno, "%s: cannot listen: %s", path, strerror(errno));
        close(TAKE_FD(sock));
    }
    return sock;
}

/* false: they do not end within the message. */
static bool split(const struct message *m, const char **words)
{
    const char *at = m->text, *end = m->text + sizeof(m->text);

    if (m->words > SWITCH_WORDS)
        return false;
    for (unsigned i = 0; i < m->words; i++) {
        words[i] = at;
        at = memchr(at, 0, (size_t)(end - at));
        if (!at++)
            return false;
    }
    words[m->words] = NULL;
    return true;
}

static int answer_add(struct switch_config *c, const struct message *m, struct dt_error *err)
{
    const char *words[SWITCH_WORDS + 1];
    int index, sock;

    if (!split(m, words))
        return dt_fail(err, -E2BIG, "too many words");
    index = switch_add(c, words, err);
    if (index < 0)
        return index;
    sock = make_socket(c, c->ports[index].name, err);
    if (sock < 0)
        switch_drop(c, (unsigned)index);
    return sock;
}

static int answer_remove(struct switch_config *c, const struct message *m, struct dt_error *err)
{
    const char *words[SWITCH_WORDS + 1];
    int index = split(m, words) && words[0] ? switch_index(c, words[0]) : -EINVAL;
    _cleanup_free_ char *path = NULL;

    if (index < 0 || c->ports[index].uplink)
        return dt_fail(err, -ENODEV, "there is no such port");
    path = switch_socket(c, words[0]);
    unlink(path);
    switch_drop(c, (unsigned)index);
    return -1; /* there is nothing to hand over */
}

/* Whoever asks has judged the value, and its successor will again. */
static int answer_set(struct switch_config *c, const struct message *m, struct dt_error *err)
{
    const char *words[SWITCH_WORDS + 1];
    json_t *entry;
    _cleanup_free_ char *key = NULL;

    if (!split(m, words) || !words[0] || !words[1] || !words[2] || !words[3] ||
        switch_index(c, words[0]) < 0)
        return dt_fail(err, -EINVAL, "this cannot be kept for the next process of the switch");
    entry = json_pack("[ssss]", words[0], words[1], words[2], words[3]);
    if (!entry)
        return dt_fail(err, -EINVAL, "a word is not UTF-8");
    key = xasprintf("%s %s %s", words[0], words[1], words[2]);
    json_object_del(c->values, key);
    if (json_object_size(c->values) < MAX_VALUES)
        json_object_set_new(c->values, key, entry);
    else
        json_decref(entry);
    return -1;
}

static int answer(struct switch_config *c, const struct message *m, struct dt_error *err)
{
    switch (m->what) {
    case MESSAGE_ADD:
        return answer_add(c, m, err);
    case MESSAGE_REMOVE:
        return answer_remove(c, m, err);
    case MESSAGE_SET:
        return answer_set(c, m, err);
    default:
        return dt_fail(err, -EINVAL, "what is asked for is not known");
    }
}

static void send_answer(int sock, struct switch_config *config, const struct message *m)
{
    struct dt_error err = {""};
    int fd = answer(config, m, &err);
    struct message reply = {
        .what = MESSAGE_ANSWER, .number = m->number, .ret = err.text[0] ? fd : 0};

    snprintf(reply.text, sizeof(reply.text), "%s", err.text);
    if (packet_send(sock, &reply, sizeof(reply), MAX(fd, -1)) < 0)
        log_warning("the switch does not take an answer");
    if (fd >= 0)
        close(fd);
}

bool switch_ports_answer(int sock, struct switch_config *config)
{
    struct switch_try try = {.pidfd = -1};
    struct message m;
    int fd, got;

    for (;;) {
        struct pollfd p[] = {{.fd = sock, .events = POLLIN}, {.fd = try.pidfd, .events = POLLIN}};

        poll(p, ARRAY_SIZE(p), switch_try_ms(&try, config));
        if (switch_try_step(&try, config))
            return true;
        got = packet_receive(sock, &m, sizeof(m), &fd);
        if (got < 0)
            break;
        if (got == 0)
            continue;
        if (fd >= 0)
            close(fd);
        if (m.what == MESSAGE_READY)
            switch_try_serving(&try, config);
        else
            send_answer(sock, config, &m);
    }
    switch_try_end(&try);
    return false;
}

/* ---- The switch ---- */

void switch_ports_ready(const struct switch_ports *s)
{
    const struct message m = {.what = MESSAGE_READY};

    if (packet_send(s->parent, &m, sizeof(m), -1) < 0)
        log_warning("uplinks that are away are not tried again");
}

/* Return: 0 with the descriptor that came, -1 where none did; or -errno. */
static int ask(struct switch_ports *s, struct message *question, int *fd, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(PATIENCE_MS), now;
    struct pollfd p = {.fd = s->parent, .events = POLLIN};
    struct message answer;
    int ret;

    *fd = -1;
    question->number = ++s->asked;
    ret = packet_send(s->parent, question, sizeof(*question), -1);
    while (ret == 0 && (now = dt_clock_ns()) < deadline) {
        poll(&p, 1, (int)((deadline - now) / DT_MS(1)) + 1);
        ret = packet_receive(s->parent, &answer, sizeof(answer), fd);
        if (ret <= 0 || answer.number == question->number)
            continue;
        if (*fd >= 0) /* it comes too late for its question */
            close(TAKE_FD(*fd));
        ret = 0;
    }
    if (ret <= 0)
        return dt_fail(err, ret ?: -ETIMEDOUT,
                       "the process that keeps the sockets does not answer");
    answer.text[sizeof(answer.text) - 1] = '\0';
    return answer.ret < 0 ? dt_fail(err, answer.ret, "%s", answer.text) : 0;
}

static int put_words(struct message *m, const char *const *words, struct dt_error *err)
{
    char *at = m->text;

    for (; *words; words++) {
        size_t n = strlen(*words) + 1;

        if (n >= sizeof(m->text) - (size_t)(at - m->text))
            return dt_fail(err, -E2BIG, "too many words");
        at = mempcpy(at, *words, n);
        m->words++;
    }
    return 0;
}

static int ask_for_socket(struct switch_ports *s, const char *const *words, int *sock,
                          struct dt_error *err)
{
    struct message m = {.what = MESSAGE_ADD};

    return put_words(&m, words, err) ?: ask(s, &m, sock, err);
}

/* Of a port that was asked for, and may still be made: nobody waits for that any more. */
static void disown(const struct switch_ports *s, const char *name)
{
    struct message m = {.what = MESSAGE_REMOVE};
    struct dt_error err;

    if (put_words(&m, (const char *[]){name, NULL}, &err) < 0 ||
        packet_send(s->parent, &m, sizeof(m), -1) < 0)
        log_warning("port %s may come back with the next process", name);
}

static void give_up_socket(struct switch_ports *s, const char *name)
{
    struct message m = {.what = MESSAGE_REMOVE};
    struct dt_error err;
    int fd, ret = put_words(&m, (const char *[]){name, NULL}, &err);

    if (ret < 0 || ask(s, &m, &fd, &err) < 0)
        log_warning("port %s: %s", name, err.text);
}

static int open_port(struct switch_ports *s, unsigned index, int sock, struct dt_error *err)
{
    struct fabric_config *p = &s->config->ports[index];
    _cleanup_free_ char *chain =
        xasprintf("stream address=fd:%d listen=on vnet=on mtu=65535", sock);
    struct fabric_config port = *p;

    port.chain = chain;
    return fabric_add(s->fabric, &port, err);
}

static int add(struct switch_ports *s, const char *const *words, struct dt_error *err)
{
    int sock = -1, index = switch_add(s->config, words, err), ret;

    if (index < 0)
        return index;
    ret = ask_for_socket(s, words, &sock, err);
    if (ret == -ETIMEDOUT)
        disown(s, s->config->ports[index].name);
    if (ret == 0) {
        ret = open_port(s, (unsigned)index, sock, err);
        if (ret < 0)
            give_up_socket(s, s->config->ports[index].name);
    }
    if (sock >= 0)
        close(sock); /* the port has its own */
    if (ret < 0)
        switch_drop(s->config, (unsigned)index);
    return ret;
}

static int drop(struct switch_ports *s, const char *name, struct dt_error *err)
{
    struct fabric_port *port = fabric_find(s->fabric, name);
    int index = switch_index(s->config, name);

    if (!port || index < 0)
        return dt_fail(err, -ENODEV, "no port is named '%.64s'", name);
    if (port->config.uplink)
        return dt_fail(err, -EINVAL, "'%s' is an uplink: these stay until the switch ends", name);
    fabric_remove(port);
    give_up_socket(s, name);
    switch_drop(s->config, (unsigned)index);
    return 0;
}

int switch_ports_do(struct switch_ports *s, const char *device, const char *command,
                    const char *const *words, struct dt_error *err)
{
    if (strcmp(command, "add-port") == 0)
        return add(s, words, err);
    if (strcmp(command, "remove-port") == 0 && !words[0])
        return drop(s, device, err);
    return dt_fail(err, -EINVAL, "'%.40s': a switch knows add-port and remove-port", command);
}

static int set(const struct switch_ports *s, const char *const *words, struct dt_error *err)
{
    const struct fabric_port *port = fabric_find(s->fabric, words[0]);

    if (!port)
        return dt_fail(err, -ENODEV, "no port is named '%.64s'", words[0]);
    return device_set(port->dev, words[1], words[2], words[3], err);
}

int switch_ports_set(struct switch_ports *s, const char *const *words, struct dt_error *err)
{
    struct message m = {.what = MESSAGE_SET};
    int fd, ret = put_words(&m, words, err);

    ret = ret ?: set(s, words, err);
    return ret ?: ask(s, &m, &fd, err);
}

void switch_ports_restore(struct switch_ports *s)
{
    const char *key;
    json_t *entry;

    json_object_foreach(s->config->values, key, entry)
    {
        const char *words[5] = {NULL};
        const struct fabric_port *port;
        struct dt_error err;

        json_unpack(entry, "[ssss]", &words[0], &words[1], &words[2], &words[3]);
        port = fabric_find(s->fabric, words[0]);
        if (port && !port->config.away && set(s, words, &err) < 0)
            log_warning("%s is lost: %s", key, err.text);
    }
}

/* ---- The verb ---- */

static int change(char **argv, struct dt_error *err)
{
    bool adds = strcmp(argv[0], "add-port") == 0;
    struct client *client = NULL;
    json_t *words = json_array(), *request;
    int ret;

    if (!argv[1] || (adds ? !argv[2] : argv[2] != NULL)) {
        json_decref(words);
        return dt_fail(err, -EINVAL,
                       adds ? "add-port ANY_PORT --port NAME --mac ADDRESS [OPTION...]"
                            : "remove-port NAME");
    }
    for (char **word = argv + 2; *word; word++)
        json_array_append_new(words, json_string(*word));
    ret = client_find(&client, argv[1], err);
    if (ret < 0) {
        json_decref(words);
        return ret;
    }
    request = json_pack("{ss ss ss ss so}", "verb", "do", "device", client_device(client), "layer",
                        "switch", "command", argv[0], "args", words);
    ret = request ? client_call(client, request, NULL, err)
                  : dt_fail(err, -EINVAL, "a word is not UTF-8");
    client_free(client);
    return ret;
}

int switch_change(const struct verb *verb, char **argv)
{
    struct dt_error err;
    int ret = change(argv, &err);

    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}
