/* SPDX-License-Identifier: MIT */
/*
 * registry.c - all extensions and backs this process knows: those linked in, and those of
 * shared objects loaded when a chain names them.
 *
 * The registry keeps a copy of each description, because one that was compiled against an older
 * header is shorter than ours: what it does not have reads as zero here, which always means
 * "not used". A loaded object stays loaded, since its callbacks may be running.
 */
#include "core/core.h"
#include "core/describe.h"

#include <dlfcn.h>
#include <stdio.h>

#ifndef DEVTAP_EXTENSION_DIR
#define DEVTAP_EXTENSION_DIR "/usr/local/lib/devtap"
#endif

/* Among the flags of a view; descriptions from outside cannot have it. */
#define IS_NET (1u << 31)

/* @ext: of a disk's layer, or the view of another's. @source: what it was made from. */
struct known {
    struct list node;
    enum device_kind kind;
    struct dt_block_ext ext;
    struct dt_net_ext net;
    const void *source;
};

static struct list all_known = {&all_known, &all_known};

static struct known *known_of(const struct dt_block_ext *ext)
{
    return container_of(ext, struct known, ext);
}

static struct known *find_known(enum device_kind kind, const char *name)
{
    list_for_each (it, &all_known) {
        struct known *known = list_entry(it, struct known, node);

        if (known->kind == kind && strcmp(known->ext.name, name) == 0)
            return known;
    }
    return NULL;
}

/*
 * Copies a description of any size. A longer one comes from a newer header; it is taken when
 * everything that we do not know of is zero, that is, unused.
 */
static int copy_description(void *to, uint32_t room, const void *from, uint32_t least,
                            struct dt_error *err)
{
    /* All descriptions begin so. */
    const struct {
        uint32_t abi, size;
    } *head = from;
    const uint8_t *bytes = from;

    if (!from)
        return dt_fail(err, -EINVAL, "there is no description");
    if (head->abi != DT_ABI)
        return dt_fail(
            err, -ENOEXEC,
            "it was built for extension ABI %u, and this program has %u: compile it again",
            head->abi, DT_ABI);
    if (head->size < least || head->size > 16384)
        return dt_fail(
            err, -ENOEXEC, "its description claims a size of %u bytes: use %s", head->size,
            room == sizeof(struct dt_net_ext) ? "DT_NET_EXT_HEADER" : "DT_BLOCK_EXT_HEADER");
    for (size_t i = room; i < head->size; i++)
        if (bytes[i])
            return dt_fail(err, -ENOEXEC,
                           "it was built for a newer devtap and uses what this one does not have");
    memset(to, 0, room);
    memcpy(to, from, MIN(room, head->size));
    return 0;
}

static int add(struct known *known, int ret, struct dt_error *err)
{
    const char *name = known->ext.name;
    const struct known *other;

    if (ret < 0) {
        free(known);
        return ret;
    }
    other = find_known(known->kind, name);
    if (other) {
        free(known);
        return dt_fail(err, -EEXIST, "%s: %s of that name is already there", name,
                       other->ext.flags & DT_BACK ? "a back" : "an extension");
    }
    list_add_tail(&all_known, &known->node);
    return 0;
}

int registry_add(const struct dt_block_ext *ext, struct dt_error *err)
{
    struct known *known = xcalloc(1, sizeof(*known));
    int ret = copy_description(&known->ext, sizeof(known->ext), ext,
                               offsetof(struct dt_block_ext, open), err);

    known->source = ext;
    known->ext.size = sizeof(known->ext);
    return add(known, ret ?: describe_check(&known->ext, err), err);
}

static void make_view(struct dt_block_ext *view, const struct dt_net_ext *net)
{
    *view = (struct dt_block_ext){
        DT_BLOCK_EXT_HEADER,
        .name = net->name,
        .summary = net->summary,
        .help = net->help,
        .flags = net->flags,
        .params = net->params,
        .counters = net->counters,
        .verbs = net->verbs,
        .layer_size = net->layer_size,
        .ctx_size = net->ctx_size,
        .state_version = net->state_version,
        .open = net->open,
        .close = net->close,
        .start = net->start,
        .stop = net->stop,
        .admit = net->admit,
        .quiesce = net->quiesce,
        .set = net->set,
        .save = net->save,
        .load = net->load,
    };
}

int registry_add_net(const struct dt_net_ext *ext, struct dt_error *err)
{
    struct known *known = xcalloc(1, sizeof(*known));
    int ret = copy_description(&known->net, sizeof(known->net), ext,
                               offsetof(struct dt_net_ext, open), err);

    known->source = ext;
    known->kind = DEVICE_NET;
    make_view(&known->ext, &known->net);
    ret = ret ?: describe_check_net(&known->net, &known->ext, err);
    known->ext.flags |= IS_NET;
    return add(known, ret, err);
}

const struct dt_block_ext *registry_net_view(const struct dt_net_ext *ext, const void *owner)
{
    struct known *known = xcalloc(1, sizeof(*known));

    list_init(&known->node);
    known->kind = DEVICE_NET;
    known->net = *ext;
    known->source = owner;
    make_view(&known->ext, ext);
    known->ext.flags |= IS_NET;
    return &known->ext;
}

const void *registry_owner(const struct dt_block_ext *ext)
{
    return known_of(ext)->source;
}

/* Not every description is in the registry: that of a layer elsewhere is its placer's. */
enum device_kind registry_kind(const struct dt_block_ext *ext)
{
    return ext->flags & IS_NET ? DEVICE_NET : DEVICE_DISK;
}

const struct dt_net_ext *registry_net(const struct dt_block_ext *ext)
{
    return ext->flags & IS_NET ? &known_of(ext)->net : NULL;
}

