/* SPDX-License-Identifier: MIT */
/* cmd-events.c - devtap events: what died, why, what was run again, and how long the pause was. */
#include "tools/tools.h"

#include <time.h>

#define POLL_NS 200000000

struct events_options {
    bool json, follow;
};

/** struct seen - how far one process's events have been printed. */
struct seen {
    char *process;
    json_int_t number;
};

struct listing {
    const struct events_options *options;
    const char *device; /* NULL = of all */
    struct seen *seen;
    unsigned count;
};

static void print_event(const struct listing *l, json_t *event)
{
    const char *device = json_string_value(json_object_get(event, "device"));
    double when = json_real_value(json_object_get(event, "time"));
    time_t seconds = (time_t)when;
    struct tm tm;
    char day[32];

    if (l->device && device && strcmp(l->device, device) != 0)
        return;
    if (l->options->json) {
        print_json_line(json_incref(event));
        return;
    }
    strftime(day, sizeof(day), "%F %T", localtime_r(&seconds, &tm));
    printf("%s.%03d  %-16s %s%s%s\n", day, (int)((when - (double)seconds) * 1000),
           json_string_value(json_object_get(event, "event")) ?: "?", device ? device : "",
           device ? ": " : "", json_string_value(json_object_get(event, "text")) ?: "");
}

static struct seen *seen_of(struct listing *l, const char *process)
{
    for (unsigned i = 0; i < l->count; i++)
        if (strcmp(l->seen[i].process, process) == 0)
            return &l->seen[i];
    l->seen = reallocarray(l->seen, l->count + 1, sizeof(*l->seen));
    CHECK(l->seen);
    l->seen[l->count] = (struct seen){.process = xstrdup(process)};
    return &l->seen[l->count++];
}

static int print_process(struct client *client, struct listing *l, struct dt_error *err)
{
    struct seen *seen = seen_of(l, client_path(client));
    json_t *events = NULL, *event;
    size_t i;
    int ret = client_call(client, json_pack("{ss sI}", "verb", "events", "after", seen->number),
                          &events, err);

    json_array_foreach(events, i, event)
    {
        print_event(l, event);
        seen->number = json_integer_value(json_object_get(event, "number"));
    }
    json_decref(events);
    return ret;
}

static int visit(struct client *client, void *arg)
{
    struct dt_error err;

    print_process(client, arg, &err); /* a process without events is no failure */
    return 0;
}

static int print_once(struct listing *l, struct dt_error *err)
{
    struct client *client;
    int ret;

    if (!l->device)
        return client_each(visit, l, err);
    ret = client_find(&client, l->device, err);
    if (ret < 0)
        return ret;
    l->device = strchr(l->device, '/') ? strchr(l->device, '/') + 1 : l->device;
    ret = print_process(client, l, err);
    client_free(client);
    return ret;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    struct listing l = {.options = options, .device = argc ? argv[0] : NULL};
    struct dt_error err;
    int ret = print_once(&l, &err);

    while (ret == 0 && l.options->follow && fflush(stdout) == 0) {
        nanosleep(&pause, NULL);
        ret = print_once(&l, &err);
    }
    for (unsigned i = 0; i < l.count; i++)
        free(l.seen[i].process);
    free(l.seen);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

#define OPTION(n, field) \
    .name = n, .type = DT_PARAM_BOOL, .offset = offsetof(struct events_options, field)
static const struct dt_param options[] = {
    {OPTION("follow", follow), .help = "Go on with what happens from now on."},
    {OPTION("json", json), .help = "Print one JSON object on each line."},
    {NULL},
};

const struct verb verb_events = {
    .name = "events",
    .args = "[DEVICE] [--follow] [--json]",
    .summary = "what happened: VMs that came and went, processes that died",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct events_options),
    .max_args = 1,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
