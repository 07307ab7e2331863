/* SPDX-License-Identifier: MIT */
/*
 * learn.c - the options of a device that came over QMP, from what its properties are now.
 *
 * QEMU lists the properties of a type, with the defaults of some. What differs from its default, or has none, is given
 * to the new device, so it becomes what this one is: features that the back end lacked, and numbers that were left to QEMU,
 * included. Left out are properties that say where the device is, and links to other objects.
 */
#include "tools/attach/plug.h"

int ask_device(struct vm *vm, const char *id, const char *property, json_t **value,
               struct dt_error *err)
{
    _cleanup_free_ char *path = xasprintf("/machine/peripheral/%s", id);

    return qmp_call(vm->qmp, "qom-get", json_pack("{ss ss}", "path", path, "property", property),
                    value, err);
}

static bool uses(struct vm *vm, const char *id)
{
    struct dt_error ignored; /* most devices have no chardev */
    json_t *chardev = NULL;
    bool yes = ask_device(vm, id, "chardev", &chardev, &ignored) == 0 && json_is_string(chardev) &&
               strcmp(json_string_value(chardev), vm->chardev) == 0;

    json_decref(chardev);
    return yes;
}

/* The one with an id that uses the chardev: {"driver", "id", "chardev"}, or NULL. */
static json_t *find_device(struct vm *vm)
{
    json_t *list = NULL, *each, *found = NULL;
    struct dt_error ignored;
    size_t i;

    if (qmp_call(vm->qmp, "qom-list", json_pack("{ss}", "path", "/machine/peripheral"), &list,
                 &ignored) < 0)
        return NULL;
    json_array_foreach(list, i, each)
    {
        const char *id = json_string_value(json_object_get(each, "name"));
        const char *type = json_string_value(json_object_get(each, "type"));
        size_t len = type ? strlen(type) : 0;

        /* "child<vhost-user-blk-pci>" */
        if (found || !id || len < 8 || strncmp(type, "child<", 6) != 0 || !uses(vm, id))
            continue;
        found =
            json_pack("{ss% ss ss}", "driver", type + 6, len - 7, "id", id, "chardev", vm->chardev);
    }
    json_decref(list);
    return found;
}

static bool is_wanted(const json_t *options, const char *name, const char *type)
{
    static const char *const never[] = {"addr", "bus", "chardev", "id", "romfile", "multifunction"};

    for (unsigned i = 0; i < ARRAY_SIZE(never); i++)
        if (strcmp(name, never[i]) == 0)
            return false;
    return !json_object_get(options, name) && strncmp(type, "link<", 5) != 0 &&
           strncmp(type, "child<", 6) != 0;
}

static bool is_value(const json_t *value)
{
    return json_is_boolean(value) || json_is_integer(value) ||
           (json_is_string(value) && json_string_length(value) > 0);
}

static void learn_property(struct vm *vm, json_t *options, const json_t *property)
{
    const char *name = json_string_value(json_object_get(property, "name"));
    const char *type = json_string_value(json_object_get(property, "type"));
    const char *id = json_string_value(json_object_get(options, "id"));
    struct dt_error ignored; /* it cannot be read: then it could not be set either */
    json_t *value = NULL;

    if (!name || !type || !is_wanted(options, name, type) ||
        ask_device(vm, id, name, &value, &ignored) < 0)
        return;
    if (is_value(value) && !json_equal(value, json_object_get(property, "default-value")))
        json_object_set(options, name, value);
    json_decref(value);
}

json_t *learn_options(struct vm *vm)
{
    json_t *options = find_device(vm), *properties = NULL, *each;
    struct dt_error ignored;
    size_t i;

    if (options && qmp_call(vm->qmp, "device-list-properties",
                            json_pack("{sO}", "typename", json_object_get(options, "driver")),
                            &properties, &ignored) == 0)
        json_array_foreach(properties, i, each) learn_property(vm, options, each);
    json_decref(properties);
    return options;
}
