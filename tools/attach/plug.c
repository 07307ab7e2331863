/* SPDX-License-Identifier: MIT */
/*
 * plug.c - a disk is unplugged, and plugged in again with the same properties, over QMP.
 *
 * QEMU does not tell with what options a device was made, only what they became, so they are those of its command
 * line; for a device that came over QMP, what they became (learn.c). The slot is asked for: where it was not written, it
 * was QEMU's choice, and the guest shall find its disk where it was.
 */
#include "tools/attach/plug.h"

/* "driver,key=value,...": a comma within a value is written twice. */
static json_t *parse_words(const char *text)
{
    json_t *options = json_object();
    _cleanup_free_ char *item = xcalloc(1, strlen(text) + 1);

    for (bool first = true; *text; first = false) {
        char *equals, *to = item;

        for (; *text && (*text != ',' || text[1] == ','); text++) {
            text += *text == ',';
            *to++ = *text;
        }
        *to = '\0';
        text += *text == ',';
        equals = strchr(item, '=');
        if (equals)
            *equals = '\0';
        if (first && !equals)
            json_object_set_new(options, "driver", json_string(item));
        else
            json_object_set_new(options, item, json_string(equals ? equals + 1 : "on"));
    }
    return options;
}

static json_t *parse_device(const char *text)
{
    return *text == '{' ? json_loads(text, 0, NULL) : parse_words(text);
}

static const char *option(const json_t *options, const char *name)
{
    return json_string_value(json_object_get(options, name));
}

/* The words after "-device" that name the chardev. */
static json_t *find_options(struct vm *vm)
{
    _cleanup_free_ char *line = NULL;
    size_t size = vm_command_line(vm, &line);
    bool device = false;

    for (size_t at = 0; at < size; at += strlen(line + at) + 1) {
        json_t *options = device ? parse_device(line + at) : NULL;
        const char *chardev = option(options, "chardev");

        if (chardev && strcmp(chardev, vm->chardev) == 0)
            return options;
        json_decref(options);
        device = strcmp(line + at, "-device") == 0 || strcmp(line + at, "--device") == 0;
    }
    return NULL;
}

/* Where it is now: "rp0" of "/machine/peripheral/rp0/rp0", and "4.0" of slot and function in one number. */
static int learn_slot(struct plug *plug, struct vm *vm, struct dt_error *err)
{
    json_t *bus = NULL, *addr = NULL;
    const char *path, *name;
    int ret = ask_device(vm, plug->id, "parent_bus", &bus, err);

    ret = ret ?: ask_device(vm, plug->id, "addr", &addr, err);
    path = json_string_value(bus);
    name = path ? strrchr(path, '/') : NULL;
    if (ret == 0 && (!name || !json_is_integer(addr)))
        ret = dt_fail(err, -ENOTSUP, "device %s is in no PCI slot", plug->id);
    if (ret == 0) {
        unsigned devfn = (unsigned)json_integer_value(addr);

        json_object_set_new(plug->options, "bus", json_string(name + 1));
        json_object_set_new(plug->options, "addr", json_sprintf("%x.%x", devfn >> 3, devfn & 7));
    }
    json_decref(bus);
    json_decref(addr);
    return ret;
}

/* Is it the device that was found, and still there? */
static int judge(struct plug *plug, struct vm *vm, struct dt_error *err)
{
    const char *driver = option(plug->options, "driver");
    json_t *chardev = NULL;
    int ret;

    plug->id = option(plug->options, "id");
    if (!plug->id)
        return dt_fail(err, -ENOTSUP,
                       "the device of chardev %s has no id=, and cannot be unplugged", vm->chardev);
    if (!driver || strncmp(driver, "vhost-user-blk-pci", strlen("vhost-user-blk-pci")) != 0)
        return dt_fail(err, -ENOTSUP, "device %s is a %s, not a vhost-user-blk-pci", plug->id,
                       driver ?: "?");
    ret = ask_device(vm, plug->id, "chardev", &chardev, err);
    if (ret == 0 &&
        (!json_is_string(chardev) || strcmp(json_string_value(chardev), vm->chardev) != 0))
        ret =
            dt_fail(err, -ENOTSUP, "device %s has another chardev than it was made with", plug->id);
    json_decref(chardev);
    return ret;
}

int plug_find(struct plug *plug, struct vm *vm, struct dt_error *err)
{
    json_t *bootindex = NULL;
    int ret;

    *plug = (struct plug){.options = find_options(vm) ?: learn_options(vm)};
    if (!plug->options)
        return dt_fail(err, -ENOTSUP,
                       "no device with an id= uses chardev %s: it cannot be unplugged",
                       vm->chardev);
    ret = judge(plug, vm, err) ?: learn_slot(plug, vm, err);
    ret = ret ?: ask_device(vm, plug->id, "bootindex", &bootindex, err);
    plug->boots = json_integer_value(bootindex) >= 0;
    json_decref(bootindex);
    if (ret < 0)
        plug_free(plug);
    return ret;
}

void plug_free(struct plug *plug)
{
    json_decref(plug->options);
    plug->options = NULL;
}

int plug_out(struct plug *plug, struct vm *vm, uint64_t timeout, struct dt_error *err)
{
    int ret = qmp_call(vm->qmp, "device_del", json_pack("{ss}", "id", plug->id), NULL, err);

    if (ret < 0)
        return ret;
    if (qmp_await_deleted(vm->qmp, plug->id, timeout) < 0)
        return dt_fail(
            err, -ETIMEDOUT,
            "the guest did not let go of %s within %s; when it does, the disk is gone until "
            "somebody plugs it in",
            plug->id, human_ns(timeout));
    plug->out = true;
    vm_let_go(vm);
    ret = qmp_call(vm->qmp, "chardev-remove", json_pack("{ss}", "id", vm->chardev), NULL, err);
    plug->bare = ret == 0;
    return ret;
}

int plug_chardev(struct plug *plug, struct vm *vm, unsigned reconnect, struct dt_error *err)
{
    json_t *addr = json_pack("{ss s{ss}}", "type", "unix", "data", "path", vm->socket);
    json_t *data = json_pack("{so sb}", "addr", addr, "server", 0);
    int ret;

    if (reconnect)
        json_object_set_new(data, "reconnect", json_integer(reconnect));
    ret = qmp_call(
        vm->qmp, "chardev-add",
        json_pack("{ss s{ss so}}", "id", vm->chardev, "backend", "type", "socket", "data", data),
        NULL, err);
    plug->bare = ret < 0;
    return ret;
}

void plug_drop_chardev(struct plug *plug, struct vm *vm)
{
    struct dt_error ignored; /* it may not be there */

    if (qmp_call(vm->qmp, "chardev-remove", json_pack("{ss}", "id", vm->chardev), NULL, &ignored) ==
        0)
        plug->bare = true;
}

int plug_in(struct plug *plug, struct vm *vm, struct dt_error *err)
{
    int ret = qmp_call(vm->qmp, "device_add", json_incref(plug->options), NULL, err);

    plug->out = ret < 0;
    return ret;
}
