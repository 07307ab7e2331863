/* SPDX-License-Identifier: MIT */
#include "fuzz/vmm.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BYTES (VMM_PAGES * (size_t)VMM_PAGE)
#define PAINT 0xa5
#define PROTOCOL                                                                                \
    (1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_CONFIG | \
     1ull << VHOST_F_BACKEND_REQ)
#define FEATURES \
    (1ull << VHOST_FEATURE_PROTOCOL | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_ACCESS_PLATFORM)

/* ---- Messages -------------------------------------------------------------------------------- */

void vmm_turn(struct vmm *v)
{
    for (unsigned idle = 0; idle < 3;)
        idle = loop_turn(v->loop, false) ? 0 : idle + 1;
}

static void send_message(struct vmm *v, const struct vhost_message *m)
{
    struct vhost_message sent = *m;

    sent.header.flags = VHOST_VERSION | VHOST_NEED_REPLY;
    if (vhost_send(v->sock, &sent, 1000) < 0)
        v->gone = true;
}

/* No turn more than is needed: what is written after the answer is to be seen. */
static bool receive(struct vmm *v, uint32_t request, uint64_t *answer)
{
    struct dt_error err;
    int n = 0;

    for (unsigned idle = 0; idle < 3 && n == 0;) {
        idle = loop_turn(v->loop, false) ? 0 : idle + 1;
        n = vhost_stream_read(&v->stream, &err);
    }
    if (n == 1) {
        CHECK(v->stream.message.header.request == request);
        *answer = v->stream.message.u64;
        vhost_message_close_fds(&v->stream.message);
    }
    v->gone |= n < 0;
    return n == 1;
}

bool vmm_ask(struct vmm *v, const struct vhost_message *m, uint64_t *answer)
{
    if (!v->waiting)
        send_message(v, m);
    v->waiting = !v->gone && !receive(v, m->header.request, answer);
    return !v->gone && !v->waiting;
}

static void tell(struct vmm *v, const struct vhost_message *m)
{
    uint64_t answer;

    if (!v->gone && !vmm_ask(v, m, &answer))
        CHECK(v->gone);
}

static void tell_u64(struct vmm *v, uint32_t request, uint64_t value)
{
    tell(v, &(struct vhost_message){.header = {.request = request, .size = 8}, .u64 = value});
}

static void tell_fd(struct vmm *v, uint32_t request, int fd)
{
    unsigned size = request == VHOST_SET_BACKEND_REQ_FD ? 0 : 8;

    tell(v, &(struct vhost_message){
                .header = {.request = request, .size = size}, .fds = {fd}, .nfds = 1});
}

static void tell_state(struct vmm *v, uint32_t request, uint32_t num)
{
    tell_u64(v, request, (uint64_t)num << 32);
}

void vmm_collect_misses(struct vmm *v, uint64_t base)
{
    struct dt_error err;

    while (vhost_stream_read(&v->event_stream, &err) == 1) {
        const struct vhost_message *m = &v->event_stream.message;
        uint64_t page = (m->iotlb.iova - base) / VMM_PAGE;

        CHECK(m->header.request == VHOST_BACKEND_IOTLB_MSG && m->nfds == 0);
        CHECK(m->iotlb.type == VHOST_IOTLB_MISS && m->iotlb.iova % VMM_PAGE == 0);
        if (page < VMM_PAGES)
            v->missed[page] = true;
    }
}

/* ---- What is allowed ------------------------------------------------------------------------- */

void vmm_allow(struct vmm *v, const struct vhost_iotlb *update)
{
    if (v->ntold < VMM_TOLD)
        v->told[v->ntold++] = *update;
}

static bool may_be_written(const struct vmm *v, unsigned page)
{
    uint64_t first = VMM_UVA + page * (uint64_t)VMM_PAGE, last = first + VMM_PAGE - 1;

    for (unsigned i = 0; i < v->ntold; i++) {
        const struct vhost_iotlb *t = &v->told[i];

        if (t->access & MEMMAP_WRITE && t->uaddr <= last && t->uaddr + (t->size - 1) >= first)
            return true;
    }
    return v->ntold == VMM_TOLD;
}

void vmm_check(struct vmm *v)
{
    for (unsigned p = 0; p < VMM_PAGES; p++)
        CHECK(may_be_written(v, p) || memcmp(v->memory + p * (size_t)VMM_PAGE,
                                             v->shadow + p * (size_t)VMM_PAGE, VMM_PAGE) == 0);
    memcpy(v->shadow, v->memory, BYTES);
}

/* A page that came back is the guest's, who fills it: what a disk of zeroes would write there shows. */
static void paint(struct vmm *v)
{
    for (unsigned p = VMM_RING_PAGES; p < VMM_PAGES; p++)
        if (!may_be_written(v, p))
            memset(v->memory + p * (size_t)VMM_PAGE, PAINT, VMM_PAGE);
    memcpy(v->shadow, v->memory, BYTES);
}

