/* SPDX-License-Identifier: MIT */
/* supervisor-internal.h - what the files of the supervisor share. */
#ifndef CONTROL_SUPERVISOR_INTERNAL_H
#define CONTROL_SUPERVISOR_INTERNAL_H

#include "control/spawn.h"
#include "control/supervisor.h"

/**
 * struct guard - a disk's keeper.
 * @ready: it has accepted the present worker. @released: it has let the worker go.
 * @taking, @took: a successor runs; it is all that its predecessor was.
 * @sender: a successor's: where its predecessor is to send, until that is told.
 */
struct guard {
    struct supervisor *s;
    const struct supervised_disk *disk;
    unsigned index;
    struct child child;
    struct dt_watch ended, words;
    bool ready, released, taking, took;
    int sender;
};

/**
 * struct newborn - a worker's process and our ends of its sockets, before and after it is *the* worker.
 */
struct newborn {
    struct child child;
    int control, supply;
};

/**
 * struct spare - a worker that waits to be the next.
 * @next: of an upgrade's program and arguments.
 * @count, @skip: by how much it used up those of the kill points, which it may never come by.
 */
struct spare {
    struct newborn born;
    struct dt_watch ended;
    bool next;
    unsigned count, skip;
};

/**
 * struct absence - of one disk.
 * @allowed: the present worker may leave it out. @now: it has.
 * @told: that it is left out, and not yet that it is served again.
 * @futile: a worker left it out although the attempt before it had worked.
 * @attempt: a process that tries to open it, or the kernel does not let end. @wait: between two, ns. @due: the next.
 */
struct absence {
    struct supervisor *s;
    bool allowed, now, told, futile;
    struct child attempt;
    struct dt_watch ended;
    uint64_t wait, due;
};

/**
 * struct absences - @retry: until the next attempt, or the end of our patience with that of @trying.
 * @opened: the attempt with it worked, and began the present upgrade. @undisturbed: the present worker began
 * while there was no attempt, which might have held what it wanted.
 */
struct absences {
    struct absence *disks;
    struct dt_timer retry;
    const struct absence *trying, *opened;
    bool undisturbed;
};

enum upgrade_phase {
    UPGRADE_NONE,
    UPGRADE_PREPARING, /* keepers of the new program start */
    UPGRADE_RELEASING, /* keepers let the old worker finish, and send what they are to their
                          successors */
    UPGRADE_ENDING,    /* it saves its state and ends */
    UPGRADE_HANDING,   /* it has ended; successors are still taking over */
    UPGRADE_STARTING,  /* the new worker, linked with the successors */
    UPGRADE_RESTORING, /* that one failed: one with the arguments of before is to serve again */
};

struct supervisor {
    struct supervisor_config config;
    int program, next_program, old_program;
    char *kill_points; /* for @kill_count processes, after the first @kill_skip */
    unsigned kill_count, kill_skip;
    struct guard *guards; /* those that are, or will be, linked with the present worker */
    struct guard
        *standby; /* of an upgrade: the successors, and from UPGRADE_STARTING on the predecessors */
    bool was_ready, stopping, sandbox_told;

