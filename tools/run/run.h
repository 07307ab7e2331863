/* SPDX-License-Identifier: MIT */
/*
 * run.h - `devtap run`: what was asked for (config), sockets (listen, activation), the disks and
 * their threads (serve), and the control socket (control, protocol).
 */
#ifndef TOOLS_RUN_H
#define TOOLS_RUN_H

#include "base/listen.h"
#include "tools/tools.h"

/* ---- What was asked for (config.c, config-file.c) ------------------------------------------ */

#define CONFIG_MAX_DISKS 1024u
#define CONFIG_MAX_FILE  (1u << 20)
#define SOCKET_MODE      0600u

/** struct process_options - of the whole process; see devtap-run(1). */
struct process_options {
    const char *config, *control;
    uint64_t threads, poll, hang, weight;
    const char *cgroup;
    unsigned engine, log_level;
    bool foreground, print_capabilities, single;
    unsigned sandbox, spare;
};

/** struct disk_options - of one disk, or one network card, as written. */
struct disk_options {
    const char *chain;
    const char *socket, *socket_owner, *socket_group, *socket_mode;
    const char *connect, *fd, *serial, *state;
    uint64_t queues, threads, deadline;
    unsigned packed;
    unsigned iommu, memory_slots, config_space;
};

/**
 * struct disk_config - one disk, or another device that is served the same way.
 * @where: "FILE:LINE", or NULL for one of the command line.
 * @given: bit per option of disk_params that was written.
 * @mode, @owner, @group, @inherited: judged; -1 = not given.
 * @rear:  the back that the disk had before one of ours took its place (intercept), as written; or NULL.
 */
struct disk_config {
    enum device_kind kind;
    char *name, *where, *rear;
    struct disk_options options;
    uint64_t given;
    unsigned mode;
    long owner, group;
    int inherited;
};

struct run_config {
    struct process_options process;
    uint64_t process_given;
    struct disk_config *disks;
    unsigned count;
};
/* `--disk` and `--net` begin a device, so they are in a table of their own. */
extern const struct dt_param process_params[], disk_begin[], disk_params[];

void run_config_init(struct run_config *config);
void run_config_free(struct run_config *config);
/** run_config_parse_args() - the command line; NULL-terminated. */
int run_config_parse_args(struct run_config *config, char **argv, struct dt_error *err);
/** run_config_parse_text() - a file's content; what was given before wins. @name is for errors. */
int run_config_parse_text(struct run_config *config, const char *name, const char *text,
                          size_t size, struct dt_error *err);
int run_config_read_file(struct run_config *config, const char *path, struct dt_error *err);
/** run_config_judge() - what can be wrong before anything is opened. */
int run_config_judge(struct run_config *config, struct dt_error *err);

/* For the two parsers. */
int config_add_disk(struct run_config *config, enum device_kind kind, const char *name,
                    const char *where, struct dt_error *err);
/** config_set() - one option; @given remembers it, and refuses a second one. */
int config_set(const struct dt_param *params, const struct dt_param *p, void *base, uint64_t *given,
               const char *value, struct dt_error *err);

/* ---- Sockets (activation.c; base/listen.h) ------------------------------------------------------ */

/** struct activation - sockets inherited from systemd; see sd_listen_fds(3). */
struct activation {
    unsigned count;
    char **names;
    bool *taken;
};
void activation_init(struct activation *activation);
void activation_free(struct activation *activation);
/** activation_take() - the socket named @name, or where @only the only one; -1 if there is none. */
int activation_take(struct activation *activation, const char *name, bool only);
/** notify() - tell the service manager; see sd_notify(3). Does nothing where there is none. */
void notify_manager(const char *state);

/**
 * struct disk_socket - of one disk.
 * @fd: -1 = none (yet).
 * @bound: the file at @path is ours to remove.
 */
struct disk_socket {
    int fd;
    bool bound;
    const char *path;
};
/** disk_socket_open() - as the disk's options say; @only: it is the only disk. */
int disk_socket_open(struct disk_socket *s, const struct disk_config *c,
                     struct activation *activation, bool only, struct dt_error *err);
