/* SPDX-License-Identifier: MIT */
/* nbd_server.c - fixed newstyle negotiation, simple replies, one thread per connection. */
#include "nbd_server.h"
#include "base/base.h"

#include <endian.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define OPTION_MAGIC  0x49484156454f5054u
#define REPLY_MAGIC   0x3e889045565a9u
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_MAGIC  0x67446698u
#define OPT_GO        7u
#define REP_ACK       1u
#define REP_INFO      3u
#define REP_UNSUP     0x80000001u
#define REP_UNKNOWN   0x80000006u

struct connection {
    struct nbd_server *server;
    int fd;
};

static bool get(int fd, void *to, size_t n)
{
    return n == 0 || recv(fd, to, n, MSG_WAITALL) == (ssize_t)n;
}

static bool put(int fd, const void *from, size_t n)
{
    return n == 0 || send(fd, from, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool reply_option(int fd, uint32_t option, uint32_t type, const void *data, uint32_t n)
{
    struct {
        uint64_t magic;
        uint32_t option, type, length;
    } __attribute__((packed))
    r = {htobe64(REPLY_MAGIC), htobe32(option), htobe32(type), htobe32(n)};

    return put(fd, &r, sizeof(r)) && put(fd, data, n);
}

/* Exports the default name alone. */
static bool option_go(struct nbd_server *s, int fd, const uint8_t *data, bool *done)
{
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) info = {0, htobe64(__atomic_load_n(&s->size, __ATOMIC_RELAXED)),
                                      htobe16((uint16_t)(s->flags | 1))};

    if (data[0] | data[1] | data[2] | data[3])
        return reply_option(fd, OPT_GO, REP_UNKNOWN, NULL, 0);
    *done = true;
    return reply_option(fd, OPT_GO, REP_INFO, &info, sizeof(info)) &&
           reply_option(fd, OPT_GO, REP_ACK, NULL, 0);
}

static bool negotiate(struct nbd_server *s, int fd)
{
    struct {
        uint64_t magic;
        uint32_t option, length;
    } __attribute__((packed)) o;
    uint8_t data[1024];
    uint32_t flags, n;
    bool done = false;

    if (!put(fd, "NBDMAGICIHAVEOPT\0\3", 18) || !get(fd, &flags, sizeof(flags)))
        return false;
    while (!done) {
        if (!get(fd, &o, sizeof(o)) || be64toh(o.magic) != OPTION_MAGIC)
            return false;
        n = be32toh(o.length);
        if (n > sizeof(data) || !get(fd, data, n))
            return false;
        if (be32toh(o.option) != OPT_GO) {
            if (!reply_option(fd, be32toh(o.option), REP_UNSUP, NULL, 0))
                return false;
        } else if (!option_go(s, fd, data, &done)) {
            return false;
        }
    }
    return true;
}

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

static void note(struct nbd_server *s, const struct request *r)
{
    unsigned i = __atomic_fetch_add(&s->requests, 1, __ATOMIC_RELAXED);

    if (i >= NBD_SERVER_LOG)
        return;
    s->log[i].type = be16toh(r->type);
    s->log[i].flags = be16toh(r->flags);
    s->log[i].at = dt_clock_ns();
}

static bool serve(struct nbd_server *s, int fd, const struct request *r)
{
    uint64_t at = be64toh(r->offset), n = be32toh(r->length);
    uint32_t error = __atomic_load_n(&s->error, __ATOMIC_RELAXED);
    uint16_t type = be16toh(r->type);
    struct {
        uint32_t magic, error;
        uint64_t cookie;
    } reply = {htobe32(SIMPLE_MAGIC), htobe32(error), r->cookie};
    static __thread uint8_t unused[sizeof(s->bytes)];

    if (at > s->size || n > s->size - at)
        return false;
    if (type == 1 && !get(fd, error ? unused : s->bytes + at, n))
        return false;
    if ((type == 4 || type == 6) && !error)
        memset(s->bytes + at, 0, n);
    note(s, r);
    if (__atomic_load_n(&s->mute, __ATOMIC_RELAXED))
        return true;
    return put(fd, &reply, sizeof(reply)) && (type || error || put(fd, s->bytes + at, n));
}

static void *run_connection(void *arg)
{
    struct connection c = *(struct connection *)arg;
    struct request r;

    free(arg);
    if (negotiate(c.server, c.fd))
        while (get(c.fd, &r, sizeof(r)) && be32toh(r.magic) == REQUEST_MAGIC &&
               be16toh(r.type) != 2 && serve(c.server, c.fd, &r))
            ;
    shutdown(c.fd,
             SHUT_RDWR); /* closed by nbd_server_stop(): its number is not used again before */
    __atomic_fetch_sub(&c.server->running, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void start_thread(void *(*run)(void *), void *arg)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, run, arg) == 0);
    pthread_detach(thread);
}

static void *run_listener(void *arg)
{
    struct nbd_server *s = arg;
    int fd;

    while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
        struct connection *c = xcalloc(1, sizeof(*c));

        if (!s->open || s->nfds == ARRAY_SIZE(s->fds)) {
            close(fd);
            free(c);
            continue;
        }
        s->fds[s->nfds++] = fd;
        *c = (struct connection){s, fd};
        __atomic_fetch_add(&s->connections, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&s->running, 1, __ATOMIC_RELAXED);
        start_thread(run_connection, c);
    }
    __atomic_fetch_sub(&s->running, 1, __ATOMIC_RELEASE);
    return NULL;
}

void nbd_server_start(struct nbd_server *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (!s->path[0])
        snprintf(s->path, sizeof(s->path), "/tmp/nbd-test-%d.sock", getpid());
    if (!s->size)
        s->size = sizeof(s->bytes);
    memcpy(address.sun_path, s->path, sizeof(address.sun_path));
    unlink(s->path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(s->listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(s->listener, 64) == 0);
    s->nfds = 0;
    s->open = true;
    s->running = 1;
    start_thread(run_listener, s);
}

void nbd_server_stop(struct nbd_server *s)
{
    s->open = false;
    unlink(s->path);
    shutdown(s->listener, SHUT_RDWR);
    while (__atomic_load_n(&s->running, __ATOMIC_ACQUIRE)) {
        for (unsigned i = 0; i < s->nfds; i++)
            shutdown(s->fds[i], SHUT_RDWR);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = DT_US(100)}, NULL);
    }
    for (unsigned i = 0; i < s->nfds; i++)
        close(s->fds[i]);
    close(s->listener);
}
