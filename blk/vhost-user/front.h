/* SPDX-License-Identifier: MIT */
/* front.h - the front `vhost-user` of a disk: virtio-blk. */
#ifndef BLK_VHOST_USER_FRONT_H
#define BLK_VHOST_USER_FRONT_H

#include "front/front.h"

/** disk_front - for front_config.class. */
extern const struct front_class disk_front;

#endif
