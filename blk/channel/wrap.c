/* SPDX-License-Identifier: MIT */
/*
 * wrap.c - the description that stands for a placed extension: its own, with the proxy's callbacks,
 * and the parameters of the placement after its own.
 */
#include "blk/channel/internal.h"

#include <poll.h>
#include <stdio.h>

const struct placed_config *placed_configuration = &(const struct placed_config){NULL};

static const char *const on_crash_choices[] = {
    [ON_CRASH_HOLD] = "hold",
    [ON_CRASH_BYPASS] = "bypass",
    [ON_CRASH_FAIL] = "fail",
    NULL,
};

static const char *const trust_choices[] = {"none", "memory", NULL};

const struct dt_param placed_params[] = {
    {.name = "on-crash",
     .type = DT_PARAM_ENUM,
     .flags = DT_PARAM_LIVE,
     .initial = "hold",
     .offset = offsetof(struct proxy, on_crash),
     .choices = on_crash_choices,
     .help =
         "After too many failures: hold requests, let them pass the extension by, or fail them."},
    {.name = "tries",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .initial = "5",
     .offset = offsetof(struct proxy, tries),
     .min = 1,
     .max = 1000000,
     .help = "How many failures within the window are too many."},
    {.name = "window",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .initial = "10s",
     .offset = offsetof(struct proxy, window),
     .min = DT_MS(1),
     .max = DT_S(86400),
     .help = "Failures longer ago than this are forgotten."},
    {.name = "deadline",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .initial = "2s",
     .offset = offsetof(struct proxy, deadline),
     .min = DT_MS(50),
     .max = DT_S(3600),
     .help = "An extension that is silent for so long hangs, and is killed."},
    {.name = "mem-limit",
     .type = DT_PARAM_SIZE,
     .initial = "256M",
     .offset = offsetof(struct proxy, mem_limit),
     .help = "Address space of the process; 0 = no limit."},
    {.name = "trust",
     .type = DT_PARAM_ENUM,
     .initial = "none",
     .offset = offsetof(struct proxy, trust),
     .choices = trust_choices,
     .help =
         "`memory` lets the process have all of the guest's memory, so that no data are copied."},
    {.name = "spin",
     .type = DT_PARAM_DURATION,
     .initial = "50us",
     .offset = offsetof(struct proxy, spin),
     .max = DT_S(1),
     .help = "How long the process looks for more requests before it sleeps."},
    {NULL},
};
#define PLACED_PARAMS (ARRAY_SIZE(placed_params) - 1)

static struct wrapped *all_wrapped;

/* ---- Verbs: those of the extension run in its process ---- */

static void copy_reply(struct dt_reply *reply, const json_t *answer)
{
    const json_t *values = json_object_get(answer, "reply"), *value;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)values, key, value)
    {
        if (json_is_integer(value))
            dt_reply_u64(reply, key, (uint64_t)json_integer_value(value));
        else if (json_is_string(value))
            dt_reply(reply, key, "%s", json_string_value(value));
    }
}

static int run_verb(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    json_t *args = json_array(), *answer = NULL;
    int ret;

    for (int i = 0; i < argc; i++)
        json_array_append_new(args, json_string(argv[i]));
    ret = proxy_call(dt_layer_data(layer), CONTROL_DO,
                     json_pack("{ss so}", "verb", layer_verb(layer), "args", args), &answer, err);
    if (ret == 0)
        copy_reply(reply, answer);
    json_decref(answer);
    return ret;
}

static int run_restart(struct dt_layer *layer, int argc, const char *const *argv,
                       struct dt_reply *reply, struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);

    p->nfailures = 0;
    proxy_save_now(p);
    proxy_restart(p);
    return 0;
}

static const struct dt_verb restart_verb = {
    .name = "restart-process",
    .help = "Replace the extension's process; requests wait meanwhile.",
    .run = run_restart,
};

static void wrap_verbs(struct wrapped *w, const struct dt_verb *verbs)
{
    struct dt_verb *copy;
    unsigned n = 0;

    while (verbs && verbs[n].name)
        n++;
    copy = xcalloc(n + 2, sizeof(*copy));
    for (unsigned i = 0; i < n; i++) {
        copy[i] = verbs[i];
        copy[i].run = run_verb;
    }
    copy[n] = restart_verb;
    w->ext.verbs = copy;
}

/* ---- Parameters ---- */

static int wrap_params(struct wrapped *w, const struct dt_param *params, struct dt_error *err)
{
    struct dt_param *copy;
    size_t offset = ALIGN_UP(sizeof(struct proxy), (size_t)CACHE_LINE);
    unsigned n = 0;

    while (params && params[n].name)
        n++;
    copy = xcalloc(n + PLACED_PARAMS + 1, sizeof(*copy));
    for (unsigned i = 0; i < n; i++) {
        copy[i] = params[i];
        copy[i].offset = offset;
        offset += 8; /* the largest field; all alignments */
        if (param_find(placed_params, params[i].name) >= 0) {
            dt_fail(err, -EINVAL, "%s: its parameter '%s' is also one of the placement",
                    w->ext.name, params[i].name);
            free(copy);
            return -EINVAL;
        }
    }
    memcpy(copy + n, placed_params, sizeof(placed_params));
    w->own_params = n;
    w->ext.params = copy;
    w->ext.layer_size = offset;
    return 0;
}

