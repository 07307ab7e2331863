/* SPDX-License-Identifier: MIT */
/*
 * backend-files.c - descriptors of guest memory, of the dirty log and of the in-flight region, kept
 * where another process may have to be given them.
 */
#include "vhost/internal.h"

#include <fcntl.h>

int backend_keep_file(struct vhost_backend *s, struct vhost_file *file, int fd,
                      struct dt_error *err)
{
    int kept;

    s->memory_changed = true;
    if (!s->config.keep_files)
        return 0;
    kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (kept < 0)
        return dt_fail(err, -errno, "cannot keep a descriptor: %s", strerror(errno));
    if (file->fd >= 0)
        close(file->fd);
    *file = (struct vhost_file){.id = ++s->file_ids, .fd = kept};
    return 0;
}

void backend_forget_file(struct vhost_backend *s, struct vhost_file *file)
{
    s->memory_changed = true;
    if (file->fd >= 0)
        close(file->fd);
    *file = (struct vhost_file){.fd = -1};
}

void backend_forget_regions(struct vhost_backend *s)
{
    for (unsigned i = 0; i < MEMMAP_MAX_REGIONS; i++)
        backend_forget_file(s, &s->region_files[i]);
}

void backend_tell_memory(struct vhost_backend *s)
{
    if (!s->memory_changed)
        return;
    s->memory_changed = false;
    if (s->config.ops->memory_changed)
        s->config.ops->memory_changed(s->config.dev);
}

void vhost_backend_files(const struct vhost_backend *s, struct vhost_files *files)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(s->config.keep_files);
    *files = (struct vhost_files){
        .regions = s->region_files, .log = s->log_file, .inflight = s->inflight_kept};
}
