/* SPDX-License-Identifier: MIT */
/*
 * punch.c - giving free space back to the file, late.
 *
 * Theory of operation: a file system that is told that some of a file is a hole, and then gets a write there, does work
 * twice that was not needed at all, and lets both wait for each other. So blocks that were given back are *stale* for
 * some time, and what is to be written goes there first. Only what stays stale for LONG, or is more than a part of the
 * pool, is punched: at most a piece at a time, by the store's thread, with rests in proportion to the time it took. All of this is about words of 64
 * blocks, all of them free.
 *
 * What is being punched may not be written. So these blocks are *busy*, as those are that a write under way has got,
 * from before the store is asked until it has answered, and promises to writes come first.
 *
 * Pools with preallocation (prealloc.c) have nothing that is stale.
 *
 * What is stale is known in memory alone. Closing a pool punches all of it; a crash leaves it unpunched, until it is used and given back again.
 */
#include "parallax/internal.h"

#define LONG  DT_S(30)
#define PART  8u                        /* of the pool */
#define MOST  ((uint64_t)4 << 30 >> 18) /* words: 4 GiB */
#define PIECE 64u                       /* words: 16 MiB */
#define REST  9u                        /* times as long as it took */
#define LOOKS 4u                        /* groups, for room for a long write */
#define WORD  64u                       /* blocks */

static bool is_set(const uint64_t *bits, unsigned word)
{
    return bits[word / 64] >> (word % 64) & 1;
}

void punch_freed(struct space *s, struct group *g, unsigned word)
{
    if (is_set(g->stale, word))
        return;
    g->stale[word / 64] |= 1ull << (word % 64);
    g->young[word / 64] |= 1ull << (word % 64);
    s->stale++;
    if (g->stale_n++ == 0) {
        g->stale_since = dt_clock_ns();
        list_add_tail(&s->warm, &g->warm);
    }
}

void punch_used(struct space *s, struct group *g, unsigned first, unsigned last)
{
    for (unsigned word = first; word <= last; word++) {
        if (!is_set(g->stale, word))
            continue;
        g->stale[word / 64] &= ~(1ull << (word % 64));
        g->young[word / 64] &= ~(1ull << (word % 64));
        s->stale--;
        if (--g->stale_n == 0)
            list_del(&g->warm);
    }
}

void punch_never(struct space *s)
{
    while (!list_empty(&s->warm))
        punch_used(s, list_entry(s->warm.next, struct group, warm), 0, PX_GROUP_WORDS - 1);
}

/* ---- Writing there ---- */

/* @n words from @word on that are set in @bits, at most @most. */
static unsigned run_at(const uint64_t *bits, unsigned word, unsigned most)
{
    unsigned n = 0;

    while (n < most && word + n < PX_GROUP_WORDS && is_set(bits, word + n))
        n++;
    return n;
}

/* The first run of @want words that are set, or PX_GROUP_WORDS. */
static unsigned find_run(const uint64_t *bits, unsigned want)
{
    for (unsigned word = 0; word < PX_GROUP_WORDS;) {
        uint64_t rest = bits[word / 64] >> (word % 64);
        unsigned n;

        if (!rest) {
            word = ALIGN_UP(word + 1, 64u);
            continue;
        }
        word += (unsigned)__builtin_ctzll(rest);
        n = run_at(bits, word, want);
        if (n == want)
            return word;
        word += n;
    }
    return PX_GROUP_WORDS;
}

/* What fits into the word that was begun goes there, so that neighbours stay together. */
uint64_t punch_warm(const struct space *s, uint64_t at, unsigned want)
{
    unsigned looks = 0, words = MIN((want + WORD - 1) / WORD, PIECE);
    uint64_t next = ALIGN_UP(at, (uint64_t)WORD), index = next >> PX_GROUP_SHIFT;

    if (likely(s->stale == 0 || want <= next - at))
        return at;
    if (index < s->n && s->groups[index] &&
        is_set(s->groups[index]->stale, (unsigned)(next % PX_GROUP_BLOCKS / WORD)))
        return at;
    list_for_each (it, &s->warm) {
        const struct group *g = list_entry(it, struct group, warm);
        unsigned word = find_run(g->stale, words);

        if (word < PX_GROUP_WORDS)
            return (g->index << PX_GROUP_SHIFT) + word * WORD;
        if (++looks == LOOKS)
            break;
    }
    return at;
}

