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

/** struct sandbox_walls - namespaces to enter, made beforehand; -1 = not. */
struct sandbox_walls {
    int network, files;
};
/** sandbox_raise_limits() - as many descriptors as may be: a VM's queue takes two, a port of a switch its socket and its
 *  peer's, and there may be hundreds. Before sandbox_enter(). */
void sandbox_raise_limits(void);
/**
 * sandbox_prepare() - an empty network and an empty file system, for a later sandbox_enter() of this
 * process: to make them takes the kernel a millisecond or more. What cannot be made is left to that.
 */
void sandbox_prepare(struct sandbox_walls *walls);

/**
 * struct sandbox_config - how far to go.
 * @uid: run as this user and group, which no other process has; 0 = as now, which is noted as missing.
 * @connects: keep the file system and connect(): the VMM listens.
 * @walls: what sandbox_prepare() made, closed by sandbox_enter(); or NULL.
 */
struct sandbox_config {
    enum sandbox_kind kind;
    uid_t uid;
    bool connects;
    struct sandbox_walls *walls;
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
