/* SPDX-License-Identifier: MIT */
/*
 * worker.c - a worker: the disks of a VM, served for keepers that have the sockets.
 *
 * Theory of operation: it is `devtap run` in one process (serve.c) but for three things. Links to
 * keepers come from the supervisor, one for each disk, and another when a keeper died. The
 * supervisor is its one client of the control protocol. And between opening the images and
 * serving the first request it gives up everything else: control/sandbox.h.
 *
 * A *spare* is a worker that has done all this up to where it would open the images, and waits there. The first link
 * that comes tells it that its predecessor is dead. It opens nothing before: what layers read then could
 * still be changed.
 */
#include "tools/run/server.h"

#include "base/kill.h"
#include "base/packet.h"
#include "blk/channel/placed.h"
#include "control/cause.h"
#include "control/launcher.h"
#include "control/sandbox.h"
#include "control/spawn.h"
#include "control/supervisor.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>

struct worker {
    struct server *server;
    struct dt_watch supply;
    uid_t uid;
    char *spare; /* it is one, and this is how ps(1) calls it until it takes over */
    bool begun;
    struct sandbox_walls walls;    /* a spare's */
    char missing[SANDBOX_MISSING]; /* of the sandbox */
    struct dt_timer save;
    struct worker_page *page;
    struct pulse pulses[DEVICE_MAX_THREADS];
};

/* Changes of the layers' state are kept at most so much later; and so often it says that it lives. */
#define SAVE_NS DT_MS(100)

/* ---- Links ------------------------------------------------------------------------------------ */

struct link_call {
    struct disk *disk;
    int fd;
};

static void take_next_link(struct disk *d)
{
    struct dt_error err;
    int fd = TAKE_FD(d->next_link);

    if (fd >= 0 && front_link(d->front, fd, &err) < 0)
        log_error("%s: %s", d->config->name, err.text);
}

/* A keeper died or misbehaved; the next one's link may be here already. */
static void link_lost(void *arg, const char *reason)
{
    struct disk *d = arg;

    log_debug("%s: the link to the keeper ended: %s", d->config->name, reason);
    take_next_link(d);
}

static void make_front(struct disk *d, int fd)
{
    const struct disk_options *o = &d->config->options;
    const struct front_keeper keeper = {
        .fd = fd, .fence_ns = device_fence_ns(d->dev), .lost = link_lost, .arg = d};
    const struct front_config config = {.class = disk_front_class(d),
                                        .dev = d->dev,
                                        .listen_fd = -1,
                                        .session_fd = -1,
                                        .keeper = &keeper,
                                        .serial = o->serial,
                                        .queues = (unsigned)o->queues,
                                        .packed = o->packed,
                                        .iommu = o->iommu,
                                        .config_space = o->config_space,
                                        .few_regions = !o->memory_slots};
    struct dt_error err;

    KILL_POINT("floor");
    if (front_new(&d->front, &config, &err) < 0)
        log_error("%s: %s", d->config->name, err.text);
}

/* On the disk's first thread. */
static void give_link(void *arg)
{
    struct link_call *call = arg;
    struct disk *d = call->disk;

    if (!d->front) {
        make_front(d, call->fd);
        return;
    }
    if (d->next_link >= 0)
        close(d->next_link);
    d->next_link = call->fd;
    if (!front_linked(d->front))
        take_next_link(d);
}

/* Return: was there anything to take? */
static bool take_supply(struct worker *w)
{
    struct supply_message m;
    struct link_call call;
    int ret = packet_receive(w->supply.fd, &m, sizeof(m), &call.fd);

    if (ret < 0) /* the supervisor is gone */
        server_quit(w->server);
    if (ret <= 0)
        return false;
    if (call.fd < 0)
        return true;
    if (m.disk >= w->server->config->count || w->server->disks[m.disk].out) {
        close(call.fd);
        return true;
    }
    call.disk = &w->server->disks[m.disk];
    loop_call(disk_loop(call.disk), give_link, &call);
    return true;
}

static void run_supply(struct dt_watch *watch, uint32_t events)
{
    take_supply(container_of(watch, struct worker, supply));
}

/* ---- In reserve ------------------------------------------------------------------------------------- */

/* Modules and what they stand on take milliseconds to load. What is not there is told when it is opened. */
static void load_modules(const struct server *s)
{
    struct chain_spec spec;
    struct dt_error err;

    for (unsigned i = 0; i < s->config->count; i++) {
        const struct disk_config *d = &s->config->disks[i];

        if (chain_parse(&spec, d->options.chain, &err) < 0)
            continue;
        for (unsigned k = 0; k < spec.count; k++)
            if (!strchr(spec.layers[k].name,
                        '/')) /* a user's own may be replaced until it is opened */
                registry_find_kind(d->kind, spec.layers[k].name, &err);
        chain_spec_free(&spec);
    }
}

