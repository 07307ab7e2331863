/* SPDX-License-Identifier: MIT */
/* cmd-switch.c - devtap switch: a switch between soft network cards. */
#include "tools/switch/switch.h"

static int run_raw(const struct verb *verb, char **argv)
{
    struct switch_config *config;
    struct dt_error err;
    int ret;

    if (argv[0] && (strcmp(argv[0], "add-port") == 0 || strcmp(argv[0], "remove-port") == 0))
        return switch_change(verb, argv);
    config = xcalloc(1, sizeof(*config));
    ret = switch_parse(config, argv, &err);
    log_set_level(DT_LOG_INFO);
    if (ret == 0)
        ret = switch_serve(verb, config);
    else
        ret = verb_fail(verb, ret, &err);
    switch_config_free(config);
    free(config);
    return ret;
}

const struct verb verb_switch = {
    .name = "switch",
    .args = "--sockets DIR [--uplink CHAIN [UPLINK OPTION...]]\n"
            "                     --port NAME --mac ADDRESS [PORT OPTION...] [--port ...]\n"
            "       devtap switch add-port ANY_PORT --port NAME --mac ADDRESS [PORT OPTION...]\n"
            "       devtap switch remove-port NAME",
    .summary = "serve a switch between soft network cards",
    .help =
        "Makes a socket for each port, and forwards frames between them until SIGTERM or SIGINT. A "
        "card is "
        "joined to its port by the back stream; `devtap show NAME` tells what passed and what was "
        "dropped. Ports may be added and removed while it runs:\n\n"
        "  devtap switch --sockets /run/sw0 --uplink 'tap ifname=sw0' --port vm1 --mac "
        "52:54:00:00:00:01\n"
        "  devtap run --net vm1 --socket vm1.sock 'stream address=unix:/run/sw0/vm1.sock vnet=on'\n"
        "  devtap switch add-port vm1 --port vm2 --mac 52:54:00:00:00:02",
    .groups = {{"Options", switch_params},
               {"Each port begins with", switch_begin},
               {"Options of a port", switch_port_params}},
    .run_raw = run_raw,
};