void disk_socket_remove(struct disk_socket *s);

/** struct signals - SIGTERM and SIGINT call @quit once; the next one ends the process. */
struct signals {
    struct dt_watch watch; /* .fd = -1 while not watched */
    void (*quit)(void *arg);
    void *arg;
};
/** signals_watch() - before any thread is made, so that all inherit the mask. */
int signals_watch(struct signals *s, struct loop *loop, struct dt_error *err);
void signals_unwatch(struct signals *s, struct loop *loop);
/** signals_unblock() - from here on the next signal ends the process, whatever it is doing. */
void signals_unblock(void);

/* ---- The disks (serve.c) ------------------------------------------------------------------- */

struct server;
struct worker;
/**
 * server_run() - serve until told to stop. Return: an exit status; errors are printed.
 * @worker: NULL, or serve what a supervisor's keepers have the sockets of.
 */
int server_run(const struct verb *verb, struct run_config *config, struct worker *worker);
/** server_quit() - end in good order, from the main thread. */
void server_quit(struct server *server);
/** server_try() - open and lock disk @index, and close it again. Return: an exit status; nothing is said. */
int server_try(struct run_config *config, unsigned index);
unsigned server_disks(const struct server *server);
const char *server_name(const struct server *server, unsigned index);
/** server_left_out() - why disk @index is not served; NULL = it is. */
const char *server_left_out(const struct server *server, unsigned index);
/** server_list(), server_show() - disk @index, as in devtap-control(7). New references. */
json_t *server_list(struct server *server, unsigned index);
json_t *server_show(struct server *server, unsigned index);
struct device *server_device(struct server *server, unsigned index);
/** server_rear() - disk_config.rear of disk @index. */
char **server_rear(struct server *server, unsigned index);
/** server_quiesce() - hold disk @index until server_resume(), or for @hold ns. */
int server_quiesce(struct server *server, unsigned index, uint64_t patience, uint64_t hold,
                   bool flush, struct dt_error *err);
/** server_resume() - -ESTALE if it is not held (any more). */
int server_resume(struct server *server, unsigned index, struct dt_error *err);
/** server_confined() - is this a process that can open nothing any more? */
bool server_confined(const struct server *server);

/* ---- Chains changed (change.c) --------------------------------------------------------------- */

#define CHANGE_PATIENCE_NS     DT_S(5)
#define CHANGE_PATIENCE_MAX_NS DT_S(8) /* the supervisor waits for its worker no longer than 10 s */

/** struct change_request - what a request for a change asks for. @steps stays the request's. */
struct change_request {
    json_t *steps;
    const char *chain;
    struct change change;
};
int change_request_read(struct change_request *r, json_t *request, struct dt_error *err);
/** change_apply_steps() - all of them, one after the other. */
int change_apply_steps(struct chain_edit *edit, json_t *steps, struct dt_error *err);
/** change_to_worker() - the request for it, with the chain as the supervisor knows it. */
json_t *change_to_worker(const struct change_request *r, const char *device, const char *chain);
/** change_result() - new reference; names and text of the chain as it is now. */
json_t *change_result(const struct change *change, const struct chain_edit *now);
/** change_note_rear() - of a chain that went from @old to @now: which rear is detached, if any. */
void change_note_rear(char **rear, const struct chain_spec *old, const struct chain_spec *now);
/** change_show_rear() - in what `show` tells. */
void change_show_rear(json_t *show, const char *rear);
/** change_device() - in this process. Return: 0 or -errno; the result may say "outside". */
int change_device(struct device *dev, bool confined, json_t *request, json_t **result,
                  struct dt_error *err);

/* ---- The control socket (control.c, protocol.c) -------------------------------------------- */

/**
 * struct protocol_ops - what requests are answered from; the fuzz target brings its own.
 * Each returns 0 and a new reference in @result, or -errno.
 */
