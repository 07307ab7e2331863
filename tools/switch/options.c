/* SPDX-License-Identifier: MIT */
/* options.c - the command line of `devtap switch`. */
#include "tools/switch/switch.h"

#include <stdio.h>
#include <sys/un.h>

#define UPLINK "uplink"

#define OPTION(field) .offset = offsetof(struct switch_options, field)
const struct dt_param switch_params[] = {
    {"sockets", DT_PARAM_PATH, OPTION(sockets),
     .help = "The directory where the ports' sockets are made, NAME.sock each."},
    {"uplink", DT_PARAM_STRING, OPTION(uplink), .unit = "chain",
     .help = "Where all other addresses are: 'tap ifname=...', 'packet ifname=...'; none unless "
             "given."},
    {"uplink-broadcast", DT_PARAM_UINT, OPTION(uplink_broadcast), .initial = "10k",
     .unit = "frames/s",
     .help = "Frames to all or to a group that are taken from the uplink; 0 = any number."},
    {"sandbox", DT_PARAM_BOOL, OPTION(sandbox), .initial = "on",
     .help = "Give up all rights once everything is open."},
    {NULL},
};

const struct dt_param switch_begin[] = {
    {"port", DT_PARAM_STRING, .unit = "name", .help = "Begin a port: its options follow."},
    {NULL},
};

#define PORT(field) .offset = offsetof(struct switch_port_options, field)
const struct dt_param switch_port_params[] = {
    {"mac", DT_PARAM_STRING, PORT(mac), .unit = "address",
     .help = "The address of its card; nothing else may come from there."},
    {"vlan", DT_PARAM_UINT, PORT(vlan), .initial = "0", .max = 4094,
     .help = "The VLAN of its frames without a tag; 0 = the one that has no tag on the uplink, "
             "either."},
    {"trunk", DT_PARAM_STRING, PORT(trunk), .unit = "vlans",
     .help = "VLANs whose frames it has with their tag: 10,20,100-199; none unless given."},
    {"group", DT_PARAM_STRING, PORT(group), .unit = "name",
     .help = "Ports of a group reach each other; one without reaches the uplink alone."},
    {"broadcast", DT_PARAM_UINT, PORT(broadcast), .initial = "1000", .unit = "frames/s",
     .help = "Frames to all or to a group that it may send; 0 = any number."},
    {NULL},
};

/* ---- Values ---- */

static int parse_mac(const char *text, uint8_t mac[6])
{
    unsigned b[6];
    int end = 0;

    if (!text ||
        sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) !=
            6 ||
        end != 17 || text[end])
        return -EINVAL;
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return 0;
}

static int parse_vlan(const char **text, unsigned *vlan)
{
    char *end;
    unsigned long n = strtoul(*text, &end, 10);

    if (end == *text || n < 1 || n > 4094)
        return -EINVAL;
    *text = end;
    *vlan = (unsigned)n;
    return 0;
}

static int parse_trunk(const char *text, uint8_t *bits)
{
    for (;; text++) {
        unsigned first, last;

        if (parse_vlan(&text, &first) < 0)
            return -EINVAL;
        last = first;
        if (*text == '-' && (text++, parse_vlan(&text, &last) < 0))
            return -EINVAL;
        for (unsigned vid = first; vid <= last; vid++)
            bits[vid / 8] |= (uint8_t)(1u << vid % 8);
        if (*text != ',')
            return *text || last < first ? -EINVAL : 0;
    }
}

static bool is_name(const char *name)
{
    size_t n = strlen(name);

    return n > 0 && n <= 32 && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n;
}

/* ---- Judging ---- */

/* The directory stands in a chain, between quotes. */
static int judge_sockets(const struct switch_options *o, struct dt_error *err)
{
    const size_t most =
        sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof("/12345678901234567890.sock");

    if (!o->sockets)
        return dt_fail(err, -EINVAL, "--sockets is missing");
    if (strlen(o->sockets) > most || strchr(o->sockets, '\''))
        return dt_fail(err, -EINVAL, "--sockets: a path of at most %zu characters without quotes",
                       most);
    return 0;
}

