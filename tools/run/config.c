/* SPDX-License-Identifier: MIT */
/* config.c - options of the process and of each disk; the command line of devtap run. */
#include "tools/run/run.h"

#include "control/cgroup.h"

#include <pwd.h>

static const char *const engines[] = {"auto", "io_uring", "epoll", NULL};
static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
static const char *const off_on[] = {"off", "on", NULL};

#define PROCESS(n, t, field) .name = n, .type = t, .offset = offsetof(struct process_options, field)
const struct dt_param process_params[] = {
    {PROCESS("config", DT_PARAM_PATH, config),
     .help = "Read options and disks from this file; see devtap.conf(5)."},
    {PROCESS("threads", DT_PARAM_UINT, threads), .initial = "1", .min = 1,
     .max = DEVICE_MAX_THREADS, .help = "I/O threads; disks are spread over them in turn."},
    {PROCESS("poll", DT_PARAM_DURATION, poll), .initial = "50us",
     .help = "How long a thread polls its rings after the last request before it sleeps."},
    {PROCESS("engine", DT_PARAM_ENUM, engine), .initial = "auto", .choices = engines,
     .help = "How threads wait and do I/O."},
    {PROCESS("control", DT_PARAM_STRING, control), .unit = "path|none",
     .help = "The control socket, instead of PID.sock in the runtime directory."},
    {PROCESS("log-level", DT_PARAM_ENUM, log_level), .initial = "info", .choices = levels,
     .help = "What appears on standard error."},
    {PROCESS("single", DT_PARAM_BOOL, single),
     .help = "Serve all disks in this one process: a VM loses its disk if that dies."},
    {PROCESS("sandbox", DT_PARAM_ENUM, sandbox), .initial = "on", .choices = off_on,
     .help = "Confine keepers and workers to what they need."},
    {PROCESS("spare", DT_PARAM_ENUM, spare), .initial = "on", .choices = off_on,
     .help = "Keep a process ready that takes over from the worker."},
    {PROCESS("watchdog", DT_PARAM_DURATION, hang), .initial = "10s", .max = DT_S(86400),
     .help = "Replace a worker that gets nowhere for so long; 0s never does."},
    {PROCESS("weight", DT_PARAM_UINT, weight), .max = CGROUP_WEIGHT_MAX,
     .help = "Processor time and I/O of the worker, against its neighbours' in the control group."},
    {PROCESS("cgroup", DT_PARAM_PATH, cgroup),
     .help = "With --weight: the control group in which the worker's is made; this process's "
             "unless told."},
    {PROCESS("foreground", DT_PARAM_BOOL, foreground), .help = "Accepted, and always so."},
    {PROCESS("print-capabilities", DT_PARAM_BOOL, print_capabilities),
     .help = "Print what this program offers to management software, and exit."},
    {NULL},
};

#define DISK(n, t, field) .name = n, .type = t, .offset = offsetof(struct disk_options, field)
const struct dt_param disk_params[] = {
    {DISK("chain", DT_PARAM_STRING, chain), .help = "The chain; see devtap(1)."},
    {DISK("socket", DT_PARAM_PATH, socket), .help = "Listen for the VM there."},
    {DISK("socket-owner", DT_PARAM_STRING, socket_owner), .unit = "user",
     .help = "Owner of the socket."},
    {DISK("socket-group", DT_PARAM_STRING, socket_group), .unit = "group",
     .help = "Group of the socket."},
    {DISK("socket-mode", DT_PARAM_STRING, socket_mode), .unit = "octal mode",
     .help = "Permissions of the socket; 0600 unless told."},
    {DISK("connect", DT_PARAM_PATH, connect), .help = "Connect there: the VMM listens."},
    {DISK("fd", DT_PARAM_STRING, fd), .unit = "number",
     .help = "Use this inherited socket, listening or connected."},
    {DISK("serial", DT_PARAM_STRING, serial),
     .help = "What the guest sees as serial, at most 20 bytes; the disk's name unless told."},
    {DISK("queues", DT_PARAM_UINT, queues), .initial = "64", .min = 1, .max = 256,
     .help = "Queues offered to the guest; of a network card, pairs of them."},
    {DISK("packed", DT_PARAM_ENUM, packed), .initial = "on", .choices = off_on,
     .help = "Offer packed rings."},
    {DISK("memory-slots", DT_PARAM_ENUM, memory_slots), .initial = "on", .choices = off_on,
     .help = "Offer the VMM many regions of memory; off: 8."},
    {DISK("iommu", DT_PARAM_ENUM, iommu), .initial = "off", .choices = off_on,
     .help = "Offer ACCESS_PLATFORM: reach only what the guest's IOMMU maps."},
    {DISK("config-space", DT_PARAM_ENUM, config_space), .initial = "off", .choices = off_on,
     .help = "Of a network card: offer the VMM one, with the state of the link; few read it."},
    {DISK("state", DT_PARAM_PATH, state),
     .help = "Directory where layers keep what must outlive the process."},
    {DISK("threads-per-disk", DT_PARAM_UINT, threads), .initial = "1", .min = 1,
     .max = DEVICE_MAX_THREADS, .help = "Serve the queues on so many of the threads."},
    {DISK("deadline", DT_PARAM_DURATION, deadline), .initial = "0s", .max = DT_S(86400),
     .help =
         "Tell of requests under way for longer, and have their layer cancel them; 0s never does."},
    {NULL},
};

