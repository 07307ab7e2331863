/* SPDX-License-Identifier: MIT */
/*
 * client.c - the extension's side of a channel (libdevtap-channel).
 *
 * Whatever the worker writes is judged against the private table of requests: an id must be
 * in the state that the message presumes, and data must lie within the area. A worker that breaks
 * the protocol ends the conversation: DT_CHANNEL_END, and nothing is read any more.
 */
#include "channel/channel.h"
#include <devtap/channel.h>

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define CLIENT_MAGIC  0x64436c69u
#define CONTROL_EVERY 256u /* polls of the ring between two looks at the control socket */
#define SPIN_CHECK    64u
#define DEFAULT_SPIN  DT_US(20)
#define SECTOR_LIMIT  (UINT64_MAX >> DT_SECTOR_SHIFT)

enum request_state { REQUEST_IDLE, REQUEST_HERE, REQUEST_BELOW, REQUEST_BACK };
enum sub_state { SUB_FREE, SUB_MINE, SUB_BELOW };

struct client_request {
    uint8_t state;
    uint8_t op, flags, parts;
    uint32_t sectors;
    uint64_t sector;
    uint32_t data;
    uint16_t queue, vectors;
};

struct client_sub {
    uint8_t state, op;
    uint32_t next; /* free list: id + 1 */
};

struct dt_channel {
    uint32_t magic;
    int sock, kick_down;
    struct channel_map map;
    struct channel_producer up;
    struct channel_consumer down;
    struct client_request *requests;
    struct channel_memory *memory; /* whoever has the control socket has it */
    struct iovec *vectors;         /* CHANNEL_VECTORS for each request */
    struct client_sub *subs;
    uint32_t sub_free;
    uint64_t spin_ns;
    unsigned polls;
    uint32_t taken; /* requests, since the start of the channel */
    bool ended, end_told;
    int end_error;
    struct control_frame frame;
};

static int control_socket(struct dt_error *err)
{
    const char *text = getenv("DEVTAP_CHANNEL");
    char *end;
    long fd;

    if (!text)
        return dt_fail(err, -ENOENT,
                       "this is an extension of devtap, and no command of its own: name it in a "
                       "chain (devtap help placement)");
    fd = strtol(text, &end, 10);
    if (*text == '\0' || *end || fd < 0 || fd > INT32_MAX)
        return dt_fail(err, -EINVAL, "DEVTAP_CHANNEL=%s is no descriptor", text);
    unsetenv("DEVTAP_CHANNEL");
    return (int)fd;
}

int dt_channel_open(struct dt_channel **out, int fd, const char *description, struct dt_error *err)
{
    struct dt_channel *ch;
    int ret;

    if (fd < 0)
        fd = control_socket(err);
    if (fd < 0)
        return fd;
    ret = control_send(fd, CONTROL_HELLO, 0, description, NULL, 0);
    if (ret < 0)
        return dt_fail(err, ret, "cannot tell devtap who we are: %s", strerror(-ret));
    ch = xaligned(CACHE_LINE, sizeof(*ch));
    ch->magic = CLIENT_MAGIC;
    ch->memory = xcalloc(1, sizeof(*ch->memory));
    ch->sock = fd;
    ch->kick_down = -1;
    ch->up.kick = -1;
    ch->spin_ns = DEFAULT_SPIN;
    *out = ch;
    return 0;
}

static void detach(struct dt_channel *ch)
{
    channel_detach(&ch->map);
    if (ch->kick_down >= 0)
        close(ch->kick_down);
    if (ch->up.kick >= 0)
        close(ch->up.kick);
    free(ch->requests);
    free(ch->vectors);
    free(ch->subs);
}

void dt_channel_free(struct dt_channel *ch)
{
    if (!ch)
        return;
    CHECK_MAGIC(ch, CLIENT_MAGIC);
    detach(ch);
    if (ch->sock >= 0) {
        memory_forget(ch->memory);
        free(ch->memory);
        close(ch->sock);
    }
    ch->magic = 0;
    free(ch);
}

static void end(struct dt_channel *ch, int error)
{
    if (!ch->ended)
        ch->end_error = error;
    ch->ended = true;
}

/* ---- Requests ---- */

