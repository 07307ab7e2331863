/* SPDX-License-Identifier: MIT */
/*
 * connects.c - keeps a connection to a server, as a back on a network does: makes it, says hello, and makes
 * it again when it ends.
 */
#include <devtap/block.h>
#include <devtap/io.h>

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct connects {
    char *to;
    struct dt_ctx *c;
    struct dt_connect op, wrong;
    struct dt_watch watch;
    struct dt_timer again;
    uint64_t made, failed;
    int last, elsewhere;
};

static const struct dt_param params[] = {
    {.name = "to",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct connects, to),
     .help = "The address."},
    {NULL},
};

static void later(struct connects *s)
{
    dt_timer_set(s->c, &s->again, dt_clock_ns() + 20000000);
}

static void on_again(struct dt_timer *timer)
{
    struct connects *s = (struct connects *)((char *)timer - offsetof(struct connects, again));

    dt_layer_connect(s->c, &s->op);
}

static void on_readable(struct dt_watch *watch, uint32_t events)
{
    struct connects *s = (struct connects *)((char *)watch - offsetof(struct connects, watch));
    char bytes[64];

    if (read(watch->fd, bytes, sizeof(bytes)) > 0)
        return;
    dt_watch_remove(s->c, watch);
    close(watch->fd);
    later(s);
}

static void on_done(struct dt_connect *op, int result)
{
    struct connects *s = (struct connects *)((char *)op - offsetof(struct connects, op));

    s->last = result;
    if (result < 0) {
        s->failed++;
        later(s);
        return;
    }
    s->made++;
    s->watch = (struct dt_watch){.ready = on_readable, .fd = result, .events = EPOLLIN};
    if (write(result, "hello\n", 6) != 6 || dt_watch_add(s->c, &s->watch) < 0)
        s->failed++;
}

static void on_wrong(struct dt_connect *op, int result)
{
    struct connects *s = (struct connects *)((char *)op - offsetof(struct connects, wrong));

    s->elsewhere = result;
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct connects *s = dt_layer_data(layer);

    return dt_layer_may_connect(layer, s->to, err);
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct connects *s = c->layer_data;

    s->c = c;
    s->op = (struct dt_connect){.done = on_done, .address = s->to};
    s->wrong = (struct dt_connect){.done = on_wrong, .address = "unix:/run/elsewhere"};
    s->again.fire = on_again;
    dt_layer_connect(c, &s->op);
    dt_layer_connect(c, &s->wrong);
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct connects *s = c->layer_data;

    dt_layer_connect_cancel(&s->op);
    dt_layer_connect_cancel(&s->wrong);
    dt_timer_cancel(c, &s->again);
    if (s->watch.loop_private) {
        dt_watch_remove(c, &s->watch);
        close(s->watch.fd);
    }
}

static int state(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                 struct dt_error *err)
{
    const struct connects *s = dt_layer_data(layer);

    dt_reply_u64(reply, "made", s->made);
    dt_reply_u64(reply, "failed", s->failed);
    dt_reply(reply, "last", "%s", s->last < 0 ? strerror(-s->last) : "connected");
    dt_reply(reply, "elsewhere", "%s", strerror(-s->elsewhere));
    return 0;
}

static const struct dt_verb verbs[] = {{"state", "", "Tell how it went.", state}, {NULL}};

static const struct dt_block_ext connects = {
    DT_BLOCK_EXT_HEADER, .name = "connects", .summary = "keeps a connection",
    .params = params,    .verbs = verbs,     .layer_size = sizeof(struct connects),
    .open = open_layer,  .start = start,     .stop = stop,
};
DT_BLOCK_EXTENSION(connects)
