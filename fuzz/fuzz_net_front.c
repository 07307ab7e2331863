/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_front.c - a hostile VMM and a hostile guest at a network card: messages with descriptors of any kind, chains of
 * any shape, what the guest writes where it likes, frames from the wire, and a second thread that changes the guest's
 * memory while it is read.
 *
 * Input: a byte of what the guest is (KIND_*), a byte for the second thread, and records of a kind, an argument, a length
 * and as many bytes.
 *
 * Invariants: what gets to the wire fits itself, whatever was said of it; a guest that kept to the rules gets its chains
 * back, each once, and finds no byte changed outside its buffers; and whatever it was, after its end there is no
 * packet, no descriptor and no memory of it left.
 */
#include "net/vhost-user/internal.h"

#include "net/virtio/offloads.h"
#include "tests/unit/fds.h"
#include "tests/unit/soft_disk.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define GPA         0x40000000ull
#define MEMORY      (1u << 20)
#define RING_BYTES  0x4000u
#define DATA        (2 * RING_BYTES)
#define GUARDED     (MEMORY - 0x10000u) /* from here on nothing is offered */
#define RING        32u
#define MAX_RECORDS 200u
#define MAX_PIECES  16u

enum {
    KIND_PACKED = 1,
    KIND_MERGEABLE = 2,
    KIND_LEGACY = 4,
    KIND_OFFLOADS = 8,
    KIND_EVENT_IDX = 16,
    KIND_SILENT = 32, /* begins no ring by itself */
    KIND_CHANGES = 64 /* with the second thread */
};

enum {
    MESSAGE,   /* arg: which descriptor, and times 16 how many; bytes: request, flags, payload */
    RAW,       /* bytes for the socket */
    WRITE,     /* bytes: where in memory (4 bytes), and what */
    SEND,      /* arg: pieces; bytes: virtio header and frame */
    OFFER,     /* bytes: lengths of buffers (2 bytes each), arg of them in a chain */
    ARRIVE,    /* bytes: virtio header and frame, from the wire */
    KICK,      /* arg: ring */
    RECONNECT, /* another VMM; arg: what the guest is */
    KINDS
};

enum { FD_KICK, FD_CALL = 2, FD_MEMORY = 4, FD_REGION, FD_SOCKET, FD_NULL, FDS };

struct record {
    uint8_t kind, arg;
    uint16_t len;
};

static struct fuzz {
    struct soft_disk card;
    uint8_t *memory;
    int memory_fd;
    int sock, fds[FDS];
    struct vhost_stream stream;
    struct virtq_driver rings[2];
    unsigned outstanding[2];
    uint32_t at; /* where the next buffers go */
    bool rings_run;
    bool honest; /* so far */
} f;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* ---- The wire ---- */

static struct dt_ctx *wire;

static int far_start(struct dt_ctx *c, struct dt_error *err)
{
    wire = c;
    return 0;
}

static int far_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

static void far_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct dt_packet *p = packets[i];
        struct dt_headers h;

        CHECK(p->length >= 14 && p->length <= NET_MAX_FRAME && net_needs_fit(p));
        dt_parse(&h, p->data, p->length); /* and still is what was judged */
        CHECK(!p->needs || (h.l4 == dt_headers(p)->l4 && h.end == dt_headers(p)->end));
    }
    dt_sent(c, packets, n);
}

static const struct dt_net_ext far_ext = {
    DT_NET_EXT_HEADER,
    .name = "far-end",
    .summary = "the other end, for tests",
    .flags = DT_BACK | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .start = far_start,
    .info = far_info,
    .transmit = far_transmit,
};

static void arrive(const uint8_t *bytes, size_t len)
{
    struct dt_vnet_header v;
    struct dt_packet *p;

    if (len < sizeof(v) + 14)
        return;
    memcpy(&v, bytes, sizeof(v));
    len -= sizeof(v);
    p = dt_packet_new(wire, (uint32_t)len);
    if (!p)
        return;
    memcpy(p->data, bytes + sizeof(v), len);
    if (dt_vnet_read(p, &v, DT_OFFLOAD_ALL) == 0)
        dt_receive_one(wire, p);
    else
        dt_sent(wire, &p, 1);
}

