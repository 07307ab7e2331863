/* SPDX-License-Identifier: MIT */
/*
 * devtap/layer.h - what every layer has, whatever the class of its device: its place on each thread, counters,
 * verbs, state, events. <devtap/block.h> and <devtap/net.h> include it.
 */
#ifndef DEVTAP_LAYER_H
#define DEVTAP_LAYER_H

#include <devtap/base.h>
#include <devtap/io.h>
#include <devtap/param.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dt_layer;

/* ---- The layer on a thread ---- */

/**
 * struct dt_ctx - a layer on one thread. The fields are read-only for the layer.
 * @data:       this thread's private state: @ctx_size zeroed bytes.
 * @layer_data: the device-wide state, shared by all threads: @layer_size bytes.
 * @counters:   this thread's values of the layer's counters.
 * @thread:     index of the thread among the device's threads.
 */
struct dt_ctx {
    void *data;
    void *layer_data;
    uint64_t *counters;
    struct dt_layer *layer;
    uint32_t frame_offset;
    uint32_t thread;
};

/** dt_count() - add to counter @index (position in .counters). */
static inline void dt_count(struct dt_ctx *c, unsigned index, uint64_t n)
{
    __atomic_store_n(&c->counters[index], c->counters[index] + n, __ATOMIC_RELAXED);
}

/** dt_now() - ns of dt_clock_ns(), taken once per turn of the thread's loop. */
DT_PUBLIC uint64_t dt_now(struct dt_ctx *c);
/** dt_wake() - @admit would now let requests in: look at the rings again. */
DT_PUBLIC void dt_wake(struct dt_ctx *c);

/**
 * dt_busy_begin() - work begins that no request waits for, such as I/O on a file of the layer's
 * own. Until dt_busy_end() the device does not come to rest. It must not take long; what goes on for
 * ever is done in pieces, between which `quiesce` can stop it.
 */
DT_PUBLIC void dt_busy_begin(struct dt_ctx *c);
DT_PUBLIC void dt_busy_end(struct dt_ctx *c);

/* ---- Its description: the parts that all classes have ---- */

/** struct dt_counter - one of a layer's own counters; an array ends with a NULL name. */
struct dt_counter {
    const char *name; /* lower-case-with-dashes */
    const char *unit; /* "requests", "bytes", "ns", ... */
    const char *help; /* one sentence */
};

struct dt_reply;
/** dt_reply() - add a named text, number or fraction to what a verb answers. */
DT_PUBLIC void dt_reply(struct dt_reply *reply, const char *key, const char *fmt, ...)
    DT_PRINTF(3, 4);
DT_PUBLIC void dt_reply_u64(struct dt_reply *reply, const char *key, uint64_t value);

/**
 * struct dt_verb - a command of the layer's own: `devtap do DEVICE LAYER VERB [ARG...]`.
 * Runs on the device's first thread. An array ends with a NULL name.
 */
struct dt_verb {
    const char *name;
    const char *args; /* for the help: "[SECTOR COUNT]" */
    const char *help; /* one sentence */
    int (*run)(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
               struct dt_error *err);
};

enum dt_ext_flags {
    DT_BACK = 1,            /* the end of a chain; otherwise an extension */
    DT_PER_QUEUE = 2,       /* safe on several threads at once */
    DT_CONTENT_BEARING = 4, /* removing it changes what the guest reads */
    DT_SELF_CONTAINED =
        8, /* open() takes nothing from outside the process (no file, socket, process):
                             * a worker that is confined already can put it into a running chain */
    DT_STATE_OF_RUN = 16, /* what save() gives is of use to the next process of the same run alone:
                             * it is not looked for in a state directory */
};

/* ---- Its surroundings ---- */

/** dt_layer_data() - the device-wide state. */
DT_PUBLIC void *dt_layer_data(struct dt_layer *layer);
/** dt_layer_name() - its name in the chain: the extension's, with "#2" for a second one. */
DT_PUBLIC const char *dt_layer_name(const struct dt_layer *layer);
DT_PUBLIC const char *dt_layer_device(const struct dt_layer *layer);
/** dt_layer_threads(), dt_layer_ctx() - its contexts, for verbs and statistics. */
DT_PUBLIC unsigned dt_layer_threads(const struct dt_layer *layer);
DT_PUBLIC struct dt_ctx *dt_layer_ctx(struct dt_layer *layer, unsigned thread);
/**
 * dt_layer_state_dir() - a directory of this layer's own, made on first use, kept over restarts.
 * Return: an O_PATH descriptor owned by core, or -ENOENT when the device was given no state=.
 */
DT_PUBLIC int dt_layer_state_dir(struct dt_layer *layer, struct dt_error *err);
/** dt_layer_state_changed() - what save() would give now is worth having after a crash: it is kept
 *  soon. From any thread. */
DT_PUBLIC void dt_layer_state_changed(struct dt_layer *layer);
/** dt_layer_info_changed() - what `info` says is another: core asks all layers again, and tells the guest. Of a disk its size
 *  may change, of a card its link. From any thread. */
DT_PUBLIC void dt_layer_info_changed(struct dt_layer *layer);
/** dt_layer_event() - something a person or a manager should know: one line on the log, at most
 *  20 a second from each layer; what is beyond is counted. */
DT_PUBLIC void dt_layer_event(struct dt_layer *layer, const char *event, const char *fmt, ...)
    DT_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif
#endif
