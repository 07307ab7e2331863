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

struct known {
    struct list node;
    struct dt_block_ext ext;
    const struct dt_block_ext *source; /* where the copy was made from */
};

static struct list all_known = {&all_known, &all_known};

static struct known *find_known(const char *name)
{
    list_for_each (it, &all_known) {
        struct known *known = list_entry(it, struct known, node);

        if (strcmp(known->ext.name, name) == 0)
            return known;
    }
    return NULL;
}

/*
 * Copies a description of any size. A longer one comes from a newer header; it is taken when
 * everything that we do not know of is zero, that is, unused.
 */
static int copy_description(struct dt_block_ext *to, const struct dt_block_ext *from,
                            struct dt_error *err)
{
    const uint8_t *bytes = (const uint8_t *)from;

    if (!from)
        return dt_fail(err, -EINVAL, "there is no description");
    if (from->abi != DT_ABI)
        return dt_fail(
            err, -ENOEXEC,
            "it was built for extension ABI %u, and this program has %u: compile it again",
            from->abi, DT_ABI);
    if (from->size < offsetof(struct dt_block_ext, open) || from->size > 16384)
        return dt_fail(err, -ENOEXEC,
                       "its description claims a size of %u bytes: use DT_BLOCK_EXT_HEADER",
                       from->size);
    for (size_t i = sizeof(*to); i < from->size; i++)
        if (bytes[i])
            return dt_fail(err, -ENOEXEC,
                           "it was built for a newer devtap and uses what this one does not have");
    memset(to, 0, sizeof(*to));
    memcpy(to, from, MIN(sizeof(*to), from->size));
    to->size = sizeof(*to);
    return 0;
}

int registry_add(const struct dt_block_ext *ext, struct dt_error *err)
{
    struct known *known = xcalloc(1, sizeof(*known)), *other;
    int ret = copy_description(&known->ext, ext, err);

    if (ret == 0)
        ret = describe_check(&known->ext, err);
    if (ret < 0) {
        free(known);
        return ret;
    }
    other = find_known(known->ext.name);
    if (other) {
        free(known);
        return dt_fail(err, -EEXIST, "%s: %s of that name is already there", ext->name,
                       other->ext.flags & DT_BACK ? "a back" : "an extension");
    }
    known->source = ext;
    list_add_tail(&all_known, &known->node);
    return 0;
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

/* Loads @path; the description in it, as registered. */
static const struct dt_block_ext *load_object(const char *path, struct dt_error *err)
{
    const struct dt_block_ext *(*entry)(void);
    const struct dt_block_ext *ext;
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!object) {
        dt_fail(err, -ENOENT, "cannot load %s: %s", path, load_reason(path));
        return NULL;
    }
    entry = (const struct dt_block_ext *(*)(void))dlsym(object, "dt_block_extension");
    if (!entry) {
        dt_fail(err, -ENOEXEC, "%s is no devtap extension: it lacks DT_BLOCK_EXTENSION(...)", path);
        dlclose(object);
        return NULL;
    }
    ext = entry();
    list_for_each (it, &all_known) {
        struct known *known = list_entry(it, struct known, node);

        if (known->source == ext) {
            dlclose(object); /* only its count: it stays loaded */
            return &known->ext;
        }
    }
    if (registry_add(ext, err) < 0) {
        dt_fail_prefix(err, "%s", path);
        dlclose(object);
        return NULL;
    }
    return &find_known(ext->name)->ext;
}

/* Beside a program that was built and not installed, in the folder of its modules. */
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
    return xasprintf("%s/../blk", program);
}

char *registry_directories(void)
{
    _cleanup_free_ char *built = build_directory();
    const char *own = getenv("DEVTAP_EXTENSIONS");

    return xasprintf("%s%s%s:%s", own ?: "", own ? ":" : "", built, DEVTAP_EXTENSION_DIR);
}

/* Looks for NAME.so in those directories; true if there is one, and then @ext is set. */
static bool load_named(const char *name, const struct dt_block_ext **ext, struct dt_error *err)
{
    _cleanup_free_ char *list = registry_directories();
    char *rest = list, *dir;

    while ((dir = strsep(&rest, ":")) != NULL) {
        _cleanup_free_ char *path = xasprintf("%s/%s.so", *dir ? dir : ".", name);

        if (access(path, F_OK) != 0)
            continue;
        *ext = load_object(path, err);
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

const struct dt_block_ext *registry_find(const char *name, struct dt_error *err)
{
    struct nearest nearest = {.wanted = name};
    const struct dt_block_ext *ext;
    struct known *known;

    if (strchr(name, '/') && is_object(name))
        return load_object(name, err);
    if (strchr(name, '/'))
        return placement_program(name, err);
    known = find_known(name);
    if (known)
        return &known->ext;
    if (describe_name_ok(name) && load_named(name, &ext, err))
        return ext;
    dt_fail(err, -ENOENT, "no extension or back is named '%.64s'", name);
    for (ext = registry_next(NULL); ext; ext = registry_next(ext))
        nearest_offer(&nearest, ext->name);
    nearest_hint(&nearest, err);
    if (!nearest.best && err)
        dt_fail(err, -ENOENT, "%s (`devtap extensions` lists them)", err->text);
    return NULL;
}