/* ---- Punching ---- */

/* Takes up to @most words from the pool; how many. @old: those that are not young. */
static unsigned take(struct space *s, struct group *g, bool old, unsigned most, uint64_t *addr)
{
    uint64_t bits[PX_GROUP_WORDS / 64];
    unsigned word, n;

    for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
        bits[i] = g->stale[i] & ~(old ? g->young[i] : 0);
    word = find_run(bits, 1);
    if (word == PX_GROUP_WORDS)
        return 0;
    n = run_at(bits, word, most);
    for (unsigned i = word; i < word + n; i++) {
        CHECK(g->busy[i] == 0);
        g->busy[i] = UINT64_MAX;
    }
    s->free -= (uint64_t)n * WORD;
    punch_used(s, g, word, word + n - 1);
    *addr = (g->index << PX_GROUP_SHIFT) + word * WORD;
    return n;
}

static void give_back(struct pool *pool, uint64_t addr, uint64_t count)
{
    struct group *g = pool->space.groups[addr >> PX_GROUP_SHIFT];

    for (uint64_t i = 0; i < count; i += WORD)
        g->busy[(addr + i) % PX_GROUP_BLOCKS / WORD] = 0;
    pool->space.free += count;
}

static void punched(struct store_io *sio, int result)
{
    struct punch *p = container_of(sio, struct punch, sio);
    struct pool *pool = container_of(p, struct pool, space.punch);
    uint64_t now = dt_clock_ns();

    give_back(pool, p->addr, p->count);
    p->total += p->count;
    p->count = 0;
    p->next = now + REST * (now - p->begun);
    pool_kick(pool);
}

static bool too_much(const struct space *s)
{
    return s->spare.host_full || s->stale > MIN(s->blocks / WORD / PART, MOST);
}

/* What of the first group is old enough. When its time comes, those that are young then are not any more. */
static unsigned choose(struct space *s, uint64_t now, unsigned most, uint64_t *addr)
{
    struct group *g = list_entry(s->warm.next, struct group, warm);
    unsigned n;

    if (too_much(s))
        return take(s, g, false, most, addr);
    if (now < g->stale_since + LONG)
        return 0;
    n = take(s, g, true, most, addr);
    if (n)
        return n;
    memset(g->young, 0, sizeof(g->young));
    g->stale_since = now;
    list_del(&g->warm);
    list_add_tail(&s->warm, &g->warm);
    return 0;
}

/* How many words may be punched now: none that writes need. */
static uint64_t room_for(const struct pool *pool)
{
    const struct space *s = &pool->space;

    if (likely(s->stale == 0) || s->punch.count || pool->failed || !pool->store->punch ||
        io_stalled(pool) || s->free <= s->reserve + s->promised)
        return 0;
    return (s->free - s->reserve - s->promised) / WORD;
}

void punch_turn(struct pool *pool)
{
    struct space *s = &pool->space;
    struct punch *p = &s->punch;
    uint64_t now, room = room_for(pool);
    unsigned n;

    if (likely(room == 0))
        return;
    now = dt_clock_ns();
    if (now < p->next)
        return;
    n = choose(s, now, (unsigned)MIN(room, (uint64_t)PIECE), &p->addr);
    if (n == 0)
        return;
    p->count = (uint64_t)n * WORD;
    p->begun = now;
    p->sio.done = punched;
    pool->store->punch(pool->store, &p->sio, p->addr, p->count);
}

uint64_t punch_wait(const struct pool *pool)
{
    const struct space *s = &pool->space;
    const struct group *g = list_entry(s->warm.next, struct group, warm);
    uint64_t now, due;

    if (room_for(pool) == 0) /* whatever makes room is a turn of its own */
        return UINT64_MAX;
    now = dt_clock_ns();
    due = MAX(s->punch.next, too_much(s) ? 0 : g->stale_since + LONG);
    return due > now ? due - now : 0;
}

void punch_all(struct pool *pool)
{
    struct space *s = &pool->space;

    while (pool->store->punch && !list_empty(&s->warm)) {
        struct group *g = list_entry(s->warm.next, struct group, warm);
        uint64_t addr = 0, count = (uint64_t)take(s, g, false, PX_GROUP_WORDS, &addr) * WORD;

        pool->store->punch(pool->store, NULL, addr, count);
        give_back(pool, addr, count);
    }
}
