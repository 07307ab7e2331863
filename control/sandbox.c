/* SPDX-License-Identifier: MIT */
/*
 * sandbox.c - namespaces, an empty root, another user, limits, and last the system call filter.
 *
 * What was opened before stays usable: images, links, guest memory. Order matters: the mounts need
 * root, the change of user ends that, and the filter forbids everything before it.
 */
#include "control/sandbox.h"

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void miss(char *missing, const char *what, int error)
{
    size_t used = strlen(missing);

    snprintf(missing + used, SANDBOX_MISSING - used, "%s%s (%s)", used ? ", " : "", what,
             strerror(error));
}

/* An empty, read-only file system becomes the root; the old one is detached from it. */
static int empty_root(struct dt_error *err)
{
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") < 0 ||
        chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        umount2(".", MNT_DETACH) < 0 ||
        mount("none", "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) <
            0 ||
        chdir("/") < 0)
        return dt_fail(err, -errno, "sandbox: the root cannot be emptied: %s", strerror(errno));
    return 0;
}

static int enter_namespaces(const struct sandbox_config *config, char *missing,
                            struct dt_error *err)
{
    if (getpid() != 1) /* see spawn.isolate */
        miss(missing, "a process-id namespace", EPERM);
    if (unshare(CLONE_NEWNET) < 0)
        miss(missing, "a network namespace", errno);
    if (config->connects)
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
    limit(RLIMIT_CORE, 0); /* guest memory would be in it */
    prctl(PR_SET_DUMPABLE, 0);
    /* The change of user took away what spawn.c had set. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return dt_fail(err, -errno, "sandbox: no_new_privs: %s", strerror(errno));
    NOTE_ENTERED();
    return sandbox_filter(config, err);
}
