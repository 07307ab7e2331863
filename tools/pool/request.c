/* SPDX-License-Identifier: MIT */
/* request.c - the first line of a connection, which anybody may have sent: devtap-pool-control(7). */
#include "tools/pool/pool.h"

#define MAX_WORDS 64u
#define MAX_OWNER 63

static int need_text(json_t *json, const char *key, const char **text, struct dt_error *err)
{
    json_t *value = json_object_get(json, key);

    *text = json_string_value(value);
    if (*text && **text && strlen(*text) == json_string_length(value))
        return 0;
    return dt_fail(err, -EINVAL, "the request needs \"%s\", a text", key);
}

static int parse_open(struct pool_request *r, struct dt_error *err)
{
    json_t *read_only = json_object_get(r->json, "read-only");
    json_t *weight = json_object_get(r->json, "weight");
    int ret = need_text(r->json, "disk", &r->disk, err);

    ret = ret ?: need_text(r->json, "owner", &r->owner, err);
    if (ret == 0 && read_only && !json_is_boolean(read_only))
        ret = dt_fail(err, -EINVAL, "\"read-only\" is true or false");
    r->read_only = json_is_true(read_only);
    if (ret == 0 && weight &&
        (!json_is_integer(weight) || json_integer_value(weight) < 0 ||
         json_integer_value(weight) > DISK_MAX_WEIGHT))
        ret = dt_fail(err, -EINVAL, "\"weight\" is a number, 1 to %u, or 0 for the disk's own",
                      DISK_MAX_WEIGHT);
    r->weight = (unsigned)json_integer_value(weight);
    return ret;
}

static int parse_run(struct pool_request *r, struct dt_error *err)
{
    json_t *words = json_object_get(r->json, "words"), *word;
    size_t i, n = json_array_size(words);
    int ret = need_text(r->json, "pool", &r->pool, err);

    if (ret < 0)
        return ret;
    if (n == 0 || n > MAX_WORDS)
        return dt_fail(err, -EINVAL, "the request needs \"words\", 1 to %u texts", MAX_WORDS);
    r->words = xcalloc(n + 1, sizeof(*r->words));
    r->count = (unsigned)n;
    json_array_foreach(words, i, word)
    {
        r->words[i] = json_string_value(word);
        if (!r->words[i] || strlen(r->words[i]) != json_string_length(word))
            return dt_fail(err, -EINVAL, "\"words\" holds something that is no text");
    }
    return 0;
}

static int need_bytes(json_t *json, const char *key, uint64_t *bytes, struct dt_error *err)
{
    json_t *value = json_object_get(json, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return dt_fail(err, -EINVAL, "the request needs \"%s\", a number of bytes", key);
    *bytes = (uint64_t)json_integer_value(value);
    return 0;
}

static int parse_map(struct pool_request *r, struct dt_error *err)
{
    return need_text(r->json, "disk", &r->disk, err)
               ?: need_bytes(r->json, "start", &r->start, err)
               ?: need_bytes(r->json, "length", &r->length, err);
}

static int parse_events(struct pool_request *r, struct dt_error *err)
{
    return json_object_get(r->json, "disk") ? need_text(r->json, "disk", &r->disk, err) : 0;
}

/* The owner of a pin is told to others, and to terminals. */
static int parse_pin(struct pool_request *r, struct dt_error *err)
{
    int ret = need_text(r->json, "owner", &r->owner, err);

    if (ret < 0)
        return ret;
    for (const char *p = r->owner; *p; p++)
        if (*p < ' ' || *p > '~' || p - r->owner >= MAX_OWNER)
            return dt_fail(err, -EINVAL, "\"owner\" is up to %d printable characters", MAX_OWNER);
    return 0;
}

/* @verb: with its arguments in the object. */
static int parse_verb(struct pool_request *r, const char *verb, struct dt_error *err)
{
    static const struct {
        const char *name;
        enum request_verb verb;
        int (*parse)(struct pool_request *r, struct dt_error *err);
    } verbs[] = {{"open", REQUEST_OPEN, parse_open}, {"run", REQUEST_RUN, parse_run},
                 {"map", REQUEST_MAP, parse_map},    {"events", REQUEST_EVENTS, parse_events},
                 {"pin", REQUEST_PIN, parse_pin},    {"pinned", REQUEST_PINNED, NULL},
                 {"close", REQUEST_CLOSE, NULL}};

    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
        if (strcmp(verbs[i].name, verb) == 0) {
            r->verb = verbs[i].verb;
            return verbs[i].parse ? verbs[i].parse(r, err) : 0;
        }
    return dt_fail(err, -EINVAL,
                   "'%.40s' is no verb: open, run, map, events, pin, pinned and close are", verb);
}

int pool_request_parse(struct pool_request *r, const char *line, size_t size, struct dt_error *err)
{
    const char *verb = NULL;
    int ret = 0;

    *r = (struct pool_request){.json = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL)};
    if (!json_is_object(r->json))
        ret = dt_fail(err, -EINVAL, "a request is one JSON object on a line");
    ret = ret ?: need_text(r->json, "verb", &verb, err);
    ret = ret ?: parse_verb(r, verb, err);
    if (ret < 0)
        pool_request_free(r);
    return ret;
}

void pool_request_free(struct pool_request *r)
{
    json_decref(r->json);
    free(r->words);
    *r = (struct pool_request){0};
}
