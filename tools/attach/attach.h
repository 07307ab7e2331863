/* SPDX-License-Identifier: MIT */
/* attach.h - the tap between a running QEMU and its back end: what the verbs attach and detach share. */
#ifndef TOOLS_ATTACH_H
#define TOOLS_ATTACH_H

#include "tools/attach/plug.h"
#include "tools/ready.h"

#define ATTACH_RECONNECT 1u /* s: of a chardev that we make for the tap, which may be restarted */

/**
 * struct attach - what is asked for, and how far it is.
 * @disk: name of the soft disk. @layers: what stands before the back, or NULL. @rear_options: of the back, or NULL.
 * @rear: where the back end's socket goes. @timeout: for QEMU to connect again, ns.
 * @replug: the disk is taken out of the VM meanwhile, and put in again; @force: even if it may boot from it.
 * @child: the process that serves, 0 = none; @ready: whether it does yet. @pause: how long the disk was without a back end, ns.
 */
struct attach {
    struct vm vm;
    const char *disk, *layers, *rear_options;
    char *rear;
    uint64_t timeout;
    bool replug, force;
    struct plug plug;
    bool moved, cut;
    pid_t child;
    struct ready ready;
    uint64_t pause;
};

/* Options of both verbs; OPTION(name, type, field) is the verb's own. */
#define ATTACH_OPTIONS                                                                          \
    {OPTION("replug", DT_PARAM_BOOL, replug),                                                   \
     .help =                                                                                    \
         "Unplug the disk and plug it in again, where QEMU does not reconnect. The guest sees " \
         "it go."},                                                                             \
        {OPTION("force", DT_PARAM_BOOL, force), .help = "Even if the VM may boot from it."},    \
        {OPTION("dry-run", DT_PARAM_BOOL, dry_run),                                             \
         .help = "Tell what would be done, and do nothing."},                                   \
    {                                                                                           \
        OPTION("json", DT_PARAM_BOOL, json), .help = "Print JSON."                              \
    }

/** attach_judge() - all that can be known before anything is disturbed. */
int attach_judge(struct attach *a, struct dt_error *err);
/** attach_plan() - the steps, in words; new reference. */
json_t *attach_plan(const struct attach *a);
/** attach_run() - do it. What fails is undone: the VM has its back end again. */
int attach_run(struct attach *a, struct dt_error *err);
/** attach_find_plug() - where the disk is to be taken out: can it be? */
int attach_find_plug(struct attach *a, struct dt_error *err);
/** attach_put_in() - the disk that was taken out, with what now listens at its socket. @reconnect: as plug_chardev(). */
int attach_put_in(struct attach *a, unsigned reconnect, struct dt_error *err);
/** attach_await_vm() - until QEMU has a connection to its socket again. */
int attach_await_vm(struct attach *a, struct dt_error *err);

#endif
