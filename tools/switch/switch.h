/* SPDX-License-Identifier: MIT */
/* switch.h - `devtap switch`: what was asked for, and the process that does it. */
#ifndef TOOLS_SWITCH_H
#define TOOLS_SWITCH_H

#include "net/switch/fabric.h"
#include "tools/run/run.h"

#define SWITCH_NAME  32u /* bytes of a port's name */
#define SWITCH_WORDS 32u /* that describe a port */

/** struct switch_options - as on the command line. @sockets: the directory of the ports' sockets. */
struct switch_options {
    const char *sockets;
    uint64_t uplink_broadcast;
    bool sandbox;
};
/**
 * struct switch_port_options - of a card's port or an uplink. @broadcast: UINT64_MAX = not given.
 * @fresh: an uplink that was taken back, and with which no process serves yet. @refused: how often none could begin with it, though it
 * can be opened; @after: it is not tried before, ns.
 */
struct switch_port_options {
    const char *macs, *trunk, *group;
    uint64_t vlan, broadcast;
    bool fresh;
    unsigned refused;
    uint64_t after;
};

/**
 * struct switch_config - judged. Owns names and chains.
 * @values: parameters that were set while it ran, in that order: of port, layer and parameter.
 */
struct switch_config {
    struct switch_options options;
    unsigned count;
    struct fabric_config ports[FABRIC_PORTS];
    struct switch_port_options port_options[FABRIC_PORTS];
    json_t *values;
};

extern const struct dt_param switch_params[], switch_begin[], switch_port_params[];
/** switch_parse() - the command line. Return: 0 or -EINVAL. */
int switch_parse(struct switch_config *config, char **argv, struct dt_error *err);
/** switch_add() - one more port: "--port NAME" and its options, @words ended by NULL. Return: its index, or -errno. */
int switch_add(struct switch_config *config, const char *const *words, struct dt_error *err);
/** switch_drop() - and away with it; those behind it move up. */
void switch_drop(struct switch_config *config, unsigned index);
/** switch_index() - by name, or -ENODEV. */
int switch_index(const struct switch_config *config, const char *name);
/** switch_socket() - the path of a card port's socket; the caller's. */
char *switch_socket(const struct switch_config *config, const char *name);
void switch_config_free(struct switch_config *config);

/** switch_serve() - until told to stop; a process that dies is started again. Return: an exit status. */
int switch_serve(const struct verb *verb, struct switch_config *config);

/* ---- Ports that come and go (ports.c) ---- */

/** struct switch_ports - the process of the switch. @parent: a packet pair to the process that starts it. @asked: questions so far. */
struct switch_ports {
    struct switch_config *config;
    struct fabric *fabric;
    int parent;
    unsigned asked;
};
/** switch_ports_do() - a command of the control socket, for @device. Return: 0 or -errno. */
int switch_ports_do(struct switch_ports *ports, const char *device, const char *command,
                    const char *const *words, struct dt_error *err);
/** switch_ports_set() - @words: port, layer, parameter, value, NULL; for all processes to come, too. Return: 0 or -errno. */
int switch_ports_set(struct switch_ports *ports, const char *const *words, struct dt_error *err);
/** switch_ports_restore() - in a new process: what was set before. */
void switch_ports_restore(struct switch_ports *ports);
/** switch_ports_ready() - tell that process that this one serves. */
void switch_ports_ready(const struct switch_ports *ports);
/** switch_ports_answer() - on the other end of @sock: do what the confined process asks for, as long as it lives. Return: true if it
 *  lives, and another one could open what it could not. */
bool switch_ports_answer(int sock, struct switch_config *config);

/* ---- Uplinks that cannot be opened (away.c) ---- */

/** switch_away_look() - try all that are not away already, and leave out those that cannot be opened. Return: how many. */
unsigned switch_away_look(struct switch_config *config);
/** switch_away_again() - no process could begin with what was just taken back: leave it out again, for longer. Return: how many. */
unsigned switch_away_again(struct switch_config *config);

/**
 * struct switch_try - of an uplink that is away, in a process of its own, while others are answered.
 * @pidfd: of that process, for poll(); -1 = there is none. @name: the uplink's. @deadline: when it is ended. @next: when one may begin.
 * @last: index of the uplink that was tried last. @serving: the switch serves, and may be ended for another one.
 */
struct switch_try {
    pid_t pid;
    int pidfd;
    const char *name;
    uint64_t deadline, next;
    unsigned last;
    bool serving;
};
/** switch_try_serving() - with all that is not away; from now on the others are tried. */
void switch_try_serving(struct switch_try *t, struct switch_config *config);
/** switch_try_ms() - how long poll() may wait at most; -1: there is nothing to try. */
int switch_try_ms(const struct switch_try *t, const struct switch_config *config);
/** switch_try_step() - go on, without waiting. Return: can one be opened, which is no more away then? */
bool switch_try_step(struct switch_try *t, struct switch_config *config);
/** switch_try_end() - end what goes on. */
void switch_try_end(struct switch_try *t);

/** switch_change() - the verbs `add-port` and `remove-port`, argv[0]. Return: an exit status. */
int switch_change(const struct verb *verb, char **argv);

#endif
