/* SPDX-License-Identifier: MIT */
/*
 * dial.c - make a connection and hand it over, on a thread of its own.
 *
 * Theory of operation: looking up a name blocks, and nothing in a C library can be asked to stop doing so.
 * So each attempt has a detached thread, which shares nothing with whoever asked but one end of a
 * socket pair: the answer goes there, with the connected socket, and when the other end is closed
 * nobody wants it any more. Where the attempt is made does not matter then: in this process, or in
 * another that was given the end (control/launcher.c).
 */
#include "core/core.h"

#include "base/packet.h"
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define DIAL_NS   DT_S(10)
#define DIALS_MAX 64u

struct attempt {
    int answer;
    char address[DT_ADDRESS_MAX];
};

static unsigned dials; /* threads that run */

/* ---- Addresses ------------------------------------------------------------------------------ */

static const char *after(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

/* HOST:PORT in two; the brackets of an IPv6 address are taken off. false: it is none. */
static bool split_host(const char *text, char host[DT_ADDRESS_MAX], const char **port)
{
    const char *end = strrchr(text, ':'), *digits = end ? end + 1 : "";
    unsigned long number = strspn(digits, "0123456789") == strlen(digits) && strlen(digits) <= 5
                               ? strtoul(digits, NULL, 10)
                               : 0;
    size_t n = end ? (size_t)(end - text) : 0;

    if (number < 1 || number > 65535 || n == 0 || n >= DT_ADDRESS_MAX)
        return false;
    if (text[0] == '[') {
        if (n < 3 || text[n - 1] != ']')
            return false;
        text++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        return false;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    *port = digits;
    return true;
}

/* The path of a Unix socket, and its type; NULL: it is something else. */
static const char *path_of(const char *address, int *type)
{
    const char *path = after(address, "unix:");

    *type = path ? SOCK_STREAM : SOCK_DGRAM;
    return path ?: after(address, "unix-dgram:");
}

int dial_judge(const char *address, struct dt_error *err)
{
    int type;
    const char *path = path_of(address, &type), *tcp = after(address, "tcp:"), *port;
    char host[DT_ADDRESS_MAX];

    if (strlen(address) >= DT_ADDRESS_MAX)
        return dt_fail(err, -EINVAL, "an address has at most %d characters", DT_ADDRESS_MAX - 1);
    if (path && (!*path || strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path)))
        return dt_fail(err, -EINVAL, "'%s': the path of a socket has 1 to %zu characters", address,
                       sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    if (!path && !(tcp && split_host(tcp, host, &port)))
        return dt_fail(err, -EINVAL,
                       "'%s' is no address: write unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT",
                       address);
    return 0;
}

/* ---- One attempt ------------------------------------------------------------------------------ */

/* Waits for the connection; until @deadline, or until nobody wants it any more. */
static int finish(int sock, int answer, uint64_t deadline)
{
    struct pollfd fds[] = {{.fd = sock, .events = POLLOUT}, {.fd = answer}};
    int error = 0;
    socklen_t size = sizeof(error);

    for (;;) {
        uint64_t now = dt_clock_ns();

        if (now >= deadline)
            return -ETIMEDOUT;
        if (poll(fds, 2, (int)((deadline - now) / DT_MS(1)) + 1) < 0 && errno != EINTR)
            return -errno;
        if (fds[1].revents)
            return -ECANCELED;
        if (fds[0].revents)
            break;
    }
    if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -errno;
    return -error;
}

/* Returns the connected socket or -errno. */
static int connect_one(const struct sockaddr *to, socklen_t size, int type, int answer,
                       uint64_t deadline)
{
    int sock = socket(to->sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret = 0;
    const int on = 1;

    if (sock < 0)
        return -errno;
    if (connect(sock, to, size) < 0)
        ret = errno == EINPROGRESS ? finish(sock, answer, deadline) : -errno;
    if (ret < 0) {
        close(sock);
        return ret;
    }
    if (to->sa_family != AF_UNIX) {
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
    return sock;
}

static int connect_unix(const char *path, int type, int answer, uint64_t deadline)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
    return connect_one((const struct sockaddr *)&to, sizeof(to), type, answer, deadline);
}

static int lookup_errno(int code)
{
    if (code == EAI_SYSTEM)
        return -errno;
    if (code == EAI_AGAIN || code == EAI_MEMORY)
        return -EAGAIN;
    return -ENOENT;
}

/* All addresses that the name has, one after the other. */
static int connect_tcp(const char *text, int answer, uint64_t deadline)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list;
    char host[DT_ADDRESS_MAX];
    const char *port;
    int ret;

    if (!split_host(text, host, &port))
        return -EINVAL;
    ret = getaddrinfo(host, port, &hints, &list);
    if (ret != 0)
        return lookup_errno(ret);
    ret = -ENOENT;
    for (struct addrinfo *a = list; a && ret < 0 && ret != -ECANCELED; a = a->ai_next)
        ret = connect_one(a->ai_addr, a->ai_addrlen, SOCK_STREAM, answer, deadline);
    freeaddrinfo(list);
    return ret;
}

static void reply(int answer, int sock)
{
    const struct dial_answer a = {.result = MIN(sock, 0)};

    packet_send(answer, &a, sizeof(a), sock); /* nobody there: nobody cares */
    if (sock >= 0)
        close(sock);
    close(answer);
}

static void *run_attempt(void *arg)
{
    _cleanup_free_ struct attempt *a = arg;
    uint64_t deadline = dt_clock_ns() + DIAL_NS;
    int type;
    const char *path = path_of(a->address, &type), *tcp = after(a->address, "tcp:");

    reply(a->answer, path  ? connect_unix(path, type, a->answer, deadline)
                     : tcp ? connect_tcp(tcp, a->answer, deadline)
                           : -EINVAL);
    __atomic_sub_fetch(&dials, 1, __ATOMIC_RELEASE);
    return NULL;
}

unsigned dial_count(void)
{
    return __atomic_load_n(&dials, __ATOMIC_ACQUIRE);
}

int dial_address(const char *address, int answer)
{
    struct attempt *a;
    pthread_attr_t attr;
    pthread_t thread;
    int ret;

    if (__atomic_add_fetch(&dials, 1, __ATOMIC_RELAXED) > DIALS_MAX) {
        __atomic_sub_fetch(&dials, 1, __ATOMIC_RELAXED);
        close(answer);
        return -EAGAIN;
    }
    a = xcalloc(1, sizeof(*a));
    a->answer = answer;
    snprintf(a->address, sizeof(a->address), "%s", address);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    ret = pthread_create(&thread, &attr, run_attempt, a);
    pthread_attr_destroy(&attr);
    if (ret != 0) {
        __atomic_sub_fetch(&dials, 1, __ATOMIC_RELAXED);
        close(answer);
        free(a);
    }
    return -ret;
}
