/* SPDX-License-Identifier: MIT */
/* qmp.h - a client of QEMU's machine protocol, for one question after the other. */
#ifndef TOOLS_ATTACH_QMP_H
#define TOOLS_ATTACH_QMP_H

#include "tools/tools.h"

struct qmp;
/** qmp_open() - connect to a QMP socket and leave its negotiation behind. */
int qmp_open(struct qmp **qmp, const char *path, struct dt_error *err);
void qmp_close(struct qmp *qmp);
struct ucred;
/** qmp_peer() - the process at the other end: QEMU, or who passes its words on. */
const struct ucred *qmp_peer(const struct qmp *qmp);
/**
 * qmp_call() - @arguments, a reference of which is taken over, may be NULL; @result: a new reference, unless NULL.
 * Of events that come meanwhile DEVICE_DELETED alone is remembered. Return: 0, -EREMOTEIO with QEMU's words, or another -errno.
 */
int qmp_call(struct qmp *qmp, const char *command, json_t *arguments, json_t **result,
             struct dt_error *err);
/** qmp_await_deleted() - until QEMU says that device @id is gone. -ETIMEDOUT. */
int qmp_await_deleted(struct qmp *qmp, const char *id, uint64_t timeout);

#endif
