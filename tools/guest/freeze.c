/* SPDX-License-Identifier: MIT */
/*
 * freeze.c - file systems that take no writes for a moment, and do again whatever happens to us.
 *
 * Theory of operation: before anything is frozen a child is made, the guard, that has the directories open and
 * waits on a pipe from us. It thaws when the pipe closes, which our death does too, or when its time is over. It
 * needs no memory and no file after it was made: both may lie on what is frozen. It ignores the signals that end
 * people's programs; what kills it as well leaves the file systems to fsfreeze -u.
 */
#include "tools/guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GUARD_OK, GUARD_LATE };

static void thaw_all(const struct frozen *f)
{
    for (unsigned i = f->n; i-- > 0;)
        ioctl(f->fds[i], FITHAW, 0);
}

/* What is told through the pipe, of one after another. */
#define FREEZING "+"
#define WAS_NOT  "-" /* it is not frozen after all, or by somebody else */

static void guard(struct frozen *f, int pipe_fd, unsigned timeout_s)
{
    struct pollfd p = {.fd = pipe_fd, .events = POLLIN};
    int ret;
    char c;

    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    setsid();
    f->n = 0;
    for (;;) {
        ret = poll(&p, 1, (int)timeout_s * 1000);
        if (ret < 0 && errno == EINTR)
            continue;
        if (ret <= 0 || read(pipe_fd, &c, 1) != 1)
            break;
        f->n += c == FREEZING[0] ? 1u : -1u;
    }
    thaw_all(f);
    _exit(ret == 0 ? GUARD_LATE : GUARD_OK);
}

static enum guest_status start_guard(struct frozen *f, unsigned timeout_s)
{
    int ends[2];

    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return complain(GUEST_FAILED, "%s", strerror(errno));
    f->pid = fork();
    if (f->pid < 0)
        return complain(GUEST_FAILED, "cannot start a process: %s", strerror(errno));
    if (f->pid == 0) {
        close(ends[1]);
        mlockall(MCL_CURRENT | MCL_FUTURE); /* is not inherited */
        guard(f, ends[0], timeout_s);
    }
    close(ends[0]);
    f->guard = ends[1];
    return GUEST_DONE;
}

static enum guest_status open_all(struct frozen *f, char *const *directories, unsigned n)
{
    for (f->n = 0; f->n < n; f->n++) {
        f->fds[f->n] = open(directories[f->n], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (f->fds[f->n] < 0)
            return complain(errno == EACCES ? GUEST_DENIED : GUEST_FAILED, "%s: %s",
                            directories[f->n], strerror(errno));
    }
    return GUEST_DONE;
}

enum guest_status freeze(struct frozen *f, char *const *directories, unsigned n, unsigned timeout_s)
{
    enum guest_status status = open_all(f, directories, n);

    if (status == GUEST_DONE)
        status = start_guard(f, timeout_s);
    if (status != GUEST_DONE)
        return status;
    for (unsigned i = 0; i < n; i++) {
        int saved;

        /* First: if we die in between, to thaw what is not frozen does no harm. */
        if (write(f->guard, FREEZING, 1) == 1 && ioctl(f->fds[i], FIFREEZE, 0) == 0)
            continue;
        saved = errno;
        if (write(f->guard, WAS_NOT, 1) < 0)
            complain(GUEST_FAILED, "the guard has gone: %s", strerror(errno));
        thaw(f);
        return complain(saved == EPERM ? GUEST_DENIED : GUEST_FAILED, "cannot freeze %s: %s",
                        directories[i], strerror(saved));
    }
    return GUEST_DONE;
}

bool thaw(struct frozen *f)
{
    int status = -1;

    close(f->guard);
    while (waitpid((pid_t)f->pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == GUARD_OK;
}
