/* SPDX-License-Identifier: MIT */
/*
 * space.c - which blocks are in use.
 *
 * Theory of operation: of each group of 32768 blocks, a block of bits (*map*) tells what the next
 * root will reach. It is read from the tree of the free maps when the group is first needed, and
 * goes back there with each root. A second set of bits (*busy*) is what may not be given out: that,
 * and blocks whose data is being written, and what the durable root still reaches although it is
 * unmapped. The latter is kept in *freed* until a root is begun and in *freeing* until that root is
 * durable; even a block that came and went between two roots waits so long, because the journal
 * speaks of it.
 *
 * A root has the maps as they were at one moment, but not all of them are copied then: each is when its turn comes,
 * or just before it changes.
 *
 * What is free is given out by place.c.
 *
 * While a root is pinned (pin.c), what it reaches stays busy when later roots drop it, as *held*. What it
 * reaches is all that was mapped when it was begun; so only what was mapped since, *born*, has to be told apart.
 */
#include "parallax/internal.h"

#define BITS_BYTES (PX_GROUP_BLOCKS / 8)

static bool bit(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}
static void set_bit(uint64_t *bits, uint64_t i)
{
    bits[i / 64] |= 1ull << (i % 64);
}
static void clear_bit(uint64_t *bits, uint64_t i)
{
    bits[i / 64] &= ~(1ull << (i % 64));
}

void space_set_reserve(struct pool *pool)
{
    struct space *s = &pool->space;

    s->reserve = MAX(s->blocks / 64, (uint64_t)48) + 2 * s->n + 2 * pool->forwards.nodes;
}

int space_init(struct pool *pool, uint64_t blocks, uint64_t used)
{
    struct space *s = &pool->space;

    s->blocks = blocks;
    s->used = used;
    s->free = blocks - used;
    s->n = (blocks + PX_GROUP_BLOCKS - 1) >> PX_GROUP_SHIFT;
    s->groups = xcalloc(s->n, sizeof(struct group *));
    list_init(&s->dirty);
    list_init(&s->paged);
    list_init(&s->release);
    list_init(&s->warm);
    space_set_reserve(pool);
    s->node_at = blocks / 2;
    return 0;
}

static void free_group(struct group *g)
{
    if (!g)
        return;
    free(g->map);
    free(g->busy);
    free(g->freed);
    free(g->freeing);
    free(g->born);
    free(g->held);
    free(g);
}

void space_fini(struct pool *pool)
{
    for (uint64_t i = 0; pool->space.groups && i < pool->space.n; i++)
        free_group(pool->space.groups[i]);
    free(pool->space.groups);
    pool->space.groups = NULL;
    spare_fini(pool);
}

/* What lies behind the end of the pool is never given out, nor what lies before the first block. */
static void mark_ends(const struct space *s, uint64_t index, uint64_t *bits)
{
    uint64_t base = index << PX_GROUP_SHIFT;

    for (uint64_t i = base; i < s->first; i++)
        set_bit(bits, i);
    if (s->blocks >= base + PX_GROUP_BLOCKS)
        return;
    for (uint64_t i = s->blocks - base; i < PX_GROUP_BLOCKS; i++)
        set_bit(bits, i);
}

static int read_map(struct pool *pool, uint64_t index, uint64_t *bits)
{
    struct space *s = &pool->space;
    struct tree tree = pool_space_tree(pool);
    struct px_ptr ptr;
    struct node *page;
    int ret = tree_lookup(pool, &tree, index, 1, &ptr);

    if (ret == 0 && !ptr_hole(ptr))
        ret = node_get(pool, ptr, TREE_SPACE, 0, &page);
    if (ret < 0)
        return ret;
    if (!ptr_hole(ptr))
        memcpy(bits, page->bytes, BITS_BYTES);
    else
        memset(bits, 0, BITS_BYTES);
    mark_ends(s, index, bits);
    return 0;
}

