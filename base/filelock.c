/* SPDX-License-Identifier: MIT */
/*
 * filelock.c - who else uses this file, and whether a dead process's I/O can still reach it.
 *
 * All locks here are open-file-description locks: they belong to what open(2) returned and go
 * away with its last user, which may be an I/O in flight of a process that no longer exists.
 *
 * The image lock is QEMU's (block/file-posix.c): byte 100 + p is locked, shared, by each user of
 * permission p, and byte 200 + p by each that does not let others use p. After locking its
 * bytes a user looks whether another has locked those that contradict.
 *
 * The fence is a byte of our own far behind any data, chosen by the device's name. A predecessor
 * that was killed keeps it until all that it had in flight has landed; so once we have it
 * alone, nothing of the predecessor's can reach the image or the guest's memory. A read-only
 * description cannot be locked exclusively: there, shared locks are taken and others looked for.
 */
#include "base/filelock.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define QEMU_USES   100
#define QEMU_KEEPS  200
#define QEMU_END    300
#define QEMU_READ   0 /* "consistent read" */
#define QEMU_WRITE  1
#define QEMU_RESIZE 3

#define FENCE_BASE ((off_t)1 << 62)
#define FENCE_MASK (((uint64_t)1 << 40) - 1)

#define POLL_NS  DT_MS(1)
#define GRACE_NS DT_MS(300) /* for a live holder to let go; a dying one is waited for */

/* ---- Bytes ---- */

static int byte_lock(const struct filelock *l, int command, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(l->fd, command, &lock) < 0)
        return errno == EACCES ? -EAGAIN : -errno;
    return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? -EAGAIN : 0;
}

static int byte_share(const struct filelock *l, off_t byte)
{
    return byte_lock(l, F_OFD_SETLK, F_RDLCK, byte);
}

/* -EAGAIN if anybody else has locked it in any way. */
static int byte_look(const struct filelock *l, off_t byte)
{
    return byte_lock(l, F_OFD_GETLK, F_WRLCK, byte);
}

static int image_lock(const struct filelock *l, off_t unused)
{
    struct flock all = {.l_type = F_UNLCK,
                        .l_whence = SEEK_SET,
                        .l_start = QEMU_USES,
                        .l_len = QEMU_END - QEMU_USES};
    int ret = byte_share(l, QEMU_USES + QEMU_READ);

    if (ret == 0 && !l->read_only)
        ret = byte_share(l, QEMU_USES + QEMU_WRITE);
    ret = ret ?: byte_share(l, QEMU_KEEPS + QEMU_WRITE);
    ret = ret ?: byte_share(l, QEMU_KEEPS + QEMU_RESIZE);
    ret = ret ?: byte_look(l, QEMU_KEEPS + QEMU_READ);
    if (ret == 0 && !l->read_only)
        ret = byte_look(l, QEMU_KEEPS + QEMU_WRITE);
    ret = ret ?: byte_look(l, QEMU_USES + QEMU_WRITE);
    ret = ret ?: byte_look(l, QEMU_USES + QEMU_RESIZE);
    if (ret < 0)
        fcntl(l->fd, F_OFD_SETLK, &all);
    return ret;
}

static int fence_lock(const struct filelock *l, off_t byte)
{
    int ret;

    if (!l->read_only)
        return byte_lock(l, F_OFD_SETLK, F_WRLCK, byte);
    ret = byte_share(l, byte);
    return ret ?: byte_look(l, byte);
}

/* FNV-1a: any even spread will do, as two devices rarely share an image. */
static off_t fence_byte(const char *device)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *device; device++)
        hash = (hash ^ (uint8_t)*device) * 0x100000001b3u;
    return FENCE_BASE + (off_t)(hash & FENCE_MASK);
}

/* ---- Who holds them ---- */

struct holder {
    struct stat st;
    off_t from, to;
    int fd; /* ours, in our own process */
    int pid;
    char command[FILELOCK_COMMAND];
};

/* A process that is being killed still has its descriptors: bit PF_EXITING of its flags. */
static bool is_dying(int pid)
{
    _cleanup_free_ char *path = xasprintf("/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    unsigned flags = 0;

    if (!file)
        return true;
    if (fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
        flags = 0;
    fclose(file);
    return flags & 0x4;
}

/* A line such as "lock: 1: OFDLCK ADVISORY READ -1 fe:00:11010679 100 101". */
static bool line_matches(const char *line, const struct holder *h)
{
    unsigned long long inode, from, to = UINT64_MAX;
    unsigned major_number, minor_number;

    if (strncmp(line, "lock:", 5) || sscanf(line, "lock: %*d: %*s %*s %*s %*d %x:%x:%llu %llu %llu",
                                            &major_number, &minor_number, &inode, &from, &to) < 4)
        return false;
    return inode == h->st.st_ino && major_number == major(h->st.st_dev) &&
           minor_number == minor(h->st.st_dev) && from <= (uint64_t)h->to &&
           to >= (uint64_t)h->from;
}

static bool descriptor_matches(int dir, const char *name, const struct holder *h)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    bool found = false;
    char line[256];

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file))
        found = line_matches(line, h);
    fclose(file);
    return found;
}

