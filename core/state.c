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

/* One after the other, the first from where we are. */
static int open_path(const char *const *path, unsigned n, bool create, struct dt_error *err)
{
    _cleanup_close_ int at = -1;

    for (unsigned i = 0; i < n; i++) {
        int fd = open_dir(at >= 0 ? at : AT_FDCWD, path[i], create);

        if (fd < 0)
            return dt_fail(err, fd, "state directory %s: '%s': %s", path[0], path[i],
                           strerror(-fd));
        if (at >= 0)
            close(at);
        at = fd;
    }
    return TAKE_FD(at);
}

static int find_dir(struct dt_layer *layer, bool create, struct dt_error *err)
{
    const char *const path[] = {layer->dev->state_dir, layer->dev->name, layer->name};
    int fd;

    if (layer->state_fd >= 0)
        return layer->state_fd;
    if (!layer->dev->state_dir)
        return dt_fail(err, -ENOENT, "this device was given no state directory");
    fd = open_path(path, ARRAY_SIZE(path), create, err);
    if (fd >= 0)
        layer->state_fd = fd;
    return fd;
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

/* ---- In memory that outlives the process (blob.c) ---------------------------------------------- */

void state_find_slots(struct dt_layer **layers, unsigned n)
{
    for (unsigned i = 1; i <= n; i++) {
        struct device *dev = layers[i]->dev;
        int slot = dev->blobs && layers[i]->slot < 0 ? blob_find(dev->blobs, layers[i]->name) : -1;

        if (slot < 0 || dev->slots_taken >> slot & 1)
            continue;
        layers[i]->slot = slot;
        dev->slots_taken |= 1ull << slot;
    }
}

/* For a layer that saved nothing yet: one that is empty, or holds what is of no layer any more. */
static int take_slot(struct dt_layer *layer)
{
    struct device *dev = layer->dev;
    int stale = -1;

    for (int i = 0; layer->slot < 0 && i < (int)BLOB_FLOOR; i++) {
        if (dev->slots_taken >> i & 1)
            continue;
        if (blob_empty(dev->blobs, (unsigned)i))
            layer->slot = i;
        else if (stale < 0)
            stale = i;
    }
    if (layer->slot < 0)
        layer->slot = stale;
    CHECK(layer->slot >= 0); /* twice as many as a chain has layers */
    dev->slots_taken |= 1ull << layer->slot;
    return layer->slot;
}

/* Returns 1 when there is a state and the layer took it, 0 when it is to start without. */
static int load_blob(struct dt_layer *layer)
{
    _cleanup_free_ void *bytes = NULL;
    struct dt_error err = {"it is damaged (checksum)"};
    char name[BLOB_NAME];
    uint32_t version;
    size_t length;
    int ret;

    if (!layer->dev->blobs || layer->slot < 0)
        return 0;
    ret = blob_read(layer->dev->blobs, (unsigned)layer->slot, name, &version, &bytes, &length);
    if (ret == -ENOENT)
        return 0;
    if (ret == 0 && strcmp(name, layer->name) != 0)
        ret = dt_fail(&err, -EBADMSG, "it is of a layer '%s'", name);
    if (ret == 0)
        ret = layer->ext->load(layer, bytes, length, version, &err);
    if (ret == 0)
        return 1;
    dt_layer_event(layer, "state-refused", "the state of the process before is refused: %s",
                   err.text);
    blob_clear(layer->dev->blobs, (unsigned)layer->slot);
    return 0;
}

static int64_t fill_blob(void *arg, void *bytes, size_t room)
{
    struct dt_layer *layer = arg;

    return layer->ext->save(layer, bytes, room - layer->live_bytes);
}

void *layer_live(struct dt_layer *layer, size_t bytes)
{
    if (!layer->dev->blobs)
        return NULL;
    layer->live_bytes = ALIGN_UP(bytes, (size_t)CACHE_LINE);
    return blob_live(layer->dev->blobs, (unsigned)take_slot(layer), layer->live_bytes);
}

static void save_blob(struct dt_layer *layer)
{
    int64_t ret;

    layer->state_changed = false;
    ret = blob_write(layer->dev->blobs, (unsigned)take_slot(layer), layer->name,
                     layer->ext->state_version, fill_blob, layer);
    if (ret < 0)
        log_error("%s: %s: state not saved: %s", layer->dev->name, layer->name,
                  strerror((int)-ret));
}

void state_forget(struct dt_layer *layer)
{
    if (layer->slot < 0)
        return;
    blob_clear(layer->dev->blobs, (unsigned)layer->slot);
    layer->dev->slots_taken &= ~(1ull << layer->slot);
    layer->slot = -1;
}

void layer_state_save(struct dt_layer *layer)
{
    if (layer->dev->blobs)
        save_blob(layer);
}

void state_inherit(struct dt_layer *heir, struct dt_layer *from)
{
    _cleanup_free_ uint8_t *bytes = NULL;
    struct dt_error err;
    int64_t n;

    heir->slot = from->slot;
    from->slot = -1;
    if (!heir->ext->load || !from->ext->save)
        return;
    bytes = xcalloc(1, BLOB_BYTES_MAX);
    n = from->ext->save(from, bytes, BLOB_BYTES_MAX);
    if (n >= 0 && heir->ext->load(heir, bytes, (size_t)n, from->ext->state_version, &err) < 0)
        dt_layer_event(heir, "state-refused", "the state of the layer it replaces is refused: %s",
                       err.text);
    heir->state_changed = true;
}

void dt_layer_state_changed(struct dt_layer *layer)
{
    __atomic_store_n(&layer->state_changed, true, __ATOMIC_RELEASE);
}

static void save_changed(void *arg)
{
    struct device *dev = arg;

    for (unsigned i = 1; i <= dev->nlayers; i++)
        if (dev->layers[i]->state_changed)
            save_blob(dev->layers[i]);
}

void device_save(struct device *dev)
{
    bool any = false;

    CHECK_MAGIC(dev, DEVICE_MAGIC);
    for (unsigned i = 1; dev->blobs && i <= dev->nlayers; i++)
        any |= dev->layers[i]->ext->save &&
               __atomic_load_n(&dev->layers[i]->state_changed, __ATOMIC_ACQUIRE);
    if (any)
        device_exclusive(dev, save_changed, dev);
}

/* ---- In the state directory ------------------------------------------------------------------------ */

int state_load(struct dt_layer *layer, struct dt_error *err)
{
    int dir, ret;

    if (layer->ext->load && load_blob(layer))
        return 0;

    if (!layer->ext->load || !layer->dev->state_dir || (layer->ext->flags & DT_STATE_OF_RUN))
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

/* Made up by a process that may have been captured: it must not lead elsewhere. */
static bool plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/');
}

static int keep_one(const struct blob_area *area, unsigned index, const char *state_dir,
                    const char *device)
{
    struct state_header h = {.magic = "DTst"};
    _cleanup_free_ void *blob = NULL;
    _cleanup_close_ int dir = -1;
    char name[BLOB_NAME];
    size_t length;
    int ret = blob_read(area, index, name, &h.version, &blob, &length);

    if (ret == -ENOENT)
        return 0;
    if (ret == 0 && !plain_name(name))
        ret = -EBADMSG;
    if (ret < 0)
        return ret;
    h.length = length;
    h.hash = XXH3_64bits(blob, length);
    dir = open_path((const char *const[]){state_dir, device, name}, 3, true, NULL);
    return dir < 0 ? dir : write_blob(dir, &h, blob);
}

void state_keep(const struct blob_area *area, const char *state_dir, const char *device)
{
    for (unsigned i = 0; i < BLOB_FLOOR; i++) {
        int ret = keep_one(area, i, state_dir, device);

        if (ret < 0)
            log_error("%s: layer %u: state not saved: %s", device, i + 1, strerror(-ret));
    }
}

void state_save(struct dt_layer *layer)
{
    struct state_header h = {.magic = "DTst", .version = layer->ext->state_version};
    _cleanup_free_ uint8_t *blob = NULL;
    struct dt_error err;
    int64_t length;
    int dir, ret;

    if (layer->ext->save && layer->dev->blobs) {
        save_blob(layer); /* whoever gave us the memory puts it into the directory */
        return;
    }
    if (!layer->ext->save || !layer->dev->state_dir || (layer->ext->flags & DT_STATE_OF_RUN))
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
