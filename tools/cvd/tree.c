/* SPDX-License-Identifier: MIT */
/*
 * tree.c - cvd tree: what stands on what (figure 5.3 of the thesis), with snapshots that nothing forks
 * from left out.
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

static void print_dot(const struct target *t, FILE *out)
{
    fputs("digraph pool {\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];\n", out);
    for (uint32_t slot = 0; slot < pool_slots(t->pool); slot++) {
        char name[2 * PX_NAME], created[32];
        const struct px_record *r = pool_record(t->pool, slot);
        uint32_t on;

        if (!shown(t, slot))
            continue;
        pool_full_name(t->pool, slot, name);
        print_time(r->created, created, sizeof(created));
        fprintf(out, "    n%u [shape=%s,label=\"%s\\n%s\"];\n", slot,
                r->kind == PX_DISK ? "box" : "ellipse", name, created);
        on = stands_on(t, slot);
        if (on != NO_SLOT)
            fprintf(out, "    n%u -> n%u;\n", on, slot);
    }
    fputs("}\n", out);
}

/**
 * struct branches - which things stand on which.
 * @first, @next: by slot, plus 1; 0 ends a list. The root's list is at the last place of @first.
 */
struct branches {
    uint32_t *first, *next;
};

static void print_branch(const struct target *t, const struct branches *b, uint32_t list,
                         unsigned depth)
{
    for (uint32_t slot = b->first[list]; slot; slot = b->next[slot - 1]) {
        char name[2 * PX_NAME];

        pool_full_name(t->pool, slot - 1, name);
        printf("%*s%s\n", (int)(4 * MIN(depth, 20u)), "", name);
        print_branch(t, b, slot - 1, depth + 1);
    }
}

static void print_text(const struct target *t)
{
    uint32_t n = pool_slots(t->pool);
    struct branches b = {xcalloc(n + 1, sizeof(uint32_t)), xcalloc(n + 1, sizeof(uint32_t))};

    for (uint32_t slot = n; slot-- > 0;) {
        uint32_t on;

        if (!shown(t, slot))
            continue;
        on = stands_on(t, slot);
        if (on == NO_SLOT)
            on = n;
        b.next[slot] = b.first[on];
        b.first[on] = slot + 1;
    }
    print_branch(t, &b, n, 0);
    free(b.first);
    free(b.next);
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
static int print_picture(const struct target *t, const char *format, struct dt_error *err)
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
    print_dot(t, dot);
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
        print_dot(t, stdout);
    else if (strcmp(format, "text") == 0)
        print_text(t);
    else if (strcmp(format, "svg") == 0 || strcmp(format, "png") == 0)
        return print_picture(t, format, err);
    else
        return dt_fail(err, -EINVAL, "--format is text, dot, svg or png");
    return 0;
}
