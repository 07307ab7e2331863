/* SPDX-License-Identifier: MIT */
/*
 * fuzz_vhost.c - a hostile front end and a hostile guest: messages with descriptors of any kind,
 * writes into guest memory between them, and a device that is slow or dies, against a back-end
 * session.
 *
 * Invariants: what the device holds is what the ring says is in flight; every session ends when
 * its peer hangs up, with all rings stopped and no memory mapped; no descriptor is left.
 * See vhost_record.h for the format of the input.
 */
#include "tests/unit/fds.h"
#include "tests/unit/vhost_peer.h"
#include "tests/unit/vhost_record.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define MAX_RECORDS 400u
#define REGION_SIZE (1u << 20)

struct fuzz {
    struct toy *toy;
    int sock;
    struct vhost_stream stream;
    int fds[RECORD_FDS];
};

static struct loop *loop;
static uint8_t *memory;
static int memory_fd = -1;

static void begin_process(void)
{
    struct loop_config config = {.engine = LOOP_EPOLL};
    struct dt_error err;

    if (loop)
        return;
    CHECK(loop_new(&loop, &config, &err) == 0);
    memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(memory_fd >= 0 && ftruncate(memory_fd, PEER_MEM_SIZE) == 0);
    memory = mmap(NULL, PEER_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    CHECK(memory != MAP_FAILED);
}

static void connect_session(struct fuzz *f)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    f->sock = pair[0];
    f->stream = (struct vhost_stream){.sock = f->sock, .expect = VHOST_EXPECT_REPLIES};
    f->toy = toy_new(loop, pair[1], PROTOCOL_ALL);
}

static void hang_up(struct fuzz *f)
{
    vhost_stream_reset(&f->stream);
    close(f->sock);
    toy_free(f->toy);
}

static void open_fds(struct fuzz *f)
{
    int pipes[2];

    for (unsigned i = 0; i < 2 * TOY_QUEUES; i++)
        f->fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->fds[RECORD_FD_MEMORY] = dup(memory_fd);
    f->fds[RECORD_FD_REGION] = memfd_create("region", MFD_CLOEXEC);
    CHECK(ftruncate(f->fds[RECORD_FD_REGION], REGION_SIZE) == 0);
    f->fds[RECORD_FD_SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    f->fds[RECORD_FD_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0);
    f->fds[RECORD_FD_PIPE] = pipes[1];
    close(pipes[0]);
}

/* ---- Records ---- */

static void send_message(struct fuzz *f, uint8_t arg, const uint8_t *bytes, size_t len)
{
    struct vhost_message m = {.header = {.flags = VHOST_VERSION}};
    unsigned first = arg % 16;

    if (len < 2)
        return;
    m.header.request = bytes[0];
    m.header.flags |= bytes[1] & VHOST_NEED_REPLY; /* wrong headers come as raw bytes */
    m.header.size = (uint32_t)MIN(len - 2, sizeof(m.raw));
    memcpy(m.raw, bytes + 2, m.header.size);
    for (m.nfds = 0; m.nfds < MIN(arg / 16u, VHOST_MAX_FDS); m.nfds++)
        m.fds[m.nfds] = f->fds[(first + m.nfds) % RECORD_FDS];
    vhost_send(f->sock, &m, 0);
}

static void write_region(struct fuzz *f, const uint8_t *bytes, size_t len)
{
    uint32_t at;

    if (len < sizeof(at))
        return;
    memcpy(&at, bytes, sizeof(at));
    if (pwrite(f->fds[RECORD_FD_REGION], bytes + sizeof(at), len - sizeof(at), at % REGION_SIZE) <
        0)
        return; /* sealed against growing */
}

static void write_memory(const uint8_t *bytes, size_t len)
{
    uint32_t at;

    if (len < sizeof(at))
        return;
    memcpy(&at, bytes, sizeof(at));
    at %= PEER_MEM_SIZE;
    memcpy(memory + at, bytes + sizeof(at), MIN(len - sizeof(at), PEER_MEM_SIZE - at));
}

static void device(struct fuzz *f, uint8_t arg)
{
    f->toy->hold = arg & 1;
    f->toy->slow = arg & 2;
    if (arg & 4)
        toy_complete(f->toy);
    if (arg & 8)
        toy_answer(f->toy);
    if (arg & 16)
        toy_abandon(f->toy);
}

static void play(struct fuzz *f, const struct record_header *h, const uint8_t *bytes, size_t len)
{
    switch (h->kind % RECORD_KINDS) {
    case RECORD_MESSAGE:
        send_message(f, h->arg, bytes, len);
        break;
    case RECORD_RAW:
        if (send(f->sock, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            return;
        break;
    case RECORD_MEMORY:
        write_memory(bytes, len);
        break;
    case RECORD_REGION:
        write_region(f, bytes, len);
        break;
    case RECORD_KICK:
        eventfd_write(f->fds[RECORD_FD_KICK + h->arg % TOY_QUEUES], 1);
        break;
    case RECORD_DEVICE:
        device(f, h->arg);
        break;
    case RECORD_RECONNECT:
        hang_up(f);
        connect_session(f);
        break;
    }
}

/* An in-flight region that the back end made is what comes back to it later. */
static void take_replies(struct fuzz *f)
{
    while (vhost_stream_read(&f->stream, NULL) == 1) {
        struct vhost_message *m = &f->stream.message;

        CHECK(m->header.flags == (VHOST_VERSION | VHOST_REPLY));
        if (m->nfds == 1) {
            close(f->fds[RECORD_FD_REGION]);
            f->fds[RECORD_FD_REGION] = TAKE_FD(m->fds[0]);
        }
        vhost_message_close_fds(m);
    }
}

static void check_bookkeeping(const struct fuzz *f)
{
    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        const struct toy_queue *queue = &f->toy->queues[q];

        CHECK(queue->nheld == queue->vq.in_flight);
        CHECK(f->toy->session || !queue->vq.started);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct fuzz f = {0};
    unsigned before;

    begin_process();
    before = count_fds();
    connect_session(&f);
    open_fds(&f);
    for (unsigned i = 0; i < MAX_RECORDS && size >= sizeof(struct record_header); i++) {
        struct record_header h;
        size_t len;

        memcpy(&h, bytes, sizeof(h));
        bytes += sizeof(h);
        size -= sizeof(h);
        len = MIN(h.len, size);
        play(&f, &h, bytes, len);
        bytes += len;
        size -= len;
        for (unsigned turn = 0; turn < 20 && loop_turn(loop, false); turn++)
            take_replies(&f);
        check_bookkeeping(&f);
    }
    take_replies(&f);
    hang_up(&f);
    for (unsigned i = 0; i < RECORD_FDS; i++)
        close(f.fds[i]);
    CHECK(count_fds() == before);
    CHECK(fallocate(memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PEER_MEM_SIZE) == 0);
    return 0;
}