/* ---- As a command line --------------------------------------------------------------------- */

static void add_options(char ***at, const struct dt_param *params, const void *base, uint64_t given,
                        const char *skip)
{
    for (unsigned i = 0; params[i].name; i++) {
        char *text;

        if (!(given >> i & 1) || strstr(skip, params[i].name))
            continue;
        text = param_format(&params[i], base);
        *(*at)++ = xasprintf("--%s=%s", params[i].name, text);
        free(text);
    }
}

char **run_config_argv(const struct run_config *config, const char *const *first)
{
    char **argv = xcalloc(64 + config->count * 24, sizeof(*argv)), **at = argv;

    for (; *first; first++)
        *at++ = xstrdup(*first);
    *at++ = xasprintf("%u", config->count);
    for (unsigned i = 0; i < config->count; i++)
        *at++ = xstrdup(config->disks[i].where ?: "");
    add_options(&at, process_params, &config->process, config->process_given, "config control");
    for (unsigned i = 0; i < config->count; i++) {
        const struct disk_config *d = &config->disks[i];

        *at++ = xasprintf("--%s=%s", d->kind == DEVICE_NET ? "net" : "disk", d->name);
        add_options(&at, disk_params, &d->options, d->given, "chain fd");
        *at++ = xstrdup(d->options.chain);
    }
    return argv;
}

/* ---- Building ------------------------------------------------------------------------------ */

void run_config_init(struct run_config *config)
{
    *config = (struct run_config){0};
    options_defaults(process_params, &config->process);
}

void run_config_free(struct run_config *config)
{
    for (unsigned i = 0; i < config->count; i++) {
        free(config->disks[i].name);
        free(config->disks[i].where);
        free(config->disks[i].rear);
        param_free_all(disk_params, &config->disks[i].options);
    }
    free(config->disks);
    param_free_all(process_params, &config->process);
    *config = (struct run_config){0};
}

int config_add_disk(struct run_config *config, enum device_kind kind, const char *name,
                    const char *where, struct dt_error *err)
{
    struct disk_config *d;

    if (config->count == CONFIG_MAX_DISKS)
        return dt_fail(err, -EINVAL, "more than %u disks", CONFIG_MAX_DISKS);
    for (unsigned i = 0; i < config->count; i++)
        if (strcmp(config->disks[i].name, name) == 0)
            return dt_fail(err, -EINVAL, "a %s named '%.64s' is there already",
                           config->disks[i].kind == DEVICE_NET ? "card" : "disk", name);
    config->disks = reallocarray(config->disks, config->count + 1, sizeof(*d));
    CHECK(config->disks);
    d = &config->disks[config->count++];
    *d = (struct disk_config){.kind = kind,
                              .name = xstrdup(name),
                              .where = where ? xstrdup(where) : NULL,
                              .mode = SOCKET_MODE,
                              .owner = -1,
                              .group = -1,
                              .inherited = -1};
    options_defaults(disk_params, &d->options);
    return 0;
}

int config_set(const struct dt_param *params, const struct dt_param *p, void *base, uint64_t *given,
               const char *value, struct dt_error *err)
{
    uint64_t bit = 1ull << (p - params);

    if (*given & bit)
        return dt_fail(err, -EINVAL, "'%s' is given twice", p->name);
    *given |= bit;
    return param_apply(p, base, value, err);
}

/* ---- The command line ---------------------------------------------------------------------- */

const struct dt_param disk_begin[] = {
    {"disk", DT_PARAM_STRING, .unit = "name",
     .help = "Begin a disk: its options and then its chain follow."},
    {"net", DT_PARAM_STRING, .unit = "name",
     .help = "Begin a network card: its options and then its chain follow."},
    {NULL},
};

static int take_chain(struct run_config *config, const char *text, struct dt_error *err)
{
    struct disk_config *disk = config->count ? &config->disks[config->count - 1] : NULL;

    if (!disk)
        return dt_fail(err, -EINVAL, "'%.64s': a chain must follow its --disk NAME or --net NAME",
                       text);
    if (disk->options.chain)
        return dt_fail(err, -EINVAL,
                       "'%.64s' follows the chain of disk '%s': quote a chain as one word", text,
                       disk->name);
    return config_set(disk_params, disk_params, &disk->options, &disk->given, text, err);
}

