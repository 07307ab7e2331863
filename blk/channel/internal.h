/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the proxy and the host share. */
#ifndef BLK_CHANNEL_INTERNAL_H
#define BLK_CHANNEL_INTERNAL_H

#include "blk/channel/placed.h"
#include "channel/channel.h"
#include "core/copypool.h"
#include "core/net.h"
#include <pthread.h>

#define SLOTS      1024u
#define DATA_BYTES (8u << 20)
#define SUB_WINDOW (1u << 20)
#define SUB_BYTES  (64u << 20) /* the windows of all sub-requests, at the most */
#define STATE_MAX  (16u << 20)
#define START_NS   DT_S(10) /* from starting a program until it serves */
#define BACK_NAME  "channel-below"
#define HOST_NET   "net:" /* before the name of an extension for cards, in the words of its host */

/* ---- Descriptions (wrap.c, describe.c, info.c) ---- */

/**
 * struct wrapped - the description that stands for a placed extension.
 * @real:  the extension's own; NULL for a program, which sent @hello instead.
 * @argv:  what to execute; NULL = the host with @name.
 * @cancels: it can be asked to let go of one request.
 * @vectors: it can find data in the guest's memory.
 * @holds: it may keep requests for a time of its own, so only its silence shows that it hangs.
 */
struct wrapped {
    struct dt_block_ext ext;
    struct dt_net_ext net; /* of a card's extension, with the same */
    const struct link_class *class;
    const struct dt_block_ext *real, *view; /* view: as core has it */
    char *name;
    char **argv;
    char *hello;
    bool holds, responds, saves, cancels, vectors;
    unsigned own_params; /* the extension's; the placement's follow */
    unsigned ncounters;
    struct wrapped *next;
};
static inline const struct wrapped *wrapped_of(const struct dt_block_ext *ext)
{
    return registry_kind(ext) == DEVICE_NET ? registry_owner(ext)
                                            : container_of(ext, struct wrapped, ext);
}
/** wrap_net() - the description for core of @w, whose .ext is ready, in the place of the card's extension @real. */
const struct dt_block_ext *wrap_net(struct wrapped *w, const struct dt_net_ext *real);
/** describe_parse() - a program's description of itself, judged as the registry judges. */
int describe_parse(struct wrapped *w, const char *hello, struct dt_error *err);

json_t *info_to_json(const struct dt_block_info *info);
int info_from_json(struct dt_block_info *info, const json_t *json);
json_t *net_info_to_json(const struct dt_net_info *info);
int net_info_from_json(struct dt_net_info *info, const json_t *json);

/* ---- The process (process.c) ---- */

/**
 * struct process - what is known of it.
 * @lock: for all else: the device's other threads ask it for things, and kill it.
 */
struct process {
    pthread_mutex_t lock;
    pid_t pid;
    int pidfd, sock; /* -1 = none */
    uint32_t seq;
    bool killed; /* by us, and why */
    char why[160];
};
void process_init(struct process *p);
/** process_start() - start @w's program with one end of a new control socket. */
int process_start(struct process *p, const struct wrapped *w, uint64_t mem_limit,
                  struct dt_error *err);
/** process_kill() - end it; @why is remembered. Its end is seen on pidfd. */
void process_kill(struct process *p, const char *fmt, ...) DT_PRINTF(2, 3);
bool process_killed(struct process *p);
/** process_was_asked() - is @seq of a frame that was sent? */
bool process_was_asked(struct process *p, uint32_t seq);
/**
 * struct ending - how a process ended: in words, and as an event's facts (core/core.h).
 * @own: it brought that upon itself.
 */
struct ending {
    char cause[200];
    bool own;
    const char *why;
    int status;
};
/** process_reap() - it is gone: release everything. */
void process_reap(struct process *p, struct ending *end);
/** process_send() - a frame with a new sequence number, which is returned, or -errno. */
int64_t process_send(struct process *p, uint32_t type, const char *text, const int *fds,
                     unsigned nfds);
extern const struct placed_config *placed_configuration;

/* ---- The proxy ---- */

enum on_crash { ON_CRASH_HOLD, ON_CRASH_BYPASS, ON_CRASH_FAIL };

struct link;
struct proxy;

/* The process and what is done about it: one state, on the device's first thread. */
enum proxy_state {
    PROXY_CLOSED,   /* no process, or one that was not started yet */
    PROXY_STARTING, /* a process is on its way */
    PROXY_TRYING,   /* it serves suspects, one at a time */
    PROXY_LIVE,
    PROXY_FALLING,  /* it ended; the threads gather what it had */
    PROXY_WAITING,  /* between two attempts */
    PROXY_GIVEN_UP, /* on-crash says what happens to requests */
};

