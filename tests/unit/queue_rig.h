/* SPDX-License-Identifier: MIT */
/* queue_rig.h - a card with the extension `queue`, and programs that judge its packets. */
#ifndef QUEUE_RIG_H
#define QUEUE_RIG_H

#include "tests/unit/net_rig.h"

#include <devtap/queue.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct frame f;
static char path[64]; /* of its socket */
static char last_event[512];

static inline void hear(const struct device_event *e)
{
    snprintf(last_event, sizeof(last_event), "%s: %s", e->event, e->text);
}

/* ---- The card ---- */

static inline int try_chain(const char *settings, const char *back)
{
    char chain[256];

    snprintf(chain, sizeof(chain), "queue socket=%s %s | %s", path, settings, back);
    return rig_try(chain);
}

static inline void start(const char *settings)
{
    if (try_chain(settings, "wire") < 0)
        fail_msg("%s", rig.err.text);
}

static inline void make_frame(unsigned number, uint32_t bytes)
{
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, bytes - 14);
    store_be16(f.bytes + 14, (uint16_t)number);
}

static inline bool send_numbered(unsigned number)
{
    make_frame(number, 100);
    return rig_send(f.bytes, f.n, NULL, 0);
}

static inline void arrive_numbered(unsigned number)
{
    make_frame(number, 100);
    rig_arrive(f.bytes, f.n, NULL);
}

static inline unsigned number_of(const struct rig_list *list, unsigned i)
{
    assert_in_range(i, 0, list->n - 1);
    return load_be16(list->frames[i].data + 14);
}

static inline uint64_t counter(const char *name)
{
    return rig_counter("queue", name);
}

/* ---- Its programs ---- */

struct opening {
    struct dt_queue *q;
    struct dt_error err;
    int timeout_ms, ret;
    bool done;
};

static inline void *run_open(void *arg)
{
    struct opening *o = arg;

    o->ret = dt_queue_open(&o->q, path, o->timeout_ms, &o->err);
    __atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* The card's loop is turned by this thread, so another one waits for it. */
static inline int open_within(struct opening *o, int timeout_ms)
{
    pthread_t thread;

    *o = (struct opening){.timeout_ms = timeout_ms};
    assert_int_equal(pthread_create(&thread, NULL, run_open, o), 0);
    while (!__atomic_load_n(&o->done, __ATOMIC_ACQUIRE))
        rig_turn();
    pthread_join(thread, NULL);
    return o->ret;
}

static inline struct dt_queue *attach(void)
{
    struct opening o;

    if (open_within(&o, 10000) < 0)
        fail_msg("%s", o.err.text);
    return o.q;
}

static inline unsigned read_some(struct dt_queue *q, struct dt_queue_packet *packets, unsigned max)
{
    int n;

    rig_turn();
    n = dt_queue_read(q, packets, max, 0);
    assert_in_range(n, 0, max);
    return (unsigned)n;
}

static inline void decide(struct dt_queue *q, uint32_t id, enum dt_queue_verdict verdict)
{
    assert_int_equal(dt_queue_set_verdict(q, id, verdict, NULL, 0), 0);
}

static inline void heard(struct dt_queue *q)
{
    dt_queue_flush(q);
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
}

static inline void leave(struct dt_queue *q)
{
    dt_queue_close(q);
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
}

/* ---- Around all tests ---- */

static char folder[] = "/tmp/devtap-queue-XXXXXX";

static inline int make_folder(void **state)
{
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/queue", folder);
    device_events(hear);
    return 0;
}

static inline int remove_folder(void **state)
{
    unlink(path);
    return rmdir(folder);
}

#endif
