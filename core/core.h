/* SPDX-License-Identifier: MIT */
/*
 * core.h - requests, devices and their lanes, registry and statistics. Chains and parameters as text are in text.h, a
 * back that serves the guest's own rings is in passthrough.h.
 *
 * Theory of operation: a device is a chain of layers plus what its front promised the guest.
 * Each thread that serves the device has a *lane*: one dt_ctx per layer, linked down for submit
 * and up for complete, skipping layers without the callback. A front takes a burst from a
 * ring, fills the requests of its slots and calls lane_submit(); they come back through
 * front_ops.complete, in any order, with no allocation and no lock on the way.
 *
 * Chains carry a generation. A request belongs to the contexts it went through, so a chain
 * can be exchanged while requests of the old one are still on their way.
 */
#ifndef CORE_H
#define CORE_H

#include "base/base.h"
#include "core/text.h"
#include "loop/loop.h"
#include <devtap/block.h>
#include <devtap/net.h>
#include <jansson.h>

/* ---- Registry -------------------------------------------------------------------------------- */

/** registry_directories() - where extensions are looked for, first to last, separated by colons: $DEVTAP_EXTENSIONS,
 *  the modules beside a program that is run where it was built, and the installed ones. Owned by the caller. */
char *registry_directories(void);
/** enum device_kind - the classes of devices. Each has layers of its own. */
enum device_kind { DEVICE_DISK, DEVICE_NET };
/** registry_add() - check a description (ABI, size, name, contradictions) and make it known. */
int registry_add(const struct dt_block_ext *ext, struct dt_error *err);
/** registry_add_net() - the same, for a layer of network cards. */
int registry_add_net(const struct dt_net_ext *ext, struct dt_error *err);
/**
 * registry_find() - by name; a name with a slash, or one not built in that exists as NAME.so in one of
 * registry_directories(), is loaded. Errors suggest the nearest name.
 */
const struct dt_block_ext *registry_find(const char *name, struct dt_error *err);
const struct dt_block_ext *registry_find_kind(enum device_kind kind, const char *name,
                                              struct dt_error *err);
/** registry_kind(), registry_net() - of what the registry gave. A layer of network cards is seen by most of core as
 *  a struct dt_block_ext with what both have in common; registry_net() is all of it, or NULL for disks. */
enum device_kind registry_kind(const struct dt_block_ext *ext);
const struct dt_net_ext *registry_net(const struct dt_block_ext *ext);
/**
 * registry_net_view() - @ext, which is not in the registry, as most of core sees layers; it stays.
 * registry_owner(): @owner, for whoever made it.
 */
const struct dt_block_ext *registry_net_view(const struct dt_net_ext *ext, const void *owner);
const void *registry_owner(const struct dt_block_ext *ext);
/** registry_next() - iterate over all known, in order of registration; NULL starts. */
const struct dt_block_ext *registry_next(const struct dt_block_ext *prev);

/* ---- Placement ------------------------------------------------------------------------------- */

/**
 * struct placer - whoever can run an extension outside of this process (the extension channel); the
 * program installs it, because core knows of no channel.
 * @in_process: the description to put in place of @ext: the same rules and parameters, and those of
 *              the placement. @name: as the chain names it, a path made absolute.
 * @program:    the description that a program gives of itself. @argv ends with NULL.
 */
struct placer {
    const struct dt_block_ext *(*in_process)(const struct dt_block_ext *ext, const char *name,
                                             struct dt_error *err);
    const struct dt_block_ext *(*program)(const char *const *argv, struct dt_error *err);
};
void placer_set(const struct placer *placer);
/**
 * placement_find() - the description of a layer as written: `NAME place=in|process ...`,
 * `process cmd='PROGRAM ARG...' ...`, or a path, to a shared object (ending in .so) or a program.
 * @rest: the settings that are left for the layer: free its array, but not what that points to.
 */
const struct dt_block_ext *placement_find(enum device_kind kind, const struct layer_spec *spec,
                                          struct layer_spec *rest, struct dt_error *err);
