/* SPDX-License-Identifier: MIT */
/*
 * supervisor-spare.c - the next worker, kept ready.
 *
 * Theory of operation: most of a successor's start needs nothing of its predecessor: the program is executed and linked,
 * loops, namespaces and the launcher of extensions are made. On a host whose processors are busy a new process
 * also waits for its first time slice, which one that sleeps does not. So as soon as a worker serves, another is
 * started and waits for the first link, which it gets when the worker has died: tools/run/worker.c. It has no image
 * open, and no part in anything.
 *
 * An upgrade, and a change of the chain that needs a successor, start one of theirs while the worker of before
 * still serves.
 *
 * A spare that dies is not replaced before the next worker serves: whatever ends it might end all.
 */
#include "control/supervisor-internal.h"

#include <sys/epoll.h>

static void forget(struct spare *spare)
{
    super_close(&spare->born.control);
    super_close(&spare->born.supply);
    spare->next = false;
}

static void run_spare_ended(struct dt_watch *watch, uint32_t poll_events)
{
    struct supervisor *s = container_of(watch, struct supervisor, spare.ended);
    int code, status;

    loop_watch_remove(s->config.loop, watch);
    if (child_reap(&s->spare.born.child, &code, &status) == 0)
        forget(&s->spare);
    else
        loop_watch_add(s->config.loop, watch);
}

static void give_back_kill_point(struct supervisor *s)
{
    s->kill_count += s->spare.count;
    s->kill_skip += s->spare.skip;
}

void spare_drop(struct supervisor *s)
{
    struct spare *spare = &s->spare;

    if (spare->born.child.pidfd < 0)
        return;
    child_kill(&spare->born.child);
    super_drop_child(s, &spare->born.child, &spare->ended);
    forget(spare);
    give_back_kill_point(s);
}

const char **super_role_argv(const char *const *argv, const char *role)
{
    const char **copy;
    unsigned n = 0;

    while (argv[n])
        n++;
    CHECK(n >= 2);
    copy = xcalloc(n + 1, sizeof(*copy));
    memcpy(copy, argv, n * sizeof(*copy));
    copy[1] = role;
    return copy;
}

void spare_start(struct supervisor *s, int program, const char *const *argv, bool next)
{
    struct spare *spare = &s->spare;
    const char **words;
    struct dt_error err;

    spare_drop(s);
    if (!s->config.spare || s->stopping)
        return;
    words = super_role_argv(argv, s->config.spare);
    spare->next = next;
    spare->count = s->kill_count;
    spare->skip = s->kill_skip;
    if (super_spawn(s, program, words, &spare->born, &err) < 0) {
        log_warning("no worker is kept ready: %s", err.text);
        forget(spare);
    } else {
        spare->count -= s->kill_count;
        spare->skip -= s->kill_skip;
        spare->ended = (struct dt_watch){
            .fd = spare->born.child.pidfd, .events = EPOLLIN, .ready = run_spare_ended};
        if (loop_watch_add(s->config.loop, &spare->ended) < 0)
            spare_drop(s);
    }
    free(words);
}

void spare_renew(struct supervisor *s)
{
    bool there = s->spare.born.child.pidfd >= 0;

    if (s->upgrade || !s->ready_at || (there && !s->spare.next))
        return;
    spare_start(s, s->program, s->config.worker_argv, false);
}

bool spare_take(struct supervisor *s, struct newborn *born)
{
    struct spare *spare = &s->spare;
    bool upgrading = s->upgrade == UPGRADE_STARTING;

    if (upgrading && !spare->next)
        spare_drop(s); /* of the program of before */
    if (upgrading != spare->next || spare->born.child.pidfd < 0)
        return false; /* none; or the next program's, which the upgrade is still to have */
    loop_watch_remove(s->config.loop, &spare->ended);
    *born = spare->born;
    spare->born = (struct newborn){.child.pidfd = -1, .control = -1, .supply = -1};
    spare->next = false;
    return true;
}
