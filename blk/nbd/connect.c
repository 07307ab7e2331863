/* SPDX-License-Identifier: MIT */
/*
 * connect.c - from a URI to a connection, and what the server says of the disk.
 *
 * The socket is ours, and libnbd is given it, or with TLS one end of a line (tls.c), which its
 * handle has as private data. Names are resolved once at the start, later by whoever connects.
 */
#include "blk/nbd/internal.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/un.h>
#include <time.h>

/* A peer that vanished without a word is noticed after about this long. */
#define SILENCE_S 30

#define MAX_SECTORS (1u << (20 - DT_SECTOR_SHIFT)) /* of a READ or WRITE: what a buffer holds */
#define MAX_RANGE   (1u << (30 - DT_SECTOR_SHIFT)) /* of a discard: any server's 32 bits hold it */

/* ---- Dialling -------------------------------------------------------------------------------- */

int remote_announce(struct remote *r, struct dt_error *err)
{
    bool colons = r->uri.host && strchr(r->uri.host, ':');
    int n = r->uri.path ? snprintf(r->address, sizeof(r->address), "unix:%s", r->uri.path)
                        : snprintf(r->address, sizeof(r->address),
                                   colons ? "tcp:[%s]:%s" : "tcp:%s:%s", r->uri.host, r->uri.port);
    struct sockaddr_un sun;

    if (r->uri.path && strlen(r->uri.path) >= sizeof(sun.sun_path))
        return dt_fail(err, -ENAMETOOLONG, "the path of the socket is longer than %zu bytes",
                       sizeof(sun.sun_path) - 1);
    if (n >= (int)sizeof(r->address))
        return dt_fail(err, -ENAMETOOLONG, "the server's name is too long");
    return dt_layer_may_connect(r->layer, r->address, err);
}

int remote_resolve(struct remote *r, struct dt_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int ret;

    if (r->uri.path)
        return 0;
    ret = getaddrinfo(r->uri.host, r->uri.port, &hints, &r->addresses);
    return ret ? dt_fail(err, -EHOSTUNREACH, "the server '%s' is not known: %s", r->uri.host,
                         gai_strerror(ret))
               : 0;
}

static void tune_tcp(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},
                   {SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, SILENCE_S / 3},
                   {IPPROTO_TCP, TCP_KEEPINTVL, SILENCE_S / 6},
                   {IPPROTO_TCP, TCP_KEEPCNT, 4},
                   {IPPROTO_TCP, TCP_USER_TIMEOUT, SILENCE_S * 1000}};

    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static int connecting(int family, const struct sockaddr *address, socklen_t length)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    if (family != AF_UNIX)
        tune_tcp(fd);
    if (connect(fd, address, length) < 0 && errno != EINPROGRESS) {
        int error = errno;

        close(fd);
        return -error;
    }
    return fd;
}

static unsigned count_addresses(const struct remote *r)
{
    unsigned n = 0;

    for (const struct addrinfo *a = r->addresses; a; a = a->ai_next)
        n++;
    return MAX(n, 1u);
}

/* A socket that is connecting to the server, or -errno. A name may have several addresses: the next
 * one at the next call. */
static int dial_socket(struct remote *r)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    const struct addrinfo *a = r->addresses;

    if (r->uri.path) {
        strcpy(sun.sun_path, r->uri.path); /* its length was judged */
        return connecting(AF_UNIX, (struct sockaddr *)&sun, sizeof(sun));
    }
    for (unsigned i = r->next_address++ % count_addresses(r); i > 0; i--)
        a = a->ai_next;
    return connecting(a->ai_family, a->ai_addr, a->ai_addrlen);
}

/* What libnbd says begins with the name of its function. */
static const char *library_reason(void)
{
    const char *text = nbd_get_error() ?: "the connection ended", *colon = strstr(text, ": ");

    return strncmp(text, "nbd_", 4) == 0 && colon ? colon + 2 : text;
}

static struct tls_line *line_of(struct nbd_handle *h)
{
    return (struct tls_line *)nbd_get_private_data(h);
}

const char *remote_reason(struct nbd_handle *h)
{
    return tls_line_reason(line_of(h)) ?: library_reason();
}

static int library_failed(struct dt_error *err)
{
    return dt_fail(err, -(nbd_get_errno() ?: EIO), "%.200s", library_reason());
}

