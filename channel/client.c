/* SPDX-License-Identifier: MIT */
/* client.c - a channel's life on the extension's side, and how long it sleeps. */
#include "channel/client.h"

#include <poll.h>
#include <sys/eventfd.h>

#define SPIN_CHECK   64u
#define DEFAULT_SPIN DT_US(20)

/* ---- Life ---- */

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

int client_attach(struct dt_channel *ch)
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
        client_end(ch, -errno);
}
