/* SPDX-License-Identifier: MIT */
/*
 * fuzz_ring.c - a virtqueue and an in-flight log of any content, and any order of calls.
 *
 * Input: four bytes (kind of ring, size, base, length of the script), the script of two bytes
 * each, and then what memory holds: log, descriptors, driver area, the used index, tables.
 * Guest memory is [0, 12K) in two adjacent regions and the last page of the address space.
 */
#include "ring/ring.h"

#include <sys/mman.h>

#define NEAR     0x2000u
#define PAGE     0x1000u
#define TOP      (UINT64_MAX - PAGE + 1)
#define DRIVER   0x400u
#define DEVICE   0x800u
#define TABLES   0x1000u
#define MAX_SIZE 32u

struct input {
    const uint8_t *at;
    size_t left;
};

static struct machine {
    struct memmap map;
    uint8_t *memory; /* of the file; [0, 12K) is guest memory from 0 */
    struct virtq vq;
    struct virtq_config config;
    struct virtq_chain slots[MAX_SIZE];
    _Alignas(64) uint8_t log[32 + 32 * MAX_SIZE + 64];
    struct virtq_chain *held[MAX_SIZE];
    unsigned held_count;
    bool broken;
} m;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t byte(struct input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

static void fill(struct input *in, void *to, size_t len)
{
    size_t n = MIN(len, in->left);

    memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

static void machine_build(void)
{
    int fd = memfd_create("fuzz-ring", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, NEAR + 2 * PAGE) == 0);
    m.memory = mmap(NULL, NEAR + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(m.memory != MAP_FAILED);
    memmap_init(&m.map);
    CHECK(memmap_add(&m.map, 0, 0, NEAR, fd, 0, NULL) == 0);
    CHECK(memmap_add(&m.map, NEAR, NEAR, PAGE, fd, NEAR, NULL) == 0);
    CHECK(memmap_add(&m.map, TOP, TOP, PAGE, fd, NEAR + PAGE, NULL) == 0);
    close(fd);
    m.config = (struct virtq_config){
        .driver = DRIVER,
        .device = DEVICE,
        .map = &m.map,
        .iovs = iovpool_new(2),
        .slots = m.slots,
        .slot_stride = sizeof(m.slots[0]),
        .inflight = m.log,
    };
}

/* What was taken lies in guest memory, adds up, and is nobody else's. */
static void judge(const struct virtq_chain *c)
{
    uint64_t lens[2] = {0, 0};

    CHECK(c->id < m.config.size && c->ndesc >= 1 && c->ndesc <= m.config.size);
    CHECK(c == &m.slots[c->id]);
    CHECK((unsigned)c->nread + c->nwrite <= VIRTQ_MAX_IOV);
    CHECK(c->iov == c->inline_iov || (unsigned)c->nread + c->nwrite > VIRTQ_INLINE_IOV);
    for (unsigned i = 0; i < (unsigned)c->nread + c->nwrite; i++) {
        const struct iovec *v = &c->iov[i];
        uint64_t gpa;

        CHECK(v->iov_len > 0 && memmap_host_to_gpa(&m.map, v->iov_base, &gpa));
        CHECK(memmap_host(&m.map, gpa, v->iov_len) == v->iov_base);
        lens[i >= c->nread] += v->iov_len;
    }
    CHECK(lens[0] == c->read_len && lens[1] == c->write_len);
    for (unsigned i = 0; i < m.held_count; i++)
        CHECK(m.held[i]->id != c->id);
}

static void take(unsigned max)
{
    struct virtq_chain *out[VIRTQ_BURST];
    int n = virtq_take(&m.vq, out, MIN(max, VIRTQ_BURST));

    CHECK(n == -EPROTO || (n >= 0 && (unsigned)n <= max));
    CHECK((n == -EPROTO) <= (m.vq.fault[0] != 0));
    CHECK(!m.broken || n == -EPROTO);
    m.broken = n == -EPROTO;
    for (int i = 0; i < n; i++) {
        judge(out[i]);
        CHECK(m.held_count < m.config.size);
        m.held[m.held_count++] = out[i];
    }
}

static void push(unsigned which)
{
    if (m.held_count == 0)
        return;
    which %= m.held_count;
    virtq_push(&m.vq, m.held[which], which * 100);
    m.held_count--;
    memmove(&m.held[which], &m.held[which + 1], (m.held_count - which) * sizeof(m.held[0]));
}

/* The process died: its successor gets ring and log as they are. */
static bool successor(bool recover, uint32_t base)
{
    virtq_abandon(&m.vq);
    m.held_count = 0;
    m.broken = false;
    return virtq_start(&m.vq, &m.config, base, recover, NULL) == 0;
}

static bool step(uint8_t op, uint8_t arg, uint32_t base, struct input *in)
{
    struct vring_avail *avail = (void *)(m.memory + DRIVER);

    switch (op % 12) {
    case 0:
        take(arg);
        break;
    case 1:
        push(arg);
        break;
    case 2:
        virtq_publish(&m.vq);
        break;
    case 3:
        if (virtq_arm(&m.vq))
            CHECK(!virtq_pending(&m.vq));
        break;
    case 4:
        virtq_disarm(&m.vq);
        break;
    case 5:
        return successor(true, base);
    case 6:
        return successor(false, m.config.packed ? base : avail->idx);
    case 7: /* the guest writes: a descriptor or what follows */
        fill(in, m.memory + 16 * arg, 16);
        break;
    case 8:
        avail->idx = (uint16_t)(avail->idx + arg % 40);
        break;
    case 11: /* what is held comes back unserved */
        virtq_publish(&m.vq);
        while (m.held_count > 0)
            virtq_return(&m.vq, m.held[--m.held_count]);
        virtq_put_back(&m.vq);
        break;
    case 10: /* somebody else served the ring, kept no log, and is gone */
        inflight_loosen(m.log);
        return successor(true, base);
    default: /* the guest writes flags of a packed descriptor */
        m.memory[16 * (arg % m.config.size) + 14] = byte(in);
        m.memory[16 * (arg % m.config.size) + 15] ^= 0x80;
    }
    CHECK(m.vq.in_flight == m.held_count);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size}, script;
    uint8_t kind, length;
    uint32_t base;
    bool up;

    if (!m.memory)
        machine_build();
    memset(m.memory, 0, NEAR + 2 * PAGE);
    memset(m.log, 0, sizeof(m.log));
    memset(m.slots, 0xee, sizeof(m.slots));
    kind = byte(&in);
    m.config.packed = kind & 1;
    m.config.event_idx = kind & 2;
    m.config.indirect = kind & 4;
    m.config.tail = kind & 32;
    m.config.size = kind & 1 ? 1 + byte(&in) % MAX_SIZE : 1u << byte(&in) % 6;
    base = byte(&in);
    base |= base << 16 | (kind & 16 ? 0x80008000u : 0);
    length = byte(&in);
    script = in;
    script.left = MIN(in.left, 2 * (size_t)length);
    in.at += script.left;
    in.left -= script.left;
    if (kind & 8)
        fill(&in, m.log, inflight_queue_size(m.config.size, m.config.packed));
    fill(&in, m.memory, 16 * (size_t)m.config.size);
    fill(&in, m.memory + DRIVER, 6 + 2 * (size_t)m.config.size);
    fill(&in, m.memory + DEVICE, 4);
    fill(&in, m.memory + TABLES, 512);
    up = successor(kind & 8, base);
    while (up && script.left > 0) {
        uint8_t op = byte(&script);

        up = step(op, byte(&script), base, &in);
    }
    virtq_abandon(&m.vq);
    m.held_count = 0;
    return 0;
}
