/* SPDX-License-Identifier: MIT */
/*
 * past-view.c - what a disk was after one of its writes, to be read beside it.
 *
 * Theory of operation: the state after write N is that of the first snapshot taken after N, hidden
 * or not, with the entries of the log between N and that snapshot undone. Of several entries for
 * one place the oldest counts. So the entries are gone through once, from N on, into a hash, where
 * the first one stays. An entry may stand for a subtree that was dropped at once; it has a key of
 * its own, and of what is found at the levels above a block the oldest counts again.
 *
 * A snapshot does not change, and what the entries point to lives as long as they do. So a view
 * pins the snapshot, as a reader, and its writes, which are then not let go.
 */
#include "parallax/change.h"

/** struct undone - @key: level and index at that level, plus 1; 0 is empty. */
struct undone {
    uint64_t key, number;
    struct px_ptr old;
};

/**
 * struct past_view - @disk: whose past; @levels: a bit for each at which something was dropped.
 * @pending: some of the table's pointers do not tell a checksum yet.
 */
struct past_view {
    struct pool *pool;
    uint32_t disk, base;
    uint64_t number;
    struct undone *table;
    uint64_t mask, count;
    unsigned levels;
    bool pending;
};

/* ---- The table ---- */

static uint64_t key_of(uint64_t index, unsigned level)
{
    return ((index >> (PX_FAN_SHIFT * level)) | (uint64_t)level << PX_PAST_LEVEL) + 1;
}

static struct undone *place_of(const struct past_view *v, uint64_t key)
{
    uint64_t at = key * 0x9e3779b97f4a7c15u >> 16;

    while (v->table[at & v->mask].key && v->table[at & v->mask].key != key)
        at++;
    return &v->table[at & v->mask];
}

static void enlarge(struct past_view *v)
{
    struct undone *old = v->table;
    uint64_t n = v->mask + 1;

    v->mask = 2 * n - 1;
    v->table = xcalloc(2 * n, sizeof(*v->table));
    for (uint64_t i = 0; i < n; i++)
        if (old[i].key)
            *place_of(v, old[i].key) = old[i];
    free(old);
}

static void undo(struct past_view *v, const struct px_past_entry *e)
{
    uint64_t key = key_of(past_index(e), past_level(e));
    struct undone *u = place_of(v, key);

    if (u->key)
        return;
    *u = (struct undone){key, e->number, e->old};
    v->levels |= 1u << past_level(e);
    v->pending |= (ptr_flags(e->old) & PX_PTR_PENDING) != 0;
    if (++v->count > v->mask / 2)
        enlarge(v);
}

static void resolve(struct past_view *v)
{
    v->pending = false;
    for (uint64_t i = 0; i <= v->mask; i++)
        if (v->table[i].key)
            v->pending |= !node_resolve(v->pool, &v->table[i].old);
}

void past_views_resolve(struct pool *pool)
{
    list_for_each (it, &pool->disks) {
        const struct disk *d = list_entry(it, struct disk, list);

        if (d->past && d->past->pending)
            resolve(d->past);
    }
}

/* ---- Looking up ---- */

/* The pointer of @index below a subtree that was dropped. */
static int descend(struct pool *pool, struct px_ptr ptr, unsigned level, uint64_t index,
                   struct px_ptr *found)
{
    for (; level && !ptr_hole(ptr); level--) {
        struct node *node;
        int ret = node_get(pool, ptr, TREE_DISK, level, &node);

        if (ret < 0)
            return ret;
        ptr = node->ptrs[index >> (PX_FAN_SHIFT * (level - 1)) & (PX_FANOUT - 1)];
    }
    *found = ptr;
    return 0;
}

static int look_up(const struct past_view *v, uint64_t index, struct px_ptr *ptr)
{
    const struct undone *oldest = NULL;
    unsigned at = 0;

    for (unsigned level = 0; level <= PX_MAX_LEVELS; level++) {
        const struct undone *u;

        if (!(v->levels & 1u << level))
            continue;
        u = place_of(v, key_of(index, level));
        if (u->key && (!oldest || u->number < oldest->number)) {
            oldest = u;
            at = level;
        }
    }
    return oldest ? descend(v->pool, oldest->old, at, index, ptr) : 0;
}

int past_lookup(struct past_view *v, uint64_t index, unsigned count, struct px_ptr *ptrs)
{
    struct tree t = catalog_tree(v->pool, v->base);
    int ret = tree_lookup(v->pool, &t, index, count, ptrs);

    for (unsigned i = 0; ret == 0 && i < count; i++)
        ret = look_up(v, index + i, &ptrs[i]);
    return ret;
}

int disk_lookup(struct disk *disk, uint64_t index, unsigned count, struct px_ptr *ptrs)
{
    struct tree t = catalog_tree(disk->pool, disk->slot);

    int ret = likely(!disk->past) ? tree_lookup(disk->pool, &t, index, count, ptrs)
                                  : past_lookup(disk->past, index, count, ptrs);

    return likely(!disk->pool->root.features)
               ? ret
               : ret ?: forward_follow_marked(disk->pool, count, ptrs);
}