static bool data_fits(const struct dt_channel *ch, const struct channel_msg *m)
{
    uint64_t bytes = (uint64_t)m->sectors << DT_SECTOR_SHIFT;
    uint64_t at = (uint64_t)m->data << CHANNEL_PAGE_SHIFT;
    uint64_t first = m->vectors ? 1u << CHANNEL_PAGE_SHIFT : bytes;

    if (m->parts == 0)
        return m->vectors == 0;
    return m->parts <= 2 && m->op <= 1 && bytes && at <= ch->map.data_bytes &&
           first + bytes * (m->parts - 1u) <= ch->map.data_bytes - at;
}

static bool vectors_fit(struct dt_channel *ch, const struct channel_msg *m)
{
    const void *list = ch->map.data + ((uint64_t)m->data << CHANNEL_PAGE_SHIFT);

    return m->vectors == 0 ||
           (m->vectors <= CHANNEL_VECTORS &&
            memory_vectors(ch->memory, list, m->vectors, (uint64_t)m->sectors << DT_SECTOR_SHIFT,
                           &ch->vectors[m->id * CHANNEL_VECTORS]));
}

static bool judge_request(struct dt_channel *ch, const struct channel_msg *m)
{
    return m->id < ch->map.slots && ch->requests[m->id].state == REQUEST_IDLE &&
           m->sector <= SECTOR_LIMIT && data_fits(ch, m) && vectors_fit(ch, m);
}

uint32_t dt_channel_data(struct dt_channel *ch, uint32_t id, void **data, void **below)
{
    const struct client_request *r = &ch->requests[id];
    uint32_t bytes = r->sectors << DT_SECTOR_SHIFT;

    CHECK(id < ch->map.slots);
    *data = *below = NULL;
    if (r->parts == 0)
        return 0;
    *data = ch->map.data + ((uint64_t)r->data << CHANNEL_PAGE_SHIFT);
    if (r->parts == 2)
        *below = (uint8_t *)*data + (r->vectors ? 1u << CHANNEL_PAGE_SHIFT : bytes);
    if (r->vectors)
        *data = NULL;
    return bytes;
}

unsigned dt_channel_vectors(struct dt_channel *ch, uint32_t id, const struct iovec **iov)
{
    CHECK(id < ch->map.slots);
    *iov = &ch->vectors[id * CHANNEL_VECTORS];
    return ch->requests[id].vectors;
}

static void fill_event(struct dt_channel *ch, uint32_t id, struct dt_channel_event *e)
{
    const struct client_request *r = &ch->requests[id];

    *e = (struct dt_channel_event){.id = id,
                                   .sector = r->sector,
                                   .sectors = r->sectors,
                                   .op = r->op,
                                   .flags = r->flags,
                                   .queue = r->queue,
                                   .fd = -1};
    e->bytes = dt_channel_data(ch, id, &e->data, &e->below);
}

static int take_request(struct dt_channel *ch, const struct channel_msg *m,
                        struct dt_channel_event *e)
{
    if (!judge_request(ch, m))
        return -EPROTO;
    ch->taken++;
    ch->requests[m->id] = (struct client_request){.state = REQUEST_HERE,
                                                  .op = m->op,
                                                  .flags = m->flags,
                                                  .parts = m->parts,
                                                  .sectors = m->sectors,
                                                  .sector = m->sector,
                                                  .data = m->data,
                                                  .queue = m->queue,
                                                  .vectors = m->vectors};
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_REQUEST;
    return 1;
}

static int take_returned(struct dt_channel *ch, const struct channel_msg *m,
                         struct dt_channel_event *e)
{
    if (m->id >= ch->map.slots || ch->requests[m->id].state != REQUEST_BELOW)
        return -EPROTO;
    ch->requests[m->id].state = REQUEST_BACK;
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_RESPONSE;
    e->error = m->error;
    return 1;
}

static int take_sub_done(struct dt_channel *ch, const struct channel_msg *m,
                         struct dt_channel_event *e)
{
    if (m->id >= ch->map.subs || ch->subs[m->id].state != SUB_BELOW)
        return -EPROTO;
    ch->subs[m->id].state = SUB_MINE;
    *e = (struct dt_channel_event){.type = DT_CHANNEL_SUB,
                                   .id = m->id,
                                   .error = m->error,
                                   .op = ch->subs[m->id].op,
                                   .fd = -1,
                                   .data = ch->map.sub_data + (size_t)m->id * ch->map.sub_window};
    return 1;
}

