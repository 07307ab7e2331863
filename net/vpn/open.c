/* SPDX-License-Identifier: MIT */
/* open.c - the socket, the peers, and what the card's frames may measure. See vpn.h. */
#include "net/vpn/vpn.h"

#include "net/port/address.h"
#include <netinet/udp.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/socket.h>

#define BIND_TRIES  100u /* a second: a worker that died a moment ago may still have the port */
#define QUEUE_BYTES (1 << 20) /* what may wait, where the system allows it */
#define ETHERNET    14u
#define TAGS        8u    /* two VLAN tags may come on top of what the guest was told */
#define LEAST       68u   /* of an IPv4 link (RFC 791) */
#define USUAL       1500u /* what a guest thinks that was told nothing */

/* ---- The socket ---- */

static int bind_patiently(int fd, const struct sockaddr *at, socklen_t size)
{
    for (unsigned i = 0; bind(fd, at, size) < 0; i++) {
        if (errno != EADDRINUSE || i == BIND_TRIES)
            return -errno;
        usleep(10000);
    }
    return 0;
}

static int make_socket(const struct sockaddr *at, socklen_t size)
{
    const int zero = 0, one = 1, bytes = QUEUE_BYTES;
    _cleanup_close_ int fd = socket(at->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int ret;

    if (fd < 0)
        return -errno;
    if (at->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    ret = bind_patiently(fd, at, size);
    return ret < 0 ? ret : TAKE_FD(fd);
}

static int bind_local(struct vpn *v, int *family, struct dt_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_DGRAM,
                                   .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *at;
    int ret = port_resolve(v->local, &hints, &at, err);

    if (ret < 0)
        return ret;
    *family = at->ai_family;
    v->fd = ret = make_socket(at->ai_addr, at->ai_addrlen);
    freeaddrinfo(at);
    return ret < 0 ? dt_fail(err, ret, "local=%s: %s", v->local, strerror(-ret)) : 0;
}

/* On all addresses, of both versions where the host has both. */
static int bind_port(struct vpn *v, uint16_t port, int *family, struct dt_error *err)
{
    const struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    const struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};

    *family = AF_INET6;
    v->fd = make_socket((const struct sockaddr *)&six, sizeof(six));
    if (v->fd == -EAFNOSUPPORT || v->fd == -EADDRNOTAVAIL) {
        *family = AF_INET;
        v->fd = make_socket((const struct sockaddr *)&four, sizeof(four));
    }
    return v->fd < 0 ? dt_fail(err, v->fd, "UDP port %u: %s", port, strerror(-v->fd)) : 0;
}

static int bind_any(struct vpn *v, const struct vpn_conf *conf, int *family, struct dt_error *err)
{
    if (v->local)
        return bind_local(v, family, err);
    if (conf->port)
        return bind_port(v, conf->port, family, err);
    return dt_fail(err, -EINVAL, "give local=HOST:PORT, or a ListenPort in %s", v->conf);
}

/* ---- Peers ---- */

static int resolve(struct vpn_peer *p, const char *text, int family, struct dt_error *err)
{
    const struct addrinfo hints = {.ai_family = family,
                                   .ai_socktype = SOCK_DGRAM,
                                   .ai_flags =
                                       AI_NUMERICSERV | (family == AF_INET6 ? AI_V4MAPPED : 0)};
    struct addrinfo *list;
    int ret = port_resolve(text, &hints, &list, err);

    if (ret < 0)
        return dt_fail_prefix(err, "peer %s", p->name), ret;
    memcpy(&p->address, list->ai_addr, MIN(sizeof(p->address), (size_t)list->ai_addrlen));
    p->has_address = true;
    freeaddrinfo(list);
    return 0;
}

static int make_peer(struct vpn *v, unsigned index, const struct vpn_conf_peer *conf, int family,
                     struct dt_error *err)
{
    struct vpn_peer *p = &v->mesh->peers[index];
    char text[sodium_base64_ENCODED_LEN(WG_KEY, sodium_base64_VARIANT_ORIGINAL)];

    p->vpn = v;
    p->index = index;
    p->tunnel = conf->tunnel;
    p->keepalive = conf->keepalive * DT_S(1);
    memcpy(p->remote.public_, conf->public_, WG_KEY);
    memcpy(p->remote.psk, conf->psk, WG_KEY);
    sodium_bin2base64(text, sizeof(text), conf->public_, WG_KEY, sodium_base64_VARIANT_ORIGINAL);
    snprintf(p->name, sizeof(p->name), "%.8s", text);
    if (memcmp(conf->public_, v->mesh->self.public_, WG_KEY) == 0)
        return dt_fail(err, -EINVAL, "%s:%u: this peer has our own key", v->conf, conf->line);
    if (wg_remote_init(&v->mesh->self, &p->remote) < 0)
        return dt_fail(err, -EINVAL, "%s:%u: PublicKey is no point of the curve that is safe",
                       v->conf, conf->line);
    if (vpn_macs_list(&v->macs, &conf->macs, index) < 0)
        return dt_fail(err, -ENOSPC, "%s:%u: there are too many MACs in all", v->conf, conf->line);
    return conf->endpoint[0] ? resolve(p, conf->endpoint, family, err) : 0;
}

static int make_mesh(struct vpn *v, const struct vpn_conf *conf, int family, struct dt_error *err)
{
    size_t size = sizeof(struct vpn_mesh) + conf->npeers * sizeof(struct vpn_peer);
    int ret = 0;

    /* Sizes that are no multiple of 16 would put it where it is not aligned: it ends at a page. */
    v->mesh = sodium_malloc(ALIGN_UP(size, (size_t)CACHE_LINE));
    if (!v->mesh)
        return dt_fail(err, -ENOMEM, "no memory for the keys of %u peers", conf->npeers);
    memset(v->mesh, 0, size);
    memcpy(v->mesh->self.private_, conf->private_, WG_KEY);
    wg_self_init(&v->mesh->self);
    v->mesh->tunnel = conf->tunnel;
    v->mesh->npeers = conf->npeers;
    vpn_macs_init(&v->macs);
    if (vpn_macs_list(&v->macs, &conf->macs, VPN_GUEST) < 0)
        ret = dt_fail(err, -ENOSPC, "%s: there are too many MACs in all", v->conf);
    for (unsigned i = 0; ret == 0 && i < conf->npeers; i++)
        ret = make_peer(v, i, &conf->peers[i], family, err);
    return ret;
}

/* ---- What fits ---- */

static bool is_six(const struct vpn_peer *p, int family)
{
    if (!p->has_address)
        return false;
    return family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&p->address.v6.sin6_addr);
}