/* ---- Making one ---- */

/* The first thing that is not older than @number: a snapshot, in the line or a branch, or the disk itself. */
static uint32_t find_base(struct pool *pool, uint32_t disk, uint64_t number)
{
    const struct px_record *r = catalog_record(pool, disk);
    uint64_t floor = past_log(pool, r)->floor;
    uint32_t base = disk;

    for (uint32_t at = r->prev; at; at = r->prev) {
        r = catalog_record(pool, at - 1);
        if (r->writes < number || r->writes < floor || (r->flags & PX_DYING))
            break;
        base = at - 1;
    }
    for (struct aside a = {0}; catalog_aside(pool, disk, &a);) {
        r = catalog_record(pool, a.slot);
        if (r->writes >= MAX(number, floor) && !(r->flags & PX_DYING) &&
            r->writes < catalog_record(pool, base)->writes)
            base = a.slot;
    }
    return base;
}

static int gather(struct past_view *v)
{
    struct px_record *log = past_log(v->pool, catalog_record(v->pool, v->disk));
    uint64_t last = catalog_record(v->pool, v->base)->writes;
    uint64_t at;
    int ret = past_pages(log) ? past_find(v->pool, log, v->number, false, &at) : 0;

    for (; ret == 0 && past_pages(log) && at < log->next; at++) {
        const struct px_past *page = NULL;

        ret = past_page(v->pool, log, at, &page);
        for (unsigned i = 0; ret == 0 && i < page->used; i++)
            if (page->entries[i].number > v->number && page->entries[i].number <= last)
                undo(v, &page->entries[i]);
        if (ret == 0 && page->entries[page->used - 1].number > last)
            break;
        node_trim(v->pool);
    }
    return ret;
}

static int judge(struct pool *pool, uint32_t slot, uint64_t number, struct dt_error *err)
{
    const struct px_record *r = catalog_record(pool, slot);
    struct pool_past past;
    int ret = pool_past(pool, slot, &past, err);

    if (ret < 0)
        return ret;
    if (!past.keep)
        return dt_fail(err, -ENOENT, "'%s' has no history (cvd history)", r->name);
    if (number < past.first || number > past.last)
        return dt_fail(err, -ENOENT, "the history of '%s' has the states after writes %llu to %llu",
                       r->name, (unsigned long long)past.first, (unsigned long long)past.last);
    return 0;
}

/* @stays: it is to stay as it is while the disk goes on. */
static int view_new(struct past_view **out, struct pool *pool, uint32_t slot, uint64_t number,
                    bool stays, struct dt_error *err)
{
    uint32_t base = slot;
    struct past_view *v;
    int ret = judge(pool, slot, number, err);

    if (ret == 0)
        base = find_base(pool, slot, number);
    /* Only who looks at the pool without its lock has a disk that does not change. */
    if (ret == 0 && base == slot && stays && !pool->o.read_only)
        ret = past_anchor(pool, slot, &base, err);
    if (ret < 0)
        return ret;
    v = xcalloc(1, sizeof(*v));
    *v = (struct past_view){
        .pool = pool, .disk = slot, .base = base, .number = number, .mask = 1023};
    v->table = xcalloc(v->mask + 1, sizeof(*v->table));
    ret = gather(v);
    if (ret < 0) {
        past_view_free(v);
        return dt_fail(err, ret, "%s: a history cannot be read: %s", pool->store->name,
                       strerror(-ret));
    }
    *out = v;
    return 0;
}

void past_view_free(struct past_view *v)
{
    if (!v)
        return;
    free(v->table);
    free(v);
}

uint32_t disk_about(const struct disk *disk)
{
    return disk->past ? disk->past->disk : disk->slot;
}

int disk_open_at(struct disk **disk, struct pool *pool, uint32_t slot, uint64_t number,
                 const char *owner, struct dt_error *err)
{
    struct past_view *v = NULL;
    int ret = 0;

    if (number != PRESENT)
        ret = view_new(&v, pool, slot, number, true, err);
    ret = ret ?: disk_mount(disk, pool, v ? v->base : slot, true, owner, err);
    if (ret < 0)
        past_view_free(v);
    else
        (*disk)->past = v;
    return ret;
}

static int look_once(struct pool *pool, uint32_t slot, uint64_t number, uint64_t index,
                     struct px_ptr *ptr)
{
    struct past_view *v = NULL;
    struct dt_error err;
    int ret = view_new(&v, pool, slot, number, false, &err);

    ret = ret ?: past_lookup(v, index, 1, ptr);
    past_view_free(v);
    return ret;
}

int past_changed(struct pool *pool, uint32_t slot, const struct px_past_entry *e, uint64_t index)
{
    struct px_ptr was = {0, 0}, is = {0, 0};
    int ret = look_once(pool, slot, e->number - 1, index, &was)
                  ?: look_once(pool, slot, e->number, index, &is);

    return ret < 0 ? ret : !ptr_same(was, is);
}

