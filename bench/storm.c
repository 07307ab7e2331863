/* SPDX-License-Identifier: MIT */
/*
 * storm.c - many disks replay one trace at once: the load of bench/boot-storm.
 *
 *     storm TRACE COUNT all|read pool POOL NAME      disks NAME1, NAME2 and so on of a pool that is served
 *     storm TRACE COUNT all|read sockets PATH        vhost-user-blk back ends at PATH1, PATH2 and so on
 *
 * Each sends the next request as soon as no more are under way than were when it was recorded: the shape of a boot, at the pace of the
 * disk. One thread looks after all of them. What is read is compared with the hashes in the trace, but for what the trace writes
 * anywhere. Prints one JSON object.
 */
#include "blk/cvd/ask.h"
#include "blk/driver/driver.h"
#include "tools/trace/trace.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define DEPTH      8u /* of each disk: its buffers are memory */
#define ANSWER_MS  30000
#define SILENCE_NS DT_S(60)
#define NAP_NS     DT_US(50)

/** struct storm - @certain: of each step, whether what it reads is known. */
struct storm {
    struct trace_steps steps;
    bool *certain;
    uint64_t requests, bytes, errors, wrong, compared;
};

/** struct one - a disk, the next step that it sends, and requests that it can send. */
struct one {
    struct vblk *driver;
    struct vblk_queue *queue;
    struct vblk_request *idle[DEPTH];
    unsigned idle_n;
    size_t next;
};

static void fail(const char *what, const struct dt_error *err)
{
    fprintf(stderr, "storm: %s: %s\n", what, err->text);
    exit(1);
}

/* ---- The trace ---- */

static bool overlap(const struct trace_step *a, const struct trace_step *b)
{
    return a->sector < b->sector + b->sectors && b->sector < a->sector + a->sectors;
}

static void find_certain(struct storm *s)
{
    const struct trace_step *list = s->steps.list;

    s->certain = xcalloc(s->steps.count, sizeof(bool));
    for (size_t i = 0; i < s->steps.count; i++) {
        s->certain[i] = list[i].op == DT_OP_READ && list[i].hashed;
        for (size_t k = 0; s->certain[i] && k < s->steps.count; k++)
            if (list[k].op != DT_OP_READ && list[k].op != DT_OP_FLUSH)
                s->certain[i] = !overlap(&list[i], &list[k]);
    }
}

static void load(struct storm *s, const char *path, bool writes)
{
    uint32_t ops = 1u << DT_OP_READ;
    struct trace_reader *reader;
    struct dt_error err;
    struct storm all = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (writes)
        ops |= 1u << DT_OP_WRITE | 1u << DT_OP_FLUSH;
    if (fd < 0 || trace_reader_new(&reader, fd, &err) < 0)
        fail(path, fd < 0 ? (dt_fail(&err, -errno, "%s", strerror(errno)), &err) : &err);
    if (trace_steps_load(&all.steps, reader, ops) < 0 || all.steps.count == 0)
        fail(path, (dt_fail(&err, -EINVAL, "holds nothing to be replayed"), &err));
    trace_reader_free(reader);
    close(fd);
    *s = all;
    find_certain(s);
}

/* ---- Disks ---- */

static int ask_pool(char **where, unsigned number, struct dt_error *err)
{
    _cleanup_free_ char *path = cvd_socket(where[1]);
    _cleanup_free_ char *name = xasprintf("%s%u", where[2], number);
    int sock = vhost_connect(path, err);
    int ret = sock < 0 ? sock : cvd_ask_disk(sock, name, false, 0, name, ANSWER_MS, err);

    return ret < 0 ? ret : sock;
}

static void open_one(struct one *o, const struct storm *s, char **where, unsigned number)
{
    _cleanup_free_ char *path = xasprintf("%s%u", where[1], number);
    struct vblk_config config = {.path = path,
                                 .queues = 1,
                                 .depth = DEPTH,
                                 .bytes = s->steps.max_sectors << DT_SECTOR_SHIFT,
                                 .event_idx = true,
                                 .timeout_ms = ANSWER_MS};
    struct dt_error err;

    if (strcmp(where[0], "pool") == 0)
        config.sock = ask_pool(where, number, &err);
    if (config.sock < 0 || vblk_open(&o->driver, &config, &err) < 0)
        fail("a disk cannot be opened", &err);
    o->queue = vblk_queue(o->driver, 0);
    vblk_poll(o->queue);
    for (o->idle_n = 0; o->idle_n < DEPTH; o->idle_n++)
        o->idle[o->idle_n] = vblk_request(o->queue, o->idle_n);
}