struct protocol_ops {
    int (*list)(void *arg, json_t **result, struct dt_error *err);
    int (*show)(void *arg, const char *device, json_t **result, struct dt_error *err);
    int (*stats)(void *arg, const char *device, json_t **result, struct dt_error *err);
    int (*set)(void *arg, const char *device, const char *layer, const char *param,
               const char *value, struct dt_error *err);
    int (*run)(void *arg, const char *device, const char *layer, const char *command, int argc,
               const char *const *argv, json_t **result, struct dt_error *err);
    int (*resize)(void *arg, const char *device, const char *size, json_t **result,
                  struct dt_error *err);
    int (*quit)(void *arg, struct dt_error *err);
    /* Where there are several processes; else NULL. @path: NULL = the program as installed now. */
    int (*events)(void *arg, uint64_t after, json_t **result, struct dt_error *err);
    int (*upgrade)(void *arg, const char *path, json_t **result, struct dt_error *err);
    /* @request: "steps", "force", "dry_run", "patience_ns"; see devtap-control(7). */
    int (*change)(void *arg, const char *device, json_t *request, json_t **result,
                  struct dt_error *err);
    /* @request: "verb" is quiesce or resume; and "patience_ns", "hold_ns", "flush". */
    int (*quiesce)(void *arg, const char *device, json_t *request, json_t **result,
                   struct dt_error *err);
    /* @start, @length: bytes, judged by whoever has the disk; length 0 = to the end. */
    int (*map)(void *arg, const char *device, uint64_t start, uint64_t length, json_t **result,
               struct dt_error *err);
};
/**
 * protocol_answer() - one request, without its newline.
 * @fatal: set when the client broke the protocol and is to be disconnected.
 * Return: the reply with its newline; owned by the caller.
 */
char *protocol_answer(const struct protocol_ops *ops, void *arg, const char *line, size_t size,
                      bool *fatal);

struct control;
/** control_new() - listen at @path, or PID.sock in the runtime directory. */
int control_new(struct control **control, struct loop *loop, const char *path,
                const struct protocol_ops *ops, void *arg, struct dt_error *err);
/** control_adopt() - serve one client, which is connected already; @gone when it hangs up. */
int control_adopt(struct control **control, struct loop *loop, int fd,
                  const struct protocol_ops *ops, void *arg, void (*gone)(void *arg),
                  struct dt_error *err);
/** control_catch_up() - answer what an adopted client has sent so far. */
void control_catch_up(struct control *control);
void control_free(struct control *control);
extern const struct protocol_ops server_protocol;

/* ---- In several processes (worker.c, supervise.c) ------------------------------------------------------ */

/** worker_init() and following - the steps of server_run() that are a worker's. */
void worker_init(struct worker *w, struct server *server);
int worker_open(struct worker *w, struct dt_error *err);
int worker_confine(struct worker *w, struct dt_error *err);
int worker_begin(struct worker *w, struct dt_error *err);
void worker_end(struct worker *w);
/** worker_leaves_out() - may this disk, which cannot be served, be left out? Then the supervisor is told @why. */
bool worker_leaves_out(struct worker *w, unsigned disk, const char *why);
/** worker_failed() - tell the supervisor why it cannot serve. */
void worker_failed(const struct dt_error *why);
#define SPARE_WORKER "spare-worker"
/** worker_main(), keeper_main(), ext_host_main() - programs that supervise_run() starts; not verbs for people. */
/* @spare: NULL, or what it is called in its arguments until it is the worker. */
int worker_main(char **argv, char *spare);
/** attempt_main() - what it is called begins with this: the exit status says whether the disk can be opened. */
#define ATTEMPT_WORKER "attempt-"
int attempt_main(char **argv, const char *disk);
int keeper_main(char **argv);
int ext_host_main(const char *name);
/** supervise_run() - serve with a keeper for each disk and a worker for all. */
int supervise_run(const struct verb *verb, struct run_config *config);
/**
 * run_config_argv() - the command line for a worker: @first, the place where each disk was written
 * ("" on the command line), and then what devtap run would be told. Owned, ends with NULL.
 */
char **run_config_argv(const struct run_config *config, const char *const *first);

#endif
