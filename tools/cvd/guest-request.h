/* SPDX-License-Identifier: MIT */
/* guest-request.h - what a VM asks for through its port: cvd-guest(1), PROTOCOL. */
#ifndef CVD_GUEST_REQUEST_H
#define CVD_GUEST_REQUEST_H

#include "base/base.h"

#include <jansson.h>

#define GUEST_REQUEST_MAX 1024u

enum guest_verb { GUEST_SNAPSHOT, GUEST_SYNC };

/** struct guest_request - a line, judged. @name: as the pool takes names, or NULL; in @json, which is owned. */
struct guest_request {
    json_t *json;
    json_int_t id;
    enum guest_verb verb;
    const char *name;
};

/**
 * guest_request_parse() - @line without its newline; from a VM, so it may be anything.
 *
 * Return: 0, then guest_request_free(); or -EINVAL with @err set, and @id set if there is one.
 */
int guest_request_parse(struct guest_request *r, const char *line, size_t size,
                        struct dt_error *err);
void guest_request_free(struct guest_request *r);

#endif
