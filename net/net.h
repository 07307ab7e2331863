/* SPDX-License-Identifier: MIT */
/* net.h - what is built in for network cards. */
#ifndef NET_NET_H
#define NET_NET_H

/** net_register_builtin() - make it known to the registry; once is enough. */
void net_register_builtin(void);

#endif