/* ---- The load ---- */

static bool reap(struct storm *s, struct one *o)
{
    struct vblk_request *done[DEPTH];
    int n = vblk_reap(o->queue, done, DEPTH);

    if (n < 0) {
        fprintf(stderr, "storm: %s\n", vblk_fault(o->queue));
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        const struct trace_step *step = &s->steps.list[done[i]->tag];

        s->errors += done[i]->status != VIRTIO_BLK_S_OK;
        if (s->certain[done[i]->tag]) {
            s->compared++;
            s->wrong += (uint32_t)XXH3_64bits(done[i]->data, done[i]->bytes) != step->hash;
        }
        o->idle[o->idle_n++] = done[i];
    }
    return n > 0;
}

static void send_step(struct storm *s, struct one *o)
{
    const struct trace_step *step = &s->steps.list[o->next];
    struct vblk_request *req = o->idle[--o->idle_n];

    req->type = step->op == DT_OP_READ    ? VIRTIO_BLK_T_IN
                : step->op == DT_OP_WRITE ? VIRTIO_BLK_T_OUT
                                          : VIRTIO_BLK_T_FLUSH;
    req->sector = step->sector;
    req->bytes = step->op == DT_OP_FLUSH ? 0 : step->sectors << DT_SECTOR_SHIFT;
    req->tag = o->next++;
    if (step->op == DT_OP_WRITE) /* blocks that differ, and are not zero */
        for (uint32_t i = 0; i < req->bytes; i += 8)
            memcpy(req->data + i, &(uint64_t){(step->sector << 9) + i + 1}, 8);
    vblk_submit(o->queue, req);
    s->requests++;
    s->bytes += req->bytes;
}

static bool send_due(struct storm *s, struct one *o)
{
    bool any = false;

    while (o->next < s->steps.count && o->idle_n &&
           DEPTH - o->idle_n < MAX((unsigned)s->steps.list[o->next].depth, 1u)) {
        send_step(s, o);
        any = true;
    }
    if (any)
        vblk_publish(o->queue);
    return any;
}

static void run(struct storm *s, struct one *all, unsigned count)
{
    uint64_t moved = dt_clock_ns();
    unsigned busy = count;

    while (busy) {
        bool any = false;

        busy = 0;
        for (unsigned i = 0; i < count; i++) {
            any |= reap(s, &all[i]);
            any |= send_due(s, &all[i]);
            busy += all[i].next < s->steps.count || all[i].idle_n < DEPTH;
        }
        if (any) {
            moved = dt_clock_ns();
        } else if (dt_clock_ns() - moved > SILENCE_NS) {
            fprintf(stderr, "storm: %u disks do not answer\n", busy);
            exit(1);
        } else {
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        }
    }
}

int main(int argc, char **argv)
{
    unsigned count = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    struct rlimit files;
    struct storm s;
    struct one *all;
    uint64_t begun;

    if (count == 0 || argc < 6 || (strcmp(argv[4], "pool") == 0 && argc < 7)) {
        fprintf(stderr, "usage: storm TRACE COUNT all|read pool POOL NAME | sockets PATH\n");
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load(&s, argv[1], strcmp(argv[3], "all") == 0);
    all = xcalloc(count, sizeof(*all));
    for (unsigned i = 0; i < count; i++)
        open_one(&all[i], &s, argv + 4, i + 1);
    begun = dt_clock_ns();
    run(&s, all, count);
    printf("{\"seconds\": %.3f, \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"errors\": %" PRIu64 ", \"compared\": %" PRIu64 ", \"wrong\": %" PRIu64 "}\n",
           (double)(dt_clock_ns() - begun) / 1e9, s.requests, s.bytes, s.errors, s.compared,
           s.wrong);
    for (unsigned i = 0; i < count; i++)
        vblk_close(all[i].driver);
    free(all);
    free(s.certain);
    trace_steps_free(&s.steps);
    return 0;
}
