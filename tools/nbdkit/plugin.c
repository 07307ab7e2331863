/* SPDX-License-Identifier: MIT */
/*
 * plugin.c - an nbdkit plug-in: any vhost-user-blk back end as an NBD export.
 *
 *     nbdkit devtap socket=/run/vm1.sock
 *     nbdkit devtap device=vm1
 *
 * What virtio-blk has is passed on: reads, writes, flush, discard, write-zeroes, block sizes. It has no
 * FUA, so nbdkit follows such a write by a flush; and it cannot tell what is allocated, so there is
 * block status only where the back end is a soft disk, and device= says which (map.h).
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "tools/nbdkit/disk.h"
#include "tools/nbdkit/map.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define MAX_DEPTH 1024u

static struct disk disk = {.depth = 64, .patience = DT_S(60)};
static struct map map;
static char *path, *device;

/** struct handle - a client's connection: the disk as it was when that began. */
struct handle {
    struct virtio_blk_config config;
};

static int fail(int error, const struct dt_error *err)
{
    nbdkit_error("devtap: %s", err->text);
    nbdkit_set_error(error == -EOPNOTSUPP ? ENOTSUP : -error);
    return -1;
}

/* ---- Before clients --------------------------------------------------------------------------- */

static int plugin_config(const char *key, const char *value)
{
    unsigned number;

    if (!strcmp(key, "socket")) {
        free(path);
        path = nbdkit_absolute_path(value);
        return path ? 0 : -1;
    }
    if (!strcmp(key, "device")) {
        free(device);
        device = strdup(value);
        if (!device)
            nbdkit_error("no memory");
        return device ? 0 : -1;
    }
    if (!strcmp(key, "depth")) {
        if (nbdkit_parse_unsigned("depth", value, &number) < 0)
            return -1;
        if (number < 1 || number > MAX_DEPTH) {
            nbdkit_error("depth must be 1 to %u", MAX_DEPTH);
            return -1;
        }
        disk.depth = number;
        return 0;
    }
    if (!strcmp(key, "patience")) {
        if (nbdkit_parse_unsigned("patience", value, &number) < 0)
            return -1;
        disk.patience = DT_S(number);
        return 0;
    }
    nbdkit_error("unknown parameter '%s': there are socket=, device=, depth= and patience=", key);
    return -1;
}

static int plugin_config_complete(void)
{
    struct dt_error err;

    if (!path && !device) {
        nbdkit_error(
            "say socket=PATH, where a vhost-user-blk back end listens, or device=NAME of a "
            "disk that devtap serves");
        return -1;
    }
    map = (struct map){.device = device, .socket = path};
    path = NULL;
    if (device && map_open(&map, &err) < 0) {
        nbdkit_error("devtap: %s", err.text);
        return -1;
    }
    disk.path = map.socket;
    return 0;
}

/* nbdkit is in the background by then; it may have changed its user. */
static int plugin_after_fork(void)
{
    struct dt_error err;

    if (disk_open(&disk, &err) == 0)
        return 0;
    nbdkit_error("devtap: %s", err.text);
    return -1;
}

static void plugin_cleanup(void)
{
    disk_close(&disk);
}

static void plugin_unload(void)
{
    map_close(&map);
    free(path);
    free(device);
}

/* ---- A client ----------------------------------------------------------------------------------- */

static void *plugin_open(int readonly)
{
    struct handle *h = calloc(1, sizeof(*h));

    if (h)
        disk_config(&disk, &h->config);
    else
        nbdkit_error("no memory");
    return h;
}

static void plugin_close(void *handle)
{
    free(handle);
}

static int64_t plugin_get_size(void *handle)
{
    const struct handle *h = handle;

    if (h->config.capacity > INT64_MAX >> DT_SECTOR_SHIFT) {
        nbdkit_error("devtap: the disk claims an impossible size");
        return -1;
    }
    return (int64_t)h->config.capacity << DT_SECTOR_SHIFT;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                             uint32_t *maximum)
{
    const struct handle *h = handle;
    uint64_t physical = (uint64_t)h->config.blk_size << (h->config.physical_block_exp & 15);

    *minimum = MIN(h->config.blk_size, 65536u);
    *preferred = (uint32_t)MAX(MIN(physical, (uint64_t)disk.chunk), (uint64_t)PAGE_SIZE_4K);
    *maximum = UINT32_MAX; /* longer ones are cut here */
    return 0;
}

