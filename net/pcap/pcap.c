/* SPDX-License-Identifier: MIT */
/*
 * pcap.c - the wire is a capture file: its frames are what the guest receives.
 *
 * Theory of operation: a frame is due when as much time has passed since the first one as when it was recorded, divided
 * by the speed. The time begins when the guest first takes packets. While it has no room the frames stay, and
 * what is late then goes at once: nothing is lost here.
 */
#include "net/pcap/frames.h"
#include <devtap/net.h>

#include <inttypes.h>
#include <math.h>

#define BURST 32u
#define RETRY DT_MS(1) /* all memory for packets is in use */

struct replay {
    const char *in, *speed_text;
    uint64_t rounds, memory;
    double speed; /* INFINITY = as fast as they are taken */

    struct dt_layer *layer;
    struct dt_ctx *c;
    struct frames frames;
    struct dt_timer timer;
    uint64_t began; /* when the first frame of this round was due; 0 = not yet */
    uint64_t next, round;
};

#define FIELD(t, field) .type = t, .offset = offsetof(struct replay, field)
static const struct dt_param params[] = {
    {.name = "in",
     FIELD(DT_PARAM_PATH, in),
     .flags = DT_PARAM_REQUIRED,
     .help = "The pcap or pcapng file; it is read at the start."},
    {.name = "speed",
     FIELD(DT_PARAM_STRING, speed_text),
     .flags = DT_PARAM_LIVE,
     .initial = "1",
     .unit = "factor",
     .help = "How many times faster than recorded, or max: as fast as the guest takes them."},
    {.name = "loop",
     FIELD(DT_PARAM_UINT, rounds),
     .flags = DT_PARAM_LIVE,
     .initial = "1",
     .unit = "times",
     .help = "How often the file is replayed; 0 = for ever."},
    {.name = "memory",
     FIELD(DT_PARAM_SIZE, memory),
     .initial = "256M",
     .min = 1 << 10,
     .max = 1ull << 36,
     .help = "Most memory that its frames may take."},
    {NULL},
};

enum { REPLAYED, ROUNDS, SKIPPED };
static const struct dt_counter counters[] = {
    [REPLAYED] = {"replayed", "packets", "Frames that the guest was given."},
    [ROUNDS] = {"rounds", "times", "How often the file was replayed to its end."},
    [SKIPPED] = {"skipped", "packets",
                 "Frames of the file that were cut when recorded, or are too short or long."},
    {NULL},
};

/* ---- Frames to the guest ---- */

static uint64_t due(const struct replay *r)
{
    return isinf(r->speed) ? 0
                           : r->began + (uint64_t)((double)r->frames.list[r->next].when / r->speed);
}

/* Is there a next frame? At the end of a round the next begins where the last frame was due. */
static bool more(struct replay *r)
{
    if (r->next < r->frames.n)
        return true;
    r->next = r->frames.n - 1;
    r->began = MAX(due(r), r->began);
    r->next = 0;
    r->round++;
    dt_count(r->c, ROUNDS, 1);
    if (!r->rounds || r->round < r->rounds)
        return true;
    r->next = r->frames.n;
    dt_layer_event(r->layer, "replayed", "%s was replayed to its end", r->in);
    return false;
}

static struct dt_packet *make_next(struct replay *r)
{
    const struct frame_at *at = &r->frames.list[r->next];
    struct dt_packet *p = dt_packet_new(r->c, at->length);

    if (p)
        memcpy(p->data, r->frames.bytes + at->offset, at->length);
    return p;
}

static bool ended(const struct replay *r)
{
    return r->rounds && r->round >= r->rounds;
}

static void play(struct replay *r)
{
    uint64_t now = dt_now(r->c), again = now;
    unsigned room = ended(r) ? 0 : MIN(dt_room(r->c), BURST), n = 0;
    struct dt_packet *burst[BURST];

    if (room == 0)
        return; /* `resume` comes */
    if (!r->began)
        r->began = now;
    while (n < room && due(r) <= now) {
        struct dt_packet *p = make_next(r);

        if (!p) {
            again = now + RETRY;
            break;
        }
        burst[n++] = p;
        r->next++;
        if (!more(r))
            break;
    }
    dt_count(r->c, REPLAYED, n);
    if (n)
        dt_layer_state_changed(r->layer);
    dt_receive(r->c, burst, n);
    if (!ended(r))
        dt_timer_set(r->c, &r->timer, MAX(due(r), again));
}

static void fire(struct dt_timer *timer)
{
    play(container_of(timer, struct replay, timer));
}

static void resume(struct dt_ctx *c)
{
    struct replay *r = c->layer_data;

    dt_timer_set(c, &r->timer, dt_now(c));
}

/* What the guest sends goes nowhere; core counts it. */
static void transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    dt_sent(c, packets, n);
}

/* ---- Life ---- */