/** placement_program() - the description of the program at @path. */
const struct dt_block_ext *placement_program(const char *path, struct dt_error *err);

/* ---- Requests -------------------------------------------------------------------------------- */

struct ctx;
struct xform;

/**
 * struct request - a dt_req with what only core may see. A front embeds it in its slots, followed
 * by DT_FRAME_BUDGET bytes for the layers' frames: REQUEST_SIZE bytes, cache-aligned.
 *
 * The first cache line is all that a request without copies touches.
 */
struct request {
    struct dt_req pub;
    /* Set by the front before lane_submit(): the guest's buffer. */
    struct iovec *iov;
    uint32_t niov;
    uint32_t sample;      /* its latency is being sampled */
    struct ctx *holder;   /* whose it is now: the contract check */
    struct request *next; /* lists: waiting for memory, sub-request queue, free */

    struct iovec copy;     /* the private copy, if the chain wanted one */
    struct iovec *own_iov; /* the guest's buffer while @iov points to @copy */
    uint32_t own_niov;
    uint32_t unused_;
    struct xform *xforms; /* other data for the layers below (data.c) */
    struct ctx *sub_owner;
    void *sub_arg;
    void (*sub_done)(struct dt_ctx *c, struct dt_req *sub);
} CACHE_ALIGNED;
_Static_assert(sizeof(struct request) == 2 * CACHE_LINE, "a request is two cache lines");
#define REQUEST_SIZE (sizeof(struct request) + DT_FRAME_BUDGET)

/** request_data() - dt_req_map() for a layer of this program that declared that it looks at data, and asks for that of
 *  reads and writes alone. */
static inline unsigned request_data(const struct dt_req *req, const struct iovec **iov)
{
    const struct request *r = container_of(req, struct request, pub);

    *iov = r->iov;
    return r->niov;
}

/* ---- Devices and lanes ---- */

#define DEVICE_MAX_THREADS 64u

struct device;
struct lane;

/** struct front_ops - what core asks of the front; all on the lane's thread unless noted. */
struct front_ops {
    /* Disks: requests given to lane_submit() are finished: pub.error is set. */
    void (*complete)(struct lane *lane, struct request **reqs, unsigned n);
    /* Intake may go on: look at the rings again. */
    void (*wake)(struct lane *lane);
    /* The device's info changed (resize). On the device's first thread. */
    void (*info_changed)(void *front);
    /* layer_set_passthrough(). On the device's first thread; @lane is its lane. May be NULL. */
    int (*set_passthrough)(struct lane *lane, bool on, struct dt_error *err);
    /* Network cards: packets for the guest, the front's from now on, while it is open (net_set_room()); and
     * what the front had outstanding for @n > 0 packets that it sent is over (net.h); wake() may come before that. */
    void (*receive)(struct lane *lane, struct dt_packet **packets, unsigned n);
    void (*sent)(struct lane *lane, void *const *slots, unsigned n);
    /* Copy the rest of a packet with DT_OFFLOAD_FETCH. May be NULL: there are none, then. */
    void (*fetch)(struct lane *lane, void *slot, struct dt_packet *p);
    /* Where those @length bytes are, in up to @most pieces; 0 = in more. May be NULL. */
    unsigned (*pieces)(void *slot, uint32_t length, struct iovec *iov, unsigned most);
    /* Call @look() for every request of this lane that may be within the chain, for device_config.deadline. It may
     * complete the request. May be NULL: then no request has a deadline. */
    void (*each)(struct lane *lane, void (*look)(struct lane *lane, struct request *req));
};

/**
 * struct device_config - a device to be.
 * @kind:    a disk, unless told.
 * @name:    letters, digits, '-', '_', '.'; at most 63.
 * @chain:   parsed; the device keeps its own copy.
 * @loops, @threads: the threads that will serve it; more than one only if every layer is
 *           DT_PER_QUEUE.
 * @state_dir: where layers keep state, or NULL.
 * @blobs: the layers' state of an earlier process, and ours for the next; or NULL. Comes before
 *         what @state_dir holds. What a layer refuses is reported, and the layer starts afresh.
 * @copy_bytes: private memory per lane for copies; 0 = 8 MiB.
 * @deadline: requests under way for longer are told of, and their layer is asked to cancel them, ns; 0 = none.
 */