static int plugin_can_write(void *handle)
{
    return !disk_has(&disk, VIRTIO_BLK_F_RO);
}

static int plugin_can_flush(void *handle)
{
    return disk_has(&disk, VIRTIO_BLK_F_FLUSH);
}

/* Without a write cache every write is durable when it is done. */
static int plugin_can_fua(void *handle)
{
    return plugin_can_flush(handle) ? NBDKIT_FUA_EMULATE : NBDKIT_FUA_NATIVE;
}

static int plugin_can_trim(void *handle)
{
    return disk_has(&disk, VIRTIO_BLK_F_DISCARD);
}

static int plugin_can_zero(void *handle)
{
    return disk_has(&disk, VIRTIO_BLK_F_WRITE_ZEROES);
}

static int plugin_can_extents(void *handle)
{
    return device != NULL;
}

/* All connections use one queue of one disk: a flush covers what all of them wrote. */
static int plugin_can_multi_conn(void *handle)
{
    return 1;
}

/* ---- Requests ----------------------------------------------------------------------------------- */

/* NBD clients may ignore the smallest block that they were told. */
static int judge(const struct handle *h, uint32_t count, uint64_t offset)
{
    if (likely(((count | offset) & (h->config.blk_size - 1)) == 0))
        return 0;
    nbdkit_error("devtap: %u bytes at %llu are not whole blocks of %u (--filter=blocksize helps)",
                 count, (unsigned long long)offset, h->config.blk_size);
    nbdkit_set_error(EINVAL);
    return -1;
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct dt_error err;
    int ret;

    if (judge(handle, count, offset) < 0)
        return -1;
    ret = disk_read(&disk, data, count, offset, &err);
    return ret < 0 ? fail(ret, &err) : 0;
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    struct dt_error err;
    int ret;

    if (judge(handle, count, offset) < 0)
        return -1;
    ret = disk_write(&disk, data, count, offset, &err);
    return ret < 0 ? fail(ret, &err) : 0;
}

static int plugin_flush(void *handle, uint32_t flags)
{
    struct dt_error err;
    int ret = disk_flush(&disk, &err);

    return ret < 0 ? fail(ret, &err) : 0;
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct dt_error err;
    int ret;

    if (judge(handle, count, offset) < 0)
        return -1;
    ret = disk_discard(&disk, count, offset, &err);
    return ret < 0 ? fail(ret, &err) : 0;
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct dt_error err;
    int ret;

    if (judge(handle, count, offset) < 0)
        return -1;
    ret = disk_zero(&disk, count, offset, flags & NBDKIT_FLAG_MAY_TRIM, &err);
    return ret < 0 ? fail(ret, &err) : 0;
}

static int add_extent(void *extents, uint64_t start, uint64_t length, enum dt_status status)
{
    static const uint32_t types[] = {[DT_STATUS_DATA] = 0,
                                     [DT_STATUS_ZERO] = NBDKIT_EXTENT_ZERO,
                                     [DT_STATUS_HOLE] = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO};

    return nbdkit_add_extent(extents, start, length, types[status]);
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    return map_ask(&map, offset, count, add_extent, extents);
}

static struct nbdkit_plugin plugin = {
    .name = "devtap",
    .longname = "devtap: a vhost-user-blk back end",
    .version = DEVTAP_VERSION,
    .description = "Serves any vhost-user-blk back end, such as a soft disk of devtap, as NBD.",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help =
        "socket=PATH      Where the vhost-user-blk back end listens.\n"
        "device=NAME      The disk of devtap that this is: its map is told; socket= may\n"
        "                 then be left out.\n"
        "depth=N          Requests at a time (default 64).\n"
        "patience=SECONDS How long to wait for a back end that is gone (default 60).",
    .magic_config_key = "socket",
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .unload = plugin_unload,
    .open = plugin_open,
    .close = plugin_close,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_flush = plugin_can_flush,
    .can_fua = plugin_can_fua,
    .can_trim = plugin_can_trim,
    .can_zero = plugin_can_zero,
    .can_extents = plugin_can_extents,
    .can_multi_conn = plugin_can_multi_conn,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};
NBDKIT_REGISTER_PLUGIN(plugin)
