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

#define SMALL_STRIDE 2048u
#define SMALL_COUNT  4096u
#define BIG_COUNT    256u

static int pool_init(struct net_pool *pool, size_t stride, uint32_t count)
{
    *pool = (struct net_pool){.stride = stride, .count = count, .fresh = count};
    pool->memory = mmap(NULL, stride * count, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool->memory != MAP_FAILED)
        return 0;
    pool->memory = NULL;
    return -ENOMEM;
}

static void pool_fini(struct net_pool *pool)
{
    CHECK(pool->used == 0);
    if (pool->memory)
        munmap(pool->memory, pool->stride * pool->count);
}

int net_pools_init(struct net_lane *net, struct lane *lane)
{
    return pool_init(&net->small, SMALL_STRIDE, SMALL_COUNT)
               ?: pool_init(&net->big, ALIGN_UP(sizeof(struct packet) + NET_MAX_FRAME, 4096u),
                            BIG_COUNT);
}

void net_pools_fini(struct net_lane *net)
{
    pool_fini(&net->small);
    pool_fini(&net->big);
}

static uint32_t room(const struct net_pool *pool)
{
    return pool->count - pool->used;
}

uint32_t net_pool_room(const struct net_lane *net)
{
    return MIN(room(&net->small), room(&net->big));
}

static struct packet *pool_take(struct net_pool *pool, struct lane *lane)
{
    struct packet *p = pool->free;

    if (likely(p)) {
        pool->free = p->free_next;
    } else {
        if (pool->fresh == 0)
            return NULL;
        p = (void *)(pool->memory + (size_t)(pool->count - pool->fresh--) * pool->stride);
        p->pub.data = (uint8_t *)(p + 1);
        p->capacity = (uint32_t)(pool->stride - sizeof(*p));
        p->lane = lane;
    }
    pool->used++;
    return p;
}

struct packet *net_packet_new(struct lane *lane, uint32_t length)
{
    struct net_lane *net = lane->net;
    bool small = length <= SMALL_STRIDE - sizeof(struct packet);
    struct packet *p =
        length <= NET_MAX_FRAME ? pool_take(small ? &net->small : &net->big, lane) : NULL;

    if (unlikely(!p))
        return NULL;
    p->pub.length = length;
    p->pub.needs = p->pub.flags = 0;
    p->pub.next = NULL;
    p->slot = NULL;
    p->holder = NULL;
    return p;
}

void net_packet_free(struct lane *lane, struct packet *p)
{
    struct net_lane *net = lane->net;
    struct net_pool *pool = p->capacity <= SMALL_STRIDE ? &net->small : &net->big;

    /* Also of one that a layer turned around, and that ends with the guest that sent it. */
    if (p->slot)
        lane->front_ops->sent(lane, p->slot);
    p->free_next = pool->free;
    pool->free = p;
    pool->used--;
    if (unlikely(net->starved)) {
        net->starved = false;
        lane->front_ops->wake(lane);
    }
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
