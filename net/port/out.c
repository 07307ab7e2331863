/* SPDX-License-Identifier: MIT */
/* out.c - packets from the guest to a descriptor: see port.h. */
#include "net/port/port.h"

#include <fcntl.h>
#include <sys/epoll.h>

static void unwatch(struct port_out *out)
{
    if (out->watching)
        dt_watch_remove(out->c, &out->watch);
    out->watching = false;
    dt_timer_cancel(out->c, &out->patience);
}

static void await(struct port_out *out)
{
    if (!out->watching && out->watch.fd >= 0)
        out->watching = dt_watch_add(out->c, &out->watch) == 0;
    dt_timer_set(out->c, &out->patience, dt_now(out->c) + PORT_PATIENCE);
}

void port_out_let_go(struct port_out *out)
{
    struct dt_packet *p;

    while ((p = packet_fifo_take(&out->waiting)) != NULL)
        dt_drop_one(out->c, p, out->full);
}

static void run_patience(struct dt_timer *timer)
{
    struct port_out *out = container_of(timer, struct port_out, patience);

    out->gave_up = true;
    port_out_let_go(out);
}

/* Some of what waits; what is not taken stays where it is, linked as it was. Returns how many were taken. */
static unsigned write_some(struct port_out *out)
{
    struct dt_packet *batch[PORT_BURST], *p = out->waiting.head;
    unsigned n = 0, done;

    for (; p && n < PORT_BURST; p = p->next)
        batch[n++] = p;
    done = out->write(out, batch, n);
    CHECK(done == n || out->blocked);
    out->waiting.head = done < n ? batch[done] : p;
    if (!out->waiting.head)
        packet_fifo_init(&out->waiting);
    return done;
}

void port_out_unblock(struct port_out *out)
{
    unsigned done = 0;

    out->blocked = false;
    do {
        done += write_some(out);
    } while (!out->blocked && out->waiting.head);
    if (!out->blocked)
        unwatch(out);
    else if (done)
        await(out);
    out->gave_up = out->gave_up && out->blocked && !done;
}

static void run_writable(struct dt_watch *watch, uint32_t events)
{
    port_out_unblock(container_of(watch, struct port_out, watch));
}

void port_out_block(struct port_out *out)
{
    if (out->blocked || !out->open)
        return;
    out->blocked = true;
    await(out);
}

void port_out_send(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    unsigned done = 0;

    if (!out->blocked) {
        done = out->write(out, packets, n);
        CHECK(done == n || out->blocked);
        if (out->blocked)
            await(out);
    }
    if (out->gave_up) {
        dt_drop(out->c, packets + done, n - done, out->full);
        return;
    }
    for (unsigned i = done; i < n; i++)
        packet_fifo_add(&out->waiting, packets[i]);
}

int port_out_open(struct port_out *out, int fd)
{
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0 && copy < 0)
        return -errno;
    out->watch = (struct dt_watch){.ready = run_writable, .fd = copy, .events = EPOLLOUT};
    out->patience.fire = run_patience;
    out->blocked = out->gave_up = false;
    packet_fifo_init(&out->waiting);
    out->open = true;
    return 0;
}

void port_out_close(struct port_out *out)
{
    if (!out->open)
        return;
    out->open = false;
    unwatch(out);
    port_out_let_go(out);
    if (out->watch.fd >= 0)
        close(out->watch.fd);
}