struct device_config {
    enum device_kind kind;
    const char *name;
    const struct chain_spec *chain;
    struct loop *const *loops;
    unsigned threads;
    const char *state_dir;
    struct blob_area *blobs;
    size_t copy_bytes;
    uint64_t deadline;
};

/* Memory for the state of a device's layers, shared with whoever starts the next process (blob.c):
 * zeroed at first, sparse, hostile. */
#define BLOB_NAME LAYER_NAME
/* Twice as many as layers, for those of a chain and of the one that may replace it; and the floor. */
#define BLOB_SLOTS (2 * CHAIN_MAX_LAYERS + 1)
#define BLOB_FLOOR (BLOB_SLOTS - 1)
struct blob_area;
size_t blob_area_size(void);
/**
 * blob_read() - what layer @index saved last.
 * @name: set to the layer's name.
 * @bytes: a copy, owned by the caller.
 * Return: 0; -ENOENT where nothing was saved; -EBADMSG where all that is there is damaged.
 */
int blob_read(const struct blob_area *area, unsigned index, char name[BLOB_NAME], uint32_t *version,
              void **bytes, size_t *length);
/** blob_write() - @fill() returns how much it wrote, or -errno; then what was there still counts. */
int64_t blob_write(struct blob_area *area, unsigned index, const char *name, uint32_t version,
                   int64_t (*fill)(void *arg, void *bytes, size_t room), void *arg);
void blob_clear(struct blob_area *area, unsigned index);
/** blob_live() - the last @bytes of the room at @index, for whoever writes there in place: what is saved there must leave
 *  them (up to a cache line more) alone. */
void *blob_live(struct blob_area *area, unsigned index, size_t bytes);
/** blob_find() - the slot that was last written under @name, or -1. */
int blob_find(const struct blob_area *area, const char *name);
/** blob_empty() - is nothing saved at @index? */
bool blob_empty(const struct blob_area *area, unsigned index);
/** blob_forget() - clear what is saved under any name of a layer but these @n. */
void blob_forget(struct blob_area *area, const char *const *names, unsigned n);
/** state_keep() - write what the layers of @device saved last into the state directory @dir. */
void state_keep(const struct blob_area *area, const char *dir, const char *device);

/** device_new() - build and open the chain, back first. Nothing runs yet. */
int device_new(struct device **dev, const struct device_config *config, struct dt_error *err);
/** device_fence() - wait until no I/O of an earlier, dead process can land any more. */
int device_fence(struct device *dev, struct dt_error *err);
/** device_start() - fence the layers if that was not done, then start the lanes, each on its thread; returns when all
 *  run. The loops either all run on other threads, or none has run yet or runs on this one. */
int device_start(struct device *dev, const struct front_ops *front, void *front_arg,
                 struct dt_error *err);
/** device_read_early() - read before device_start(): dt_layer_read_below() for a layer to which a whole device is
 * what lies below. Not fenced. */
int device_read_early(struct device *dev, uint64_t sector, uint32_t sectors, void *data,
                      struct dt_error *err);
/** device_stop() - stop the lanes; nothing may be in flight (device_quiesce() first). */
void device_stop(struct device *dev);
/** device_free() - save the layers' state, close them. */
void device_free(struct device *dev);

/** device_save() - keep the state of layers that said it changed. From a thread that runs none of
 *  the device's loops. */
void device_save(struct device *dev);
/**
 * struct device_event - what a layer tells, and what that brings along for programs; zero = nothing.
 * @why: how a process ended: "signal" and "exit", then with @status, or "stopped", by us.
 * @requests: that were held or sent again; in the event's text, too, where it counts them.
 */
