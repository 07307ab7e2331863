/* SPDX-License-Identifier: MIT */
/*
 * mem.c - a disk in this process's memory. The mapping is sparse: a page costs memory from its
 * first write on, and a discard or a write of zeroes gives whole pages back.
 *
 * Safe on several threads without locks: requests that overlap are the guest's own race, as on
 * any disk, and madvise(2) on a page being copied yields either content.
 */
#include "base/base.h"
#include <devtap/block.h>

#include <sys/mman.h>

#define LOOK_SECTORS 8192u /* at a time */

struct mem {
    uint64_t size;
    uint8_t *bytes;
    size_t mapped;
};

static const struct dt_param params[] = {
    {.name = "size",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct mem, size),
     .help = "Size of the disk; a multiple of 512.",
     .min = DT_SECTOR_SIZE,
     .max = (uint64_t)1 << 46},
    {NULL},
};

static int mem_open(struct dt_layer *layer, struct dt_error *err)
{
    struct mem *mem = dt_layer_data(layer);
    void *at;

    if (mem->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "size=%llu is not a multiple of 512",
                       (unsigned long long)mem->size);
    mem->mapped = ALIGN_UP(mem->size, (uint64_t)PAGE_SIZE_4K);
    at = mmap(NULL, mem->mapped, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return dt_fail(err, -errno, "cannot reserve %llu bytes of memory: %s",
                       (unsigned long long)mem->size, strerror(errno));
    mem->bytes = at;
    /* A guest's data has no place in a core dump. */
    madvise(at, mem->mapped, MADV_DONTDUMP);
    return 0;
}

static void mem_close(struct dt_layer *layer)
{
    struct mem *mem = dt_layer_data(layer);

    munmap(mem->bytes, mem->mapped);
}

static int mem_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct mem *mem = dt_layer_data(layer);

    info->sectors = mem->size >> DT_SECTOR_SHIFT;
    info->physical_block = mem->size % PAGE_SIZE_4K ? DT_SECTOR_SIZE : PAGE_SIZE_4K;
    info->can_flush = info->can_discard = info->can_write_zeroes = true;
    info->write_zeroes_unmaps = true;
    info->discard_align = PAGE_SIZE_4K >> DT_SECTOR_SHIFT;
    return 0;
}

/* Zeroes that cost no memory: whole pages go back to the kernel, the edges are written. */
static void zero(const struct mem *mem, uint64_t at, uint64_t length)
{
    uint64_t end = at + length;
    uint64_t first = ALIGN_UP(at, (uint64_t)PAGE_SIZE_4K);
    uint64_t last = ALIGN_DOWN(end, (uint64_t)PAGE_SIZE_4K);

    if (first >= last || madvise(mem->bytes + first, last - first, MADV_DONTNEED) < 0) {
        memset(mem->bytes + at, 0, length);
        return;
    }
    memset(mem->bytes + at, 0, first - at);
    memset(mem->bytes + last, 0, end - last);
}

static void serve(struct dt_ctx *c, struct dt_req *req)
{
    const struct mem *mem = c->layer_data;
    uint64_t at = req->sector << DT_SECTOR_SHIFT, length = dt_req_bytes(req);
    const struct iovec *iov;
    unsigned n;

    req->error = 0;
    switch (req->op) {
    case DT_OP_READ:
        n = dt_req_map(c, req, &iov);
        dt_iov_write(iov, n, 0, mem->bytes + at, length);
        break;
    case DT_OP_WRITE:
        n = dt_req_map(c, req, &iov);
        dt_iov_read(iov, n, 0, mem->bytes + at, length);
        break;
    case DT_OP_FLUSH:
        break;
    case DT_OP_DISCARD:
    case DT_OP_WRITE_ZEROES:
        zero(mem, at, length);
        break;
    default:
        req->error = -EOPNOTSUPP;
    }
}

static void mem_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        serve(c, reqs[i]);
    dt_complete(c, reqs, n);
}

/* The kernel does not tell a page that was never written from one that it put aside, so they are looked at. */
static void mem_status(struct dt_layer *layer, struct dt_extent *extent)
{
    static const uint8_t zeroes[DT_SECTOR_SIZE];
    const struct mem *mem = dt_layer_data(layer);
    const uint8_t *at = mem->bytes + (extent->sector << DT_SECTOR_SHIFT);
    uint64_t most = MIN(extent->sectors, (uint64_t)LOOK_SECTORS), n = 0;
    bool zero = memcmp(at, zeroes, sizeof(zeroes)) == 0;

    do
        n++;
    while (n < most && (memcmp(at + n * sizeof(zeroes), zeroes, sizeof(zeroes)) == 0) == zero);
    extent->sectors = n;
    extent->status = zero ? DT_STATUS_ZERO : DT_STATUS_DATA;
}

const struct dt_block_ext blk_mem = {
    DT_BLOCK_EXT_HEADER,
    .name = "mem",
    .summary = "A disk in memory, empty at the start and gone at the end",
    .help =
        "Reads as zeroes until written. Memory is taken as the guest writes and given back as it "
        "discards; a machine without enough of it kills the process.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_SELF_CONTAINED,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .layer_size = sizeof(struct mem),
    .open = mem_open,
    .close = mem_close,
    .info = mem_info,
    .submit = mem_submit,
    .status = mem_status,
};