/* What each thread makes of it; changed by orders alone, but for BROKEN. */
enum link_state {
    LINK_DOWN,   /* requests wait */
    LINK_TRYING, /* suspects alone are sent */
    LINK_LIVE,
    LINK_BROKEN, /* the process said here what it may not, and was killed */
    LINK_GIVEN_UP,
};
enum link_order { ORDER_DOWN, ORDER_TRY, ORDER_LIVE, ORDER_GIVE_UP };

/**
 * struct frame - the proxy's part of a request.
 * @next:     in the queue of those not sent yet.
 * @id:       its slot, or NO_SLOT.
 * @attempts: processes that ended by their own fault while they had it.
 */
#define NO_SLOT UINT32_MAX
struct frame {
    struct dt_req *next;
    uint64_t sector; /* as it came from above */
    uint32_t id;
    uint8_t attempts;
    bool replay; /* sent before */
    bool orphan; /* below, and whoever forwarded it is dead */
    bool below;  /* given to the layers below by dt_forward() */
};

/* What the process may do next with the request of a slot. */
enum slot_state {
    SLOT_FREE,
    SLOT_SENT,     /* forward or answer it */
    SLOT_BELOW,    /* nothing: it is with the layers below */
    SLOT_RETURNED, /* answer it */
};

struct slot {
    struct dt_req *req;
    void *data;       /* in the channel's memory, or NULL */
    uint64_t sent_at; /* when the process last got it */
    uint64_t order;
    uint32_t next_free;
    uint8_t state;
    uint8_t parts;
    bool cancelled; /* the process was asked to */
    bool in_memory; /* the first part is a list of where it lies in the guest's */
};

/* A request that the extension makes itself. */
struct sub {
    struct link *link;
    struct dt_req *req; /* NULL = not submitted */
    struct iovec iov;   /* private memory */
    struct channel_msg msg;
    struct sub *next;    /* waiting for memory or a free request */
    uint32_t generation; /* of the process that made it */
    uint32_t id;
    bool busy;
};

/**
 * struct link_class - what is peculiar to requests of disks (reclaim.c), or to packets of cards (packets.c).
 * @noun:    "requests".
 * @lost:    what becomes of those that a dead process had: "held".
 * @attach:  make a channel for the next process: its memfd or -errno. @detach: done with it.
 * @memory:  bytes that the channel is in the process.
 * @take:    read what the process sent; messages, or -EPROTO with the reason.
 * @arm:     ask for a wake-up; false if there is something to take already.
 * @ping:    ask for a sign of life, unless one is awaited.
 * @oldest:  when the process got what it has for longest without an answer; UINT64_MAX = nothing.
 * @reclaim: the process is gone: take back what it had. Return: how many.
 * @send:    what waits, as far as there is room.
 * @end_queue: what waits, too: as on-crash= says (@policy), or at a rest.
 * @look_below: what the device below is now. @below: the same as JSON. @take_info: how the process makes it out.
 */
struct link_class {
    const char *noun, *lost;
    int (*attach)(struct link *l, struct dt_error *err);
    void (*detach)(struct link *l);
    uint64_t (*memory)(const struct proxy *p);
    int (*take)(struct link *l, const char **why);
    bool (*arm)(struct link *l);
    void (*publish)(struct link *l);
    void (*ping)(struct link *l, uint64_t now);
    uint64_t (*oldest)(const struct link *l);
    unsigned (*reclaim)(struct link *l);
    void (*send)(struct link *l);
    void (*end_queue)(struct link *l, bool policy);
    void (*look_below)(struct proxy *p);
    json_t *(*below)(const struct proxy *p);
    int (*take_info)(struct proxy *p, const json_t *answer);
};
extern const struct link_class request_class, packet_class;

/**
 * struct link - the proxy on one thread: a channel of its own, and the requests that came by there.
 *
 * All of it is its thread's, with three exceptions: while it is down, the first thread makes the channel of the
 * next process; what is said to be atomic; and @message, which is the first thread's once an order is obeyed.
 */
struct link {
    struct proxy *p;
    struct dt_ctx *c; /* NULL while stopped */
    unsigned thread;
    enum link_state state;
    struct dt_watch kick_watch;
    struct loop_poller poller;
    struct loop_deferred flush;
    struct dt_timer tick; /* hangs, counters, state */
    struct dt_timer rest; /* a stop cannot wait for somebody to restart the process */

    struct loop_message message;
    enum link_order order;
    unsigned had;   /* requests, when it went down */
    bool suspected; /* it has requests to be tried */
    bool tried;     /* atomic: it had, and they are */

