/* SPDX-License-Identifier: MIT */
/*
 * away.c - uplinks that cannot be opened any more, when the switch is started again.
 *
 * Theory of operation: an interface that was deleted must not cost the cards each other, nor the other uplinks. So where a successor
 * cannot begin, each uplink is tried alone, in a process of its own, and those that fail are left out: they keep their VLANs, and lead
 * nowhere. They are tried again each second. When one can be opened the switch begins anew, since it has given up the rights
 * to open anything itself.
 */
#include "tools/switch/switch.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TRY_SECONDS 3 /* a try that takes longer has failed */

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
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(TRY_SECONDS);
    if (getppid() != parent || try_chain(c, &err) == 0)
        _exit(STATUS_DONE);
    if (write(to, err.text, strlen(err.text)) < 0) /* then nobody is told why */
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
        snprintf(why, size, "%s: it could not be tried", c->name);
    return status == 0;
}

bool switch_away_any(const struct switch_config *config)
{
    bool any = false;

    for (unsigned i = 0; i < config->count; i++)
        any |= config->ports[i].away;
    return any;
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
        n++;
        log_error("%s; the switch goes on without it, and tries again each second", why);
    }
    return n;
}

bool switch_away_back(struct switch_config *config)
{
    char why[sizeof(struct dt_error)];
    bool back = false;

    for (unsigned i = 0; i < config->count; i++) {
        struct fabric_config *c = &config->ports[i];

        if (!c->away || !opens(c, why, sizeof(why)))
            continue;
        c->away = false;
        back = true;
        log_info("%s can be opened again: the switch begins anew", c->name);
    }
    return back;
}