struct device_event {
    const char *device, *layer, *event, *text;
    const char *why;
    int32_t status;
    uint64_t pause_ns;
    uint32_t requests;
};
/** device_events() - where dt_layer_event() goes too, from any thread; NULL = to the log alone. */
void device_events(void (*hear)(const struct device_event *event));
/** layer_event() - as dt_layer_event(), with what @facts bring along; all else in it is filled in. */
void layer_event(struct dt_layer *layer, const struct device_event *facts, const char *event,
                 const char *fmt, ...) DT_PRINTF(4, 5);

const char *device_name(const struct device *dev);
/** device_fence_ns() - how long device_fence() waited. */
uint64_t device_fence_ns(const struct device *dev);
const struct dt_block_info *device_info(const struct device *dev);
void *device_front(const struct device *dev);
unsigned device_threads(const struct device *dev);
struct lane *device_lane(struct device *dev, unsigned thread);

/**
 * device_quiesce() - ask every layer to let go of what it holds; @done runs on the device's first
 * thread when nothing is in flight on any lane, with @late naming the layers that still
 * hold requests when @deadline (absolute ns) passed (it then runs with what remains). New requests must not be submitted meanwhile.
 */
void device_quiesce(struct device *dev, uint64_t deadline,
                    void (*done)(void *arg, const char *late), void *arg);

/**
 * device_hold() - admit nothing more and wait until nothing is in flight; device_let_go() ends it.
 * From a thread that runs none of the device's loops, while they run.
 * Return: 0; -ETIMEDOUT naming the layers that do not let go, and then nothing is held.
 */
int device_hold(struct device *dev, uint64_t deadline, struct dt_error *err);
void device_let_go(struct device *dev);
/** device_flush() - make what a held device has written durable. */
int device_flush(struct device *dev, uint64_t deadline, struct dt_error *err);
bool device_held(const struct device *dev);

/**
 * struct change - how to exchange the chain of a running device, and what that took.
 * @force:    though the guest may read other bytes then.
 * @dry_run:  judge only; nothing is opened.
 * @confined: this process can open nothing any more.
 * @patience: how long requests in flight may take to finish in the old chain, ns.
 * @drain_ns, @switch_ns: out: until they had; and then until the new chain took requests.
 * @kept, @opened, @closed: out: layers.
 * @outside: out: the new layer that this process cannot open.
 */
struct change {
    bool force, dry_run, confined;
    uint64_t patience;
    uint64_t drain_ns, switch_ns;
    unsigned kept, opened, closed;
    char outside[LAYER_NAME];
};
/**
 * device_change() - make @target the chain. Layers that are in both, by name, number and settings, go
 * on as they are; one with other settings is opened anew, and gets the state of the one before.
 * Requests in flight finish in the old chain; others wait in the guest's rings meanwhile.
 * As device_hold().
 *
 * Return: 0; 1 when only a process that can still open things can do it; -errno, and nothing changed.
 */
int device_change(struct device *dev, const struct chain_spec *target, struct change *change,
                  struct dt_error *err);
/** device_edit() - the present chain, to be edited; free its spec. */
void device_edit(const struct device *dev, struct chain_edit *edit);

/* Lanes: everything on the lane's own thread. */
struct loop *lane_loop(const struct lane *lane);
struct device *lane_device(const struct lane *lane);
unsigned lane_thread(const struct lane *lane);
/** lane_admit() - how many of @want requests may be taken from the rings now. */
unsigned lane_admit(struct lane *lane, unsigned want);
/** lane_submit() - @n requests, each with pub, iov and niov set, enter the chain. Ranges are
 *  checked here: what lies outside the disk completes with -EINVAL. */
void lane_submit(struct lane *lane, struct request **reqs, unsigned n);
/** request_layer() - the name of the layer that has it now; NULL: it is in no chain. From any thread, for
 *  people to look at: it may be elsewhere in a moment. */