/* What of @t lies from @first to @last goes to @v->told again. */
static void keep(struct vmm *v, const struct vhost_iotlb *t, uint64_t first, uint64_t last)
{
    uint64_t from = MAX(first, t->iova), to = MIN(last, t->iova + (t->size - 1));
    struct vhost_iotlb part = *t;

    if (t->size == 0 || from > to)
        return;
    part.iova = from;
    part.size = to - from + 1;
    part.uaddr += from - t->iova;
    vmm_allow(v, &part);
}

void vmm_forbid(struct vmm *v, const struct vhost_iotlb *gone)
{
    uint64_t first = gone->iova, last = gone->size ? first + (gone->size - 1) : UINT64_MAX;
    struct vhost_iotlb told[VMM_TOLD];
    unsigned n = v->ntold;

    vmm_check(v); /* so far it was allowed */
    if (n == VMM_TOLD)
        return;
    if (last < first)
        last = UINT64_MAX;
    memcpy(told, v->told, n * sizeof(*told));
    v->ntold = 0;
    for (unsigned i = 0; i < n; i++) {
        if (first > 0)
            keep(v, &told[i], 0, first - 1);
        if (last < UINT64_MAX)
            keep(v, &told[i], last + 1, UINT64_MAX);
    }
    paint(v);
}

void vmm_wrote(struct vmm *v, size_t at, size_t n)
{
    memcpy(v->shadow + at, v->memory + at, n);
}

void vmm_write(struct vmm *v, size_t at, const void *bytes, size_t n)
{
    memcpy(v->memory + at, bytes, n);
    vmm_wrote(v, at, n);
}

/* ---- Life ------------------------------------------------------------------------------------ */

void vmm_memory(struct vmm *v, bool give)
{
    struct vhost_message m = {
        .header = {.request = give ? VHOST_ADD_MEM_REG : VHOST_REM_MEM_REG, .size = sizeof(m.slot)},
        .slot = {.region = {VMM_GPA, BYTES, VMM_UVA, 0}},
        .fds = {v->memory_fd},
        .nfds = give};

    tell(v, &m);
}

void vmm_start_ring(struct vmm *v, uint64_t io_base, uint32_t base)
{
    struct vhost_message m = {.header = {.request = VHOST_SET_VRING_ADDR, .size = sizeof(m.addr)},
                              .addr = {.desc = io_base + v->ring.desc_off,
                                       .used = io_base + v->ring.device_off,
                                       .avail = io_base + v->ring.driver_off}};

    tell_state(v, VHOST_SET_VRING_NUM, VMM_RING);
    tell_state(v, VHOST_SET_VRING_BASE, base);
    tell(v, &m);
    tell_fd(v, VHOST_SET_VRING_CALL, v->call);
    tell_fd(v, VHOST_SET_VRING_KICK, v->kick);
    tell_state(v, VHOST_SET_VRING_ENABLE, 1);
}

void vmm_attach(struct vmm *v, uint64_t base)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    v->events = pair[0];
    v->event_stream = (struct vhost_stream){.sock = v->events, .expect = VHOST_EXPECT_EVENTS};
    tell_u64(v, VHOST_SET_PROTOCOL_FEATURES, PROTOCOL);
    tell(v, &(struct vhost_message){.header = {.request = VHOST_SET_OWNER}});
    tell_fd(v, VHOST_SET_BACKEND_REQ_FD, pair[1]);
    close(pair[1]);
    tell_u64(v, VHOST_SET_FEATURES, FEATURES | (v->packed ? 1ull << VIRTIO_F_RING_PACKED : 0));
    vmm_memory(v, true);
    CHECK(virtq_driver_bytes(VMM_RING, v->packed) <= VMM_RING_PAGES * VMM_PAGE);
    CHECK(virtq_driver_init(&v->ring, VMM_RING, v->packed, false, v->memory, base) == 0);
    virtq_driver_disarm(&v->ring);
    paint(v);
    vmm_start_ring(v, base, v->packed ? 0x80008000u : 0);
    CHECK(!v->gone);
}

int vmm_new(struct vmm *v, struct loop *loop, bool packed)
{
    int pair[2];

    *v = (struct vmm){.loop = loop, .packed = packed, .events = -1};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    v->sock = pair[0];
    v->stream = (struct vhost_stream){.sock = v->sock, .expect = VHOST_EXPECT_REPLIES};
    v->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(v->memory_fd >= 0 && ftruncate(v->memory_fd, BYTES) == 0);
    v->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, v->memory_fd, 0);
    CHECK(v->memory != MAP_FAILED);
    v->shadow = xcalloc(VMM_PAGES, VMM_PAGE);
    v->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    v->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return pair[1];
}

void vmm_free(struct vmm *v)
{
    vhost_stream_reset(&v->stream);
    vhost_stream_reset(&v->event_stream);
    close(v->sock);
    if (v->events >= 0)
        close(v->events);
    virtq_driver_fini(&v->ring);
    munmap(v->memory, BYTES);
    close(v->memory_fd);
    close(v->kick);
    close(v->call);
    free(v->shadow);
}
