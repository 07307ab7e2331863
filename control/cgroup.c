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
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SUPERVISOR "devtap-supervisor"

/* Linux, block/bfq-iosched.h: BFQ_MAX_WEIGHT. */
#define BFQ_WEIGHT_MAX 1000u

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

/* As it was before: else nobody could be started there again. */
static void move_back(const struct cgroup *cgroup)
{
    if (cgroup->undo[0])
        write_text(cgroup->parent, "cgroup.subtree_control", cgroup->undo);
    write_text(cgroup->parent, "cgroup.procs", "0");
    unlinkat(cgroup->parent, SUPERVISOR, AT_REMOVEDIR);
}

static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = text; (at = strstr(at, word)); at += n)
        if ((at == text || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\n' || at[n] == '\0'))
            return true;
    return false;
}

static int enable(struct cgroup *cgroup, const char *controller)
{
    char text[1024], word[10];
    int ret = read_text(cgroup->parent, "cgroup.subtree_control", text, sizeof(text));

    if (ret < 0 || has_word(text, controller))
        return ret;
    snprintf(word, sizeof(word), "+%s", controller);
    ret = write_text(cgroup->parent, "cgroup.subtree_control", word);
    if (ret == 0) {
        size_t n = strlen(cgroup->undo);

        snprintf(cgroup->undo + n, sizeof(cgroup->undo) - n, "-%s ", controller);
    }
    return ret;
}

static int enable_controllers(struct cgroup *cgroup, bool *io, struct dt_error *err)
{
    char have[1024];
    int ret = read_text(cgroup->parent, "cgroup.controllers", have, sizeof(have));

    if (ret < 0)
        return dt_fail(err, ret, "it is no cgroup v2");
    if (!has_word(have, "cpu"))
        return dt_fail(err, -EOPNOTSUPP, "the host delegates no processor time to it");
    ret = enable(cgroup, "cpu");
    if (ret == -EBUSY)
        return dt_fail(err, ret, "other processes are in it");
    if (ret < 0)
        return dt_fail(err, ret, "its controllers cannot be enabled: %s", strerror(-ret));
    *io = has_word(have, "io") && enable(cgroup, "io") == 0;
    return 0;
}

static int set_weight(struct cgroup *cgroup, const char *file, const char *format, unsigned weight,
                      struct dt_error *err)
{
    char text[40];
    int ret;

    snprintf(text, sizeof(text), "%s%u", format, weight);
    ret = write_text(cgroup->fd, file, text);
    return ret < 0 ? dt_fail(err, ret, "%s: %s", file, strerror(-ret)) : 0;
}

/* The kernel has two ways to divide I/O, by cost and by the scheduler BFQ: either, both or none may be there. */
static int set_io_weight(struct cgroup *cgroup, const char *file, unsigned weight,
                         struct dt_error *err)
{
    int ret = set_weight(cgroup, file, "default ", weight, err);

    return ret == -ENOENT || ret == -EOPNOTSUPP ? 0 : ret;
}

static int make_group(struct cgroup *cgroup, struct dt_error *err)
{
    if (mkdirat(cgroup->parent, cgroup->name, 0755) < 0 && errno != EEXIST)
        return dt_fail(err, -errno, "no group can be made in it: %s", strerror(errno));
    cgroup->fd = openat(cgroup->parent, cgroup->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup->fd < 0)
        return dt_fail(err, -errno, "its new group: %s", strerror(errno));
    return 0;
}

/* Who may write its files may not yet bring processes in: it takes the right to take them from where they are. */
static int try_birth(const struct cgroup *cgroup, struct dt_error *err)
{
    struct clone_args args = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup->fd};
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

    if (pid == 0)
        _exit(0);
    if (pid < 0)
        return dt_fail(err, -errno, "no process of this group can begin there: %s",
                       strerror(errno));
    waitpid(pid, NULL, 0);
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
    cgroup->aside = !parent;
    cgroup->parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup->parent < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (cgroup->aside && (ret = move_aside(cgroup->parent)) < 0)
        dt_fail(err, ret, "no group can be made in it: %s", strerror(-ret));
    ret = ret ?: enable_controllers(cgroup, &io, err);
    ret = ret ?: make_group(cgroup, err);
    ret = ret ?: set_weight(cgroup, "cpu.weight", "", weight, err);
    if (io) {
        ret = ret ?: set_io_weight(cgroup, "io.weight", weight, err);
        ret = ret ?: set_io_weight(cgroup, "io.bfq.weight", MIN(weight, BFQ_WEIGHT_MAX), err);
    }
    ret = ret ?: try_birth(cgroup, err);
    if (ret < 0) {
        dt_fail_prefix(err, "control group %s", path);
        cgroup_free(cgroup);
    }
    return ret;
}

void cgroup_free(struct cgroup *cgroup)
{
    if (cgroup->parent < 0)
        return;
    if (cgroup->fd >= 0) {
        close(cgroup->fd);
        unlinkat(cgroup->parent, cgroup->name, AT_REMOVEDIR);
    }
    if (cgroup->aside)
        move_back(cgroup);
    close(cgroup->parent);
    *cgroup = (struct cgroup){.parent = -1, .fd = -1};
}