static bool process_matches(int pid, const struct holder *h)
{
    _cleanup_free_ char *path = xasprintf("/proc/%d/fdinfo", pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    bool found = false;

    if (!dir)
        return false;
    while (!found && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' || (pid == getpid() && atoi(entry->d_name) == h->fd))
            continue;
        found = descriptor_matches(dirfd(dir), entry->d_name, h);
    }
    closedir(dir);
    return found && !is_dying(pid);
}

static void read_command(struct holder *h)
{
    _cleanup_free_ char *path = xasprintf("/proc/%d/comm", h->pid);
    FILE *file = fopen(path, "re");

    snprintf(h->command, sizeof(h->command), "process");
    if (!file)
        return;
    if (fgets(h->command, sizeof(h->command), file))
        h->command[strcspn(h->command, "\n")] = '\0';
    fclose(file);
}

/* Looks through /proc; false when no living process is seen to hold any of these bytes. */
static bool find_holder(const struct filelock *l, off_t from, off_t to, struct holder *h)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    *h = (struct holder){.from = from, .to = to, .fd = l->fd};
    if (!proc)
        return false;
    if (fstat(l->fd, &h->st) == 0)
        while (h->pid == 0 && (entry = readdir(proc)) != NULL) {
            int pid = atoi(entry->d_name);

            if (pid > 0 && process_matches(pid, h))
                h->pid = pid;
        }
    closedir(proc);
    if (h->pid)
        read_command(h);
    return h->pid != 0;
}

/* ---- Waiting ---- */

struct wanted {
    int (*take)(const struct filelock *l, off_t byte);
    off_t byte, from, to;
};

static int refused(const struct filelock *l, const struct wanted *w, struct dt_error *err)
{
    struct holder h;

    if (find_holder(l, w->from, w->to, &h))
        return dt_fail(err, -EBUSY, "%s is in use by %s (pid %d)", l->path, h.command, h.pid);
    return dt_fail(err, -EBUSY,
                   "%s is in use: I/O of a process that has ended has not finished in time, or "
                   "a process that cannot be seen from here has it open",
                   l->path);
}

static int wait_for(const struct filelock *l, const struct wanted *w, uint64_t deadline,
                    struct dt_error *err)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    uint64_t started = dt_clock_ns(), look = started + GRACE_NS;

    for (;;) {
        int ret = w->take(l, w->byte);
        uint64_t now = dt_clock_ns();
        struct holder h;

        if (ret < 0 && ret != -EAGAIN)
            return dt_fail(err, ret, "%s: its file system cannot lock it: %s", l->path,
                           strerror(-ret));
        if (ret == 0) {
            if (now - started > DT_MS(10))
                log_info("%s: waited %llu ms for I/O of its last user", l->path,
                         (unsigned long long)((now - started) / DT_MS(1)));
            return 0;
        }
        if (now >= deadline)
            return refused(l, w, err);
        if (now >= look) { /* one that lives will not let go */
            if (find_holder(l, w->from, w->to, &h))
                return refused(l, w, err);
            look = UINT64_MAX;
        }
        nanosleep(&pause, NULL);
    }
}

/* Only the name that holds it is sure of its predecessor. */
static struct wanted fence_of(const char *device)
{
    off_t byte = fence_byte(device);

    return (struct wanted){fence_lock, byte, byte, byte};
}

static const struct wanted whole_image = {image_lock, 0, QEMU_USES, QEMU_END - 1};

int filelock_image(const struct filelock *l, uint64_t deadline, struct dt_error *err)
{
    return wait_for(l, &whole_image, deadline, err);
}

int filelock_fence(const struct filelock *l, const char *device, uint64_t deadline,
                   struct dt_error *err)
{
    struct wanted fence = fence_of(device);

    return wait_for(l, &fence, deadline, err);
}

bool filelock_fence_holder(const struct filelock *l, const char *device, int *pid,
                           char command[FILELOCK_COMMAND])
{
    struct wanted fence = fence_of(device);
    struct holder h;

    if (!find_holder(l, fence.from, fence.to, &h))
        return false;
    *pid = h.pid;
    memcpy(command, h.command, FILELOCK_COMMAND);
    return true;
}

int filelock_own(const struct filelock *l, const char *device, uint64_t deadline,
                 struct dt_error *err)
{
    int ret = filelock_image(l, deadline, err);

    return ret ?: filelock_fence(l, device, deadline, err);
}
