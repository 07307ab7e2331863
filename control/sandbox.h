/* SPDX-License-Identifier: MIT */
/*
 * sandbox.h - give up what a keeper, a worker or a hosted extension does not need, once it has all it needs.
 */
#ifndef CONTROL_SANDBOX_H
#define CONTROL_SANDBOX_H

#include "base/base.h"

#include <sys/types.h>

/* An extension is in namespaces and has a user already: control/confine.h. */
enum sandbox_kind { SANDBOX_KEEPER, SANDBOX_WORKER, SANDBOX_EXTENSION };

/**
 * struct sandbox_config - how far to go.
 * @uid: run as this user and group, which no other process has; 0 = as now, which is noted as missing.
 * @connects: keep the file system and connect(): the VMM listens.
 */
struct sandbox_config {
    enum sandbox_kind kind;
    uid_t uid;
    bool connects;
};

#define SANDBOX_MISSING 200

/**
 * sandbox_enter() - no way back. All threads of the process are covered.
 *
 * Where the system does not offer one of the walls, the others are still put up and @missing, of
 * SANDBOX_MISSING bytes, names those; else it is "". Return: 0; an error only where a wall fell
 * half-way.
 */
int sandbox_enter(const struct sandbox_config *config, char *missing, struct dt_error *err);

/* seccomp.c */
int sandbox_filter(const struct sandbox_config *config, struct dt_error *err);

#endif
