/* SPDX-License-Identifier: MIT */
/*
 * attach.c - the tap is put before the back end of a running QEMU.
 *
 * Theory of operation: QEMU's chardev connects to a path, and connects again when the connection ends. So the
 * back end's socket is renamed, the connection is cut, and our process listens in its place and connects to the renamed
 * one. The VM runs on, and its requests wait in their rings: QEMU 7.2 does not notice a disconnection of a
 * VM that is stopped.
 *
 *     judge | rename, cut | serve | QEMU is back
 *
 * What was in flight: a back end takes its next client when it has finished what the last one asked for, and our
 * process listens only after its back end took it. So whatever the rings and the in-flight log say when
 * QEMU comes, nobody writes to them any more.
 *
 * A chardev that does not connect again has to be made anew, and for that its device be unplugged (plug.c). The rest is
 * the same; nothing is in flight then.
 *
 * Every step has its undoing, in reverse: our process ends, the socket gets its name back, QEMU connects to its
 * back end again. Where that back end keeps no in-flight log, this is not safe for what was in flight at the cut: QEMU
 * says where the ring stood then, and the back end has gone on since. So all that can be judged is judged before.
 */
#include "tools/attach/attach.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define LOOK_NS DT_MS(50)

static void doze(uint64_t ns)
{
    const struct timespec pause = {.tv_sec = (time_t)(ns / DT_S(1)),
                                   .tv_nsec = (long)(ns % DT_S(1))};

    nanosleep(&pause, NULL);
}

/* ---- Before ------------------------------------------------------------------------------------ */

static char *chain_of(const struct attach *a)
{
    return xasprintf("%s%svhost-user path=%s%s%s", a->layers ?: "", a->layers ? " | " : "", a->rear,
                     a->rear_options ? " " : "", a->rear_options ?: "");
}

static int judge_layer(const struct layer_spec *spec, struct dt_error *err)
{
    struct layer_spec rest;
    const struct dt_block_ext *ext = placement_find(DEVICE_DISK, spec, &rest, err);
    void *data;
    int ret = -ENOENT;

    if (ext) {
        data = xaligned(CACHE_LINE, MAX(ext->layer_size, (size_t)1));
        ret = param_apply_all(ext->params, data, &rest, err);
        if (ret == 0)
            param_free_all(ext->params, data);
        else
            dt_fail_prefix(err, "%s", spec->name);
        free(data);
    }
    free(rest.settings);
    return ret;
}

/* What devtap run would refuse only when the VM has lost its disk already. */
static int judge_chain(const struct attach *a, struct dt_error *err)
{
    _cleanup_free_ char *text = chain_of(a);
    struct chain_spec spec;
    int ret = chain_parse(&spec, text, err);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; ret == 0 && i < spec.count; i++)
        ret = judge_layer(&spec.layers[i], err);
    chain_spec_free(&spec);
    return ret;
}

int attach_find_plug(struct attach *a, struct dt_error *err)
{
    int ret = a->replug ? plug_find(&a->plug, &a->vm, err) : 0;

    if (ret == 0 && a->replug && a->plug.boots && !a->force)
        ret = dt_fail(
            err, -EPERM,
            "the VM may boot from %s (it has a bootindex): unplugged under a running system, it "
            "is lost to it; --force if that is no harm",
            a->plug.id);
    return ret;
}