/* ---- The thread that changes memory ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool run, runs;
    uint8_t seed;
} other = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Mostly descriptors and what stands at the beginning of buffers. */
static void change_some(struct dt_rng *rng)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t r = dt_rng_next(rng);
        uint32_t where = r & 1 ? (uint32_t)(r >> 8) % 0x200 + (r & 2 ? RING_BYTES : 0)
                               : DATA + (uint32_t)(r >> 8) % 256;

        *(volatile uint8_t *)(f.memory + where) ^= (uint8_t)(1 << (r >> 60 & 7));
    }
}

static void *change(void *arg)
{
    struct dt_rng rng;

    pthread_mutex_lock(&other.lock);
    for (;;) {
        while (!other.run)
            pthread_cond_wait(&other.changed, &other.lock);
        dt_rng_seed(&rng, other.seed);
        while (other.run) {
            other.runs = true;
            pthread_cond_broadcast(&other.changed);
            pthread_mutex_unlock(&other.lock);
            change_some(&rng);
            pthread_mutex_lock(&other.lock);
        }
        other.runs = false;
        pthread_cond_broadcast(&other.changed);
    }
    return arg;
}

static void set_other(bool run, uint8_t seed)
{
    pthread_mutex_lock(&other.lock);
    other.run = run;
    other.seed = seed;
    pthread_cond_broadcast(&other.changed);
    while (other.runs != run)
        pthread_cond_wait(&other.changed, &other.lock);
    pthread_mutex_unlock(&other.lock);
}

/* ---- The VMM ---- */

static void turn(void)
{
    for (unsigned i = 0; i < 20 && loop_turn(f.card.loop, false); i++)
        while (f.sock >= 0 && vhost_stream_read(&f.stream, NULL) == 1)
            vhost_message_close_fds(&f.stream.message);
}

static void say(uint32_t request, const void *payload, uint32_t size, int fd)
{
    struct vhost_message m = {
        .header = {request, VHOST_VERSION, size}, .fds = {fd}, .nfds = fd >= 0};

    if (size)
        memcpy(m.raw, payload, size);
    vhost_send(f.sock, &m, 0);
    turn();
}

static void say_u64(uint32_t request, uint64_t value, int fd)
{
    say(request, &value, sizeof(value), fd);
}

static void begin_ring(unsigned i, uint8_t kind)
{
    struct virtq_driver *d = &f.rings[i];
    struct vhost_message m = {0};
    uint64_t base = i * (uint64_t)RING_BYTES;

    CHECK(virtq_driver_init(d, RING, kind & KIND_PACKED, kind & KIND_EVENT_IDX, f.memory + base,
                            GPA + base) == 0);
    virtq_driver_disarm(d);
    say_u64(VHOST_SET_VRING_NUM, i | (uint64_t)RING << 32, -1);
    say_u64(VHOST_SET_VRING_BASE, i | (uint64_t)(kind & KIND_PACKED ? 0x80008000u : 0) << 32, -1);
    m.addr.index = i;
    m.addr.desc = GPA + base + d->desc_off; /* of this VMM addresses are the guest's */
    m.addr.avail = GPA + base + d->driver_off;
    m.addr.used = GPA + base + d->device_off;
    say(VHOST_SET_VRING_ADDR, m.raw, sizeof(m.addr), -1);
    say_u64(VHOST_SET_VRING_CALL, i, f.fds[FD_CALL + i]);
    say_u64(VHOST_SET_VRING_KICK, i, f.fds[FD_KICK + i]);
    say_u64(VHOST_SET_VRING_ENABLE, i | 1ull << 32, -1);
}

static uint64_t features_of(uint8_t kind)
{
    return 1ull << VHOST_FEATURE_PROTOCOL | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
           (kind & KIND_PACKED ? 1ull << VIRTIO_F_RING_PACKED : 0) |
           (kind & KIND_MERGEABLE ? 1ull << VIRTIO_NET_F_MRG_RXBUF : 0) |
           (kind & KIND_LEGACY ? 0 : 1ull << VIRTIO_F_VERSION_1) |
           (kind & KIND_EVENT_IDX ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0) |
           (kind & KIND_OFFLOADS ? virtio_offload_features(DT_OFFLOAD_ALL, DT_OFFLOAD_ALL) : 0);
}

