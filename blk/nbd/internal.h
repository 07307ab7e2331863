/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `nbd` share. Ours begin with remote_: nbd_ is libnbd's.
 */
#ifndef NBD_INTERNAL_H
#define NBD_INTERNAL_H

#include "base/patience.h"
#include "blk/nbd/tls.h"
#include <devtap/block.h>
#include <libnbd.h>

enum remote_lost_cache { LOST_CACHE_TRUST, LOST_CACHE_FAIL };
enum remote_counter { COPIED, HELD, RESENT, CONNECTS };

struct addrinfo;

/**
 * struct remote - the layer.
 * @address: what the connector knows the server by.
 * @handles: connections while no thread has them: @connections for each thread, in order.
 * @info:    the disk as the first connection found it; a server that comes back must be the same.
 * @maps:    the server tells what is allocated.
 * @keys: of TLS; NULL without it.
 * @told: that the server can be reached, but not be used; until it can.
 * @known: @info and what else the server can do; else @away, a failure, tells why not.
 * @written, @flushed: how many writes completed, and how many of them a flush is known to cover.
 */
struct remote {
    const char *text;
    uint64_t connections, timeout, connect_timeout, fence_delay;
    unsigned lost_cache;
    bool read_only;

    struct remote_uri uri;
    struct addrinfo *addresses; /* for open() alone; later the connector looks the name up */
    unsigned next_address;
    char address[DT_ADDRESS_MAX];
    struct nbd_handle **handles;
    struct dt_block_info info;
    struct tls_keys *keys;
    bool known, fua, multi, maps, flush_failed, told;
    struct dt_error away;
    int failure;
    uint64_t written, flushed;
    struct dt_layer *layer;
};

struct remote_ctx;

enum conn_state { CONN_DOWN, CONN_CONNECTING, CONN_UP };

/**
 * struct conn - one connection of one thread.
 * @timer:    DOWN: the next try; CONNECTING: the end of patience.
 * @op:       the socket on its way, while CONNECTING without a handle.
 * @sent:     requests that the server has, of struct remote_io.
 * @progress: when it last answered, or was given the first of them.
 * @useless:  tries in a row that reached the server, and brought nothing.
 */
struct conn {
    struct remote_ctx *rc;
    struct nbd_handle *h;
    enum conn_state state;
    bool watched;
    struct dt_watch watch;
    struct dt_timer timer;
    struct dt_connect op;
    uint64_t backoff, progress;
    struct list sent;
    unsigned in_flight, useless;
};

/**
 * struct remote_io - a request's frame.
 * @node:  in its connection's @sent, or in one of the thread's lists.
 * @when:  in @fenced: when it may be sent again.
 * @mark:  of a flush: the writes completed before it was sent.
 * @syncing: its data is written, and the flush that makes it durable is under way.
 */
struct remote_io {
    struct list node;
    struct remote_ctx *rc;
    struct conn *conn;
    struct buffer *buffer;
    union {
        uint64_t when, mark;
    };
    int error;
    bool syncing;
};

struct io_list {
    struct list head;
    unsigned count;
};

/**
 * struct remote_ctx - the layer on one thread.
 * @pending: waiting for a connection, or for a buffer.
 * @fenced:  writes of a connection that was lost, which the server may still be executing.
 * @done:    answered, to be handed up when libnbd has returned: its lock is held in its callbacks.
 */
struct remote_ctx {
    struct dt_ctx *c;
    struct conn *conns;
    unsigned count, up, next;
    struct io_list pending, fenced, done;
    struct dt_timer tick, ask;
    struct question *question; /* for @ask */
    uint64_t down_since;       /* 0: there is a connection */
    struct patience patience;
    struct buffer *buffers, *buffer_free;
};

static inline struct dt_req *remote_req(const struct remote_io *io)
{
    return dt_frame_req(io->rc->c, io);
}
static inline void io_list_add(struct io_list *list, struct remote_io *io)
{
    list_add_tail(&list->head, &io->node);
    list->count++;
}
static inline struct remote_io *io_list_take(struct io_list *list)
{
    struct remote_io *io;

    if (list_empty(&list->head))
        return NULL;
    io = list_entry(list->head.next, struct remote_io, node);
    list_del(&io->node);
    list->count--;
    return io;
}

/* connect.c: one handle. */
/** remote_announce() - for later, when this process may be confined; now it does without help. */
int remote_announce(struct remote *r, struct dt_error *err);
/** remote_resolve() - look up the server's name. */
int remote_resolve(struct remote *r, struct dt_error *err);
/** remote_dial() - a new handle that is connecting over @fd, which it takes over. */
int remote_dial(struct remote *r, int fd, struct nbd_handle **h, struct dt_error *err);
/** remote_connect() - the same, connected, by @deadline. */
int remote_connect(struct remote *r, struct nbd_handle **h, uint64_t deadline,
                   struct dt_error *err);
/** remote_learn() - what the disk is, from the first connection. */
int remote_learn(struct remote *r, struct nbd_handle *h, struct dt_error *err);
/** remote_limits() - of @info what follows from the rest, and from what this program can do. */
void remote_limits(struct dt_block_info *info);
/** remote_same() - is it still that disk? */
int remote_same(const struct remote *r, struct nbd_handle *h, struct dt_error *err);
/** remote_reason() - why @h, on which libnbd's last call on this thread failed, is of no use. */
const char *remote_reason(struct nbd_handle *h);
/** remote_drop() - close it, whatever it is doing. */
void remote_drop(struct nbd_handle *h);
/** remote_hang_up() - tell the server that we go, and close. */
void remote_hang_up(struct nbd_handle *h);

/* conn.c: connections at work. */
void conn_init(struct conn *conn, struct remote_ctx *rc, struct nbd_handle *h);
struct nbd_handle *conn_fini(struct conn *conn);
/** conn_pick() - one that is up, in turn; NULL if none is. */
struct conn *conn_pick(struct remote_ctx *rc);
/** conn_settle() - after anything was asked of libnbd: is it dead, what does it wait for? */
void conn_settle(struct conn *conn);
void conn_lost(struct conn *conn, const char *why);
/** conn_refused() - the server answers, but serves nobody now. */
void conn_refused(struct conn *conn);

/* request.c */
void remote_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
int remote_cancel(struct dt_ctx *c, struct dt_req *req);
void remote_quiesce(struct dt_ctx *c, uint64_t deadline);
/** remote_drain() - send what waits, as far as it can be. */
void remote_drain(struct remote_ctx *rc);
/** remote_take_back() - its connection is gone. */
void remote_take_back(struct remote_io *io);
/** remote_hand_up() - what libnbd's callbacks have put aside. */
void remote_hand_up(struct remote_ctx *rc);
int remote_requests_init(struct remote_ctx *rc, struct dt_error *err);
void remote_requests_fini(struct remote_ctx *rc);

/* identity.c: what the disk is, for the next process of the run. */
int64_t remote_save(struct dt_layer *layer, void *buf, size_t size);
int remote_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err);

/* status.c */
void remote_status(struct dt_layer *layer, struct dt_extent *extent);
/** remote_ask() - a timer: send the question that was left. */
void remote_ask(struct dt_timer *timer);

#endif
