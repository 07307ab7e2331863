/* SPDX-License-Identifier: MIT */
/*
 * worker.c - the process that has the pool's lock, between one death and the next.
 *
 * It opens the pool, which waits until nothing of its predecessor can land any more, gives up what it
 * does not need (control/sandbox.h), and says that it serves. One thread does everything.
 */
#include "tools/pool/pool.h"

#include "base/kill.h"
#include "base/packet.h"
#include "blk/vhost-user/front.h"
#include "control/cause.h"
#include "control/sandbox.h"
#include "control/spawn.h"
#include "control/supervisor.h"

#include <signal.h>
#include <stdio.h>

#define LOCK_NS DT_S(2)

extern const struct dt_block_ext blk_cvd_local;

void pool_server_say(const char *event, const char *text)
{
    struct supply_message m = {.disk = UINT32_MAX};

    snprintf(m.event, sizeof(m.event), "%.*s", (int)sizeof(m.event) - 1, event);
    snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, text);
    packet_send(SPAWN_FIRST_FD + WORKER_SUPPLY, &m, sizeof(m), -1);
}

static void pool_event(void *arg, uint32_t slot, const char *event, const char *text)
{
    pool_server_say(event, text);
    subscribers_tell(arg, slot, event, text);
}

/* ---- The end ---- */

void pool_server_quiet(struct pool_server *s)
{
    loop_stop(s->loop);
}

static void end(struct pool_server *s)
{
    if (s->ending)
        return;
    listener_stop(&s->listener);
    exports_end(s);
}

static int answer_quit(void *arg, struct dt_error *err)
{
    end(arg);
    return 0;
}

/* The supervisor asks for nothing else. */
static const struct protocol_ops supervisor_protocol = {.quit = answer_quit};

static void supervisor_gone(void *arg)
{
    end(arg);
}

/* ---- The beginning ---- */

static void accepted(struct listener *listener, int sock)
{
    caller_take(container_of(listener, struct pool_server, listener), sock);
}

static int open_pool(struct pool_server *s, char **argv, struct dt_error *err)
{
    const struct shared_config config = {.path = s->path,
                                         .loop = s->loop,
                                         .cache = strtoull(argv[3], NULL, 10),
                                         .data_cache = strtoull(argv[5], NULL, 10),
                                         .holder = argv[1],
                                         .deadline = dt_clock_ns() + LOCK_NS,
                                         .event = pool_event,
                                         .arg = s};

    return shared_host(&s->shared, &config, err);
}

static int confine(uid_t uid, struct dt_error *err)
{
    const struct sandbox_config config = {.kind = SANDBOX_WORKER, .uid = uid};
    char missing[SANDBOX_MISSING];
    int ret = sandbox_enter(&config, missing, err);

    if (ret == 0 && missing[0])
        pool_server_say("sandbox-lacks", missing);
    return ret;
}

static int begin(struct pool_server *s, struct dt_error *err)
{
    int ret = listener_start(&s->listener, s->loop, SPAWN_FIRST_FD + WORKER_OWN, accepted);

    if (ret < 0)
        return dt_fail(err, ret, "cannot watch the socket: %s", strerror(-ret));
    ret = control_adopt(&s->control, s->loop, SPAWN_FIRST_FD + WORKER_CONTROL, &supervisor_protocol,
                        s, supervisor_gone, err);
    if (ret == 0)
        pool_server_say("serving", "");
    return ret;
}

static int serve(struct pool_server *s, char **argv, struct dt_error *err)
{
    const struct loop_config config = {.spin_ns = DT_US(50)};
    uid_t uid = (uid_t)strtoul(argv[0], NULL, 10);
    struct dt_error late;
    int ret = loop_new(&s->loop, &config, err);

    ret = ret ?: registry_add(&blk_cvd_local, err);
    ret = ret ?: open_pool(s, argv, err);
    if (ret < 0)
        return ret;
    KILL_POINT("fenced");
    if (strcmp(argv[4], "on") == 0)
        ret = confine(uid, err);
    ret = ret ?: begin(s, err);
    if (ret == 0)
        loop_run(s->loop);
    callers_free(s);
    subscribers_end(s);
    pinners_end(s);
    control_free(s->control);
    if (ret == 0)
        return shared_unhost(s->shared, err);
    shared_unhost(s->shared, &late);
    return ret;
}

/* abort() by the first process of a namespace would look like a fault of another kind. */
static void on_abort(int signal)
{
    _exit(EXIT_ASSERTION);
}

int pool_worker_main(char **argv)
{
    struct pool_server s = {0};
    struct dt_error err;
    unsigned words = 0;
    int ret;

    while (argv[words])
        words++;
    if (words != 6)
        return STATUS_USAGE;
    signal(SIGABRT, on_abort);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    sandbox_raise_limits();
    log_set_level(DT_LOG_INFO);
    s.path = argv[2];
    list_init(&s.callers);
    list_init(&s.exports);
    list_init(&s.subscribers);
    list_init(&s.pinners);
    ret = serve(&s, argv, &err);
    if (s.loop)
        loop_free(s.loop);
    if (ret < 0) {
        pool_server_say("start-failed", err.text);
        log_error("%s", err.text);
    }
    return ret < 0 ? (int)exit_status_of(ret) : STATUS_DONE;
}
