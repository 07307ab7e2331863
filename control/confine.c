/* SPDX-License-Identifier: MIT */
/*
 * confine.c - see confine.h.
 *
 * Theory of operation: what a child may not do between fork and exec (allocate memory, build a filter) its parent
 * does once: the filter's program is kept as bytes, and an empty network and IPC namespace as
 * descriptors. Each process has a user of its own, so that none can signal or trace another, or the worker.
 *
 * The filter names what is forbidden: no list of what is allowed would hold for every language's run time.
 */
#include "control/confine.h"

#include "base/packet.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PROCESSES_MAX \
    128 /* tasks of one extension: a program may have helpers, and a host a thread for each of the disk's */

static struct sock_fprog filter;
static uid_t first_uid, present_uid;
static unsigned count;

/* What each process enters; -1 = this system does not offer it. */
#define NAMESPACES 2u
static int namespaces[NAMESPACES] = {-1, -1};
static const struct {
    const char *path;
    int flag;
} kinds[NAMESPACES] = {{"/proc/self/ns/net", CLONE_NEWNET}, {"/proc/self/ns/ipc", CLONE_NEWIPC}};

/* Sockets first: the network is gone anyhow, but local sockets live in the file system. */
static const int forbidden[] = {
    SCMP_SYS(socket),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(kcmp),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(acct),
    SCMP_SYS(quotactl),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(mknod),
    SCMP_SYS(mknodat),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(syslog),
    SCMP_SYS(vhangup),
    SCMP_SYS(lookup_dcookie),
    SCMP_SYS(fanotify_init),
    SCMP_SYS(setpriority),
    SCMP_SYS(ioprio_set),
    SCMP_SYS(mbind),
    SCMP_SYS(migrate_pages),
    SCMP_SYS(move_pages),
    SCMP_SYS(set_mempolicy),
    SCMP_SYS(sched_setscheduler),
    SCMP_SYS(sched_setattr),
    SCMP_SYS(personality),
};

static int fill_filter(scmp_filter_ctx f)
{
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(forbidden); i++)
        ret = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), forbidden[i], 0);
    /* A user namespace opens much of the kernel to whoever makes it; clone3() hides its flags. */
    ret = ret
              ?: seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    return ret ?: seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
}

/* As bytes, by way of a file: the library has no other way out that all its versions know. */
static int export_filter(scmp_filter_ctx f)
{
    _cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
    struct sock_filter *bytes;
    off_t size;
    int ret;

    if (fd < 0)
        return -errno;
    ret = seccomp_export_bpf(f, fd);
    size = lseek(fd, 0, SEEK_END);
    if (ret < 0 || size <= 0)
        return ret < 0 ? ret : -EIO;
    bytes = xcalloc(1, (size_t)size);
    if (pread(fd, bytes, (size_t)size, 0) != size) {
        free(bytes);
        return -EIO;
    }
    filter = (struct sock_fprog){(unsigned short)((size_t)size / sizeof(*bytes)), bytes};
    return 0;
}

static int build_filter(void)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    int ret = f ? fill_filter(f) : -ENOMEM;

    ret = ret ?: export_filter(f);
    seccomp_release(f);
    return ret;
}

/* Made by a process that ends at once: the one that made them could not always go back. */
static _Noreturn void make_namespaces(int sock)
{
    int fds[NAMESPACES];

    for (unsigned i = 0; i < NAMESPACES; i++)
        if (unshare(kinds[i].flag) < 0)
            _exit(1);
    for (unsigned i = 0; i < NAMESPACES; i++) {
        fds[i] = open(kinds[i].path, O_RDONLY | O_CLOEXEC);
        if (fds[i] < 0 || packet_send(sock, &i, sizeof(i), fds[i]) < 0)
            _exit(1);
    }
    _exit(0);
}

static void take_namespaces(void)
{
    int pair[2], fd;
    unsigned kind;
    pid_t pid;

    if (packet_pair(pair) < 0)
        return;
    pid = fork();
    if (pid == 0)
        make_namespaces(pair[1]);
    close(pair[1]);
    if (pid > 0 && waitpid(pid, NULL, 0) == pid)
        while (packet_receive(pair[0], &kind, sizeof(kind), &fd) > 0)
            namespaces[kind] = fd;
    close(pair[0]);
}

void confine_users(uid_t first)
{
    first_uid = first;
}

int confine_next(void)
{
    if (!filter.filter) {
        int ret = build_filter();

        if (ret < 0)
            return ret;
        take_namespaces();
    }
    if (first_uid)
        present_uid = first_uid + count++ % CONFINE_USERS;
    return 0;
}

static int become_user(void)
{
    if (syscall(SYS_setgroups, 0, NULL) < 0 ||
        syscall(SYS_setresgid, present_uid, present_uid, present_uid) < 0 ||
        syscall(SYS_setresuid, present_uid, present_uid, present_uid) < 0)
        return -errno;
    return 0;
}

int confine_child(void)
{
    const struct rlimit processes = {PROCESSES_MAX, PROCESSES_MAX};
    int ret = 0;

    for (unsigned i = 0; i < NAMESPACES; i++)
        if (namespaces[i] >= 0 && setns(namespaces[i], 0) < 0)
            return -errno;
    if (first_uid) {
        setrlimit(RLIMIT_NPROC, &processes); /* of its user, so only where it has one of its own */
        ret = become_user();
    }
    if (ret == 0 && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0)
        ret = -errno;
    return ret;
}
