/* SPDX-License-Identifier: MIT */
/*
 * fuzz_iommu.c - a guest with a vIOMMU, its VMM, and both hostile: translations given, taken back, refused and
 * made up, of data and of the ring itself, while requests are under way. The real front and a disk in
 * memory are on the other end; the session is set up as it should be, and then the input says what happens,
 * four bytes each: see the operations below.
 *
 * Invariants: a page that no translation lets us write never changes; an answer to an invalidation comes
 * once the requests that may use the range are let go; when the peer hangs up the session ends, no
 * request is left, and no descriptor.
 */
#include "blk/blk.h"
#include "blk/vhost-user/front.h"
#include "fuzz/vmm.h"
#include "tests/unit/fds.h"

#include <linux/virtio_blk.h>
#include <sys/eventfd.h>

#define MAX_STEPS 200u
#define BASE      0x100000000ull /* of I/O addresses, which are pages in another order */

/* The operations: first byte, modulo OPS; a, b, c are the others. */
enum {
    OP_MAP,    /* I/O page a leads to page c with the right b; nobody is told */
    OP_ANSWER, /* the misses that came, and that lead somewhere */
    OP_UPDATE, /* tell that I/O page a leads to page c; b: pages, one byte more, right, off by one */
    OP_INVALIDATE, /* b pages from I/O page a; 0: to the end */
    OP_RAW,        /* an IOTLB message of the next 32 bytes */
    OP_OFFER, /* a request: header at I/O page a, data at b, status at c; kind in their high bits */
    OP_SCRIBBLE, /* write c into the ring at a | b << 8 */
    OP_GATE,     /* a: hold requests, or let them go */
    OP_RESTART,  /* stop the ring, and start it */
    OP_MEMORY,   /* take the memory away, and give it back */
    OPS
};

/* ---- A layer that holds requests ------------------------------------------------------------- */

static struct {
    bool holds;
    struct dt_ctx *c;
    struct dt_req *held[VMM_RING];
    unsigned count;
} gate;

static void open_gate(void)
{
    struct dt_req *reqs[VMM_RING];
    unsigned n = gate.count;

    memcpy(reqs, gate.held, n * sizeof(*reqs));
    gate.count = 0;
    if (n)
        dt_forward(gate.c, reqs, n);
}

static enum dt_verdict gate_request(struct dt_ctx *c, struct dt_req *req)
{
    if (!gate.holds)
        return DT_PASS;
    gate.c = c;
    CHECK(gate.count < ARRAY_SIZE(gate.held));
    gate.held[gate.count++] = req;
    return DT_HELD;
}

static void gate_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    open_gate();
}

static const struct dt_block_ext gate_ext = {
    DT_BLOCK_EXT_HEADER,     .name = "gate",          .summary = "Holds requests when told to",
    .request = gate_request, .quiesce = gate_quiesce,
};

/* ---- The disk -------------------------------------------------------------------------------- */

static struct loop *loop;
static struct device *dev;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct chain_spec spec;
    struct dt_error err;

    log_set_level(DT_LOG_ERROR);
    blk_register_builtin();
    CHECK(registry_add(&gate_ext, &err) == 0);
    CHECK(loop_new(&loop, &config, &err) == 0);
    CHECK(chain_parse(&spec, "gate | mem size=1M", &err) == 0);
    CHECK(device_new(
              &dev,
              &(struct device_config){.name = "fuzz", .chain = &spec, .loops = &loop, .threads = 1},
              &err) == 0);
    CHECK(device_start(dev, front_class_ops(&disk_front), NULL, &err) == 0);
    chain_spec_free(&spec);
    return 0;
}

