/* SPDX-License-Identifier: MIT */
/*
 * away.c - uplinks that cannot be opened any more, when the switch is started again.
 *
 * Theory of operation: an interface that was deleted must not cost the cards each other, nor the other uplinks. So where a successor
 * cannot begin, each uplink is tried alone, in a process of its own, and those that fail are left out: they keep their VLANs, and lead
 * nowhere. They are tried again, one after the other, each about once a second. When one can be opened the switch begins anew, since it has
 * given up the rights to open anything itself. Where it cannot begin with that one all the same, it goes on without, and the next
 * try waits twice as long: each costs the cards a moment.
 */
#include "tools/switch/switch.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TRY_SECONDS 3          /* a try that takes longer has failed */
#define ROUND_NS    DT_S(1)    /* in which each uplink is tried once */
#define KILL_NS     DT_MS(100) /* until a process that was killed is looked at again */
#define DOUBLINGS   8u         /* of the pause after one with which the switch could not begin */

static int try_chain(const struct fabric_config *c, struct dt_error *err)
{
    const struct loop_config loop_config = {0};
    struct device_config config = {.kind = DEVICE_NET, .name = c->name, .threads = 1};
    struct chain_spec spec;
    struct device *dev;
    struct loop *loop;
    int ret = chain_parse(&spec, c->chain, err);

    if (ret < 0)
        return ret;
    config.chain = &spec;
    ret = loop_new(&loop, &loop_config, err);
    if (ret == 0) {
        config.loops = &loop;
        ret = device_new(&dev, &config, err);
        if (ret == 0)
            device_free(dev);
        loop_free(loop);
    }
    chain_spec_free(&spec);
    return ret;
}

static _Noreturn void run_try(const struct fabric_config *c, int to, pid_t parent)
{
    struct dt_error err = {""};

    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(TRY_SECONDS);
    if (getppid() != parent || try_chain(c, &err) == 0)
        _exit(STATUS_DONE);
    if (to >= 0 && write(to, err.text, strlen(err.text)) < 0) /* then nobody is told why */
        _exit(STATUS_FAILED);
    _exit(STATUS_FAILED);
}

static bool opens(const struct fabric_config *c, char *why, size_t size)
{
    pid_t parent = getpid(), pid;
    int pipes[2], status = -1;
    ssize_t n;

    if (pipe2(pipes, O_CLOEXEC) < 0)
        return false;
    pid = fork();
    if (pid == 0)
        run_try(c, pipes[1], parent);
    close(pipes[1]);
    while ((n = read(pipes[0], why, size - 1)) < 0 && errno == EINTR)
        ;
    why[MAX(n, 0)] = '\0';
    close(pipes[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!why[0])
        snprintf(why, size, "%s: it was not open within %d s", c->name, TRY_SECONDS);
    return status == 0;
}

unsigned switch_away_look(struct switch_config *config)
{
    char why[sizeof(struct dt_error)];
    unsigned n = 0;

    for (unsigned i = 0; i < config->count; i++) {
        struct fabric_config *c = &config->ports[i];

        if (!c->uplink || c->away || opens(c, why, sizeof(why)))
            continue;
        c->away = true;
        config->port_options[i].refused = 0;
        config->port_options[i].after = 0;
        n++;
        log_error("%s; the switch goes on without it, and tries again each second", why);
    }
    return n;
}

unsigned switch_away_again(struct switch_config *config)
{
    unsigned n = 0;

    for (unsigned i = 0; i < config->count; i++) {
        struct switch_port_options *o = &config->port_options[i];
        uint64_t pause;

        if (!o->fresh)
            continue;
        o->fresh = false;
        o->refused = MIN(o->refused + 1, DOUBLINGS);
        pause = ROUND_NS << o->refused;
        o->after = dt_clock_ns() + pause;
        config->ports[i].away = true;
        n++;
        log_error(
            "%s can be opened, but the switch cannot begin with it: it goes on without it, and "
            "tries again in %llu s",
            config->ports[i].name, (unsigned long long)(pause / DT_S(1)));
    }
    return n;
}

/* ---- While the switch serves ---- */

static unsigned count_away(const struct switch_config *config)
{
    unsigned n = 0;

    for (unsigned i = 0; i < config->count; i++)
        n += config->ports[i].away;
    return n;
}

/* In turn, so that one that takes long does not keep the others from theirs. */
static const struct fabric_config *next_due(struct switch_try *t,
                                            const struct switch_config *config, uint64_t now)
{
    for (unsigned i = 1; i <= config->count; i++) {
        unsigned at = (t->last + i) % config->count;

        if (!config->ports[at].away || config->port_options[at].after > now)
            continue;
        t->last = at;
        return &config->ports[at];
    }
    return NULL;
}

static void begin_try(struct switch_try *t, const struct fabric_config *c, uint64_t now)
{
    pid_t parent = getpid();

    t->name = c->name; /* that of an uplink stays */
    t->deadline = now + DT_S(TRY_SECONDS);
    t->pid = fork();
    if (t->pid == 0)
        run_try(c, -1, parent);
    t->pidfd = t->pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, t->pid, 0);
    if (t->pid > 0 && t->pidfd < 0)
        switch_try_end(t);
}

void switch_try_end(struct switch_try *t)
{
    if (t->pid <= 0)
        return;
    kill(t->pid, SIGKILL);
    while (waitpid(t->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    t->pid = 0;
    if (t->pidfd >= 0)
        close(TAKE_FD(t->pidfd));
}

void switch_try_serving(struct switch_try *t, struct switch_config *config)
{
    for (unsigned i = 0; i < config->count; i++)
        config->port_options[i].fresh = false;
    t->serving = true;
}

int switch_try_ms(const struct switch_try *t, const struct switch_config *config)
{
    uint64_t now = dt_clock_ns(), until = t->pidfd >= 0 ? t->deadline : t->next;

    if (t->pidfd < 0 && (!t->serving || count_away(config) == 0))
        return -1;
    return until <= now ? 0 : (int)((until - now) / DT_MS(1)) + 1;
}

static bool take_back(const struct switch_try *t, struct switch_config *config)
{
    int index = switch_index(config, t->name);

    if (index < 0)
        return false;
    config->ports[index].away = false;
    config->port_options[index].fresh = true;
    log_info("%s can be opened again: the switch begins anew", t->name);
    return true;
}

bool switch_try_step(struct switch_try *t, struct switch_config *config)
{
    unsigned away = count_away(config);
    uint64_t now = dt_clock_ns();
    int status;

    if (t->pidfd < 0) {
        const struct fabric_config *c;

        if (!t->serving || away == 0 || now < t->next)
            return false;
        t->next = now + ROUND_NS / away;
        c = next_due(t, config, now);
        if (c)
            begin_try(t, c, now);
        return false;
    }
    if (now >= t->deadline) {
        kill(t->pid, SIGKILL);
        t->deadline = now + KILL_NS;
    }
    if (waitpid(t->pid, &status, WNOHANG) != t->pid)
        return false;
    t->pid = 0;
    close(TAKE_FD(t->pidfd));
    return status == 0 && take_back(t, config);
}
