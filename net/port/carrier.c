/* SPDX-License-Identifier: MIT */
/*
 * carrier.c - see carrier.h: rtnetlink(7), the group of links.
 *
 * The kernel says of every interface of the host when it changes. Where it had no room to say so (ENOBUFS) it is asked, as at
 * first, but only when all has been read: before that it drops its answer, too. Its answer is as what it says by itself.
 */
#include "net/port/carrier.h"

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define READ_MOST 64u /* messages at once */
#ifndef IFF_LOWER_UP  /* of linux/if.h, which net/if.h does not go with */
#define IFF_LOWER_UP 0x10000u
#endif

static int ask(const struct carrier *k)
{
    const struct {
        struct nlmsghdr head;
        struct ifinfomsg link;
    } request = {.head = {.nlmsg_len = sizeof(request),
                          .nlmsg_type = RTM_GETLINK,
                          .nlmsg_flags = NLM_F_REQUEST},
                 .link = {.ifi_family = AF_UNSPEC, .ifi_index = k->index}};

    return send(k->fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

static void set(struct carrier *k, uint8_t state)
{
    __atomic_store_n(&k->state, state, __ATOMIC_RELAXED);
}

/* Another network namespace has it now, of which nobody tells us here. */
static bool went_elsewhere(const struct nlmsghdr *head)
{
    struct rtattr *a = IFLA_RTA(NLMSG_DATA(head));
    unsigned n = IFLA_PAYLOAD(head);

    for (; RTA_OK(a, n); a = RTA_NEXT(a, n))
        if (a->rta_type == IFLA_NEW_NETNSID || a->rta_type == IFLA_NEW_IFINDEX)
            return true;
    return false;
}

static void take_link(struct carrier *k, const struct nlmsghdr *head)
{
    const struct ifinfomsg *link = NLMSG_DATA(head);
    /* Not IFF_RUNNING: that comes a moment after the carrier of a TAP interface which was just opened. */
    const unsigned needed = IFF_UP | IFF_LOWER_UP;

    if (head->nlmsg_len < NLMSG_LENGTH(sizeof(*link)) || link->ifi_index != k->index ||
        link->ifi_family != AF_UNSPEC) /* of AF_BRIDGE: it is a bridge's port, or is one no more */
        return;
    if (head->nlmsg_type == RTM_DELLINK)
        set(k, went_elsewhere(head) ? DT_LINK_UNKNOWN : DT_LINK_DOWN);
    else
        set(k, (link->ifi_flags & needed) == needed ? DT_LINK_UP : DT_LINK_DOWN);
}

static void take(struct carrier *k, const struct nlmsghdr *head)
{
    const struct nlmsgerr *refused = NLMSG_DATA(head);

    if (head->nlmsg_type == RTM_NEWLINK || head->nlmsg_type == RTM_DELLINK)
        take_link(k, head);
    else if (head->nlmsg_type == NLMSG_ERROR && head->nlmsg_len >= NLMSG_LENGTH(sizeof(*refused)))
        set(k, refused->error == -ENODEV ? DT_LINK_DOWN : DT_LINK_UNKNOWN); /* what ask() got */
}

/* Returns -errno: -EAGAIN when there is no more, 0 when there may be. */
static int read_one(struct carrier *k)
{
    _Alignas(struct nlmsghdr) char bytes[16384];
    struct sockaddr_nl from;
    socklen_t from_size = sizeof(from);
    ssize_t n = recvfrom(k->fd, bytes, sizeof(bytes), MSG_DONTWAIT, (void *)&from, &from_size);

    if (n < 0) {
        k->overrun |= errno == ENOBUFS;
        return errno == ENOBUFS || errno == EINTR ? 0 : -errno;
    }
    if (from_size != sizeof(from) || from.nl_pid != 0) /* another process, which may say anything */
        return 0;
    for (const struct nlmsghdr *head = (void *)bytes; NLMSG_OK(head, n); head = NLMSG_NEXT(head, n))
        take(k, head);
    return 0;
}

static int read_all(struct carrier *k)
{
    int ret = 0;

    for (unsigned i = 0; i < READ_MOST && ret == 0; i++) {
        ret = read_one(k);
        if (ret == -EAGAIN && k->overrun) {
            k->overrun = false;
            ret = ask(k);
        }
    }
    return ret;
}

void carrier_open(struct carrier *k, const char *name)
{
    const struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

    *k = (struct carrier){.state = DT_LINK_UNKNOWN};
    k->index = (int)if_nametoindex(name);
    k->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (k->index > 0 && k->fd >= 0 &&
        bind(k->fd, (const struct sockaddr *)&group, sizeof(group)) == 0 && ask(k) == 0)
        read_all(k); /* the kernel answers within send() */
    else
        carrier_close(k);
}

void carrier_close(struct carrier *k)
{
    if (k->fd >= 0)
        close(k->fd);
    k->fd = -1;
}

static void run_readable(struct dt_watch *watch, uint32_t events)
{
    struct carrier *k = container_of(watch, struct carrier, watch);
    uint8_t before = k->state;
    int ret = read_all(k);

    if (ret < 0 && ret != -EAGAIN) {
        set(k, DT_LINK_UNKNOWN);
        carrier_stop(k, k->c);
    }
    if (k->state != before)
        dt_layer_info_changed(k->c->layer);
}

void carrier_start(struct carrier *k, struct dt_ctx *c)
{
    k->c = c;
    k->watch = (struct dt_watch){.ready = run_readable, .fd = k->fd, .events = EPOLLIN};
    k->watching = k->fd >= 0 && dt_watch_add(c, &k->watch) == 0;
}

void carrier_stop(struct carrier *k, struct dt_ctx *c)
{
    if (k->watching && k->c == c)
        dt_watch_remove(c, &k->watch);
    k->watching = k->watching && k->c != c;
}
