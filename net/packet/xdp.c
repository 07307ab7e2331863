/* SPDX-License-Identifier: MIT */
/*
 * xdp.c - which frames go to AF_XDP sockets: a program of the kernel's, before its network stack.
 *
 * Theory of operation: the program redirects what is for neither this host's address nor a group, to the socket of the queue
 * that it came by. The rest goes on to the stack, where the packet sockets take a copy: so this host keeps what is its own,
 * and the guest misses nothing, be it a frame longer than a socket's memory, or of a queue that has no socket.
 *
 * The program hangs on a link that is a descriptor of this process (BPF_LINK_CREATE), and is gone with it. The kernel
 * takes a process that died apart a little later than its successor begins, which therefore tries for a while.
 *
 * A tag that the driver took out of a frame is told beside it, and that neither the program nor the socket ever
 * learns: a frame of some VLAN would pass for one of none. Hence not on an interface that does this.
 */
#include "net/packet/internal.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>

#define BUSY_TRIES 100u /* a second */

/* ---- The program ---- */

#define INSN(c, d, s, o, i)                                                 \
    (struct bpf_insn)                                                       \
    {                                                                       \
        .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) \
    }
#define MOVE(d, s)          INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i)           INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i)           INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define AND(d, i)           INSN(BPF_ALU64 | BPF_AND | BPF_K, d, 0, 0, i)
#define LOAD(size, d, s, o) INSN(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define CALL(i)             INSN(BPF_JMP | BPF_CALL, 0, 0, 0, i)
#define RETURN()            INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* Jumps: @o instructions beyond the next. Comparisons with a constant are of 32 bits, as it is not extended then. */
#define JUMP_ABOVE(d, s, o)     INSN(BPF_JMP | BPF_JGT | BPF_X, d, s, o, 0)
#define JUMP_ABOVE_IMM(d, i, o) INSN(BPF_JMP32 | BPF_JGT | BPF_K, d, 0, o, i)
#define JUMP_SAME_IMM(d, i, o)  INSN(BPF_JMP32 | BPF_JEQ | BPF_K, d, 0, o, i)
#define JUMP_OTHER_IMM(d, i, o) INSN(BPF_JMP32 | BPF_JNE | BPF_K, d, 0, o, i)

static int failed(struct dt_error *err, int ret, const char *what)
{
    return dt_fail(err, ret, "%s: %s%s", what, strerror(-ret),
                   ret == -EPERM ? " (run as root, or with CAP_BPF and CAP_NET_ADMIN)" : "");
}

/* @begin and @end: of this host's address, as they are in memory. */
static int load_program(const struct raw *r, int32_t begin, uint16_t end)
{
    LIBBPF_OPTS(bpf_prog_load_opts, options, .prog_flags = BPF_F_XDP_HAS_FRAGS);
    const struct bpf_insn program[] = {
        MOVE(6, 1), /* struct xdp_md */
        CALL(BPF_FUNC_xdp_get_buff_len),
        JUMP_ABOVE_IMM(0, (int32_t)xq_most(r), 17),
        LOAD(BPF_W, 2, 6, offsetof(struct xdp_md, data)),
        LOAD(BPF_W, 3, 6, offsetof(struct xdp_md, data_end)),
        MOVE(4, 2),
        ADD(4, PORT_LEAST),
        JUMP_ABOVE(4, 3, 12),
        LOAD(BPF_W, 5, 2, 0), /* the address that it is for */
        LOAD(BPF_H, 4, 2, 4),
        JUMP_OTHER_IMM(5, begin, 1),
        JUMP_SAME_IMM(4, end, 8),
        AND(5, 1), /* of a group (IEEE 802.3) */
        JUMP_SAME_IMM(5, 1, 6),
        LOAD(BPF_W, 2, 6, offsetof(struct xdp_md, rx_queue_index)),
        INSN(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, r->xdp.map),
        INSN(0, 0, 0, 0, 0), /* its other half */
        SET(3, XDP_PASS),    /* where no socket is */
        CALL(BPF_FUNC_redirect_map),
        RETURN(),
        SET(0, XDP_PASS),
        RETURN(),
    };

    return bpf_prog_load(BPF_PROG_TYPE_XDP, "devtap", "MIT", program, ARRAY_SIZE(program),
                         &options);
}

