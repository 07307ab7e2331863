/* SPDX-License-Identifier: MIT */
/*
 * serve.c - the process of a switch, and the one that starts it again.
 *
 * Theory of operation: the process opens the ports' sockets, the uplink and the control socket, gives up all it does not
 * need any more, and forwards frames on one thread. It maps nobody's memory: frames come by sockets. Nothing is kept,
 * so when it dies another one is the same; the cards find its sockets again by themselves.
 */
#include "tools/switch/switch.h"

#include "control/sandbox.h"
#include "control/supervisor.h"
#include "net/net.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define PAUSE_NS 100000000l /* before a process that died is started again */

struct serving {
    const struct switch_config *config;
    struct loop *loop;
    struct fabric *fabric;
    struct control *control;
    struct signals signals;
};

/* ---- What is told of the ports ---- */

static struct fabric_port *find(struct serving *s, const char *name, struct dt_error *err)
{
    for (unsigned i = 0; i < s->fabric->count; i++)
        if (strcmp(s->fabric->ports[i]->config.name, name) == 0)
            return s->fabric->ports[i];
    dt_fail(err, -ENODEV, "no port is named '%.64s'", name);
    return NULL;
}

static json_t *show_port(const struct fabric_port *port)
{
    json_t *show = fabric_show(port);

    json_object_set_new(show, "pid", json_integer(getpid()));
    json_object_set_new(show, "threads", json_integer(1));
    return show;
}

static int answer_list(void *arg, json_t **result, struct dt_error *err)
{
    const struct serving *s = arg;

    *result = json_array();
    for (unsigned i = 0; i < s->fabric->count; i++) {
        json_t *show = show_port(s->fabric->ports[i]), *chain = json_array(), *layer;
        size_t k;

        json_array_foreach(json_object_get(show, "chain"), k, layer)
            json_array_append(chain, json_object_get(layer, "name"));
        json_array_append_new(
            *result, json_pack("{sO sO ss so}", "name", json_object_get(show, "name"), "pid",
                               json_object_get(show, "pid"), "kind", "port", "chain", chain));
        json_decref(show);
    }
    return 0;
}

static int answer_show(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    const struct fabric_port *port = find(arg, device, err);

    if (port)
        *result = show_port(port);
    return port ? 0 : -ENODEV;
}

static int answer_stats(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    const struct fabric_port *port = find(arg, device, err);

    if (port)
        *result = device_stats(port->dev);
    return port ? 0 : -ENODEV;
}

static void quit(void *arg)
{
    struct serving *s = arg;

    loop_stop(s->loop);
}

static int answer_quit(void *arg, struct dt_error *err)
{
    quit(arg);
    return 0;
}

static const struct protocol_ops protocol = {
    .list = answer_list, .show = answer_show, .stats = answer_stats, .quit = answer_quit};

/* ---- The process ---- */

static int confine(const struct switch_config *c, uid_t uid, struct dt_error *err)
{
    const struct sandbox_config config = {.kind = SANDBOX_WORKER, .uid = uid};
    char missing[SANDBOX_MISSING];
    int ret = c->options.sandbox ? sandbox_enter(&config, missing, err) : 0;

    if (ret == 0 && c->options.sandbox && missing[0])
        log_warning("the sandbox lacks %s", missing);
    return ret;
}

static int begin(struct serving *s, const char *control, uid_t uid, struct dt_error *err)
{
    const struct loop_config config = {.spin_ns = DT_US(50)};
    int ret = loop_new(&s->loop, &config, err);

    ret = ret ?: fabric_new(&s->fabric, s->loop, s->config->ports, s->config->count, err);
    ret = ret ?: control_new(&s->control, s->loop, control, &protocol, s, err);
    ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: confine(s->config, uid, err);
    return ret ?: fabric_start(s->fabric, err);
}

static int serve(const struct verb *verb, const struct switch_config *config, const char *control,
                 uid_t uid)
{
    struct serving s = {.config = config, .signals = {.watch.fd = -1, .quit = quit}};
    struct dt_error err;
    int ret;

    s.signals.arg = &s;
    ret = begin(&s, control, uid, &err);
    if (ret == 0) {
        fprintf(stderr, "devtap: ready\n");
        notify_manager("READY=1");
        loop_run(s.loop);
    }
    if (s.loop)
        signals_unwatch(&s.signals, s.loop);
    control_free(s.control);
    if (s.fabric)
        fabric_free(s.fabric);
    if (s.loop)
        loop_free(s.loop);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

/* ---- And the one that starts it again ---- */

static volatile sig_atomic_t child;

static void forward_signal(int signal)
{
    if (child > 0)
        kill(child, signal);
}

static char *control_path(void)
{
    _cleanup_free_ char *dir = runtime_dir();

    mkdir(dir, 0755); /* if it cannot be made, the socket's error says so */
    return xasprintf("%s/%ld.sock", dir, (long)getpid());
}

static void remove_sockets(const struct switch_config *c, const char *control)
{
    unlink(control);
    for (unsigned i = 0; i < c->count; i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s.sock", c->options.sockets, c->ports[i].name);

        if (!c->ports[i].uplink)
            unlink(path);
    }
}

static _Noreturn void run_child(const struct verb *verb, const struct switch_config *config,
                                const char *control, uid_t uid, pid_t parent)
{
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    exit(getppid() == parent ? serve(verb, config, control, uid) : STATUS_FAILED);
}

static int await(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 0;
    return status;
}

int switch_serve(const struct verb *verb, const struct switch_config *config)
{
    const struct sigaction forward = {.sa_handler = forward_signal};
    _cleanup_free_ char *control = control_path();
    uid_t uid = supervisor_uid();
    int status;

    signal(SIGPIPE, SIG_IGN);
    net_register_builtin();
    sigaction(SIGTERM, &forward, NULL);
    sigaction(SIGINT, &forward, NULL);
    for (;;) {
        pid_t parent = getpid(), pid = fork();

        if (pid == 0)
            run_child(verb, config, control, uid, parent);
        child = pid;
        status = pid > 0 ? await(pid) : 0;
        if (pid < 0 || WIFEXITED(status))
            break;
        log_error("the switch died of signal %d, and is started again", WTERMSIG(status));
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    remove_sockets(config, control);
    return child > 0 ? WEXITSTATUS(status) : STATUS_FAILED;
}