static void stand_by(struct worker *w)
{
    struct pollfd supply = {.fd = SPAWN_FIRST_FD + WORKER_SUPPLY, .events = POLLIN};

    load_modules(w->server);
    if (w->server->config->process.sandbox)
        sandbox_prepare(&w->walls);
    while (poll(&supply, 1, -1) < 0) {
    }
    if (supply.revents & POLLHUP) /* not wanted any more */
        _exit(0);
    memset(w->spare, 0, strlen(w->spare));
    memcpy(w->spare, "worker", strlen("worker"));
}

/* ---- State and events ------------------------------------------------------------------------------- */

static struct worker *worker_hears;

/* From any thread: one packet is one system call. */
static void tell_facts(uint32_t disk, const struct device_event *e)
{
    struct supply_message m = {
        .disk = disk, .status = e->status, .pause_ns = e->pause_ns, .requests = e->requests};

    snprintf(m.event, sizeof(m.event), "%s", e->event);
    snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, e->text);
    snprintf(m.layer, sizeof(m.layer), "%s", e->layer ?: "");
    snprintf(m.why, sizeof(m.why), "%s", e->why ?: "");
    packet_send(SPAWN_FIRST_FD + WORKER_SUPPLY, &m, sizeof(m), -1);
}

static void tell(uint32_t disk, const char *event, const char *text)
{
    tell_facts(disk, &(struct device_event){.event = event, .text = text});
}

static void on_event(const struct device_event *e)
{
    const struct server *s = worker_hears->server;
    unsigned disk = 0;

    while (disk < s->config->count && strcmp(s->config->disks[disk].name, e->device) != 0)
        disk++;
    tell_facts(disk, e);
}

/* See control/watchdog.h: one thread that gets nowhere, and the supervisor hears nothing any more. */
static void beat(struct worker *w)
{
    bool all = true;

    for (unsigned i = 0; i < thread_count(w->server); i++)
        all = pulse_take(&w->pulses[i], w->server->threads[i].loop) && all;
    if (all)
        __atomic_store_n(&w->page->heart.beats, w->page->heart.beats + 1, __ATOMIC_RELAXED);
}

static void run_save(struct dt_timer *timer)
{
    struct worker *w = container_of(timer, struct worker, save);

    beat(w);
    for (unsigned i = 0; i < w->server->config->count; i++)
        if (w->server->disks[i].dev)
            device_save(w->server->disks[i].dev);
    loop_timer_set(w->server->loop, timer, dt_clock_ns() + SAVE_NS);
}

/* ---- Steps of server_run() -------------------------------------------------------------------------- */

void worker_init(struct worker *w, struct server *server)
{
    w->server = server;
}

static void supervisor_gone(void *arg)
{
    server_quit(arg);
}

/* Extensions are programs of others: none is started with our rights. */
static int start_launcher(const struct run_config *config, uid_t uid, struct dt_error *err)
{
    if (!config->process.sandbox)
        return 0;
    return launcher_start(uid ? EXTENSION_UID(uid) : 0, ext_host_main, err) < 0 ? -EAGAIN : 0;
}

int worker_open(struct worker *w, struct dt_error *err)
{
    struct server *s = w->server;
    size_t size = s->config->count * blob_area_size();
    int ret;

    s->state = mmap(NULL, size + sizeof(*w->page), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE, SPAWN_FIRST_FD + WORKER_STATE, 0);
    if (s->state == MAP_FAILED)
        return dt_fail(err, -errno, "cannot map the layers' state: %s", strerror(errno));
    close(SPAWN_FIRST_FD + WORKER_STATE);
    w->page = (void *)(s->state + size);
    ret = start_launcher(s->config, w->uid, err);
    if (ret < 0)
        return ret;
    worker_hears = w;
    device_events(on_event);
    ret = control_adopt(&s->control, s->loop, SPAWN_FIRST_FD + WORKER_CONTROL, &server_protocol, s,
                        supervisor_gone, err);
    if (ret == 0 && w->spare)
        stand_by(w);
    return ret;
}

int worker_confine(struct worker *w, struct dt_error *err)
{
    const struct sandbox_config config = {
        .kind = SANDBOX_WORKER, .uid = w->uid, .walls = w->spare ? &w->walls : NULL};

    KILL_POINT("fenced");
    if (!w->server->config->process.sandbox)
        return 0;
    return launcher_seal(err) ?: sandbox_enter(&config, w->missing, err);
}

