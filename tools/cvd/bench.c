/* SPDX-License-Identifier: MIT */
/*
 * bench.c - cvd bench: what a VM on a disk would get, measured on a clone that is thrown away.
 *
 * Everything is done by the programs that users have: this one takes the snapshot and makes the
 * clone, which works whether the pool is served or not; devtap run serves the clone as it would to a VM, and devtap
 * bench is the VM. What was made is deleted whatever happens, but for our own death.
 */
#include "tools/cvd/cvd.h"
#include "tools/ready.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define READY_NS  DT_S(20)
#define POLL_MS   100
#define MAX_WORDS 20u

/** struct run - @folder: where the socket is. @name: of snapshot and clone. */
struct run {
    const char *pool, *disk;
    char folder[32], name[32], self[4096], devtap[4096 + 8];
    pid_t server;
};

/* ---- Programs ---- */

static pid_t start(const char *program, const char *const words[], bool quiet)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        if (quiet && !freopen("/dev/null", "w", stdout))
            _exit(127);
        execvp(program, (char *const *)(uintptr_t)words);
        fprintf(stderr, "%s: %s\n", program, strerror(errno));
        _exit(127);
    }
    return pid;
}

static int error_of(int status)
{
    switch (status) {
    case STATUS_USAGE:
        return -EINVAL;
    case STATUS_NOT_FOUND:
        return -ENOENT;
    case STATUS_IN_USE:
        return -EBUSY;
    case STATUS_DENIED:
        return -EACCES;
    case STATUS_FAULT:
        return -EBADMSG;
    default:
        return -EIO;
    }
}

/* 0, or why not. */
static int await(pid_t pid, const char *what, struct dt_error *err)
{
    int status = -1;

    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status == 0)
        return 0;
    /* What it said is on standard error; its status is ours. */
    return dt_fail(err, WIFEXITED(status) ? error_of(WEXITSTATUS(status)) : -EIO, "%s failed",
                   what);
}

static int cvd_do(struct run *r, const char *command, const char *thing, const char *more,
                  struct dt_error *err)
{
    _cleanup_free_ char *about = xasprintf("%s/%s", r->pool, thing);
    const char *const words[] = {"cvd", command, about, more, NULL};

    return await(start(r->self, words, true), command, err);
}

static int find_programs(struct run *r, struct dt_error *err)
{
    ssize_t n = readlink("/proc/self/exe", r->self, sizeof(r->self) - 1);
    char *slash;

    if (n < 0)
        return dt_fail(err, -errno, "/proc/self/exe: %s", strerror(errno));
    slash = strrchr(r->self, '/');
    snprintf(r->devtap, sizeof(r->devtap), "%.*sdevtap", (int)(slash + 1 - r->self), r->self);
    if (access(r->devtap, X_OK) < 0)
        strcpy(r->devtap, "devtap");
    return 0;
}

/* ---- The clone ---- */

static void remove_clone(struct run *r, unsigned made)
{
    _cleanup_free_ char *snapshot = xasprintf("%s@%s", r->disk, r->name);
    struct dt_error err;

    if (made > 2)
        cvd_do(r, "delete", r->name, NULL, &err);
    if (made > 1)
        cvd_do(r, "unlabel", snapshot, NULL, &err);
    if (made > 0)
        cvd_do(r, "delete", snapshot, NULL, &err);
}

/* @made: how many of the three steps were done. */
static int make_clone(struct run *r, unsigned *made, struct dt_error *err)
{
    _cleanup_free_ char *snapshot = xasprintf("%s@%s", r->disk, r->name);
    _cleanup_free_ char *name = xasprintf("--name=%s", r->name);
    int ret = cvd_do(r, "snap", r->disk, name, err);

    *made = ret == 0;
    if (ret == 0) {
        ret = cvd_do(r, "label", snapshot, NULL, err);
        *made += ret == 0;
    }
    if (ret == 0) {
        ret = cvd_do(r, "dup", snapshot, r->name, err);
        *made += ret == 0;
    }
    return ret;
}

/* ---- The measurement ---- */

static int await_ready(struct run *r, struct ready *ready, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + READY_NS;
    struct pollfd p = {.fd = ready->fd, .events = POLLIN};

    while (poll(&p, 1, POLL_MS) <= 0 || !ready_heard(ready)) {
        if (waitpid(r->server, NULL, WNOHANG) != 0) {
            r->server = 0;
            return dt_fail(err, -EIO, "devtap run failed");
        }
        if (dt_clock_ns() >= deadline)
            return dt_fail(err, -ETIMEDOUT, "devtap run does not serve the clone");
    }
    return 0;
}

static int serve(struct run *r, const char *path, struct dt_error *err)
{
    int served = target_served_by(r->pool, err), ret;
    _cleanup_free_ char *chain =
        xasprintf("%s pool=%s name=%s", served > 0 ? "cvd" : "cvd-local", r->pool, r->name);
    const char *const words[] = {"devtap",   "run", "--single", "--disk", r->name,
                                 "--socket", path,  chain,      NULL};
    struct ready ready;

    if (served > 0)
        close(served);
    ret = served < 0 ? served : ready_listen(&ready, err);
    if (ret < 0)
        return ret;
    r->server = start(r->devtap, words, true);
    ready_started(&ready);
    ret = await_ready(r, &ready, err);
    ready_end(&ready);
    return ret;
}

static int measure(struct run *r, const char *socket, const struct cvd_options *o,
                   struct dt_error *err)
{
    const char *words[MAX_WORDS] = {"devtap", "bench", "--socket", socket};
    _cleanup_free_ char *size = xasprintf("--size=%llu", (unsigned long long)o->size);
    _cleanup_free_ char *depth = xasprintf("--depth=%llu", (unsigned long long)o->depth);
    _cleanup_free_ char *rw = xasprintf("--rw=%s", o->rw ?: "auto");
    _cleanup_free_ char *time = xasprintf("--time=%s", o->time ?: "5s");
    unsigned n = 4;

    words[n++] = rw;
    words[n++] = time;
    words[n++] = depth;
    if (o->size)
        words[n++] = size;
    if (o->json)
        words[n++] = "--json";
    return await(start(r->devtap, words, false), "devtap bench", err);
}

int cmd_bench(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err)
{
    struct run r = {.pool = t->path, .disk = t->name, .folder = "/tmp/cvd-bench-XXXXXX"};
    _cleanup_free_ char *socket = NULL;
    struct dt_error late;
    unsigned made;
    int ret = strchr(t->name, '@')
                  ? dt_fail(err, -EINVAL, "a disk is measured, by a clone of what it is now: %.*s",
                            (int)strcspn(t->name, "@"), t->name)
                  : find_programs(&r, err);

    if (ret < 0)
        return ret;
    if (!mkdtemp(r.folder))
        return dt_fail(err, -errno, "%s: %s", r.folder, strerror(errno));
    signal(SIGINT,
           SIG_IGN); /* it ends the measurement, and what was made is deleted all the same */
    socket = xasprintf("%s/sock", r.folder);
    snprintf(r.name, sizeof(r.name), "bench-%d", (int)getpid());
    ret = make_clone(&r, &made, err) ?: serve(&r, socket, err) ?: measure(&r, socket, o, err);
    if (r.server > 0) {
        kill(r.server, SIGTERM);
        await(r.server, "devtap run", &late);
    }
    remove_clone(&r, made);
    unlink(socket);
    rmdir(r.folder);
    return ret;
}
