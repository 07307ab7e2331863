/* SPDX-License-Identifier: MIT */
/* cmd-cow.c - devtap cow: overlays that no VM uses. */
#include "blk/cow/offline.h"
#include "tools/tools.h"

#include <sys/stat.h>

struct cow_options {
    bool json;
    const char *base_id;
};

static const struct dt_param options_table[] = {
    {.name = "json",
     .type = DT_PARAM_BOOL,
     .offset = offsetof(struct cow_options, json),
     .initial = "off",
     .help = "Print JSON."},
    {.name = "base-id",
     .type = DT_PARAM_STRING,
     .offset = offsetof(struct cow_options, base_id),
     .help = "Of the new base, for rebase."},
    {NULL},
};

static void print_file(const struct cow_file *f, const struct cow_options *o, uint64_t bad)
{
    uint64_t held = cow_file_count(f) << COW_SHIFT;
    struct stat st = {0};

    fstat(f->fd, &st);
    if (o->json) {
        print_json(json_pack("{ss sI sI sI ss sb sI}", "file", f->path, "size",
                             (json_int_t)f->header.size, "held", (json_int_t)held, "allocated",
                             (json_int_t)st.st_blocks * 512, "base-id", f->header.base_id,
                             "in-use-this-boot", f->ours, "damaged", (json_int_t)bad));
        return;
    }
    printf("disk and base    %s (%llu bytes)\n", human_bytes(f->header.size),
           (unsigned long long)f->header.size);
    printf("held             %s of it\n", human_bytes(held));
    printf("space used       %s\n", human_bytes((uint64_t)st.st_blocks * 512));
    printf("base id          %s\n", f->header.base_id[0] ? f->header.base_id : "none");
    if (f->ours)
        printf("written to since the machine was booted\n");
}

static int do_check(struct cow_file *f, const struct cow_options *o, uint64_t bad,
                    struct dt_error *err)
{
    if (o->json)
        print_file(f, o, bad);
    if (bad)
        return dt_fail(err, -EBADMSG,
                       "%s: %llu sectors of its maps are damaged: what they say is lost", f->path,
                       (unsigned long long)bad);
    if (!o->json)
        printf("%s: header and maps are whole\n", f->path);
    return 0;
}

static int do_rebase(struct cow_file *f, const struct cow_options *o, char **argv,
                     struct dt_error *err)
{
    uint64_t copied;
    int ret = cow_file_rebase(f, argv[2], argv[3], o->base_id, &copied, err);

    if (ret == 0)
        printf("%s is an overlay of %s now; %s in which the bases differ were copied\n", f->path,
               argv[3], human_bytes(copied << COW_SHIFT));
    return ret;
}

static int do_commit(struct cow_file *f, char **argv, struct dt_error *err)
{
    int ret = cow_file_commit(f, argv[2], err);

    if (ret == 0)
        printf("%s has all that %s holds\n", argv[2], f->path);
    return ret;
}

static const struct {
    const char *name;
    int args;
    bool write, lenient;
} actions[] = {
    {"info", 2, false, false}, {"check", 2, false, true},  {"commit", 3, false, false},
    {"reset", 2, true, false}, {"rebase", 4, true, false},
};
enum { INFO, CHECK_FILE, COMMIT, RESET, REBASE };

static int act(unsigned action, const struct cow_options *o, char **argv, struct dt_error *err)
{
    struct cow_file file;
    uint64_t bad = 0;
    int ret = cow_file_open(&file, argv[1], actions[action].write,
                            actions[action].lenient ? &bad : NULL, err);

    if (ret < 0)
        return ret;
    if (action == INFO)
        print_file(&file, o, 0);
    else if (action == CHECK_FILE)
        ret = do_check(&file, o, bad, err);
    else if (action == COMMIT)
        ret = do_commit(&file, argv, err);
    else if (action == RESET)
        ret = cow_file_reset(&file, err);
    else
        ret = do_rebase(&file, o, argv, err);
    cow_file_close(&file);
    return ret;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    struct dt_error err;
    unsigned i = 0;
    int ret;

    while (i < ARRAY_SIZE(actions) && strcmp(argv[0], actions[i].name) != 0)
        i++;
    if (i == ARRAY_SIZE(actions))
        ret = dt_fail(&err, -EINVAL, "'%.40s': info, check, commit, reset or rebase was expected",
                      argv[0]);
    else if (argc != actions[i].args)
        ret = dt_fail(&err, -EINVAL, "%s takes %d file%s", argv[0], actions[i].args - 1,
                      actions[i].args == 2 ? "" : "s");
    else
        ret = act(i, options, argv, &err);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_cow = {
    .name = "cow",
    .args = "info|check|commit|reset|rebase OVERLAY [BASE...]",
    .summary = "look at, check, commit, reset or rebase an overlay of the extension cow",
    .help =
        "No VM may use the overlay. `info OVERLAY` says what it is; `check OVERLAY` looks for "
        "damage. `commit OVERLAY BASE` writes all that it holds into the base, which no other "
        "overlay may need; `reset OVERLAY` then empties it. `rebase OVERLAY OLD NEW` makes it an "
        "overlay of another base of the same size that reads as before.",
    .groups = {{"Options", options_table}},
    .options_size = sizeof(struct cow_options),
    .min_args = 2,
    .max_args = 4,
    .completes = COMPLETES_FILE,
    .run = run,
};
