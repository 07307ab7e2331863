/* SPDX-License-Identifier: MIT */
#include "vhost_peer.h"
#include "vhost_record.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

static void peer_connect(struct peer *p, uint64_t protocol)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    p->sock = pair[0];
    p->stream = (struct vhost_stream){.sock = p->sock, .expect = VHOST_EXPECT_REPLIES};
    p->toy = toy_new(p->loop, pair[1], protocol);
}

struct peer *peer_new(uint64_t protocol)
{
    struct loop_config config = {.engine = LOOP_EPOLL};
    struct peer *p = xcalloc(1, sizeof(*p));
    struct dt_error err;

    CHECK(loop_new(&p->loop, &config, &err) == 0);
    p->mem_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(p->mem_fd >= 0 && ftruncate(p->mem_fd, PEER_MEM_SIZE) == 0);
    p->mem = mmap(NULL, PEER_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p->mem_fd, 0);
    CHECK(p->mem != MAP_FAILED);
    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        p->kick[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        p->call[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    peer_connect(p, protocol);
    return p;
}

void peer_record(struct peer *p, const char *name)
{
    p->record = record_open(name);
    p->shadow = p->record ? xcalloc(1, PEER_MEM_SIZE) : NULL;
}

static void peer_hang_up(struct peer *p)
{
    vhost_message_close_fds(&p->reply);
    vhost_stream_reset(&p->stream);
    close(p->sock);
    peer_turn(p);
    toy_free(p->toy);
}

void peer_free(struct peer *p)
{
    peer_hang_up(p);
    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        virtq_driver_fini(&p->driver[q]);
        close(p->kick[q]);
        close(p->call[q]);
    }
    munmap(p->mem, PEER_MEM_SIZE);
    close(p->mem_fd);
    if (p->record)
        fclose(p->record);
    free(p->shadow);
    loop_free(p->loop);
    free(p);
}

void peer_reconnect(struct peer *p, uint64_t protocol)
{
    record_plain(p->record, RECORD_RECONNECT, 0);
    peer_hang_up(p);
    peer_connect(p, protocol);
}

void peer_turn(struct peer *p)
{
    for (unsigned idle = 0; idle < 3;)
        idle = loop_turn(p->loop, false) ? 0 : idle + 1;
}

/* ---- Messages ---- */

void peer_send(struct peer *p, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
               const int *fds, unsigned nfds)
{
    struct vhost_message m = {
        .header = {.request = request, .flags = VHOST_VERSION | flags, .size = size}, .nfds = nfds};

    if (size)
        memcpy(m.raw, payload, size);
    if (nfds)
        memcpy(m.fds, fds, nfds * sizeof(*fds));
    record_changes(p->record, p, p->shadow);
    record_message(p->record, p, &m);
    vhost_send(p->sock, &m, 1000); /* fails where the session has ended; tests look at that */
    peer_turn(p);
}

void peer_empty(struct peer *p, uint32_t request)
{
    peer_send(p, request, 0, NULL, 0, NULL, 0);
}

void peer_u64(struct peer *p, uint32_t request, uint64_t value)
{
    peer_send(p, request, 0, &value, sizeof(value), NULL, 0);
}

void peer_state(struct peer *p, uint32_t request, uint32_t index, uint32_t num)
{
    uint32_t state[] = {index, num};

    peer_send(p, request, 0, state, sizeof(state), NULL, 0);
}

void peer_ring_fd(struct peer *p, uint32_t request, unsigned q, int fd)
{
    uint64_t value = q | (fd < 0 ? VHOST_RING_NO_FD : 0);

    peer_send(p, request, 0, &value, sizeof(value), &fd, fd < 0 ? 0 : 1);
}

bool peer_reply(struct peer *p)
{
    struct dt_error err;

    vhost_message_close_fds(&p->reply);
    if (vhost_stream_read(&p->stream, &err) != 1)
        return false;
    p->reply = p->stream.message;
    CHECK(p->reply.header.flags == 0x5);
    return true;
}

void peer_expect(struct peer *p, uint32_t request, uint32_t size)
{
    struct dt_error err;

    CHECK(peer_reply(p));
    CHECK(p->reply.header.request == request && p->reply.header.size == size);
    CHECK(vhost_stream_read(&p->stream, &err) == 0);
}

uint64_t peer_ack(struct peer *p, uint32_t request, const void *payload, uint32_t size,
                  const int *fds, unsigned nfds)
{
    peer_send(p, request, VHOST_NEED_REPLY, payload, size, fds, nfds);
    peer_expect(p, request, 8);
    return p->reply.u64;
}

uint64_t peer_ask_u64(struct peer *p, uint32_t request)
{
    peer_empty(p, request);
    peer_expect(p, request, 8);
    return p->reply.u64;
}

/* ---- Pieces ---- */

void peer_add_memory(struct peer *p)
{
    uint64_t slot[] = {0, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0};

    CHECK(peer_ack(p, VHOST_ADD_MEM_REG, slot, sizeof(slot), &p->mem_fd, 1) == 0);
}

void peer_remove_memory(struct peer *p)
{
    uint64_t slot[] = {0, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0};

    CHECK(peer_ack(p, VHOST_REM_MEM_REG, slot, sizeof(slot), NULL, 0) == 0);
}

void peer_memory_table(struct peer *p)
{
    uint64_t table[] = {1, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0};

    peer_send(p, VHOST_SET_MEM_TABLE, 0, table, sizeof(table), &p->mem_fd, 1);
}

void peer_ring_init(struct peer *p, unsigned q, uint16_t size, bool packed)
{
    virtq_driver_fini(&p->driver[q]);
    CHECK(virtq_driver_init(&p->driver[q], size, packed, false, p->mem + PEER_RING(q),
                            PEER_GPA + PEER_RING(q)) == 0);
}

void peer_addr(struct peer *p, unsigned q, uint32_t flags)
{
    const struct virtq_driver *d = &p->driver[q];
    uint64_t at = PEER_UVA + PEER_RING(q);
    struct {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
    } addr = {q,
              flags,
              at + d->desc_off,
              at + d->device_off,
              at + d->driver_off,
              PEER_GPA + PEER_RING(q) + d->device_off};

    peer_send(p, VHOST_SET_VRING_ADDR, 0, &addr, sizeof(addr), NULL, 0);
}

uint32_t peer_get_base(struct peer *p, unsigned q)
{
    peer_state(p, VHOST_GET_VRING_BASE, q, 0);
    peer_expect(p, VHOST_GET_VRING_BASE, 8);
    CHECK(p->reply.vring.index == q);
    return p->reply.vring.num;
}

void peer_negotiate(struct peer *p, uint64_t features, uint64_t protocol)
{
    peer_ask_u64(p, VHOST_GET_FEATURES);
    peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);
    peer_u64(p, VHOST_SET_PROTOCOL_FEATURES, protocol);
    peer_empty(p, VHOST_SET_OWNER);
    peer_u64(p, VHOST_SET_FEATURES, features);
}

