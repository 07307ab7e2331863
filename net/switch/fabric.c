/* SPDX-License-Identifier: MIT */
/* fabric.c - the ports of a switch, from the first to the last frame: see fabric.h. */
#include "net/switch/fabric.h"

#include <stdio.h>

#define ROOM     256u
#define BURST_NS DT_MS(100)
#define REST_NS  DT_S(2)

/* ---- Between a port's lane and the switch ---- */

static void receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    struct fabric_port *port = lane_front(lane);

    for (unsigned i = 0; i < n; i++)
        if (likely(!port->leaving))
            fabric_judge(port, packets[i]);
        else
            net_packet_free(lane, packet_of(packets[i]));
}

static void sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct fabric_port *port = slots[i];

        port->outstanding--;
        if (port->nwaiting)
            loop_defer(port->fabric->loop, &port->drain);
    }
}

static void wake(struct lane *lane)
{
    struct fabric_port *port = lane_front(lane);

    if (!port) /* it is just being started */
        return;
    net_resume(lane);
    if (port->nwaiting)
        loop_defer(port->fabric->loop, &port->drain);
}

static void info_changed(void *front)
{
}

static const struct front_ops ops = {
    .receive = receive, .sent = sent, .wake = wake, .info_changed = info_changed};

static void run_drain(struct loop_deferred *deferred)
{
    fabric_drain(container_of(deferred, struct fabric_port, drain));
}

/* ---- Life ---- */

static int open_port(struct fabric *f, struct fabric_port *port, const char *chain,
                     struct dt_error *err)
{
    struct device_config device = {
        .kind = DEVICE_NET, .name = port->config.name, .loops = &f->loop, .threads = 1};
    struct chain_spec spec;
    int ret = chain_parse(&spec, chain, err);

    if (ret < 0) {
        dt_fail_prefix(err, "%s", port->config.name);
        return ret;
    }
    device.chain = &spec;
    ret = device_new(&port->dev, &device, err);
    chain_spec_free(&spec);
    return ret;
}

static int judge(const struct fabric *f, const struct fabric_config *config, struct dt_error *err)
{
    static const uint8_t none[6];

    for (unsigned i = 0; i < config->nmacs; i++)
        if (config->macs[i][0] & 1)
            return dt_fail(err, -EINVAL, "port %s: its address is that of a group", config->name);
        else if (memcmp(config->macs[i], none, sizeof(none)) == 0)
            return dt_fail(err, -EINVAL, "port %s: 00:00:00:00:00:00 is no card's address",
                           config->name);
    if (!config->uplink && (config->nmacs == 0 || config->nmacs > FABRIC_MACS))
        return dt_fail(err, -EINVAL, "port %s: it has %u addresses", config->name, config->nmacs);
    if (fabric_find(f, config->name))
        return dt_fail(err, -EEXIST, "two ports are named '%s'", config->name);
    return 0;
}

static int free_index(const struct fabric *f, struct dt_error *err)
{
    for (unsigned i = 0; i < FABRIC_PORTS; i++)
        if (!f->ports[i])
            return (int)i;
    return dt_fail(err, -E2BIG, "there are %u ports at most", FABRIC_PORTS);
}

static void forget(struct fabric_port *port)
{
    port->fabric->ports[port->index] = NULL;
    if (port->dev)
        device_free(port->dev);
    free((char *)port->config.name);
    free((char *)port->config.group);
    free(port);
}

static void run_gone(struct loop_deferred *deferred)
{
    struct fabric_port *port = container_of(deferred, struct fabric_port, gone);

    device_stop(port->dev);
    port->fabric->leaving--;
    forget(port);
}

/* Judged and open; nothing comes from there before start_port(). */
static int add_port(struct fabric *f, const struct fabric_config *config, struct dt_error *err)
{
    int index = judge(f, config, err), ret;
    struct fabric_port *port;

    index = index ?: free_index(f, err);
    if (index < 0)
        return index;
    port = f->ports[index] = xcalloc(1, sizeof(*port));
    f->top = MAX(f->top, (unsigned)index + 1);
    port->fabric = f;
    port->index = (unsigned)index;
    port->config = *config;
    port->config.name = xstrdup(config->name);
    port->config.group = config->group ? xstrdup(config->group) : NULL;
    port->config.chain = NULL;
    port->drain.run = run_drain;
    port->gone.run = run_gone;
    for (unsigned i = 0; i < FABRIC_PORTS; i++)
        fabric_queue_init(&port->from[i].queue);
    bucket_set(&port->broadcast, config->broadcast, BURST_NS, dt_clock_ns());
    ret = fabric_know(f, err);
    ret = ret ?: open_port(f, port, config->away ? "null" : config->chain, err);
    if (ret == 0)
        return index;
    forget(port);
    fabric_know(f, NULL);
    return ret;
}

static int start_port(struct fabric_port *port, struct dt_error *err)
{
    int ret = device_start(port->dev, &ops, port, err);

    port->started = ret == 0;
    if (ret == 0)
        port->lane = device_lane(port->dev, 0);
    else
        dt_fail_prefix(err, "port %s", port->config.name);
    return ret;
}

static void open_gate(struct fabric_port *port)
{
    lane_set_front(port->lane, port);
    net_guest_takes(port->lane, DT_OFFLOAD_ALL);
    net_set_room(port->lane, true, ROOM);
    net_resume(port->lane);
}

