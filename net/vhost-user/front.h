/* SPDX-License-Identifier: MIT */
/* front.h - the front `vhost-user` of a network card: virtio-net. */
#ifndef NET_VHOST_USER_FRONT_H
#define NET_VHOST_USER_FRONT_H

#include "front/front.h"

/** card_front - for front_config.class; its queues are pairs of rings. */
extern const struct front_class card_front;

#endif
