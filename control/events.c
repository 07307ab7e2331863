/* SPDX-License-Identifier: MIT */
/* events.c - a ring of JSON objects. */
#include "control/events.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

struct events {
    uint64_t last; /* number of the newest; they count from 1 */
    json_t *ring[EVENTS_KEPT];
};

struct events *events_new(void)
{
    return xcalloc(1, sizeof(struct events));
}

void events_free(struct events *events)
{
    if (!events)
        return;
    for (unsigned i = 0; i < EVENTS_KEPT; i++)
        json_decref(events->ring[i]);
    free(events);
}

static json_t *printable(char *text)
{
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    return json_string(text);
}

void events_add(struct events *events, const char *device, const char *event, json_t *fields,
                const char *fmt, ...)
{
    json_t *e = fields ? fields : json_object();
    uint64_t number = ++events->last;
    struct timespec now;
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    clock_gettime(CLOCK_REALTIME, &now);
    log_info("%s%s%s", device ? device : "", device ? ": " : "", text);
    json_object_set_new(e, "number", json_integer((json_int_t)number));
    json_object_set_new(e, "time", json_real((double)now.tv_sec + (double)now.tv_nsec / 1e9));
    json_object_set_new(e, "event", json_string(event));
    json_object_set_new(e, "text", printable(text));
    if (device)
        json_object_set_new(e, "device", json_string(device));
    json_decref(events->ring[number % EVENTS_KEPT]);
    events->ring[number % EVENTS_KEPT] = e;
}

json_t *events_since(const struct events *events, uint64_t after, unsigned max)
{
    uint64_t first = events->last >= EVENTS_KEPT ? events->last - EVENTS_KEPT + 1 : 1;
    json_t *array = json_array();

    for (uint64_t n = MAX(after + 1, first); n <= events->last && json_array_size(array) < max; n++)
        json_array_append(array, events->ring[n % EVENTS_KEPT]);
    return array;
}
