/* SPDX-License-Identifier: MIT */
/*
 * events.h - what happened, for people and managers: the last EVENTS_KEPT of it, numbered.
 */
#ifndef CONTROL_EVENTS_H
#define CONTROL_EVENTS_H

#include "base/base.h"

#include <jansson.h>

#define EVENTS_KEPT 1024u

struct events;
struct events *events_new(void);
void events_free(struct events *events);
/**
 * events_add() - note that something happened, and log it.
 * @device: its name, or NULL.
 * @event: what kind, in words joined by '-'.
 * @fields: more about it, an object; taken over; may be NULL.
 * @fmt: one line for a person.
 */
void events_add(struct events *events, const char *device, const char *event, json_t *fields,
                const char *fmt, ...) DT_PRINTF(5, 6);
/**
 * events_since() - those with a number above @after, oldest first, at most @max. New reference.
 * Each has "number", "time" (seconds since 1970), "event", "text", its fields, and where it
 * concerns one, "device".
 */
json_t *events_since(const struct events *events, uint64_t after, unsigned max);

#endif