const char *request_layer(const struct request *r);
/** request_cancel() - have the layer that has it complete it now, with -ECANCELED. On its lane's thread.
 *  Return: 0; -EBUSY where that layer cannot; -EOPNOTSUPP where no layer has it, or one that never can. */
int request_cancel(struct request *r);
/** lane_release() - ask the layers to let go of what they hold by @deadline; intake stays open. */
void lane_release(struct lane *lane, uint64_t deadline);
unsigned lane_in_flight(const struct lane *lane);
/** lane_asked() - were the layers asked to let go of what they hold, and is that not over? What ends with -ECANCELED then was
 *  let go of, and not served: they may do so until the deadline, though whoever asked waits no longer. On the lane's thread. */
bool lane_asked(const struct lane *lane);
/* The front's own pointer on each lane. */
void lane_set_front(struct lane *lane, void *arg);
void *lane_front(const struct lane *lane);

/* For layers that are more than an extension: those that join another channel to the chain. */
struct loop *ctx_loop(struct dt_ctx *c);
/** layer_loop() - the loop of one of its device's threads; known from open() on. */
struct loop *layer_loop(const struct dt_layer *layer, unsigned thread);
/** ctx_busy() - the layer begins (1) or ends (-1) work of its own that is no request: a stop waits for
 *  its end, after `quiesce` has asked for it. */
void ctx_busy(struct dt_ctx *c, int change);
/** ctx_resting() - is the device coming to rest, or held there? Then the layer begins nothing of its own. */
bool ctx_resting(struct dt_ctx *c);
const struct dt_block_ext *layer_ext(const struct dt_layer *layer);
/** layer_verb() - the verb whose run() this is. */
const char *layer_verb(const struct dt_layer *layer);
/** device_gather_info() - ask all layers, bottom up, what the disk is. @all: no thread runs, and all of it may have
 *  changed; else the size alone is taken. */
int device_gather_info(struct device *dev, bool all, struct dt_error *err);
/** device_layer() - the layer at @index, from 1 at the top. */
struct dt_layer *device_layer(struct device *dev, unsigned index);

/* Control, from a thread that runs none of the device's loops, while they run. */
int device_set(struct device *dev, const char *layer, const char *param, const char *value,
               struct dt_error *err);
int device_do(struct device *dev, const char *layer, const char *verb, int argc,
              const char *const *argv, json_t **reply, struct dt_error *err);
/** device_exclusive() - run @fn while none of the device's threads does anything. From none of them,
 *  if it has several. */
void device_exclusive(struct device *dev, void (*fn)(void *arg), void *arg);
/** device_show() - name, info, chain with present parameters. New reference. */
json_t *device_show(struct device *dev);
/** device_status() - what the beginning of a range of a running disk holds; as struct dt_extent has it, but a
 *  @deadline of 0 gets one. From a thread that runs none of the device's loops, between whose changes of the chain it comes. */
void device_status(struct device *dev, struct dt_extent *extent);
/** dt_status_name() - "data", "zero", "hole". */
const char *dt_status_name(enum dt_status status);
/**
 * device_map() - the extents of a running disk: {"size","next","extents":[{"start","length","status"}...]}.
 * @start, @length: bytes, multiples of 512; length 0 = to the end.
 * @patience: after so long, ns, or some thousands of extents it ends early: "next" tells where.
 */
int device_map(struct device *dev, uint64_t start, uint64_t length, uint64_t patience,
               json_t **result, struct dt_error *err);
/**
 * device_stats() - counters since the start: {"layers":[{"name","ops":{"read":{"requests",
 * "bytes","errors"}...},"latency":{"read":{"p50","p90","p99","p999","max"} in ns}, "counters":{..}}], ...}.
 */
json_t *device_stats(struct device *dev);

/* ---- Connections ---- */

/**
 * struct connector - who makes the connections that layers ask for with dt_layer_connect(); a program that
 * is confined installs its own, before it opens devices. Without one this process makes them itself.
 * @announce: @address, well-formed, will be asked for. 0 or -errno.
 * @dial: connect, and answer on the socket @answer, which is taken over in any case, as
 *        dial() does. 0 or -errno; then no answer comes. From any thread.
 */
