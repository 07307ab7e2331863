/* SPDX-License-Identifier: MIT */
/* cmd-run.c - devtap run: serve soft disks; and the same under QEMU's conventions for back ends. */
#include "tools/run/run.h"

#include <signal.h>

static void print_capabilities(void)
{
    print_json(json_pack("{ss s[ss]}", "type", "block", "features", "read-only", "blk-file"));
}

static int serve(const struct verb *verb, struct run_config *config)
{
    struct dt_error err;
    int ret = run_config_judge(config, &err);

    if (ret < 0)
        return verb_fail(verb, ret, &err);
    signal(SIGPIPE, SIG_IGN); /* a log or a client that went away must not end the disks */
    signal(SIGXFSZ, SIG_IGN); /* nor a file that has grown too large: whoever writes it is told */
    log_set_level((enum dt_log_level)config->process.log_level);
    return config->process.single ? server_run(verb, config, NULL) : supervise_run(verb, config);
}

static int run_raw(const struct verb *verb, char **argv)
{
    struct run_config config;
    struct dt_error err;
    int ret;

    run_config_init(&config);
    ret = run_config_parse_args(&config, argv, &err);
    if (ret == 0 && config.process.config)
        ret = run_config_read_file(&config, config.process.config, &err);
    if (ret < 0)
        ret = verb_fail(verb, ret, &err);
    else if (config.process.print_capabilities)
        print_capabilities();
    else
        ret = serve(verb, &config);
    run_config_free(&config);
    return ret;
}

const struct verb verb_run = {
    .name = "run",
    .args = "[OPTION...] --disk NAME --socket PATH [DISK OPTION...] CHAIN [--disk ...]",
    .summary = "serve soft disks and network cards to virtual machines",
    .help =
        "Opens the chain of each disk or card, makes its socket, and serves the VM that connects, "
        "until SIGTERM or SIGINT. Options of a disk follow its --disk NAME, and so does its chain; "
        "--net "
        "begins a network card in the same way:\n\n"
        "  devtap run --disk vm1 --socket /tmp/vm1.sock 'throttle iops=5000 | file path=vm1.img'\n"
        "  devtap run --net vm1-net --socket /tmp/vm1-net.sock 'rate tx-bits=100M | tap "
        "ifname=vm1'",
    .groups = {{"Options of the process", process_params},
               {"Each disk or network card begins with", disk_begin},
               {"Options of a disk or card", disk_params}},
    .completes = COMPLETES_FILE,
    .run_raw = run_raw,
};

/* ---- devtap-vhost-user-blk: QEMU's docs/interop/vhost-user.rst, "Backend program conventions"  */

struct alias_options {
    const char *socket_path, *fd, *blk_file;
    bool read_only, print_capabilities;
};

#define ALIAS(n, t, field) .name = n, .type = t, .offset = offsetof(struct alias_options, field)
static const struct dt_param alias_params[] = {
    {ALIAS("socket-path", DT_PARAM_PATH, socket_path), .help = "Listen for the VM there."},
    {ALIAS("fd", DT_PARAM_STRING, fd), .unit = "number", .help = "Use this inherited socket."},
    {ALIAS("blk-file", DT_PARAM_PATH, blk_file), .help = "The image to serve."},
    {ALIAS("read-only", DT_PARAM_BOOL, read_only), .help = "Refuse writes."},
    {ALIAS("print-capabilities", DT_PARAM_BOOL, print_capabilities),
     .help = "Print what this program can do, as JSON, and exit."},
    {NULL},
};

/* The path as one word of a chain, whatever is in it. */
static char *quoted(const char *path)
{
    char *text = xcalloc(strlen(path) * 4 + 3, 1), *to = text;

    *to++ = '\'';
    for (; *path; path++)
        if (*path == '\'')
            to = stpcpy(to, "'\\''");
        else
            *to++ = *path;
    *to = '\'';
    return text;
}

static int set_disk(struct run_config *config, const char *key, const char *value,
                    struct dt_error *err)
{
    struct disk_config *d = &config->disks[0];
    int index = param_find(disk_params, key);

    CHECK(index >= 0);
    return value ? config_set(disk_params, &disk_params[index], &d->options, &d->given, value, err)
                 : 0;
}

static int build_alias(struct run_config *config, const struct alias_options *o,
                       struct dt_error *err)
{
    _cleanup_free_ char *path = o->blk_file ? quoted(o->blk_file) : NULL, *chain = NULL,
                        *name = NULL;
    int ret;

    if (!path)
        return dt_fail(err, -EINVAL, "--blk-file is missing: the image to serve");
    if (!o->socket_path == !o->fd)
        return dt_fail(err, -EINVAL, "one of --socket-path and --fd is needed");
    chain = xasprintf("%sfile path=%s", o->read_only ? "readonly | " : "", path);
    name = xasprintf("blk-%ld", (long)getpid());
    ret = config_add_disk(config, DEVICE_DISK, name, NULL, err);
    ret = ret ?: set_disk(config, "chain", chain, err);
    ret = ret ?: set_disk(config, "socket", o->socket_path, err);
    ret = ret ?: set_disk(config, "fd", o->fd, err);
    return ret ?: set_disk(config, "serial", "devtap", err);
}

static int run_alias(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct alias_options *o = options;
    struct run_config config;
    struct dt_error err;
    int ret;

    if (o->print_capabilities) {
        print_capabilities();
        return STATUS_DONE;
    }
    run_config_init(&config);
    ret = build_alias(&config, o, &err);
    ret = ret < 0 ? verb_fail(verb, ret, &err) : serve(verb, &config);
    run_config_free(&config);
    return ret;
}

const struct verb verb_vhost_user_blk = {
    .name = "vhost-user-blk",
    .args = "--socket-path=PATH|--fd=N --blk-file=PATH [--read-only]",
    .summary = "serve one image under QEMU's conventions for vhost-user back ends",
    .groups = {{"Options", alias_params}},
    .options_size = sizeof(struct alias_options),
    .run = run_alias,
};