static int judge_port(struct switch_config *c, unsigned index, struct dt_error *err)
{
    const struct switch_port_options *o = &c->port_options[index];
    struct fabric_config *p = &c->ports[index];

    if (parse_mac(o->mac, p->mac) < 0)
        return dt_fail(err, -EINVAL,
                       "port %s: --mac must be six pairs of hexadecimal digits: 52:54:00:12:34:56",
                       p->name);
    if (o->trunk && parse_trunk(o->trunk, p->trunk) < 0)
        return dt_fail(err, -EINVAL,
                       "port %s: --trunk '%.64s': numbers from 1 to 4094: 10,20,100-199", p->name,
                       o->trunk);
    p->vlan = (uint16_t)o->vlan;
    p->group = o->group;
    p->broadcast = o->broadcast;
    p->chain = xasprintf("stream address='unix:%s/%s.sock' listen=on vnet=on mtu=65535",
                         c->options.sockets, p->name);
    return 0;
}

static int add_port(struct switch_config *c, const char *name, struct dt_error *err)
{
    unsigned ports = FABRIC_PORTS - 1; /* one is the uplink's */

    if (!is_name(name) || strcmp(name, UPLINK) == 0)
        return dt_fail(err, -EINVAL,
                       "'%.64s' is no name for a port: 1 to 32 letters, digits, '-', '_' and '.'",
                       name);
    for (unsigned i = 0; i < c->count; i++)
        if (strcmp(c->ports[i].name, name) == 0)
            return dt_fail(err, -EINVAL, "two ports are named '%s'", name);
    if (c->count == ports)
        return dt_fail(err, -EINVAL, "there are %u ports at most", ports);
    options_defaults(switch_port_params, &c->port_options[c->count]);
    c->ports[c->count++].name = name;
    return 0;
}

static int judge(struct switch_config *c, struct dt_error *err)
{
    int ret = judge_sockets(&c->options, err);

    for (unsigned i = 0; ret == 0 && i < c->count; i++)
        ret = judge_port(c, i, err);
    if (ret == 0 && c->count == 0)
        return dt_fail(err, -EINVAL, "a switch without a port: --port NAME --mac ADDRESS");
    if (ret == 0 && c->options.uplink)
        c->ports[c->count++] = (struct fabric_config){.name = UPLINK,
                                                      .chain = xstrdup(c->options.uplink),
                                                      .uplink = true,
                                                      .broadcast = c->options.uplink_broadcast};
    return ret;
}

static int take(struct switch_config *c, const struct option *o, struct dt_error *err)
{
    if (!o->param)
        return dt_fail(err, -EINVAL, "'%.64s': there are options alone", o->value);
    if (o->group == 0)
        return options_apply(o->param, &c->options, o->value, err);
    if (o->group == 1)
        return add_port(c, o->value, err);
    if (c->count == 0)
        return dt_fail(err, -EINVAL, "--%s must follow its --port NAME", o->param->name);
    return options_apply(o->param, &c->port_options[c->count - 1], o->value, err);
}

int switch_parse(struct switch_config *c, char **argv, struct dt_error *err)
{
    const struct option_group groups[] = {{"switch", switch_params},
                                          {"port", switch_begin},
                                          {"its options", switch_port_params},
                                          {NULL}};
    struct option_scan scan = {.argv = argv, .groups = groups};
    struct option option;
    int ret;

    *c = (struct switch_config){0};
    options_defaults(switch_params, &c->options);
    while ((ret = options_next(&scan, &option, err)) > 0)
        if ((ret = take(c, &option, err)) < 0)
            break;
    return ret ?: judge(c, err);
}

void switch_config_free(struct switch_config *c)
{
    for (unsigned i = 0; i < c->count; i++)
        free((char *)c->ports[i].chain);
}
