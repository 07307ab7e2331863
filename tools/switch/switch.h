/* SPDX-License-Identifier: MIT */
/* switch.h - `devtap switch`: what was asked for, and the process that does it. */
#ifndef TOOLS_SWITCH_H
#define TOOLS_SWITCH_H

#include "net/switch/fabric.h"
#include "tools/run/run.h"

/** struct switch_options - as on the command line. @sockets: the directory of the ports' sockets. */
struct switch_options {
    const char *sockets, *uplink;
    uint64_t uplink_broadcast;
    bool sandbox;
};
struct switch_port_options {
    const char *mac, *trunk, *group;
    uint64_t vlan, broadcast;
};

/** struct switch_config - judged. Owns what it points at. */
struct switch_config {
    struct switch_options options;
    unsigned count;
    struct fabric_config ports[FABRIC_PORTS];
    struct switch_port_options port_options[FABRIC_PORTS];
};

extern const struct dt_param switch_params[], switch_begin[], switch_port_params[];
/** switch_parse() - the command line. Return: 0 or -EINVAL. */
int switch_parse(struct switch_config *config, char **argv, struct dt_error *err);
void switch_config_free(struct switch_config *config);

/** switch_serve() - until told to stop; a process that dies is started again. Return: an exit status. */
int switch_serve(const struct verb *verb, const struct switch_config *config);

#endif
