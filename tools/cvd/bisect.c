/* SPDX-License-Identifier: MIT */
/*
 * bisect.c - cvd bisect: the first state of a disk in which a probe fails.
 *
 * Theory of operation: the states between A and B are the snapshots, and where the disk has a
 * history also what lies between two of them, write by write. The snapshots are searched first,
 * being few; then, between the last good and the first bad one, the writes. Each state is read as
 * one that was named on the command line would be, and shown to the probe by NBD, read-only.
 */
#include "tools/cvd/nbd.h"
#include "tools/cvd/transfer.h"

#include <inttypes.h>
#include <sys/wait.h>

#define CANNOT_TELL 125
#define UNKNOWN     UINT64_MAX

/** struct state - @name: within the disk, with its '@'. @number: of the last write in it, or
 * UNKNOWN. */
struct state {
    char name[PX_NAME + 2];
    uint32_t slot;
    uint64_t number;
};

struct bisect {
    struct target *t, look;
    char *disk;
    char *const *probe;
    char folder[32], *socket;
    unsigned probes;
    struct state *states;
    size_t n;
    struct pool_past past;
    /* While a probe runs. */
    struct transfer *x;
    void *read_to;
};

static struct pool *pool_of(struct bisect *b)
{
    return b->look.pool ?: b->t->pool;
}

/* ---- One probe ---- */

static int landed(void *arg, const struct piece *piece)
{
    const struct bisect *b = arg;

    memcpy(b->read_to, piece->buf, piece->length);
    return 0;
}

static int read_disk(void *arg, uint64_t offset, void *buf, size_t size)
{
    struct bisect *b = arg;

    while (size) {
        size_t n = MIN(size, TRANSFER_PIECE - PX_BLOCK);
        struct piece *p = transfer_get(b->x);

        if (!p)
            return transfer_error(b->x);
        b->read_to = buf;
        transfer_submit(b->x, p, DISK_READ, offset, n);
        if (transfer_settle(b->x) < 0)
            return transfer_error(b->x);
        buf = (char *)buf + n;
        offset += n;
        size -= n;
    }
    return 0;
}

static pid_t start_probe(const struct bisect *b, const struct state *s, uint64_t size)
{
    pid_t pid = fork();

    if (pid == 0) {
        _cleanup_free_ char *uri = xasprintf("nbd+unix:///?socket=%s", b->socket);
        _cleanup_free_ char *bytes = xasprintf("%" PRIu64, size);
        _cleanup_free_ char *name = xasprintf("%s/%s%s", b->t->path, b->disk, s->name);

        setenv("CVD_URI", uri, 1);
        setenv("CVD_SOCKET", b->socket, 1);
        setenv("CVD_SIZE", bytes, 1);
        setenv("CVD_STATE", name, 1);
        dup2(STDERR_FILENO, STDOUT_FILENO); /* what is printed there is the result */
        execvp(b->probe[0], b->probe);
        fprintf(stderr, "cvd bisect: %s: %s\n", b->probe[0], strerror(errno));
        _exit(127);
    }
    return pid;
}

/* Mounted anew for each: where another process has the pool, by a connection of its own. */
static int open_state(struct bisect *b, const struct state *s, struct dt_error *err)
{
    struct target *t = b->t;
    int sock;

    free(t->name);
    t->name = xasprintf("%s%s", b->disk, s->name);
    if (t->pool) {
        int ret = pool_moment(t->pool, t->name, &t->slot, &t->moment, err);

        if (ret < 0)
            return ret;
    } else {
        if (t->sock > 0)
            close(TAKE_FD(t->sock));
        sock = target_served_by(t->path, err);
        t->sock = MAX(sock, 0);
        if (sock <= 0)
            return sock ?: dt_fail(err, -EPIPE, "nobody serves %s any more", t->path);
    }
    return transfer_open(&b->x, t, true, landed, b, err);
}

