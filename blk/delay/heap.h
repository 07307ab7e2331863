/* SPDX-License-Identifier: MIT */
/*
 * heap.h - a pairing heap of requests by due time; the nodes are their frames, so nothing is
 * allocated. (Fredman, Sedgewick, Sleator, Tarjan: The pairing heap, 1986; the two-pass variant.)
 *
 * @prev is the parent of a first child and the elder brother of any other.
 */
#ifndef DELAY_HEAP_H
#define DELAY_HEAP_H

#include "base/base.h"

struct heap_node {
    uint64_t due;
    struct heap_node *child, *next, *prev;
};

static inline struct heap_node *heap_merge(struct heap_node *a, struct heap_node *b)
{
    struct heap_node *t;

    if (!a || !b)
        return a ? a : b;
    if (b->due < a->due) {
        t = a;
        a = b;
        b = t;
    }
    b->next = a->child;
    if (b->next)
        b->next->prev = b;
    b->prev = a;
    a->child = b;
    return a;
}

static inline void heap_push(struct heap_node **root, struct heap_node *node, uint64_t due)
{
    *node = (struct heap_node){.due = due};
    *root = heap_merge(*root, node);
}

/* Brothers to one tree: pairs from left to right, then together from right to left. */
static inline struct heap_node *heap_combine(struct heap_node *first)
{
    struct heap_node *pairs = NULL, *all = NULL;

    while (first) {
        struct heap_node *a = first, *b = first->next;

        first = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b)
            b->next = b->prev = NULL;
        a = heap_merge(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        struct heap_node *next = pairs->next;

        pairs->next = NULL;
        all = heap_merge(all, pairs);
        pairs = next;
    }
    return all;
}

static inline struct heap_node *heap_pop(struct heap_node **root)
{
    struct heap_node *top = *root;

    *root = heap_combine(top->child);
    return top;
}

static inline void heap_remove(struct heap_node **root, struct heap_node *node)
{
    if (node == *root) {
        heap_pop(root);
        return;
    }
    if (node->prev->child == node)
        node->prev->child = node->next;
    else
        node->prev->next = node->next;
    if (node->next)
        node->next->prev = node->prev;
    *root = heap_merge(*root, heap_combine(node->child));
}

#endif
