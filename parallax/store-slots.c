/* SPDX-License-Identifier: MIT */
/*
 * store-slots.c - roots of a store that can write over a block, and nothing more: store.h.
 *
 * Theory of operation: each root goes to the next of some slots, twice. What a loss of power leaves of one that was being written is
 * told by its checksum, and the one before it is untouched until three more have become durable.
 */
#include "parallax/store.h"

int store_slots_commit(struct store *s, const void *root, uint64_t number)
{
    uint64_t at = PX_ROOT_AT + 2 * (number % PX_ROOT_SLOTS);
    int ret = s->put(s, root, at, 1);

    return ret ?: s->put(s, root, at + 1, 1);
}

int store_slots_recall(struct store *s, void *root, unsigned i)
{
    return i < 2 * PX_ROOT_SLOTS ? s->get(s, root, PX_ROOT_AT + i, 1) : -ENOENT;
}
