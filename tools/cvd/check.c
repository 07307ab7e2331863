/* SPDX-License-Identifier: MIT */
/*
 * check.c - cvd pool check.
 *
 * Theory of operation: the pool is read by us, from its file, whoever has it. What is read is all that one root
 * reaches. Where a process serves the pool, it is asked to pin one: as long as our connection lasts, nothing of that is
 * written over. Where there is none, we open the pool, which makes a new root, and have the lock meanwhile. It is then that
 * it is repaired, if that was asked for.
 *
 * What is found is said only if the connection was still there after it was read.
 */
#include "tools/cvd/cvd.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define LOCK_NS     DT_MS(500)
#define SERVED_RATE ((uint64_t)64 << 20)
#define CACHE       ((size_t)32 << 20) /* of nodes; each is needed once in a pass */

/* ioprio_set(2), for which there is no header */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_LOWEST      (2 << 13 | 7) /* best effort: the idle class may wait for ever */

/**
 * struct check - @locked: the pool's file while nobody serves it. @list: with --json: what was found. @repaired: and what was
 * put right before.
 * @why: it has ended.
 */
struct check {
    struct target *t;
    struct store *locked;
    struct px_root root;
    json_t *list, *repaired;
    uint64_t n;
    bool json, served;
    char why[256];
};

/* ---- The root ---- */

static void repaired(void *arg, const char *text)
{
    struct check *c = arg;

    if (c->json)
        json_array_append_new(c->repaired, json_string(text));
    else
        printf("repaired: %s\n", text);
}

/* What is wrong is said by the check itself, and names whose it is. */
static void ignore(void *arg, uint32_t slot, const char *event, const char *text)
{
    log_debug("%s", text);
}

static void checked(void *arg, uint64_t done, uint64_t total)
{
    progress("check", MIN(done, total), total);
}

static int open_root(struct check *c, bool repair, struct dt_error *err)
{
    const struct store_file_options file = {0};
    struct pool_check what = {.say = repaired, .progress = checked, .arg = c};
    const struct pool_options o = {
        .cache = CACHE, .repair = repair ? &what : NULL, .event = repair ? ignore : NULL};
    struct pool *pool;
    int ret = store_file_open(&c->locked, c->t->path, &file, err);

    if (ret < 0) {
        c->locked = NULL;
        return ret;
    }
    ret = store_file_lock(c->locked, dt_clock_ns() + LOCK_NS, err);
    ret = ret ?: pool_open(&pool, c->locked, &o, err);
    progress_end();
    if (ret < 0)
        return ret;
    c->root = *pool_root(pool);
    pool_release(pool);
    return 0;
}

/* The connection says something, which is why it ends, or is gone. */
static bool holds(void *arg)
{
    struct check *c = arg;
    struct pollfd p = {.fd = c->t->sock, .events = POLLIN};
    char line[sizeof(c->why)];
    json_t *event;
    ssize_t n;

    if (!c->served)
        return true;
    if (*c->why)
        return false;
    if (poll(&p, 1, 0) <= 0)
        return true;
    n = recv(p.fd, line, sizeof(line), MSG_DONTWAIT);
    event = n > 0 ? json_loadb(line, (size_t)n, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    snprintf(c->why, sizeof(c->why), "%s",
             json_string_value(json_object_get(event, "text"))
                 ?: "the process that serves it ended, or was started again");
    json_decref(event);
    return false;
}

/* ---- What is found ---- */

static void found(void *arg, const char *text)
{
    struct check *c = arg;

    c->n++;
    if (c->json)
        json_array_append_new(c->list, json_string(text));
    else
        puts(text);
}

/* What is wrong with a block, before it is told whose it is. */
static void damaged(void *arg, uint32_t slot, const char *event, const char *text)
{
    if (holds(arg))
        log_warning("%s", text);
}

static void print(const struct check *c, const struct pool_check *p)
{
    json_t *json;

    if (!c->json) {
        printf("%" PRIu64 " nodes, %" PRIu64 " blocks of data%s: %" PRIu64 " findings\n", p->nodes,
               p->blocks, p->data ? "" : " (not read)", c->n);
        return;
    }
    json = json_pack("{sI sI sI sI sI sI sI sI sb sb sI sO}", "nodes", (json_int_t)p->nodes,
                     "blocks", (json_int_t)p->blocks, "damaged", (json_int_t)p->damaged, "leaked",
                     (json_int_t)p->leaked, "unmarked", (json_int_t)p->unmarked, "doubly",
                     (json_int_t)p->doubly, "mischarged", (json_int_t)p->mischarged, "miscounted",
                     (json_int_t)p->miscounted, "served", c->served, "data", p->data, "root",
                     (json_int_t)c->root.seq, "findings", c->list);
    if (*c->why)
        json_object_set_new(json, "ended", json_string(c->why));
    if (json_array_size(c->repaired))
        json_object_set(json, "repaired", c->repaired);
    print_json(json);
}

/* ---- The command ---- */

/* Those who use the pool come first. */
static void step_back(void)
{
    setpriority(PRIO_PROCESS, 0, 10);
    if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_LOWEST) < 0)
        log_debug("ioprio_set: %m");
}

static int read_pool(struct check *c, const struct cvd_options *o, struct dt_error *err)
{
    struct pool_options open = {
        .read_only = true, .root = &c->root, .cache = CACHE, .event = damaged, .arg = c};
    struct pool_check p = {.say = found,
                           .progress = checked,
                           .holds = holds,
                           .arg = c,
                           .data = o->data,
                           .memory = o->memory};
    struct store *store;
    int ret = store_reader_open(&store, c->t->path, o->rate ?: c->served ? SERVED_RATE : 0, err);

    if (ret < 0)
        return ret;
    ret = pool_open(&c->t->pool, store, &open, err);
    if (ret < 0)
        store->close(store);
    else
        ret = pool_check(c->t->pool, &p, err);
    progress_end();
    if (ret < 0 && !holds(c)) /* what it found then may be what was written there since */
        ret = dt_fail(err, -ECANCELED, "the check of %s ended: %s", c->t->path, c->why);
    if (ret == 0 || (*c->why && c->n))
        print(c, &p);
    return ret;
}

int cmd_pool_check(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err)
{
    struct check c = {.t = t, .json = o->json};
    int ret = target_served_by(t->path, err);

    if (ret < 0)
        return ret;
    t->sock = ret;
    c.served = ret > 0;
    c.list = json_array();
    c.repaired = json_array();
    ret = 0;
    if (c.served && o->repair)
        ret = dt_fail(err, -EBUSY, "%s is being served: 'cvd pool close' it, then repair it",
                      t->path);
    if (c.served)
        step_back();
    if (ret == 0)
        ret = c.served ? target_pin(t, "pool check", &c.root, err) : open_root(&c, o->repair, err);
    ret = ret ?: read_pool(&c, o, err);
    if (c.locked)
        c.locked->close(c.locked);
    json_decref(c.list);
    json_decref(c.repaired);
    return ret < 0 ? ret : c.n ? STATUS_FAULT : 0;
}