static void on_ended(void *arg)
{
    *(bool *)arg = true;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static uint64_t io(unsigned page)
{
    return BASE + page % VMM_PAGES * (uint64_t)VMM_PAGE;
}

/* Held requests may be what an answer waits for, and nothing else may. */
static bool say(struct vmm *v, const struct vhost_message *m, uint64_t *answer)
{
    if (vmm_ask(v, m, answer))
        return true;
    if (v->gone)
        return false;
    CHECK(gate.count > 0);
    open_gate();
    CHECK(vmm_ask(v, m, answer) || v->gone);
    return !v->gone;
}

static void say_iotlb(struct vmm *v, const struct vhost_iotlb *change)
{
    struct vhost_message m = {.header = {.request = VHOST_IOTLB_MSG, .size = sizeof(*change)},
                              .iotlb = *change};
    uint64_t refused = 1;

    if (change->type == VHOST_IOTLB_UPDATE)
        vmm_allow(v, change);
    if (say(v, &m, &refused) && !refused && change->type == VHOST_IOTLB_INVALIDATE)
        vmm_forbid(v, change);
}

static void answer_misses(struct vmm *v)
{
    vmm_collect_misses(v, BASE);
    for (unsigned p = 0; p < VMM_PAGES && !v->gone; p++) {
        struct vhost_iotlb update = {.iova = io(p),
                                     .size = VMM_PAGE,
                                     .uaddr = VMM_UVA + v->table[p].to * (uint64_t)VMM_PAGE,
                                     .access = v->table[p].access,
                                     .type = VHOST_IOTLB_UPDATE};

        if (v->missed[p] && update.access)
            say_iotlb(v, &update);
        v->missed[p] = v->missed[p] && !update.access;
    }
}

static void invalidate(struct vmm *v, uint8_t a, uint8_t b)
{
    struct vhost_iotlb gone = {
        .iova = io(a), .size = b * (uint64_t)VMM_PAGE, .type = VHOST_IOTLB_INVALIDATE};

    for (unsigned p = a % VMM_PAGES; p < VMM_PAGES && (b == 0 || p < a % VMM_PAGES + b); p++)
        v->table[p].access = 0;
    say_iotlb(v, &gone);
}

static void offer(struct vmm *v, uint8_t a, uint8_t b, uint8_t c)
{
    const uint32_t types[] = {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_IN,
                              VIRTIO_BLK_T_FLUSH};
    bool out = types[a >> 6] == VIRTIO_BLK_T_OUT;
    struct virtio_blk_outhdr header = {.type = types[a >> 6],
                                       .sector = out * 1024u + (b >> 6) * 64};
    uint32_t len = (1u + (c >> 6)) * VMM_PAGE;
    struct virtq_buffer bufs[] = {
        {io(a), sizeof(header)}, {io(b) + (c & 32 ? 512 : 0), len}, {io(c) + 100, 1}};

    vmm_write(v, v->table[a % VMM_PAGES].to * VMM_PAGE, &header, sizeof(header));
    if (virtq_driver_add(&v->ring, bufs, out ? 2 : 1, out ? 1 : 2) < 0)
        return;
    virtq_driver_publish(&v->ring);
    vmm_wrote(v, 0, VMM_RING_PAGES * VMM_PAGE);
    eventfd_write(v->kick, 1);
    vmm_turn(v);
}

static void stop_ring(struct vmm *v, uint32_t *base)
{
    struct vhost_message m = {.header = {.request = VHOST_GET_VRING_BASE, .size = 8}};
    uint64_t answer;

    if (say(v, &m, &answer))
        *base = (uint32_t)(answer >> 32);
}

static void raw(struct vmm *v, const uint8_t *bytes, size_t size)
{
    struct vhost_iotlb change = {0};

    memcpy(&change, bytes, MIN(size, sizeof(change)));
    say_iotlb(v, &change);
}

static void step(struct vmm *v, const uint8_t op[4])
{
    const uint8_t a = op[1], b = op[2], c = op[3];
    struct vhost_iotlb update = {.iova = io(a) + (b >> 7),
                                 .size = (b & 3u) * VMM_PAGE + (b >> 2 & 1),
                                 .uaddr = VMM_UVA + c * (uint64_t)VMM_PAGE,
                                 .access = b >> 3 & 7,
                                 .type = VHOST_IOTLB_UPDATE};
    uint32_t base = 0;

    switch (op[0] % OPS) {
    case OP_MAP:
        v->table[a % VMM_PAGES].to = c % VMM_PAGES;
        v->table[a % VMM_PAGES].access = b & 3;
        break;
    case OP_ANSWER:
        answer_misses(v);
        break;
    case OP_UPDATE:
        say_iotlb(v, &update);
        break;
    case OP_INVALIDATE:
        invalidate(v, a, b);
        break;
    case OP_OFFER:
        offer(v, a, b, c);
        break;
    case OP_SCRIBBLE:
        vmm_write(v, (a | b << 8u) % (VMM_RING_PAGES * VMM_PAGE), &c, 1);
        eventfd_write(v->kick, 1);
        break;
    case OP_GATE:
        gate.holds = a & 1;
        open_gate();
        break;
    case OP_RESTART:
        stop_ring(v, &base);
        vmm_start_ring(v, BASE, base);
        break;
    case OP_MEMORY:
        vmm_memory(v, false);
        vmm_memory(v, true);
        break;
    }
    vmm_turn(v);
}

static void run(struct vmm *v, const uint8_t *bytes, size_t size)
{
    for (unsigned i = 0; i < MAX_STEPS && size >= 4 && !v->gone; i++) {
        const uint8_t *op = bytes;

        bytes += 4;
        size -= 4;
        if (op[0] % OPS == OP_RAW) {
            raw(v, bytes, size);
            bytes += MIN(size, sizeof(struct vhost_iotlb));
            size -= MIN(size, sizeof(struct vhost_iotlb));
        } else {
            step(v, op);
        }
        vmm_check(v);
    }
}

/* Pages in another order; the ring's lie side by side. */
static void draw_table(struct vmm *v)
{
    for (unsigned p = 0; p < VMM_PAGES; p++) {
        v->table[p].access = MEMMAP_READ | MEMMAP_WRITE;
        v->table[p].to = p < VMM_RING_PAGES ? p
                                            : VMM_RING_PAGES + (p - VMM_RING_PAGES) * 7 %
                                                                   (VMM_PAGES - VMM_RING_PAGES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    bool ended = false, packed = size > 0 && bytes[0] & 1;
    struct front_config config = {.class = &disk_front,
                                  .dev = dev,
                                  .listen_fd = -1,
                                  .ended = on_ended,
                                  .ended_arg = &ended,
                                  .queues = 1,
                                  .packed = true,
                                  .iommu = true};
    unsigned before = count_fds();
    struct front *front;
    struct dt_error err;
    struct vmm v;

    config.session_fd = vmm_new(&v, loop, packed);
    CHECK(front_new(&front, &config, &err) == 0);
    draw_table(&v);
    vmm_attach(&v, BASE);
    run(&v, bytes + (size > 0), size - (size > 0));
    gate.holds = false;
    open_gate();
    vmm_turn(&v);
    vmm_check(&v);
    vmm_free(&v);
    while (!ended)
        loop_turn(loop, true);
    CHECK(gate.count == 0);
    front_free(front);
    CHECK(count_fds() == before);
    return 0;
}
