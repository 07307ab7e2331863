/* SPDX-License-Identifier: MIT */
/*
 * request.c - requests as NBD commands.
 *
 * One request is one command, since a server answers each with a message of its own: data in one
 * vector goes between socket and guest memory without a copy, data in several goes through a
 * buffer. A request is in exactly one list: sent (of a connection), pending, fenced or done.
 *
 * libnbd calls back with its lock held, so what is answered is only put aside there, and handed up
 * when libnbd has returned.
 */
#include "blk/nbd/internal.h"

#include <sys/mman.h>

#define BUFFERS      32u
#define BUFFER_BYTES (1u << 20)
#define TICK         DT_MS(100)
#define TICK_QUIESCE DT_MS(20)

struct buffer {
    struct buffer *next;
    uint8_t *bytes;
};

/* ---- Buffers --------------------------------------------------------------------------------- */

/* The request's bytes in one piece; NULL while all buffers are in use. */
static void *contiguous(struct remote_io *io, struct dt_req *req)
{
    struct remote_ctx *rc = io->rc;
    const struct iovec *iov;
    unsigned n = dt_req_map(rc->c, req, &iov);

    if (n == 1)
        return iov->iov_base;
    if (!io->buffer) {
        if (!rc->buffer_free)
            return NULL;
        io->buffer = rc->buffer_free;
        rc->buffer_free = io->buffer->next;
        dt_count(rc->c, COPIED, 1);
        if (req->op == DT_OP_WRITE)
            dt_iov_read(iov, n, 0, io->buffer->bytes, dt_req_bytes(req));
    }
    return io->buffer->bytes;
}

