/* SPDX-License-Identifier: MIT */
/*
 * tree.c - cvd tree: what stands on what (figure 5.3 of the thesis), with snapshots that nothing forks
 * from left out. Clones of one template that have no snapshots of their own differ in nothing but their names: where
 * they are many they are one thing in the picture.
 */
#include "tools/cvd/cvd.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

void print_time(uint64_t ns, char *text, size_t size)
{
    time_t seconds = (time_t)(ns / DT_S(1));
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

bool is_visible(const struct px_record *r, enum px_kind kind)
{
    return r && r->kind == kind && !(r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN));
}

static bool forks(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);

    return (r->flags & PX_LABELLED) || pool_clones(t->pool, slot);
}

/* What a thing stands on: the snapshot before it that is shown, or its disk's origin. */
static uint32_t stands_on(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);
    uint32_t at = pool_snapshot_before(t->pool, slot);

    while (at != NO_SLOT && !forks(t, at))
        at = pool_snapshot_before(t->pool, at);
    if (at != NO_SLOT)
        return at;
    if (r->kind == PX_SNAPSHOT)
        r = pool_record(t->pool, r->parent);
    return r->parent ? r->parent - 1 : NO_SLOT;
}

static bool shown(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);

    return is_visible(r, PX_DISK) || (is_visible(r, PX_SNAPSHOT) && forks(t, slot));
}

/**
 * struct branches - which things stand on which, by slot; what stands on nothing is at the last place.
 * @first, @next: plus 1; 0 ends a list.
 * @alike:        how many clones without snapshots stand on it; 0 where they are few, and shown one by one.
 */
struct branches {
    uint32_t slots, *first, *next, *alike;
};

#define FEW 4u

static bool is_alike(const struct target *t, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);

    return r->kind == PX_DISK && r->parent && pool_snapshot_before(t->pool, slot) == NO_SLOT;
}

static struct branches make_tree(const struct target *t, bool all)
{
    uint32_t n = pool_slots(t->pool);
    struct branches tree = {n, xcalloc(n + 1, sizeof(uint32_t)), xcalloc(n + 1, sizeof(uint32_t)),
                            xcalloc(n + 1, sizeof(uint32_t))};

    for (uint32_t slot = n; slot-- > 0;) {
        uint32_t on;

        if (!shown(t, slot))
            continue;
        on = stands_on(t, slot);
        if (on == NO_SLOT)
            on = n;
        tree.next[slot] = tree.first[on];
        tree.first[on] = slot + 1;
        tree.alike[on] += !all && is_alike(t, slot);
    }
    for (uint32_t slot = 0; slot < n; slot++)
        if (tree.alike[slot] <= FEW)
            tree.alike[slot] = 0;
    tree.alike[n] = 0;
    return tree;
}

static void free_tree(struct branches *tree)
{
    free(tree->first);
    free(tree->next);
    free(tree->alike);
}

/* "496 clones: vm1 ... vm500", of those on @on. */
static void name_alike(const struct target *t, const struct branches *tree, uint32_t on,
                       char text[4 * PX_NAME])
{
    const char *first = NULL, *last = NULL;

    for (uint32_t slot = tree->first[on]; slot; slot = tree->next[slot - 1])
        if (is_alike(t, slot - 1)) {
            last = pool_record(t->pool, slot - 1)->name;
            first = first ?: last;
        }
    snprintf(text, 4 * PX_NAME, "%u clones: %s ... %s", tree->alike[on], first, last);
}

static void print_dot_node(const struct target *t, FILE *out, uint32_t slot)
{
    const struct px_record *r = pool_record(t->pool, slot);
    char name[2 * PX_NAME], created[32];

    pool_full_name(t->pool, slot, name);
    print_time(r->created, created, sizeof(created));
    fprintf(out, "    n%u [shape=%s,label=\"%s\\n%s\"];\n", slot,
            r->kind == PX_DISK ? "box" : "ellipse", name, created);
}