int space_map(struct pool *pool, uint64_t index, uint64_t *bits)
{
    const struct group *g = pool->space.groups[index];

    if (!g)
        return read_map(pool, index, bits);
    memcpy(bits, g->map, BITS_BYTES);
    return 0;
}

static struct group *new_group(uint64_t index)
{
    struct group *g = xcalloc(1, sizeof(*g));

    g->index = index;
    list_init(&g->todo);
    list_init(&g->release);
    list_init(&g->warm);
    g->map = xcalloc(1, BITS_BYTES);
    g->busy = xcalloc(1, BITS_BYTES);
    return g;
}

/* Always 0: a map that cannot be read is as good as one without free blocks (space-lost.c). */
int space_group(struct pool *pool, uint64_t index, struct group **group)
{
    struct space *s = &pool->space;
    struct group *g;

    CHECK(index < s->n);
    if (likely(s->groups[index])) {
        *group = s->groups[index];
        return 0;
    }
    g = new_group(index);
    if (likely(read_map(pool, index, g->map) == 0)) {
        memcpy(g->busy, g->map, BITS_BYTES);
        s->groups[index] = g;
    } else {
        free_group(g);
        space_lose(pool, index);
    }
    *group = s->groups[index];
    return 0;
}

static void mark_born(struct group *g, uint64_t i)
{
    if (!g->born)
        g->born = xcalloc(1, BITS_BYTES);
    set_bit(g->born, i);
}

/* The page of a root being made gets the map as it was when that was begun; what was freed before is dropped by that
 * root. */
static void capture(struct space *s, struct group *g)
{
    memcpy(g->page->bytes, g->map, BITS_BYTES);
    g->page = NULL;
    g->dirty = false;
    list_del(&g->todo);
    if (g->has_freed) {
        uint64_t *empty = g->freeing;

        CHECK(!g->has_freeing);
        g->freeing = g->freed;
        g->freed = empty;
        g->has_freeing = true;
        g->has_freed = false;
        list_add_tail(&s->release, &g->release);
    }
}

/* Before its map changes. */
static void touch(struct space *s, struct group *g)
{
    if (unlikely(s->frozen && g->page))
        capture(s, g);
    if (!g->dirty)
        list_add_tail(&s->dirty, &g->todo);
    g->dirty = true;
}

void space_touch(struct pool *pool, uint64_t index)
{
    if (pool->space.groups[index])
        touch(&pool->space, pool->space.groups[index]);
}

uint64_t space_set(struct pool *pool, uint64_t index, const uint64_t *bits)
{
    struct space *s = &pool->space;
    uint64_t now[PX_GROUP_WORDS], map[PX_GROUP_WORDS], end = (index + 1) << PX_GROUP_SHIFT, n = 0;
    struct group *g;

    memcpy(map, bits, BITS_BYTES);
    mark_ends(s, index, map);
    for (unsigned word = 0; word < PX_GROUP_WORDS; word++)
        n += (uint64_t)__builtin_popcountll(map[word]);
    if (read_map(pool, index, now) < 0 || memcmp(now, map, BITS_BYTES) != 0) {
        g = s->groups[index] = new_group(index);
        memcpy(g->map, map, BITS_BYTES);
        memcpy(g->busy, map, BITS_BYTES);
        touch(s, g);
    }
    return n - (end - MIN(end, s->blocks));
}

void space_fill(struct pool *pool, uint64_t index)
{
    struct group *g = new_group(index);

    CHECK(!pool->space.groups[index]);
    memset(g->map, 0xff, BITS_BYTES);
    memset(g->busy, 0xff, BITS_BYTES);
    g->lost = true;
    pool->space.groups[index] = g;
    pool->space.lost++;
    touch(&pool->space, g);
}

