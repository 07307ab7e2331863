/* SPDX-License-Identifier: MIT */
/*
 * supervisor-keepers.c - one keeper for each disk: started, told, heard, and started again when it
 * dies.
 */
#include "base/packet.h"
#include "control/cause.h"
#include "control/supervisor-internal.h"

#include <stdio.h>
#include <sys/epoll.h>

/* ---- Told ---------------------------------------------------------------------------------- */

void keeper_order(struct guard *g, enum keeper_type type, int fd)
{
    struct keeper_message m = {.type = type, .innocent = g->s->innocent};

    if (g->child.pidfd >= 0)
        packet_send(g->words.fd, &m, sizeof(m), fd);
}

/* A link: one end to the keeper, the other to the worker. */
void keeper_link(struct guard *g)
{
    const struct supply_message supply = {.disk = g->index, .event = "link"};
    int fds[2];

    if (g->s->worker.pidfd < 0 || g->child.pidfd < 0)
        return;
    if (packet_pair(fds) < 0) {
        log_error("%s: cannot make a link: %s", g->disk->name, strerror(errno));
        return;
    }
    g->released = false;
    keeper_order(g, KEEPER_LINK, fds[0]);
    packet_send(g->s->supply, &supply, sizeof(supply), fds[1]);
    close(fds[0]);
    close(fds[1]);
}

/* ---- Heard --------------------------------------------------------------------------------- */

void keepers_look(struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        if (!s->guards[i].ready && !s->absences.disks[i].now)
            return;
    super_worker_serves(s);
}

static void on_ready(struct guard *g)
{
    g->ready = true;
    keepers_look(g->s);
}

static void on_recovered(struct guard *g, const struct vhost_recovery *r)
{
    events_add(events(g->s), g->disk->name, "recovered",
               json_pack("{sI sI si si}", "pause_ns", (json_int_t)r->pause, "fence_ns",
                         (json_int_t)r->fence, "rings", (int)r->rings, "replayed",
                         (int)r->replayed),
               "%u rings run again after %.1f ms, of which %.1f for I/O in flight to land; %u "
               "requests are run again",
               r->rings, (double)r->pause / 1e6, (double)r->fence / 1e6, r->replayed);
}

/* The worker broke the protocol, or shows a floor that will not do: it is of no use to anybody. */
static void on_lost(struct guard *g, const char *reason)
{
    if (!reason[0])
        return; /* it just went; its pidfd says why */
    events_add(events(g->s), g->disk->name, "worker-refused", NULL, "the worker is replaced: %s",
               reason);
    child_kill(&g->s->worker);
}

static void on_released(struct guard *g, const char *why_not_sent)
{
    g->released = true;
    if (why_not_sent[0])
        upgrade_keeper_failed(g, why_not_sent);
    upgrade_released(g->s);
}

static void hear(struct guard *g, struct keeper_message *m);

/* What it has said so far. */
static void hear_all(struct guard *g)
{
    while (g->words.fd >= 0) {
        struct keeper_message m;
        int fd, ret = packet_receive(g->words.fd, &m, sizeof(m), &fd);

        if (ret <= 0)
            break;
        hear(g, &m);
    }
}

/* A successor in waiting. It has a say in nothing but that. */
static void hear_standby(struct guard *g, const struct keeper_message *m)
{
    if (m->type == KEEPER_TAKING)
        g->taking = true;
    else if (m->type == KEEPER_TOOK_OVER)
        g->took = m->text[0] == '\0';
    if (m->type == KEEPER_TOOK_OVER && !g->took) {
        hear_all(&g->s->guards[g->index]); /* its predecessor knows better why nothing came */
        upgrade_keeper_failed(g, m->text);
    }
    upgrade_keeper_said(g->s);
}

static bool on_standby(const struct guard *g)
{
    return g->s->standby && g >= g->s->standby && g < g->s->standby + g->s->config.count;
}

static void hear(struct guard *g, struct keeper_message *m)
{
    struct supervisor *s = g->s;

    m->text[sizeof(m->text) - 1] = '\0';
    if (on_standby(g)) {
        hear_standby(g, m);
        return;
    }
    switch (m->type) {
    case KEEPER_READY:
        on_ready(g);
        break;
    case KEEPER_LOST:
        on_lost(g, m->text);
        break;
    case KEEPER_RECOVERED:
        on_recovered(g, &m->recovery);
        break;
    case KEEPER_RELEASED:
        on_released(g, m->text);
        break;
    case KEEPER_ATTACHED:
        events_add(events(s), g->disk->name, "attached", NULL, "a VM attached");
        break;
    case KEEPER_DETACHED:
        if (m->text[0])
            events_add(events(s), g->disk->name, "session-broken", NULL, "the session broke: %s",
                       m->text);
        events_add(events(s), g->disk->name, "detached", NULL, "the VM detached");
        break;
    default:
        log_error("%s: the keeper says what nobody understands", g->disk->name);
        child_kill(&g->child);
    }
}

static void run_words(struct dt_watch *watch, uint32_t poll_events)
{
    struct guard *g = container_of(watch, struct guard, words);
    struct keeper_message m;
    int fd, ret = packet_receive(watch->fd, &m, sizeof(m), &fd);

    if (ret > 0)
        hear(g, &m);
    else if (ret < 0 && watch->fd >= 0) {
        loop_watch_remove(g->s->config.loop, watch); /* its pidfd says the rest */
        super_close(&watch->fd);
    }
    if (fd >= 0)
        close(fd);
}