static int judge(const struct bisect *b, int status, struct dt_error *err)
{
    if (status < 0)
        return dt_fail(err, status, "%s cannot be waited for: %s", b->probe[0], strerror(-status));
    if (!WIFEXITED(status) || WEXITSTATUS(status) == CANNOT_TELL || WEXITSTATUS(status) >= 126)
        return dt_fail(err, -ECANCELED, "the probe could not tell: it ended with %s %d",
                       WIFEXITED(status) ? "status" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return WEXITSTATUS(status) == 0;
}

/* Return: 1 good, 0 bad, or -errno. */
static int probe(struct bisect *b, const struct state *s, struct dt_error *err)
{
    struct nbd_disk disk = {.read = read_disk, .arg = b};
    int ret = open_state(b, s, err), listener, good;
    struct dt_error late;
    pid_t pid;

    if (ret < 0)
        return ret;
    disk.size = transfer_size(b->x);
    listener = nbd_listen(b->socket, err);
    if (listener >= 0) {
        pid = start_probe(b, s, disk.size);
        good = pid < 0 ? dt_fail(err, -errno, "cannot start a process: %s", strerror(errno))
                       : judge(b, nbd_serve(listener, &disk, pid), err);
        close(listener);
        unlink(b->socket);
    } else {
        good = listener;
    }
    ret = transfer_error(b->x);
    transfer_close(b->x, false, -ECANCELED, b->disk, &late);
    if (ret < 0)
        return dt_fail(err, ret, "%s%s cannot be read: %s", b->disk, s->name, strerror(-ret));
    b->probes++;
    if (good >= 0)
        fprintf(stderr, "probe %u: %s%s: %s\n", b->probes, b->disk, s->name, good ? "good" : "bad");
    return good;
}

/* ---- The states ---- */

static void add_state(struct bisect *b, const char *name, uint32_t slot, uint64_t number)
{
    b->states = realloc(b->states, (b->n + 1) * sizeof(*b->states));
    CHECK(b->states);
    b->states[b->n] = (struct state){.slot = slot, .number = number};
    snprintf(b->states[b->n].name, sizeof(b->states[b->n].name), "%s", name);
    b->n++;
}

/* What a snapshot has of the writes that are counted: nothing if it was taken before they were. */
static uint64_t number_of(struct bisect *b, uint32_t snapshot)
{
    uint64_t writes = pool_record(pool_of(b), snapshot)->writes;

    return b->past.keep && writes >= b->past.first ? writes : UNKNOWN;
}

static void add_snapshot(struct bisect *b, uint32_t slot)
{
    char name[PX_NAME + 2];

    snprintf(name, sizeof(name), "@%s", pool_record(pool_of(b), slot)->name);
    add_state(b, name, slot, number_of(b, slot));
}

static void add_write(struct bisect *b, uint64_t number)
{
    char name[PX_NAME];

    snprintf(name, sizeof(name), "@{write %" PRIu64 "}", number);
    add_state(b, name, NO_SLOT, number);
}

/* From B back to A; then they are turned around. */
static int collect(struct bisect *b, uint32_t disk, uint32_t a, uint64_t a_number, uint32_t z,
                   uint64_t z_number, struct dt_error *err)
{
    struct pool *pool = pool_of(b);
    uint32_t at = pool_snapshot_before(pool, z_number == PRESENT ? z : disk);

    if (z_number == PRESENT)
        add_snapshot(b, z);
    else
        add_write(b, z_number);
    for (; at != NO_SLOT && !(a_number == PRESENT && at == a);
         at = pool_snapshot_before(pool, at)) {
        if (a_number != PRESENT && pool_record(pool, at)->writes <= a_number)
            break;
        if (z_number == PRESENT || pool_record(pool, at)->writes < z_number)
            add_snapshot(b, at);
    }
    if (a_number == PRESENT && at == NO_SLOT)
        return dt_fail(err, -EINVAL, "the first is no earlier state than the second");
    if (a_number != PRESENT && z_number != PRESENT && a_number >= z_number)
        return dt_fail(err, -EINVAL, "the first is no earlier state than the second");
    if (a_number == PRESENT)
        add_snapshot(b, a);
    else
        add_write(b, a_number);
    for (size_t i = 0; i < b->n / 2; i++) {
        struct state s = b->states[i];

        b->states[i] = b->states[b->n - 1 - i];
        b->states[b->n - 1 - i] = s;
    }
    return 0;
}

static int find_states(struct bisect *b, const char *a, const char *z, struct dt_error *err)
{
    struct target look = {.path = b->t->path, .name = b->t->name, .pool = pool_of(b)};
    uint32_t from, to, disk;
    uint64_t from_number, to_number;
    int ret = target_other_at(&look, a, &from, &from_number, err);

    ret = ret ?: target_other_at(&look, z, &to, &to_number, err);
    if (ret < 0)
        return ret;
    disk = pool_find(look.pool, b->disk, err);
    if (disk == NO_SLOT)
        return -ENOENT;
    if ((from_number == PRESENT && from == disk) || (to_number == PRESENT && to == disk))
        return dt_fail(err, -EINVAL,
                       "say between which states: POOL/DISK@A @B, snapshots or {moments}");
    ret = pool_past(look.pool, disk, &b->past, err);
    return ret ?: collect(b, disk, from, from_number, to, to_number, err);
}

/* ---- The search ---- */

static int check_ends(struct bisect *b, struct dt_error *err)
{
    int good = probe(b, &b->states[0], err);

    if (good == 0)
        return dt_fail(err, -EINVAL, "the probe fails at %s%s already", b->disk, b->states[0].name);
    if (good > 0)
        good = probe(b, &b->states[b->n - 1], err);
    if (good > 0)
        return dt_fail(err, -EINVAL, "the probe does not fail at %s%s", b->disk,
                       b->states[b->n - 1].name);
    return good;
}

/* Leaves the last good state and the first bad one. */
static int search_snapshots(struct bisect *b, struct dt_error *err)
{
    size_t good = 0, bad = b->n - 1;

    while (bad - good > 1) {
        size_t middle = good + (bad - good) / 2;
        int ret = probe(b, &b->states[middle], err);

        if (ret < 0)
            return ret;
        if (ret)
            good = middle;
        else
            bad = middle;
    }
    b->states[0] = b->states[good];
    b->states[1] = b->states[bad];
    return 0;
}

static int search_writes(struct bisect *b, struct dt_error *err)
{
    struct state *good = &b->states[0], *bad = &b->states[1];
    uint64_t low = good->number, high = bad->number;

    if (!b->past.keep || high == UNKNOWN || high <= b->past.first)
        return 0;
    /* A snapshot from before the history: where that begins is looked at first. */
    for (bool first = low == UNKNOWN; first || high - low > 1;) {
        uint64_t middle = first ? b->past.first : low + (high - low) / 2;
        size_t at = b->n;
        int ret;

        add_write(b, middle);
        good = &b->states[0];
        bad = &b->states[1];
        ret = probe(b, &b->states[at], err);
        if (ret < 0)
            return ret;
        if (ret) {
            *good = b->states[at];
            low = middle;
        } else {
            *bad = b->states[at];
            high = middle;
            if (first)
                return 0;
        }
        first = false;
    }
    return 0;
}

/* ---- The result ---- */

struct found {
    uint64_t number;
    json_t *ranges;
    char time[40], owner[PX_OWNER];
};

static int find_write(void *arg, const struct pool_write *w)
{
    struct found *f = arg;

    if (w->number != f->number)
        return 0;
    print_time(w->time, f->time, sizeof(f->time));
    snprintf(f->owner, sizeof(f->owner), "%s", w->owner);
    json_array_append_new(f->ranges,
                          json_pack("{sI sI}", "offset", (json_int_t)(w->index << PX_BLOCK_SHIFT),
                                    "length", (json_int_t)(w->count << PX_BLOCK_SHIFT)));
    return 0;
}

static int tell(struct bisect *b, bool json, struct dt_error *err)
{
    const struct state *good = &b->states[0], *bad = &b->states[1];
    struct found f = {.number = bad->number, .ranges = json_array()};
    bool one = good->number != UNKNOWN && bad->number != UNKNOWN && bad->number - good->number == 1;
    json_t *range;
    size_t i;
    int ret = 0;

    if (one)
        ret = pool_past_writes(pool_of(b), pool_find(pool_of(b), b->disk, err), 0, UINT64_MAX,
                               find_write, &f, err);
    if (ret == 0 && json) {
        json_t *out = json_pack("{ss ss sI}", "good", good->name, "bad", bad->name, "probes",
                                (json_int_t)b->probes);

        if (one)
            json_object_update_new(out,
                                   json_pack("{sI ss ss sO}", "write", (json_int_t)f.number, "time",
                                             f.time, "owner", f.owner, "ranges", f.ranges));
        print_json(out);
    } else if (ret == 0) {
        printf("good: %s%s\nbad:  %s%s\n", b->disk, good->name, b->disk, bad->name);
        if (one)
            printf("write %" PRIu64 ", %s, by %s\n", f.number, f.time, f.owner);
        json_array_foreach(f.ranges, i, range)
            printf("  %lld + %lld bytes\n",
                   (long long)json_integer_value(json_object_get(range, "offset")),
                   (long long)json_integer_value(json_object_get(range, "length")));
    }
    json_decref(f.ranges);
    return ret;
}

int cmd_bisect(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    struct bisect b = {.t = t,
                       .look = {.path = t->path, .name = t->name, .out = stdout},
                       .disk = xasprintf("%.*s", (int)strcspn(t->name, "@"), t->name),
                       .probe = argv + 2};
    int ret = 0;

    strcpy(b.folder, "/tmp/cvd-bisect-XXXXXX");
    if (!mkdtemp(b.folder))
        ret = dt_fail(err, -errno, "%s: %s", b.folder, strerror(errno));
    b.socket = xasprintf("%s/nbd", b.folder);
    /* Where another process has the pool, its maps are looked at as they were when this began. */
    if (ret == 0 && !t->pool)
        ret = target_look(&b.look, err);
    ret = ret ?: find_states(&b, argv[0], argv[1], err);
    ret = ret ?: check_ends(&b, err);
    ret = ret ?: search_snapshots(&b, err);
    ret = ret ?: search_writes(&b, err);
    ret = ret ?: tell(&b, o->json, err);
    if (b.look.pool) {
        b.look.path = b.look.name = NULL; /* the other target's */
        target_close(&b.look, ret, err);
    }
    rmdir(b.folder);
    free(b.socket);
    free(b.disk);
    free(b.states);
    return ret;
}