int space_use(struct pool *pool, uint64_t addr, unsigned count)
{
    for (; count; count--, addr++) {
        struct group *g;
        int ret = space_group(pool, addr >> PX_GROUP_SHIFT, &g);
        uint64_t i = addr & (PX_GROUP_BLOCKS - 1);

        if (ret < 0)
            return ret;
        if (unlikely(g->lost && bit(g->map, i)))
            continue; /* what recovery has reserved */
        CHECK(bit(g->busy, i) && !bit(g->map, i));
        touch(&pool->space, g);
        set_bit(g->map, i);
        if (unlikely(pool->space.pin >= PIN_BEGUN))
            mark_born(g, i);
        pool->space.used++;
    }
    return 0;
}

void space_abandon(struct pool *pool, uint64_t addr, unsigned count)
{
    for (; count; count--, addr++) {
        struct group *g = pool->space.groups[addr >> PX_GROUP_SHIFT];
        uint64_t i = addr & (PX_GROUP_BLOCKS - 1);

        CHECK(g && bit(g->busy, i) && !bit(g->map, i));
        clear_bit(g->busy, i);
        pool->space.free++;
    }
}

int space_free(struct pool *pool, uint64_t addr)
{
    uint64_t i = addr & (PX_GROUP_BLOCKS - 1);
    struct group *g;
    int ret;

    if (addr < pool->space.first || addr >= pool->space.blocks)
        return -EBADMSG;
    ret = space_group(pool, addr >> PX_GROUP_SHIFT, &g);
    if (ret < 0)
        return ret;
    if (!bit(g->map, i)) {
        pool_say(pool, "damage", "%s: block %llu is in use and marked free", pool->store->name,
                 (unsigned long long)addr);
        return -EBADMSG;
    }
    if (pool->data_cache)
        data_cache_drop(pool->data_cache, addr);
    touch(&pool->space, g);
    if (!g->freed)
        g->freed = xcalloc(1, BITS_BYTES);
    clear_bit(g->map, i);
    set_bit(g->freed, i);
    g->has_freed = true;
    pool->space.used--;
    pool->space.pending++;
    return 0;
}

int space_reserve_exact(struct pool *pool, uint64_t addr)
{
    uint64_t i = addr & (PX_GROUP_BLOCKS - 1);
    struct group *g;
    int ret;

    if (addr < pool->space.first || addr >= pool->space.blocks)
        return -EBADMSG;
    ret = space_group(pool, addr >> PX_GROUP_SHIFT, &g);
    if (ret < 0)
        return ret;
    if (unlikely(g->lost && bit(g->map, i)))
        return 0;
    if (bit(g->busy, i))
        return -EBADMSG;
    set_bit(g->busy, i);
    pool->space.free--;
    return 0;
}

/* ---- Roots ---- */

/*
 * To write a group's map, its page in the tree is moved to another block, which changes maps,
 * perhaps of other groups. But each page moves once for a root, so this comes to an end.
 */
int space_prepare(struct pool *pool, unsigned *budget)
{
    struct space *s = &pool->space;
    struct tree tree = pool_space_tree(pool);

    while (!list_empty(&s->dirty)) {
        struct group *g = list_entry(s->dirty.next, struct group, todo);
        int ret;

        if (*budget == 0)
            return 1;
        --*budget;
        ret = space_page(pool, &tree, g->index, &g->page);
        if (ret < 0)
            return ret;
        list_del(&g->todo);
        list_add_tail(&s->paged, &g->todo);
    }
    return 0;
}

int space_freeze(struct pool *pool)
{
    unsigned all = UINT32_MAX;
    int ret = space_prepare(pool, &all);

    pool->space.frozen = ret == 0;
    if (ret == 0 && pool->space.pin == PIN_WANTED)
        pool->space.pin = PIN_BEGUN; /* what is mapped now is what this root reaches */
    return ret;
}

bool space_capture(struct pool *pool, unsigned *budget)
{
    struct space *s = &pool->space;

    while (!list_empty(&s->paged)) {
        if (*budget == 0)
            return true;
        --*budget;
        capture(s, list_entry(s->paged.next, struct group, todo));
    }
    s->frozen = false;
    return false;
}

/* These may be given out. Space of whole words that are free now is worth punching: a file system has about the same
 * work for any length. */
