/* SPDX-License-Identifier: MIT */
/*
 * pinner.c - connections that have a root pinned, for as long as they last: whoever checks the pool.
 *
 * The answer is the root, when it is durable. Nothing follows it but, if the pool gives the pin up, one line that tells
 * why, sent before anything that was pinned can be written over.
 */
#include "tools/pool/pool.h"

#include <sys/epoll.h>
#include <sys/socket.h>

/** struct pinner - one connection. @answered: the root was told. */
struct pinner {
    struct list node;
    struct pool_server *server;
    struct dt_watch watch;
    struct pool_pin pin;
    char *owner;
    bool answered;
};

static void hang_up(struct pinner *p)
{
    pool_unpin(shared_pool(p->server->shared), &p->pin);
    loop_watch_remove(p->server->loop, &p->watch);
    close(p->watch.fd);
    list_del(&p->node);
    free(p->owner);
    free(p);
}

/* It is gone, or was hung up on; and it has nothing more to say. */
static void run_pinner(struct dt_watch *watch, uint32_t events)
{
    hang_up(container_of(watch, struct pinner, watch));
}

/* What is sent in part is of no use. */
static void say(const struct pinner *p, json_t *json)
{
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT), *line = NULL;

    json_decref(json);
    CHECK(text);
    line = xasprintf("%s\n", text);
    if (send(p->watch.fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)strlen(line))
        shutdown(p->watch.fd, SHUT_RDWR);
}

static void held(struct pool_pin *pin, const struct px_root *root)
{
    struct pinner *p = container_of(pin, struct pinner, pin);
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = (const uint8_t *)root;
    char text[2 * sizeof(*root) + 1];

    for (size_t i = 0; i < sizeof(*root); i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * sizeof(*root)] = '\0';
    p->answered = true;
    say(p, json_pack("{sb s{sI ss}}", "ok", 1, "result", "number", (json_int_t)root->seq, "root",
                     text));
}

static void lost(struct pool_pin *pin, const char *why)
{
    struct pinner *p = container_of(pin, struct pinner, pin);

    if (p->answered)
        say(p, json_pack("{ss ss}", "event", "unpinned", "text", why));
    else
        say(p, json_pack("{sb si ss}", "ok", 0, "status", STATUS_FAILED, "error", why));
    shutdown(p->watch.fd, SHUT_RDWR); /* the rest happens in a turn of its own */
}

int pinner_new(struct pinner **out, struct pool_server *s, const struct pool_request *request,
               struct dt_error *err)
{
    struct pinner *p = xcalloc(1, sizeof(*p));
    int ret;

    p->server = s;
    p->owner = xstrdup(request->owner);
    p->pin = (struct pool_pin){.owner = p->owner, .held = held, .lost = lost};
    ret = pool_pin(shared_pool(s->shared), &p->pin, err);
    if (ret < 0) {
        free(p->owner);
        free(p);
        return ret;
    }
    *out = p;
    return 0;
}

void pinner_begin(struct pinner *p, int sock)
{
    list_add_tail(&p->server->pinners, &p->node);
    p->watch = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_pinner};
    if (loop_watch_add(p->server->loop, &p->watch) < 0)
        hang_up(p);
}

void pinners_end(struct pool_server *s)
{
    list_for_each_safe (it, &s->pinners)
        hang_up(list_entry(it, struct pinner, node));
}

json_t *pinned(struct pool_server *s)
{
    uint64_t blocks;
    const struct pool_pin *pin = pool_pinned(shared_pool(s->shared), &blocks);

    if (!pin)
        return json_object();
    return json_pack("{ss sI sI sI}", "owner", pin->owner, "since", (json_int_t)pin->since, "held",
                     (json_int_t)(blocks << PX_BLOCK_SHIFT), "root", (json_int_t)pin->root.seq);
}
