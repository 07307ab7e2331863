/* SPDX-License-Identifier: MIT */
/*
 * node.c - blocks of trees in memory.
 *
 * Theory of operation: a node is found by its address, so trees that share a node on the store
 * share it here. What is dirty stays; of what is clean, at most a limit, chosen by second chance.
 * Nothing is evicted while an operation runs (node_trim() is called between operations), so
 * pointers to nodes hold within one; a walk that lasts longer pins its path.
 *
 * A block enters through node_get() alone, where its checksum and each of its pointers are judged.
 *
 * Generations: a root is made of all that is dirty at one moment, but is written in pieces (checkpoint.c). So at that
 * moment a new generation begins, which is one addition: nodes of the one before are *frozen*. What is to change of
 * them is copied, as from a snapshot. When all of them were handed to the store the next change may move them, as any clean one.
 *
 * Checksums: a pointer to a node that was not written yet does not tell its checksum (PX_PTR_PENDING). When the node is
 * known, pointers to it in nodes of the same root are resolved, as these are written. But there may be copies, changed meanwhile, in the
 * next generation. Therefore nodes are *kept* where they are, and frozen again, until the next root is written as well, and nothing carries such a
 * pointer on: what is copied from a frozen node or from the catalogue is resolved then.
 */
#include "parallax/internal.h"

#define DEFAULT_CACHE ((size_t)256 << 20)
#define FIRST_BUCKETS 1024u

void node_cache_init(struct node_cache *cache, size_t bytes)
{
    cache->limit = (bytes ?: DEFAULT_CACHE) / sizeof(struct node);
    cache->mask = FIRST_BUCKETS - 1;
    cache->hash = xcalloc(FIRST_BUCKETS, sizeof(struct node *));
    cache->generation = 3; /* what is read is of none */
    list_init(&cache->clean);
    list_init(&cache->written);
    list_init(&cache->kept);
    list_init(&cache->dropped);
    for (unsigned kind = 0; kind < TREE_KINDS; kind++)
        for (unsigned level = 0; level <= PX_MAX_LEVELS; level++) {
            list_init(&cache->dirty[kind][level]);
            list_init(&cache->frozen[kind][level]);
        }
}

void node_cache_fini(struct node_cache *cache)
{
    for (uint64_t i = 0; cache->hash && i <= cache->mask; i++)
        while (cache->hash[i]) {
            struct node *node = cache->hash[i];

            cache->hash[i] = node->hash_next;
            free(node);
        }
    free(cache->hash);
    cache->hash = NULL;
}

static struct node **bucket(const struct node_cache *cache, uint64_t addr)
{
    return &cache->hash[(addr * 0x9e3779b97f4a7c15u >> 20) & cache->mask];
}

static void double_buckets(struct node_cache *cache)
{
    struct node **old = cache->hash;
    uint64_t n = cache->mask + 1;

    cache->hash = xcalloc(2 * n, sizeof(struct node *));
    cache->mask = 2 * n - 1;
    for (uint64_t i = 0; i < n; i++)
        for (struct node *node = old[i], *next; node; node = next) {
            struct node **to = bucket(cache, node->addr);

            next = node->hash_next;
            node->hash_next = *to;
            *to = node;
        }
    free(old);
}

static void link_node(struct node_cache *cache, struct node *node)
{
    struct node **to = bucket(cache, node->addr);

    node->hash_next = *to;
    *to = node;
    if (++cache->count > 2 * cache->mask)
        double_buckets(cache);
}

static void unlink_node(struct node_cache *cache, struct node *node)
{
    struct node **at = bucket(cache, node->addr);

    while (*at != node)
        at = &(*at)->hash_next;
    *at = node->hash_next;
    cache->count--;
}

struct node *node_peek(const struct pool *pool, uint64_t addr)
{
    struct node *node = *bucket(&pool->nodes, addr);

    while (node && node->addr != addr)
        node = node->hash_next;
    return node;
}

static void set_dirty(struct node_cache *cache, struct node *node)
{
    node->generation = cache->generation;
    node->known = false;
    cache->dirty_count++;
    list_add_tail(&cache->dirty[node->kind][node->level], &node->list);
}

static struct node *make(uint64_t addr, enum tree_kind kind, unsigned level)
{
    struct node *node = xcalloc(1, sizeof(*node));

    node->addr = addr;
    node->kind = (uint8_t)kind;
    node->level = (uint8_t)level;
    list_init(&node->list);
    return node;
}

static int damaged(const struct pool *pool, uint64_t addr, const char *why)
{
    pool_say((struct pool *)(uintptr_t)pool, "damage", "%s: block %llu is damaged: %s",
             pool->store->name, (unsigned long long)addr, why);
    return -EBADMSG;
}

