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
#include "tests/unit/raw_guest.h"
#include "tests/unit/soft_disk.h"
#include <stdio.h>

#define PARTS    7u
#define PART_MAX 0x4000u
#define CANARY   0xa5

static struct raw_guest guest;

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_request: %s\n", what);
        abort();
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct soft_disk disk;

    log_set_level(DT_LOG_ERROR);
    blk_register_builtin();
    soft_disk_start(&disk, "error probability=0 | mem size=1M");
    raw_guest_attach(&guest, disk.socket,
                     1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_DISCARD |
                         1ull << VIRTIO_BLK_F_WRITE_ZEROES);
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
    uint64_t at = RAW_DATA;

    memset(guest.memory + RAW_DATA, CANARY, RAW_MEMORY - RAW_DATA);
    f->writable = 0;
    for (unsigned i = 0; i < f->nread + f->nwrite; i++) {
        f->bufs[i] = (struct virtq_buffer){RAW_GPA + at, lengths[i] % PART_MAX + 1u};
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

        memcpy(guest.memory + (f->bufs[i].addr - RAW_GPA), bytes + used, part);
        used += part;
    }
}

static void run(const struct framing *f)
{
    int64_t written = raw_guest_run(&guest, f->bufs, f->nread, f->nwrite, 10000);

    must(written != -ETIMEDOUT, "no answer");
    must(written >= 0, guest.ring.fault);
    must((uint64_t)written <= f->writable, "more was written than there is room");
}

static void check(const struct framing *f)
{
    for (unsigned i = 0; i < f->nread + f->nwrite; i++) {
        const uint8_t *behind = guest.memory + (f->bufs[i].addr - RAW_GPA) + f->bufs[i].len;

        for (unsigned k = 0; k < 64; k++)
            must(behind[k] == CANARY, "a byte outside the buffers was written");
    }
    if (f->nwrite) {
        const struct virtq_buffer *last = &f->bufs[f->nread + f->nwrite - 1];

        must(guest.memory[last->addr - RAW_GPA + last->len - 1] <= VIRTIO_BLK_S_UNSUPP,
             "no status");
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
