/* SPDX-License-Identifier: MIT */
/* cmd-attach.c - devtap attach: the tap before the back end of a running QEMU. */
#include "tools/attach/attach.h"

#include <signal.h>
#include <sys/wait.h>

struct attach_options {
    const char *disk, *layers, *rear, *rear_options;
    uint64_t timeout;
    bool replug, force, dry_run, json;
};

static volatile sig_atomic_t serving;

static void pass_on(int number)
{
    if (serving > 0)
        kill(serving, number);
}

/* What was started is ours to end: signals go on to it, and its exit status is ours. */
static int stay(pid_t child)
{
    struct sigaction action = {.sa_handler = pass_on};
    int status;

    serving = child;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return STATUS_FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : STATUS_FAULT;
}

static json_t *result(const struct attach *a)
{
    return json_pack("{ss ss ss ss si sb so}", "disk", a->disk, "chardev", a->vm.chardev, "socket",
                     a->vm.socket, "rear", a->rear, "pid", (int)a->child, "attached", a->child > 0,
                     "steps", attach_plan(a));
}

static void tell(const struct attach *a, const struct attach_options *o)
{
    json_t *about = result(a), *step;
    size_t i;

    if (a->child)
        json_object_set_new(about, "pause_ms", json_integer((json_int_t)(a->pause / DT_MS(1))));
    if (o->json) {
        print_json(about);
        fflush(stdout);
        return;
    }
    if (a->child)
        printf("%s stands before %s; %s for %s\n", a->disk, a->rear,
               a->replug ? "the disk was unplugged" : "its requests waited", human_ns(a->pause));
    else
        json_array_foreach(json_object_get(about, "steps"), i, step)
            printf("%zu. %s\n", i + 1, json_string_value(step));
    json_decref(about);
    fflush(stdout);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct attach_options *o = options;
    struct attach a = {.ready.fd = -1,
                       .disk = o->disk ?: argv[1],
                       .layers = o->layers,
                       .rear_options = o->rear_options,
                       .timeout = o->timeout,
                       .replug = o->replug,
                       .force = o->force};
    struct dt_error err;
    int ret = vm_open(&a.vm, argv[0], argv[1], &err), status = STATUS_DONE;

    if (ret < 0)
        return verb_fail(verb, ret, &err);
    a.rear = o->rear ? xstrdup(o->rear) : xasprintf("%s.rear", a.vm.socket);
    ret = attach_judge(&a, &err);
    if (ret == 0 && !o->dry_run)
        ret = attach_run(&a, &err);
    if (ret == 0)
        tell(&a, o);
    plug_free(&a.plug);
    vm_close(&a.vm); /* QMP serves one client: who manages the VM wants it */
    free(a.rear);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    if (a.child)
        status = stay(a.child);
    return status;
}

#define OPTION(name_, type_, field) \
    .name = name_, .type = type_, .offset = offsetof(struct attach_options, field)
static const struct dt_param options[] = {
    {OPTION("disk", DT_PARAM_STRING, disk),
     .help = "Name of the soft disk; the chardev's unless told."},
    {OPTION("layers", DT_PARAM_STRING, layers),
     .help = "Layers before the back end, as in a chain; none unless told."},
    {OPTION("rear", DT_PARAM_PATH, rear),
     .help =
         "Where the back end's socket goes; beside it, with '.rear' behind its name, unless told."},
    {OPTION("rear-options", DT_PARAM_STRING, rear_options),
     .help = "Parameters of the back vhost-user, such as on-rear-loss=fail."},
    {OPTION("timeout", DT_PARAM_DURATION, timeout), .initial = "20s", .min = DT_S(1),
     .max = DT_S(600), .help = "How long QEMU may take to connect again."},
    ATTACH_OPTIONS,
    {NULL},
};

const struct verb verb_attach = {
    .name = "attach",
    .args = "[OPTION...] QMP-SOCKET CHARDEV",
    .summary = "put a soft disk before the back end of a running QEMU",
    .help = "Takes the place of the socket of a vhost-user-blk back end, while the guest's "
            "requests wait for about "
            "a second, and serves in the foreground. QEMU's chardev must have reconnect=, or "
            "the disk be unplugged meanwhile (--replug).",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct attach_options),
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_FILE,
    .run = run,
};