/* Is it possible that this pointer stands in a node that was born at @birth? */
static bool possible(const struct pool *pool, struct px_ptr p, uint64_t birth, uint32_t flags)
{
    if (ptr_hole(p))
        return p.lo == 0 && p.hi == 0;
    return (ptr_flags(p) & ~flags) == 0 && ptr_addr(p) >= pool->space.first &&
           ptr_addr(p) < pool->space.blocks && ptr_birth(p) <= birth && ptr_birth(p) > 0;
}

/* Of the block that a tree maps, as far as it is kept in nodes. */
static int judge_page(const struct pool *pool, const struct node *node)
{
    if (node->kind == TREE_PAST && !past_possible(pool, &node->past))
        return damaged(pool, node->addr, "a page of a history that cannot be");
    if (node->kind == TREE_FORWARD && !forward_possible(pool, node->forwards))
        return damaged(pool, node->addr, "a page of forwards that cannot be");
    return 0;
}

static int judge(const struct pool *pool, const struct node *node, struct px_ptr ptr)
{
    bool data = node->level == 1 && node->kind == TREE_DISK && pool->root.features;

    if (node->crc != ptr_crc(ptr))
        return damaged(pool, node->addr, "a node has another checksum than its pointer tells");
    if (node->level == 0)
        return judge_page(pool, node);
    for (unsigned i = 0; i < PX_FANOUT; i++)
        if (!possible(pool, node->ptrs[i], ptr_birth(ptr), data ? PX_PTR_LIFE : 0))
            return damaged(pool, node->addr, "a node holds a pointer that cannot be");
    return 0;
}

static int read_node(struct pool *pool, struct node *node, struct px_ptr ptr)
{
    int ret;

    node->known = true;
    if (fetch_take(pool, ptr, node->bytes)) {
        node->crc = ptr_crc(ptr);
        return judge(pool, node, ptr);
    }
    ret = pool->store->get(pool->store, node->bytes, node->addr, 1);
    if (unlikely(ret < 0 || crc32c(0, node->bytes, PX_BLOCK) != ptr_crc(ptr)))
        ret = pool->store->get(pool->store, node->bytes, node->addr,
                               1); /* the bus may have been it */
    if (ret < 0) {
        pool_say(pool, "damage", "%s: cannot read block %llu: %s", pool->store->name,
                 (unsigned long long)node->addr, strerror(-ret));
        return ret;
    }
    node->crc = crc32c(0, node->bytes, PX_BLOCK);
    return judge(pool, node, ptr);
}

int node_find(struct pool *pool, struct px_ptr ptr, enum tree_kind kind, unsigned level,
              struct node **node)
{
    struct node *n = node_peek(pool, ptr_addr(ptr));

    if (unlikely(!n))
        return -ENOENT;
    n->used = true;
    *node = n;
    if (likely(n->kind == kind && n->level == level &&
               (!n->known || (ptr_flags(ptr) & PX_PTR_PENDING) || n->crc == ptr_crc(ptr))))
        return 0;
    return damaged(pool, ptr_addr(ptr), "two pointers to it contradict each other");
}

bool node_wanted(const struct pool *pool, struct px_ptr ptr)
{
    return !ptr_hole(ptr) && node_on_store(pool, ptr) && !node_peek(pool, ptr_addr(ptr));
}

bool node_on_store(const struct pool *pool, struct px_ptr ptr)
{
    return !(ptr_flags(ptr) & PX_PTR_PENDING) && possible(pool, ptr, ptr_birth(ptr), 0);
}

int node_get(struct pool *pool, struct px_ptr ptr, enum tree_kind kind, unsigned level,
             struct node **node)
{
    int ret = node_find(pool, ptr, kind, level, node);
    struct node *n;

    if (likely(ret != -ENOENT))
        return ret;
    /* Only a damaged pool leads here with an address that no judged pointer had. */
    if (!node_on_store(pool, ptr))
        return damaged(pool, ptr_addr(ptr), "a pointer to it cannot be");
    n = make(ptr_addr(ptr), kind, level);
    ret = read_node(pool, n, ptr);
    if (ret < 0) {
        free(n);
        return ret;
    }
    link_node(&pool->nodes, n);
    list_add_tail(&pool->nodes.clean, &n->list);
    *node = n;
    return 0;
}

struct node *node_new(struct pool *pool, uint64_t addr, enum tree_kind kind, unsigned level)
{
    struct node *node = make(addr, kind, level);

    link_node(&pool->nodes, node);
    set_dirty(&pool->nodes, node);
    return node;
}

struct node *node_copy(struct pool *pool, uint64_t addr, const struct node *node)
{
    struct node *copy = node_new(pool, addr, node->kind, node->level);

