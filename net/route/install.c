/* SPDX-License-Identifier: MIT */
/*
 * install.c - the guest's addresses in the host's routing tables, by rtnetlink(7).
 *
 * A route is never put in the place of another one: two cards with one address would take it from each other. Only that of
 * a worker that died a moment ago is waited for, which goes with its interface. Nothing has to be removed at the end, and nothing
 * stays behind after a kill: the interface ends with the process, and its routes with the interface.
 */
#include "net/route/internal.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define BUSY_TRIES 100u /* a second */

/* ---- The interface ---- */

static int change(int sock, unsigned long what, const char *verb, struct ifreq *request,
                  const struct route *r, struct dt_error *err)
{
    memcpy(request->ifr_name, r->name, IFNAMSIZ);
    return ioctl(sock, what, request) < 0
               ? dt_fail(err, -errno, "interface '%s': it cannot be %s: %s", r->name, verb,
                         strerror(errno))
               : 0;
}

static int bring_up(const struct route *r, struct dt_error *err)
{
    _cleanup_close_ int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq mtu = {.ifr_mtu = (int)r->mtu}, flags = {.ifr_flags = IFF_UP};
    int ret;

    if (sock < 0)
        return dt_fail(err, -errno, "socket: %s", strerror(errno));
    ret = change(sock, SIOCSIFMTU, "given that mtu", &mtu, r, err);
    return ret ?: change(sock, SIOCSIFFLAGS, "set up", &flags, r, err);
}

/* ---- Routes ---- */

static void mask(uint8_t *bytes, unsigned length, unsigned bits)
{
    for (unsigned i = 0; i < length; i++) {
        unsigned keep = bits >= 8 * (i + 1) ? 8 : bits <= 8 * i ? 0 : bits - 8 * i;

        bytes[i] &= (uint8_t)(0xff00 >> keep);
    }
}

/* One question of the kernel's, and its answer; 0 or -errno. */
static int ask(struct mnl_socket *nl, struct nlmsghdr *message)
{
    static unsigned sequence;
    char answer[1024];
    ssize_t n;

    message->nlmsg_seq = ++sequence;
    if (mnl_socket_sendto(nl, message, message->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(nl, answer, sizeof(answer));
    if (n < 0 || mnl_cb_run(answer, (size_t)n, sequence, mnl_socket_get_portid(nl), NULL, NULL) < 0)
        return -errno;
    return 0;
}

static int add(struct mnl_socket *nl, const struct prefix *p, bool v6, unsigned index)
{
    char buffer[512];
    struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
    struct rtmsg *route = mnl_nlmsg_put_extra_header(message, sizeof(*route));
    uint8_t address[16];

    memcpy(address, p->bytes, 16);
    mask(address, v6 ? 16 : 4, p->bits);
    message->nlmsg_type = RTM_NEWROUTE;
    message->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    route->rtm_family = v6 ? AF_INET6 : AF_INET;
    route->rtm_dst_len = p->bits;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = RTPROT_STATIC;
    route->rtm_scope = v6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    route->rtm_type = RTN_UNICAST;
    mnl_attr_put(message, RTA_DST, v6 ? 16 : 4, address);
    mnl_attr_put_u32(message, RTA_OIF, index);
    return ask(nl, message);
}

static int add_or_wait(struct mnl_socket *nl, const struct prefix *p, bool v6, const char *name,
                       struct dt_error *err)
{
    unsigned index = if_nametoindex(name);
    char text[INET6_ADDRSTRLEN] = "";
    int ret;

    for (unsigned i = 0; (ret = add(nl, p, v6, index)) == -EEXIST && i < BUSY_TRIES; i++)
        usleep(10000);
    if (ret == 0)
        return 0;
    inet_ntop(v6 ? AF_INET6 : AF_INET, p->bytes, text, sizeof(text));
    return dt_fail(err, ret, "route to %s/%u: %s%s", text, p->bits, strerror(-ret),
                   ret == -EEXIST ? " (another card's, or a route of the host's own)" : "");
}

static int add_all(struct mnl_socket *nl, const struct route *r, struct dt_error *err)
{
    int ret = mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID);

    if (ret < 0)
        return dt_fail(err, -errno, "netlink: %s", strerror(errno));
    for (unsigned i = 0; ret == 0 && i < r->own4.n; i++)
        ret = add_or_wait(nl, &r->own4.list[i], false, r->name, err);
    for (unsigned i = 0; ret == 0 && i < r->own6.n; i++)
        ret = add_or_wait(nl, &r->own6.list[i], true, r->name, err);
    return ret;
}

int route_install(const struct route *r, struct dt_error *err)
{
    struct mnl_socket *nl;
    int ret = bring_up(r, err);

    if (ret < 0)
        return ret;
    nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!nl)
        return dt_fail(err, -errno, "netlink: %s", strerror(errno));
    ret = add_all(nl, r, err);
    mnl_socket_close(nl);
    return ret;
}
