/* SPDX-License-Identifier: MIT */
/* guest-request.c - see guest-request.h. */
#include "tools/cvd/guest-request.h"

#include <ctype.h>

#define NAME_MAX_BYTES 100u

/* What the pool takes is narrower still; nothing here may pass for an option or another disk. */
static bool is_name(const char *text)
{
    if (!isalnum((unsigned char)text[0]) || strlen(text) > NAME_MAX_BYTES)
        return false;
    return text[strspn(
               text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.")] == '\0';
}

static int parse_verb(struct guest_request *r, struct dt_error *err)
{
    const char *verb = json_string_value(json_object_get(r->json, "do"));

    if (verb && strcmp(verb, "snapshot") == 0)
        r->verb = GUEST_SNAPSHOT;
    else if (verb && strcmp(verb, "sync") == 0)
        r->verb = GUEST_SYNC;
    else
        return dt_fail(err, -EINVAL, "\"do\" is \"snapshot\" or \"sync\"");
    return 0;
}

static int parse_name(struct guest_request *r, struct dt_error *err)
{
    json_t *name = json_object_get(r->json, "name");

    r->name = json_string_value(name);
    if (!name)
        return 0;
    if (!r->name || strlen(r->name) != json_string_length(name) || !is_name(r->name))
        return dt_fail(err, -EINVAL,
                       "\"name\" is of letters, digits, '-', '_' and '.', begins with one of the "
                       "first two, and has at most %u",
                       NAME_MAX_BYTES);
    return 0;
}

int guest_request_parse(struct guest_request *r, const char *line, size_t size,
                        struct dt_error *err)
{
    int ret = 0;

    *r = (struct guest_request){.json = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL)};
    if (!json_is_object(r->json) || !json_is_integer(json_object_get(r->json, "id")))
        ret = dt_fail(err, -EINVAL, "a request is one JSON object on a line, with an \"id\"");
    else
        r->id = json_integer_value(json_object_get(r->json, "id"));
    ret = ret ?: parse_verb(r, err);
    ret = ret ?: parse_name(r, err);
    if (ret < 0)
        guest_request_free(r);
    return ret;
}

void guest_request_free(struct guest_request *r)
{
    json_decref(r->json);
    r->json = NULL;
    r->name = NULL;
}
