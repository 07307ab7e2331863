/* SPDX-License-Identifier: MIT */
/* address.h - HOST:PORT as a person writes it, to addresses. */
#ifndef NET_PORT_ADDRESS_H
#define NET_PORT_ADDRESS_H

#include "base/base.h"

#include <netdb.h>

/** port_resolve() - as getaddrinfo(), of "HOST:PORT" or "[IPV6]:PORT". May wait for a name server.
 *  @list: freeaddrinfo() it. Return: 0, -EINVAL for what is no address, -EHOSTUNREACH. */
int port_resolve(const char *text, const struct addrinfo *hints, struct addrinfo **list,
                 struct dt_error *err);

#endif
