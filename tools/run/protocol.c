/* SPDX-License-Identifier: MIT */
/*
 * protocol.c - requests of the control socket, judged and answered: devtap-control(7).
 *
 * One request is one line. Its depth is measured before the JSON parser sees it, because that
 * one recurses.
 */
#include "tools/run/run.h"

#define MAX_ARGS 64u

/* Deeper than CONTROL_MAX_DEPTH? Brackets within strings do not count. */
static bool too_deep(const char *line, size_t size)
{
    unsigned depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < size; i++) {
        if (in_string) {
            if (line[i] == '\\')
                i++;
            else if (line[i] == '"')
                in_string = false;
        } else if (line[i] == '"') {
            in_string = true;
        } else if (line[i] == '{' || line[i] == '[') {
            if (++depth > CONTROL_MAX_DEPTH)
                return true;
        } else if ((line[i] == '}' || line[i] == ']') && depth) {
            depth--;
        }
    }
    return false;
}

/* ---- Verbs --------------------------------------------------------------------------------- */

/** struct call - a request on its way. */
struct call {
    const struct protocol_ops *ops;
    void *arg;
    json_t *request;
    json_t *result;
    struct dt_error *err;
};

static int need_text(struct call *c, const char *key, const char **text)
{
    json_t *value = json_object_get(c->request, key);

    *text = json_string_value(value);
    if (*text && strlen(*text) == json_string_length(value))
        return 0;
    return dt_fail(c->err, -EINVAL, "the request needs \"%s\", a text", key);
}

static int call_list(struct call *c)
{
    return c->ops->list(c->arg, &c->result, c->err);
}

static int call_show(struct call *c)
{
    const char *device;

    return need_text(c, "device", &device) ?: c->ops->show(c->arg, device, &c->result, c->err);
}

static int call_stats(struct call *c)
{
    const char *device;

    return need_text(c, "device", &device) ?: c->ops->stats(c->arg, device, &c->result, c->err);
}

/* Numbers and truths as a person would write them in a chain. */
static char *value_text(json_t *value)
{
    if (json_is_string(value))
        return xstrdup(json_string_value(value));
    if (json_is_boolean(value))
        return xstrdup(json_is_true(value) ? "on" : "off");
    return json_is_number(value) ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
}

