/* SPDX-License-Identifier: MIT */
/*
 * nbd.c - see nbd.h; the protocol: doc/proto.md of the NBD project.
 *
 * Theory of operation: one thread, which is the pool's where the pool is open here. Clients open
 * several connections and expect all of them to be answered, so each is a small machine that takes
 * a message when all of it has come. Replies are sent by blocking: a client that asks and does not
 * read is let go after a while.
 */
#include "tools/cvd/nbd.h"

#include "base/base.h"

#include <endian.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define MAX_CLIENTS  16u
#define MAX_READ     ((uint32_t)32 << 20)
#define BUFFER       8192u
#define PATIENCE_S   30
#define SECTOR       512u
#define MAGIC_OPTION 0x49484156454f5054u /* "IHAVEOPT" */
#define MAGIC_REPLY  0x0003e889045565a9u
#define MAGIC_ASK    0x25609513u
#define MAGIC_ANSWER 0x67446698u

enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };
enum { HAS_FLAGS = 1, READ_ONLY = 2, SEND_FLUSH = 4, MULTI_CONN = 1 << 8 };
enum { OPT_EXPORT_NAME = 1, OPT_ABORT = 2, OPT_LIST = 3, OPT_INFO = 6, OPT_GO = 7 };
enum { REP_ACK = 1, REP_SERVER = 2, REP_INFO = 3 };
#define REP_UNSUPPORTED (1u << 31 | 1)
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_FLUSH = 3 };

enum phase { FLAGS, OPTIONS, REQUESTS };

/** struct client - @skip: bytes still to come that nobody wants. @short_header: it wants no zeroes
 * behind the export. */
struct client {
    int sock;
    enum phase phase;
    bool short_header;
    uint64_t skip;
    size_t have;
    uint8_t bytes[BUFFER];
};

struct __attribute__((packed)) option {
    uint64_t magic;
    uint32_t option, length;
};
struct __attribute__((packed)) option_reply {
    uint64_t magic;
    uint32_t option, type, length;
};
struct __attribute__((packed)) export_info {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
};
struct __attribute__((packed)) ask {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
};
struct __attribute__((packed)) answer {
    uint32_t magic, error;
    uint64_t cookie;
};