/* It may have crossed our answer: then there is nothing to cancel any more. */
static int take_cancel(struct dt_channel *ch, const struct channel_msg *m,
                       struct dt_channel_event *e)
{
    if (m->id >= ch->map.slots)
        return -EPROTO;
    if (ch->requests[m->id].state != REQUEST_HERE && ch->requests[m->id].state != REQUEST_BACK)
        return 0;
    fill_event(ch, m->id, e);
    e->type = DT_CHANNEL_CANCEL;
    return 1;
}

/* One message: 1 event, 0 none, or -EPROTO. */
static int take(struct dt_channel *ch, struct dt_channel_event *e)
{
    struct channel_msg m;

    channel_take(&ch->down, &m);
    switch (m.kind) {
    case CHANNEL_REQUEST:
        return take_request(ch, &m, e);
    case CHANNEL_RETURNED:
        return take_returned(ch, &m, e);
    case CHANNEL_SUB_DONE:
        return take_sub_done(ch, &m, e);
    case CHANNEL_CANCEL:
        return take_cancel(ch, &m, e);
    case CHANNEL_PING:
        *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_PONG, .id = m.id};
        channel_publish(&ch->up);
        return 0;
    default:
        return -EPROTO;
    }
}

static unsigned poll_ring(struct dt_channel *ch, struct dt_channel_event *events, unsigned max)
{
    int available = channel_available(&ch->down), ret = MIN(available, 0);
    unsigned n = 0;

    for (; available > 0 && n < max && ret >= 0; available--) {
        ret = take(ch, &events[n]);
        n += ret == 1;
    }
    if (ret < 0)
        end(ch, ret);
    return n;
}

unsigned dt_channel_poll(struct dt_channel *ch, struct dt_channel_event *events, unsigned max)
{
    unsigned n = 0;

    if (ch->map.header && !ch->ended)
        n = poll_ring(ch, events, max);
    if (n < max && ch->polls++ % CONTROL_EVERY == 0)
        n += dt_channel_poll_control(ch, &events[n]);
    if (n < max && ch->ended && !ch->end_told) {
        ch->end_told = true;
        events[n++] =
            (struct dt_channel_event){.type = DT_CHANNEL_END, .error = ch->end_error, .fd = -1};
    }
    return n;
}

void dt_channel_forward(struct dt_channel *ch, uint32_t id, uint64_t sector, bool last)
{
    CHECK(id < ch->map.slots && ch->requests[id].state == REQUEST_HERE);
    ch->requests[id].state = last ? REQUEST_IDLE : REQUEST_BELOW;
    *channel_push(&ch->up) = (struct channel_msg){
        .kind = CHANNEL_FORWARD, .id = id, .sector = sector, .flags = last ? CHANNEL_LAST : 0};
}

void dt_channel_complete(struct dt_channel *ch, uint32_t id, int error)
{
    CHECK(id < ch->map.slots &&
          (ch->requests[id].state == REQUEST_HERE || ch->requests[id].state == REQUEST_BACK));
    ch->requests[id].state = REQUEST_IDLE;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_DONE, .id = id, .error = error};
}

int dt_channel_sub_new(struct dt_channel *ch, void **data, uint32_t *size)
{
    uint32_t id = ch->sub_free - 1;

    if (ch->sub_free == 0)
        return -EAGAIN;
    ch->sub_free = ch->subs[id].next;
    ch->subs[id].state = SUB_MINE;
    if (data)
        *data = ch->map.sub_data + (size_t)id * ch->map.sub_window;
    if (size)
        *size = ch->map.sub_window;
    return (int)id;
}

int dt_channel_sub_submit(struct dt_channel *ch, uint32_t id, uint8_t op, uint8_t flags,
                          uint64_t sector, uint32_t sectors)
{
    CHECK(id < ch->map.subs && ch->subs[id].state == SUB_MINE);
    if (op <= 1 && (uint64_t)sectors << DT_SECTOR_SHIFT > ch->map.sub_window)
        return -EMSGSIZE;
    ch->subs[id].state = SUB_BELOW;
    ch->subs[id].op = op;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_SUB,
                                                  .id = id,
                                                  .op = op,
                                                  .flags = flags,
                                                  .sector = sector,
                                                  .sectors = sectors};
    return 0;
}

void dt_channel_sub_free(struct dt_channel *ch, uint32_t id)
{
    CHECK(id < ch->map.subs && ch->subs[id].state == SUB_MINE);
    ch->subs[id].state = SUB_FREE;
    ch->subs[id].next = ch->sub_free;
    ch->sub_free = id + 1;
}

void dt_channel_flush(struct dt_channel *ch)
{
    if (ch->map.header)
        channel_publish(&ch->up);
}

