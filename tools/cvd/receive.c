/* SPDX-License-Identifier: MIT */
/*
 * receive.c - cvd receive: a stream into a pool.
 *
 * Theory of operation: what changes the catalogue (parallax/receive.h) are steps, commands that
 * nobody types. They are carried out here where this process has the pool, or else sent to the one
 * that has it, as every change is. Data takes the way of `cvd fill`. Whenever so much has arrived,
 * the mark in the catalogue moves, and that is durable together with the data before it.
 */
#include "parallax/receive.h"

#include "tools/cvd/stream.h"
#include "tools/cvd/transfer.h"

#include <inttypes.h>

#define ANSWER_MS  60000
#define MARK_EVERY ((uint64_t)64 << 20)
#define HEX        (2 * sizeof(struct stream_header))

struct receive {
    struct target *t;
    char *disk; /* its name; that of the target becomes the one that is written */
    bool begun, resume;
    struct stream_reader reader;
    char header[HEX + 1];
    struct transfer *x;
    uint64_t marked, arrived;
};

/* ---- Steps, where the pool is ---- */

static int from_hex(const char *text, struct stream_header *h, struct dt_error *err)
{
    uint8_t *bytes = (uint8_t *)h;

    for (size_t i = 0; i < sizeof(*h); i++) {
        unsigned byte;

        if (strlen(text) != HEX || sscanf(text + 2 * i, "%2x", &byte) != 1)
            return dt_fail(err, -EINVAL, "the header of a stream is missing");
        bytes[i] = (uint8_t)byte;
    }
    return stream_judge(h, err);
}

static void describe(const struct stream_header *h, struct pool_received *what)
{
    *what = (struct pool_received){.size = h->size,
                                   .created = h->created,
                                   .sector = h->sector,
                                   .name = h->snapshot_name,
                                   .base_name = h->base_name};
    memcpy(what->snapshot, h->snapshot, sizeof(what->snapshot));
    memcpy(what->base, h->base, sizeof(what->base));
}

static int tell_status(struct target *t, struct dt_error *err)
{
    char name[PX_NAME + 1], uuid[STREAM_UUID_TEXT];
    uint32_t slot;

    pool_receive_name(t->name, name);
    slot = pool_find(t->pool, name, err);
    if (slot == NO_SLOT)
        return dt_fail(err, -ENOENT, "nothing is being received into '%s'", t->name);
    stream_uuid_text(pool_record(t->pool, slot)->uuid, uuid);
    fprintf(t->out, "%s:%" PRIu64 "\n", uuid, pool_record(t->pool, slot)->writes);
    return 0;
}

/* receive-step POOL/DISK begin HEADER [resume] | progress POSITION | end HEADER | status */
int cmd_receive_step(struct target *t, const struct cvd_options *o, int argc, char **argv,
                     struct dt_error *err)
{
    const char *verb = argv[1], *arg = argc > 2 ? argv[2] : "";
    struct stream_header h;
    struct pool_received what;
    uint64_t position;
    int ret;

    if (strcmp(verb, "status") == 0)
        return tell_status(t, err);
    if (strcmp(verb, "progress") == 0)
        return pool_receive_progress(t->pool, t->name, strtoull(arg, NULL, 10), err);
    ret = from_hex(arg, &h, err);
    if (ret < 0)
        return ret;
    describe(&h, &what);
    if (strcmp(verb, "end") == 0)
        return pool_receive_end(t->pool, t->name, &what, err);
    ret = pool_receive_begin(t->pool, t->name, &what, argc > 3, &position, err);
    if (ret == 0)
        fprintf(t->out, "%" PRIu64 "\n", position);
    return ret;
}

/* ---- Steps, asked for ---- */

static int step_here(struct receive *r, int argc, char **argv, char **output, struct dt_error *err)
{
    struct target t = *r->t;
    size_t size;
    int ret;

    t.name = r->disk;
    t.out = open_memstream(output, &size);
    CHECK(t.out);
    while ((ret = cmd_receive_step(&t, NULL, argc, argv, err)) == -EAGAIN && t.loop)
        target_turn(&t);
    fclose(t.out);
    return ret ?: pool_sync(t.pool, err);
}

