/* SPDX-License-Identifier: MIT */
/*
 * fuzz_transfer.c - a lying keeper sends its session to an honest one, which a worker then serves.
 * The input spoils bytes of a right state (u16 offset, u8 value each, up to an offset of 0xffff),
 * and then chooses for each descriptor in turn which kind it claims to be. Memory, eventfds and
 * sockets are real, so that lies go far.
 */
#include "fuzz/keeper.h"

#include "base/packet.h"
#include "vhost/transfer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define UVA 0x7f0000000000ull

/* A session with one ring that runs. */
static void right_state(struct transfer_state *s)
{
    *s = (struct transfer_state){
        .magic = TRANSFER_MAGIC,
        .version = TRANSFER_VERSION,
        .size = sizeof(*s),
        .attached = 1,
        .have_floor = 1,
        .lost_at = 1,
        .floor = link_device_floor(7),
        .session = {
            .magic = VHOST_STATE_MAGIC,
            .version = VHOST_STATE_VERSION,
            .features = 1ull << VIRTIO_F_VERSION_1,
            .features_set = 1,
            .region_count = 1,
            .region_uses = {1},
            .regions = {{0x10000, KEEPER_MEMORY, UVA, 0}},
            .inflight = {.mmap_size = KEEPER_MEMORY / 2, .num_queues = 1, .queue_size = 256},
            .log_size = 4096,
            .queues = {{.size = 16,
                        .have_addr = 1,
                        .have_kick = 1,
                        .enabled = 1,
                        .started = 1,
                        .desc = UVA,
                        .avail = UVA + 0x1000,
                        .used = UVA + 0x2000}}}};
}

static size_t spoil(struct transfer_state *s, const uint8_t *data, size_t size)
{
    size_t at = 0;

    while (at + 3 <= size) {
        unsigned offset = data[at] | data[at + 1] << 8;

        at += 3;
        if (offset == 0xffff)
            break;
        ((uint8_t *)s)[offset % sizeof(*s)] = data[at - 1];
    }
    return at;
}

static void send_fd(int sock, uint32_t kind, uint32_t index, int fd)
{
    const struct transfer_packet packet = {kind, index};

    packet_send(sock, &packet, sizeof(packet), fd);
}

/* As transfer_send() does; where the input has something to say, it is obeyed. */
static void send_state(int sock, const struct transfer_state *state, const uint8_t *data,
                       size_t size)
{
    int front[2], fd = memfd_create("state", 0), log_file = memfd_create("log", 0);

    CHECK(fd >= 0 && log_file >= 0 && ftruncate(log_file, KEEPER_MEMORY) == 0);
    CHECK(write(fd, state, sizeof(*state)) == sizeof(*state));
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, front) == 0);
    const struct {
        uint32_t kind, index;
        int fd;
    } usual[] = {{TRANSFER_STATE, 0, fd},          {TRANSFER_SOCKET, 0, front[0]},
                 {TRANSFER_INFLIGHT, 0, log_file}, {TRANSFER_REGION, 0, memory},
                 {TRANSFER_KICK, 0, event},        {TRANSFER_CALL, 0, event},
                 {TRANSFER_LOG, 0, log_file},      {TRANSFER_END, 0, -1}};

    for (unsigned i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        uint8_t lie = i < size ? data[i] : 0;

        send_fd(sock, lie ? lie % 16 : usual[i].kind, lie ? lie / 16 : usual[i].index, usual[i].fd);
    }
    close(front[1]);
    close(front[0]);
    close(fd);
    close(log_file);
}

static void serve(struct vhost_proxy *proxy)
{
    struct link_device device;
    int fds[2];

    CHECK(packet_pair(fds) == 0);
    CHECK(link_device_new(&device, loop, fds[0], NULL) == 0);
    CHECK(vhost_proxy_link(proxy, fds[1], true, NULL) == 0);
    keeper_turn();
    vhost_proxy_thaw(proxy);
    keeper_turn();
    vhost_proxy_close(proxy);
    keeper_turn();
    vhost_proxy_free(proxy);
    keeper_turn();
    vhost_remote_free(device.remote);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vhost_proxy *proxy;
    struct transfer_state state;
    struct transfer *t;
    struct dt_error err;
    size_t used;
    int fds[2];

    keeper_begin();
    right_state(&state);
    used = spoil(&state, data, size);
    CHECK(packet_pair(fds) == 0);
    send_state(fds[0], &state, data + used, size - used);
    proxy = keeper_new();
    t = transfer_new();
    if (transfer_receive(fds[1], t, &err) == 1 && vhost_proxy_adopt(proxy, t, &err) == 0)
        serve(proxy);
    else
        vhost_proxy_free(proxy);
    transfer_free(t, true);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
