/* SPDX-License-Identifier: MIT */
/* cmd-compress.c - devtap compress: compressed stores that no VM uses. */
#include "blk/compress/offline.h"
#include "tools/tools.h"

#include <sys/stat.h>

static void print_problem(const char *text)
{
    fprintf(stderr, "damaged: %s\n", text);
}

static void print_found(const struct compress_file *f, const struct compress_found *found,
                        bool json)
{
    uint64_t logical = found->units << COMPRESS_UNIT_SHIFT;
    uint64_t taken = found->taken << COMPRESS_BLOCK_SHIFT;
    double ratio = taken ? (double)logical / (double)taken : 1.0;
    struct stat st = {0};

    fstat(f->fd, &st);
    if (json) {
        print_json(json_pack("{ss sI sI sI sI sI sI sI sb sf sI}", "file", f->path, "size",
                             (json_int_t)f->header.size, "units", (json_int_t)found->units, "raw",
                             (json_int_t)found->raw, "logical", (json_int_t)logical, "stored",
                             (json_int_t)found->stored, "taken", (json_int_t)taken, "allocated",
                             (json_int_t)st.st_blocks * 512, "in-use-this-boot", f->ours, "ratio",
                             ratio, "damaged", (json_int_t)found->problems));
        return;
    }
    printf("disk             %s (%llu bytes)\n", human_bytes(f->header.size),
           (unsigned long long)f->header.size);
    printf("holds            %s, the rest is zeroes\n", human_bytes(logical));
    printf("stored in        %s, a ratio of %.2f\n", human_bytes(taken), ratio);
    printf("not compressed   %llu of %llu units\n", (unsigned long long)found->raw,
           (unsigned long long)found->units);
    if (S_ISREG(st.st_mode))
        printf("space used       %s\n", human_bytes((uint64_t)st.st_blocks * 512));
    if (f->ours)
        printf("written to since the machine was booted\n");
}

static int look(const struct compress_file *f, bool checks, bool json, struct dt_error *err)
{
    struct compress_found found = {.problem = print_problem};
    int ret = compress_file_check(f, checks, &found, err);

    if (ret < 0)
        return ret;
    if (json || !checks)
        print_found(f, &found, json);
    if (found.problems)
        return dt_fail(err, -EBADMSG, "%s: %llu problems", f->path,
                       (unsigned long long)found.problems);
    if (checks && !json)
        printf("%s: header, maps and %llu units are whole\n", f->path,
               (unsigned long long)found.units);
    return 0;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct compress_file file;
    struct dt_error err;
    int checks = verb_checks(argv[0], &err);
    int ret = checks < 0 ? checks : compress_file_open(&file, argv[1], &err);

    if (ret < 0)
        return verb_fail(verb, ret, &err);
    ret = look(&file, checks, o->json, &err);
    compress_file_close(&file);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_compress = {
    .name = "compress",
    .args = "info|check STORE",
    .summary = "look at or check a store of the back compress",
    .help = "No VM may write to the store. `info STORE` says what it holds and how much space that "
            "takes; `check STORE` also compares all that is stored with its checksums.",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_FILE,
    .run = run,
};
