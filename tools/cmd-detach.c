/* SPDX-License-Identifier: MIT */
/*
 * cmd-detach.c - devtap detach: the way back from attach. The process that serves the disk ends in good order, with
 * nothing in flight, the back end's socket gets its name back, and QEMU connects to it.
 */
#include "tools/attach/attach.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct detach_options {
    uint64_t timeout;
    bool replug, force, dry_run, json;
};

/** struct served - the soft disk, and who serves it. @rear: the back end's socket. */
struct served {
    pid_t pid;
    char *socket, *rear;
};

static char *rear_of(json_t *show)
{
    json_t *chain = json_object_get(show, "chain");
    json_t *back = json_array_get(chain, json_array_size(chain) - 1);
    const char *name = json_string_value(json_object_get(back, "name"));
    json_t *path = json_object_get(json_object_get(back, "parameters"), "path");

    if (json_is_object(path))
        path = json_object_get(path, "value");
    return name && strcmp(name, "vhost-user") == 0 && json_is_string(path)
               ? xstrdup(json_string_value(path))
               : NULL;
}

static int ask(struct client *c, struct served *s, struct dt_error *err)
{
    json_t *show = NULL, *list = NULL;
    const char *socket, *name = strrchr(client_path(c), '/');
    int ret = client_call(c, json_pack("{ss}", "verb", "list"), &list, err);

    if (ret == 0 && json_array_size(list) != 1)
        ret = dt_fail(err, -EBUSY, "its process serves %zu disks, and would end with all of them",
                      json_array_size(list));
    ret = ret
              ?: client_call(c, json_pack("{ss ss}", "verb", "show", "device", client_device(c)),
                             &show, err);
    if (ret == 0) {
        socket = json_string_value(json_object_get(json_array_get(list, 0), "socket"));
        s->socket = socket ? xstrdup(socket) : NULL;
        s->rear = rear_of(show);
        s->pid = (pid_t)strtol(name ? name + 1 : "", NULL, 10);
        if (!s->rear || !s->socket || s->pid <= 0)
            ret = dt_fail(err, -ENOTSUP,
                          "%s: its back is not vhost-user, or its process is not known",
                          client_device(c));
    }
    json_decref(list);
    json_decref(show);
    return ret;
}

static int find(const char *device, struct served *s, struct dt_error *err)
{
    struct client *client = NULL;
    int ret = client_find(&client, device, err);

    ret = ret ?: ask(client, s, err);
    client_free(client);
    return ret;
}

static int judge(struct attach *a, const struct served *s, struct dt_error *err)
{
    struct vm *vm = &a->vm;
    struct stat st;

    if (strcmp(vm->socket, s->socket) != 0)
        return dt_fail(err, -EINVAL, "chardev %s connects to %s, and the disk is at %s",
                       vm->chardev, vm->socket, s->socket);
    if (stat(s->rear, &st) < 0 || !S_ISSOCK(st.st_mode))
        return dt_fail(err, -ENOENT, "%s: the back end's socket is not there", s->rear);
    return vm_judge(vm, a->replug, err) ?: attach_find_plug(a, err);
}

/* In good order: requests are finished, its socket goes. */
static int end_process(const struct served *s, uint64_t timeout, struct dt_error *err)
{
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, s->pid, 0);
    struct pollfd ended = {.fd = fd, .events = POLLIN};

    if (fd < 0 || syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) < 0)
        return dt_fail(err, -errno, "process %d: %s", s->pid, strerror(errno));
    if (poll(&ended, 1, (int)(timeout / DT_MS(1))) != 1)
        return dt_fail(err, -ETIMEDOUT, "process %d does not end", s->pid);
    return 0;
}

static int change(struct attach *a, const struct served *s, struct dt_error *err)
{
    int ret = a->replug ? plug_out(&a->plug, &a->vm, a->timeout, err) : 0;
    struct dt_error worse;

    if (ret < 0)
        return ret;
    ret = end_process(s, a->timeout, err);
    if (ret < 0 && a->replug && attach_put_in(a, ATTACH_RECONNECT, &worse) < 0)
        log_error("%s is not plugged in again: %s", a->plug.id, worse.text);
    if (ret == 0 && rename(s->rear, a->vm.socket) < 0)
        ret = dt_fail(err, -errno, "cannot rename %s to %s: %s; do it by hand", s->rear,
                      a->vm.socket, strerror(errno));
    if (ret < 0 || !a->replug)
        return ret ?: attach_await_vm(a, err);
    return attach_put_in(a, a->vm.reconnect, err);
}

static void tell(const struct served *s, const struct detach_options *o, const struct attach *a,
                 uint64_t pause)
{
    const struct vm *vm = &a->vm;

    if (o->json)
        print_json(json_pack("{ss ss ss si sb sI}", "chardev", vm->chardev, "socket", vm->socket,
                             "rear", s->rear, "pid", (int)s->pid, "detached", !o->dry_run,
                             "pause_ms", (json_int_t)(pause / DT_MS(1))));
    else if (o->dry_run && o->replug)
        printf(
            "1. unplug device %s, which the guest sees, and remove chardev %s\n2. end process %d\n"
            "3. rename %s to %s\n4. plug %s in again\n",
            a->plug.id, vm->chardev, s->pid, s->rear, vm->socket, a->plug.id);
    else if (o->dry_run)
        printf("1. end process %d\n2. rename %s to %s\n3. wait for QEMU, which tries every %u s\n",
               s->pid, s->rear, vm->socket, vm->reconnect);
    else
        printf("%s has its back end again; %s for %s\n", vm->chardev,
               o->replug ? "the disk was unplugged" : "its requests waited", human_ns(pause));
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct detach_options *o = options;
    struct attach a = {
        .ready.fd = -1, .timeout = o->timeout, .replug = o->replug, .force = o->force};
    struct served s = {0};
    struct dt_error err;
    uint64_t began = 0;
    int ret = vm_open(&a.vm, argv[0], argv[1], &err);

    if (ret < 0)
        return verb_fail(verb, ret, &err);
    ret = find(argv[2], &s, &err) ?: judge(&a, &s, &err);
    began = dt_clock_ns();
    if (ret == 0 && !o->dry_run)
        ret = change(&a, &s, &err);
    if (ret == 0)
        tell(&s, o, &a, o->dry_run ? 0 : dt_clock_ns() - began);
    plug_free(&a.plug);
    vm_close(&a.vm);
    free(s.socket);
    free(s.rear);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

#define OPTION(name_, type_, field) \
    .name = name_, .type = type_, .offset = offsetof(struct detach_options, field)
static const struct dt_param options[] = {
    {OPTION("timeout", DT_PARAM_DURATION, timeout), .initial = "20s", .min = DT_S(1),
     .max = DT_S(600), .help = "How long the process may take to end, and QEMU to connect again."},
    ATTACH_OPTIONS,
    {NULL},
};

const struct verb verb_detach = {
    .name = "detach",
    .args = "[OPTION...] QMP-SOCKET CHARDEV DEVICE",
    .summary = "give a running QEMU its own back end again",
    .help = "The way back from attach, or from any tap between a VM and a back end at a socket.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct detach_options),
    .min_args = 3,
    .max_args = 3,
    .completes = COMPLETES_FILE,
    .run = run,
};
