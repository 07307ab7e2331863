/* SPDX-License-Identifier: MIT */
/* cgroup.h - a control group for the worker, with a weight against its neighbours'. */
#ifndef CONTROL_CGROUP_H
#define CONTROL_CGROUP_H

#include "base/base.h"

#define CGROUP_WEIGHT_MAX 10000u

/**
 * struct cgroup - @fd: the group, for CLONE_INTO_CGROUP; -1 = none. @aside: this process has moved beside it.
 * @undo: takes back what was enabled for it.
 */
struct cgroup {
    int parent, fd;
    bool aside;
    char name[40], undo[16];
};

/**
 * cgroup_new() - a group below @parent, with @weight (1 to CGROUP_WEIGHT_MAX; the kernel's own
 * default is 100) for processor time and, where the host delegates that, for I/O.
 * @parent: the path of a cgroup v2 group that this user may change. NULL = the one of this process,
 * which then moves into a group beside the new one: a group has either processes or groups with
 * controllers. Return: 0, or -errno with @err saying what the host does not allow; then everything
 * is as before.
 */
int cgroup_new(struct cgroup *cgroup, const char *parent, unsigned weight, struct dt_error *err);
/**
 * cgroup_free() - remove it, if it is empty, and move back from beside it; for one with @parent -1, too. The group of a
 * named parent leaves the controllers enabled there, which its neighbours have as well.
 */
void cgroup_free(struct cgroup *cgroup);

#endif
