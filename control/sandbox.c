/* SPDX-License-Identifier: MIT */
/*
 * sandbox.c - namespaces, an empty root, another user, limits, and last the system call filter.
 *
 * What was opened before stays usable: images, links, guest memory. Order matters: the mounts need
 * root, the change of user ends that, and the filter forbids everything before it.
 */
#include "control/sandbox.h"

#include "base/packet.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A keeper has one thread. Each of a worker's rings may have threads of the kernel's for what cannot be started without
 * waiting: four for each processor. */
#define KEEPER_TASKS 16
#define WORKER_TASKS 4096

static void miss(char *missing, const char *what, int error)
{
    size_t used = strlen(missing);

    snprintf(missing + used, SANDBOX_MISSING - used, "%s%s (%s)", used ? ", " : "", what,
             strerror(error));
}

/* The working directory becomes the root, and the old one is detached from it. The root of an initramfs cannot be, only
 * covered, as switch_root(8) does: without a directory above the new one it is as far away. */
static int change_root(void)
{
    if (syscall(SYS_pivot_root, ".", ".") == 0)
        return umount2(".", MNT_DETACH);
    return errno == EINVAL ? mount(".", "/", NULL, MS_MOVE, NULL) ?: chroot(".") : -1;
}

/* An empty, read-only file system becomes the root. */
static int empty_root(struct dt_error *err)
{
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") < 0 ||
        chdir("/tmp") < 0 || change_root() < 0 ||
        mount("none", "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) <
            0 ||
        chdir("/") < 0)
        return dt_fail(err, -errno, "sandbox: the root cannot be emptied: %s", strerror(errno));
    return 0;
}

/* Those of the calling process, to its parent: the number says which. */
static void send_namespace(int sock, const char *path, int kind)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || packet_send(sock, &kind, sizeof(kind), fd) < 0)
        _exit(1);
    close(fd);
}

/* In a process that ends at once: the one that made them could not always go back. */
static _Noreturn void make_walls(int sock)
{
    int mounts;

    if (unshare(CLONE_NEWNET) == 0)
        send_namespace(sock, "/proc/self/ns/net", CLONE_NEWNET);
    if (unshare(CLONE_NEWNS) < 0)
        _exit(0);
    mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC); /* soon there is no /proc */
    if (mounts >= 0 && empty_root(NULL) == 0)
        packet_send(sock, &(int){CLONE_NEWNS}, sizeof(int), mounts);
    _exit(0);
}

void sandbox_prepare(struct sandbox_walls *walls)
{
    int pair[2], kind, fd;
    pid_t pid;

    *walls = (struct sandbox_walls){-1, -1};
    if (packet_pair(pair) < 0)
        return;
    pid = fork();
    if (pid == 0)
        make_walls(pair[1]);
    close(pair[1]);
    if (pid > 0 && waitpid(pid, NULL, 0) == pid)
        while (packet_receive(pair[0], &kind, sizeof(kind), &fd) > 0)
            *(kind == CLONE_NEWNET ? &walls->network : &walls->files) = fd;
    close(pair[0]);
}

static bool enter_wall(int *fd, int kind)
{
    bool entered = *fd >= 0 && setns(*fd, kind) == 0;

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return entered;
}

static int enter_namespaces(const struct sandbox_config *config, char *missing,
                            struct dt_error *err)
{
    struct sandbox_walls none = {-1, -1}, *walls = config->walls ?: &none;

    if (getpid() != 1) /* see spawn.isolate */
        miss(missing, "a process-id namespace", EPERM);
    if (!enter_wall(&walls->network, CLONE_NEWNET) && unshare(CLONE_NEWNET) < 0)
        miss(missing, "a network namespace", errno);
    if (config->connects)
        return 0;
    /* A layer's thread may share our root and working directory, which then cannot be exchanged. */
    unshare(CLONE_FS);
    if (enter_wall(&walls->files, CLONE_NEWNS))
        return 0;
    if (unshare(CLONE_NEWNS) < 0) {
        miss(missing, "an empty file system", errno);
        return 0;
    }
    return empty_root(err);
}

static int change_user(const struct sandbox_config *config, char *missing, struct dt_error *err)
{
    if (config->uid == 0) {
        miss(missing, "a user of its own", EPERM);
        return 0;
    }
    if (setgroups(0, NULL) == 0 && setresgid(config->uid, config->uid, config->uid) == 0 &&
        setresuid(config->uid, config->uid, config->uid) == 0)
        return 0;
    return dt_fail(err, -errno, "sandbox: cannot become user %u: %s", config->uid, strerror(errno));
}

/* A change of user has done so already, but not for the root of a user namespace (spawn.c). */
static int drop_capabilities(struct dt_error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (syscall(SYS_capset, &header, none) < 0)
        return dt_fail(err, -errno, "sandbox: cannot drop privileges: %s", strerror(errno));
    return 0;
}

static void limit(int resource, rlim_t value)
{
    const struct rlimit limit = {value, value};

    setrlimit(resource, &limit);
}

void sandbox_raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

#if defined(__SANITIZE_ADDRESS__)
static bool entered;
DT_PUBLIC int __lsan_is_turned_off(void);
/* LeakSanitizer traces its own process, which the filter forbids. It finds what is exported. */
DT_PUBLIC int __lsan_is_turned_off(void)
{
    return entered;
}
#define NOTE_ENTERED() (entered = true)
#else
#define NOTE_ENTERED() ((void)0)
#endif

int sandbox_enter(const struct sandbox_config *config, char *missing, struct dt_error *err)
{
    int ret;

    missing[0] = '\0';
    if (config->kind != SANDBOX_EXTENSION) {
        ret = enter_namespaces(config, missing, err);
        ret = ret ?: change_user(config, missing, err);
        ret = ret ?: drop_capabilities(err);
        if (ret < 0)
            return ret;
    }
    if (config->kind != SANDBOX_EXTENSION &&
        config->uid) /* of its user, so only where it has one of its own */
        limit(RLIMIT_NPROC, config->kind == SANDBOX_KEEPER ? KEEPER_TASKS : WORKER_TASKS);
    limit(RLIMIT_CORE, 0); /* guest memory would be in it */
    prctl(PR_SET_DUMPABLE, 0);
    /* The change of user took away what spawn.c had set. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return dt_fail(err, -errno, "sandbox: no_new_privs: %s", strerror(errno));
    NOTE_ENTERED();
    return sandbox_filter(config, err);
}