/* ---- Started ------------------------------------------------------------------------------- */

struct guard *keepers_new(struct supervisor *s)
{
    struct guard *guards = xcalloc(s->config.count, sizeof(*guards));

    for (unsigned i = 0; i < s->config.count; i++)
        guards[i] = (struct guard){.s = s,
                                   .disk = &s->config.disks[i],
                                   .index = i,
                                   .child.pidfd = -1,
                                   .words.fd = -1,
                                   .sender = -1};
    return guards;
}

bool keepers_gone(const struct supervisor *s)
{
    for (unsigned i = 0; i < s->config.count; i++)
        if (s->guards[i].child.pidfd >= 0)
            return false;
    return true;
}

static void hang_up(struct guard *g)
{
    if (g->words.fd < 0)
        return;
    loop_watch_remove(g->s->config.loop, &g->words);
    super_close(&g->words.fd);
}

void keepers_kill(const struct supervisor *s, const struct guard *guards)
{
    for (unsigned i = 0; guards && i < s->config.count; i++)
        child_kill(&guards[i].child);
}

void keepers_free(struct supervisor *s, struct guard *guards)
{
    keepers_kill(s, guards);
    for (unsigned i = 0; guards && i < s->config.count; i++) {
        super_drop_child(s, &guards[i].child, &guards[i].ended);
        hang_up(&guards[i]);
        super_close(&guards[i].sender);
    }
    free(guards);
}

static void keeper_is_gone(struct guard *g, int code, int status, pid_t pid)
{
    struct supervisor *s = g->s;
    struct dt_error err;
    char cause[80];

    hang_up(g);
    if (on_standby(g) && s->upgrade == UPGRADE_STARTING)
        return; /* a predecessor; of interest only if it must go on */
    if (on_standby(g) || (s->standby && s->upgrade == UPGRADE_STARTING)) {
        upgrade_keeper_failed(g, cause_text(code, status, cause, sizeof(cause)));
        return;
    }
    if (s->stopping || g->disk->socket == KEEPER_HAS_SESSION) {
        if (!keepers_gone(s))
            return;
        if (s->worker.pidfd >= 0)
            super_end_worker(s);
        else
            super_finish(s, 0);
        s->stopping = true;
        return;
    }
    events_add(events(s), g->disk->name, "keeper-died", cause_json(code, status, pid),
               "keeper %d died, and the VM's connection with it: %s", (int)pid,
               cause_text(code, status, cause, sizeof(cause)));
    upgrade_keeper_failed(g, "the one before died");
    if (s->upgrade == UPGRADE_RELEASING)
        child_kill(&s->worker); /* it would be waited for: nobody is left to release it */
    if (keeper_start(g, s->program, &err) < 0)
        log_error("%s: %s", g->disk->name, err.text);
    else
        keeper_link(g);
}

bool keepers_any_serve(struct supervisor *s)
{
    bool any = false;

    for (unsigned i = 0; i < s->config.count; i++) {
        hear_all(&s->guards[i]);
        any |= s->guards[i].ready;
    }
    return any;
}

static void run_keeper_ended(struct dt_watch *watch, uint32_t poll_events)
{
    struct guard *g = container_of(watch, struct guard, ended);
    pid_t pid = g->child.pid;
    int code, status;

    hear_all(g); /* its last words first */
    loop_watch_remove(g->s->config.loop, watch);
    if (child_reap(&g->child, &code, &status) == 0)
        keeper_is_gone(g, code, status, pid);
    else
        loop_watch_add(g->s->config.loop, watch);
}

static uid_t own_uid(const struct supervisor *s)
{
    return s->config.sandbox ? supervisor_uid() : 0;
}

static int serve(struct guard *g)
{
    struct keeper_message m = {.type = KEEPER_SERVE,
                               .socket = g->disk->socket,
                               .patience = g->s->config.patience,
                               .uid = own_uid(g->s)};

    snprintf(m.text, sizeof(m.text), "%s", g->disk->name);
    snprintf(m.path, sizeof(m.path), "%s", g->disk->connect ? g->disk->connect : "");
    return packet_send(g->words.fd, &m, sizeof(m), g->disk->sock);
}

int keeper_start(struct guard *g, int program, struct dt_error *err)
{
    struct supervisor *s = g->s;
    _cleanup_free_ char *environment = super_kill_point(s, true);
    struct spawn spawn = {.program = program,
                          .environment = environment,
                          .argv = s->config.keeper_argv,
                          .nfds = 1,
                          .isolate = s->config.sandbox,
                          .cgroup = -1};
    int words[2], ret;

    if (packet_pair(words) < 0)
        return dt_fail(err, -errno, "cannot make sockets: %s", strerror(errno));
    spawn.fds = &words[1];
    ret = spawn_start(&g->child, &spawn, err);
    close(words[1]);
    g->words = (struct dt_watch){.fd = words[0], .events = EPOLLIN, .ready = run_words};
    if (ret < 0) {
        super_close(&g->words.fd);
        return ret;
    }
    g->ended =
        (struct dt_watch){.fd = g->child.pidfd, .events = EPOLLIN, .ready = run_keeper_ended};
    ret = loop_watch_add(s->config.loop, &g->words);
    ret = ret ?: loop_watch_add(s->config.loop, &g->ended);
    ret = ret ?: serve(g);
    return ret < 0 ? dt_fail(err, ret, "a keeper cannot be told what to do: %s", strerror(-ret))
                   : 0;
}