static void begin_session(uint8_t kind)
{
    struct vhost_message m = {.slot = {.region = {GPA, MEMORY, GPA, 0}}};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    memset(f.memory, 0, MEMORY);
    memset(f.memory + GUARDED, 0xa5, MEMORY - GUARDED);
    f.outstanding[0] = f.outstanding[1] = 0;
    f.at = DATA;
    f.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memcpy(addr.sun_path, f.card.socket, sizeof(f.card.socket));
    CHECK(f.sock >= 0 && connect(f.sock, (struct sockaddr *)&addr, sizeof(addr)) == 0);
    f.stream = (struct vhost_stream){.sock = f.sock, .expect = VHOST_EXPECT_REPLIES};
    f.honest = f.rings_run = !(kind & KIND_SILENT);
    turn();
    if (!f.rings_run)
        return;
    say(VHOST_GET_FEATURES, NULL, 0, -1);
    say_u64(VHOST_SET_PROTOCOL_FEATURES,
            1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_RARP |
                1ull << VHOST_F_MTU | 1ull << VHOST_F_LOG_SHMFD | 1ull << VHOST_F_MQ,
            -1);
    say(VHOST_SET_OWNER, NULL, 0, -1);
    say_u64(VHOST_SET_FEATURES, features_of(kind), -1);
    say(VHOST_ADD_MEM_REG, m.raw, sizeof(m.slot), f.fds[FD_MEMORY]);
    for (unsigned i = 0; i < 2; i++)
        begin_ring(i, kind);
}

static bool attached(void)
{
    json_t *show = front_show(f.card.front);
    bool is = json_is_true(json_object_get(show, "attached"));

    json_decref(show);
    return is;
}

static void reap(unsigned i)
{
    uint16_t ids[RING];
    int n;

    if (!f.honest)
        return;
    n = virtq_driver_reap(&f.rings[i], ids, NULL, RING);
    CHECK(n >= 0 && (unsigned)n <= f.outstanding[i]);
    f.outstanding[i] -= (unsigned)n;
}

/* What waits for buffers waits for the next guest, too. */
static void end_session(void)
{
    const struct net_lane *net = device_lane(f.card.dev, 0)->net;

    turn();
    for (unsigned i = 0; i < 2; i++)
        reap(i);
    if (f.honest) {
        CHECK(attached() && f.outstanding[1] == 0); /* all that was sent is gone */
        for (unsigned at = GUARDED; at < MEMORY; at++)
            CHECK(f.memory[at] == 0xa5);
    }
    vhost_stream_reset(&f.stream);
    close(TAKE_FD(f.sock));
    for (unsigned i = 0; attached(); i++) {
        CHECK(i < 1000);
        turn();
    }
    CHECK(net->small.used + net->big.used == CARD(f.card.front)->lanes[0].nbacklog);
    for (unsigned i = 0; f.rings_run && i < 2; i++)
        virtq_driver_fini(&f.rings[i]);
}

/* ---- Records ---- */

static void send_message(uint8_t arg, const uint8_t *bytes, size_t len)
{
    struct vhost_message m = {.header = {.flags = VHOST_VERSION}};

    if (len < 2)
        return;
    f.honest = false;
    m.header.request = bytes[0];
    m.header.flags |= bytes[1] & VHOST_NEED_REPLY;
    m.header.size = (uint32_t)MIN(len - 2, sizeof(m.raw));
    memcpy(m.raw, bytes + 2, m.header.size);
    for (m.nfds = 0; m.nfds < MIN(arg / 16u, VHOST_MAX_FDS); m.nfds++)
        m.fds[m.nfds] = f.fds[(arg % 16u + m.nfds) % FDS];
    vhost_send(f.sock, &m, 0);
}

static void write_memory(const uint8_t *bytes, size_t len)
{
    uint32_t at;

    if (len < sizeof(at))
        return;
    f.honest = false;
    memcpy(&at, bytes, sizeof(at));
    at %= MEMORY;
    memcpy(f.memory + at, bytes + sizeof(at), MIN(len - sizeof(at), MEMORY - at));
}

/* Where @n bytes may lie that belong to nobody: around and around, as the chains come back. */
static uint32_t place(uint32_t n)
{
    uint32_t at = f.at + n <= GUARDED ? f.at : DATA;

    f.at = at + n;
    return at;
}

static void offer(unsigned ring, const struct virtq_buffer *bufs, unsigned nread, unsigned nwrite)
{
    reap(ring);
    if (!f.rings_run || f.rings[ring].free_count < nread + nwrite ||
        virtq_driver_add(&f.rings[ring], bufs, nread, nwrite) < 0)
        return;
    f.outstanding[ring]++;
    if (virtq_driver_publish(&f.rings[ring]))
        eventfd_write(f.fds[FD_KICK + ring], 1);
}

