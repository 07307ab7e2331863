/* SPDX-License-Identifier: MIT */
/*
 * send.c - cvd send: a snapshot as a stream.
 *
 * Theory of operation: a snapshot does not change, so it is read as one looks at a pool, without
 * its lock, whoever serves it. What must not happen is that it is deleted meanwhile: where a
 * process serves the pool, it is asked to open the snapshots, which pins them, before the maps are
 * read. What differs between two snapshots is found in their maps, in the order of the disk; each
 * block is compared with its checksum as it is read.
 */
#include "tools/cvd/cvd.h"
#include "tools/cvd/stream.h"

#include <fcntl.h>
#include <inttypes.h>

#define ANSWER_MS    10000
#define PIECE_BLOCKS (unsigned)(STREAM_PIECE / PX_BLOCK)

struct send {
    struct target *t;
    struct stream_header header;
    struct stream_writer writer;
    FILE *out;
    void *buf;
    struct dt_error *err;
};

/* ---- What is sent ---- */

static const struct px_record *base_of(const struct target *t, uint32_t base)
{
    return base == NO_SLOT ? NULL : pool_record(t->pool, base);
}

static int find_base(struct target *t, const char *from, uint32_t *base, struct dt_error *err)
{
    int ret = from ? target_other(t, from, base, err) : 0;
    uint32_t at = t->slot;

    if (ret < 0 || !from)
        return ret;
    while (at != *base && at != NO_SLOT)
        at = pool_snapshot_before(t->pool, at);
    if (at == NO_SLOT || at == t->slot)
        return dt_fail(err, -EINVAL, "%s is no earlier snapshot of the same disk than %s", from,
                       t->name);
    return 0;
}

static int make_header(struct send *s, uint32_t base, const char *token, struct dt_error *err)
{
    const struct px_record *r = pool_record(s->t->pool, s->t->slot), *b = base_of(s->t, base);
    struct stream_header *h = &s->header;
    uint8_t uuid[16];

    *h = (struct stream_header){.sector = r->sector, .size = r->size, .created = r->created};
    memcpy(h->snapshot, r->uuid, sizeof(h->snapshot));
    memcpy(h->disk_name, pool_record(s->t->pool, r->parent)->name, PX_NAME);
    memcpy(h->snapshot_name, r->name, PX_NAME);
    if (b) {
        h->flags = STREAM_INCREMENTAL;
        memcpy(h->base, b->uuid, sizeof(h->base));
        memcpy(h->base_name, b->name, PX_NAME);
    }
    if (!token)
        return 0;
    if (stream_token(token, uuid, &h->start) < 0 || h->start > r->size)
        return dt_fail(err, -EINVAL, "'%s' is no token: 'cvd receive' tells it", token);
    if (memcmp(uuid, r->uuid, sizeof(uuid)))
        return dt_fail(err, -ESTALE, "the token is of another snapshot than %s", s->t->name);
    return 0;
}

static int send_data(struct send *s, uint64_t index, uint64_t count)
{
    int ret = 0;

    while (count && ret == 0) {
        unsigned n = (unsigned)MIN(count, (uint64_t)PIECE_BLOCKS);

        ret = pool_read(s->t->pool, s->t->slot, index, n, s->buf, s->err);
        if (ret < 0)
            return ret;
        ret = stream_data(&s->writer, index << PX_BLOCK_SHIFT, s->buf, (size_t)n << PX_BLOCK_SHIFT);
        if (ret < 0)
            return dt_fail(s->err, ret, "the stream cannot be written: %s", strerror(-ret));
        index += n;
        count -= n;
        progress("send", index << PX_BLOCK_SHIFT, s->header.size);
    }
    return ret;
}

static int send_range(void *arg, uint64_t index, uint64_t count, bool mapped)
{
    struct send *s = arg;
    uint64_t start = s->header.start >> PX_BLOCK_SHIFT;
    int ret;

    if (index + count <= start)
        return 0;
    if (index < start) {
        count -= start - index;
        index = start;
    }
    if (mapped)
        return send_data(s, index, count);
    ret = stream_zero(&s->writer, index << PX_BLOCK_SHIFT, count << PX_BLOCK_SHIFT);
    return ret < 0 ? dt_fail(s->err, ret, "the stream cannot be written: %s", strerror(-ret)) : 0;
}

static int put_out(void *arg, const void *bytes, size_t size)
{
    const struct send *s = arg;

    return fwrite(bytes, 1, size, s->out) == size ? 0 : -(errno ?: EIO);
}

