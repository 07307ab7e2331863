/* SPDX-License-Identifier: MIT */
/* supervisor-internal.h - what the files of the supervisor share. */
#ifndef CONTROL_SUPERVISOR_INTERNAL_H
#define CONTROL_SUPERVISOR_INTERNAL_H

#include "control/spawn.h"
#include "control/supervisor.h"

/** struct guard - a disk's keeper. */
struct guard {
    struct supervisor *s;
    const struct supervised_disk *disk;
    unsigned index;
    struct child child;
    struct dt_watch ended, words;
    bool ready, released;
};

enum upgrade_phase {
    UPGRADE_NONE,
    UPGRADE_RELEASING, /* keepers let the old worker finish */
    UPGRADE_ENDING,    /* it saves its state and ends */
    UPGRADE_STARTING,  /* the new one */
    UPGRADE_RESTORING, /* that one failed: one with the arguments of before is to serve again */
};

struct supervisor {
    struct supervisor_config config;
    int program, next_program, old_program;
    char *kill_points; /* for the next @kill_workers workers */
    unsigned kill_workers, kill_skip;
    struct guard *guards;
    bool was_ready, stopping, sandbox_told;

    struct child worker;
    struct dt_watch worker_ended;
    int control, supply; /* our ends */
    struct dt_watch supply_watch;
    int state_fd;
    void *state;
    uint64_t backoff, ready_at;
    bool innocent; /* the last worker was ended from outside */
    bool hung;     /* by us, since it got nowhere */
    struct watchdog watchdog;
    unsigned soon; /* workers that died soon, in a row */
    struct dt_timer restart, patience;
    enum upgrade_phase upgrade;
    const char *const *next_argv, *const *old_argv; /* of an upgrade that changes them */
    char reason[256];                               /* the last worker's, for not serving */
    struct loop_deferred finish;
    int status;
};

static inline struct events *events(const struct supervisor *s)
{
    return s->config.events;
}

static inline void super_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* supervisor.c */
/** super_finish() - all is over: tell the owner, on the loop. */
void super_finish(struct supervisor *s, int status);

/* supervisor-worker.c: it is started, watched and replaced */
void super_start_worker(struct supervisor *s);
/** super_end_worker() - ask it to end in good order. */
void super_end_worker(struct supervisor *s);
/** super_forget_worker() - nobody is at the other end of its sockets any more. */
void super_forget_worker(struct supervisor *s);
/** super_worker_serves() - all keepers have accepted it. */
void super_worker_serves(struct supervisor *s);
void super_run_restart(struct dt_timer *timer);
void super_run_hangs(struct watchdog *watchdog);

/* supervisor-keepers.c: one for each disk */
int keeper_start(struct guard *g, struct dt_error *err);
/** keeper_order() - tell it, with @fd unless that is -1, which stays the caller's. */
void keeper_order(struct guard *g, enum keeper_type type, int fd);
/** keeper_link() - a new link: one end for the keeper, the other for the worker. */
void keeper_link(struct guard *g);
void keeper_hang_up(struct guard *g);
bool keepers_gone(const struct supervisor *s);

/* supervisor-upgrade.c: another program takes over */
int program_open(const char *path, struct dt_error *err);
/** upgrade_go_on() - the worker of before has ended, if an upgrade waits for that: start the next.
 */
bool upgrade_go_on(struct supervisor *s);
/** upgrade_end() - a worker of the next program serves, or (@good false) will not. */
void upgrade_end(struct supervisor *s, bool good);
/** upgrade_released() - a keeper has taken its rings from the worker. */
void upgrade_released(struct supervisor *s);
void upgrade_run_patience(struct dt_timer *timer);

#endif