    /* The channel of the present process. */
    uint32_t start_seq; /* the first thread's */
    uint32_t generation;
    struct channel_map map;
    int kick_down, kick_up;
    struct channel_producer down;
    struct channel_consumer up;
    struct copypool pool;
    struct slot slots[SLOTS];
    uint32_t free_slot, in_slots, sent; /* sent: requests in this channel */
    uint64_t sent_order;
    uint32_t orphans; /* atomic: (sub-)requests of dead processes that are still below */
    struct sub *subs;
    unsigned nsubs;
    struct sub *sub_wait, **sub_wait_tail;
    struct copypool sub_pool;

    /* Requests that wait for a slot, for memory or for a process; replays first. */
    struct dt_req *queue, **queue_tail;
    uint32_t queued;      /* atomic */
    bool stopped;         /* admit() said no */
    struct dt_req *trial; /* the suspect that is being tried alone */
    bool trying;

    struct packets *packets; /* of a card, in the place of slots, requests and their queue */

    /* Silence. */
    uint32_t ping, pong;
    uint32_t cancels,
        cancels_then; /* unread for all we know; of these, sent before the last ping */
    uint64_t pinged_at, saved_at;
    uint64_t counters_base[CHANNEL_COUNTERS], counters_last[CHANNEL_COUNTERS];
} CACHE_ALIGNED;
static inline struct frame *frame_of(struct link *l, struct dt_req *req)
{
    return dt_frame(l->c, req);
}
static inline bool link_is_up(const struct link *l)
{
    return l->state == LINK_LIVE || l->state == LINK_TRYING;
}

/**
 * struct proxy - the layer's data: the proxy's own, then the fields of the extension's parameters. But for
 * the links it is the first thread's, and who makes all threads stand still.
 */
struct proxy {
    /* The placement's parameters. */
    unsigned on_crash, trust;
    uint64_t tries, window, deadline, mem_limit, spin;

    struct dt_layer *layer;
    const struct wrapped *w;
    const struct link_class *class;
    struct link **links; /* by thread */
    unsigned nlinks;
    struct dt_ctx *c; /* of the first thread; NULL while stopped */
    enum proxy_state state;
    struct process process;
    struct dt_watch sock_watch, pid_watch;
    struct dt_timer timer; /* restarts, start deadline */
    struct dt_block_info below, info;
    struct dt_net_info net_below, net_info; /* of a card */
    bool have_info;

    /* Answers that are awaited, by sequence number; 0 = none. */
    uint32_t init_seq, load_seq, save_seq, call_seq;
    uint32_t memory_seq; /* of the last region */
    unsigned starts;     /* links whose START was answered */
    int refusal;         /* of INIT */
    int call_result;     /* 1 = still awaited */
    json_t *call_answer;
    struct dt_error *call_err;
    bool ready, started, hung_up;
    struct control_frame *frame;

    /* The guest's memory, of which the process has so many regions. It changes while the links are down, or no
     * request is in them. */
    const struct device_region *memory;
    unsigned granted;

    /* Its threads (orders.c). */
    unsigned awaited; /* atomic: orders that were not obeyed yet */
    bool running, poked,
        unsaved; /* atomic: there is a first thread; @turn is posted; the state is old */
    bool turning, again;
    struct loop_message turn;
    unsigned trying; /* the link whose suspects are tried */

    /* Deaths. */
    bool ended, lived;
    bool wanted;       /* this end was asked for, and is no failure */
    struct ending end; /* of the last process */
    uint64_t died_at;
    uint64_t failing_since;
    unsigned nfailures, restarts, delay_ms;

    uint8_t *blob;
    size_t blob_size;
    uint32_t blob_version;
    uint64_t saved_at;
};
/* What the process passes on to the layers below; for layers that transform. */
static inline uint8_t *part_below(const struct slot *s)
{
    return (uint8_t *)s->data + (s->in_memory ? 1u << CHANNEL_PAGE_SHIFT : dt_req_bytes(s->req));
}
static inline struct link *link_of(struct dt_ctx *c)
{
    return ((struct proxy *)c->layer_data)->links[c->thread];
}

extern const struct dt_block_ext proxy_template;

