/* SPDX-License-Identifier: MIT */
/*
 * serve.c - the process of a switch, and the one that starts it again.
 *
 * Theory of operation: the process opens the ports' sockets, the uplink and the control socket, gives up all it does not
 * need any more, and forwards frames on one thread. It maps nobody's memory: frames come by sockets. Nothing is kept
 * but which ports there are and what was set (ports.c),
 * so when it dies another one is the same; the cards find its sockets again by themselves.
 */
#include "tools/switch/switch.h"

#include "base/packet.h"
#include "control/events.h"
#include "control/launcher.h"
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
/* That may fail to begin, one after the other, though each uplink can be opened: a dead one may still have something. */
#define SUCCESSORS 3u

struct serving {
    struct switch_ports ports;
    struct loop *loop;
    struct control *control;
    struct events *events;
    struct signals signals;
};

/* ---- What is told of the ports ---- */

static struct fabric_port *find(struct serving *s, const char *name, struct dt_error *err)
{
    struct fabric_port *port = fabric_find(s->ports.fabric, name);

    if (!port)
        dt_fail(err, -ENODEV, "no port is named '%.64s'", name);
    return port;
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
    const struct fabric *f = ((const struct serving *)arg)->ports.fabric;

    *result = json_array();
    for (unsigned i = 0; i < f->top; i++) {
        json_t *show, *chain, *layer;
        size_t k;

        if (!f->ports[i] || f->ports[i]->leaving)
            continue;
        show = show_port(f->ports[i]);
        chain = json_array();
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

static int answer_do(void *arg, const char *device, const char *layer, const char *command,
                     int argc, const char *const *argv, json_t **result, struct dt_error *err)
{
    struct serving *s = arg;
    const struct fabric_port *port;

    if (strcmp(layer, "switch") == 0)
        return switch_ports_do(&s->ports, device, command, argv, err);
    port = find(s, device, err);
    return port ? device_do(port->dev, layer, command, argc, argv, result, err) : -ENODEV;
}

static int answer_set(void *arg, const char *device, const char *layer, const char *param,
                      const char *value, struct dt_error *err)
{
    struct serving *s = arg;

    return switch_ports_set(&s->ports, (const char *[]){device, layer, param, value, NULL}, err);
}

static int answer_events(void *arg, uint64_t after, json_t **result, struct dt_error *err)
{
    const struct serving *s = arg;

    *result = events_since(s->events, after, EVENTS_KEPT);
    return 0;
}

static struct serving *who_hears;

static void hear(const struct device_event *e)
{
    events_add(who_hears->events, e->device, e->event,
               e->layer ? json_pack("{ss}", "layer", e->layer) : NULL, "%s", e->text);
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

static const struct protocol_ops protocol = {.list = answer_list,
                                             .show = answer_show,
                                             .stats = answer_stats,
                                             .run = answer_do,
                                             .set = answer_set,
                                             .events = answer_events,
                                             .quit = answer_quit};

/* ---- The process ---- */

static int confine(const struct switch_config *c, uid_t uid, struct dt_error *err)
{
    const struct sandbox_config config = {.kind = SANDBOX_WORKER, .uid = uid};
    char missing[SANDBOX_MISSING];
    int ret = c->options.sandbox ? launcher_seal(err) ?: sandbox_enter(&config, missing, err) : 0;

    if (ret == 0 && c->options.sandbox && missing[0])
        log_warning("the sandbox lacks %s", missing);
    return ret;
}

static int begin(struct serving *s, const char *control, uid_t uid, struct dt_error *err)
{
    const struct loop_config config = {.spin_ns = DT_US(50)};
    int ret = 0;

    /* Connections of uplinks, which nobody can make once this is confined. */
    if (s->ports.config->options.sandbox)
        ret = launcher_start(uid ? EXTENSION_UID(uid) : 0, ext_host_main, err);
    ret = ret ?: loop_new(&s->loop, &config, err);
    ret = ret
              ?: fabric_new(&s->ports.fabric, s->loop, s->ports.config->ports,
                            s->ports.config->count, err);
    ret = ret ?: control_new(&s->control, s->loop, control, &protocol, s, err);
    ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: confine(s->ports.config, uid, err);
    ret = ret ?: fabric_start(s->ports.fabric, err);
    if (ret == 0)
        switch_ports_restore(&s->ports);
    for (unsigned i = 0; ret == 0 && i < s->ports.config->count; i++)
        if (s->ports.config->ports[i].away)
            events_add(s->events, s->ports.config->ports[i].name, "uplink-away", NULL,
                       "it cannot be opened: what is for it goes nowhere");
    return ret;
}

static int serve(const struct verb *verb, const struct switch_ports *ports, const char *control,
                 uid_t uid)
{
    struct serving s = {.ports = *ports, .signals = {.watch.fd = -1, .quit = quit}};
    struct dt_error err;
    int ret;

    s.signals.arg = &s;
    s.events = events_new();
    who_hears = &s;
    device_events(hear);
    ret = begin(&s, control, uid, &err);
    if (ret == 0) {
        fprintf(stderr, "devtap: ready\n");
        notify_manager("READY=1");
        switch_ports_ready(&s.ports);
        loop_run(s.loop);
    }
    if (s.loop)
        signals_unwatch(&s.signals, s.loop);
    control_free(s.control);
    if (s.ports.fabric)
        fabric_free(s.ports.fabric);
    if (s.loop)
        loop_free(s.loop);
    device_events(NULL);
    events_free(s.events);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

/* ---- And the one that starts it again ---- */

static volatile sig_atomic_t child, stopping;

static void forward_signal(int signal)
{
    stopping = 1;
    if (child > 0)
        kill(child, signal);
}

/* While there is, or may be, a process that @child does not name yet. */
static void hold_signals(bool hold)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
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
        _cleanup_free_ char *path = switch_socket(c, c->ports[i].name);

        if (!c->ports[i].uplink)
            unlink(path);
    }
}

static _Noreturn void run_child(const struct verb *verb, const struct switch_ports *ports,
                                const char *control, uid_t uid, pid_t parent)
{
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    hold_signals(false);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (stopping) /* since before we were there */
        exit(STATUS_DONE);
    exit(getppid() == parent ? serve(verb, ports, control, uid) : STATUS_FAILED);
}

static int await(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 0;
    return status;
}

/* A process from its start to its end. @anew: we ended it, for another one. Return: its status as of waitpid(), or -1 where there was
 * none. */
static int run_once(const struct verb *verb, struct switch_config *config, const char *control,
                    uid_t uid, bool *anew)
{
    pid_t parent = getpid();
    int pair[2], status;

    if (packet_pair(pair) < 0)
        return -1;
    hold_signals(true);
    child = fork();
    if (child == 0) {
        const struct switch_ports ports = {.config = config, .parent = pair[1]};

        close(pair[0]);
        run_child(verb, &ports, control, uid, parent);
    }
    hold_signals(false);
    close(pair[1]);
    *anew = child > 0 && switch_ports_answer(pair[0], config); /* else it is gone */
    if (*anew)
        kill(child, SIGKILL);
    close(pair[0]);
    status = child > 0 ? await(child) : -1;
    child = 0;
    return status;
}

int switch_serve(const struct verb *verb, struct switch_config *config)
{
    const struct sigaction forward = {.sa_handler = forward_signal};
    _cleanup_free_ char *control = control_path();
    uid_t uid = supervisor_uid();
    unsigned failures = 0;
    bool again = false, anew;
    int status;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a layer's file that has grown too large must not end the switch */
    net_register_builtin();
    sandbox_raise_limits();
    sigaction(SIGTERM, &forward, NULL);
    sigaction(SIGINT, &forward, NULL);
    do {
        status = run_once(verb, config, control, uid, &anew);
        if (status < 0 || stopping)
            break;
        if (WIFEXITED(status)) {
            /* Without what cannot be opened any more; or all of it could be now. */
            if (WEXITSTATUS(status) == STATUS_DONE || !again ||
                (!switch_away_again(config) && !switch_away_look(config) &&
                 ++failures == SUCCESSORS))
                break;
        } else {
            again = true;
            failures = 0;
            if (!anew)
                log_error("the switch died of signal %d, and is started again", WTERMSIG(status));
        }
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    } while (!stopping);
    remove_sockets(config, control);
    if (status < 0)
        return STATUS_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : STATUS_DONE;
}
