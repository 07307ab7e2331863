/* SPDX-License-Identifier: MIT */
/*
 * cvd.c - the back `cvd`: a disk of a pool, served by the pool's own process (tools/pool/).
 *
 * Theory of operation: it is the back `vhost-user` (blk/rear/), whose connection begins with the name of
 * a disk. So the pool's process reads and writes the guest's memory itself, requests are sent
 * again when that process comes back after its death, and passthrough works. What is left to do here is
 * to say which disk, to pass commands on, and events back. For those there is a second connection, as long as the session
 * lasts (events.c).
 */
#include "blk/cvd/ask.h"
#include "blk/cvd/events.h"
#include "blk/cvd/params.h"
#include "blk/rear/internal.h"

#include <stdio.h>

/** struct cvd - the layer. @disk comes first: its callbacks take this for one of theirs. */
struct cvd {
    struct disk_rear disk;
    const char *pool, *name, *socket;
    bool read_only;
    uint64_t weight;
    char *path; /* of the socket, unless told */
    bool opened;
    struct cvd_events events; /* on disk.rear.aside */
};
_Static_assert(offsetof(struct cvd, disk) == 0, "");

#define FIELD(field) .offset = offsetof(struct cvd, field)
static const struct dt_param params[] = {
    {.name = "pool",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(pool),
     .help = "The pool, which 'cvd pool open' serves."},
    CVD_PARAM_NAME(offsetof(struct cvd, name)),
    CVD_PARAM_READ_ONLY(offsetof(struct cvd, read_only)),
    {.name = "weight",
     .type = DT_PARAM_UINT,
     FIELD(weight),
     .initial = "0",
     .max = 10000,
     .help =
         "Share of the pool, relative to other disks that have requests at the same time; 0: what "
         "'cvd weight' set."},
    {.name = "socket",
     .type = DT_PARAM_PATH,
     FIELD(socket),
     .help = "Where that process listens, if it is not POOL.sock."},
    REAR_PARAM_LOSS(
        "on-loss", "While that process is gone: hold requests until it is back, or let them fail."),
    REAR_PARAM_QUEUE_SIZE(16),
    REAR_PARAM_TIMEOUT("Longest wait for an answer on its socket; then it counts as gone."),
    {NULL},
};

/* ---- The connection ---- */

static void events_end(struct cvd *d)
{
    if (d->disk.rear.aside >= 0)
        close(TAKE_FD(d->disk.rear.aside));
}

/* Without them the disk is served all the same. As for the session, a worker connects itself while it opens
 * the chain. */
static void events_begin(struct cvd *d, int timeout_ms)
{
    struct rear *rear = &d->disk.rear;
    struct dt_error err;

    events_end(d);
    rear->aside = d->opened ? layer_connect(rear->layer, rear->address, timeout_ms)
                            : vhost_connect(d->path, &err);
    if (rear->aside >= 0 && cvd_events_ask(&d->events, rear->aside, d->name) < 0)
        events_end(d);
    if (rear->aside < 0)
        log_warning("%s: no events of the pool are told: no connection to %s",
                    dt_layer_device(rear->layer), d->path);
}

static void heard(struct rear *rear)
{
    struct cvd *d = container_of(rear, struct cvd, disk.rear);

    if (cvd_events_read(&d->events, rear->aside, rear->layer) < 0)
        events_end(d);
}

static int greet(struct rear *rear, int sock, int timeout_ms, struct dt_error *err)
{
    struct cvd *d = container_of(rear, struct cvd, disk.rear);
    int ret = cvd_ask_disk(sock, d->name, d->read_only, (unsigned)d->weight,
                           dt_layer_device(rear->layer), timeout_ms, err);

    if (ret == 0)
        events_begin(d, timeout_ms);
    return ret;
}

static int cvd_open(struct dt_layer *layer, struct dt_error *err)
{
    struct cvd *d = dt_layer_data(layer);
    int ret;

    /* A successor of this process would look at another one. */
    if (strstr(d->name, "@{-"))
        return dt_fail(
            err, -EINVAL,
            "%s is another moment each time the disk is opened: name the write or the time "
            "('cvd history' and 'cvd log' tell them)",
            d->name);
    d->path = d->socket ? xstrdup(d->socket) : cvd_socket(d->pool);
    d->disk.rear.path = d->path;
    d->disk.rear.greet = greet;
    d->disk.rear.heard = heard;
    d->disk.rear.aside = -1;
    ret = disk_rear_open(layer, err);
    d->opened = true;
    if (ret == -ENOENT && access(d->path, F_OK) < 0)
        dt_fail(err, ret, "nobody serves the pool %s (there is no %s): 'cvd pool open %s' does",
                d->pool, d->path, d->pool);
    if (ret == -ECONNREFUSED)
        dt_fail(err, ret, "nobody serves the pool %s any more: 'cvd pool open %s' does", d->pool,
                d->pool);
    if (ret < 0) {
        events_end(d);
        free(d->path);
    }
    return ret;
}

static void cvd_close(struct dt_layer *layer)
{
    struct cvd *d = dt_layer_data(layer);

    rear_close(layer);
    events_end(d);
    free(d->path);
}