const struct dt_block_ext *registry_next(const struct dt_block_ext *prev)
{
    struct list *next = prev ? container_of(prev, struct known, ext)->node.next : all_known.next;

    return next == &all_known ? NULL : &list_entry(next, struct known, node)->ext;
}

/* ---- Shared objects ----------------------------------------------------------------------- */

/* What dlerror() says, without the path, which our own text already names. */
static const char *load_reason(const char *path)
{
    const char *reason = dlerror();
    size_t n = strlen(path);

    if (!reason)
        return "unknown reason";
    return strncmp(reason, path, n) == 0 && strncmp(reason + n, ": ", 2) == 0 ? reason + n + 2
                                                                              : reason;
}

/* Registers what the object at @path describes: a layer of either class. Return: 1 if it is known already. */
static int register_object(void *object, const char *path, const void **source,
                           struct dt_error *err)
{
    int ret;

    const struct dt_block_ext *(*block)(void) =
        (const struct dt_block_ext *(*)(void))dlsym(object, "dt_block_extension");
    const struct dt_net_ext *(*net)(void) =
        block ? NULL : (const struct dt_net_ext *(*)(void))dlsym(object, "dt_net_extension");

    *source = block ? (const void *)block() : net ? (const void *)net() : NULL;
    list_for_each (it, &all_known)
        if (*source && list_entry(it, struct known, node)->source == *source)
            return 1;
    if (!block && !net)
        return dt_fail(err, -ENOEXEC,
                       "%s is no devtap extension: it lacks DT_BLOCK_EXTENSION(...) or "
                       "DT_NET_EXTENSION(...)",
                       path);
    ret = block ? registry_add(*source, err) : registry_add_net(*source, err);
    if (ret < 0)
        dt_fail_prefix(err, "%s", path);
    return ret;
}

/* Loads @path; the description in it, as registered. */
static const struct dt_block_ext *load_object(enum device_kind kind, const char *path,
                                              struct dt_error *err)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const void *source;
    int ret;

    if (!object) {
        dt_fail(err, -ENOENT, "cannot load %s: %s", path, load_reason(path));
        return NULL;
    }
    ret = register_object(object, path, &source, err);
    if (ret != 0)
        dlclose(object); /* of one that is known already, only its count: it stays loaded */
    if (ret < 0)
        return NULL;
    list_for_each (it, &all_known) {
        struct known *known = list_entry(it, struct known, node);

        if (known->source == source && known->kind == kind)
            return &known->ext;
    }
    dt_fail(err, -EINVAL, "%s is an extension for %s", path,
            kind == DEVICE_NET ? "disks, not for network cards" : "network cards, not for disks");
    return NULL;
}

/* Above a program that was built and not installed. */
static char *build_directory(void)
{
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    char *slash;

    if (n < 0)
        return xstrdup("");
    program[n] = '\0';
    slash = strrchr(program, '/');
    if (slash)
        *slash = '\0';
    return xasprintf("%s/..", program);
}

char *registry_directories(void)
{
    _cleanup_free_ char *built = build_directory();
    const char *own = getenv("DEVTAP_EXTENSIONS");

    return xasprintf("%s%s%s:%s", own ?: "", own ? ":" : "", built, DEVTAP_EXTENSION_DIR);
}

/* Looks for NAME.so in those directories; true if there is one, and then @ext is set. */
static bool load_named(enum device_kind kind, const char *name, const struct dt_block_ext **ext,
                       struct dt_error *err)
{
    _cleanup_free_ char *list = registry_directories();
    char *rest = list, *dir;

    while ((dir = strsep(&rest, ":")) != NULL) {
        _cleanup_free_ char *path = xasprintf("%s/%s.so", *dir ? dir : ".", name);

        if (access(path, F_OK) != 0)
            continue;
        *ext = load_object(kind, path, err);
        if (*ext && strcmp((*ext)->name, name) != 0) {
            dt_fail(err, -ENOEXEC, "%s holds an extension named '%s': rename the file to %s.so",
                    path, (*ext)->name, (*ext)->name);
            *ext = NULL;
        }
        return true;
    }
    return false;
}

/* Anything else that has a path is a program. What is not there is best reported as an object. */
static bool is_object(const char *path)
{
    size_t n = strlen(path);

    return (n > 3 && strcmp(path + n - 3, ".so") == 0) || access(path, X_OK) != 0;
}

const struct dt_block_ext *registry_find_kind(enum device_kind kind, const char *name,
                                              struct dt_error *err)
{
    struct nearest nearest = {.wanted = name};
    const struct dt_block_ext *ext;
    struct known *known;

    if (strchr(name, '/') && is_object(name))
        return load_object(kind, name, err);
    if (strchr(name, '/') && kind == DEVICE_DISK)
        return placement_program(name, err);
    known = find_known(kind, name);
    if (known)
        return &known->ext;
    if (describe_name_ok(name) && load_named(kind, name, &ext, err))
        return ext;
    dt_fail(err, -ENOENT, "no extension or back%s is named '%.64s'",
            kind == DEVICE_NET ? " of network cards" : "", name);
    for (ext = registry_next(NULL); ext; ext = registry_next(ext))
        if (registry_kind(ext) == kind)
            nearest_offer(&nearest, ext->name);
    nearest_hint(&nearest, err);
    if (!nearest.best && err)
        dt_fail(err, -ENOENT, "%s (`devtap extensions` lists them)", err->text);
    return NULL;
}

const struct dt_block_ext *registry_find(const char *name, struct dt_error *err)
{
    return registry_find_kind(DEVICE_DISK, name, err);
}
