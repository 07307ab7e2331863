/* SPDX-License-Identifier: MIT */
/* plug.h - a disk of a running QEMU taken out and put in again, where its chardev does not connect again. */
#ifndef TOOLS_ATTACH_PLUG_H
#define TOOLS_ATTACH_PLUG_H

#include "tools/attach/vm.h"

/**
 * struct plug - the disk's device. @id: of the device. @options: those it was made with, and its slot.
 * @boots: it has a place in the boot order.
 * @out, @bare: the device is out; its chardev is gone, too.
 */
struct plug {
    const char *id;
    json_t *options;
    bool boots;
    bool out, bare;
};

/* learn.c */
/** learn_options() - of a device that came over QMP and uses the chardev: a new reference, or NULL where there is none. */
json_t *learn_options(struct vm *vm);
/** ask_device() - a property of device @id. */
int ask_device(struct vm *vm, const char *id, const char *property, json_t **value,
               struct dt_error *err);

/** plug_find() - the device that uses the chardev. -ENOTSUP where it cannot be taken out by its id. */
int plug_find(struct plug *plug, struct vm *vm, struct dt_error *err);
void plug_free(struct plug *plug);
/** plug_out() - unplug it, wait until the guest let go of it, and remove its chardev. */
int plug_out(struct plug *plug, struct vm *vm, uint64_t timeout, struct dt_error *err);
/** plug_chardev() - the chardev again, which connects to the same path; @reconnect: seconds, 0 = it is not to
 *  connect again. */
int plug_chardev(struct plug *plug, struct vm *vm, unsigned reconnect, struct dt_error *err);
/** plug_in() - the device again; its chardev is connected. */
int plug_in(struct plug *plug, struct vm *vm, struct dt_error *err);
/** plug_drop_chardev() - plug_chardev() undone. */
void plug_drop_chardev(struct plug *plug, struct vm *vm);

#endif