static int read_speed(struct replay *r, struct dt_error *err)
{
    char *end;
    double speed = strcmp(r->speed_text, "max") == 0 ? INFINITY : strtod(r->speed_text, &end);

    if (!isinf(speed) && (end == r->speed_text || *end || !(speed >= 1e-6 && speed <= 1e6)))
        return dt_fail(err, -EINVAL,
                       "speed '%.40s' is neither a factor from 0.000001 to 1000000 nor max",
                       r->speed_text);
    if (strcmp(r->speed_text, "max") != 0 && isinf(speed))
        return dt_fail(err, -EINVAL, "for a speed without end write max");
    r->speed = speed;
    return 0;
}

/* The frame that is next stays when it was due, and the others follow by the new speed. */
static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct replay *r = dt_layer_data(layer);
    double before = r->speed;
    int ret = read_speed(r, err);

    if (ret == 0 && r->c && r->began && r->next < r->frames.n && before != r->speed) {
        double at = (double)r->frames.list[r->next].when;
        uint64_t was = isinf(before) ? dt_clock_ns() : r->began + (uint64_t)(at / before);

        r->began = isinf(r->speed) ? was : was - MIN(was, (uint64_t)(at / r->speed));
    }
    if (ret == 0 && r->c) {
        if (r->next == r->frames.n && !ended(r)) { /* it had ended, and is to go on */
            r->next = 0;
            r->began = dt_clock_ns();
        }
        dt_timer_set(r->c, &r->timer, dt_clock_ns());
    }
    return ret;
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct replay *r = dt_layer_data(layer);
    FILE *file;
    int ret = read_speed(r, err);

    r->layer = layer;
    if (ret < 0)
        return ret;
    file = fopen(r->in, "re");
    if (!file)
        return dt_fail(err, -errno, "cannot open %s: %s", r->in, strerror(errno));
    ret = frames_load(&r->frames, file, r->memory, err);
    if (ret < 0)
        dt_fail_prefix(err, "%s", r->in);
    return ret;
}

static void close_layer(struct dt_layer *layer)
{
    struct replay *r = dt_layer_data(layer);

    frames_free(&r->frames);
}

/* Frames that are longer than usual were so on their wire: the guest is told of it. */
static int info(struct dt_layer *layer, struct dt_net_info *card, struct dt_error *err)
{
    const struct replay *r = dt_layer_data(layer);

    card->mtu = (uint16_t)MIN(MAX(r->frames.longest - 14, (uint32_t)card->mtu), 65535u);
    return 0;
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct replay *r = c->layer_data;

    r->c = c;
    r->timer.fire = fire;
    dt_count(c, SKIPPED, r->frames.skipped);
    dt_timer_set(c, &r->timer, dt_clock_ns());
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct replay *r = c->layer_data;

    dt_timer_cancel(c, &r->timer);
    r->c = NULL;
}

/* ---- State: where the next process goes on ---- */

/** struct saved - @n, @used: of the file; in another one these places mean nothing. */
struct saved {
    uint64_t n, used, began, next, round;
};

static int64_t save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct replay *r = dt_layer_data(layer);
    const struct saved s = {r->frames.n, r->frames.used, r->began, r->next, r->round};

    if (size < sizeof(s))
        return -ENOSPC;
    memcpy(buf, &s, sizeof(s));
    return sizeof(s);
}

static int load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    struct replay *r = dt_layer_data(layer);
    struct saved s;

    if (size != sizeof(s) || version != 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of pcap", size,
                       version);
    memcpy(&s, buf, sizeof(s));
    if (s.n != r->frames.n || s.used != r->frames.used)
        return 0;
    if (s.next > s.n || (s.next == s.n && !(r->rounds && s.round >= r->rounds)))
        return dt_fail(err, -EBADMSG, "frame %" PRIu64 " of %" PRIu64 " is none to go on from",
                       s.next, s.n);
    r->began = MIN(s.began, dt_clock_ns()); /* what lies ahead might never come */
    r->next = s.next;
    r->round = s.round;
    return 0;
}

static int run_restart(struct dt_layer *layer, int argc, const char *const *argv,
                       struct dt_reply *reply, struct dt_error *err)
{
    struct replay *r = dt_layer_data(layer);

    r->next = r->round = r->began = 0;
    dt_timer_set(r->c, &r->timer, dt_clock_ns());
    return 0;
}

static const struct dt_verb verbs[] = {
    {"restart", "", "Replay from the beginning, as often as loop= says.", run_restart},
    {NULL},
};

extern const struct dt_net_ext net_pcap;
const struct dt_net_ext net_pcap = {
    DT_NET_EXT_HEADER,
    .name = "pcap",
    .summary =
        "A wire that replays a capture file: as recorded, faster, or as fast as the guest takes it",
    .help = "The guest receives the frames of a pcap or pcapng file, each when it is due; what it "
            "sends is "
            "counted and goes nowhere. Put capture before it to keep that.",
    .flags = DT_BACK | DT_STATE_OF_RUN,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct replay),
    .open = open_layer,
    .close = close_layer,
    .start = start,
    .stop = stop,
    .info = info,
    .transmit = transmit,
    .resume = resume,
    .set = set,
    .state_version = 1,
    .save = save,
    .load = load,
};
