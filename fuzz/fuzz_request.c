/* SPDX-License-Identifier: MIT */
/*
 * fuzz_request.c - virtio-blk requests in every framing, through the real ring and front, on a disk in
 * memory. The input is a sequence of requests:
 *
 *     u8 readable parts (0..7), u8 writable parts (0..7), u16 length of each part, then 64 bytes of
 *     what the driver writes into its readable memory
 *
 * Whatever it asks, the answer comes: a status the driver knows, no byte written outside the
 * writable parts, and no more than their length reported.
 */
#include "tests/unit/soft_disk.h"
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define MEMORY_BYTES (4u << 20)
#define RING_BYTES   (1u << 20)
#define GPA          0x40000000ull
#define PARTS        7u
#define PART_MAX     0x4000u
#define CANARY       0xa5

static uint8_t *memory;
static struct virtq_driver ring;
static int kick;

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_request: %s\n", what);
        abort();
    }
}

static void attach(const char *path)
{
    uint64_t features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BLK_F_FLUSH |
                        1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES |
                        1ull << VHOST_FEATURE_PROTOCOL;
    uint64_t protocol = 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS;
    struct vhost_frontend_ring config = {.size = 64};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    struct vhost_frontend *front;
    struct dt_error err = {""};
    unsigned queues;

    must(fd >= 0 && ftruncate(fd, MEMORY_BYTES) == 0, "memfd");
    memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED, "mmap");
    must(vhost_frontend_connect(&front, path, 5000, &err) == 0, err.text);
    must(vhost_frontend_negotiate(front, &features, &protocol, 0, &queues, &err) == 0, err.text);
    must(vhost_frontend_add_memory(front, GPA, (uintptr_t)memory, MEMORY_BYTES, fd, 0, &err) == 0,
         err.text);
    must(virtq_driver_init(&ring, 64, false, false, memory, GPA) == 0, "ring");
    virtq_driver_disarm(&ring);
    kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    config.desc = (uintptr_t)memory + ring.desc_off;
    config.driver = (uintptr_t)memory + ring.driver_off;
    config.device = (uintptr_t)memory + ring.device_off;
    config.kick = kick;
    config.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(vhost_frontend_ring_start(front, 0, &config, &err) == 0, err.text);
    must(vhost_frontend_ring_enable(front, 0, true, &err) == 0, err.text);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct soft_disk disk;

    log_set_level(DT_LOG_ERROR);
    blk_register_builtin();
    soft_disk_start(&disk, "error probability=0 | mem size=1M");
    attach(disk.socket);
    return 0;
}

/* The parts lie apart, with canaries between and behind them. */
struct framing {
    struct virtq_buffer bufs[2 * PARTS];
    unsigned nread, nwrite;
    uint32_t writable;
};

static void lay_out(struct framing *f, const uint16_t *lengths)
{
    uint64_t at = RING_BYTES;

    memset(memory + RING_BYTES, CANARY, MEMORY_BYTES - RING_BYTES);
    f->writable = 0;
    for (unsigned i = 0; i < f->nread + f->nwrite; i++) {
        f->bufs[i] = (struct virtq_buffer){GPA + at, lengths[i] % PART_MAX + 1u};
        if (i >= f->nread)
            f->writable += f->bufs[i].len;
        at += f->bufs[i].len + 64;
    }
}

static void fill(const struct framing *f, const uint8_t *bytes, size_t n)
{
    size_t used = 0;

    for (unsigned i = 0; i < f->nread && used < n; i++) {
        size_t part = MIN(n - used, (size_t)f->bufs[i].len);

        memcpy(memory + (f->bufs[i].addr - GPA), bytes + used, part);
        used += part;
    }
}

static void run(const struct framing *f)
{
    const uint64_t one = 1;
    uint64_t deadline = dt_clock_ns() + DT_S(10);
    uint32_t written;
    uint16_t id;
    int n;

    must(virtq_driver_add(&ring, f->bufs, f->nread, f->nwrite) >= 0, "the ring is full");
    if (virtq_driver_publish(&ring))
        must(write(kick, &one, sizeof(one)) == sizeof(one), "kick");
    while ((n = virtq_driver_reap(&ring, &id, &written, 1)) == 0)
        must(dt_clock_ns() < deadline, "no answer");
    must(n == 1, ring.fault);
    must(written <= f->writable, "more was written than there is room");
}

static void check(const struct framing *f)
{
    for (unsigned i = 0; i < f->nread + f->nwrite; i++) {
        const uint8_t *behind = memory + (f->bufs[i].addr - GPA) + f->bufs[i].len;

        for (unsigned k = 0; k < 64; k++)
            must(behind[k] == CANARY, "a byte outside the buffers was written");
    }
    if (f->nwrite) {
        const struct virtq_buffer *last = &f->bufs[f->nread + f->nwrite - 1];

        must(memory[last->addr - GPA + last->len - 1] <= VIRTIO_BLK_S_UNSUPP, "no status");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    while (size >= 2) {
        struct framing f = {.nread = data[0] % (PARTS + 1), .nwrite = data[1] % (PARTS + 1)};
        uint16_t lengths[2 * PARTS] = {0};
        size_t n = MIN((f.nread + f.nwrite) * sizeof(uint16_t), size - 2);

        memcpy(lengths, data + 2, n);
        data += 2 + n;
        size -= 2 + n;
        if (f.nread + f.nwrite == 0)
            continue;
        lay_out(&f, lengths);
        n = MIN(size, (size_t)64);
        fill(&f, data, n);
        data += n;
        size -= n;
        run(&f);
        check(&f);
    }
    return 0;
}
