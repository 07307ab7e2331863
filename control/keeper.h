/* SPDX-License-Identifier: MIT */
/*
 * keeper.h - the process that owns a front's socket, and what its supervisor says to it.
 *
 * A keeper knows no chain and no image. It speaks vhost-user (vhost/), holds the descriptors and the
 * in-flight log, and hands all of it to whatever worker it is linked to (vhost/link.h).
 */
#ifndef CONTROL_KEEPER_H
#define CONTROL_KEEPER_H

#include "vhost/link.h"

enum keeper_type {
    /* From the supervisor. */
    KEEPER_SERVE = 1, /* @text: the device's name; with its socket, or @path */
    KEEPER_LINK,      /* with the link to a worker whose predecessor is dead */
    KEEPER_RELEASE, /* have the worker finish what it has, and let it go; with a socket: then send all
                         that this keeper is to the one at its other end, and wait */
    KEEPER_TAKE_OVER, /* with a socket: become the keeper that sends on it, and wait */
    KEEPER_RESUME,    /* wait no more: VMs are this keeper's */
    KEEPER_CLOSE,     /* end the session in good order, then the process */
    /* From the keeper. */
    KEEPER_READY,     /* a worker's floor is accepted */
    KEEPER_LOST,      /* the link ended; @text: what the worker did wrong, or "" */
    KEEPER_RECOVERED, /* @recovery */
    KEEPER_RELEASED,  /* @text: why nothing was sent, though that was asked, or "" */
    KEEPER_TAKING,    /* it runs, and waits for what KEEPER_TAKE_OVER promised */
    KEEPER_TOOK_OVER, /* @text: why not, or "" */
    KEEPER_ATTACHED,
    KEEPER_DETACHED, /* @text: why the session broke, or "" */
};

enum keeper_socket { KEEPER_LISTENS, KEEPER_HAS_SESSION, KEEPER_CONNECTS };

/** struct keeper_message - one packet, either way, with at most one descriptor. */
struct keeper_message {
    uint32_t type;
    uint16_t socket;   /* enum keeper_socket */
    uint16_t innocent; /* KEEPER_LINK: the worker before did not die of a request */
    uint64_t patience;
    uint64_t uid; /* to run as; 0 = as started */
    struct vhost_recovery recovery;
    char text[256];
    char path[108];
};

/** keeper_run() - the life of a keeper; @sock leads to its supervisor. Return: an exit status. */
int keeper_run(int sock);

#endif