void peer_start_ring(struct peer *p, unsigned q, uint16_t size, uint32_t base, bool packed)
{
    peer_ring_init(p, q, size, packed);
    peer_state(p, VHOST_SET_VRING_NUM, q, size);
    peer_state(p, VHOST_SET_VRING_BASE, q, base);
    peer_addr(p, q, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, q, p->kick[q]);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, q, p->call[q]);
    peer_state(p, VHOST_SET_VRING_ENABLE, q, 1);
}

void peer_offer(struct peer *p, unsigned q, unsigned n)
{
    struct virtq_buffer bufs[] = {{PEER_GPA + PEER_BUFFERS, 16},
                                  {PEER_GPA + PEER_BUFFERS + 512, 512}};

    for (unsigned i = 0; i < n; i++)
        CHECK(virtq_driver_add(&p->driver[q], bufs, 1, 1) >= 0);
    if (virtq_driver_publish(&p->driver[q]))
        eventfd_write(p->kick[q], 1);
    record_changes(p->record, p, p->shadow);
    record_plain(p->record, RECORD_KICK, (uint8_t)q);
    peer_turn(p);
}

unsigned peer_reap(struct peer *p, unsigned q)
{
    uint16_t ids[TOY_MAX_SIZE];
    int n = virtq_driver_reap(&p->driver[q], ids, NULL, ARRAY_SIZE(ids));

    CHECK(n >= 0);
    return (unsigned)n;
}

void peer_io(struct peer *p, unsigned q, unsigned n)
{
    while (n > 0) {
        unsigned some = MIN(n, p->driver[q].size / 4u);

        peer_offer(p, q, some);
        CHECK(peer_reap(p, q) == some);
        n -= some;
    }
}

void peer_broke(struct peer *p, const char *word)
{
    peer_turn(p);
    CHECK(!peer_alive(p) && p->toy->closes == 1);
    if (!strstr(p->toy->reason, word)) {
        log_error("broke with: %s", p->toy->reason);
        CHECK(!"the reason that was expected");
    }
}
