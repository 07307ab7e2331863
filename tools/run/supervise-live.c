/* SPDX-License-Identifier: MIT */
/*
 * supervise-live.c - parameters that are set while VMs run outlive the worker.
 *
 * Theory of operation: a worker is started with the chains as they were written, for what was set since may not be
 * what a layer can be opened with. All that was set goes to it by its control stream, before it gets its first link, and
 * it catches up with that stream before it takes the link: so a limit holds for the first request that it serves.
 * Nobody waits for its answers meanwhile. They come before all others, and are heard before the next question.
 *
 * The values of a disk whose chain a successor changes wait until it serves, because it is known only then which of
 * them it still has a layer for; and so does what is more than the stream takes while nobody reads.
 */
#include "tools/run/supervise.h"

#include <sys/socket.h>

#define AT_ONCE 65536u /* bytes that a stream socket takes for certain */

void live_init(struct supervise *s)
{
    s->live = (struct live){.values = json_object(), .late = json_object()};
}

void live_fini(struct supervise *s)
{
    json_decref(s->live.values);
    json_decref(s->live.late);
}

/* "device layer parameter": ["device", "layer", "parameter", "value"] */
static json_t *request_of(json_t *entry)
{
    const char *device, *layer, *param, *value;

    json_unpack(entry, "[ssss]", &device, &layer, &param, &value);
    return json_pack("{ss ss ss s{ss}}", "verb", "set", "device", device, "layer", layer, "values",
                     param, value);
}

int live_set(struct supervise *s, const char *device, const char *layer, const char *param,
             const char *value, struct dt_error *err)
{
    _cleanup_free_ char *key = xasprintf("%s %s %s", device, layer, param);
    json_t *entry = json_pack("[ssss]", device, layer, param, value);
    int ret = ask_worker(s, request_of(entry), NULL, err);

    if (ret < 0) {
        json_decref(entry);
        return ret;
    }
    json_object_del(s->live.values, key); /* the order of the last ones counts */
    json_object_set_new(s->live.values, key, entry);
    return 0;
}

void live_forget(struct supervise *s, const char *device,
                 bool (*gone)(const void *arg, const char *layer), const void *arg)
{
    const char *key;
    json_t *entry;
    void *next;

    json_object_foreach_safe(s->live.values, next, key, entry)
    {
        if (strcmp(json_string_value(json_array_get(entry, 0)), device) == 0 &&
            gone(arg, json_string_value(json_array_get(entry, 1)))) {
            json_object_del(s->live.values, key);
            json_object_del(s->live.late, key);
        }
    }
}

/* ---- A successor --------------------------------------------------------------------------- */

void live_started(void *arg, int control)
{
    struct supervise *s = arg;
    const char *changing = supervise_changing(s), *key;
    _cleanup_free_ char *all = xcalloc(1, AT_ONCE);
    bool full = false;
    size_t size = 0;
    json_t *entry;

    s->live.owed = 0;
    json_object_clear(s->live.late);
    json_object_foreach(s->live.values, key, entry)
    {
        const char *device = json_string_value(json_array_get(entry, 0));
        json_t *request = request_of(entry);
        size_t n = json_dumpb(request, all + size, AT_ONCE - size, JSON_COMPACT);

        json_decref(request);
        full |= size + n >= AT_ONCE;
        if (full || (changing && strcmp(device, changing) == 0)) {
            json_object_set(s->live.late, key, entry);
            continue;
        }
        size += n;
        all[size++] = '\n';
        s->live.owed++;
    }
    /* If it is dead already the next one will have them. */
    if (size && send(control, all, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size)
        log_debug("the worker hears nothing: %m");
}

void live_settle(struct supervise *s, struct client *client)
{
    struct dt_error err;

    for (; s->live.owed; s->live.owed--) {
        int ret = client_reply(client, NULL, &err);

        if (ret == -ECONNRESET) /* so do those that it did not answer */
            s->live.owed = 1;
        else if (ret < 0)
            log_warning("a parameter that was set is not in force: %s", err.text);
    }
}

void live_restarted(void *arg)
{
    struct supervise *s = arg;
    struct client *client = worker_client(s);
    const char *key;
    json_t *entry;
    void *next;

    client_free(client);
    json_object_foreach_safe(s->live.late, next, key, entry)
    {
        struct dt_error err;

        if (ask_worker(s, request_of(entry), NULL, &err) < 0)
            log_warning("%s is lost: %s", key, err.text);
        json_object_del(s->live.late, key);
    }
}
