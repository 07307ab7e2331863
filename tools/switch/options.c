/* SPDX-License-Identifier: MIT */
/* options.c - the command line of `devtap switch`. */
#include "tools/switch/switch.h"

#include <stdio.h>
#include <sys/un.h>

#define UPLINK         "uplink"
#define PORT_BROADCAST 1000u

#define OPTION(field) .offset = offsetof(struct switch_options, field)
const struct dt_param switch_params[] = {
    {"sockets", DT_PARAM_PATH, OPTION(sockets),
     .help = "The directory where the ports' sockets are made, NAME.sock each."},
    {"uplink-broadcast", DT_PARAM_UINT, OPTION(uplink_broadcast), .initial = "10k",
     .unit = "frames/s",
     .help = "Frames to all or to a group that are taken from an uplink; 0 = any number."},
    {"sandbox", DT_PARAM_BOOL, OPTION(sandbox), .initial = "on",
     .help = "Give up all rights once everything is open."},
    {NULL},
};

const struct dt_param switch_begin[] = {
    {"port", DT_PARAM_STRING, .unit = "name", .help = "Begin a port: its options follow."},
    {"uplink", DT_PARAM_STRING, .unit = "chain",
     .help =
         "Begin an uplink, where all other addresses are: 'tap ifname=...', 'packet ifname=...'; "
         "--vlan, --trunk and --broadcast may follow."},
    {NULL},
};

#define PORT(field) .offset = offsetof(struct switch_port_options, field)
const struct dt_param switch_port_params[] = {
    {"mac", DT_PARAM_STRING, PORT(macs), .unit = "addresses",
     .help = "The address of its card, or up to 16 with commas; nothing else may come from there."},
    {"vlan", DT_PARAM_UINT, PORT(vlan), .initial = "0", .max = 4094,
     .help = "The VLAN of its frames without a tag; 0 = the one that has no tag on the uplink, "
             "either. An uplink without --vlan and --trunk has all VLANs that no other one has."},
    {"trunk", DT_PARAM_STRING, PORT(trunk), .unit = "vlans",
     .help = "VLANs whose frames it has with their tag: 10,20,100-199; none unless given."},
    {"group", DT_PARAM_STRING, PORT(group), .unit = "name",
     .help = "Ports of a group reach each other; one without reaches the uplink alone."},
    {"broadcast", DT_PARAM_UINT, PORT(broadcast), .unit = "frames/s",
     .help = "Frames to all or to a group that it may send; 0 = any number. Default: 1000."},
    {NULL},
};

/* ---- Values ---- */

static int parse_mac(const char *text, uint8_t mac[6])
{
    unsigned b[6];
    int end = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) !=
            6 ||
        end != 17)
        return -EINVAL;
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return end;
}