int fabric_new(struct fabric **fabric, struct loop *loop, const struct fabric_config *configs,
               unsigned count, struct dt_error *err)
{
    struct fabric *f = xcalloc(1, sizeof(*f));
    int ret = 0;

    f->loop = loop;
    for (unsigned i = 0; ret >= 0 && i < count; i++)
        ret = add_port(f, &configs[i], err);
    if (ret >= 0)
        *fabric = f;
    else
        fabric_free(f);
    return MIN(ret, 0);
}

int fabric_start(struct fabric *f, struct dt_error *err)
{
    for (unsigned i = 0; i < f->top; i++) {
        int ret = start_port(f->ports[i], err);

        if (ret < 0)
            return ret;
    }
    for (unsigned i = 0; i < f->top; i++)
        open_gate(f->ports[i]);
    return 0;
}

struct fabric_port *fabric_find(const struct fabric *f, const char *name)
{
    for (unsigned i = 0; i < f->top; i++)
        if (f->ports[i] && !f->ports[i]->leaving && strcmp(f->ports[i]->config.name, name) == 0)
            return f->ports[i];
    return NULL;
}

/* ---- While it runs ---- */

int fabric_add(struct fabric *f, const struct fabric_config *config, struct dt_error *err)
{
    int index = add_port(f, config, err), ret;

    if (index < 0)
        return index;
    ret = start_port(f->ports[index], err);
    if (ret == 0) {
        open_gate(f->ports[index]);
        return 0;
    }
    forget(f->ports[index]);
    fabric_know(f, NULL);
    return ret;
}

static void left(void *arg, const char *late)
{
    struct fabric_port *port = arg;

    if (late)
        log_warning("port %s is removed, and %s held packets", port->config.name, late);
    loop_defer(port->fabric->loop,
               &port->gone); /* the device is freed, and it is the device that called */
}

void fabric_remove(struct fabric_port *port)
{
    struct fabric *f = port->fabric;

    port->leaving = true;
    f->leaving++;
    fabric_know(f, NULL); /* fewer ports cannot contradict each other */
    fabric_queues_free(port);
    loop_defer_cancel(f->loop, &port->drain);
    net_set_room(port->lane, false, 0);
    device_quiesce(port->dev, dt_clock_ns() + REST_NS, left, port);
}

static void rested(void *arg, const char *late)
{
    *(bool *)arg = true;
}

static void stop_port(struct fabric_port *port)
{
    bool done = false;

    device_quiesce(port->dev, dt_clock_ns() + REST_NS, rested, &done);
    while (!done)
        loop_turn(port->fabric->loop, true);
    device_stop(port->dev);
}

void fabric_free(struct fabric *f)
{
    while (f->leaving)
        loop_turn(f->loop, true);
    for (unsigned i = 0; i < f->top; i++) { /* what waits is in the memory of others */
        if (!f->ports[i])
            continue;
        fabric_queues_free(f->ports[i]);
        loop_defer_cancel(f->loop, &f->ports[i]->drain);
        if (f->ports[i]->started)
            net_set_room(f->ports[i]->lane, false, 0);
    }
    for (unsigned i = 0; i < f->top; i++)
        if (f->ports[i] && f->ports[i]->started)
            stop_port(f->ports[i]);
    for (unsigned i = 0; i < f->top; i++)
        if (f->ports[i])
            forget(f->ports[i]);
    free(f);
}

/* ---- For people ---- */

static void show_macs(const struct fabric_config *c, json_t *front)
{
    json_t *macs = json_array();

    for (unsigned i = 0; i < c->nmacs; i++) {
        const uint8_t *m = c->macs[i];
        char text[18];

        snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
                 m[5]);
        json_array_append_new(macs, json_string(text));
    }
    if (c->nmacs)
        json_object_set(front, "mac", json_array_get(macs, 0));
    if (c->nmacs > 1)
        json_object_set(front, "macs", macs);
    json_decref(macs);
}

static void show_vlans(const struct fabric_config *c, json_t *front)
{
    json_t *trunk = json_array();

    if (c->vlan)
        json_object_set_new(front, "vlan", json_integer(c->vlan));
    for (unsigned vid = 1; vid < FABRIC_VLANS - 1; vid++)
        if (c->trunk[vid / 8] >> vid % 8 & 1)
            json_array_append_new(trunk, json_integer(vid));
    if (json_array_size(trunk))
        json_object_set(front, "trunk", trunk);
    json_decref(trunk);
}

json_t *fabric_show(const struct fabric_port *port)
{
    static const char *const names[FABRIC_COUNTERS] = {
        [FABRIC_RECEIVED] = "received",         [FABRIC_SENT] = "sent",
        [FABRIC_SPOOFED] = "dropped_spoofed",   [FABRIC_VLAN] = "dropped_vlan",
        [FABRIC_RESERVED] = "dropped_reserved", [FABRIC_PRIVATE] = "dropped_private",
        [FABRIC_UNKNOWN] = "dropped_unknown",   [FABRIC_BROADCAST] = "dropped_broadcast",
        [FABRIC_FULL] = "dropped_full"};
    json_t *show = device_show(port->dev), *front = json_object();

    json_object_set_new(front, "port", json_string(port->config.uplink ? "uplink" : "card"));
    if (port->config.away)
        json_object_set_new(front, "away", json_true());
    show_macs(&port->config, front);
    show_vlans(&port->config, front);
    if (port->config.group)
        json_object_set_new(front, "group", json_string(port->config.group));
    for (unsigned i = 0; i < FABRIC_COUNTERS; i++)
        json_object_set_new(front, names[i], json_integer((json_int_t)port->counters[i]));
    json_object_set_new(show, "front", front);
    return show;
}
