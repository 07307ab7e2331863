/* SPDX-License-Identifier: MIT */
/* attach.h - the tap between a running QEMU and its back end: what the verbs attach and detach share. */
#ifndef TOOLS_ATTACH_H
#define TOOLS_ATTACH_H

#include "tools/attach/vm.h"

/**
 * struct attach - what is asked for, and how far it is.
 * @disk: name of the soft disk. @layers: what stands before the back, or NULL. @rear_options: of the back, or NULL.
 * @rear: where the back end's socket goes. @timeout: for QEMU to connect again, ns.
 * @child: the process that serves, 0 = none. @pause: how long the disk was without a back end, ns.
 */
struct attach {
    struct vm vm;
    const char *disk, *layers, *rear_options;
    char *rear;
    uint64_t timeout;
    bool moved, cut;
    pid_t child;
    uint64_t pause;
};

/** attach_judge() - all that can be known before anything is disturbed. */
int attach_judge(struct attach *a, struct dt_error *err);
/** attach_plan() - the steps, in words; new reference. */
json_t *attach_plan(const struct attach *a);
/** attach_run() - do it. What fails is undone: the VM has its back end again. */
int attach_run(struct attach *a, struct dt_error *err);
/** attach_await_vm() - until QEMU has a connection to its socket again. */
int attach_await_vm(struct attach *a, struct dt_error *err);

#endif
