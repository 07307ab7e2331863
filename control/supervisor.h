/* SPDX-License-Identifier: MIT */
/*
 * supervisor.h - one worker for all disks of a VM, one keeper for each disk, and what happens when one
 * of them dies or is to be replaced.
 */
#ifndef CONTROL_SUPERVISOR_H
#define CONTROL_SUPERVISOR_H

#include "control/confine.h"
#include "control/events.h"
#include "control/keeper.h"
#include "control/watchdog.h"

#define SUPERVISED_DISKS 1024u

/**
 * struct worker_page - in shared memory; hostile, since the worker can write it.
 * @dispensable: written before a worker gets its first link: what it cannot open of these disks it is to leave out.
 */
struct worker_page {
    struct heartbeat heart;
    uint8_t dispensable[SUPERVISED_DISKS];
};

/* Descriptors of a worker, in this order from SPAWN_FIRST_FD on. WORKER_STATE is the memory for the layers'
 * state of all disks, and a struct worker_page after that. WORKER_OWN comes where the owner has one for it. */
enum worker_fd { WORKER_CONTROL, WORKER_SUPPLY, WORKER_STATE, WORKER_FDS, WORKER_OWN = WORKER_FDS };

/**
 * struct supply_message - to the worker: the link to a disk's keeper. From it: something happened
 * to disk @disk, in its layer @layer, and what that brings along (struct device_event in core/core.h).
 */
struct supply_message {
    uint32_t disk;
    char event[28];
    char text[256];
    char layer[64];
    char why[12];
    int32_t status;
    uint64_t pause_ns;
    uint32_t requests;
};

/**
 * struct supervised_disk - one disk.
 * @sock: its socket, bound and perhaps listening, or connected; stays the caller's; -1 with @connect.
 */
struct supervised_disk {
    const char *name;
    enum keeper_socket socket;
    int sock;
    const char *connect;
};

/** struct supervisor_ops - what the owner learns, on the loop. */
struct supervisor_ops {
    void (*ready)(void *arg); /* all disks can be connected to */
    /* A worker was started, and gets its first link after this: what is sent to it now it reads before it serves. NULL:
     * nothing is. */
    void (*started)(void *arg, int control);
    void (*restarted)(void *arg); /* a successor serves all disks */
    /* The end of a supervisor_upgrade() with arguments: @why it serves with those of before, or NULL. */
    void (*changed)(void *arg, const char *why);
    /* The worker said something that is about no disk; NULL where it never does. */
    void (*said)(void *arg, const char *event, const char *text);
    void (*ended)(void *arg, int status); /* after supervisor_stop(), or the first start failed */
};

/**
 * struct supervisor_config - @worker_argv, @keeper_argv: as the program wants them; NULL-terminated.
 * @program: path of the program that both are.
 * @spare: what stands in place of @worker_argv[1] to start a worker that waits for its first link before it
 *         opens anything: one is kept ready to take over. NULL = none.
 * @attempt: what stands there, and the number of a disk behind it, to find out by the exit status whether that disk can be
 *           opened: for those that a worker had to leave out. NULL = they wait for the next worker.
 * @sandbox: run each keeper and the worker as a user of its own and in namespaces.
 * @state_bytes: of memory for the layers' state of each disk.
 * @patience: how long a VMM's demand for quiet waits for a successor, ns.
 * @cgroup: the control group of workers and their extensions; stays the caller's; 0 = ours.
 * @count: of disks. Without any there are no keepers, and the worker serves once it has said "serving".
 * @worker_fd: a descriptor for every worker, besides; 0 = none. Stays the caller's.
 * @hang: a worker that gets nowhere for so long is killed and replaced, ns; 0 = never.
 */
struct supervisor_config {
    struct loop *loop;
    const char *program;
    const char *const *worker_argv, *const *keeper_argv;
    const char *spare, *attempt;
    const struct supervised_disk *disks;
    unsigned count;
    int worker_fd;
    bool sandbox;
    size_t state_bytes;
    uint64_t patience, hang;
    int cgroup;
    struct events *events;
    const struct supervisor_ops *ops;
    void *arg;
};

struct supervisor;
int supervisor_new(struct supervisor **supervisor, const struct supervisor_config *config,
                   struct dt_error *err);
/** supervisor_stop() - in good order: sessions, keepers, worker; ended() follows. */
void supervisor_stop(struct supervisor *s);
/** supervisor_kill() - all at once. */
void supervisor_kill(struct supervisor *s);
void supervisor_free(struct supervisor *s);
/**
 * supervisor_upgrade() - let a worker of the program at @path take over; events tell the outcome:
 * `upgraded` or `upgrade-refused`, and then the program of before serves.
 * @path: NULL = the program that runs.
 * @argv: NULL, or the arguments of this worker and all after it; then changed() tells the outcome. They
 *        stay the caller's.
 * Return: 0; -EBUSY while another upgrade is under way or no worker runs; -errno for @path.
 */
int supervisor_upgrade(struct supervisor *s, const char *path, const char *const *argv,
                       struct dt_error *err);
/** supervisor_set_argv() - the arguments of all workers to come; those of before may be freed. */
void supervisor_set_argv(struct supervisor *s, const char *const *argv);
/** supervisor_upgrading() - is one under way? */
bool supervisor_upgrading(const struct supervisor *s);
/** supervisor_worker() - our end of the worker's control stream; -1 while there is no worker. */
int supervisor_worker(const struct supervisor *s);
/** supervisor_state() - the memory for the layers' state of all disks, one after the other. */
void *supervisor_state(const struct supervisor *s);
pid_t supervisor_worker_pid(const struct supervisor *s);
pid_t supervisor_keeper_pid(const struct supervisor *s, unsigned disk);

/** supervisor_uid() - the user that keepers and worker run as; 0 = as now, for want of privileges. */
uid_t supervisor_uid(void);
#define SANDBOX_FIRST_UID 0x60000000u
/* Those of its placed extensions follow one another from here; a process id has 22 bits at most. */
#define EXTENSION_UID(uid) (0x70000000u + ((uid)-SANDBOX_FIRST_UID) * CONFINE_USERS)

#endif