static int take_option(struct run_config *config, const struct option *o, struct dt_error *err)
{
    struct disk_config *disk = config->count ? &config->disks[config->count - 1] : NULL;

    switch (o->group) {
    case 0:
        return config_set(process_params, o->param, &config->process, &config->process_given,
                          o->value, err);
    case 1:
        return config_add_disk(config, o->param == disk_begin ? DEVICE_DISK : DEVICE_NET, o->value,
                               NULL, err);
    default:
        if (!disk)
            return dt_fail(err, -EINVAL, "--%s must follow its --disk NAME or --net NAME",
                           o->param->name);
        return config_set(disk_params, o->param, &disk->options, &disk->given, o->value, err);
    }
}

int run_config_parse_args(struct run_config *config, char **argv, struct dt_error *err)
{
    const struct option_group groups[] = {
        {"process", process_params}, {"disk", disk_begin}, {"its options", disk_params}, {NULL}};
    struct option_scan scan = {.argv = argv, .groups = groups};
    struct option option;
    int ret;

    while ((ret = options_next(&scan, &option, err)) > 0) {
        if (option.param)
            ret = take_option(config, &option, err);
        else
            ret = take_chain(config, option.value, err);
        if (ret < 0)
            break;
    }
    return ret;
}

/* ---- Judging ------------------------------------------------------------------------------- */

static int judge_owner(struct disk_config *d, struct dt_error *err)
{
    const struct disk_options *o = &d->options;
    uint64_t n;

    if (o->socket_owner && parse_uint(o->socket_owner, &n) == 0) {
        if (n >= UINT32_MAX) /* cut to 32 bits it might be root's */
            return dt_fail(err, -EINVAL, "'%.64s' is no user's number", o->socket_owner);
        d->owner = (long)n;
    } else if (o->socket_owner) {
        const struct passwd *user = getpwnam(o->socket_owner);

        if (!user)
            return dt_fail(err, -EINVAL, "no user is named '%.64s'", o->socket_owner);
        d->owner = user->pw_uid;
    }
    return o->socket_group ? parse_socket_group(o->socket_group, &d->group, err) : 0;
}

static int judge_numbers(struct disk_config *d, struct dt_error *err)
{
    const struct disk_options *o = &d->options;
    char *end;

    if (o->socket_mode && parse_socket_mode(o->socket_mode, &d->mode, err) < 0)
        return -EINVAL;
    if (o->fd) {
        unsigned long fd = strtoul(o->fd, &end, 10);

        if (end == o->fd || *end || fd > 1u << 20)
            return dt_fail(err, -EINVAL, "fd '%.20s' is not the number of a descriptor", o->fd);
        d->inherited = (int)fd;
    }
    if (o->serial && strlen(o->serial) > 20)
        return dt_fail(err, -EINVAL, "serial '%.40s' is longer than 20 bytes", o->serial);
    return 0;
}

/* Options that nobody would act on. */
static int judge_kind(const struct disk_config *d, struct dt_error *err)
{
    const struct disk_options *o = &d->options;

    if (d->kind == DEVICE_DISK && o->config_space)
        return dt_fail(err, -EINVAL, "config-space: a disk always has one");
    if (d->kind == DEVICE_DISK)
        return 0;
    if (o->serial)
        return dt_fail(err, -EINVAL, "serial: a network card has none");
    if (o->deadline)
        return dt_fail(err, -EINVAL, "deadline: only the requests of disks have one");
    return 0;
}

static int judge_disk(const struct run_config *config, struct disk_config *d, struct dt_error *err)
{
    const struct disk_options *o = &d->options;
    struct chain_spec spec;
    int ret;

    if (!o->chain)
        return dt_fail(err, -EINVAL, "it has no chain");
    if (!!o->socket + !!o->connect + !!o->fd > 1)
        return dt_fail(err, -EINVAL, "socket, connect and fd: which one is meant?");
    if (o->threads > config->process.threads)
        return dt_fail(err, -EINVAL, "threads-per-disk is %u, and there are %u threads",
                       (unsigned)o->threads, (unsigned)config->process.threads);
    ret = judge_numbers(d, err) ?: judge_kind(d, err);
    ret = ret ?: judge_owner(d, err);
    ret = ret ?: chain_parse(&spec, o->chain, err);
    if (ret == 0)
        chain_spec_free(&spec);
    return ret;
}

int run_config_judge(struct run_config *config, struct dt_error *err)
{
    if (config->count == 0)
        return dt_fail(err, -EINVAL,
                       "no disk and no card: --disk NAME --socket PATH 'CHAIN', --net the same, or "
                       "--config FILE");
    for (unsigned i = 0; i < config->count; i++) {
        struct disk_config *d = &config->disks[i];
        int ret = judge_disk(config, d, err);

        if (ret < 0) {
            dt_fail_prefix(err, "%s%s%s %s", d->where ?: "", d->where ? ": " : "",
                           d->kind == DEVICE_NET ? "net" : "disk", d->name);
            return ret;
        }
    }
    return 0;
}