/* ---- Commands, passed on ---- */

/* POOL/DISK, as commands have it. */
static char *full_name(const struct cvd *d)
{
    return xasprintf("%s/%s", d->pool, d->name);
}

/* One command of cvd(1), by a connection of its own. */
static int pass_on(struct dt_layer *layer, json_t *words, struct dt_reply *reply,
                   struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);
    int timeout = (int)(d->disk.rear.timeout / DT_MS(1));
    int sock = layer_connect(layer, d->disk.rear.address, timeout), ret;
    json_t *result = NULL;
    const char *output;

    if (sock < 0) {
        json_decref(words);
        return dt_fail(err, sock, "cannot connect to '%s': %s", d->path, strerror(-sock));
    }
    ret = cvd_ask(sock, json_pack("{ss ss so}", "verb", "run", "pool", d->pool, "words", words),
                  timeout, &result, err);
    output = json_string_value(json_object_get(result, "output"));
    if (ret == 0 && output && *output)
        dt_reply(reply, "snapshot", "%.*s", (int)strcspn(output, "\n"), output);
    json_decref(result);
    close(sock);
    return ret;
}

static int snapshot(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);
    _cleanup_free_ char *name = full_name(d);
    json_t *words;

    if (argc > 1)
        return dt_fail(err, -EINVAL, "usage: snapshot [NAME]");
    if (d->read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", d->name);
    words = json_pack("[ss]", "snap", name);
    if (argc) {
        json_array_append_new(words, json_string("--name"));
        json_array_append_new(words, json_string(argv[0]));
    }
    return pass_on(layer, words, reply, err);
}

static int resize(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                  struct dt_error *err)
{
    const struct cvd *d = dt_layer_data(layer);
    _cleanup_free_ char *name = full_name(d);
    uint64_t size;
    int ret;

    if (argc != 1 || dt_parse_size(argv[0], &size) < 0)
        return dt_fail(err, -EINVAL, "usage: resize SIZE (such as 20G)");
    if (d->read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", d->name);
    dt_reply_u64(reply, "before", d->disk.sectors << DT_SECTOR_SHIFT);
    ret = pass_on(layer, json_pack("[sss]", "resize", name, argv[0]), reply, err);
    dt_reply_u64(reply, "size", size);
    return ret;
}

/* ---- What is where ---- */

/* What the pool's process says is believed as far as it is about what was asked. */
static void judge_map(json_t *map, struct dt_extent *extent)
{
    json_t *first = json_array_get(json_object_get(map, "extents"), 0);
    json_int_t length = json_integer_value(json_object_get(first, "length"));
    const char *status = json_string_value(json_object_get(first, "status"));

    if (length <= 0 || length % DT_SECTOR_SIZE || !status ||
        (uint64_t)length >> DT_SECTOR_SHIFT > extent->sectors)
        return;
    extent->sectors = (uint64_t)length >> DT_SECTOR_SHIFT;
    if (strcmp(status, "hole") == 0)
        extent->status = DT_STATUS_HOLE;
    else if (strcmp(status, "zero") == 0)
        extent->status = DT_STATUS_ZERO;
}

static int ms_until(uint64_t deadline)
{
    uint64_t now = dt_clock_ns();

    return deadline > now ? (int)((deadline - now) / DT_MS(1)) : 0;
}

/* By a connection of its own. While that process is gone, or slow, all is data. */
static void cvd_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct cvd *d = dt_layer_data(layer);
    int sock = layer_connect(layer, d->disk.rear.address, ms_until(extent->deadline));
    json_t *request, *map = NULL;
    struct dt_error ignored;

    if (sock < 0)
        return;
    request = json_pack("{ss ss sI sI}", "verb", "map", "disk", d->name, "start",
                        (json_int_t)(extent->sector << DT_SECTOR_SHIFT), "length",
                        (json_int_t)(extent->sectors << DT_SECTOR_SHIFT));
    if (cvd_ask(sock, request, ms_until(extent->deadline), &map, &ignored) == 0)
        judge_map(map, extent);
    json_decref(map);
    close(sock);
}

static const struct dt_verb verbs[] = {
    CVD_VERB_SNAPSHOT(snapshot),
    CVD_VERB_RESIZE(resize),
    {"mode", "passthrough|interpose",
     "Give the guest's rings to the pool's process, or take them back; see devtap-mode(1).",
     rear_mode},
    {NULL},
};

const struct dt_block_ext blk_cvd = {
    DT_BLOCK_EXT_HEADER,
    .name = "cvd",
    .summary = "A disk of a pool, with snapshots and clones in constant time",
    .help =
        "A pool holds thousands of disks that share what they have in common. Each block has a "
        "checksum that is compared when it is read. 'cvd pool open' serves a pool; this back is "
        "a client of that process, and waits when it dies until it is back. The program "
        "cvd takes snapshots and makes clones meanwhile.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_CONTENT_BEARING,
    .params = params,
    .verbs = verbs,
    .layer_size = sizeof(struct cvd),
    .open = cvd_open,
    .close = cvd_close,
    .status = cvd_status,
    REAR_EXTENSION,
};
