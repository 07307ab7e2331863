/* SPDX-License-Identifier: MIT */
/* vm.h - a running QEMU's disk: its chardev, and the connection to the back end. */
#ifndef TOOLS_ATTACH_VM_H
#define TOOLS_ATTACH_VM_H

#include "tools/attach/qmp.h"

#include <sys/types.h>

/**
 * struct vm - @pid: QEMU's. @socket: the path to which the chardev connects. @reconnect: seconds, 0 = it does not.
 * @link: QEMU's end of the connection, -1 = it was cut.
 */
struct vm {
    struct qmp *qmp;
    pid_t pid;
    const char *chardev;
    char *socket;
    unsigned reconnect;
    int link;
};

/** vm_open() - connect to QEMU and learn all of it. It must have a back end. */
int vm_open(struct vm *vm, const char *qmp, const char *chardev, struct dt_error *err);
void vm_close(struct vm *vm);
/** vm_command_line() - of QEMU's process, each word with its zero; free @line. Return: bytes. */
size_t vm_command_line(struct vm *vm, char **line);
/** vm_judge() - can the connection be cut, and will QEMU take it up again? @replug: it need not. */
int vm_judge(struct vm *vm, bool replug, struct dt_error *err);
/** vm_cut() - end the connection to the back end. */
int vm_cut(struct vm *vm, struct dt_error *err);
/** vm_let_go() - hold the connection open no longer: QEMU ends it. */
void vm_let_go(struct vm *vm);
/** vm_connected() - does the chardev have a back end? */
bool vm_connected(struct vm *vm);

#endif