static int parse_macs(const char *text, struct fabric_config *p)
{
    for (p->nmacs = 0; text && p->nmacs < FABRIC_MACS; text++) {
        int n = parse_mac(text, p->macs[p->nmacs]);

        if (n < 0)
            return n;
        p->nmacs++;
        text += n;
        if (*text != ',')
            return *text ? -EINVAL : 0;
    }
    return -EINVAL;
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

    return n > 0 && n <= SWITCH_NAME && name[0] != '.' &&
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

static int judge_vlans(const struct switch_port_options *o, struct fabric_config *p,
                       struct dt_error *err)
{
    if (o->trunk && parse_trunk(o->trunk, p->trunk) < 0)
        return dt_fail(err, -EINVAL,
                       "port %s: --trunk '%.64s': numbers from 1 to 4094: 10,20,100-199", p->name,
                       o->trunk);
    p->vlan = (uint16_t)o->vlan;
    return 0;
}

static int judge_uplink(struct switch_config *c, unsigned index, struct dt_error *err)
{
    const struct switch_port_options *o = &c->port_options[index];
    struct fabric_config *p = &c->ports[index];

    if (o->macs || o->group)
        return dt_fail(err, -EINVAL, "port %s: an uplink has neither --mac nor --group", p->name);
    p->broadcast = o->broadcast == UINT64_MAX ? c->options.uplink_broadcast : o->broadcast;
    return judge_vlans(o, p, err);
}

static int judge_port(struct switch_config *c, unsigned index, struct dt_error *err)
{
    const struct switch_port_options *o = &c->port_options[index];
    struct fabric_config *p = &c->ports[index];
    _cleanup_free_ char *path = NULL;

    if (p->uplink)
        return judge_uplink(c, index, err);
    if (parse_macs(o->macs, p) < 0)
        return dt_fail(err, -EINVAL,
                       "port %s: --mac must be six pairs of hexadecimal digits, "
                       "52:54:00:12:34:56, or up to %u such addresses with commas between them",
                       p->name, FABRIC_MACS);
    p->group = o->group;
    p->broadcast = o->broadcast == UINT64_MAX ? PORT_BROADCAST : o->broadcast;
    path = switch_socket(c, p->name);
    p->chain = xasprintf("stream address='unix:%s' listen=on vnet=on mtu=65535", path);
    return judge_vlans(o, p, err);
}

static struct fabric_config *next_place(struct switch_config *c, struct dt_error *err)
{
    unsigned at = c->count;

    if (at == FABRIC_PORTS) {
        dt_fail(err, -EINVAL, "there are %u ports at most", FABRIC_PORTS);
        return NULL;
    }
    c->ports[at] = (struct fabric_config){0};
    c->port_options[at] = (struct switch_port_options){0};
    options_defaults(switch_port_params, &c->port_options[at]);
    c->port_options[at].broadcast = UINT64_MAX;
    return &c->ports[c->count];
}

static int begin_port(struct switch_config *c, const char *name, struct dt_error *err)
{
    struct fabric_config *p = next_place(c, err);

    if (!p)
        return -EINVAL;
    if (!is_name(name) || strcmp(name, UPLINK) == 0)
        return dt_fail(err, -EINVAL,
                       "'%.64s' is no name for a port: 1 to %u letters, digits, '-', '_' and '.'",
                       name, SWITCH_NAME);
    if (switch_index(c, name) >= 0)
        return dt_fail(err, -EINVAL, "two ports are named '%s'", name);
    p->name = xstrdup(name);
    c->count++;
    return 0;
}

/* They are named uplink, uplink2, uplink3. */
static int begin_uplink(struct switch_config *c, const char *chain, struct dt_error *err)
{
    struct fabric_config *p = next_place(c, err);
    unsigned number = 1;

    if (!p)
        return -EINVAL;
    for (unsigned i = 0; i < c->count; i++)
        number += c->ports[i].uplink;
    p->uplink = true;
    p->name = number == 1 ? xstrdup(UPLINK) : xasprintf(UPLINK "%u", number);
    p->chain = xstrdup(chain);
    c->count++;
    return 0;
}

static int judge(struct switch_config *c, struct dt_error *err)
{
    int ret = judge_sockets(&c->options, err);
    unsigned cards = 0;

    for (unsigned i = 0; ret == 0 && i < c->count; i++) {
        ret = judge_port(c, i, err);
        cards += !c->ports[i].uplink;
    }
    if (ret == 0 && cards == 0)
        return dt_fail(err, -EINVAL, "a switch without a port: --port NAME --mac ADDRESS");
    return ret;
}

static int take(struct switch_config *c, const struct option *o, struct dt_error *err)
{
    if (!o->param)
        return dt_fail(err, -EINVAL, "'%.64s': there are options alone", o->value);
    if (o->group == 0)
        return options_apply(o->param, &c->options, o->value, err);
    if (o->group == 1)
        return o->param == &switch_begin[0] ? begin_port(c, o->value, err)
                                            : begin_uplink(c, o->value, err);
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

    *c = (struct switch_config){.values = json_object()};
    options_defaults(switch_params, &c->options);
    while ((ret = options_next(&scan, &option, err)) > 0)
        if ((ret = take(c, &option, err)) < 0)
            break;
    return ret ?: judge(c, err);
}

/* ---- While it runs ---- */

int switch_index(const struct switch_config *c, const char *name)
{
    for (unsigned i = 0; i < c->count; i++)
        if (strcmp(c->ports[i].name, name) == 0)
            return (int)i;
    return -ENODEV;
}

char *switch_socket(const struct switch_config *c, const char *name)
{
    return xasprintf("%s/%s.sock", c->options.sockets, name);
}

static void free_port(struct switch_config *c, unsigned index)
{
    free((char *)c->ports[index].name);
    free((char *)c->ports[index].chain);
    param_free_all(switch_port_params, &c->port_options[index]);
}

/* A port that gets the name later is another one. */
static void forget_values(struct switch_config *c, const char *port)
{
    const char *key;
    json_t *entry;
    void *next;

    json_object_foreach_safe(c->values, next, key, entry)
    {
        if (strcmp(json_string_value(json_array_get(entry, 0)), port) == 0)
            json_object_del(c->values, key);
    }
}

void switch_drop(struct switch_config *c, unsigned index)
{
    unsigned behind = --c->count - index;

    forget_values(c, c->ports[index].name);
    free_port(c, index);
    memmove(&c->ports[index], &c->ports[index + 1], behind * sizeof(c->ports[0]));
    memmove(&c->port_options[index], &c->port_options[index + 1],
            behind * sizeof(c->port_options[0]));
}

/* The words one after the other, each with its zero, and where they begin. */
static char *copy_words(const char *const *words, char **copies)
{
    size_t bytes = 0, n = 0;
    char *text, *at;

    for (; words[n]; n++)
        bytes += strlen(words[n]) + 1;
    at = text = xcalloc(1, bytes + 1);
    for (size_t i = 0; i < n; i++) {
        copies[i] = at;
        at = stpcpy(at, words[i]) + 1;
    }
    copies[n] = NULL;
    return text;
}

static int take_words(struct switch_config *c, char **words, struct dt_error *err)
{
    const struct option_group groups[] = {
        {"port", switch_begin}, {"its options", switch_port_params}, {NULL}};
    struct option_scan scan = {.argv = words, .groups = groups};
    unsigned before = c->count;
    struct option option;
    int ret;

    while ((ret = options_next(&scan, &option, err)) > 0) {
        bool begins = option.param && option.group++ == 0; /* there are none of the switch's own */

        if (option.param == &switch_begin[1])
            ret = dt_fail(err, -EINVAL, "uplinks are there from the start, or not at all");
        else if (begins != (c->count == before))
            ret = dt_fail(err, -EINVAL, "--port NAME comes first, and once");
        else
            ret = take(c, &option, err);
        if (ret < 0)
            return ret;
    }
    if (ret == 0 && c->count == before)
        ret = dt_fail(err, -EINVAL, "--port NAME is missing");
    return ret ?: judge_port(c, before, err);
}

int switch_add(struct switch_config *c, const char *const *words, struct dt_error *err)
{
    char *copies[SWITCH_WORDS + 1];
    _cleanup_free_ char *text = NULL;
    unsigned before = c->count, n = 0;
    int ret;

    while (words[n])
        if (++n > SWITCH_WORDS)
            return dt_fail(err, -E2BIG, "more than %u words", SWITCH_WORDS);
    text = copy_words(words, copies);
    ret = take_words(c, copies, err);
    if (ret < 0 && c->count > before)
        switch_drop(c, before);
    return ret < 0 ? ret : (int)before;
}

void switch_config_free(struct switch_config *c)
{
    for (unsigned i = 0; i < c->count; i++)
        free_port(c, i);
    param_free_all(switch_params, &c->options);
    json_decref(c->values);
}