struct connector {
    int (*announce)(const char *address, struct dt_error *err);
    int (*dial)(const char *address, int answer);
};
void connector_set(const struct connector *connector);

/** layer_connect() - as dt_layer_connect(), on a thread of the layer's own, which waits. Return: the
 *  socket or -errno. */
int layer_connect(struct dt_layer *layer, const char *address, int timeout_ms);

/** struct dial_answer - a packet on the answer socket; with the connected socket if @result is 0. */
struct dial_answer {
    int32_t result; /* 0 or -errno */
};
/** dial_judge() - is @address one? 0 or -EINVAL, with @err. */
int dial_judge(const char *address, struct dt_error *err);
/** dial_address() - connect to @address and answer; on a thread of its own, or -EAGAIN when there are too many. */
int dial_address(const char *address, int answer);
/** dial_count() - how many threads of it run in this process. */
unsigned dial_count(void);

/* ---- Handing a chain over (handover.c) ---- */

/**
 * struct handover_ops - of a layer that keeps another chain equal to what it stands on, and so can give it
 * up in its own place: a change whose chain ends with that one in the place of the layer and of all below it
 * does not alter what the guest reads.
 * @chain: the other chain, as written.
 * @seal:  from now on nothing is acknowledged that the other chain does not have. An error if they are
 *         not equal now; with @force they need not be.
 *         While all threads stand still.
 * @let_go: close the other chain, which this process opens anew; nothing is in flight, and nothing comes before
 *         the change is over. @take_back: it failed. Both on the device's first thread, which may be the other chain's, too.
 */
struct handover_ops {
    const char *(*chain)(const struct dt_layer *layer);
    int (*seal)(struct dt_layer *layer, bool force, struct dt_error *err);
    void (*let_go)(struct dt_layer *layer);
    void (*take_back)(struct dt_layer *layer);
};
/** layer_offer_handover() - from open(). */
void layer_offer_handover(struct dt_layer *layer, const struct handover_ops *ops);
/** layer_state_save() - save() now, for the next process of this run, instead of whatever was saved before.
 *  On the device's first thread. */
void layer_state_save(struct dt_layer *layer);

/**
 * layer_live() - @bytes of memory that the layer writes in place, and that the next process of this run finds as
 * this one left it, however that ended. In start(), on the device's first thread; always with the same @bytes.
 *
 * Nothing protects it: what the layer saves next must tell whether it is whole, and of whom. save() has @bytes less room.
 * Return: NULL where nobody keeps state; anything may be in it.
 */
void *layer_live(struct dt_layer *layer, size_t bytes);

/* ---- Calls across threads ---- */

/** loop_call() - run @fn on the loop's thread and wait for it. Never from a loop's own thread. */
void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg);

/* ---- Guest memory, for backs that hand it on (memory.c) ---- */

/**
 * struct device_region - a piece of guest memory.
 * @gpa, @size: its place in the guest's address space.
 * @host: where it is mapped here, by the front.
 * @fd, @offset: the file that it is.
 */
struct device_region {
    uint64_t gpa, size, offset;
    uint8_t *host;
    int fd;
};
/** device_region_same() - the same place of the same file, at the same addresses. */
bool device_region_same(const struct device_region *a, const struct device_region *b);
/**
 * device_set_memory() - the guest's memory is this from now on; descriptors are duplicated.
 *
 * The front calls it on the device's first thread, with no request of the guest's in flight, and
 * submits none before it returned. Requests of layers' own never lie in guest memory.
 */
void device_set_memory(struct device *dev, const struct device_region *regions, unsigned count);
/** layer_watch_memory() - from open(): @changed runs within device_set_memory(). */
void layer_watch_memory(struct dt_layer *layer, void (*changed)(struct dt_layer *layer));
/** layer_memory() - what there is now, core's; on the device's first thread. */
const struct device_region *layer_memory(const struct dt_layer *layer, unsigned *count);

#endif