/* Requests (requests.c, answers.c, cancel.c, subs.c). */
void proxy_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
void proxy_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n);
unsigned proxy_admit(struct dt_ctx *c, unsigned want);
int proxy_cancel(struct dt_ctx *c, struct dt_req *req);
/** link_ping() - ask for a sign of life, unless one is awaited. */
void link_ping(struct link *l, uint64_t now);
/** link_take_pong() - all sent before the ping was read. NULL, or what was wrong. */
const char *link_take_pong(struct link *l, uint32_t id);
/** link_allowed() - how many of @asked the extension would admit now; with none it tells when that changes. */
unsigned link_allowed(struct link *l, unsigned asked);
void link_enqueue(struct link *l, struct dt_req *req, bool first);
/** link_send_queue() - send what waits, as far as there is room. */
void link_send_queue(struct link *l);
void slot_free(struct link *l, uint32_t id);
uint8_t proxy_right(const struct proxy *p, const struct dt_req *req);
/** link_take() - read what the process sent; messages, or -EPROTO with the reason in @why. */
int link_take(struct link *l, const char **why);
const char *link_take_sub(struct link *l, const struct channel_msg *m);
void link_start_subs(struct link *l);
int subs_init(struct link *l, struct dt_error *err);
void subs_orphan(struct link *l);
void subs_fini(struct link *l);
static inline void count_orphan(struct link *l)
{
    __atomic_store_n(&l->orphans, l->orphans + 1, __ATOMIC_RELAXED);
}
static inline void set_queued(struct link *l, uint32_t n)
{
    __atomic_store_n(&l->queued, n, __ATOMIC_RELAXED);
}
/** orphan_back() - one came back; the process that waits for all of them may begin. */
void orphan_back(struct link *l);

/* The channel of one process (attach.c). */
int link_attach(struct link *l, struct dt_error *err);
void link_detach(struct link *l);
/** link_memory() - bytes that it is in the process. */
uint64_t link_memory(const struct proxy *p);

/* The guest's memory (memory.c). */
/** proxy_send_memory() - to a process that is trusted with it; @wait for its answer. */
int proxy_send_memory(struct proxy *p, bool wait, struct dt_error *err);
void proxy_memory_changed(struct dt_layer *layer);
/** proxy_vectors() - the @n at @iov as the process finds them; 0: not all of it is there. */
unsigned proxy_vectors(const struct proxy *p, const struct iovec *iov, unsigned n,
                       struct channel_vector *list);

/* Control (calls.c). */
/** proxy_tell() - send a frame of @json, which is taken over, and @fd (-1 = none), which is not. */
int proxy_tell(struct proxy *p, uint32_t type, json_t *json, int fd, uint32_t *seq,
               struct dt_error *err);
void proxy_frames(struct proxy *p);
int proxy_take_info(struct proxy *p, const json_t *answer);
int proxy_call(struct proxy *p, uint32_t type, json_t *request, json_t **answer,
               struct dt_error *err);
int proxy_call_fd(struct proxy *p, uint32_t type, json_t *request, int fd, json_t **answer,
                  struct dt_error *err);
int proxy_send_init(struct proxy *p, struct dt_error *err);
int proxy_send_load(struct proxy *p, struct dt_error *err);
/** proxy_send_start() - a channel for each link, and the order to begin. */
int proxy_send_start(struct proxy *p, struct dt_error *err);
/** proxy_state_fd() - a memfd with @size bytes of state; -1 = none. */
int proxy_state_fd(const void *blob, size_t size);
void proxy_ask_state(struct proxy *p);
/** proxy_save_now() - the state as it is now, if the process answers. */
void proxy_save_now(struct proxy *p);
char *proxy_param_text(const struct proxy *p, unsigned index);

/* Life and death (life.c, orders.c, death.c). */
int proxy_spawn(struct proxy *p, struct dt_error *err);
/** proxy_await() - serve control frames until @flag is set; for open() and start() only. */
int proxy_await(struct proxy *p, const bool *flag, uint64_t ns, struct dt_error *err);
/** proxy_break() - end the process. From any of the device's threads. */
void proxy_break(struct proxy *p, const char *fmt, ...) DT_PRINTF(2, 3);
void proxy_restart(struct proxy *p);
void proxy_watch(struct proxy *p);
void proxy_unwatch(struct proxy *p);
/** proxy_turn_soon() - something happened that may let the proxy go on. From any thread. */
void proxy_turn_soon(struct proxy *p);
/** proxy_order() - have a link do it, on its thread; from the first one. */
void proxy_order(struct link *l, enum link_order what);
/** proxy_order_policy() - on-crash= was changed. */
void proxy_order_policy(struct proxy *p);
void proxy_init_orders(struct proxy *p);
/** link_obey() - the order that it was given; on its thread. */
void link_obey(struct link *l);
/** link_break() - the process did, on this link, what it may not. */
void link_break(struct link *l, const char *why);
void link_tick_start(struct link *l);
void link_timers(struct link *l);
void link_count(struct link *l);
/** link_watch() - listen to the process; link_unwatch(): and no more. */
void link_watch(struct link *l);
void link_unwatch(struct link *l);

#endif
