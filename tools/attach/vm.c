/* SPDX-License-Identifier: MIT */
/*
 * vm.c - what QEMU tells of a chardev, and what it does not: whether it connects again is only in the command line
 * of its process. That is not always the process at the other end of QMP: where libvirt owns QEMU's monitor, a proxy is.
 */
#include "tools/attach/vm.h"
#include "tools/attach/cut.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define CMDLINE_MAX (256u << 10)

static int ask_chardev(struct vm *vm, const char *property, json_t **value, struct dt_error *err)
{
    _cleanup_free_ char *path = xasprintf("/chardevs/%s", vm->chardev);

    return qmp_call(vm->qmp, "qom-get", json_pack("{ss ss}", "path", path, "property", property),
                    value, err);
}

static int learn_socket(struct vm *vm, struct dt_error *err)
{
    json_t *addr = NULL;
    const char *type, *path;
    int ret = ask_chardev(vm, "addr", &addr, err);

    if (ret < 0) {
        dt_fail_prefix(err, "chardev %s", vm->chardev);
        return ret == -EREMOTEIO ? -ENODEV : ret;
    }
    type = json_string_value(json_object_get(addr, "type"));
    path = json_string_value(json_object_get(addr, "path"));
    if (!type || strcmp(type, "unix") != 0 || !path || path[0] != '/')
        ret = dt_fail(err, -ENOTSUP,
                      "chardev %s does not connect to a Unix socket by an absolute path",
                      vm->chardev);
    else
        vm->socket = xstrdup(path);
    json_decref(addr);
    return ret;
}

bool vm_connected(struct vm *vm)
{
    struct dt_error ignored;
    json_t *connected = NULL;
    bool yes = ask_chardev(vm, "connected", &connected, &ignored) == 0 && json_is_true(connected);

    json_decref(connected);
    return yes;
}

/* The process of one of its threads; 0 = it is gone. */
static pid_t process_of(json_int_t thread)
{
    _cleanup_free_ char *path = xasprintf("/proc/%lld/status", (long long)thread);
    FILE *status = fopen(path, "re");
    char line[128];
    int pid = 0;

    while (status && pid == 0 && fgets(line, sizeof(line), status))
        if (sscanf(line, "Tgid: %d", &pid) != 1)
            pid = 0;
    if (status)
        fclose(status);
    return pid;
}

/* Or a QEMU that its guest took over could have root cut the connection of another user's VM. */
static int judge_speaker(struct vm *vm, struct dt_error *err)
{
    const struct ucred *peer = qmp_peer(vm->qmp);
    _cleanup_free_ char *path = xasprintf("/proc/%d", vm->pid);
    struct stat qemu;

    if (peer->pid == vm->pid || peer->uid == 0 || peer->uid == geteuid() ||
        (stat(path, &qemu) == 0 && qemu.st_uid == peer->uid))
        return 0;
    return dt_fail(err, -EPERM, "process %d, of user %u, says that QEMU is process %d, of another",
                   peer->pid, peer->uid, vm->pid);
}

/* QEMU tells the threads of its processors, whoever passes its words on. */
static int learn_pid(struct vm *vm, struct dt_error *err)
{
    json_t *cpus = NULL, *thread;
    int ret = qmp_call(vm->qmp, "query-cpus-fast", NULL, &cpus, err);

    thread = json_object_get(json_array_get(cpus, 0), "thread-id");
    vm->pid = ret == 0 ? process_of(json_integer_value(thread)) : 0;
    json_decref(cpus);
    if (ret == 0 && vm->pid <= 0)
        ret =
            dt_fail(err, -ESRCH,
                    "QEMU's process is not to be found: its threads have other numbers here (is it "
                    "on another machine, or in a container?)");
    return ret ?: judge_speaker(vm, err);
}

/* "socket,id=c0,path=...,reconnect=1": the seconds in the options of chardev @id; QEMU 9.2 has reconnect-ms. */
static unsigned reconnect_in(const char *options, const char *id)
{
    _cleanup_free_ char *copy = xstrdup(options);
    unsigned seconds = 0;
    bool ours = false;
    char *save = NULL;

    for (char *o = strtok_r(copy, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
        ours |= strncmp(o, "id=", 3) == 0 && strcmp(o + 3, id) == 0;
        if (strncmp(o, "reconnect=", 10) == 0)
            seconds = (unsigned)strtoul(o + 10, NULL, 10);
        else if (strncmp(o, "reconnect-ms=", 13) == 0)
            seconds = (unsigned)((strtoul(o + 13, NULL, 10) + 999) / 1000);
    }
    return ours ? seconds : 0;
}

size_t vm_command_line(struct vm *vm, char **line)
{
    _cleanup_free_ char *path = xasprintf("/proc/%d/cmdline", vm->pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t n;

    *line = xcalloc(1, CMDLINE_MAX + 1);
    while (fd >= 0 && have < CMDLINE_MAX && (n = read(fd, *line + have, CMDLINE_MAX - have)) > 0)
        have += (size_t)n;
    return have;
}

static void learn_reconnect(struct vm *vm)
{
    _cleanup_free_ char *line = NULL;
    size_t have = vm_command_line(vm, &line);

    for (size_t at = 0; at < have && vm->reconnect == 0; at += strlen(line + at) + 1)
        vm->reconnect = reconnect_in(line + at, vm->chardev);
}

int vm_open(struct vm *vm, const char *qmp, const char *chardev, struct dt_error *err)
{
    int ret;

    *vm = (struct vm){.chardev = chardev, .link = -1};
    ret = qmp_open(&vm->qmp, qmp, err);
    ret = ret ?: learn_socket(vm, err);
    ret = ret ?: learn_pid(vm, err);
    if (ret < 0) {
        vm_close(vm);
        return ret;
    }
    learn_reconnect(vm);
    vm->link = cut_find(vm->pid, vm->socket, err);
    if (vm->link < 0) {
        ret = vm->link;
        vm_close(vm);
    }
    return ret < 0 ? ret : 0;
}

void vm_close(struct vm *vm)
{
    qmp_close(vm->qmp);
    free(vm->socket);
    if (vm->link >= 0)
        close(vm->link);
    *vm = (struct vm){.link = -1};
}

int vm_cut(struct vm *vm, struct dt_error *err)
{
    if (shutdown(vm->link, SHUT_RDWR) < 0)
        return dt_fail(err, -errno, "cannot end the connection to %s: %s", vm->socket,
                       strerror(errno));
    vm_let_go(vm);
    return 0;
}

void vm_let_go(struct vm *vm)
{
    close(vm->link);
    vm->link = -1;
}

/*
 * QEMU 7.2 forgets a disconnection that happens while the VM is stopped, and never uses the chardev again:
 * vhost_user_async_close_bh() does nothing for a device that is not started.
 */
int vm_judge(struct vm *vm, bool replug, struct dt_error *err)
{
    json_t *status = NULL;
    int ret = qmp_call(vm->qmp, "query-status", NULL, &status, err);

    if (ret == 0 && !json_is_true(json_object_get(status, "running")))
        ret = dt_fail(
            err, -EBUSY,
            "the VM is not running (%s): QEMU would not notice that its back end changes; let "
            "it run",
            json_string_value(json_object_get(status, "status")) ?: "?");
    json_decref(status);
    if (ret == 0 && vm->reconnect == 0 && !replug)
        ret = dt_fail(err, -ENOTSUP,
                      "chardev %s does not connect again (its options lack reconnect=1): only a "
                      "re-plug is possible, which the guest sees: --replug, see devtap-attach(1)",
                      vm->chardev);
    return ret;
}
