/* SPDX-License-Identifier: MIT */
/*
 * fifo.h - lists that are first in, first out, of structs that have a `next`: one pointer in each, and
 * their own type for the compiler to check.
 */
#ifndef BASE_FIFO_H
#define BASE_FIFO_H

#include "base/base.h"

/**
 * FIFO() - struct @name, a list of struct @item, and:
 *
 *     name_init(l)        before anything else
 *     name_add(l, i)      at the end
 *     name_take(l)        the first, or NULL
 *     name_move(to, from) all of @from in their order, behind those of @to
 *     name_remove(l, i)   from anywhere; false if it is not there. Walks the list.
 */
#define FIFO(name, item)                                              \
    struct name {                                                     \
        struct item *head, **tail;                                    \
    };                                                                \
    static inline void name##_init(struct name *l)                    \
    {                                                                 \
        l->head = NULL;                                               \
        l->tail = &l->head;                                           \
    }                                                                 \
    static inline void name##_add(struct name *l, struct item *i)     \
    {                                                                 \
        i->next = NULL;                                               \
        *l->tail = i;                                                 \
        l->tail = &i->next;                                           \
    }                                                                 \
    static inline struct item *name##_take(struct name *l)            \
    {                                                                 \
        struct item *i = l->head;                                     \
                                                                      \
        if (i && !(l->head = i->next))                                \
            l->tail = &l->head;                                       \
        return i;                                                     \
    }                                                                 \
    __attribute__((unused)) /* clang minds what a source file leaves unused */ \
    static inline void name##_move(struct name *to, struct name *from) \
    {                                                                 \
        if (!from->head)                                              \
            return;                                                   \
        *to->tail = from->head;                                       \
        to->tail = from->tail;                                        \
        name##_init(from);                                            \
    }                                                                 \
    __attribute__((unused))                                           \
    static inline bool name##_remove(struct name *l, const struct item *i) \
    {                                                                 \
        struct item **link = &l->head;                                \
                                                                      \
        while (*link && *link != i)                                   \
            link = &(*link)->next;                                    \
        if (!*link)                                                   \
            return false;                                             \
        *link = i->next;                                              \
        if (!*link)                                                   \
            l->tail = link;                                           \
        return true;                                                  \
    }

#endif
