/* SPDX-License-Identifier: MIT */
/*
 * net-pool.c - the packets of a lane.
 *
 * Two sizes: what an ordinary frame needs, and what the largest super-frame needs. Packets that come back
 * are used again first, while they are in the cache; memory that was never needed is never touched, so
 * an idle card costs address space alone.
 */
#include "core/net.h"

#include <sys/mman.h>

/* Odd, too. */
#define BIG_STRIDE  (ALIGN_UP(sizeof(struct packet) + NET_MAX_FRAME, 2 * CACHE_LINE) + CACHE_LINE)
#define SMALL_COUNT 4096u
#define BIG_COUNT   256u

static int pool_init(struct net_pool *pool, struct net_memory *memory, size_t stride,
                     uint32_t count)
{
    size_t bytes = stride * count;

    *pool = (struct net_pool){.stride = stride, .count = count, .fresh = count};
    pool->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->memory == MAP_FAILED)
        return -ENOMEM;
    memory->mappings[memory->n++] = (struct iovec){pool->memory, bytes};
    return 0;
}

int net_pools_init(struct net_lane *net)
{
    struct net_memory *memory = net->memory = xcalloc(1, sizeof(*memory));

    memory->lanes = net;
    memory->mappings = xcalloc(2, sizeof(memory->mappings[0]));
    return pool_init(&net->small, memory, NET_SMALL, SMALL_COUNT)
               ?: pool_init(&net->big, memory, BIG_STRIDE, BIG_COUNT);
}

void net_pools_fini(struct net_lane *net)
{
    struct net_memory *memory = net->memory;
    struct net_lane **at = &memory->lanes;

    CHECK(net->small.used == 0 && net->big.used == 0);
    while (*at != net)
        at = &(*at)->kin;
    *at = net->kin;
    if (memory->lanes)
        return;
    for (unsigned i = 0; i < memory->n; i++)
        munmap(memory->mappings[i].iov_base, memory->mappings[i].iov_len);
    free(memory->mappings);
    free(memory);
}

static uint32_t room(const struct net_pool *pool)
{
    return pool->count - pool->used;
}

uint32_t net_pool_room(const struct net_lane *net)
{
    return MIN(room(&net->small), room(&net->big));
}

unsigned net_admit(struct lane *lane, unsigned want)
{
    uint32_t room = net_pool_room(lane->net);

    if (unlikely(room < want)) {
        want = room;
        lane->net->starved = room == 0;
    }
    return want ? lane_admit(lane, want) : 0;
}

/* ---- Before the guest's memory goes ---- */

static void take_back_of(struct lane *lane, const struct net_pool *pool,
                         bool (*wanted)(const void *slot))
{
    for (uint32_t i = 0; i < pool->count - pool->fresh; i++) {
        struct packet *p = (void *)(pool->memory + (size_t)i * pool->stride);

        if (p->lane != lane || !p->slot || !wanted(p->slot))
            continue;
        dt_packet_fetch(&p->pub);
        net_give_back(lane, p);
    }
}

/* Lanes that were joined have packets in each other's memory. */
void net_take_back(struct lane *lane, bool (*wanted)(const void *slot))
{
    for (const struct net_lane *net = lane->net->memory->lanes; net; net = net->kin) {
        take_back_of(lane, &net->small, wanted);
        take_back_of(lane, &net->big, wanted);
    }
}

/* ---- For layers ---- */

struct dt_packet *dt_packet_new(struct dt_ctx *c, uint32_t length)
{
    struct ctx *ctx = ctx_of(c);
    struct lane *lane = ctx->lane;
    struct packet *p = net_packet_new(lane, length);

    if (unlikely(!p)) {
        bump(&lane->net->pool_empty, 1);
        return NULL;
    }
    p->holder = ctx;
    p->pub.queue = 0;
    p->pub.when = loop_now(lane->loop);
    set_relaxed(&lane->in_flight, lane->in_flight + 1);
    hold(ctx, 1);
    return &p->pub;
}

struct dt_packet *dt_packet_copy(struct dt_ctx *c, const struct dt_packet *p)
{
    struct dt_packet *copy = dt_packet_new(c, p->length);

    CHECK(!(p->needs & DT_OFFLOAD_FETCH));
    if (!copy)
        return NULL;
    memcpy(copy->data, p->data, p->length);
    copy->needs = p->needs;
    copy->flags = p->flags;
    copy->segment = p->segment;
    copy->queue = p->queue;
    copy->headers_ = p->headers_;
    return copy;
}

uint32_t dt_packet_room(const struct dt_packet *p)
{
    return container_of(p, struct packet, pub)->capacity;
}

void dt_packet_set_length(struct dt_packet *p, uint32_t length)
{
    CHECK(length <= packet_of(p)->capacity);
    p->length = length;
    dt_packet_changed(p);
}
