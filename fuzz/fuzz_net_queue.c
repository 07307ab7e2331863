/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_queue.c - a hostile program judges packets: arbitrary messages, indices and bytes reach the layer
 * `queue`. Whatever comes, each packet of the guest's ends exactly once, what leaves the chain is a frame whose
 * offloads its headers allow, and nothing outside of the channel's memory is touched.
 */
#include "tests/unit/net_rig.h"

#include "channel/channel.h"
#include <sys/socket.h>
#include <sys/un.h>

#define LENGTH 8u

static char path[64];

struct program {
    struct channel_map map;
    int sock, fds[3];
};

static void attach(struct program *p)
{
    static struct control_frame frame;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct dt_error err;

    strcpy(address.sun_path, path);
    p->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(connect(p->sock, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(control_send(p->sock, CONTROL_HELLO, 0, "{}", NULL, 0) == 0);
    for (unsigned i = 0; i < 8; i++)
        rig_turn();
    CHECK(control_recv(p->sock, &frame) == 1 && frame.type == CONTROL_INIT);
    CHECK(control_recv(p->sock, &frame) == 1 && frame.nfds == 3);
    memcpy(p->fds, frame.fds, sizeof(p->fds));
    CHECK(channel_attach(&p->map, p->fds[0], &err) == 0);
}

static void detach(struct program *p)
{
    channel_detach(&p->map);
    for (unsigned i = 0; i < 3; i++)
        close(p->fds[i]);
    close(p->sock);
}

/* Ordinary packets, and every other one a super-frame. */
static unsigned feed(void)
{
    static const struct dt_vnet_header tso = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                              .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                              .gso_size = 1000,
                                              .csum_start = 34,
                                              .csum_offset = 16};
    static struct frame f;
    unsigned sent = 0;

    for (unsigned i = 0; i < LENGTH; i++) {
        frame_ether(&f, 0x0800);
        frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
        frame_tcp(&f, 1, 2, 3, 0x10);
        frame_pattern(&f, i & 1 ? 5000 : 100);
        frame_end(&f);
        sent += rig_send(f.bytes, f.n, i & 1 ? &tso : NULL, DT_OFFLOAD_ALL);
        rig_arrive(f.bytes, f.n, NULL);
    }
    return sent;
}

static void check_frames(const struct rig_list *list)
{
    for (unsigned i = 0; i < list->n; i++) {
        struct dt_headers h;

        CHECK(list->frames[i].length >= 14 && list->frames[i].length <= NET_MAX_FRAME);
        dt_parse(&h, list->frames[i].data, list->frames[i].length);
        CHECK(!list->frames[i].needs || h.flags & (DT_HDR_TCP | DT_HDR_UDP));
    }
}

/* The input: pairs of a byte that moves the index, and a message; of small ids, most of them are there. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const size_t step = 1 + sizeof(struct channel_msg);
    struct program p;
    unsigned fed;
    uint32_t head = 0;
    char chain[160];

    snprintf(path, sizeof(path), "/tmp/devtap-fuzz-queue-%d", (int)getpid());
    snprintf(chain, sizeof(chain), "queue socket=%s length=%u super=on on-death=accept | wire",
             path, LENGTH);
    rig_start(chain);
    attach(&p);
    fed = feed();
    rig_turn();
    for (; size >= step; bytes += step, size -= step) {
        const uint64_t one = 1;

        memset(p.map.data + bytes[0] * 64, bytes[0], 64); /* it writes while we read */
        memcpy(&p.map.up[head % p.map.entries], bytes + 1, sizeof(struct channel_msg));
        head += bytes[0] < 250 ? 1 : (uint32_t)(int8_t)bytes[0];
        __atomic_store_n(&p.map.header->up.head, head, __ATOMIC_RELEASE);
        CHECK(write(p.fds[2], &one, sizeof(one)) == sizeof(one));
        rig_turn();
    }
    send(p.sock, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    rig_turn();
    detach(&p);
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
    CHECK(rig.sent == fed);
    check_frames(&rig.wire);
    check_frames(&rig.guest);
    rig_stop();
    unlink(path);
    return 0;
}