int attach_judge(struct attach *a, struct dt_error *err)
{
    struct stat st;
    int ret = vm_judge(&a->vm, a->replug, err);

    ret = ret ?: judge_chain(a, err);
    ret = ret ?: attach_find_plug(a, err);
    if (ret < 0)
        return ret;
    if (stat(a->vm.socket, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", a->vm.socket, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return dt_fail(err, -ENOTSOCK, "%s is not a socket", a->vm.socket);
    if (lstat(a->rear, &st) == 0)
        return dt_fail(
            err, -EBUSY,
            "%s, where the back end's socket is to go, is taken: is a tap there already?", a->rear);
    return 0;
}

json_t *attach_plan(const struct attach *a)
{
    _cleanup_free_ char *chain = chain_of(a);
    json_t *plan = json_array();

    if (a->replug)
        json_array_append_new(
            plan, json_sprintf("unplug device %s, which the guest sees, and remove chardev %s",
                               a->plug.id, a->vm.chardev));
    json_array_append_new(plan, json_sprintf("rename %s to %s", a->vm.socket, a->rear));
    if (!a->replug)
        json_array_append_new(plan,
                              json_sprintf("end QEMU's connection (chardev %s)", a->vm.chardev));
    json_array_append_new(plan,
                          json_sprintf("devtap run --disk %s --socket %s --memory-slots off '%s'",
                                       a->disk, a->vm.socket, chain));
    if (a->replug)
        json_array_append_new(
            plan, json_sprintf("plug %s in again, at %s, slot %s", a->plug.id,
                               json_string_value(json_object_get(a->plug.options, "bus")),
                               json_string_value(json_object_get(a->plug.options, "addr"))));
    else
        json_array_append_new(
            plan, json_sprintf("wait for QEMU, which tries every %u s", a->vm.reconnect));
    return plan;
}

/* ---- Serving -------------------------------------------------------------------------------------- */

/* Whoever could connect to the socket whose place is taken can connect to ours: QEMU may be another user's. */
static int serve(struct attach *a, const struct stat *old, struct dt_error *err)
{
    _cleanup_free_ char *chain = chain_of(a), *mode = xasprintf("0%o", old->st_mode & 0777);
    _cleanup_free_ char *owner = xasprintf("%u", old->st_uid);
    _cleanup_free_ char *group = xasprintf("%u", old->st_gid);
    char *argv[16] = {"devtap", "run", "--disk", (char *)a->disk, "--socket", a->vm.socket,
                      /* The way back may lead to a back end with fewer than ours. */
                      "--memory-slots", "off", "--socket-mode", mode, chain};
    int ret = ready_listen(&a->ready, err);

    if (geteuid() == 0)
        memcpy(&argv[10], (char *[]){"--socket-owner", owner, "--socket-group", group, chain},
               5 * sizeof(char *));
    if (ret < 0)
        return ret;
    a->child = fork();
    if (a->child == 0) {
        execv("/proc/self/exe", argv);
        fprintf(stderr, "devtap attach: cannot run devtap: %m\n");
        _exit(STATUS_FAILED);
    }
    ret = a->child < 0 ? dt_fail(err, -errno, "fork: %s", strerror(errno)) : 0;
    ready_started(&a->ready);
    return ret;
}

static bool child_ended(struct attach *a)
{
    if (a->child <= 0 || waitpid(a->child, NULL, WNOHANG) == 0)
        return false;
    a->child = 0;
    return true;
}

/* A connection alone says little: the socket is there before the chain is open. */
static bool is_served(struct attach *a)
{
    return vm_connected(&a->vm) && (!a->child || ready_heard(&a->ready));
}

int attach_await_vm(struct attach *a, struct dt_error *err)
{
    uint64_t end = dt_clock_ns() + a->timeout;

    while (!is_served(a)) {
        if (a->child && child_ended(a))
            return dt_fail(err, -ECHILD, "devtap run ended before it served; its reason is above");
        if (dt_clock_ns() >= end)
            return dt_fail(err, -ETIMEDOUT, "QEMU did not connect to %s within %s", a->vm.socket,
                           human_ns(a->timeout));
        doze(LOOK_NS);
    }
    return 0;
}

/* ---- Doing and undoing ------------------------------------------------------------------------------ */

static void end_child(struct attach *a)
{
    if (a->child <= 0)
        return;
    kill(a->child, SIGTERM);
    while (waitpid(a->child, NULL, 0) < 0 && errno == EINTR)
        ;
    a->child = 0;
}

int attach_put_in(struct attach *a, unsigned reconnect, struct dt_error *err)
{
    int ret = plug_chardev(&a->plug, &a->vm, reconnect, err);

    ret = ret ?: attach_await_vm(a, err);
    return ret ?: plug_in(&a->plug, &a->vm, err);
}

static void undo(struct attach *a)
{
    struct dt_error err;

    if (a->plug.out && !a->plug.bare)
        plug_drop_chardev(&a->plug, &a->vm);
    end_child(a);
    if (a->moved && rename(a->rear, a->vm.socket) < 0)
        log_error("cannot rename %s back to %s: %m: do it by hand", a->rear, a->vm.socket);
    if ((a->plug.out && attach_put_in(a, a->vm.reconnect, &err) < 0) ||
        (a->cut && attach_await_vm(a, &err) < 0))
        log_error("%s", err.text);
}

/* From the VM's side: with the disk out, or its connection cut. */
static int let_go(struct attach *a, struct dt_error *err)
{
    int ret = a->replug ? 0 : vm_cut(&a->vm, err);

    a->cut = ret == 0 && !a->replug;
    return ret;
}

static int change(struct attach *a, struct dt_error *err)
{
    struct stat st;
    int ret = a->replug ? plug_out(&a->plug, &a->vm, a->timeout, err) : 0;

    if (ret < 0)
        return ret;
    if (stat(a->vm.socket, &st) < 0 || rename(a->vm.socket, a->rear) < 0)
        return dt_fail(err, -errno, "cannot rename %s to %s: %s", a->vm.socket, a->rear,
                       strerror(errno));
    a->moved = true;
    ret = let_go(a, err);
    ret = ret ?: serve(a, &st, err);
    if (ret < 0)
        return ret;
    return a->replug ? attach_put_in(a, ATTACH_RECONNECT, err) : attach_await_vm(a, err);
}

int attach_run(struct attach *a, struct dt_error *err)
{
    uint64_t began = dt_clock_ns();
    int ret = change(a, err);

    if (ret < 0)
        undo(a);
    ready_end(&a->ready);
    a->pause = dt_clock_ns() - began;
    return ret;
}
