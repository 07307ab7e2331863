/* SPDX-License-Identifier: MIT */
/* cmd-integrity.c - devtap integrity: checksums of disks that no VM uses. */
#include "blk/integrity/offline.h"
#include "tools/tools.h"

static void print_damaged(uint64_t byte)
{
    fprintf(stderr, "damaged: the block at byte %llu (sector %llu)\n", (unsigned long long)byte,
            (unsigned long long)byte >> DT_SECTOR_SHIFT);
}

static void print_info(const struct integrity_file *f, bool json)
{
    uint64_t open = integrity_file_open_regions(f);

    if (json) {
        print_json(json_pack("{ss sI sI sI sI}", "file", f->path, "size",
                             (json_int_t)f->header.size, "region", (json_int_t)f->header.region,
                             "regions", (json_int_t)f->at.regions, "open", (json_int_t)open));
        return;
    }
    printf("disk             %s (%llu bytes)\n", human_bytes(f->header.size),
           (unsigned long long)f->header.size);
    printf("regions          %llu of %s\n", (unsigned long long)f->at.regions,
           human_bytes(f->header.region));
    printf("being written    %llu of them\n", (unsigned long long)open);
}

static int check(const struct integrity_file *f, const char *disk, bool json, struct dt_error *err)
{
    struct integrity_found found = {.damaged = print_damaged};
    int ret = integrity_file_check(f, disk, &found, err);

    if (ret < 0)
        return ret;
    if (json)
        print_json(json_pack("{sI sI sI sI}", "fit", (json_int_t)found.fit, "unknown",
                             (json_int_t)found.unknown, "changing", (json_int_t)found.changing,
                             "damaged", (json_int_t)found.damage));
    else
        printf("%llu blocks fit, %llu have no checksum, %llu were being written\n",
               (unsigned long long)found.fit, (unsigned long long)found.unknown,
               (unsigned long long)found.changing);
    if (found.damage)
        return dt_fail(err, -EBADMSG, "%s: %llu blocks do not fit their checksums", disk,
                       (unsigned long long)found.damage);
    return 0;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct integrity_file file;
    struct dt_error err;
    int checks = verb_checks(argv[0], &err), ret = MIN(checks, 0);

    if (checks >= 0 && argc != 2 + checks)
        ret = dt_fail(&err, -EINVAL,
                      checks ? "check takes the file of checksums and the disk"
                             : "info takes the file of checksums");
    ret = ret ?: integrity_file_open(&file, argv[1], &err);
    if (ret == 0) {
        if (checks)
            ret = check(&file, argv[2], o->json, &err);
        else
            print_info(&file, o->json);
        integrity_file_close(&file);
    }
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_integrity = {
    .name = "integrity",
    .args = "info SUMS | check SUMS DISK",
    .summary = "compare a disk with the checksums that the extension integrity keeps",
    .help =
        "No VM may use the disk. `check` reads all of it and names each block that does not fit "
        "its checksum. A running disk is compared by `devtap do DEVICE integrity scrub`.",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 2,
    .max_args = 3,
    .completes = COMPLETES_FILE,
    .run = run,
};