static int make_program(struct raw *r, struct dt_error *err)
{
    int32_t begin;
    uint16_t end;

    memcpy(&begin, r->mac, sizeof(begin));
    memcpy(&end, r->mac + sizeof(begin), sizeof(end));
    r->xdp.map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "devtap", sizeof(uint32_t), sizeof(uint32_t),
                                THREADS_MAX, NULL);
    if (r->xdp.map < 0)
        return failed(err, r->xdp.map, "a map for AF_XDP sockets");
    r->xdp.program = load_program(r, begin, end);
    return r->xdp.program < 0 ? failed(err, r->xdp.program, "the XDP program") : 0;
}

/* ---- The interface ---- */

static int ethtool(const struct raw *r, void *command)
{
    struct ifreq request = {.ifr_data = command};

    memcpy(request.ifr_name, r->ifname, strlen(r->ifname));
    return ioctl(r->fds[0], SIOCETHTOOL, &request) < 0 ? -errno : 0;
}

static int refuse_hidden_tags(const struct raw *r, struct dt_error *err)
{
    struct ethtool_value flags = {.cmd = ETHTOOL_GFLAGS};

    if (ethtool(r, &flags) == 0 && flags.data & ETH_FLAG_RXVLAN)
        return dt_fail(err, -EOPNOTSUPP,
                       "the interface takes VLAN tags out of frames (ethtool -K %s rxvlan off)",
                       r->ifname);
    return 0;
}

/* Receive queues; those who cannot tell have one. */
static unsigned count_queues(const struct raw *r)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};

    return ethtool(r, &channels) < 0 ? 1 : MAX(channels.combined_count + channels.rx_count, 1u);
}

/* ---- Attaching ---- */

static int link_as(const struct raw *r, uint32_t mode)
{
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = mode);
    int fd;

    for (unsigned i = 0;; i++) {
        fd = bpf_link_create(r->xdp.program, (int)r->index, BPF_XDP, &options);
        if (fd != -EBUSY || i == BUSY_TRIES)
            return fd;
        usleep(10000);
    }
}

static int attach(struct raw *r, struct dt_error *err)
{
    r->xdp.native = true;
    r->xdp.link = link_as(r, XDP_FLAGS_DRV_MODE);
    if (r->xdp.link < 0 && r->xdp.link != -EBUSY) {
        r->xdp.native = false;
        r->xdp.link = link_as(r, XDP_FLAGS_SKB_MODE);
    }
    return r->xdp.link < 0
               ? dt_fail(
                     err, r->xdp.link, "attaching the XDP program: %s%s", strerror(-r->xdp.link),
                     r->xdp.link == -EBUSY ? " (the interface has one: another program's?)" : "")
               : 0;
}

static int open_sockets(struct raw *r, unsigned n, struct dt_error *err)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < n; i++) {
        for (unsigned tries = 0;; tries++) {
            ret = xq_new(&r->queues[i], r, i, err);
            if (ret != -EBUSY || tries == BUSY_TRIES)
                break;
            usleep(10000);
        }
        ret = ret ?: xq_join(r->queues[i], r->xdp.map, err);
    }
    return ret;
}

static int open_all(struct raw *r, unsigned n, struct dt_error *err)
{
    int ret = refuse_hidden_tags(r, err);

    ret = ret ?: make_program(r, err);
    ret = ret ?: attach(r, err);
    return ret ?: open_sockets(r, n, err);
}

int xdp_open(struct dt_layer *layer, struct raw *r, struct dt_error *err)
{
    unsigned queues = count_queues(r), n = MIN(queues, r->nfds);
    int ret = open_all(r, n, err);

    if (ret < 0) {
        xdp_close(r);
        return ret;
    }
    dt_layer_event(layer, "xdp", "%s: AF_XDP, %s%s, on %u of %u queues", r->ifname,
                   r->xdp.native ? "native" : "generic",
                   xq_zero_copy(r->queues[0]) ? " without copies" : "", n, queues);
    return 0;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void xdp_close(struct raw *r)
{
    close_one(&r->xdp.link);
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        xq_free(r->queues[i]);
        r->queues[i] = NULL;
    }
    close_one(&r->xdp.program);
    close_one(&r->xdp.map);
}