/* ---- What differs ---- */

/** struct span - blocks that may differ. */
struct span {
    uint64_t from, to;
};

struct spans {
    struct span *list;
    size_t n, room;
};

static void add_span(struct spans *s, uint64_t from, uint64_t to)
{
    if (s->n == s->room) {
        s->room = MAX(2 * s->room, (size_t)64);
        s->list = realloc(s->list, s->room * sizeof(*s->list));
        CHECK(s->list);
    }
    s->list[s->n++] = (struct span){from, to};
}

static int add_range(void *arg, uint64_t index, uint64_t count, bool mapped)
{
    add_span(arg, index, index + count);
    return 0;
}

static void add_undone(struct spans *s, const struct past_view *v)
{
    for (uint64_t i = 0; v && i <= v->mask; i++) {
        uint64_t key = v->table[i].key - 1, index = key & (((uint64_t)1 << PX_PAST_LEVEL) - 1);
        unsigned level = (unsigned)(key >> PX_PAST_LEVEL);

        if (v->table[i].key)
            add_span(s, index << (PX_FAN_SHIFT * level), (index + 1) << (PX_FAN_SHIFT * level));
    }
}

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;

    return x->from < y->from ? -1 : x->from > y->from;
}

/** struct side - one of the two: a disk or snapshot, or nothing, and what of it is undone. */
struct side {
    uint32_t slot;
    struct past_view *view;
};

static int side_open(struct side *s, struct pool *pool, uint32_t slot, uint64_t number,
                     struct dt_error *err)
{
    int ret = number == PRESENT ? 0 : view_new(&s->view, pool, slot, number, true, err);

    s->slot = s->view ? s->view->base : slot;
    return ret;
}

static int side_lookup(struct pool *pool, const struct side *s, uint64_t index, struct px_ptr *ptr)
{
    struct tree t;

    *ptr = (struct px_ptr){0, 0};
    if (s->view)
        return past_lookup(s->view, index, 1, ptr);
    if (s->slot == NO_SLOT)
        return 0;
    t = catalog_tree(pool, s->slot);
    return tree_lookup(pool, &t, index, 1, ptr);
}

static int compare(struct pool *pool, const struct side *older, const struct side *newer,
                   const struct spans *spans,
                   int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped), void *arg)
{
    uint64_t end = catalog_record(pool, newer->slot)->size >> PX_BLOCK_SHIFT, at = 0, from = 0,
             n = 0;
    bool mapped = false;
    int ret = 0;

    for (size_t i = 0; i < spans->n; i++)
        for (at = MAX(at, spans->list[i].from); ret == 0 && at < MIN(spans->list[i].to, end);
             at++) {
            struct px_ptr a, b;

            ret = side_lookup(pool, older, at, &a) ?: side_lookup(pool, newer, at, &b);
            node_trim(pool);
            if (ret < 0 || ptr_same(a, b))
                continue;
            if (n && (from + n != at || mapped == ptr_hole(b))) {
                ret = range(arg, from, n, mapped);
                n = 0;
            }
            if (n++ == 0)
                from = at;
            mapped = !ptr_hole(b);
        }
    return ret ?: n ? range(arg, from, n, mapped) : 0;
}

int pool_diff_at(struct pool *pool, uint32_t older, uint64_t older_number, uint32_t newer,
                 uint64_t newer_number,
                 int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped), void *arg,
                 struct dt_error *err)
{
    struct side a = {0}, b = {0};
    struct spans spans = {0};
    int ret = side_open(&a, pool, older, older_number, err);

    ret = ret ?: side_open(&b, pool, newer, newer_number, err);
    ret = ret ?: pool_diff(pool, a.slot, b.slot, add_range, &spans, err);
    if (ret == 0) {
        add_undone(&spans, a.view);
        add_undone(&spans, b.view);
        if (spans.n)
            qsort(spans.list, spans.n, sizeof(*spans.list), by_begin);
        ret = compare(pool, &a, &b, &spans, range, arg);
        if (ret < 0)
            dt_fail(err, ret, "%s is damaged: a map cannot be read (cvd pool check)",
                    pool->store->name);
    }
    past_view_free(a.view);
    past_view_free(b.view);
    free(spans.list);
    return ret;
}

/* ---- Pins ---- */

uint64_t past_pinned(const struct pool *pool, uint32_t slot)
{
    uint64_t least = UINT64_MAX;

    list_for_each (it, (struct list *)(uintptr_t)&pool->disks) {
        const struct past_view *v = list_entry(it, struct disk, list)->past;

        if (v && v->disk == slot)
            least = MIN(least, v->number);
    }
    return least;
}

int past_not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err)
{
    return past_pinned(pool, slot) == UINT64_MAX
               ? 0
               : dt_fail(err, -EBUSY, "the history of '%s' is in use by a reader",
                         catalog_record(pool, slot)->name);
}
