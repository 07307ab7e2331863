/* SPDX-License-Identifier: MIT */
/*
 * net-kill.c - kill -9 of a card's process at any moment, and a new one: it takes the state that its layers had saved, and the
 * packets whose descriptors were out come again. Each descriptor comes back once, however often its packet was sent.
 */
#include "tools/conformance/net.h"

#include <signal.h>

#define REST_NS DT_S(2)
#define ROUNDS  3u /* at least */

static void work(struct bench *b)
{
    card_open(b);
    __atomic_store_n(&card.log->started, 1, __ATOMIC_RELEASE);
    for (;;) {
        card_load(b, DT_MS(1 + dt_rng_below(&b->rng, 4)));
        device_save(card.dev); /* as a worker does */
    }
}

static unsigned saved(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BLOB_SLOTS; i++)
        n += !blob_empty(card.blobs, i);
    return n;
}

/* As the front does it: oldest or not, in bursts that the layers let in; what they let not in now waits. */
static void replay(const struct card_record *records)
{
    uint64_t end = dt_clock_ns() + REST_NS;

    for (unsigned i = 0; i < CARD_SLOTS && dt_clock_ns() < end;) {
        const struct card_record *r = &records[i];
        struct dt_packet *p;

        if (r->busy && net_admit(card.lane, 1) == 0) {
            loop_turn(card.loop, false);
            continue;
        }
        i++;
        if (!r->busy)
            continue;
        p = card_send(r->frame, r->length, r->needs, r->segment);
        net_transmit(card.lane, &p, 1);
    }
}

static void follow(struct bench *b)
{
    struct card_record *records = xcalloc(CARD_SLOTS, sizeof(*records));
    uint64_t kills = b->verdict->count;
    unsigned before = saved();
    const char *late;

    memcpy(records, card.log->records, sizeof(card.log->records));
    memset(card.log->records, 0, sizeof(card.log->records));
    card_build(b);
    if (saved() < before)
        bench_fail("the state that a layer had saved when it was killed is refused");
    card_start();
    replay(records);
    free(records);
    card_load(b, DT_MS(2));
    b->verdict->count = kills; /* and not packets */
    late = card_rest(REST_NS);
    if (late && *late)
        bench_fail("after kill -9 it does not come to rest: %s", late);
    card_close();
}

void card_property_kill(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;

    card.log = shared_memory(sizeof(*card.log));
    card.blobs = shared_memory(blob_area_size());
    for (uint64_t kills = 1; kills <= ROUNDS || dt_clock_ns() < end; kills++) {
        kill_amid(b, work, &card.log->started);
        b->verdict->count = kills;
        kill_finish(b, kill_start(b, follow), 0);
    }
}