    struct child worker;
    struct dt_watch worker_ended;
    int control, supply; /* our ends */
    struct spare spare;
    struct absences absences;
    struct dt_watch supply_watch;
    int state_fd;
    void *state;
    uint64_t backoff, ready_at;
    bool innocent;     /* the last worker was ended from outside */
    bool hung;         /* by us, since it got nowhere */
    char refusal[256]; /* the present worker's, for not serving */
    struct watchdog watchdog;
    unsigned soon; /* workers that died soon, in a row */
    struct dt_timer restart, patience;
    enum upgrade_phase upgrade;
    struct loop_deferred upgrade_step;
    bool upgrade_failed;                            /* @reason says why */
    const char *const *next_argv, *const *old_argv; /* of an upgrade that changes them */
    char reason[256];                               /* for an upgrade's end */
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
/** super_kill_point() - what a new worker, or a new keeper, is to have in its environment, in
 * builds with kill points. Return: for free(), or NULL. */
char *super_kill_point(struct supervisor *s, bool keeper);
/** super_drop_child() - wait for the end of one that was killed. */
void super_drop_child(struct supervisor *s, struct child *child, struct dt_watch *watch);
struct worker_page *super_page(const struct supervisor *s);

/* supervisor-spare.c: the next worker, kept ready */
/** spare_renew() - have one of the present program and arguments, if a worker serves. */
void spare_renew(struct supervisor *s);
/** spare_start() - one of @program and @argv, which are an upgrade's next. Without one all goes on as well. */
void spare_start(struct supervisor *s, int program, const char *const *argv, bool next);
/** spare_take() - the one that is for now, if there is one. */
bool spare_take(struct supervisor *s, struct newborn *born);
void spare_drop(struct supervisor *s);

/** super_role_argv() - word for word @argv, but for the one that says what it is to be: @role. For free(). */
const char **super_role_argv(const char *const *argv, const char *role);

/* supervisor-absent.c: what a worker cannot open */
void absent_init(struct supervisor *s);
/** absent_new_worker() - one is about to be started; more than once, if that fails. */
void absent_new_worker(struct supervisor *s);
/** absent_heard() - the worker leaves @disk out. */
void absent_heard(struct supervisor *s, unsigned disk, const char *why);
void absent_worker_serves(struct supervisor *s);
void absent_run_retry(struct dt_timer *timer);
void absent_stop(struct supervisor *s);

/* supervisor-worker.c: it is started, watched and replaced */
/** super_spawn() - a process of @program with @argv and the descriptors of a worker. */
int super_spawn(struct supervisor *s, int program, const char *const *argv, struct newborn *born,
                struct dt_error *err);
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
/** keepers_new() - for all disks; none is started. */
struct guard *keepers_new(struct supervisor *s);
/** keepers_kill(), keepers_free() - whatever they are doing; the latter waits for their ends. */
void keepers_kill(const struct supervisor *s, const struct guard *guards);
void keepers_free(struct supervisor *s, struct guard *guards);
/** keeper_start() - a process of @program, which stays the caller's. -EPIPE: it was started, and
 * has ended already. */
int keeper_start(struct guard *g, int program, struct dt_error *err);
/** keeper_order() - tell it, with @fd unless that is -1, which stays the caller's. */
void keeper_order(struct guard *g, enum keeper_type type, int fd);
/** keeper_link() - a new link: one end for the keeper, the other for the worker. */
void keeper_link(struct guard *g);
bool keepers_gone(const struct supervisor *s);
/** keepers_look() - the worker serves, if all keepers have accepted it, but those of disks that it leaves out. */
void keepers_look(struct supervisor *s);
/** keepers_any_serve() - has any disk got as far as being served by the present worker, dead or alive? A
 *  keeper may have said so after its worker's end was noticed. */
bool keepers_any_serve(struct supervisor *s);

/* supervisor-upgrade.c: another program takes over */
int program_open(const char *path, struct dt_error *err);
/** upgrade_go_on() - the worker of before has ended, if an upgrade waits for that: start the next.
 */
bool upgrade_go_on(struct supervisor *s);
/** upgrade_end() - a worker of the next program serves, or (@good false) will not. */
void upgrade_end(struct supervisor *s, bool good);
/** upgrade_released() - a keeper has taken its rings from the worker. */
void upgrade_released(struct supervisor *s);
/** upgrade_keeper_said() - a successor did: go on when all have. */
void upgrade_keeper_said(struct supervisor *s);
/** upgrade_keeper_failed() - one that takes part cannot, or died: the program of before is to go
 * on. */
void upgrade_keeper_failed(struct guard *g, const char *why);
void upgrade_run_step(struct loop_deferred *deferred);
void upgrade_run_patience(struct dt_timer *timer);

#endif