static uint64_t give_back(struct pool *pool, struct group *g, uint64_t *bits)
{
    struct space *s = &pool->space;
    uint64_t all = 0;

    for (unsigned word = 0; word < PX_GROUP_WORDS; word++) {
        uint64_t n = (uint64_t)__builtin_popcountll(bits[word]);

        if (n == 0)
            continue;
        g->busy[word] &= ~bits[word];
        bits[word] = 0;
        all += n;
        if (g->busy[word] == 0 && pool_is_thin(pool))
            punch_freed(s, g, word);
    }
    s->free += all;
    return all;
}

int space_found(struct pool *pool, uint64_t index)
{
    struct group *g;
    int ret = space_group(pool, index, &g);

    for (unsigned word = 0; ret == 0 && word < PX_GROUP_WORDS; word++)
        if (g->busy[word] == 0)
            punch_freed(&pool->space, g, word);
    return ret;
}

static void release(struct pool *pool, struct group *g)
{
    pool->space.pending -= give_back(pool, g, g->freeing);
    g->has_freeing = false;
    list_del(&g->release);
}

/* Of what a root dropped, the pinned one reaches all that is not younger: that is not free yet. */
static void hold(struct space *s, struct group *g)
{
    if (!g->held)
        g->held = xcalloc(1, BITS_BYTES);
    for (unsigned word = 0; word < PX_GROUP_WORDS; word++) {
        uint64_t keep = g->freeing[word] & ~(g->born ? g->born[word] : 0);
        uint64_t n = (uint64_t)__builtin_popcountll(keep);

        g->freeing[word] &= ~keep;
        g->held[word] |= keep;
        g->has_held |= n > 0;
        s->held += n;
        s->pending -= n;
    }
}

bool space_durable(struct pool *pool, unsigned *budget)
{
    struct space *s = &pool->space;

    while (!list_empty(&s->release)) {
        struct group *g = list_entry(s->release.next, struct group, release);

        if (*budget == 0)
            return true;
        --*budget;
        if (s->pin == PIN_HOLDS)
            hold(s, g);
        spare_absorb(pool, g->index << PX_GROUP_SHIFT, g->freeing);
        release(pool, g);
    }
    if (s->pin == PIN_BEGUN)
        s->pin = PIN_HOLDS;
    return false;
}

/* The durable root dropped all that is held, and so did the journal. */
void space_unpin(struct pool *pool)
{
    struct space *s = &pool->space;

    s->pin = PIN_NONE;
    for (uint64_t i = 0; i < s->n; i++) {
        struct group *g = s->groups[i];

        if (!g)
            continue;
        if (g->has_held)
            s->held -= give_back(pool, g, g->held);
        g->has_held = false;
        free(TAKE_PTR(g->held));
        free(TAKE_PTR(g->born));
    }
}

int space_grow(struct pool *pool, uint64_t blocks)
{
    struct space *s = &pool->space;
    uint64_t old = s->blocks, n = (blocks + PX_GROUP_BLOCKS - 1) >> PX_GROUP_SHIFT;
    struct tree tree = pool_space_tree(pool);
    struct group *last, **groups;
    int ret = space_group(pool, s->n - 1, &last);

    ret = ret ?: tree_grow(pool, &tree, n);
    if (ret < 0)
        return ret;
    groups = xcalloc(n, sizeof(struct group *));
    memcpy(groups, s->groups, s->n * sizeof(struct group *));
    free(s->groups);
    s->groups = groups;
    s->n = n;
    s->blocks = blocks;
    s->free += blocks - old;
    space_set_reserve(pool);
    touch(s, last);
    for (uint64_t i = old; i < MIN(blocks, ALIGN_UP(old, (uint64_t)PX_GROUP_BLOCKS)); i++) {
        clear_bit(last->map, i & (PX_GROUP_BLOCKS - 1));
        clear_bit(last->busy, i & (PX_GROUP_BLOCKS - 1));
    }
    return 0;
}
