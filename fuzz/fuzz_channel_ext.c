/* SPDX-License-Identifier: MIT */
/*
 * fuzz_channel_ext.c - a hostile worker: arbitrary messages and indices reach the extension's side
 * of a channel. Whatever comes, each event must be sound, and a broken protocol must end the
 * conversation.
 */
#include "channel/channel.h"
#include <devtap/channel.h>

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define SLOTS 8u
#define SUBS  2u
#define DATA  (64u << 10)
#define GUEST (16u << 10) /* each of two regions of its memory */

struct rig {
    struct channel_map map;
    struct dt_channel *ch;
    int sock;
};

/* The program is trusted with two pieces of the guest's memory; lists of vectors are wherever data may be. */
static void give_memory(struct rig *r)
{
    static const char *const texts[] = {
        "{\"region\":0,\"regions\":2,\"size\":16384,\"offset\":0,\"writable\":1}",
        "{\"region\":1,\"regions\":2,\"size\":16384,\"offset\":16384,\"writable\":1}",
    };
    struct channel_vector *list = (void *)r->map.data;
    struct dt_channel_event e;
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, 2 * GUEST) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
        CHECK(control_send(r->sock, CONTROL_MEMORY, 2 + i, texts[i], &fd, 1) == 0);
    CHECK(dt_channel_poll_control(r->ch, &e) == 0 && !dt_channel_ended(r->ch));
    close(fd);
    for (unsigned i = 0; i < DATA / sizeof(*list); i++)
        list[i] = (struct channel_vector){i % 17 == 16 ? i : i & 1, 512 << i % 3, 512 * (i % 33)};
}

static void open_rig(struct rig *r)
{
    const struct channel_shape shape = {SLOTS, SUBS, 4096, DATA};
    int pair[2], fds[3];
    struct dt_channel_event e;

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(dt_channel_open(&r->ch, pair[1], "{}", NULL) == 0);
    r->sock = pair[0];
    fds[0] = channel_create(&r->map, &shape, NULL);
    fds[1] = eventfd(0, EFD_NONBLOCK);
    fds[2] = eventfd(0, EFD_NONBLOCK);
    CHECK(control_send(r->sock, CONTROL_START, 1, "{}", fds, 3) == 0);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    CHECK(dt_channel_poll_control(r->ch, &e) == 1 && e.control == DT_CHANNEL_START);
    give_memory(r);
}

static void close_rig(struct rig *r)
{
    dt_channel_free(r->ch);
    channel_detach(&r->map);
    close(r->sock);
}

/* Touches all that the event claims to be there. */
static void use(struct dt_channel *ch, const struct dt_channel_event *e)
{
    const struct iovec *iov;
    unsigned n = dt_channel_vectors(ch, e->id, &iov);

    CHECK(n == 0 || (!e->data && dt_iov_length(iov, n) == e->bytes));
    for (unsigned i = 0; i < n; i++)
        memset(iov[i].iov_base, 4, iov[i].iov_len);
    if (e->data)
        memset(e->data, 1, e->bytes);
    if (e->below)
        memset(e->below, 2, e->bytes);
}

/* A packet's buffer is as large as it says. */
static void judge(struct dt_channel *ch, const struct dt_channel_event *e)
{
    struct dt_channel_verdict v = {.id = e->id, .decision = e->length % 3, .way = e->op};
    uint32_t room;
    void *data = dt_channel_packet(ch, e->id, &room);

    CHECK(e->id < SLOTS && data == e->data && room >= e->bytes && e->bytes <= e->length);
    memset(data, 5, room);
    v.length = e->bytes < e->length ? e->bytes : room;
    CHECK(dt_channel_verdict(ch, &v) == 0 && dt_channel_verdict(ch, &v) == -ENOENT);
}

static void answer(struct dt_channel *ch, const struct dt_channel_event *e)
{
    int id;

    switch (e->type) {
    case DT_CHANNEL_REQUEST:
        CHECK(e->id < SLOTS);
        use(ch, e);
        if (e->sector % 5 == 4)
            break; /* held until it is cancelled, if it ever is */
        if (e->sector % 3 == 0)
            dt_channel_complete(ch, e->id, -5);
        else
            dt_channel_forward(ch, e->id, e->sector, e->sector % 3 == 1);
        id = dt_channel_sub_new(ch, NULL, NULL);
        if (id >= 0 && dt_channel_sub_submit(ch, (uint32_t)id, e->op, 0, e->sector, e->sectors) < 0)
            dt_channel_sub_free(ch, (uint32_t)id);
        break;
    case DT_CHANNEL_RESPONSE:
        use(ch, e);
        dt_channel_complete(ch, e->id, e->error);
        break;
    case DT_CHANNEL_CANCEL:
        CHECK(e->id < SLOTS);
        use(ch, e);
        dt_channel_complete(ch, e->id, -ECANCELED);
        break;
    case DT_CHANNEL_PACKET:
        judge(ch, e);
        break;
    case DT_CHANNEL_SUB:
        memset(e->data, 3, 4096);
        dt_channel_sub_free(ch, e->id);
        break;
    default:
        if (e->fd >= 0)
            close(e->fd);
        break;
    }
}

/* The input: pairs of a byte that moves the index, and a message. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const size_t step = 1 + sizeof(struct channel_msg);
    struct dt_channel_event events[4];
    struct rig rig;
    uint32_t head = 0;

    open_rig(&rig);
    for (; size >= step; bytes += step, size -= step) {
        unsigned n;

        memcpy(&rig.map.down[head % rig.map.entries], bytes + 1, sizeof(struct channel_msg));
        head += bytes[0] < 250 ? 1 : (uint32_t)(int8_t)bytes[0];
        __atomic_store_n(&rig.map.header->down.head, head, __ATOMIC_RELEASE);
        while ((n = dt_channel_poll(rig.ch, events, ARRAY_SIZE(events))) > 0)
            for (unsigned i = 0; i < n; i++)
                answer(rig.ch, &events[i]);
        dt_channel_flush(rig.ch);
        if (dt_channel_ended(rig.ch))
            break;
    }
    /* What is left goes over the control socket. */
    send(rig.sock, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (dt_channel_poll_control(rig.ch, events))
        answer(rig.ch, events);
    close_rig(&rig);
    return 0;
}
