/* SPDX-License-Identifier: MIT */
/*
 * check-names.c - whose a damaged block is, besides the disk by which it was reached.
 *
 * A check goes through what trees share once, so it knows one name. For the first few findings all other trees are asked
 * whether they have the same pointer at the same place.
 */
#include "parallax/check.h"

#include <stdio.h>

#define ASKED 16u /* findings */
#define SLOTS 65536u
#define NAMED 8u

/* Does the tree of @r have @ptr at @level? Nothing below a node is younger than it. */
static bool reaches(struct checking *k, const struct px_record *r, struct px_ptr ptr,
                    unsigned level, uint64_t index)
{
    struct px_ptr at = r->root;
    struct node *node;

    if (r->levels < level || index >= tree_span(r->levels - level))
        return false;
    for (unsigned l = r->levels; !ptr_hole(at) && ptr_birth(at) >= ptr_birth(ptr); l--) {
        if (l == level)
            return ptr_same(at, ptr);
        if (node_get(k->pool, at, TREE_DISK, l, &node) < 0)
            return false;
        at = node->ptrs[index >> PX_FAN_SHIFT * (l - 1 - level) & (PX_FANOUT - 1)];
    }
    return false;
}

static bool is_other(const struct checking *k, uint32_t slot)
{
    const struct px_record *r = pool_record(k->pool, slot);

    return r && r->kind != PX_LOG && slot != k->slot &&
           !(r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN));
}

const char *check_others(struct checking *k, struct px_ptr ptr, unsigned level, uint64_t index)
{
    uint32_t slots = MIN(k->pool->catalog.slots, SLOTS), n = 0;
    size_t used = 0;

    k->others[0] = '\0';
    if (k->asked++ >= ASKED)
        return k->others;
    for (uint32_t slot = 0; slot < slots; slot++) {
        char name[2 * PX_NAME];

        if (!is_other(k, slot) || !reaches(k, pool_record(k->pool, slot), ptr, level, index))
            continue;
        pool_full_name(k->pool, slot, name);
        if (n++ < NAMED)
            used += (size_t)snprintf(k->others + used, sizeof(k->others) - used, "%s%s",
                                     n == 1 ? "; also in " : ", ", name);
        used = MIN(used, sizeof(k->others) - 1);
        node_trim(k->pool);
    }
    if (n > NAMED)
        snprintf(k->others + used, sizeof(k->others) - used, " and %u more", n - NAMED);
    return k->others;
}
