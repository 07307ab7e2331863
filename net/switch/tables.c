/* SPDX-License-Identifier: MIT */
/* tables.c - what a switch knows: which port has an address, and which uplink a VLAN. Made from the ports alone. */
#include "net/switch/fabric.h"

#include "base/bytes.h"

/* Of Fibonacci: addresses are often given out one after the other, and these lie apart. */
static unsigned hash(const uint8_t *mac)
{
    return (load_be32(mac + 2) * 0x9e3779b1u >> 16) % FABRIC_HASH;
}

/* The place of @mac, or the empty one where it would be: there are more places than addresses. */
static unsigned place(const struct fabric *f, const uint8_t *mac)
{
    unsigned i = hash(mac);

    while (f->addresses[i].port && memcmp(f->addresses[i].mac, mac, 6) != 0)
        i = (i + 1) % FABRIC_HASH;
    return i;
}

struct fabric_port *fabric_owner(const struct fabric *f, const uint8_t *mac)
{
    return f->addresses[place(f, mac)].port;
}

static int enter_macs(struct fabric *f, struct fabric_port *port, struct dt_error *err)
{
    for (unsigned i = 0; i < port->config.nmacs; i++) {
        const uint8_t *mac = port->config.macs[i];
        struct fabric_address *a = &f->addresses[place(f, mac)];

        if (a->port && a->port != port)
            return dt_fail(err, -EEXIST, "port %s: its address is another port's, too: %s",
                           port->config.name, a->port->config.name);
        a->port = port;
        memcpy(a->mac, mac, 6);
    }
    return 0;
}

static bool is_for_the_rest(const struct fabric_config *c)
{
    static const uint8_t none[sizeof(c->trunk)];

    return c->vlan == 0 && memcmp(c->trunk, none, sizeof(none)) == 0;
}

static int enter_vlans(struct fabric *f, struct fabric_port *port, struct dt_error *err)
{
    for (unsigned vid = 0; vid < FABRIC_VLANS - 1; vid++) {
        struct fabric_port **at = &f->uplink_of[vid];

        if ((vid == 0 || vid != port->config.vlan) && !(port->config.trunk[vid / 8] >> vid % 8 & 1))
            continue;
        if (*at)
            return dt_fail(err, -EEXIST, "port %s: there is another uplink for VLAN %u: %s",
                           port->config.name, vid, (*at)->config.name);
        *at = port;
    }
    return 0;
}

static int enter_the_rest(struct fabric *f, struct fabric_port *port, struct fabric_port *before,
                          struct dt_error *err)
{
    if (before)
        return dt_fail(err, -EEXIST, "port %s: there is another uplink for all other VLANs: %s",
                       port->config.name, before->config.name);
    for (unsigned vid = 0; vid < FABRIC_VLANS - 1; vid++)
        if (!f->uplink_of[vid])
            f->uplink_of[vid] = port;
    return 0;
}

int fabric_know(struct fabric *f, struct dt_error *err)
{
    struct fabric_port *rest = NULL;
    int ret = 0;

    memset(f->addresses, 0, sizeof(f->addresses));
    memset(f->uplink_of, 0, sizeof(f->uplink_of));
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; ret == 0 && i < f->top; i++) {
            struct fabric_port *port = f->ports[i];
            bool late = port && port->config.uplink && is_for_the_rest(&port->config);

            if (!port || port->leaving || late != (pass == 1))
                continue;
            if (!port->config.uplink)
                ret = enter_macs(f, port, err);
            else
                ret = late ? enter_the_rest(f, port, rest, err) : enter_vlans(f, port, err);
            rest = late ? port : rest;
        }
    }
    return ret;
}
