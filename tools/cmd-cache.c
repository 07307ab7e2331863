/* SPDX-License-Identifier: MIT */
/* cmd-cache.c - devtap cache: what is in a file of the extension cache, and whether it is whole. */
#include "blk/cache/format.h"
#include "tools/tools.h"

#include <fcntl.h>
#include <inttypes.h>

struct found {
    struct cache_super super;
    struct cache_maps maps;
    bool closed, live_counts;
};

static int look(const char *path, struct found *f, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    uint8_t boot[BOOT_ID_SIZE];
    int ret;

    if (fd < 0)
        return dt_fail(err, -errno, "%s", strerror(errno));
    ret = cache_super_read(fd, &f->super, err);
    if (ret < 0)
        return ret;
    boot_id(boot);
    f->closed = cache_super_closed(&f->super);
    f->live_counts = cache_live_counts(&f->super, boot);
    return cache_maps_read(fd, &f->super, f->live_counts, &f->maps, err);
}

static const char *state(const struct found *f)
{
    if (f->closed)
        return "closed";
    return f->live_counts ? "open, or its last user was killed" : "left by a loss of power";
}

static void print_found_json(const struct found *f)
{
    const struct cache_super *s = &f->super;
    json_t *json =
        json_pack("{ss sI sI sI sI sI ss sI sI}", "disk", s->disk, "disk_sectors",
                  (json_int_t)s->disk_sectors, "block", (json_int_t)s->block_bytes, "blocks",
                  (json_int_t)s->slots, "generation", (json_int_t)s->generation, "durable",
                  (json_int_t)f->maps.durable, "state", state(f), "damaged",
                  (json_int_t)f->maps.damaged, "version", (json_int_t)s->version);

    if (f->live_counts) {
        json_object_set_new(json, "used", json_integer((json_int_t)f->maps.valid));
        json_object_set_new(json, "dirty", json_integer((json_int_t)f->maps.dirty));
    }
    print_json(json);
}

static void print_found(const struct found *f)
{
    const struct cache_super *s = &f->super;

    printf("%-10s %s, %s\n", "disk", s->disk, human_bytes(s->disk_sectors << DT_SECTOR_SHIFT));
    printf("%-10s %" PRIu64 " of %u bytes: %s\n", "blocks", s->slots, s->block_bytes,
           human_bytes(s->slots * s->block_bytes));
    printf("%-10s %s\n", "state", state(f));
    if (f->live_counts)
        printf("%-10s %" PRIu64 "\n%-10s %" PRIu64 "\n", "used", f->maps.valid, "dirty",
               f->maps.dirty);
    printf("%-10s %" PRIu64 "\n%-10s %" PRIu64 "\n", "durable", f->maps.durable, "damaged",
           f->maps.damaged);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct found f = {0};
    struct dt_error err;
    int checks = verb_checks(argv[0], &err), ret = checks;

    if (checks >= 0) {
        ret = look(argv[1], &f, &err);
        if (ret < 0)
            dt_fail_prefix(&err, "%s", argv[1]);
        else if (o->json)
            print_found_json(&f);
        else
            print_found(&f);
    }
    if (ret == 0 && checks && f.maps.damaged)
        ret = dt_fail(&err, -EBADMSG, "%s: %s", argv[1], f.maps.first);
    cache_maps_free(&f.maps);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

const struct verb verb_cache = {
    .name = "cache",
    .args = "check|info [--json] FILE",
    .summary = "look at a file of the extension cache",
    .help = "`info` tells whose cache it is and how many blocks are in it, dirty ones too. `check` "
            "also fails if anything in it is damaged. Neither changes the file.",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 2,
    .max_args = 2,
    .completes = COMPLETES_FILE,
    .run = run,
};
