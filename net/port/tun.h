/* SPDX-License-Identifier: MIT */
/* tun.h - TUN and TAP interfaces of the kernel's. */
#ifndef NET_PORT_TUN_H
#define NET_PORT_TUN_H

#include "base/base.h"
#include "net/port/port.h"

#include <linux/if_tun.h>
#include <net/if.h>

/**
 * port_tun_open() - another queue of an interface, which is made if it is not there; from a layer's open(). Packets have a
 * struct dt_vnet_header before them, and what the kernel does not take is taken from what the layer takes.
 * @name: of the interface; with "%d" for a number that the kernel chooses, and puts there.
 * @kind: IFF_TAP or IFF_TUN.
 * Return: a non-blocking descriptor; -errno.
 */
int port_tun_open(struct dt_layer *layer, char name[IFNAMSIZ], short kind, bool multi_queue,
                  struct dt_error *err);
/** port_tun_name() - put @text, the parameter `ifname`, into @name; -EINVAL if it cannot be one. */
int port_tun_name(char name[IFNAMSIZ], const char *text, struct dt_error *err);
/** port_tun_write() - a packet from byte @from to @end, with what is left to do on it: the kernel counts from @from, too.
 *  Of one that has DT_OFFLOAD_FETCH, @end is its own end, and the kernel copies the rest from the guest's memory.
 *  Return: whether the kernel took it. */
bool port_tun_write(int fd, struct dt_packet *p, uint32_t from, uint32_t end);
/**
 * port_tun_read() - what struct port_in's @read is to return: a packet, behind @from undefined bytes.
 * @least: that it has, else it is dropped and counted under @too_short.
 * @v: what the kernel says of it; for port_offloads(), counted from @from.
 */
struct dt_packet *port_tun_read(struct port_in *in, uint32_t from, uint32_t least,
                                unsigned too_short, struct dt_vnet_header *v);

#endif