static int step_there(const struct receive *r, int argc, char **argv, char **output,
                      struct dt_error *err)
{
    int sock = target_served_by(r->t->path, err), ret;
    _cleanup_free_ char *name = xasprintf("%s/%s", r->t->path, r->disk);
    json_t *words = json_pack("[ss]", "receive-step", name), *result = NULL;

    if (sock <= 0) {
        json_decref(words);
        return sock ?: dt_fail(err, -EPIPE, "nobody serves %s any more", r->t->path);
    }
    for (int i = 1; i < argc; i++)
        json_array_append_new(words, json_string(argv[i]));
    ret = cvd_ask(sock, json_pack("{ss ss so}", "verb", "run", "pool", r->t->path, "words", words),
                  ANSWER_MS, &result, err);
    close(sock);
    if (ret == 0)
        *output = xstrdup(json_string_value(json_object_get(result, "output")) ?: "");
    json_decref(result);
    return ret;
}

static int step(struct receive *r, const char *verb, const char *arg, bool resume, char **output,
                struct dt_error *err)
{
    _cleanup_free_ char *text = NULL;
    char *argv[] = {r->disk, (char *)(uintptr_t)verb, (char *)(uintptr_t)arg,
                    (char *)(uintptr_t)(resume ? "resume" : NULL), NULL};
    int argc = resume ? 4 : arg ? 3 : 2;
    int ret =
        r->t->pool ? step_here(r, argc, argv, &text, err) : step_there(r, argc, argv, &text, err);

    if (output)
        *output = TAKE_PTR(text);
    return ret;
}

/* ---- What arrives ---- */