static void send_packet(uint8_t pieces, const uint8_t *bytes, size_t len)
{
    struct virtq_buffer bufs[MAX_PIECES];
    uint32_t at = place((uint32_t)len), done = 0;
    unsigned n = MIN(1u + pieces % MAX_PIECES, (unsigned)len);

    memcpy(f.memory + at, bytes, len);
    for (unsigned i = 0; i < n; i++) {
        uint32_t piece = i + 1 < n ? (uint32_t)len / n : (uint32_t)len - done;

        bufs[i] = (struct virtq_buffer){GPA + at + done, piece};
        done += piece;
    }
    if (n)
        offer(1, bufs, n, 0);
}

static void offer_buffers(uint8_t each, const uint8_t *bytes, size_t len)
{
    struct virtq_buffer bufs[MAX_PIECES];
    unsigned n = 0, most = 1 + each % MAX_PIECES;

    for (; len >= 2; len -= 2, bytes += 2) {
        uint32_t length = 1 + (bytes[0] | (uint32_t)bytes[1] << 8) % 0x1000;

        bufs[n++] = (struct virtq_buffer){GPA + place(length), length};
        if (n < most && len >= 4)
            continue;
        offer(0, bufs, 0, n);
        n = 0;
    }
}

static void play(const struct record *r, const uint8_t *bytes, size_t len)
{
    switch (r->kind % KINDS) {
    case MESSAGE:
        send_message(r->arg, bytes, len);
        break;
    case RAW:
        f.honest = false;
        if (send(f.sock, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            return;
        break;
    case WRITE:
        write_memory(bytes, len);
        break;
    case SEND:
        send_packet(r->arg, bytes, len);
        break;
    case OFFER:
        offer_buffers(r->arg, bytes, len);
        break;
    case ARRIVE:
        arrive(bytes, len);
        break;
    case KICK:
        eventfd_write(f.fds[FD_KICK + r->arg % 2], 1);
        break;
    case RECONNECT:
        end_session();
        begin_session(r->arg);
        break;
    }
}

/* ---- Life ---- */

static void remove_socket(void)
{
    unlink(f.card.socket);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct dt_error err;
    pthread_t thread;

    log_set_level(DT_LOG_ERROR);
    CHECK(registry_add_net(&far_ext, &err) == 0);
    f.card = (struct soft_disk){.card = &card_front, .turned = true};
    soft_disk_start(&f.card, "far-end");
    atexit(remove_socket);
    f.memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(f.memory_fd >= 0 && ftruncate(f.memory_fd, MEMORY) == 0);
    f.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, f.memory_fd, 0);
    CHECK(f.memory != MAP_FAILED);
    f.sock = -1;
    CHECK(pthread_create(&thread, NULL, change, NULL) == 0 && pthread_detach(thread) == 0);
    return 0;
}

static void open_fds(void)
{
    for (unsigned i = FD_KICK; i < FD_MEMORY; i++)
        f.fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f.fds[FD_MEMORY] = dup(f.memory_fd);
    f.fds[FD_REGION] = memfd_create("region", MFD_CLOEXEC);
    CHECK(ftruncate(f.fds[FD_REGION], 1 << 16) == 0);
    f.fds[FD_SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    f.fds[FD_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned before = count_fds();
    bool changes;

    if (size < 2)
        return 0;
    open_fds();
    changes = data[0] & KIND_CHANGES;
    begin_session(data[0]);
    if (changes) {
        f.honest = false;
        set_other(true, data[1]);
    }
    data += 2;
    size -= 2;
    for (unsigned i = 0; i < MAX_RECORDS && size >= sizeof(struct record); i++) {
        struct record r;
        size_t len;

        memcpy(&r, data, sizeof(r));
        data += sizeof(r);
        size -= sizeof(r);
        len = MIN(r.len, size);
        play(&r, data, len);
        f.honest &= !changes;
        data += len;
        size -= len;
        turn();
    }
    end_session();
    if (changes)
        set_other(false, 0);
    for (unsigned i = 0; i < FDS; i++)
        close(f.fds[i]);
    CHECK(count_fds() == before);
    return 0;
}
