/* SPDX-License-Identifier: MIT */
/*
 * captured.c - plays a worker that a guest has captured: its command `attack` tries to reach what is
 * none of a worker's business, and answers for each try "refused" and why, or "REACHED".
 */
#include <devtap/block.h>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static void note(struct dt_reply *reply, const char *what, long result)
{
    if (result < 0)
        dt_reply(reply, what, "refused: %s", strerror(errno));
    else
        dt_reply(reply, what, "REACHED");
}

static void try_files(struct dt_reply *reply)
{
    note(reply, "read-a-file", open("/etc/passwd", O_RDONLY));
    note(reply, "open-the-root", open("/", O_RDONLY | O_DIRECTORY));
    note(reply, "walk-up", syscall(SYS_openat, AT_FDCWD, "../../../etc/passwd", O_RDONLY));
    note(reply, "open-by-openat2", syscall(SYS_openat2, AT_FDCWD, "/", (uint64_t[3]){0}, 24));
    note(reply, "make-a-file", creat("/tmp/captured", 0600));
    note(reply, "own-memory-file", open("/proc/self/mem", O_RDWR));
    note(reply, "make-a-directory", mkdir("/captured", 0700));
    note(reply, "see-a-file", access("/etc/passwd", F_OK));
}

static void try_network(struct dt_reply *reply)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/run/devtap/1.sock"};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    note(reply, "internet", fd);
    note(reply, "netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    note(reply, "local-sockets",
         fd < 0 ? fd : connect(fd, (struct sockaddr *)&local, sizeof(local)));
}

static void try_processes(struct dt_reply *reply, pid_t other)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    char *const argv[] = {"sh", NULL};

    note(reply, "signal-another", kill(other, SIGKILL));
    note(reply, "signal-all", kill(-1, SIGKILL));
    note(reply, "trace-another", ptrace(PTRACE_ATTACH, other, NULL, NULL));
    note(reply, "read-another's-memory", process_vm_readv(other, &here, 1, &there, 1, 0));
    note(reply, "another's-descriptors", syscall(SYS_pidfd_open, other, 0));
    note(reply, "fork", syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
    note(reply, "execute", execve("/bin/sh", argv, NULL));
}

static void try_kernel(struct dt_reply *reply)
{
    struct io_uring_params params = {0};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    note(reply, "a-new-io_uring", syscall(SYS_io_uring_setup, 4, &params));
    note(reply, "new-code", mprotect(page, 4096, PROT_READ | PROT_EXEC));
    note(reply, "code-from-a-mapping",
         mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
             ? -1
             : 0);
    note(reply, "become-root", setuid(0));
    note(reply, "namespaces", unshare(CLONE_NEWUSER));
    note(reply, "mount", mount("none", "/", "tmpfs", 0, NULL));
    note(reply, "bpf", syscall(SYS_bpf, 0, NULL, 0));
    note(reply, "keys", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
    note(reply, "counters", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    note(reply, "page-faults", syscall(SYS_userfaultfd, 0));
}

/* What a worker holds: no directory, no listening socket, no regular file but its images. */
static void count_descriptors(struct dt_reply *reply)
{
    unsigned kinds[16] = {0}, listening = 0;

    for (int fd = 0; fd < 4096; fd++) {
        int flag = 0;
        socklen_t size = sizeof(flag);
        struct stat st;

        if (fstat(fd, &st) < 0)
            continue;
        kinds[st.st_mode >> 12 & 15]++;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &flag, &size) == 0)
            listening += flag != 0;
    }
    dt_reply_u64(reply, "directories", kinds[S_IFDIR >> 12]);
    dt_reply_u64(reply, "regular-files", kinds[S_IFREG >> 12]);
    dt_reply_u64(reply, "block-devices", kinds[S_IFBLK >> 12]);
    dt_reply_u64(reply, "listening-sockets", listening);
    dt_reply_u64(reply, "user", getuid());
}

static int attack(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    pid_t other = argc ? atoi(argv[0]) : getppid();

    try_files(reply);
    try_network(reply);
    try_processes(reply, other);
    try_kernel(reply);
    count_descriptors(reply);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"attack", "[PID]", "Try to break out, and tell how it went.", attack}, {NULL}};

static const struct dt_block_ext captured = {
    DT_BLOCK_EXT_HEADER,
    .name = "captured",
    .summary = "plays a captured worker",
    .verbs = verbs,
};
DT_BLOCK_EXTENSION(captured)