static int handle_failed(struct nbd_handle *h, struct dt_error *err)
{
    return dt_fail(err, -(nbd_get_errno() ?: EIO), "%.230s", remote_reason(h));
}

void remote_drop(struct nbd_handle *h)
{
    struct tls_line *line = line_of(h);

    nbd_close(h);
    tls_line_free(line);
}

int remote_dial(struct remote *r, int fd, struct nbd_handle **out, struct dt_error *err)
{
    struct nbd_handle *h = nbd_create();
    struct tls_line *line = NULL;
    int ret = 0;

    if (!h) {
        close(fd);
        return library_failed(err);
    }
    if (r->keys)
        ret = tls_line_new(&line, r->keys, fd, &fd, err);
    if (ret < 0) {
        nbd_close(h);
        return ret;
    }
    nbd_set_private_data(h, (uintptr_t)line);
    /* Commands are judged by core and by the server's own limits: twice is enough. */
    nbd_set_strict_mode(h, LIBNBD_STRICT_COMMANDS | LIBNBD_STRICT_FLAGS);
    nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION); /* a wish: not every server has it */
    nbd_set_pread_initialize(h, false); /* a failed read is failed: nobody looks at its buffer */
    if (nbd_set_export_name(h, r->uri.export) < 0) {
        close(fd);
        ret = library_failed(err);
    } else if (nbd_aio_connect_socket(h, fd) < 0) {
        ret = library_failed(err);
    }
    if (ret < 0) {
        remote_drop(h);
        return ret;
    }
    *out = h;
    return 0;
}

static int wait_ready(struct nbd_handle *h, uint64_t deadline, struct dt_error *err)
{
    while (!nbd_aio_is_ready(h)) {
        uint64_t now = dt_clock_ns();

        if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h))
            return handle_failed(h, err);
        if (now >= deadline)
            return dt_fail(err, -ETIMEDOUT, "it does not answer");
        if (nbd_poll(h, (int)((deadline - now) / DT_MS(1)) + 1) < 0)
            return handle_failed(h, err);
    }
    return 0;
}

/* What can be done about it. */
static void advise(const struct remote *r, struct dt_error *err, int error)
{
    const char *advice = "";
    char what[260];

    snprintf(what, sizeof(what), "%.255s", err->text);
    if (strstr(err->text, "TLS") || strstr(err->text, "gnutls"))
        advice = r->uri.tls ? " (look at tls-certificates= or tls-psk-file= in the URI, and at the "
                              "server's own)"
                            : " (if the server wants TLS, write nbds:// or nbds+unix://)";
    else if (error == -ECONNREFUSED ||
             (error == -ENOENT && r->uri.path && access(r->uri.path, F_OK) < 0))
        advice = " (nobody listens there: start the server, or wait for it with connect-timeout=)";
    else if (error == -ENOENT || strstr(err->text, "export"))
        advice = " (`nbdinfo --list` shows what the server exports)";
    dt_fail(err, error, "%.120s: %s%s", r->text, what, advice);
}

int remote_connect(struct remote *r, struct nbd_handle **h, uint64_t deadline, struct dt_error *err)
{
    const uint64_t least = dt_clock_ns() + DT_S(5); /* a server that is there may be busy */
    int ret;

    for (unsigned tries = 1;; tries++) {
        int fd = dial_socket(r);

        ret = fd < 0 ? dt_fail(err, fd, "%s", strerror(-fd)) : remote_dial(r, fd, h, err);
        if (ret == 0) {
            ret = wait_ready(*h, MAX(deadline, least), err);
            if (ret == 0)
                return 0;
            remote_drop(TAKE_PTR(*h));
        }
        if (tries % count_addresses(r))
            continue;
        if (dt_clock_ns() >= deadline)
            break;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = DT_MS(50)}, NULL);
    }
    advise(r, err, ret);
    return ret;
}

void remote_hang_up(struct nbd_handle *h)
{
    uint64_t deadline = dt_clock_ns() + DT_S(1);

    if (!h)
        return;
    if (nbd_aio_is_ready(h) && nbd_aio_disconnect(h, 0) == 0)
        while (!nbd_aio_is_closed(h) && !nbd_aio_is_dead(h) && dt_clock_ns() < deadline)
            if (nbd_poll(h, 100) < 0)
                break;
    remote_drop(h);
}

