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
    for (unsigned i = 0; i < n; i++)
        fabric_judge(lane_front(lane), packets[i]);
}

static void sent(struct lane *lane, void *slot)
{
    struct fabric_port *port = slot;

    port->outstanding--;
    if (port->waiting)
        loop_defer(port->fabric->loop, &port->drain);
}

static void wake(struct lane *lane)
{
    struct fabric_port *port = lane_front(lane);

    if (!port) /* it is just being started */
        return;
    net_resume(lane);
    if (port->waiting)
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

static int open_port(struct fabric *f, struct fabric_port *port, struct dt_error *err)
{
    struct device_config device = {
        .kind = DEVICE_NET, .name = port->config.name, .loops = &f->loop, .threads = 1};
    struct chain_spec spec;
    int ret = chain_parse(&spec, port->config.chain, err);

    if (ret < 0)
        return ret;
    device.chain = &spec;
    ret = device_new(&port->dev, &device, err);
    chain_spec_free(&spec);
    return ret;
}

static int add_port(struct fabric *f, const struct fabric_config *config, struct dt_error *err)
{
    struct fabric_port *port = xcalloc(1, sizeof(*port));

    port->fabric = f;
    port->index = f->count;
    port->config = *config;
    port->drain.run = run_drain;
    for (unsigned i = 0; i < FABRIC_PORTS; i++)
        fabric_queue_init(&port->from[i].queue);
    bucket_set(&port->broadcast, config->broadcast, BURST_NS, dt_clock_ns());
    f->ports[f->count++] = port;
    if (config->uplink && f->uplink)
        return dt_fail(err, -EINVAL, "there is another uplink: %s", f->uplink->config.name);
    if (config->uplink)
        f->uplink = port;
    else if (config->mac[0] & 1 || fabric_enter_mac(f, port) < 0)
        return dt_fail(err, -EINVAL, "its address is %s",
                       config->mac[0] & 1 ? "that of a group" : "another port's, too");
    return open_port(f, port, err);
}

int fabric_new(struct fabric **fabric, struct loop *loop, const struct fabric_config *configs,
               unsigned count, struct dt_error *err)
{
    struct fabric *f = xcalloc(1, sizeof(*f));
    int ret = 0;

    f->loop = loop;
    if (count > FABRIC_PORTS)
        ret = dt_fail(err, -E2BIG, "%u ports: there are %u at most", count, FABRIC_PORTS);
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        ret = add_port(f, &configs[i], err);
        if (ret < 0)
            dt_fail_prefix(err, "port %s", configs[i].name);
    }
    if (ret == 0)
        *fabric = f;
    else
        fabric_free(f);
    return ret;
}

int fabric_start(struct fabric *f, struct dt_error *err)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < f->count; i++) {
        struct fabric_port *port = f->ports[i];

        ret = device_start(port->dev, &ops, port, err);
        if (ret < 0) {
            dt_fail_prefix(err, "port %s", port->config.name);
            break;
        }
        port->started = true;
        port->lane = device_lane(port->dev, 0);
    }
    for (unsigned i = 0; ret == 0 && i < f->count; i++) {
        lane_set_front(f->ports[i]->lane, f->ports[i]);
        net_guest_takes(f->ports[i]->lane, DT_OFFLOAD_ALL);
        net_set_room(f->ports[i]->lane, true, ROOM);
        net_resume(f->ports[i]->lane);
    }
    return ret;
}

static void rested(void *arg, const char *late)
{
    *(bool *)arg = true;
}

static void stop_port(struct fabric_port *port)
{
    bool done = false;

    net_set_room(port->lane, false, 0);
    device_quiesce(port->dev, dt_clock_ns() + REST_NS, rested, &done);
    while (!done)
        loop_turn(port->fabric->loop, true);
    device_stop(port->dev);
}

void fabric_free(struct fabric *f)
{
    for (unsigned i = 0; i < f->count; i++) { /* what waits is in the memory of others */
        fabric_queues_free(f->ports[i]);
        loop_defer_cancel(f->loop, &f->ports[i]->drain);
        if (f->ports[i]->started)
            net_set_room(f->ports[i]->lane, false, 0);
    }
    for (unsigned i = 0; i < f->count; i++)
        if (f->ports[i]->started)
            stop_port(f->ports[i]);
    for (unsigned i = 0; i < f->count; i++) {
        if (f->ports[i]->dev)
            device_free(f->ports[i]->dev);
        free(f->ports[i]);
    }
    free(f);
}

/* ---- For people ---- */

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
    const uint8_t *m = port->config.mac;
    json_t *show = device_show(port->dev), *front = json_object();
    char mac[18];

    snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
    json_object_set_new(front, "port", json_string(port->config.uplink ? "uplink" : "card"));
    if (!port->config.uplink)
        json_object_set_new(front, "mac", json_string(mac));
    show_vlans(&port->config, front);
    if (port->config.group)
        json_object_set_new(front, "group", json_string(port->config.group));
    for (unsigned i = 0; i < FABRIC_COUNTERS; i++)
        json_object_set_new(front, names[i], json_integer((json_int_t)port->counters[i]));
    json_object_set_new(show, "front", front);
    return show;
}