static void release_buffer(struct remote_io *io, struct dt_req *req)
{
    struct remote_ctx *rc = io->rc;
    const struct iovec *iov;
    unsigned n;

    if (!io->buffer)
        return;
    if (req->op == DT_OP_READ && io->error == 0) {
        n = dt_req_map(rc->c, req, &iov);
        dt_iov_write(iov, n, 0, io->buffer->bytes, dt_req_bytes(req));
    }
    io->buffer->next = rc->buffer_free;
    rc->buffer_free = TAKE_PTR(io->buffer);
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void finish(struct remote_io *io, int error)
{
    struct dt_req *req = remote_req(io);

    io->error = error;
    release_buffer(io, req);
    dt_complete_one(io->rc->c, req, error);
}

/* In libnbd, with its lock held. ENOTCONN is libnbd's word for a connection that is lost, and no
 * server's: those stay in the list of what was sent, for conn_lost(). */
static int answered(void *user, int *error)
{
    struct remote_io *io = user;

    if (*error == ENOTCONN)
        return 1;
    io->error = -*error;
    io->conn->in_flight--;
    list_del(&io->node);
    io_list_add(&io->rc->done, io);
    return 1; /* libnbd forgets the command */
}

static bool changes_disk(const struct dt_req *req)
{
    return req->op != DT_OP_READ && req->op != DT_OP_FLUSH;
}

static void tick_start(struct remote_ctx *rc)
{
    if (!rc->tick.heap_index)
        dt_timer_set(rc->c, &rc->tick,
                     patience_look(&rc->patience, dt_clock_ns(), TICK, TICK_QUIESCE));
}

void remote_take_back(struct remote_io *io)
{
    struct remote_ctx *rc = io->rc;
    const struct remote *r = rc->c->layer_data;

    dt_count(rc->c, RESENT, 1);
    io->syncing = false; /* the data may be gone with the server's memory: from the beginning */
    if (changes_disk(remote_req(io)) && r->fence_delay) {
        io->when = dt_clock_ns() + r->fence_delay;
        io_list_add(&rc->fenced, io);
    } else {
        io_list_add(&rc->pending, io);
    }
    tick_start(rc);
}

/* A write is done; where FUA was asked for and the server does not know it, a flush follows. */
static void written(struct remote_io *io, struct remote *r)
{
    struct dt_req *req = remote_req(io);

    if (!(req->flags & DT_REQ_FUA) || !r->info.can_flush) {
        __atomic_fetch_add(&r->written, 1, __ATOMIC_RELEASE);
        finish(io, 0);
    } else if (r->fua) {
        finish(io, 0);
    } else {
        __atomic_fetch_add(&r->written, 1, __ATOMIC_RELEASE);
        io->syncing = true;
        io_list_add(&io->rc->pending, io);
    }
}

static void flushed(struct remote_io *io, struct remote *r)
{
    uint64_t before = __atomic_load_n(&r->flushed, __ATOMIC_RELAXED);

    while (before < io->mark && !__atomic_compare_exchange_n(&r->flushed, &before, io->mark, true,
                                                             __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    finish(io, 0);
}

void remote_hand_up(struct remote_ctx *rc)
{
    struct remote *r = rc->c->layer_data;
    struct remote_io *io;

    while ((io = io_list_take(&rc->done)) != NULL) {
        const struct dt_req *req = remote_req(io);

        if (io->error == -ESHUTDOWN) { /* the server is about to go, and has not done it */
            struct conn *conn = io->conn;

            remote_take_back(io);
            conn_refused(conn);
        } else if (io->error) {
            finish(io, io->error);
        } else if (io->syncing || req->op == DT_OP_FLUSH) {
            flushed(io, r);
        } else if (changes_disk(req)) {
            written(io, r);
        } else {
            finish(io, 0);
        }
    }
    if (rc->pending.count)
        remote_drain(rc);
}

/* ---- Sending --------------------------------------------------------------------------------- */

static int64_t command(struct conn *conn, struct remote_io *io, struct dt_req *req, void *data)
{
    const struct remote *r = io->rc->c->layer_data;
    nbd_completion_callback done = {.callback = answered, .user_data = io};
    uint64_t at = req->sector << DT_SECTOR_SHIFT, n = dt_req_bytes(req);
    uint32_t fua = (req->flags & DT_REQ_FUA) && r->fua ? LIBNBD_CMD_FLAG_FUA : 0;

    if (io->syncing || req->op == DT_OP_FLUSH) {
        io->mark = __atomic_load_n(&r->written, __ATOMIC_ACQUIRE);
        return nbd_aio_flush(conn->h, done, 0);
    }
    switch (req->op) {
    case DT_OP_READ:
        return nbd_aio_pread(conn->h, data, n, at, done, 0);
    case DT_OP_WRITE:
        return nbd_aio_pwrite(conn->h, data, n, at, done, fua);
    case DT_OP_DISCARD:
        return nbd_aio_trim(conn->h, n, at, done, 0);
    default:
        return nbd_aio_zero(conn->h, n, at, done,
                            fua | (req->flags & DT_REQ_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
    }
}

static void send_on(struct conn *conn, struct remote_io *io, struct dt_req *req, void *data)
{
    struct remote_ctx *rc = io->rc;
    unsigned before = rc->done.count;
    const struct remote *r = rc->c->layer_data;

    io->conn = conn;
    if (conn->in_flight++ == 0)
        conn->progress = dt_now(rc->c);
    list_add_tail(&conn->sent, &io->node);
    if (r->timeout)
        tick_start(rc);
    if (command(conn, io, req, data) < 0 && rc->done.count == before && !nbd_aio_is_dead(conn->h) &&
        !nbd_aio_is_closed(conn->h)) { /* libnbd refuses this command alone */
        int error = nbd_get_errno() ?: EIO;

        conn->in_flight--;
        list_del(&io->node);
        finish(io, -error);
        return;
    }
    conn_settle(conn);
}

/* What needs no server, or none that is there: its error, 1 for none of that. */
static int judge(const struct remote *r, const struct dt_req *req)
{
    switch (req->op) {
    case DT_OP_READ:
        return 1;
    case DT_OP_FLUSH:
        if (__atomic_load_n(&r->flush_failed, __ATOMIC_RELAXED))
            return -EIO;
        return r->info.can_flush && !r->info.read_only ? 1 : 0;
    case DT_OP_DISCARD:
        return r->info.read_only ? -EROFS : r->info.can_discard ? 1 : -EOPNOTSUPP;
    case DT_OP_WRITE_ZEROES:
        return r->info.read_only ? -EROFS : r->info.can_write_zeroes ? 1 : -EOPNOTSUPP;
    default:
        return r->info.read_only ? -EROFS : 1;
    }
}

/* false: it has to wait for a connection or a buffer. */
static bool try_send(struct remote_io *io)
{
    struct dt_req *req = remote_req(io);
    struct conn *conn = conn_pick(io->rc);
    void *data = NULL;

    if (!conn)
        return false;
    if (dt_req_has_data(req) && !io->syncing) {
        data = contiguous(io, req);
        if (!data)
            return false;
    }
    send_on(conn, io, req, data);
    return true;
}

void remote_drain(struct remote_ctx *rc)
{
    /* Each once: what comes back to the list while it is gone through waits for the next time. */
    for (unsigned n = rc->pending.count; n > 0 && rc->pending.count && rc->up; n--) {
        struct remote_io *io = io_list_take(&rc->pending);

        if (!try_send(io)) {
            list_add_tail(rc->pending.head.next, &io->node); /* the first again */
            rc->pending.count++;
            return;
        }
    }
}

void remote_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct remote_ctx *rc = c->data;
    const struct remote *r = c->layer_data;

    for (unsigned i = 0; i < n; i++) {
        struct remote_io *io = dt_frame(c, reqs[i]);
        int error = judge(r, reqs[i]);

        *io = (struct remote_io){.rc = rc};
        if (error <= 0) {
            dt_complete_one(c, reqs[i], error);
        } else if (rc->pending.count || !try_send(io)) {
            if (!rc->up)
                dt_count(c, HELD, 1);
            io_list_add(&rc->pending, io);
            tick_start(rc);
        }
    }
    if (rc->done.count)
        remote_hand_up(rc);
}

/* ---- Waiting --------------------------------------------------------------------------------- */

static void fail_all(struct io_list *list, int error)
{
    struct remote_io *io;

    for (unsigned n = list->count; n > 0 && (io = io_list_take(list)) != NULL; n--)
        finish(io, error);
}

static bool timed_out(const struct remote_ctx *rc, const struct remote *r, uint64_t now)
{
    return r->timeout && rc->down_since && now - rc->down_since >= r->timeout;
}

/* What waits for its fence may still land at the server: nobody else may run it again before that,
 * so it fails even where the rest is only let go of. */
static void lose_patience(struct remote_ctx *rc, const struct remote *r, uint64_t now)
{
    bool late = timed_out(rc, r, now);

    if (!late && !patience_over(&rc->patience, now))
        return;
    fail_all(&rc->pending, late ? -ETIMEDOUT : -ECANCELED);
    fail_all(&rc->fenced, -ETIMEDOUT);
}

/* A server that has requests and says nothing for so long is as good as gone. */
static void find_stalled(struct remote_ctx *rc, const struct remote *r, uint64_t now)
{
    for (unsigned i = 0; r->timeout && i < rc->count; i++) {
        struct conn *conn = &rc->conns[i];

        if (conn->state == CONN_UP && conn->in_flight && now - conn->progress >= r->timeout)
            conn_lost(conn, "it does not answer");
    }
}

static void end_fences(struct remote_ctx *rc, uint64_t now)
{
    while (rc->fenced.count) {
        struct remote_io *io = list_entry(rc->fenced.head.next, struct remote_io, node);

        if (io->when > now)
            break;
        io_list_add(&rc->pending, io_list_take(&rc->fenced));
    }
}

static void tick(struct dt_timer *timer)
{
    struct remote_ctx *rc = container_of(timer, struct remote_ctx, tick);
    const struct remote *r = rc->c->layer_data;
    uint64_t now = dt_clock_ns();
    unsigned busy = 0;

    find_stalled(rc, r, now);
    end_fences(rc, now);
    lose_patience(rc, r, now);
    remote_drain(rc);
    for (unsigned i = 0; r->timeout && i < rc->count; i++)
        busy += rc->conns[i].in_flight;
    if (rc->pending.count || rc->fenced.count || busy)
        tick_start(rc);
    remote_hand_up(rc);
}

/* A server may come back until shortly before the deadline. */
void remote_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct remote_ctx *rc = c->data;
    uint64_t now = dt_clock_ns();

    patience_begin(&rc->patience, now, deadline);
    dt_timer_set(c, &rc->tick, now);
}

int remote_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct remote_ctx *rc = c->data;
    struct io_list *const lists[] = {&rc->pending, &rc->fenced};
    struct remote_io *io = dt_frame(c, req);

    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        list_for_each (it, &lists[i]->head)
            if (it == &io->node) {
                list_del(it);
                lists[i]->count--;
                finish(io, -ECANCELED);
                return 0;
            }
    return -EBUSY; /* the server has it */
}

/* Reserved memory: pages that were never touched cost nothing. */
int remote_requests_init(struct remote_ctx *rc, struct dt_error *err)
{
    uint8_t *bytes = mmap(NULL, (size_t)BUFFERS * BUFFER_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (bytes == MAP_FAILED)
        return dt_fail(err, -errno, "no memory for buffers: %s", strerror(errno));
    madvise(bytes, (size_t)BUFFERS * BUFFER_BYTES, MADV_DONTDUMP);
    rc->buffers = xcalloc(BUFFERS, sizeof(struct buffer));
    for (unsigned i = 0; i < BUFFERS; i++) {
        rc->buffers[i] = (struct buffer){rc->buffer_free, bytes + (size_t)i * BUFFER_BYTES};
        rc->buffer_free = &rc->buffers[i];
    }
    rc->tick.fire = tick;
    list_init(&rc->pending.head);
    list_init(&rc->fenced.head);
    list_init(&rc->done.head);
    return 0;
}

void remote_requests_fini(struct remote_ctx *rc)
{
    CHECK(!rc->pending.count && !rc->fenced.count && !rc->done.count);
    munmap(rc->buffers[0].bytes, (size_t)BUFFERS * BUFFER_BYTES);
    free(rc->buffers);
}
