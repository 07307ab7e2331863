/* SPDX-License-Identifier: MIT */
/*
 * subscriber.c - connections that are told what happens to a disk, or to the pool.
 *
 * An event is one line, sent at once or not at all: nothing waits for somebody who does not read. How many he
 * missed is in the next line that he gets.
 */
#include "tools/pool/pool.h"

#include <sys/epoll.h>
#include <sys/socket.h>

/** struct subscriber - one connection. @slot, with @uuid of who had it then; NO_SLOT: all disks. */
struct subscriber {
    struct list node;
    struct pool_server *server;
    struct dt_watch watch;
    uint32_t slot;
    uint8_t uuid[16];
    unsigned missed;
};

static void subscriber_free(struct subscriber *s)
{
    list_del(&s->node);
    close(s->watch.fd);
    free(s);
}

static void hang_up(struct subscriber *s)
{
    loop_watch_remove(s->server->loop, &s->watch);
    subscriber_free(s);
}

/* It has nothing more to say. */
static void run_subscriber(struct dt_watch *watch, uint32_t events)
{
    hang_up(container_of(watch, struct subscriber, watch));
}

int subscriber_new(struct subscriber **out, struct pool_server *server, const char *disk,
                   struct dt_error *err)
{
    struct pool *pool = shared_pool(server->shared);
    struct subscriber *s;
    uint32_t slot = NO_SLOT;
    uint64_t moment;
    int ret = disk ? pool_moment(pool, disk, &slot, &moment, err) : 0;

    if (ret < 0)
        return ret;
    s = xcalloc(1, sizeof(*s));
    s->server = server;
    s->slot = slot;
    if (slot != NO_SLOT)
        memcpy(s->uuid, pool_record(pool, slot)->uuid, sizeof(s->uuid));
    *out = s;
    return 0;
}

void subscriber_begin(struct subscriber *s, int sock)
{
    list_add_tail(&s->server->subscribers, &s->node);
    s->watch = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_subscriber};
    if (loop_watch_add(s->server->loop, &s->watch) < 0)
        subscriber_free(s);
}

/* ---- Telling ---- */

/* A slot may have another disk by now. */
static bool concerns(const struct subscriber *s, uint32_t slot)
{
    const struct px_record *r;

    if (slot == NO_SLOT || s->slot == NO_SLOT)
        return true;
    r = slot == s->slot ? pool_record(shared_pool(s->server->shared), slot) : NULL;
    return r && memcmp(r->uuid, s->uuid, sizeof(s->uuid)) == 0;
}

static char *line_of(const struct subscriber *s, const char *event, const char *text)
{
    json_t *json = json_pack("{ss ss}", "event", event, "text", text);
    _cleanup_free_ char *line = NULL;

    if (s->missed)
        json_object_set_new(json, "missed", json_integer(s->missed));
    line = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    CHECK(line);
    return xasprintf("%s\n", line);
}

/* What is sent in part would run into the next line: then that is the end. */
static void tell(struct subscriber *s, const char *event, const char *text)
{
    _cleanup_free_ char *line = line_of(s, event, text);
    ssize_t sent = send(s->watch.fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);

    if (sent == (ssize_t)strlen(line))
        s->missed = 0;
    else if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        s->missed++;
    else
        shutdown(s->watch.fd, SHUT_RDWR);
}

void subscribers_tell(struct pool_server *server, uint32_t slot, const char *event,
                      const char *text)
{
    list_for_each (it, &server->subscribers) {
        struct subscriber *s = list_entry(it, struct subscriber, node);

        if (concerns(s, slot))
            tell(s, event, text);
    }
}

void subscribers_end(struct pool_server *server)
{
    list_for_each_safe (it, &server->subscribers)
        hang_up(list_entry(it, struct subscriber, node));
}