void dt_channel_counter(struct dt_channel *ch, unsigned index, uint64_t value)
{
    if (ch->map.header && index < CHANNEL_COUNTERS)
        __atomic_store_n(&ch->map.header->counters[index], value, __ATOMIC_RELAXED);
}

void dt_channel_allow(struct dt_channel *ch, uint32_t n)
{
    struct channel_header *h = ch->map.header;

    if (!h)
        return;
    __atomic_store_n(&h->limit, ch->taken + n, __ATOMIC_RELAXED);
    __atomic_store_n(&h->limited, n != UINT32_MAX, __ATOMIC_SEQ_CST);
    if (n == 0 || !__atomic_exchange_n(&h->waiting, 0, __ATOMIC_SEQ_CST))
        return;
    *channel_push(&ch->up) = (struct channel_msg){.kind = CHANNEL_OPEN};
    channel_publish(&ch->up);
}

/* ---- Control ---- */

static void init_tables(struct dt_channel *ch)
{
    struct channel_map *m = &ch->map;

    ch->requests = xcalloc(m->slots, sizeof(*ch->requests));
    ch->vectors =
        xcalloc(m->slots, CHANNEL_VECTORS * sizeof(*ch->vectors)); /* none is touched unless used */
    ch->subs = xcalloc(m->subs + 1, sizeof(*ch->subs));
    for (uint32_t i = m->subs; i-- > 0;) {
        ch->subs[i].next = ch->sub_free;
        ch->sub_free = i + 1;
    }
    channel_consumer_init(&ch->down, m->down, &m->header->down, m->entries);
    channel_producer_init(&ch->up, m->up, &m->header->up, m->entries, ch->up.kick);
}

/* Takes over the channel itself; the program then hears that it is there. */
static int start(struct dt_channel *ch)
{
    struct control_frame *f = &ch->frame;
    struct dt_error err;
    int ret;

    if (f->nfds != 3 || ch->map.header)
        return -EPROTO;
    ret = channel_attach(&ch->map, f->fds[0], &err);
    if (ret < 0) {
        dt_channel_answer_error(ch, f->seq, -ret, err.text);
        return ret;
    }
    ch->kick_down = TAKE_FD(f->fds[1]);
    ch->up.kick = TAKE_FD(f->fds[2]);
    init_tables(ch);
    return 0;
}

struct dt_channel *dt_channel_take_rings(struct dt_channel *ch)
{
    struct dt_channel *taken = xaligned(CACHE_LINE, sizeof(*taken));

    CHECK_MAGIC(ch, CLIENT_MAGIC);
    CHECK(ch->map.header && ch->taken == 0);
    *taken = *ch;
    taken->sock = -1;
    ch->map = (struct channel_map){0};
    ch->kick_down = ch->up.kick = -1;
    ch->requests = NULL;
    ch->vectors = NULL;
    ch->subs = NULL;
    ch->sub_free = 0;
    return taken;
}

static void take_memory(struct dt_channel *ch)
{
    struct control_frame *f = &ch->frame;
    int ret = memory_take(ch->memory, f);

    control_close_fds(f);
    if (ret < 0)
        dt_channel_answer_error(ch, f->seq, -ret, "the guest's memory cannot be mapped");
    else
        dt_channel_answer(ch, f->seq, NULL);
}

static unsigned control_event(struct dt_channel *ch, struct dt_channel_event *e)
{
    struct control_frame *f = &ch->frame;

    *e = (struct dt_channel_event){.type = DT_CHANNEL_CONTROL,
                                   .control = f->type,
                                   .seq = f->seq,
                                   .text = f->payload,
                                   .fd = -1};
    if (f->type == CONTROL_START) {
        int ret = start(ch);

        control_close_fds(f);
        if (ret < 0)
            end(ch, ret);
        return ret == 0;
    }
    if (f->type < CONTROL_INIT || f->type > CONTROL_LOAD) {
        control_close_fds(f);
        end(ch, -EPROTO);
        return 0;
    }
    if (f->nfds)
        e->fd = TAKE_FD(f->fds[0]);
    control_close_fds(f);
    return 1;
}

