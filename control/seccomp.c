/* SPDX-License-Identifier: MIT */
/*
 * seccomp.c - the system calls that a keeper, a worker and a hosted extension need, and no others.
 *
 * Nothing here opens, executes, connects (but one kind of keeper), signals or traces. What is not
 * listed fails with EPERM, so that an extension that asks for more says so in its own words. io_uring
 * is not seen by the filter: its rings are restricted when they are made (loop/uring.c), and no new
 * one can be made from here.
 */
#include "control/sandbox.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static const int common[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(close),
    SCMP_SYS(dup),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(eventfd2),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(fstat),
    SCMP_SYS(fstatfs),
    SCMP_SYS(lseek),
    SCMP_SYS(getsockopt),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getuid),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getrlimit),
    SCMP_SYS(getrusage),
    SCMP_SYS(membarrier),
};

static const int keeper_only[] = {
    SCMP_SYS(accept4),
    SCMP_SYS(listen),
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
};

static const int serving[] = {
    SCMP_SYS(pread64),         SCMP_SYS(pwrite64),     SCMP_SYS(preadv),
    SCMP_SYS(pwritev),         SCMP_SYS(preadv2),      SCMP_SYS(pwritev2),
    SCMP_SYS(fsync),           SCMP_SYS(fdatasync),    SCMP_SYS(sync_file_range),
    SCMP_SYS(fallocate),       SCMP_SYS(ftruncate),    SCMP_SYS(copy_file_range),
    SCMP_SYS(io_uring_enter),  SCMP_SYS(memfd_create), SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime), SCMP_SYS(mlock),        SCMP_SYS(munlock),
    SCMP_SYS(fadvise64),
};

/* Channels to placed extensions; and connections to what was listening before the filter: nothing else can. */
static const int worker_only[] = {SCMP_SYS(socketpair), SCMP_SYS(accept4)};

static const int connect_only[] = {SCMP_SYS(socket), SCMP_SYS(connect)};

/* What a block device's image needs, and a pool that looks where its file has space. */
static const unsigned long ioctls[] = {BLKDISCARD, BLKZEROOUT, BLKGETSIZE64, BLKSSZGET,
                                       BLKPBSZGET, BLKFLSBUF,  FIONBIO,      FS_IOC_FIEMAP};

static const int fcntls[] = {F_GETFD,     F_SETFD,     F_GETFL,      F_SETFL,     F_DUPFD_CLOEXEC,
                             F_OFD_SETLK, F_OFD_GETLK, F_OFD_SETLKW, F_ADD_SEALS, F_GET_SEALS};

static int allow_list(scmp_filter_ctx filter, const int *calls, size_t n)
{
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < n; i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return ret;
}

static int allow_with_arguments(scmp_filter_ctx filter)
{
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(ioctls); i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_EQ, ioctls[i]));
    for (size_t i = 0; ret == 0 && i < ARRAY_SIZE(fcntls); i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                               SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntls[i]));
    /* Memory is never made executable. */
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* Threads, but no processes; clone3() hides its flags in memory, so libc has to do without. */
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    ret = ret ?: seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                                  SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    /* A thread enables its ring, restricted as it was made. */
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(io_uring_register), 1,
                                  SCMP_A1(SCMP_CMP_EQ, IORING_REGISTER_ENABLE_RINGS));
    /* fstat() of newer C libraries: the root is empty, so a path leads nowhere. */
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                                  SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
    /* abort(): to oneself alone. */
    ret = ret
              ?: seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    return ret;
}

int sandbox_filter(const struct sandbox_config *config, struct dt_error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int ret = filter ? 0 : -ENOMEM;

    ret = ret ?: seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    ret = ret ?: allow_list(filter, common, ARRAY_SIZE(common));
    ret = ret ?: allow_with_arguments(filter);
    if (config->kind == SANDBOX_KEEPER)
        ret = ret ?: allow_list(filter, keeper_only, ARRAY_SIZE(keeper_only));
    else
        ret = ret ?: allow_list(filter, serving, ARRAY_SIZE(serving));
    if (config->kind == SANDBOX_WORKER)
        ret = ret ?: allow_list(filter, worker_only, ARRAY_SIZE(worker_only));
    if (config->connects)
        ret = ret ?: allow_list(filter, connect_only, ARRAY_SIZE(connect_only));
    ret = ret ?: seccomp_load(filter);
    seccomp_release(filter);
    return ret < 0 ? dt_fail(err, ret, "sandbox: system call filter: %s", strerror(-ret)) : 0;
}
