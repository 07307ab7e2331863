/* SPDX-License-Identifier: MIT */
/*
 * tls.c - one TLS session with an NBD server, on a thread of its own.
 *
 * Theory of operation: libnbd can speak TLS, but not from inside the sandbox. It reads certificates
 * at each handshake, and knows what name to expect only where it looks that name up itself
 * (versions before 1.20; given a socket they accept anybody's certificate). So the session is ours:
 * keys are read once (tls-keys.c), the socket comes from wherever connections come from
 * (dt_layer_connect()), and the handshake needs nothing but memory.
 *
 * The thread stands between two sockets: the server's, and one end of a pair whose other end
 * libnbd is given. It opens the server's side of NBD as far as STARTTLS, makes the session, verifies
 * whose it is, and only then shows libnbd the server's greeting; from there on it carries bytes,
 * encrypted on one side. libnbd goes on behind STARTTLS, where the server expects
 * a client that says its options anew but not its flags: those were sent before, and what libnbd
 * sends of them is compared and dropped.
 *
 *     disk's thread: libnbd <- plain socket pair -> this thread: GnuTLS <- TLS -> server
 *
 * A thread, since libnbd is a state machine on a socket and GnuTLS another; and since encryption
 * then costs the disk's thread nothing. It never waits in anything but poll(), always for the
 * pair to be shut down, too: that is how it is told to end, and to join it takes no time.
 *
 * Of a hostile server's bytes all that is looked at here is the 18 of its greeting and the 20 of one answer.
 */
#include "blk/nbd/tls.h"

#include <endian.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define UP_BYTES   (64u << 10)
#define DOWN_BYTES (128u << 10)

/* The NBD protocol: doc/proto.md of the NBD project, "Fixed newstyle negotiation". */
#define NBD_MAGIC           0x4e42444d41474943u
#define NBD_OPTION_MAGIC    0x49484156454f5054u
#define NBD_REPLY_MAGIC     0x0003e889045565a9u
#define NBD_FIXED_NEWSTYLE  1u
#define NBD_NO_ZEROES       2u
#define NBD_OPTION_STARTTLS 5u
#define NBD_REPLY_ACK       1u

struct nbd_greeting {
    uint64_t magic, option_magic;
    uint16_t flags;
} __attribute__((packed));

struct nbd_option {
    uint64_t magic;
    uint32_t option, length;
} __attribute__((packed));

struct nbd_reply {
    uint64_t magic;
    uint32_t option, type, length;
} __attribute__((packed));

/** struct flow - bytes on their way in one direction: [@begin, @end) of @bytes are still to be written. */
struct flow {
    uint8_t *bytes;
    size_t size, begin, end;
};

/**
 * struct tls_line - @server, @plain: our sockets. @up: to the server; @down: from it.
 * @ended: the server has said all that it will.
 * @told: @reason is complete.
 */
struct tls_line {
    const struct tls_keys *keys;
    gnutls_session_t session;
    int server, plain;
    struct flow up, down;
    bool ended, told;
    char reason[240];
    pthread_t thread;
};

/* ---- Why it ended ------------------------------------------------------------------------------ */

/* The first reason is the one. -ECANCELED is none: nobody wants the line any more. */
static int end(struct tls_line *l, const char *fmt, ...) DT_PRINTF(2, 3);
static int end(struct tls_line *l, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(l->reason, sizeof(l->reason), fmt, args);
    va_end(args);
    for (size_t n = strlen(l->reason); n && l->reason[n - 1] == ' '; n--)
        l->reason[n - 1] = '\0'; /* GnuTLS ends its sentences with one */
    __atomic_store_n(&l->told, true, __ATOMIC_RELEASE);
    return -EPROTO;
}

