/* SPDX-License-Identifier: MIT */
/*
 * state.c - what layers keep across restarts: a directory of their own, and the blob of save()
 * and load() in it, replaced atomically. A blob that is torn or of another kind is
 * refused with a reason; the layer then starts afresh only if the file is removed.
 *
 * The file `state` is: magic "DTst", u32 version of the layer's blob, u64 length, u64 XXH3-64 of
 * the blob, then the blob; all little-endian.
 */
#include "core/internal.h"
#include <fcntl.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define STATE_MAX (16u << 20)

struct state_header {
    char magic[4];
    uint32_t version;
    uint64_t length;
    uint64_t hash;
};

static int open_dir(int at, const char *path, bool create)
{
    if (create && mkdirat(at, path, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(at, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int find_dir(struct dt_layer *layer, bool create, struct dt_error *err)
{
    const char *const path[] = {layer->dev->state_dir, layer->dev->name, layer->name};
    _cleanup_close_ int at = -1;

    if (layer->state_fd >= 0)
        return layer->state_fd;
    if (!layer->dev->state_dir)
        return dt_fail(err, -ENOENT, "this device was given no state directory");
    for (unsigned i = 0; i < ARRAY_SIZE(path); i++) {
        int fd = open_dir(at >= 0 ? at : AT_FDCWD, path[i], create);

        if (fd < 0)
            return dt_fail(err, fd, "state directory %s: '%s': %s", layer->dev->state_dir, path[i],
                           strerror(-fd));
        if (at >= 0)
            close(at);
        at = fd;
    }
    layer->state_fd = TAKE_FD(at);
    return layer->state_fd;
}

int dt_layer_state_dir(struct dt_layer *layer, struct dt_error *err)
{
    return find_dir(layer, true, err);
}

static int load_fd(struct dt_layer *layer, int fd, struct dt_error *err)
{
    _cleanup_free_ uint8_t *blob = NULL;
    struct state_header h;
    struct stat st;

    if (fstat(fd, &st) < 0 || read(fd, &h, sizeof(h)) != sizeof(h) || memcmp(h.magic, "DTst", 4))
        return dt_fail(err, -EBADMSG, "its saved state is not a state file");
    if (h.length > STATE_MAX || (uint64_t)st.st_size != sizeof(h) + h.length)
        return dt_fail(err, -EBADMSG, "its saved state is %lld bytes long, not the %llu it names",
                       (long long)st.st_size, (unsigned long long)(sizeof(h) + h.length));
    blob = xcalloc(1, h.length + 1);
    if (read(fd, blob, h.length) != (ssize_t)h.length || XXH3_64bits(blob, h.length) != h.hash)
        return dt_fail(err, -EBADMSG, "its saved state is damaged (checksum)");
    return layer->ext->load(layer, blob, h.length, h.version, err);
}

int state_load(struct dt_layer *layer, struct dt_error *err)
{
    int dir, ret;

    if (!layer->ext->load || !layer->dev->state_dir)
        return 0;
    dir = find_dir(layer, false, err);
    if (dir < 0)
        return dir == -ENOENT ? 0 : dir;
    _cleanup_close_ int fd = openat(dir, "state", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : dt_fail(err, -errno, "its saved state: %s", strerror(errno));
    ret = load_fd(layer, fd, err);
    if (ret < 0)
        dt_fail_prefix(err, "%s/%s/%s/state", layer->dev->state_dir, layer->dev->name, layer->name);
    return ret;
}

static int sync_dir(int dir)
{
    _cleanup_close_ int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int write_blob(int dir, const struct state_header *h, const void *blob)
{
    _cleanup_close_ int fd =
        openat(dir, "state.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        return -errno;
    errno = 0; /* a short write sets none */
    if (write(fd, h, sizeof(*h)) != sizeof(*h) ||
        write(fd, blob, h->length) != (ssize_t)h->length || fsync(fd) < 0)
        return errno ? -errno : -EIO;
    return renameat(dir, "state.new", dir, "state") < 0 ? -errno : sync_dir(dir);
}

void state_save(struct dt_layer *layer)
{
    struct state_header h = {.magic = "DTst", .version = layer->ext->state_version};
    _cleanup_free_ uint8_t *blob = NULL;
    struct dt_error err;
    int64_t length;
    int dir, ret;

    if (!layer->ext->save || !layer->dev->state_dir)
        return;
    blob = xcalloc(1, STATE_MAX);
    length = layer->ext->save(layer, blob, STATE_MAX);
    if (length < 0) {
        log_error("%s: %s: state not saved: %s", layer->dev->name, layer->name,
                  strerror((int)-length));
        return;
    }
    h.length = (uint64_t)length;
    h.hash = XXH3_64bits(blob, h.length);
    dir = find_dir(layer, true, &err);
    ret = dir < 0 ? dir : write_blob(dir, &h, blob);
    if (ret < 0)
        log_error("%s: %s: state not saved: %s", layer->dev->name, layer->name, strerror(-ret));
}
