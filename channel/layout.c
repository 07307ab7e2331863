/* SPDX-License-Identifier: MIT */
/* layout.c - a channel's memory: made by the worker, judged by the extension's side. */
#include "channel/channel.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE_BYTES (1ull << CHANNEL_PAGE_SHIFT)
#define SEALS      (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Each request has at most one unread message in each ring; a few more are about none. */
static uint32_t entries_for(uint32_t slots, uint32_t subs)
{
    uint32_t n = 8;

    while (n < slots + subs + CHANNEL_CANCELS + 4)
        n *= 2;
    return n;
}

static void lay_out(struct channel_header *h, const struct channel_shape *shape)
{
    uint64_t ring;

    h->magic = CHANNEL_MAGIC;
    h->version = CHANNEL_VERSION;
    h->slots = shape->slots;
    h->subs = shape->subs;
    h->entries = entries_for(shape->slots, shape->subs);
    h->sub_window = shape->sub_window;
    ring = ALIGN_UP((uint64_t)h->entries * sizeof(struct channel_msg), PAGE_BYTES);
    h->down_offset = ALIGN_UP(sizeof(*h), PAGE_BYTES);
    h->up_offset = h->down_offset + ring;
    h->data_offset = h->up_offset + ring;
    h->data_bytes = shape->data_bytes;
    h->sub_offset = h->data_offset + h->data_bytes;
    h->size = h->sub_offset + (uint64_t)h->subs * h->sub_window;
}

uint64_t channel_size(const struct channel_shape *shape)
{
    struct channel_header h = {0};

    lay_out(&h, shape);
    return h.size;
}

static void fill_map(struct channel_map *map, void *base, const struct channel_header *h)
{
    *map = (struct channel_map){
        .header = base,
        .size = h->size,
        .slots = h->slots,
        .subs = h->subs,
        .entries = h->entries,
        .sub_window = h->sub_window,
        .down = (struct channel_msg *)((uint8_t *)base + h->down_offset),
        .up = (struct channel_msg *)((uint8_t *)base + h->up_offset),
        .data = (uint8_t *)base + h->data_offset,
        .sub_data = (uint8_t *)base + h->sub_offset,
        .data_bytes = h->data_bytes,
    };
}

int channel_create(struct channel_map *map, const struct channel_shape *shape, struct dt_error *err)
{
    _cleanup_close_ int fd = memfd_create("devtap-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct channel_header h = {0};
    void *base;

    CHECK(shape->slots && shape->slots <= CHANNEL_SLOTS_MAX && shape->subs <= CHANNEL_SLOTS_MAX);
    CHECK(shape->data_bytes % PAGE_BYTES == 0 && shape->sub_window % PAGE_BYTES == 0);
    lay_out(&h, shape);
    if (fd < 0 || ftruncate(fd, (off_t)h.size) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        return dt_fail(err, -errno, "cannot make a channel of %llu bytes: %m",
                       (unsigned long long)h.size);
    base = mmap(NULL, h.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return dt_fail(err, -errno, "cannot map a channel of %llu bytes: %m",
                       (unsigned long long)h.size);
    memcpy(base, &h, sizeof(h));
    fill_map(map, base, &h);
    return TAKE_FD(fd);
}

/* The only shape there is for these numbers is the one that lay_out() gives. */
static int judge(const struct channel_header *h, uint64_t file_size, struct dt_error *err)
{
    struct channel_shape shape = {h->slots, h->subs, h->sub_window, h->data_bytes};
    struct channel_header want = {0};

    if (h->magic != CHANNEL_MAGIC)
        return dt_fail(err, -EPROTO, "this is no extension channel");
    if (h->version != CHANNEL_VERSION)
        return dt_fail(err, -EPROTO, "the channel has version %u, not %u", h->version,
                       CHANNEL_VERSION);
    if (h->slots == 0 || h->slots > CHANNEL_SLOTS_MAX || h->subs > CHANNEL_SLOTS_MAX ||
        h->data_bytes > CHANNEL_DATA_MAX || h->data_bytes % PAGE_BYTES ||
        h->sub_window % PAGE_BYTES || (uint64_t)h->subs * h->sub_window > CHANNEL_DATA_MAX)
        return dt_fail(err, -EPROTO, "the channel's shape is out of bounds");
    lay_out(&want, &shape);
    if (h->entries != want.entries || h->down_offset != want.down_offset ||
        h->up_offset != want.up_offset || h->data_offset != want.data_offset ||
        h->sub_offset != want.sub_offset || h->size != want.size || h->size != file_size)
        return dt_fail(err, -EPROTO, "the channel's areas do not lie where they must");
    return 0;
}

int channel_attach(struct channel_map *map, int fd, struct dt_error *err)
{
    struct channel_header h;
    struct stat st;
    void *base;
    int seals, ret;

    /* Without the seal, the file could shrink later, and a look at it would be a SIGBUS. */
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS)
        return dt_fail(err, -EPROTO, "the channel is not a sealed memfd");
    if (fstat(fd, &st) < 0 || pread(fd, &h, sizeof(h), 0) != sizeof(h))
        return dt_fail(err, -EPROTO, "the channel is shorter than its header");
    ret = judge(&h, (uint64_t)st.st_size, err);
    if (ret < 0)
        return ret;
    base = mmap(NULL, h.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return dt_fail(err, -errno, "cannot map the channel: %m");
    fill_map(map, base, &h);
    return 0;
}

void channel_detach(struct channel_map *map)
{
    if (map->header)
        munmap(map->header, map->size);
    memset(map, 0, sizeof(*map));
}
