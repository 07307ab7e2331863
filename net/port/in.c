/* SPDX-License-Identifier: MIT */
/* in.c - frames from a descriptor to the guest: see port.h. */
#include "net/port/port.h"

#include <sys/epoll.h>

/* Below this a packet is copied out of the large buffer that it was read into, so that few of these are in use. */
#define COPY_BELOW 1536u
#define RETRY_NS   DT_MS(1)
/* Without buffers of the guest's: when an interface is looked after, first and at last. */
#define LOOK_FIRST DT_S(1)
#define LOOK_LAST  DT_S(30)
/* Bytes that are handed on before more are read: they are still in the cache when the guest gets them. */
#define TOGETHER (128u << 10)
#define DOUBT    63u /* answers that are not looked for at once, after one that was not there */

static void unwatch(struct port_in *in)
{
    if (in->watching)
        dt_watch_remove(in->c, &in->watch);
    in->watching = false;
}

static int watch(struct port_in *in)
{
    int ret = in->watching ? 0 : dt_watch_add(in->c, &in->watch);

    in->watching = ret == 0;
    return ret;
}

static void again_at(struct port_in *in, uint64_t when)
{
    dt_timer_set(in->c, &in->again, when);
}

static void stop_reading(struct port_in *in, int error)
{
    unwatch(in);
    if (error == ENOBUFS) {
        dt_count(in->c, in->memory, 1);
        again_at(in, dt_now(in->c) + RETRY_NS);
        return;
    }
    dt_timer_cancel(in->c, &in->look);
    in->open = false;
    in->ended(in, error);
}

/* Reads at most @tries times, and hands on what came. Returns why there is no more, or 0. */
static int read_some(struct port_in *in, unsigned room, unsigned *tries)
{
    struct dt_packet *packets[PORT_BURST];
    uint32_t bytes = 0;
    unsigned n = 0;
    int error = 0;

    for (; *tries > 0 && n < room && bytes < TOGETHER && error == 0; (*tries)--) {
        struct dt_packet *p = in->read(in);

        if (p) {
            in->reads++;
            packets[n++] = p;
            bytes += p->length;
        } else if (errno != EBADMSG && errno != EINTR) {
            error = errno;
        }
    }
    dt_receive(in->c, packets, n);
    return error;
}

/* Whether the guest takes something or not: an error comes before what waits. */
static void read_error(struct port_in *in)
{
    struct dt_packet *p = in->read(in);
    int error = errno;

    if (p) /* it was read by somebody already */
        dt_sent(in->c, &p, 1);
    else if (error != EBADMSG && error != EINTR && error != EAGAIN)
        stop_reading(in, error);
}

/* What can be read stays where it is, and would be told of in each turn. */
static void wait_for_room(struct port_in *in)
{
    unwatch(in);
    if (!in->interface || in->look.heap_index)
        return;
    dt_timer_set(in->c, &in->look, dt_now(in->c) + in->pause);
    in->pause = MIN(2 * in->pause, LOOK_LAST);
}

/* An interface that was deleted meanwhile says so when it is watched again. */
static void run_look(struct dt_timer *timer)
{
    watch(container_of(timer, struct port_in, look));
}

static void run(struct port_in *in)
{
    unsigned tries = PORT_BURST;
    int error = 0;

    while (error == 0 && tries > 0) {
        unsigned room = MIN(dt_room(in->c), PORT_BURST);

        if (room == 0) {
            wait_for_room(in);
            return;
        }
        error = read_some(in, room, &tries);
    }
    if (error == 0 && in->buffered)
        again_at(in, dt_now(in->c));
    else if (error != 0 && error != EAGAIN)
        stop_reading(in, error);
}

static void run_readable(struct dt_watch *watch_, uint32_t events)
{
    struct port_in *in = container_of(watch_, struct port_in, watch);

    if (unlikely(in->interface && events & EPOLLERR))
        read_error(in);
    if (in->watching)
        run(in);
}

static void run_again(struct dt_timer *timer)
{
    struct port_in *in = container_of(timer, struct port_in, again);
    uint64_t before = in->reads;

    watch(in);
    run(in);
    in->rest = in->reads == before ? DOUBT : 0;
}

void port_in_expect(struct port_in *in)
{
    if (in->rest > 0)
        in->rest--;
    else if (in->watching)
        again_at(in, dt_now(in->c));
}

int port_in_open(struct port_in *in, int fd)
{
    in->watch = (struct dt_watch){.ready = run_readable, .fd = fd, .events = EPOLLIN};
    in->again.fire = run_again;
    in->look.fire = run_look;
    in->pause = LOOK_FIRST;
    in->buffered = false;
    in->open = true;
    return watch(in);
}

void port_in_close(struct port_in *in)
{
    unwatch(in);
    dt_timer_cancel(in->c, &in->again);
    dt_timer_cancel(in->c, &in->look);
    in->open = false;
}

/* Not at once: whoever made room may be in the middle of something. */
void port_in_resume(struct port_in *in)
{
    if (!in->open)
        return;
    in->pause = LOOK_FIRST;
    again_at(in, dt_now(in->c));
}

struct dt_packet *port_fit(struct dt_ctx *c, struct dt_packet *p, uint32_t length)
{
    struct dt_packet *small;

    dt_packet_set_length(p, length);
    if (length > COPY_BELOW || !(small = dt_packet_copy(c, p)))
        return p;
    dt_sent(c, &p, 1);
    return small;
}

struct dt_packet *port_drop(struct dt_ctx *c, struct dt_packet *p, unsigned counter)
{
    dt_drop_one(c, p, counter);
    errno = EBADMSG;
    return NULL;
}

struct dt_packet *port_unread(struct dt_ctx *c, struct dt_packet *p, int error)
{
    dt_sent(c, &p, 1); /* it only goes back */
    errno = error;
    return NULL;
}

struct dt_packet *port_offloads(struct dt_ctx *c, struct dt_packet *p,
                                const struct dt_vnet_header *v, unsigned counter)
{
    if ((v->flags | v->gso_type) && dt_vnet_read(p, v, DT_OFFLOAD_ALL) < 0)
        return port_drop(c, p, counter);
    return p;
}