/* Everything that core must know of the extension stays; what runs is the proxy. */
static int wrap(struct wrapped *w, const struct dt_block_ext *ext, struct dt_error *err)
{
    struct dt_block_ext *e = &w->ext;

    if (ext->flags & DT_BACK)
        return dt_fail(err, -EINVAL, "%s: a back cannot be placed in a process of its own",
                       ext->name);
    if (ext->fence)
        return dt_fail(err, -EINVAL,
                       "%s: it keeps files of its own, which a process without them cannot open: "
                       "place=in",
                       ext->name);
    *e = proxy_template;
    e->name = ext->name;
    e->summary = ext->summary;
    e->help = ext->help;
    e->flags = ext->flags & ~(uint32_t)DT_SELF_CONTAINED; /* it has a process to start */
    e->read_data = ext->read_data;
    e->write_data = ext->write_data;
    e->counters = ext->counters;
    e->state_version = ext->state_version;
    e->sub_requests = ext->sub_requests;
    if (!w->responds)
        e->complete = NULL;
    if (!w->saves) {
        e->save = NULL;
        e->load = NULL;
    }
    while (w->ncounters < CHANNEL_COUNTERS && e->counters && e->counters[w->ncounters].name)
        w->ncounters++;
    wrap_verbs(w, ext->verbs);
    return wrap_params(w, ext->params, err);
}

static const struct dt_block_ext *keep(struct wrapped *w, const struct dt_block_ext *view)
{
    w->view = view;
    w->next = all_wrapped;
    all_wrapped = w;
    return view;
}

static const struct dt_block_ext *wrap_extension(const struct dt_block_ext *ext, const char *name,
                                                 struct dt_error *err)
{
    const struct dt_net_ext *net = registry_net(ext);
    struct wrapped *w;

    for (w = all_wrapped; w; w = w->next)
        if (w->real == ext)
            return w->view;
    w = xcalloc(1, sizeof(*w));
    w->real = ext;
    w->class = net ? &packet_class : &request_class;
    w->name = xasprintf("%s%s", net ? HOST_NET : "", name);
    w->holds = ext->quiesce || ext->admit;
    w->responds = ext->complete || ext->response;
    w->saves = ext->save;
    w->cancels = ext->cancel;
    w->vectors = !net;
    if (wrap(w, ext, err) < 0) {
        free(w->name);
        free(w);
        return NULL;
    }
    return keep(w, net ? wrap_net(w, net) : &w->ext);
}

/* ---- Programs ---- */

/* Starts the program for as long as it takes to say who it is. */
static char *ask_hello(const struct wrapped *w, struct dt_error *err)
{
    struct control_frame *f = xcalloc(1, sizeof(*f));
    struct process p;
    struct ending end;
    char *hello = NULL;

    process_init(&p);
    if (process_start(&p, w, 0, err) == 0) {
        struct pollfd fd = {.fd = p.sock, .events = POLLIN};

        if (poll(&fd, 1, (int)(START_NS / DT_MS(1))) == 1 && control_recv(p.sock, f) == 1) {
            control_close_fds(f);
            if (f->type == CONTROL_HELLO)
                hello = xstrdup(f->payload);
        }
        if (hello)
            process_kill(&p, "done");
        else if (fd.revents == 0)
            process_kill(&p, "it did not say who it is within %llu s",
                         (unsigned long long)(START_NS / DT_S(1)));
        process_reap(&p, &end);
        if (!hello)
            dt_fail(err, -EPROTO, "%s: %s; an extension begins with dt_channel_open()", w->argv[0],
                    end.cause);
    }
    free(f);
    return hello;
}

static char **copy_argv(const char *const *argv)
{
    unsigned n = 0;
    char **copy;

    while (argv[n])
        n++;
    copy = xcalloc(n + 1, sizeof(*copy));
    for (unsigned i = 0; i < n; i++)
        copy[i] = xstrdup(argv[i]);
    return copy;
}

static void free_argv(char **argv)
{
    for (unsigned i = 0; argv[i]; i++)
        free(argv[i]);
    free(argv);
}

static bool same_program(const struct wrapped *a, const struct wrapped *b)
{
    unsigned i = 0;

    if (!a->argv || strcmp(a->hello, b->hello) != 0)
        return false;
    while (a->argv[i] && b->argv[i] && strcmp(a->argv[i], b->argv[i]) == 0)
        i++;
    return !a->argv[i] && !b->argv[i];
}

static const struct dt_block_ext *wrap_program(const char *const *argv, struct dt_error *err)
{
    struct wrapped *w = xcalloc(1, sizeof(*w));
    struct dt_block_ext ext;

    w->argv = copy_argv(argv);
    w->class = &request_class;
    w->hello = ask_hello(w, err);
    if (!w->hello)
        goto fail;
    for (struct wrapped *other = all_wrapped; other; other = other->next)
        if (same_program(other, w)) {
            free(w->hello);
            free_argv(w->argv);
            free(w);
            return &other->ext;
        }
    if (describe_parse(w, w->hello, err) < 0) {
        dt_fail_prefix(err, "%s", argv[0]);
        goto fail;
    }
    ext = w->ext;
    if (wrap(w, &ext, err) < 0)
        goto fail;
    free((void *)(uintptr_t)ext.params); /* wrap() made its own; the texts are shared */
    free((void *)(uintptr_t)ext.verbs);
    return keep(w, &w->ext);

fail:
    free(w->hello);
    free_argv(w->argv);
    free(w);
    return NULL;
}

static const struct placer placer = {.in_process = wrap_extension, .program = wrap_program};

void placed_init(const struct placed_config *config)
{
    if (config)
        placed_configuration = config;
    placer_set(&placer);
}
