/* SPDX-License-Identifier: MIT */
/*
 * cgroup.c - a control group for the worker.
 *
 * Source: Linux, Documentation/admin-guide/cgroup-v2.rst, "Controlling Controllers" and
 * "Delegation". Nothing here is needed to serve: whatever the host does not allow is told, and goes
 * no further.
 */
#include "control/cgroup.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define SUPERVISOR "devtap-supervisor"

static int read_text(int dir, const char *file, char *text, size_t size)
{
    _cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

    if (n < 0)
        return -errno;
    text[n] = '\0';
    return 0;
}

static int write_text(int dir, const char *file, const char *text)
{
    _cleanup_close_ int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

/* ---- The group of this process -------------------------------------------------------------- */

/* Where the unified hierarchy is mounted. */
static int find_mount(char *path, size_t size)
{
    FILE *mounts = fopen("/proc/self/mounts", "re");
    char *line = NULL;
    size_t room = 0;
    int ret = -ENOENT;

    if (!mounts)
        return -errno;
    while (ret < 0 && getline(&line, &room, mounts) > 0) {
        char where[200], type[40];

        if (sscanf(line, "%*s %199s %39s", where, type) == 2 && strcmp(type, "cgroup2") == 0) {
            snprintf(path, size, "%s", where);
            ret = 0;
        }
    }
    free(line);
    fclose(mounts);
    return ret;
}

static int own_group(char *path, size_t size, struct dt_error *err)
{
    char text[4096], *line, *end;
    size_t n;

    if (find_mount(path, size) < 0)
        return dt_fail(err, -ENOENT, "no cgroup v2 is mounted");
    if (read_text(AT_FDCWD, "/proc/self/cgroup", text, sizeof(text)) < 0 ||
        !(line = strstr(text, "0::/")))
        return dt_fail(err, -ENOENT, "this process is in no cgroup v2");
    line += strlen("0::");
    end = strchr(line, '\n');
    if (end)
        *end = '\0';
    n = strlen(path);
    snprintf(path + n, size - n, "%s", line);
    return 0;
}

/* ---- Making one ----------------------------------------------------------------------------- */

static int move_aside(int parent)
{
    if (mkdirat(parent, SUPERVISOR, 0755) < 0 && errno != EEXIST)
        return -errno;
    return write_text(parent, SUPERVISOR "/cgroup.procs", "0");
}

static void move_back(int parent)
{
    write_text(parent, "cgroup.procs", "0");
    unlinkat(parent, SUPERVISOR, AT_REMOVEDIR);
}

static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = text; (at = strstr(at, word)); at += n)
        if ((at == text || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\n' || at[n] == '\0'))
            return true;
    return false;
}

static int enable_controllers(int parent, bool *io, struct dt_error *err)
{
    char have[1024];
    int ret = read_text(parent, "cgroup.controllers", have, sizeof(have));

    if (ret < 0)
        return dt_fail(err, ret, "it is no cgroup v2");
    if (!has_word(have, "cpu"))
        return dt_fail(err, -EOPNOTSUPP, "the host delegates no processor time to it");
    ret = write_text(parent, "cgroup.subtree_control", "+cpu");
    if (ret == -EBUSY)
        return dt_fail(err, ret, "other processes are in it");
    if (ret < 0)
        return dt_fail(err, ret, "its controllers cannot be enabled: %s", strerror(-ret));
    *io = has_word(have, "io") && write_text(parent, "cgroup.subtree_control", "+io") == 0;
    return 0;
}

static int make_group(struct cgroup *cgroup, unsigned weight, bool io, struct dt_error *err)
{
    char text[40];
    int ret;

    if (mkdirat(cgroup->parent, cgroup->name, 0755) < 0 && errno != EEXIST)
        return dt_fail(err, -errno, "no group can be made in it: %s", strerror(errno));
    cgroup->fd = openat(cgroup->parent, cgroup->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup->fd < 0)
        return dt_fail(err, -errno, "its new group: %s", strerror(errno));
    snprintf(text, sizeof(text), "%u", weight);
    ret = write_text(cgroup->fd, "cpu.weight", text);
    if (ret < 0)
        return dt_fail(err, ret, "cpu.weight: %s", strerror(-ret));
    snprintf(text, sizeof(text), "default %u", weight);
    ret = io ? write_text(cgroup->fd, "io.weight", text) : 0;
    if (ret < 0 && ret != -ENOENT && ret != -EOPNOTSUPP) /* not every I/O scheduler has weights */
        return dt_fail(err, ret, "io.weight: %s", strerror(-ret));
    return 0;
}

int cgroup_new(struct cgroup *cgroup, const char *parent, unsigned weight, struct dt_error *err)
{
    char path[4096];
    bool io = false;
    int ret = 0;

    CHECK(weight >= 1 && weight <= CGROUP_WEIGHT_MAX);
    *cgroup = (struct cgroup){.parent = -1, .fd = -1};
    snprintf(cgroup->name, sizeof(cgroup->name), "devtap-worker-%d", (int)getpid());
    if (parent)
        snprintf(path, sizeof(path), "%s", parent);
    else if ((ret = own_group(path, sizeof(path), err)) < 0)
        return ret;
    cgroup->parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup->parent < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!parent && (ret = move_aside(cgroup->parent)) < 0)
        dt_fail(err, ret, "no group can be made in it: %s", strerror(-ret));
    ret = ret ?: enable_controllers(cgroup->parent, &io, err);
    ret = ret ?: make_group(cgroup, weight, io, err);
    if (ret < 0) {
        dt_fail_prefix(err, "control group %s", path);
        if (!parent)
            move_back(cgroup->parent);
        cgroup_free(cgroup);
    }
    return ret;
}

void cgroup_free(struct cgroup *cgroup)
{
    if (cgroup->fd < 0) {
        if (cgroup->parent > 0)
            close(cgroup->parent);
        cgroup->parent = -1;
        return;
    }
    close(cgroup->fd);
    unlinkat(cgroup->parent, cgroup->name, AT_REMOVEDIR);
    close(cgroup->parent);
    *cgroup = (struct cgroup){.parent = -1, .fd = -1};
}