static int put(const struct client *c, const void *bytes, size_t size)
{
    while (size) {
        ssize_t n = send(c->sock, bytes, size, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EPIPE;
        bytes = (const char *)bytes + n;
        size -= (size_t)n;
    }
    return 0;
}

/* ---- The handshake ---- */

static int reply(const struct client *c, uint32_t option, uint32_t type, const void *data,
                 uint32_t length)
{
    const struct option_reply r = {htobe64(MAGIC_REPLY), htobe32(option), htobe32(type),
                                   htobe32(length)};
    int ret = put(c, &r, sizeof(r));

    return ret ?: put(c, data, length);
}

static uint16_t export_flags(void)
{
    return HAS_FLAGS | READ_ONLY | SEND_FLUSH | MULTI_CONN;
}

static int old_export(struct client *c, const struct nbd_disk *disk)
{
    struct __attribute__((packed)) {
        uint64_t size;
        uint16_t flags;
        uint8_t zeroes[124];
    } e = {.size = htobe64(disk->size), .flags = htobe16(export_flags())};

    c->phase = REQUESTS;
    return put(c, &e, c->short_header ? offsetof(typeof(e), zeroes) : sizeof(e));
}

static int new_export(struct client *c, const struct nbd_disk *disk, uint32_t option)
{
    const struct export_info info = {0, htobe64(disk->size), htobe16(export_flags())};
    int ret = reply(c, option, REP_INFO, &info, sizeof(info));

    if (option == OPT_GO)
        c->phase = REQUESTS;
    return ret ?: reply(c, option, REP_ACK, "", 0);
}

static int take_option(struct client *c, const struct nbd_disk *disk, uint32_t option)
{
    static const uint32_t no_name;
    int ret;

    switch (option) {
    case OPT_EXPORT_NAME:
        return old_export(c, disk);
    case OPT_INFO:
    case OPT_GO:
        return new_export(c, disk, option);
    case OPT_LIST:
        ret = reply(c, option, REP_SERVER, &no_name, sizeof(no_name));
        return ret ?: reply(c, option, REP_ACK, "", 0);
    case OPT_ABORT:
        reply(c, option, REP_ACK, "", 0);
        return -EPIPE;
    default:
        return reply(c, option, REP_UNSUPPORTED, "", 0);
    }
}

/* ---- Requests ---- */

static int answer(const struct client *c, uint64_t cookie, int error, const void *data, size_t size)
{
    const struct answer a = {htobe32(MAGIC_ANSWER), htobe32((uint32_t)error), cookie};
    int ret = put(c, &a, sizeof(a));

    return ret ?: put(c, data, size);
}

static int take_read(const struct client *c, const struct nbd_disk *disk, const struct ask *a)
{
    uint64_t offset = be64toh(a->offset), from = ALIGN_DOWN(offset, (uint64_t)SECTOR);
    uint32_t length = be32toh(a->length);
    _cleanup_free_ uint8_t *buf = NULL;
    size_t size;
    int ret;

    if (length > MAX_READ || offset > disk->size || length > disk->size - offset)
        return answer(c, a->cookie, EINVAL, "", 0);
    size = ALIGN_UP(offset + length, (uint64_t)SECTOR) - from;
    buf = malloc(MAX(size, (size_t)1));
    if (!buf)
        return answer(c, a->cookie, ENOMEM, "", 0);
    ret = disk->read(disk->arg, from, buf, size);
    return ret < 0 ? answer(c, a->cookie, EIO, "", 0)
                   : answer(c, a->cookie, 0, buf + (offset - from), length);
}

static int take_request(struct client *c, const struct nbd_disk *disk, const struct ask *a)
{
    if (be32toh(a->magic) != MAGIC_ASK)
        return -EPIPE;
    switch (be16toh(a->type)) {
    case CMD_READ:
        return take_read(c, disk, a);
    case CMD_WRITE:
        c->skip = be32toh(a->length);
        return answer(c, a->cookie, EPERM, "", 0);
    case CMD_DISC:
        return -EPIPE;
    case CMD_FLUSH:
        return answer(c, a->cookie, 0, "", 0);
    default:
        return answer(c, a->cookie, EINVAL, "", 0);
    }
}

/* ---- Connections ---- */

/* One message of those that have come. Return: how many bytes it was, 0 if it is not all there, or
 * -errno. */
static int take_one(struct client *c, const struct nbd_disk *disk)
{
    struct option o;
    struct ask a;
    uint32_t flags;
    int ret;

    if (c->phase == FLAGS) {
        if (c->have < sizeof(flags))
            return 0;
        memcpy(&flags, c->bytes, sizeof(flags));
        c->short_header = be32toh(flags) & NO_ZEROES;
        c->phase = OPTIONS;
        return sizeof(flags);
    }
    if (c->phase == OPTIONS) {
        if (c->have < sizeof(o))
            return 0;
        memcpy(&o, c->bytes, sizeof(o));
        if (be64toh(o.magic) != MAGIC_OPTION || be32toh(o.length) > BUFFER - sizeof(o))
            return -EPIPE;
        if (c->have < sizeof(o) + be32toh(o.length))
            return 0;
        ret = take_option(c, disk, be32toh(o.option));
        return ret ?: (int)(sizeof(o) + be32toh(o.length));
    }
    if (c->have < sizeof(a))
        return 0;
    memcpy(&a, c->bytes, sizeof(a));
    ret = take_request(c, disk, &a);
    return ret ?: (int)sizeof(a);
}

static void drop(struct client *c, size_t n)
{
    c->have -= n;
    memmove(c->bytes, c->bytes + n, c->have);
}

/* False: it is over. */
static bool attend(struct client *c, const struct nbd_disk *disk)
{
    ssize_t n = recv(c->sock, c->bytes + c->have, BUFFER - c->have, MSG_DONTWAIT);
    int took = 1;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return false;
    c->have += (size_t)n;
    while (took > 0 && c->have) {
        size_t skip = (size_t)MIN(c->skip, (uint64_t)c->have);

        c->skip -= skip;
        drop(c, skip);
        took = c->have ? take_one(c, disk) : 0;
        if (took > 0)
            drop(c, (size_t)took);
    }
    return took >= 0;
}

static void welcome(struct client **clients, int listener)
{
    static const struct timeval patience = {.tv_sec = PATIENCE_S};
    const struct __attribute__((packed)) {
        char magic[8];
        uint64_t option;
        uint16_t flags;
    } hello = {{'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C'},
               htobe64(MAGIC_OPTION),
               htobe16(FIXED_NEWSTYLE | NO_ZEROES)};
    int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0)
        return;
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (!clients[i]) {
            clients[i] = xcalloc(1, sizeof(struct client));
            clients[i]->sock = sock;
            put(clients[i], &hello, sizeof(hello));
            return;
        }
    close(sock);
}

static void dismiss(struct client **client)
{
    close((*client)->sock);
    free(*client);
    *client = NULL;
}

int nbd_listen(const char *path, struct dt_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(addr.sun_path))
        errno = ENAMETOOLONG;
    else if (sock >= 0) {
        strcpy(addr.sun_path, path);
        if (bind(sock, (const struct sockaddr *)&addr, sizeof(addr)) == 0 &&
            listen(sock, MAX_CLIENTS) == 0)
            return sock;
    }
    dt_fail(err, -errno, "%s: cannot listen: %s", path, strerror(errno));
    if (sock >= 0)
        close(sock);
    return -EIO;
}

int nbd_serve(int listener, const struct nbd_disk *disk, pid_t child)
{
    struct client *clients[MAX_CLIENTS] = {0};
    _cleanup_close_ int ended = (int)syscall(SYS_pidfd_open, child, 0);
    int status = ended < 0 ? -errno : 0;

    while (ended >= 0) {
        struct pollfd fds[MAX_CLIENTS + 2] = {{.fd = ended, .events = POLLIN},
                                              {.fd = listener, .events = POLLIN}};

        for (unsigned i = 0; i < MAX_CLIENTS; i++)
            fds[i + 2] =
                (struct pollfd){.fd = clients[i] ? clients[i]->sock : -1, .events = POLLIN};
        if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
            break;
        for (unsigned i = 0; i < MAX_CLIENTS; i++)
            if (clients[i] && fds[i + 2].revents && !attend(clients[i], disk))
                dismiss(&clients[i]);
        if (fds[1].revents)
            welcome(clients, listener);
        if (fds[0].revents)
            break;
    }
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        if (clients[i])
            dismiss(&clients[i]);
    if (status == 0 && waitpid(child, &status, 0) < 0)
        status = -errno;
    return status;
}