/* ---- What the disk is ------------------------------------------------------------------------ */

static uint32_t power_of_two_below(uint64_t n)
{
    uint32_t p = DT_SECTOR_SIZE;

    while (p < 1u << 30 && p <= n / 2)
        p *= 2;
    return p;
}

static int learn_blocks(struct remote *r, struct nbd_handle *h, struct dt_error *err)
{
    int64_t least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED);
    int64_t most = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    struct dt_block_info *info = &r->info;

    if (least > PAGE_SIZE_4K)
        return dt_fail(err, -EINVAL,
                       "%.120s: the server wants blocks of %lld bytes; a guest knows "
                       "512 and 4096 (nbdkit's blocksize filter helps)",
                       r->text, (long long)least);
    info->logical_block = least > DT_SECTOR_SIZE ? PAGE_SIZE_4K : DT_SECTOR_SIZE;
    info->physical_block = info->logical_block;
    if (preferred > info->physical_block)
        info->physical_block = MIN(power_of_two_below((uint64_t)preferred), PAGE_SIZE_4K);
    if (preferred > PAGE_SIZE_4K)
        info->optimal_io = power_of_two_below((uint64_t)preferred);
    info->max_sectors = MAX_SECTORS;
    if (most > 0 && most < (int64_t)MAX_SECTORS << DT_SECTOR_SHIFT)
        info->max_sectors = power_of_two_below((uint64_t)most) >> DT_SECTOR_SHIFT;
    return 0;
}

void remote_limits(struct dt_block_info *info)
{
    info->max_sectors = MIN(info->max_sectors, MAX_SECTORS);
    info->max_discard = info->max_write_zeroes = MAX_RANGE;
    info->discard_align = info->physical_block >> DT_SECTOR_SHIFT;
    info->write_zeroes_unmaps = info->can_write_zeroes;
}

int remote_learn(struct remote *r, struct nbd_handle *h, struct dt_error *err)
{
    struct dt_block_info *info = &r->info;
    int64_t bytes = nbd_get_size(h);
    int ret = learn_blocks(r, h, err);

    if (ret < 0)
        return ret;
    if (bytes <= 0 || bytes % info->logical_block)
        return dt_fail(err, -EINVAL,
                       "%.120s: its size, %lld bytes, is not a multiple of %u "
                       "(nbdkit's truncate filter helps)",
                       r->text, (long long)bytes, info->logical_block);
    info->sectors = (uint64_t)bytes >> DT_SECTOR_SHIFT;
    info->read_only = r->read_only || nbd_is_read_only(h) > 0;
    info->rotational = nbd_is_rotational(h) > 0;
    info->can_flush = nbd_can_flush(h) > 0;
    info->can_discard = !info->read_only && nbd_can_trim(h) > 0;
    info->can_write_zeroes = !info->read_only && nbd_can_zero(h) > 0;
    remote_limits(info);
    r->fua = nbd_can_fua(h) > 0;
    r->multi = nbd_can_multi_conn(h) > 0;
    r->maps = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

int remote_same(const struct remote *r, struct nbd_handle *h, struct dt_error *err)
{
    const struct dt_block_info *info = &r->info;
    int64_t bytes = nbd_get_size(h), least = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);

    if (bytes < 0 || (uint64_t)bytes != info->sectors << DT_SECTOR_SHIFT)
        return dt_fail(err, -EBADMSG, "its size has changed from %llu bytes to %lld",
                       (unsigned long long)(info->sectors << DT_SECTOR_SHIFT), (long long)bytes);
    if (!info->read_only && nbd_is_read_only(h) > 0)
        return dt_fail(err, -EROFS, "it has become read-only");
    if (least > info->logical_block)
        return dt_fail(err, -EBADMSG, "it now wants blocks of %lld bytes", (long long)least);
    if ((info->can_flush && nbd_can_flush(h) <= 0) || (r->fua && nbd_can_fua(h) <= 0) ||
        (info->can_discard && nbd_can_trim(h) <= 0) ||
        (info->can_write_zeroes && nbd_can_zero(h) <= 0) ||
        (r->connections > 1 && nbd_can_multi_conn(h) <= 0))
        return dt_fail(err, -EOPNOTSUPP, "it can do less than before");
    return 0;
}
