/* SPDX-License-Identifier: MIT */
/*
 * source-nbd.c - NBD exports as something to fill a disk from, and images that qemu-nbd makes one of.
 *
 * qemu-nbd gets its socket from us and ends with the connection: it leaves nothing behind, and nobody
 * else can connect. What the server says is zero is not read.
 */
#include "tools/cvd/source.h"

#include "base/base.h"

#ifdef HAVE_LIBNBD
#include <libnbd.h>

#define MAX_READ   ((size_t)32 << 20) /* what servers take without being asked */
#define MAX_STATUS ((uint64_t)1 << 30)

/** struct remote - @asked, @data_from, @data_to: of the last answer, see extents(). */
struct remote {
    struct source source;
    struct nbd_handle *nbd;
    uint64_t asked, data_from, data_to;
    bool sparse;
};

static int failed(const char *doing, struct dt_error *err)
{
    int ret = nbd_get_errno() ? -nbd_get_errno() : -EIO;

    return dt_fail(err, ret, "cannot %s: %s", doing, nbd_get_error());
}

/* The first run of data in the answer is @data_from to @data_to; @asked is where the answer ends. */
static int extents(void *arg, const char *context, uint64_t offset, uint32_t *entries, size_t n,
                   int *error)
{
    struct remote *r = arg;

    r->asked = r->data_from = r->data_to = offset;
    for (size_t i = 0; i + 1 < n; i += 2) {
        bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;

        if (zero && r->data_to > r->data_from)
            break;
        r->asked += entries[i];
        if (!zero) {
            if (r->data_to == r->data_from)
                r->data_from = r->asked - entries[i];
            r->data_to = r->asked;
        }
    }
    return 0;
}

static int remote_extent(struct source *s, uint64_t at, uint64_t *from, uint64_t *to,
                         struct dt_error *err)
{
    struct remote *r = container_of(s, struct remote, source);

    if (!r->sparse) {
        *from = at;
        *to = s->size;
        return at < s->size;
    }
    while (at < s->size) {
        nbd_extent_callback each = {.callback = extents, .user_data = r};

        r->asked = r->data_from = r->data_to = at;
        if (nbd_block_status(r->nbd, MIN(s->size - at, MAX_STATUS), at, each, 0) < 0)
            return failed("ask for holes", err);
        if (r->asked <= at)
            return dt_fail(err, -EPROTO, "the NBD server says nothing of what is at %llu",
                           (unsigned long long)at);
        at = r->asked;
        if (r->data_to > r->data_from) {
            *from = r->data_from;
            *to = MIN(r->data_to, s->size);
            return 1;
        }
    }
    return 0;
}

static int remote_read(struct source *s, void *buf, uint64_t offset, size_t length,
                       struct dt_error *err)
{
    struct remote *r = container_of(s, struct remote, source);
    size_t there = (size_t)MIN((uint64_t)length, s->size - offset);

    memset((char *)buf + there, 0, length - there);
    for (size_t done = 0, n; done < there; done += n) {
        n = MIN(there - done, MAX_READ);
        if (nbd_pread(r->nbd, (char *)buf + done, n, offset + done, 0) < 0)
            return failed("read", err);
    }
    return 0;
}

static void remote_close(struct source *s)
{
    struct remote *r = container_of(s, struct remote, source);

    nbd_shutdown(r->nbd, 0);
    nbd_close(r->nbd);
    free(r);
}

static bool is_installed(const char *program)
{
    _cleanup_free_ char *path = xstrdup(getenv("PATH") ?: "/usr/bin:/bin");
    char *rest = path;

    for (const char *folder; (folder = strsep(&rest, ":"));) {
        _cleanup_free_ char *name = xasprintf("%s/%s", folder, program);

        if (access(name, X_OK) == 0)
            return true;
    }
    return false;
}

static int connect_to(struct nbd_handle *nbd, const char *uri, const char *path, const char *format,
                      struct dt_error *err)
{
    const char *argv[] = {"qemu-nbd", "-r", "-f", format, path, NULL};

    if (nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0)
        return failed("ask for holes", err);
    if (uri)
        return nbd_connect_uri(nbd, uri) < 0 ? failed("connect", err) : 0;
    if (!is_installed(argv[0]))
        return dt_fail(err, -ENOENT,
                       "%s is a %s image, which qemu-nbd reads, and that is not installed (package "
                       "qemu-utils)",
                       path, format);
    return nbd_connect_systemd_socket_activation(nbd, (char **)(uintptr_t)argv) < 0
               ? failed("have qemu-nbd read the image", err)
               : 0;
}

int source_open_nbd(struct source **out, const char *uri, const char *path, const char *format,
                    struct dt_error *err)
{
    struct remote *r = xcalloc(1, sizeof(*r));
    int64_t size = 0;
    int ret;

    r->nbd = nbd_create();
    CHECK(r->nbd);
    ret = connect_to(r->nbd, uri, path, format, err);
    if (ret == 0) {
        size = nbd_get_size(r->nbd);
        ret = size < 0 ? failed("learn its size", err) : 0;
    }
    if (ret < 0) {
        nbd_close(r->nbd);
        free(r);
        return ret;
    }
    r->source = (struct source){.size = (uint64_t)size,
                                .extent = remote_extent,
                                .read = remote_read,
                                .close = remote_close};
    r->sparse = nbd_can_meta_context(r->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    *out = &r->source;
    return 0;
}
#else
int source_open_nbd(struct source **out, const char *uri, const char *path, const char *format,
                    struct dt_error *err)
{
    return dt_fail(err, -EOPNOTSUPP, "%s: this build has no libnbd, which reads that", uri ?: path);
}
#endif
