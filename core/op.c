/* SPDX-License-Identifier: MIT */
/* op.c - the names of the operations, as people write them and programs print them. */
#include "base/base.h"
#include <devtap/block.h>

static const char *const op_names[DT_OP_COUNT] = {
    [DT_OP_READ] = "read",
    [DT_OP_WRITE] = "write",
    [DT_OP_FLUSH] = "flush",
    [DT_OP_DISCARD] = "discard",
    [DT_OP_WRITE_ZEROES] = "write-zeroes",
};

const char *dt_op_name(enum dt_op op)
{
    return (unsigned)op < DT_OP_COUNT ? op_names[op] : "unknown";
}

int dt_op_parse(const char *name)
{
    for (int op = 0; op < DT_OP_COUNT; op++)
        if (strcmp(name, op_names[op]) == 0)
            return op;
    return -1;
}