    memcpy(copy->bytes, node->bytes, PX_BLOCK);
    /* What was known when the root being made was begun is not kept in memory until the next. */
    if (node_frozen(&pool->nodes, node) && !node->known)
        node_resolve_all(pool, copy);
    return copy;
}

void node_move(struct pool *pool, struct node *node, uint64_t addr)
{
    CHECK(node->known && !node_frozen(&pool->nodes, node));
    unlink_node(&pool->nodes, node);
    list_del(&node->list);
    node->addr = addr;
    link_node(&pool->nodes, node);
    set_dirty(&pool->nodes, node);
}

static void forget(struct pool *pool, struct node *node)
{
    CHECK(node->pins == 0);
    unlink_node(&pool->nodes, node);
    if (node_changeable(&pool->nodes, node))
        pool->nodes.dirty_count--;
    list_del(&node->list);
    free(node);
}

/* A frozen one goes when that root has it. */
void node_drop(struct pool *pool, uint64_t addr)
{
    struct node *node = node_peek(pool, addr);

    if (!node)
        return;
    if (!node_frozen(&pool->nodes, node)) {
        forget(pool, node);
        return;
    }
    node->dropped = true;
    if (node->known) {
        list_del(&node->list);
        list_add_tail(&pool->nodes.dropped, &node->list);
    }
}

void node_trim(struct pool *pool)
{
    struct node_cache *cache = &pool->nodes;
    uint64_t looks = 64; /* spread over many calls; only what was added lately is over the limit */

    while (cache->count > cache->limit && !list_empty(&cache->clean) && looks--) {
        struct node *node = list_entry(cache->clean.next, struct node, list);

        if (node->used || node->pins) {
            node->used = false;
            list_del(&node->list);
            list_add_tail(&cache->clean, &node->list);
        } else {
            forget(pool, node);
            cache->evicted++;
        }
    }
}

/* ---- Roots ---- */

static void move_all(struct list *from, struct list *to)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

void node_freeze(struct pool *pool)
{
    struct node_cache *cache = &pool->nodes;

    CHECK(!cache->freezing && list_empty(&cache->written));
    for (unsigned kind = 0; kind < TREE_KINDS; kind++)
        for (unsigned level = 0; level <= PX_MAX_LEVELS; level++)
            move_all(&cache->dirty[kind][level], &cache->frozen[kind][level]);
    cache->freezes = cache->dirty_count;
    cache->dirty_count = 0;
    cache->freezing = true;
    cache->generation++;
}

bool node_resolve(struct pool *pool, struct px_ptr *ptr)
{
    const struct node *node;

    if (likely(!(ptr_flags(*ptr) & PX_PTR_PENDING)))
        return true;
    node = node_peek(pool, ptr_addr(*ptr));
    if (node && !node->known)
        return false;
    /* Where it is gone, what points to it is being given back itself, and nobody goes there again (reclaim.c). */
    *ptr = ptr_make(ptr_addr(*ptr), ptr_birth(*ptr), 0, node ? node->crc : 0);
    return true;
}

bool node_resolve_all(struct pool *pool, struct node *node)
{
    bool all = true;

    if (node->level > 0)
        for (unsigned i = 0; i < PX_FANOUT; i++)
            all &= node_resolve(pool, &node->ptrs[i]);
    else if (node->kind == TREE_PAST)
        for (unsigned i = 0; i < node->past.used; i++)
            all &= node_resolve(pool, &node->past.entries[i].old);
    else if (node->kind == TREE_CATALOG)
        for (unsigned i = 0; i < PX_RECORDS; i++)
            all &= node_resolve(pool, &node->records[i].root);
    return all;
}

struct node *node_next_frozen(struct pool *pool, enum tree_kind kind)
{
    struct node_cache *cache = &pool->nodes;
    unsigned level = 0;
    struct node *node;

    while (level <= PX_MAX_LEVELS && list_empty(&cache->frozen[kind][level]))
        level++;
    if (level > PX_MAX_LEVELS)
        return NULL;
    node = list_entry(cache->frozen[kind][level].next, struct node, list);
    CHECK(node_resolve_all(pool, node)); /* what it points to came before */
    node->crc = crc32c(0, node->bytes, PX_BLOCK);
    node->known = true;
    list_del(&node->list);
    list_add_tail(node->dropped ? &cache->dropped : &cache->written, &node->list);
    return node;
}

void node_thaw(struct pool *pool)
{
    struct node_cache *cache = &pool->nodes;

    move_all(&cache->kept, &cache->clean);
    move_all(&cache->written, &cache->kept);
    cache->freezing = false;
}

bool node_sweep(struct pool *pool, unsigned budget)
{
    struct list *dropped = &pool->nodes.dropped;

    for (; budget && !list_empty(dropped); budget--)
        forget(pool, list_entry(dropped->next, struct node, list));
    return !list_empty(dropped);
}