static void print_dot_branch(const struct target *t, const struct branches *tree, FILE *out,
                             uint32_t on)
{
    char text[4 * PX_NAME];

    for (uint32_t slot = tree->first[on]; slot; slot = tree->next[slot - 1]) {
        if (tree->alike[on] && is_alike(t, slot - 1))
            continue;
        print_dot_node(t, out, slot - 1);
        if (on != tree->slots)
            fprintf(out, "    n%u -> n%u;\n", on, slot - 1);
    }
    if (!tree->alike[on])
        return;
    name_alike(t, tree, on, text);
    fprintf(out, "    m%u [shape=box3d,label=\"%s\"];\n    n%u -> m%u;\n", on, text, on, on);
}

static void print_dot(const struct target *t, FILE *out, bool all)
{
    struct branches tree = make_tree(t, all);

    fputs("digraph pool {\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];\n", out);
    for (uint32_t on = 0; on <= tree.slots; on++)
        print_dot_branch(t, &tree, out, on);
    fputs("}\n", out);
    free_tree(&tree);
}

static void print_branch(const struct target *t, const struct branches *tree, uint32_t on,
                         unsigned depth)
{
    int margin = (int)(4 * MIN(depth, 20u));
    char text[4 * PX_NAME];

    for (uint32_t slot = tree->first[on]; slot; slot = tree->next[slot - 1]) {
        if (tree->alike[on] && is_alike(t, slot - 1))
            continue;
        pool_full_name(t->pool, slot - 1, text);
        printf("%*s%s\n", margin, "", text);
        print_branch(t, tree, slot - 1, depth + 1);
    }
    if (!tree->alike[on])
        return;
    name_alike(t, tree, on, text);
    printf("%*s%s\n", margin, "", text);
}

static void print_text(const struct target *t, bool all)
{
    struct branches tree = make_tree(t, all);

    print_branch(t, &tree, tree.slots, 0);
    free_tree(&tree);
}

static void print_list(const struct target *t)
{
    json_t *list = json_array();

    for (uint32_t slot = 0; slot < pool_slots(t->pool); slot++) {
        char name[2 * PX_NAME], on_name[2 * PX_NAME];
        uint32_t on;

        if (!shown(t, slot))
            continue;
        pool_full_name(t->pool, slot, name);
        on = stands_on(t, slot);
        if (on != NO_SLOT)
            pool_full_name(t->pool, on, on_name);
        json_array_append_new(list, json_pack("{ss so}", "name", name, "on",
                                              on == NO_SLOT ? json_null() : json_string(on_name)));
    }
    print_json(list);
}

/* graphviz writes the picture to our standard output. */
static int print_picture(const struct target *t, const char *format, bool all, struct dt_error *err)
{
    _cleanup_free_ char *command =
        xasprintf("command -v dot >/dev/null || exit 127; exec dot -T%s", format);
    FILE *dot;
    int status;

    fflush(stdout);
    signal(SIGPIPE, SIG_IGN); /* its status tells more than our death */
    dot = popen(command, "we");
    if (!dot)
        return dt_fail(err, -errno, "dot cannot be run: %s", strerror(errno));
    print_dot(t, dot, all);
    status = pclose(dot);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return dt_fail(err, -ENOENT,
                       "pictures are drawn by dot, which is not installed (package graphviz)");
    return status ? dt_fail(err, -EIO, "dot failed") : 0;
}

int cmd_tree(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    const char *format = o->format ?: "text";

    if (o->json)
        print_list(t);
    else if (strcmp(format, "dot") == 0)
        print_dot(t, stdout, o->all);
    else if (strcmp(format, "text") == 0)
        print_text(t, o->all);
    else if (strcmp(format, "svg") == 0 || strcmp(format, "png") == 0)
        return print_picture(t, format, o->all, err);
    else
        return dt_fail(err, -EINVAL, "--format is text, dot, svg or png");
    return 0;
}
