/* SPDX-License-Identifier: MIT */
/*
 * pool.h - the process that serves a pool: `cvd pool open`.
 *
 * Theory of operation: a supervisor holds the listening socket, and starts a worker again whenever it
 * dies (control/supervisor.h). The worker has the pool's lock, and does everything on one thread. A
 * connection begins with one line of JSON (devtap-pool-control(7)): it asks for a disk, and then goes
 * on as a vhost-user session (export.c), or it is a command of cvd (command.c). Whoever has a disk
 * open sends its requests again to the next worker; that is the back `cvd` (blk/cvd/).
 *
 * A connection that comes while there is no worker waits in the socket's backlog.
 */
#ifndef TOOLS_POOL_H
#define TOOLS_POOL_H

#include "blk/cvd-local/shared.h"
#include "blk/vhost-user/front.h"
#include "loop/listener.h"
#include "tools/run/run.h"

#define REQUEST_MAX ((size_t)64 << 10)

/** struct pool_open_options - of `cvd pool open`. @json: say on standard output when it serves. */
struct pool_open_options {
    uint64_t cache, data_cache;
    bool background, sandbox, json;
};

/** struct pool_server - in the worker. */
struct pool_server {
    const char *path;
    struct loop *loop;
    struct shared *shared;
    struct listener listener;
    struct control *control; /* of the supervisor */
    struct list callers, exports, subscribers, pinners;
    bool ending;
};

/* ---- request.c ---- */

enum request_verb {
    REQUEST_OPEN,
    REQUEST_RUN,
    REQUEST_MAP,
    REQUEST_EVENTS,
    REQUEST_PIN,
    REQUEST_PINNED,
    REQUEST_CLOSE
};

/**
 * struct pool_request - the first line of a connection, judged. Owns @json, which the texts are in.
 * @disk:  of events: NULL: of all.
 * @owner: of a disk or a pin: for people.
 * @pool:  what the asker calls the pool.
 * @words: of a command, ended by NULL; the array is owned.
 * @start, @length: of a map, bytes.
 */
struct pool_request {
    enum request_verb verb;
    json_t *json;
    const char *disk, *owner, *pool;
    bool read_only;
    unsigned weight, count;
    const char **words;
    uint64_t start, length;
};
/** pool_request_parse() - @line without its newline. */
int pool_request_parse(struct pool_request *request, const char *line, size_t size,
                       struct dt_error *err);
void pool_request_free(struct pool_request *request);

/* ---- caller.c ---- */

/** caller_take() - a new connection. */
void caller_take(struct pool_server *s, int sock);
/** callers_retry() - a disk is free again: somebody may be waiting for it. */
void callers_retry(struct pool_server *s);
/** callers_free() - when what they asked for is durable. Turns the loop. */
void callers_free(struct pool_server *s);

/* ---- export.c ---- */

/** export_new() - open a disk for a client. Return: 0; -EBUSY naming who writes it already. */
struct export;
int export_new(struct export **e, struct pool_server *s, const struct pool_request *request,
               struct dt_error *err);
/** export_begin() - serve it on @sock, which is its own from now on. */
void export_begin(struct export *e, int sock);
/** export_map() - what the beginning of a range of a disk that a client has open holds: device_map(). */
int export_map(struct pool_server *s, const struct pool_request *request, json_t **map,
               struct dt_error *err);
/** exports_end() - all of them, in good order; pool_server_quiet() follows. */
void exports_end(struct pool_server *s);

/* ---- subscriber.c ---- */

/** subscriber_new() - who hears of events from now on, of @disk or (NULL) of all; it becomes one by subscriber_begin(). */
struct subscriber;
int subscriber_new(struct subscriber **s, struct pool_server *server, const char *disk,
                   struct dt_error *err);
/** subscriber_begin() - on @sock, which is its own from now on. */
void subscriber_begin(struct subscriber *s, int sock);
/** subscribers_tell() - those whom it concerns: of the disk or snapshot in @slot; NO_SLOT: of all. */
void subscribers_tell(struct pool_server *server, uint32_t slot, const char *event,
                      const char *text);
void subscribers_end(struct pool_server *server);

/* ---- pinner.c ---- */

/** pinner_new() - who has the next root pinned; it becomes one by pinner_begin(). -EBUSY, naming who has one. */
struct pinner;
int pinner_new(struct pinner **p, struct pool_server *s, const struct pool_request *request,
               struct dt_error *err);
/** pinner_begin() - on @sock, which is its own from now on. */
void pinner_begin(struct pinner *p, int sock);
void pinners_end(struct pool_server *s);
/** pinned() - whose pin there is, and what it costs; an empty object without one. */
json_t *pinned(struct pool_server *s);

/* ---- command.c ---- */

/** pool_run() - carry out a command of cvd. @output: what it printed; owned by the caller. Return: 0, and it
 * is not durable yet; POOL_RUN_LOOKED: it changed nothing; -errno with @err. */
#define POOL_RUN_LOOKED 1
int pool_run(struct pool_server *s, const struct pool_request *request, char **output,
             struct dt_error *err);

/* ---- worker.c, supervise.c ---- */

/** pool_server_quiet() - no disk is open any more. */
void pool_server_quiet(struct pool_server *s);
/** pool_server_say() - something for the supervisor's events. */
void pool_server_say(const char *event, const char *text);
/** pool_worker_main() - the program that pool_supervise() starts: not for people. */
int pool_worker_main(char **argv);
/** pool_supervise() - serve the pool until told to stop. Return: an exit status or -errno with @err. */
int pool_supervise(const char *path, const struct pool_open_options *o, struct dt_error *err);

#endif