static int end_verification(struct tls_line *l)
{
    unsigned status = gnutls_session_get_verify_cert_status(l->session);
    gnutls_datum_t text = {NULL, 0};
    int ret;

    if (status & GNUTLS_CERT_UNEXPECTED_OWNER)
        return end(l, "TLS: the server's certificate is not one of '%.100s'", l->keys->name ?: "");
    if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
        return end(l, "TLS: the server's certificate is not trusted");
    ret = end(l, "TLS: the server's certificate: %.160s", (const char *)text.data);
    gnutls_free(text.data);
    return ret;
}

static int end_session(struct tls_line *l, int code)
{
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
        return end_verification(l);
    if (code == GNUTLS_E_FATAL_ALERT_RECEIVED)
        return end(l, "TLS: the server refuses: %s",
                   gnutls_alert_get_name(gnutls_alert_get(l->session)) ?: "an unknown alert");
    if (code == 0 || code == GNUTLS_E_PREMATURE_TERMINATION)
        return end(l, "TLS: the server ended the connection");
    return end(l, "TLS: %s", gnutls_strerror(code));
}

static bool try_again(ssize_t code)
{
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

/* ---- Before the session ------------------------------------------------------------------------ */

/* Until @fd is ready for @events; -ECANCELED once the pair is shut down. */
static int await(struct tls_line *l, int fd, short events)
{
    struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = l->plain}};

    if (poll(fds, 2, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    return fds[1].revents ? -ECANCELED : 0;
}

static bool would_block(ssize_t n)
{
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static int send_all(struct tls_line *l, int fd, const void *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t some = send(fd, (const char *)data + at, n - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        int ret = would_block(some) ? await(l, fd, POLLOUT) : 0;

        if (ret < 0)
            return ret;
        if (some < 0 && !would_block(some))
            return end(l, "%s", strerror(errno));
        at += some > 0 ? (size_t)some : 0;
    }
    return 0;
}

static int receive_all(struct tls_line *l, int fd, void *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t some = recv(fd, (char *)data + at, n - at, MSG_DONTWAIT);
        int ret = would_block(some) ? await(l, fd, POLLIN) : 0;

        if (ret < 0)
            return ret;
        if (some == 0)
            return end(l, "the connection ended before TLS could begin");
        if (some < 0 && !would_block(some))
            return end(l, "%s", strerror(errno));
        at += some > 0 ? (size_t)some : 0;
    }
    return 0;
}

static int await_connection(struct tls_line *l)
{
    int error = 0, ret = await(l, l->server, POLLOUT);
    socklen_t size = sizeof(error);

    if (ret == 0 && getsockopt(l->server, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error)
        return end(l, "%s", strerror(error));
    return ret;
}

/* As far as the server's consent to TLS. What follows it on the wire is of TLS. */
static int start_tls(struct tls_line *l, struct nbd_greeting *greeting)
{
    const struct nbd_option option = {htobe64(NBD_OPTION_MAGIC), htobe32(NBD_OPTION_STARTTLS), 0};
    struct nbd_reply reply;
    uint32_t flags;
    int ret = receive_all(l, l->server, greeting, sizeof(*greeting));

    if (ret < 0)
        return ret;
    if (be64toh(greeting->magic) != NBD_MAGIC)
        return end(l, "what answers there is no NBD server");
    if (be64toh(greeting->option_magic) != NBD_OPTION_MAGIC ||
        !(be16toh(greeting->flags) & NBD_FIXED_NEWSTYLE))
        return end(l, "the server speaks an older NBD, without TLS");
    flags = htobe32(be16toh(greeting->flags) & (NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES));
    ret = send_all(l, l->server, &flags, sizeof(flags));
    ret = ret ?: send_all(l, l->server, &option, sizeof(option));
    ret = ret ?: receive_all(l, l->server, &reply, sizeof(reply));
    if (ret < 0)
        return ret;
    if (be64toh(reply.magic) != NBD_REPLY_MAGIC || be32toh(reply.option) != NBD_OPTION_STARTTLS)
        return end(l, "what answers there breaks the NBD protocol");
    if (be32toh(reply.type) != NBD_REPLY_ACK || reply.length)
        return end(l, "the server has no TLS to offer");
    return 0;
}

/* ---- The session ------------------------------------------------------------------------------- */

static bool is_address(const char *name)
{
    return strchr(name, ':') || name[strspn(name, "0123456789.")] == '\0';
}

static int new_session(struct tls_line *l)
{
    const struct tls_keys *k = l->keys;
    int ret = gnutls_init(&l->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);

    ret = ret ?: gnutls_priority_set(l->session, k->priority);
    ret = ret
              ?: k->psk
                 ? gnutls_credentials_set(l->session, GNUTLS_CRD_PSK, k->psk)
                 : gnutls_credentials_set(l->session, GNUTLS_CRD_CERTIFICATE, k->certificates);
    if (ret == 0 && k->certificates && k->name && !is_address(k->name))
        ret = gnutls_server_name_set(l->session, GNUTLS_NAME_DNS, k->name, strlen(k->name));
    if (ret < 0)
        return end_session(l, ret);
    if (k->certificates && k->verify)
        gnutls_session_set_verify_cert(l->session, k->name, 0);
    gnutls_transport_set_int(l->session, l->server);
    return 0;
}

static short wanted(const struct tls_line *l)
{
    return gnutls_record_get_direction(l->session) ? POLLOUT : POLLIN;
}

/* A server that does nothing but warn must not keep the thread from noticing. */
static int still_wanted(const struct tls_line *l)
{
    struct pollfd fd = {.fd = l->plain};

    return poll(&fd, 1, 0) > 0 ? -ECANCELED : 0;
}

static int handshake(struct tls_line *l)
{
    int ret = new_session(l);

    while (ret == 0) {
        int code = gnutls_handshake(l->session);

        if (code == GNUTLS_E_SUCCESS)
            break;
        if (gnutls_error_is_fatal(code))
            return end_session(l, code);
        ret = try_again(code) ? await(l, l->server, wanted(l)) : still_wanted(l);
    }
    return ret;
}

/* libnbd answers the greeting as we did, or it would take the server for another. */
static int introduce(struct tls_line *l, const struct nbd_greeting *greeting)
{
    uint32_t flags;
    int ret = send_all(l, l->plain, greeting, sizeof(*greeting));

    ret = ret ?: receive_all(l, l->plain, &flags, sizeof(flags));
    if (ret == 0 &&
        be32toh(flags) != (be16toh(greeting->flags) & (NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)))
        return end(l, "TLS: libnbd wants another dialect of NBD (flags %u)", be32toh(flags));
    return ret;
}

/* ---- Bytes ------------------------------------------------------------------------------------- */

static bool empty(const struct flow *f)
{
    return f->begin == f->end;
}

/* Each direction: 1 = something moved, 0 = it has to wait, or why the line ends. */
static int move_up(struct tls_line *l)
{
    struct flow *f = &l->up;
    ssize_t n;

    if (empty(f)) {
        n = recv(l->plain, f->bytes, f->size, MSG_DONTWAIT);
        if (n <= 0)
            return would_block(n) ? 0 : -ECANCELED;
        f->begin = 0;
        f->end = (size_t)n;
    }
    n = gnutls_record_send(l->session, f->bytes + f->begin, f->end - f->begin);
    if (n < 0)
        return try_again(n) ? 0 : end_session(l, (int)n);
    f->begin += (size_t)n;
    return 1;
}

/* As many records as there are and fit, so that libnbd is woken once for them. */
static int fill_down(struct tls_line *l)
{
    struct flow *f = &l->down;

    f->begin = f->end = 0;
    while (!l->ended && f->end < f->size) {
        ssize_t n = gnutls_record_recv(l->session, f->bytes + f->end, f->size - f->end);

        if (n > 0) {
            f->end += (size_t)n;
        } else if (try_again(n)) {
            break;
        } else { /* TLS 1.2's wish for another handshake is none of ours */
            end_session(l, (int)n);
            l->ended = true;
        }
    }
    return empty(f) && l->ended ? -EPROTO : 0;
}

static int move_down(struct tls_line *l)
{
    struct flow *f = &l->down;
    int ret = empty(f) ? fill_down(l) : 0;
    ssize_t n;

    if (ret < 0 || empty(f))
        return ret;
    n = send(l->plain, f->bytes + f->begin, f->end - f->begin, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
        return would_block(n) ? 0 : -ECANCELED;
    f->begin += (size_t)n;
    return 1;
}

/* Nothing could be moved: what is there to wait for? */
static int await_either(struct tls_line *l)
{
    short server = (short)((empty(&l->down) ? POLLIN : 0) | (empty(&l->up) ? 0 : POLLOUT));
    short plain = (short)((empty(&l->up) ? POLLIN : 0) | (empty(&l->down) ? 0 : POLLOUT));
    struct pollfd fds[] = {{.fd = server ? l->server : -1, .events = server}, /* its end can wait */
                           {.fd = l->plain, .events = plain}};

    if (poll(fds, 2, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    return (fds[1].revents & POLLHUP) && !empty(&l->up) ? -ECANCELED : 0;
}

static int carry(struct tls_line *l)
{
    int up, down = 0;

    do {
        up = move_up(l);
        if (up >= 0)
            down = move_down(l);
        if (up == 0 && down == 0)
            up = await_either(l);
    } while (up >= 0 && down >= 0);
    return MIN(up, down);
}

static void *run_line(void *arg)
{
    struct tls_line *l = arg;
    struct nbd_greeting greeting;
    int ret = await_connection(l);

    ret = ret ?: start_tls(l, &greeting);
    ret = ret ?: handshake(l);
    ret = ret ?: introduce(l, &greeting);
    if (ret == 0) {
        carry(l);
        gnutls_bye(l->session, GNUTLS_SHUT_WR);
    }
    shutdown(l->server, SHUT_RDWR);
    shutdown(l->plain, SHUT_RDWR);
    return NULL;
}

/* ---- Its life ---------------------------------------------------------------------------------- */

static int start_thread(struct tls_line *l, struct dt_error *err)
{
    sigset_t all, old;
    int ret;

    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    ret = pthread_create(&l->thread, NULL, run_line, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret)
        return dt_fail(err, -ret, "TLS: cannot start a thread: %s", strerror(ret));
    pthread_setname_np(l->thread, "nbd-tls");
    return 0;
}

static void release(struct tls_line *l)
{
    if (l->session)
        gnutls_deinit(l->session);
    close(l->server);
    close(l->plain);
    free(l->up.bytes);
    free(l->down.bytes);
    free(l);
}

int tls_line_new(struct tls_line **out, const struct tls_keys *keys, int server, int *plain,
                 struct dt_error *err)
{
    struct tls_line *l;
    int fds[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        ret = -errno;
        close(server);
        return dt_fail(err, ret, "TLS: cannot make sockets: %s", strerror(-ret));
    }
    l = xcalloc(1, sizeof(*l));
    *l = (struct tls_line){.keys = keys,
                           .server = server,
                           .plain = fds[0],
                           .up = {.bytes = xcalloc(1, UP_BYTES), .size = UP_BYTES},
                           .down = {.bytes = xcalloc(1, DOWN_BYTES), .size = DOWN_BYTES}};
    ret = start_thread(l, err);
    if (ret < 0) {
        release(l);
        close(fds[1]);
        return ret;
    }
    *out = l;
    *plain = fds[1];
    return 0;
}

const char *tls_line_reason(const struct tls_line *l)
{
    return l && __atomic_load_n(&l->told, __ATOMIC_ACQUIRE) ? l->reason : NULL;
}

void tls_line_free(struct tls_line *l)
{
    if (!l)
        return;
    shutdown(l->plain, SHUT_RDWR); /* what was written there can still be read */
    pthread_join(l->thread, NULL);
    release(l);
}
