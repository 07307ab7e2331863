/* SPDX-License-Identifier: MIT */
/* carrier.h - is an interface of the host's kernel up, and has it a carrier? */
#ifndef NET_PORT_CARRIER_H
#define NET_PORT_CARRIER_H

#include "base/base.h"
#include <devtap/net.h>

/** struct carrier - of one interface, by a netlink socket. @fd: -1 = nobody tells. @state: enum dt_link; atomic. @overrun: the
 *  kernel had more to say than there was room for. */
struct carrier {
    int fd;
    int index;
    uint8_t state;
    bool watching, overrun;
    struct dt_watch watch;
    struct dt_ctx *c;
};

/** carrier_open() - of the interface @name; from a layer's open(), since a confined process can make no socket. Where the
 *  kernel does not tell, its state stays unknown. */
void carrier_open(struct carrier *k, const char *name);
void carrier_close(struct carrier *k);
/** carrier_start() - from one thread's start(): core is told when it changes. */
void carrier_start(struct carrier *k, struct dt_ctx *c);
/** carrier_stop() - on that thread; on others it does nothing. */
void carrier_stop(struct carrier *k, struct dt_ctx *c);
/** carrier_state() - from any thread. */
static inline uint8_t carrier_state(const struct carrier *k)
{
    return __atomic_load_n(&k->state, __ATOMIC_RELAXED);
}

#endif