static int call_set(struct call *c)
{
    json_t *values = json_object_get(c->request, "values"), *value;
    const char *device = NULL, *layer = NULL, *param = NULL;
    int ret = c->ops->set ? 0 : dt_fail(c->err, -EOPNOTSUPP, "no parameter can be set here");

    ret = ret ?: need_text(c, "device", &device) ?: need_text(c, "layer", &layer);
    if (ret == 0 && !json_object_size(values))
        ret = dt_fail(c->err, -EINVAL, "the request needs \"values\", an object");
    if (ret < 0)
        return ret;
    json_object_foreach(values, param, value)
    {
        _cleanup_free_ char *text = value_text(value);

        if (!text)
            return dt_fail(c->err, -EINVAL, "the value of '%.40s' must be a text or a number",
                           param);
        ret = c->ops->set(c->arg, device, layer, param, text, c->err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int call_do(struct call *c)
{
    json_t *args = json_object_get(c->request, "args"), *value;
    const char *device = NULL, *layer = NULL, *command = NULL, *argv[MAX_ARGS + 1];
    int ret = need_text(c, "device", &device) ?: need_text(c, "layer", &layer);
    size_t i;

    ret = ret ?: need_text(c, "command", &command);
    if (ret < 0)
        return ret;
    if ((args && !json_is_array(args)) || json_array_size(args) > MAX_ARGS)
        return dt_fail(c->err, -EINVAL, "\"args\" is an array of at most %u texts", MAX_ARGS);
    json_array_foreach(args, i, value)
    {
        argv[i] = json_string_value(value);
        if (!argv[i])
            return dt_fail(c->err, -EINVAL, "\"args\" is an array of texts");
    }
    argv[json_array_size(args)] = NULL;
    return c->ops->run(c->arg, device, layer, command, (int)json_array_size(args), argv, &c->result,
                       c->err);
}

static int call_resize(struct call *c)
{
    const char *device, *size;

    if (!c->ops->resize)
        return dt_fail(c->err, -EOPNOTSUPP, "no disk is served here");
    return need_text(c, "device", &device) ?: need_text(c, "size", &size)
                                           ?: c->ops->resize(c->arg, device, size, &c->result,
                                                             c->err);
}

static int call_change(struct call *c)
{
    const char *device;

    if (!c->ops->change)
        return dt_fail(c->err, -EOPNOTSUPP, "no chain is served here");
    return need_text(c, "device", &device)
               ?: c->ops->change(c->arg, device, c->request, &c->result, c->err);
}

static int call_quiesce(struct call *c)
{
    const char *device;

    if (!c->ops->quiesce)
        return dt_fail(c->err, -EOPNOTSUPP, "no disk is served here");
    return need_text(c, "device", &device)
               ?: c->ops->quiesce(c->arg, device, c->request, &c->result, c->err);
}

/* An offset or a length; 0 where the request has none. */
static int want_bytes(struct call *c, const char *key, uint64_t *bytes)
{
    json_t *value = json_object_get(c->request, key);

    if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
        return dt_fail(c->err, -EINVAL, "\"%s\" is a number of bytes", key);
    *bytes = (uint64_t)json_integer_value(value);
    return 0;
}

static int call_map(struct call *c)
{
    uint64_t start = 0, length = 0;
    const char *device;

    if (!c->ops->map)
        return dt_fail(c->err, -EOPNOTSUPP, "no disk is served here");
    return need_text(c, "device", &device)
               ?: want_bytes(c, "start", &start)
               ?: want_bytes(c, "length", &length)
               ?: c->ops->map(c->arg, device, start, length, &c->result, c->err);
}

static int call_quit(struct call *c)
{
    return c->ops->quit(c->arg, c->err);
}

static int call_events(struct call *c)
{
    json_t *after = json_object_get(c->request, "after");

    if (!c->ops->events)
        return dt_fail(c->err, -EOPNOTSUPP, "a process of its own (--single) keeps no events");
    if (after && (!json_is_integer(after) || json_integer_value(after) < 0))
        return dt_fail(c->err, -EINVAL, "\"after\" is the number of an event");
    return c->ops->events(c->arg, (uint64_t)json_integer_value(after), &c->result, c->err);
}

static int call_upgrade(struct call *c)
{
    const char *path = NULL;

    if (!c->ops->upgrade)
        return dt_fail(c->err, -EOPNOTSUPP, "a process of its own (--single) cannot be upgraded");
    if (json_object_get(c->request, "binary")) {
        int ret = need_text(c, "binary", &path);

        if (ret < 0)
            return ret;
    }
    return c->ops->upgrade(c->arg, path, &c->result, c->err);
}

static const struct {
    const char *verb;
    int (*run)(struct call *c);
} calls[] = {
    {"list", call_list},     {"show", call_show},       {"stats", call_stats},
    {"set", call_set},       {"do", call_do},           {"resize", call_resize},
    {"quit", call_quit},     {"events", call_events},   {"upgrade", call_upgrade},
    {"change", call_change}, {"quiesce", call_quiesce}, {"resume", call_quiesce},
    {"map", call_map},
};

static int dispatch(struct call *c)
{
    struct nearest nearest;
    const char *verb;
    int ret = need_text(c, "verb", &verb);

    if (ret < 0)
        return ret;
    nearest = (struct nearest){.wanted = verb};
    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
        if (strcmp(calls[i].verb, verb) == 0)
            return calls[i].run(c);
        nearest_offer(&nearest, calls[i].verb);
    }
    dt_fail(c->err, -EINVAL, "no verb is named '%.40s'", verb);
    nearest_hint(&nearest, c->err);
    return -EINVAL;
}

/* ---- Replies ------------------------------------------------------------------------------- */

/* Texts from below may hold what is not UTF-8, which JSON cannot. */
static json_t *text_json(const char *text)
{
    json_t *json = json_string(text);
    _cleanup_free_ char *clean = NULL;

    if (json)
        return json;
    clean = xstrdup(text);
    for (char *p = clean; *p; p++)
        if (*p & 0x80)
            *p = '?';
    return json_string(clean);
}

static char *reply_text(json_t *request, int ret, json_t *result, const struct dt_error *err)
{
    json_t *reply = json_object(), *id = json_object_get(request, "id");
    char *text, *line;

    json_object_set_new(reply, "ok", json_boolean(ret == 0));
    if (id)
        json_object_set(reply, "id", id);
    if (ret == 0)
        json_object_set_new(reply, "result", result ?: json_null());
    else {
        json_object_set_new(reply, "error", text_json(err->text));
        json_object_set_new(reply, "status", json_integer(exit_status_of(ret)));
    }
    text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    CHECK(text);
    line = xasprintf("%s\n", text);
    free(text);
    return line;
}

char *protocol_answer(const struct protocol_ops *ops, void *arg, const char *line, size_t size,
                      bool *fatal)
{
    struct dt_error err = {""};
    struct call call = {.ops = ops, .arg = arg, .err = &err};
    json_error_t where;
    char *reply;
    int ret;

    *fatal = true;
    if (size > CONTROL_MAX_REQUEST)
        ret = dt_fail(&err, -E2BIG, "the request is longer than %u bytes", CONTROL_MAX_REQUEST);
    else if (too_deep(line, size))
        ret = dt_fail(&err, -E2BIG, "the request nests deeper than %u", CONTROL_MAX_DEPTH);
    else if (!(call.request = json_loadb(line, size, JSON_REJECT_DUPLICATES, &where)))
        ret = dt_fail(&err, -EINVAL, "the request is not JSON: %s", where.text);
    else if (!json_is_object(call.request))
        ret = dt_fail(&err, -EINVAL, "the request is not a JSON object");
    else {
        *fatal = false;
        ret = dispatch(&call);
    }
    reply = reply_text(call.request, ret, ret == 0 ? call.result : NULL, &err);
    json_decref(call.request);
    return reply;
}