static ssize_t read_in(void *arg, void *bytes, size_t size)
{
    ssize_t n;

    do
        n = read(STDIN_FILENO, bytes, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Data and mark become durable together, and the mark comes after the data. */
static int mark(struct receive *r, struct dt_error *err)
{
    char text[24];
    int ret = transfer_settle(r->x);

    if (ret < 0)
        return dt_fail(err, ret, "what arrives cannot be written: %s", strerror(-ret));
    if (r->reader.reached <= r->marked)
        return 0;
    snprintf(text, sizeof(text), "%" PRIu64, r->reader.reached);
    ret = step(r, "progress", text, false, NULL, err);
    if (ret == 0)
        r->marked = r->reader.reached;
    return ret;
}

static int take_record(struct receive *r, int type, struct dt_error *err)
{
    const struct stream_record *k = &r->reader.record;
    struct piece *p;
    int ret = 0;

    if (type == STREAM_ZERO) {
        ret = transfer_zero(r->x, k->offset, k->length);
    } else if ((p = transfer_get(r->x))) {
        memcpy(p->buf, r->reader.data, k->length);
        transfer_submit(r->x, p, DISK_WRITE, k->offset, k->length);
    } else {
        ret = transfer_error(r->x);
    }
    if (ret < 0)
        return dt_fail(err, ret, "what arrives cannot be written: %s", strerror(-ret));
    progress("receive", r->reader.reached, r->reader.header.size);
    r->arrived += k->length;
    return r->arrived / MARK_EVERY != (r->arrived - k->length) / MARK_EVERY ? mark(r, err) : 0;
}

static int take_all(struct receive *r, struct dt_error *err)
{
    struct dt_error late;
    int type, ret = 0;

    while (ret == 0 && (type = stream_next(&r->reader, err)) > 0)
        ret = take_record(r, type, err);
    if (ret == 0 && type < 0) { /* what came before is good, and need not come again */
        mark(r, &late);
        ret = type;
    }
    return ret;
}

/* ---- The command ---- */

static int begin(struct receive *r, struct dt_error *err)
{
    const struct stream_header *h = &r->reader.header;
    const uint8_t *bytes = (const uint8_t *)h;
    _cleanup_free_ char *position = NULL;
    int ret;

    if (h->start && !r->resume)
        return dt_fail(err, -EINVAL,
                       "the stream is the rest of one that broke off: --resume goes on with it");
    for (size_t i = 0; i < sizeof(*h); i++)
        sprintf(r->header + 2 * i, "%02x", bytes[i]);
    ret = step(r, "begin", r->header, r->resume, &position, err);
    if (ret < 0)
        return ret;
    r->begun = true;
    r->marked = strtoull(position, NULL, 10);
    return h->start > r->marked ? dt_fail(err, -EINVAL,
                                          "the stream begins at byte %" PRIu64
                                          ", and what is there ends at %" PRIu64,
                                          h->start, r->marked)
                                : 0;
}

/* The connection was for looking who is there; meanwhile it may have been given up. */
static int open_staged(struct receive *r, struct dt_error *err)
{
    struct target *t = r->t;
    char name[PX_NAME + 1];
    int sock;

    pool_receive_name(r->disk, name);
    free(t->name);
    t->name = xstrdup(name);
    if (t->pool) {
        t->slot = pool_find(t->pool, name, err);
        if (t->slot == NO_SLOT)
            return -ENOENT;
    } else {
        close(TAKE_FD(t->sock));
        sock = target_served_by(t->path, err);
        t->sock = MAX(sock, 0);
        if (sock <= 0)
            return sock ?: dt_fail(err, -EPIPE, "nobody serves %s any more", t->path);
    }
    return transfer_open(&r->x, t, false, NULL, NULL, err);
}

static int run(struct receive *r, struct dt_error *err)
{
    struct dt_error late;
    int ret = stream_open(&r->reader, err);

    ret = ret ?: begin(r, err);
    ret = ret ?: open_staged(r, err);
    if (ret < 0)
        return ret;
    ret = take_all(r, err);
    ret = transfer_close(r->x, true, ret, r->disk, ret < 0 ? &late : err);
    return ret ?: step(r, "end", r->header, false, NULL, err);
}

/* A mount may outlive its session for a moment: it is not asked who has the disk, but how far it
 * got. */
static void tell_token(struct receive *r, struct dt_error *err)
{
    _cleanup_free_ char *token = NULL;
    struct dt_error why = *err, other;

    if (!r->begun || step(r, "status", NULL, false, &token, &other) < 0)
        return;
    token[strcspn(token, "\n")] = '\0';
    dt_fail(err, 0, "%s; 'cvd send --token %s' and 'cvd receive --resume' go on", why.text, token);
}

static void tell_done(const struct receive *r)
{
    const struct stream_header *h = &r->reader.header;
    char uuid[STREAM_UUID_TEXT];

    stream_uuid_text(h->snapshot, uuid);
    print_json(json_pack("{ss ss ss sI sI sI}", "disk", r->disk, "snapshot", h->snapshot_name,
                         "uuid", uuid, "size", (json_int_t)h->size, "records",
                         (json_int_t)r->reader.records, "bytes", (json_int_t)r->reader.bytes));
}

static int status(struct receive *r, bool json, struct dt_error *err)
{
    _cleanup_free_ char *token = NULL;
    int ret = step(r, "status", NULL, false, &token, err);

    if (ret < 0)
        return ret;
    token[strcspn(token, "\n")] = '\0';
    if (json)
        print_json(json_pack("{ss}", "token", token));
    else
        puts(token);
    return 0;
}

int cmd_receive(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err)
{
    struct receive r = {.t = t, .disk = xstrdup(t->name), .resume = o->resume};
    int ret;

    r.reader.read = read_in;
    if (o->status)
        ret = status(&r, o->json, err);
    else if (isatty(STDIN_FILENO))
        ret = dt_fail(err, -EINVAL,
                      "a stream does not come from a terminal: give it on standard input");
    else
        ret = run(&r, err);
    progress_end();
    if (ret < 0 && !o->status)
        tell_token(&r, err);
    else if (ret == 0 && o->json && !o->status)
        tell_done(&r);
    stream_reader_free(&r.reader);
    free(r.disk);
    return ret;
}