/* The largest network packet, so that a datagram with the frame it is in fits the path to each peer. */
static int measure(struct vpn *v, int family, struct dt_error *err)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < v->mesh->npeers; i++) {
        const struct vpn_peer *p = &v->mesh->peers[i];
        uint32_t around = (is_six(p, family) ? 40u : 20u) + 8 + WG_OVERHEAD +
                          (p->tunnel ? VPN_GRE : 0) + ETHERNET;

        most = MAX(most, around);
    }
    if (v->mtu_given && v->mtu_given < LEAST)
        return dt_fail(err, -EINVAL, "mtu=%llu: 68 to 65000, or 0",
                       (unsigned long long)v->mtu_given);
    if (!v->mtu_given && v->path_mtu < most + LEAST)
        return dt_fail(err, -EINVAL, "path-mtu=%llu leaves no room for packets of 68 bytes",
                       (unsigned long long)v->path_mtu);
    v->mtu = (uint16_t)(v->mtu_given ?: v->path_mtu - most);
    v->fits = v->mtu + ETHERNET + TAGS;
    v->limit = MAX((uint32_t)v->mtu, USUAL) + ETHERNET + TAGS;
    return 0;
}

int vpn_open(struct dt_layer *layer, struct dt_error *err)
{
    struct vpn *v = dt_layer_data(layer);
    struct vpn_conf *conf;
    int family = AF_UNSPEC, ret = wg_hash_init(err);

    v->layer = layer;
    v->fd = -1;
    v->macs.hold = v->hold;
    ret = ret ?: vpn_conf_read(&conf, v->conf, err);
    if (ret < 0)
        return ret;
    v->cipher = wg_cipher_new();
    ret = v->cipher ? bind_any(v, conf, &family, err)
                    : dt_fail(err, -ENOTSUP, "OpenSSL has no ChaCha20-Poly1305 here");
    ret = ret ?: make_mesh(v, conf, family, err);
    ret = ret ?: measure(v, family, err);
    sodium_free(conf);
    if (ret < 0)
        vpn_close(layer);
    return ret;
}

void vpn_close(struct dt_layer *layer)
{
    struct vpn *v = dt_layer_data(layer);

    if (v->fd >= 0)
        close(TAKE_FD(v->fd));
    sodium_free(TAKE_PTR(v->mesh));
    wg_cipher_free(TAKE_PTR(v->cipher));
}