static int send_all(struct send *s, uint32_t base, struct dt_error *err)
{
    struct dt_error walk = {""};
    int ret = stream_begin(&s->writer, &s->header);

    if (ret == 0) {
        s->err = err;
        ret = pool_diff(s->t->pool, base, s->t->slot, send_range, s, &walk);
        /* What the callback has said already is better than what a walk makes of it. */
        if (ret < 0)
            return *err->text ? ret : dt_fail(err, ret, "%s", walk.text);
        ret = stream_finish(&s->writer, s->header.size);
    }
    if (ret == 0 && fflush(s->out) != 0)
        ret = -errno;
    return ret < 0 ? dt_fail(err, ret, "the stream cannot be written: %s", strerror(-ret)) : 0;
}

/* ---- Where it goes ---- */

static int open_out(struct send *s, const char *path, struct dt_error *err)
{
    int fd;

    if (!path) {
        if (isatty(STDOUT_FILENO))
            return dt_fail(err, -EINVAL,
                           "a stream is nothing for a terminal: --output FILE, or a pipe");
        s->out = stdout;
        return 0;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return dt_fail(err, -errno, "cannot make %s: %s", path, strerror(errno));
    s->out = fdopen(fd, "w");
    CHECK(s->out);
    return 0;
}

static int close_out(struct send *s, const char *path, int ret, struct dt_error *err)
{
    if (!path || !s->out)
        return ret;
    if (ret == 0 && (fflush(s->out) != 0 || fsync(fileno(s->out)) < 0))
        ret = dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (fclose(s->out) != 0 && ret == 0)
        ret = dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (ret < 0)
        unlink(path);
    return ret;
}

static void tell(const struct send *s, FILE *out)
{
    char uuid[STREAM_UUID_TEXT], base[STREAM_UUID_TEXT];
    json_t *json;

    stream_uuid_text(s->header.snapshot, uuid);
    stream_uuid_text(s->header.base, base);
    json =
        json_pack("{ss ss sI sI sI sI}", "snapshot", s->header.snapshot_name, "uuid", uuid, "size",
                  (json_int_t)s->header.size, "start", (json_int_t)s->header.start, "records",
                  (json_int_t)s->writer.records, "bytes", (json_int_t)s->writer.bytes);
    if (s->header.flags & STREAM_INCREMENTAL)
        json_object_set_new(json, "base", json_string(base));
    json_dumpf(json, out, JSON_INDENT(2));
    fputc('\n', out);
    json_decref(json);
}

/* ---- The command ---- */

/* A descriptor that keeps the snapshot from being deleted, 0 where nobody serves the pool, or
 * -errno. */
static int pin(const struct target *t, const char *name, struct dt_error *err)
{
    int sock = target_served_by(t->path, err), ret;

    if (sock <= 0)
        return sock;
    ret = cvd_ask_disk(sock, name, true, 0, "cvd-send", ANSWER_MS, err);
    if (ret < 0)
        close(sock);
    return ret < 0 ? ret : sock;
}

static int open_pinned(struct target *t, const char *from, int *pins, struct dt_error *err)
{
    _cleanup_free_ char *base = NULL;

    if (!strchr(t->name, '@'))
        return dt_fail(err, -EINVAL,
                       "say which snapshot: POOL/DISK@SNAPSHOT ('cvd snap' takes one)");
    pins[0] = pin(t, t->name, err);
    if (pins[0] > 0 && from && *from == '@') {
        base = xasprintf("%.*s%s", (int)strcspn(t->name, "@"), t->name, from);
        pins[1] = pin(t, base, err);
    }
    if (pins[0] < 0 || pins[1] < 0)
        return MIN(pins[0], pins[1]);
    return target_look(t, err);
}

int cmd_send(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    struct send s = {.t = t, .writer = {.write = put_out, .arg = &s, .zstd = o->zstd}};
    uint32_t base = NO_SLOT;
    int pins[2] = {0, 0}, ret = open_pinned(t, o->from, pins, err);

    ret = ret ?: find_base(t, o->from, &base, err);
    ret = ret ?: make_header(&s, base, o->token, err);
    ret = ret ?: open_out(&s, o->output, err);
    if (ret == 0) {
        s.buf = xaligned(PX_BLOCK, STREAM_PIECE);
        err->text[0] = '\0';
        ret = send_all(&s, base, err);
        progress_end();
    }
    ret = close_out(&s, o->output, ret, err);
    if (ret == 0 && o->json)
        tell(&s, o->output ? stdout : stderr);
    stream_writer_free(&s.writer);
    free(s.buf);
    for (unsigned i = 0; i < ARRAY_SIZE(pins); i++)
        if (pins[i] > 0)
            close(pins[i]);
    return ret;
}
