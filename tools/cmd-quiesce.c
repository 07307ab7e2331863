/* SPDX-License-Identifier: MIT */
/*
 * cmd-quiesce.c - devtap quiesce: several disks at rest while a command runs.
 *
 * Should this process die, each disk goes on by itself when the agreed time is over.
 */
#include "tools/tools.h"

#include <signal.h>
#include <sys/wait.h>

#define MAX_DISKS 64u

struct quiesce_options {
    bool flush;
    uint64_t patience, hold;
};

static int ask(const char *device, json_t *request, struct dt_error *err)
{
    struct client *client = NULL;
    int ret = client_find(&client, device, err);

    if (ret == 0) {
        json_object_set_new(request, "device", json_string(client_device(client)));
        ret = client_call(client, json_incref(request), NULL, err);
    }
    json_decref(request);
    client_free(client);
    return ret;
}

/* All of the first @n, whatever happens to one of them. */
static int resume(char **devices, unsigned n, struct dt_error *err)
{
    int ret = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_error own;
        int one = ask(devices[i], json_pack("{ss}", "verb", "resume"), &own);

        if (one < 0 && ret == 0) {
            ret = one;
            *err = own;
        }
    }
    return ret;
}

static int hold(char **devices, unsigned n, const struct quiesce_options *o, struct dt_error *err)
{
    for (unsigned i = 0; i < n; i++) {
        struct dt_error ignored;
        int ret =
            ask(devices[i],
                json_pack("{ss sb sI sI}", "verb", "quiesce", "flush", o->flush, "patience_ns",
                          (json_int_t)o->patience, "hold_ns", (json_int_t)o->hold),
                err);

        if (ret < 0) {
            resume(devices, i, &ignored);
            return ret;
        }
    }
    return 0;
}

/* Its exit status, as a shell would give it. */
static int run_command(char **argv)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], argv);
        fprintf(stderr, "devtap quiesce: %s: %m\n", argv[0]);
        _exit(errno == ENOENT ? 127 : 126);
    }
    if (pid < 0)
        return 126;
    /* The command hears of it too; the disks must go on in any case. */
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(const struct verb *verb, char **argv)
{
    struct quiesce_options o;
    char **command = argv;
    struct dt_error err;
    unsigned n = 0;
    int ret, status;

    while (*command && strcmp(*command, "--") != 0)
        command++;
    if (!*command || !command[1]) {
        ret = dt_fail(&err, -EINVAL, "usage: devtap %s %s", verb->name, verb->args);
        return verb_fail(verb, ret, &err);
    }
    *command++ = NULL;
    ret = options_parse(verb->groups, &o, argv, &err);
    while (argv[n])
        n++;
    if (ret == 0 && (n == 0 || n > MAX_DISKS))
        ret = dt_fail(&err, -EINVAL, "name 1 to %u devices", MAX_DISKS);
    ret = ret ?: hold(argv, n, &o, &err);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    status = run_command(command);
    ret = resume(argv, n, &err);
    return ret < 0 ? verb_fail(verb, ret, &err) : status;
}

static const struct dt_param options[] = {
    {"flush", DT_PARAM_BOOL, .offset = offsetof(struct quiesce_options, flush),
     .help = "Make durable what was written, once all is at rest."},
    {"patience", DT_PARAM_DURATION, .offset = offsetof(struct quiesce_options, patience),
     .initial = "5s", .min = DT_MS(1), .max = DT_S(8),
     .help = "How long each disk may take to come to rest."},
    {"hold", DT_PARAM_DURATION, .offset = offsetof(struct quiesce_options, hold), .initial = "30s",
     .min = DT_MS(1), .max = DT_S(3600),
     .help = "A disk goes on after so long, whatever became of the command and of us."},
    {NULL},
};

const struct verb verb_quiesce = {
    .name = "quiesce",
    .args = "[OPTION...] DEVICE... -- COMMAND [ARGUMENT...]",
    .summary = "hold disks at rest while a command runs",
    .help = "Takes no more requests from the guests, waits until nothing is in flight on any of "
            "the disks, "
            "runs COMMAND, and lets the disks go on. Its exit status is that of COMMAND.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct quiesce_options),
    .completes = COMPLETES_DEVICE,
    .run_raw = run,
};