unsigned dt_channel_poll_control(struct dt_channel *ch, struct dt_channel_event *event)
{
    int ret;

    CHECK_MAGIC(ch, CLIENT_MAGIC);
    if (ch->ended || ch->sock < 0)
        return 0;
    while ((ret = control_recv(ch->sock, &ch->frame)) == 1 && ch->frame.type == CONTROL_MEMORY)
        take_memory(ch);
    if (ret < 0)
        end(ch, ret == -EPIPE ? 0 : ret);
    return ret == 1 ? control_event(ch, event) : 0;
}

static int send_all(struct dt_channel *ch, uint32_t type, uint32_t seq, const char *text, int fd)
{
    int ret = control_send(ch->sock, type, seq, text, &fd, fd >= 0);

    if (ret == -EPIPE)
        end(ch, 0);
    return ret;
}

int dt_channel_answer(struct dt_channel *ch, uint32_t seq, const char *json)
{
    return send_all(ch, CONTROL_ANSWER, seq, json ? json : "{}", -1);
}

/* Quotes @text as JSON, without what JSON strings may not hold; cut at the buffer's end. */
static void quote(char *to, size_t size, const char *text)
{
    size_t n = 0;

    to[n++] = '"';
    for (; *text && n < size - 4; text++) {
        if ((unsigned char)*text < 0x20)
            continue;
        if (*text == '"' || *text == '\\')
            to[n++] = '\\';
        to[n++] = *text;
    }
    to[n++] = '"';
    to[n] = '\0';
}

int dt_channel_answer_error(struct dt_channel *ch, uint32_t seq, int code, const char *text)
{
    char quoted[1024], json[1100];

    quote(quoted, sizeof(quoted), text ? text : strerror(code));
    snprintf(json, sizeof(json), "{\"code\":%d,\"error\":%s}", code < 0 ? -code : code, quoted);
    return send_all(ch, CONTROL_ANSWER, seq, json, -1);
}

int dt_channel_answer_state(struct dt_channel *ch, uint32_t seq, const void *state, size_t size)
{
    _cleanup_close_ int fd = memfd_create("devtap-state", MFD_CLOEXEC);

    if (fd < 0 || (size && pwrite(fd, state, size, 0) != (ssize_t)size))
        return dt_channel_answer_error(ch, seq, errno, "cannot pass the state on");
    return send_all(ch, CONTROL_ANSWER, seq, "{}", fd);
}

int dt_channel_event(struct dt_channel *ch, const char *event, const char *text)
{
    char name[64], quoted[1024], json[1200];

    quote(name, sizeof(name), event);
    quote(quoted, sizeof(quoted), text);
    snprintf(json, sizeof(json), "{\"event\":%s,\"text\":%s}", name, quoted);
    return send_all(ch, CONTROL_EVENT, 0, json, -1);
}

bool dt_channel_ended(const struct dt_channel *ch)
{
    return ch->ended;
}

uint32_t dt_channel_slots(const struct dt_channel *ch)
{
    return ch->map.slots;
}

/* ---- Sleeping ---- */

int dt_channel_control_fd(const struct dt_channel *ch)
{
    return ch->sock;
}

int dt_channel_kick_fd(const struct dt_channel *ch)
{
    return ch->kick_down;
}

bool dt_channel_arm(struct dt_channel *ch)
{
    return ch->ended || !ch->map.header || channel_arm(&ch->down);
}

void dt_channel_set_spin(struct dt_channel *ch, uint64_t ns)
{
    ch->spin_ns = ns;
}

/* True as soon as the ring has something. */
static bool spin(const struct dt_channel *ch)
{
    uint64_t until = dt_clock_ns() + ch->spin_ns;

    do {
        for (unsigned i = 0; i < SPIN_CHECK; i++)
            if (channel_available(&ch->down) != 0)
                return true;
    } while (dt_clock_ns() < until);
    return false;
}

void dt_channel_wait(struct dt_channel *ch, int ms)
{
    struct pollfd fds[2] = {{.fd = ch->sock, .events = POLLIN}, /* -1 is not looked at */
                            {.fd = ch->kick_down, .events = POLLIN}};
    eventfd_t count;

    dt_channel_flush(ch);
    if (ch->ended ||
        (ch->map.header && ((ch->spin_ns && ms && spin(ch)) || !channel_arm(&ch->down))))
        return;
    if (poll(fds, ch->map.header ? 2 : 1, ms) <= 0)
        return;
    if (fds[0].revents)
        ch->polls = 0; /* the next poll looks at the control socket */
    if (ch->map.header && fds[1].revents && eventfd_read(ch->kick_down, &count) < 0 &&
        errno != EAGAIN)
        end(ch, -errno);
}