int worker_begin(struct worker *w, struct dt_error *err)
{
    int ret;

    KILL_POINT("begin");
    w->supply = (struct dt_watch){
        .fd = SPAWN_FIRST_FD + WORKER_SUPPLY, .events = EPOLLIN, .ready = run_supply};
    ret = loop_watch_add(w->server->loop, &w->supply);
    if (ret == 0 && w->missing[0])
        tell(UINT32_MAX, "sandbox-lacks", w->missing);
    w->begun = ret == 0;
    w->save.fire = run_save;
    loop_timer_set(w->server->loop, &w->save, dt_clock_ns() + SAVE_NS);
    control_catch_up(
        w->server->control); /* a limit that was set live holds for the first request */
    while (ret == 0 && take_supply(w)) {
        /* Here, and not when the thread comes to it that watches from now on: VMs wait. */
    }
    return ret < 0 ? dt_fail(err, ret, "cannot watch for links: %s", strerror(-ret)) : 0;
}

void worker_end(struct worker *w)
{
    KILL_POINT("end");
    if (!w->begun)
        return;
    loop_watch_remove(w->server->loop, &w->supply);
    loop_timer_cancel(w->server->loop, &w->save);
}

bool worker_leaves_out(struct worker *w, unsigned disk, const char *why)
{
    if (!w->page || !w->page->dispensable[disk])
        return false;
    tell(disk, "left-out", why);
    return true;
}

void worker_failed(const struct dt_error *why)
{
    tell(UINT32_MAX, "start-failed", why->text);
}

/* ---- The programs --------------------------------------------------------------------------------------- */

/* abort() by the first process of a namespace would look like a fault of another kind. */
static void on_abort(int signal)
{
    _exit(EXIT_ASSERTION);
}

/* The command line of a worker. Return: 0, or an exit status. */
static int read_config(struct run_config *config, char **argv)
{
    unsigned count = 0, words = 0;
    struct dt_error err;
    int ret;

    while (argv[words])
        words++;
    if (words > 1)
        count = (unsigned)strtoul(argv[1], NULL, 10);
    if (count == 0 || count > CONFIG_MAX_DISKS || words < 2 + count)
        return STATUS_USAGE;
    ret = run_config_parse_args(config, argv + 2 + count, &err);
    if (ret == 0 && config->count != count)
        ret = dt_fail(&err, -EINVAL, "%u disks, not %u", config->count, count);
    for (unsigned i = 0; ret == 0 && i < count; i++)
        config->disks[i].where = *argv[2 + i] ? xstrdup(argv[2 + i]) : NULL;
    ret = ret ?: run_config_judge(config, &err);
    return ret < 0 ? verb_fail(&verb_run, ret, &err) : 0;
}

int worker_main(char **argv, char *spare)
{
    struct worker worker = {.spare = spare, .walls = {-1, -1}};
    struct run_config config;
    int ret;

    run_config_init(&config);
    signal(SIGABRT, on_abort);
    ret = read_config(&config, argv);
    if (ret == 0) {
        worker.uid = (uid_t)strtoul(argv[0], NULL, 10);
        log_set_level((enum dt_log_level)config.process.log_level);
        ret = server_run(&verb_run, &config, &worker);
    }
    run_config_free(&config);
    return ret;
}

/* Nothing is said: why it cannot be opened was told once. */
int attempt_main(char **argv, const char *disk)
{
    struct run_config config;
    unsigned index = (unsigned)strtoul(disk, NULL, 10);
    struct dt_error err;
    int ret;

    run_config_init(&config);
    signal(SIGABRT, on_abort);
    log_set_level(DT_LOG_ERROR);
    ret = read_config(&config, argv);
    if (ret == 0 && index >= config.count)
        ret = STATUS_USAGE;
    sandbox_raise_limits();
    if (ret == 0 && start_launcher(&config, (uid_t)strtoul(argv[0], NULL, 10), &err) < 0)
        ret = STATUS_FAILED;
    if (ret == 0)
        ret = server_try(&config, index);
    run_config_free(&config);
    return ret;
}

static int confine_host(struct dt_error *err)
{
    const struct sandbox_config config = {.kind = SANDBOX_EXTENSION};
    char missing[SANDBOX_MISSING];

    return getenv(CONFINE_ENVIRONMENT) ? sandbox_enter(&config, missing, err) : 0;
}

int ext_host_main(const char *name)
{
    static const struct placed_config config = {.confine_host = confine_host};

    signal(SIGXFSZ, SIG_IGN); /* as in a worker */
    placed_init(&config);
    return placed_host(name);
}

int keeper_main(char **argv)
{
    log_set_level(DT_LOG_INFO);
    return keeper_run(SPAWN_FIRST_FD);
}
