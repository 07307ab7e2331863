/* SPDX-License-Identifier: MIT */
/* past-moment.c - questions about the history of a disk: what a moment means, how far it reaches,
 * what it tells. */
#include "parallax/change.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

/* ---- Moments ---- */

struct moment {
    bool is_time;
    uint64_t value; /* ns, or the number of a write */
};

static bool parse_ago(const char *text, uint64_t *ns)
{
    static const struct {
        const char *name;
        uint64_t seconds;
    } units[] = {{"s", 1}, {"min", 60}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    char *end;
    uint64_t n;

    if (text[0] != '-' || !isdigit((unsigned char)text[1]))
        return false;
    errno = 0;
    n = strtoull(text + 1, &end, 10);
    for (unsigned i = 0; i < ARRAY_SIZE(units) && !errno; i++)
        if (strcmp(end, units[i].name) == 0 && n < (uint64_t)1 << 32) {
            *ns = n * units[i].seconds * DT_S(1);
            return true;
        }
    return false;
}

/* UTC, with a fraction or without. */
static bool parse_time(const char *text, uint64_t *ns)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    uint64_t digit = DT_S(1) / 10;
    time_t seconds;

    if (!rest)
        return false;
    seconds = timegm(&tm);
    *ns = (uint64_t)seconds * DT_S(1);
    if (*rest == '.')
        for (rest++; isdigit((unsigned char)*rest); rest++, digit /= 10)
            *ns += (uint64_t)(*rest - '0') * digit;
    return seconds >= 0 && (*rest == '\0' || strcmp(rest, "Z") == 0);
}

static int parse(const struct pool *pool, const char *text, struct moment *m, struct dt_error *err)
{
    uint64_t now = change_clock(pool), ago;
    char *end;

    *m = (struct moment){.is_time = true};
    if (strncmp(text, "write ", 6) == 0 && isdigit((unsigned char)text[6])) {
        errno = 0;
        *m = (struct moment){.value = strtoull(text + 6, &end, 10)};
        if (*end == '\0' && !errno)
            return 0;
    } else if (parse_ago(text, &ago) && ago <= now) {
        m->value = now - ago;
        return 0;
    } else if (parse_time(text, &m->value)) {
        return m->value <= now ? 0 : dt_fail(err, -EINVAL, "%s is not yet past", text);
    }
    return dt_fail(err, -EINVAL,
                   "'%.60s' is no moment: {write 123}, {2026-11-21T12:00:00} (UTC) and {-5min} are",
                   text);
}

/* The number of the last write at or before a time. */
static int number_at(struct pool *pool, uint32_t slot, uint64_t time, uint64_t *number,
                     struct dt_error *err)
{
    const struct px_record *r = catalog_record(pool, slot);
    const struct px_past *page = NULL;
    struct px_record *log;
    struct pool_past past;
    uint64_t at;
    int ret = pool_past(pool, slot, &past, err);

    if (ret < 0)
        return ret;
    if (!past.keep)
        return dt_fail(err, -ENOENT, "'%s' has no history (cvd history)", r->name);
    if (time < past.begin)
        return dt_fail(err, -ENOENT,
                       "the history of '%s' does not reach back so far: it begins "
                       "%" PRIu64 " s later",
                       r->name, (past.begin - time) / DT_S(1) + 1);
    log = past_log(pool, r);
    *number = past_pages(log) ? past.first : past.last;
    if (!past_pages(log))
        return 0;
    ret = past_find(pool, log, time, true, &at) ?: past_page(pool, log, at, &page);
    for (unsigned i = 0; ret == 0 && i < page->used && page->entries[i].time <= time; i++)
        *number = page->entries[i].number;
    return ret < 0 ? dt_fail(err, ret, "%s: a history cannot be read", pool->store->name) : 0;
}

int pool_moment(struct pool *pool, const char *name, uint32_t *slot, uint64_t *number,
                struct dt_error *err)
{
    const char *brace = strstr(name, "@{");
    char disk[PX_NAME], text[PX_NAME];
    struct moment m;
    int ret;

    *number = PRESENT;
    if (!brace) {
        *slot = pool_find(pool, name, err);
        return *slot == NO_SLOT ? -ENOENT : 0;
    }
    if (brace - name >= PX_NAME || strlen(brace) > sizeof(text) || brace[strlen(brace) - 1] != '}')
        return dt_fail(err, -EINVAL, "'%.100s' names no moment: DISK@{...} does", name);
    snprintf(disk, sizeof(disk), "%.*s", (int)(brace - name), name);
    snprintf(text, sizeof(text), "%.*s", (int)strlen(brace) - 3, brace + 2);
    *slot = pool_find(pool, disk, err);
    if (*slot == NO_SLOT)
        return -ENOENT;
    ret = parse(pool, text, &m, err);
    if (ret == 0 && m.is_time)
        return number_at(pool, *slot, m.value, number, err);
    *number = m.value;
    return ret;
}

/* ---- How far it reaches, what it occupies ---- */

static uint64_t count_below(struct pool *pool, struct px_ptr ptr, unsigned level, uint64_t since,
                            uint64_t *maps, int *ret)
{
    uint64_t n = 0;
    struct node *node;

    if (ptr_hole(ptr) || ptr_birth(ptr) <= since || *ret < 0)
        return 0;
    if (level == 0)
        return 1;
    ++*maps;
    *ret = node_get(pool, ptr, TREE_DISK, level, &node);
    for (unsigned i = 0; i < PX_FANOUT && *ret == 0; i++)
        n += count_below(pool, node->ptrs[i], level - 1, since, maps, ret);
    return n;
}

/* What hidden snapshots have and no other one that people see. */
static int add_hidden(struct pool *pool, uint32_t slot, struct disk_usage *u)
{
    return catalog_record(pool, slot)->flags & PX_HIDDEN ? usage_hidden(pool, slot, u) : 0;
}

static int add_all_hidden(struct pool *pool, uint32_t disk, struct pool_past *past,
                          struct dt_error *err)
{
    struct disk_usage u = {0};
    int ret = 0;

    for (uint32_t at = catalog_record(pool, disk)->prev; at && ret == 0;
         at = catalog_record(pool, at - 1)->prev)
        ret = add_hidden(pool, at - 1, &u);
    for (struct aside a = {0}; ret == 0 && catalog_aside(pool, disk, &a);)
        ret = add_hidden(pool, a.slot, &u);
    past->held += u.held;
    past->maps += u.held_nodes;
    return ret < 0 ? dt_fail(err, ret, "%s is damaged: a tree cannot be read (cvd pool check)",
                             pool->store->name)
                   : 0;
}

int pool_past_usage(struct pool *pool, uint32_t disk, struct pool_past *past, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_record *log = past_log(pool, r);
    int ret = pool_past(pool, disk, past, err);

    for (uint64_t at = log ? log->first : 0; log && at < log->next && ret == 0; at++) {
        const struct px_past *page = NULL;

        ret = past_page(pool, log, at, &page);
        for (unsigned i = 0; ret == 0 && i < page->used; i++)
            past->held += count_below(pool, page->entries[i].old, past_level(&page->entries[i]),
                                      page->entries[i].since, &past->maps, &ret);
        past->entries += ret ? 0 : page->used;
        past->maps++;
        node_trim(pool);
    }
    if (ret < 0)
        return dt_fail(err, ret, "%s: a history cannot be read", pool->store->name);
    return add_all_hidden(pool, disk, past, err);
}

int pool_past(struct pool *pool, uint32_t disk, struct pool_past *past, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_record *log = past_log(pool, r);
    const struct px_past *page = NULL;
    int ret = 0;

    *past = (struct pool_past){
        .keep = r->past_keep, .first = r->writes, .last = r->writes, .begin = change_clock(pool)};
    if (!log)
        return 0;
    past->most = log->most << PX_BLOCK_SHIFT;
    past->counted = log->most ? (log->held + past_pages(log)) << PX_BLOCK_SHIFT : 0;
    if (log->begun) {
        past->first = log->floor;
        past->begin = log->begun;
    } else if (past_pages(log)) { /* written by a program that did not tell */
        ret = past_page(pool, log, log->first, &page);
        if (ret < 0)
            return dt_fail(err, ret, "%s: a history cannot be read", pool->store->name);
        past->first = MAX(log->floor, page->entries[0].number - 1);
        past->begin = page->entries[0].time;
    }
    return 0;
}

/* ---- What it tells ---- */

/** struct telling - of blocks [@from, @to); @w: what was found and not told yet. */
struct telling {
    struct pool *pool;
    uint32_t disk;
    uint64_t from, to, size;
    struct pool_write w;
    int (*tell)(void *arg, const struct pool_write *w);
    void *arg;
};

static int tell_one(struct telling *t)
{
    int ret = t->w.count ? t->tell(t->arg, &t->w) : 0;

    t->w.count = 0;
    return ret;
}

/* 1: it is about these blocks. What changed many at once may have left a single one as it was. */
static int is_about(const struct telling *t, const struct px_past_entry *e)
{
    uint64_t index = past_index(e), end = index + tree_span(past_level(e));

    if (index >= t->to || end <= t->from)
        return 0;
    if (past_level(e) == 0 || t->to - t->from != 1)
        return 1;
    return past_changed(t->pool, t->disk, e, t->from);
}

/* Entries of one write for consecutive blocks are one change. */
static int tell_page(struct telling *t, const struct px_past *page)
{
    struct px_past copy = *page; /* the node may be evicted on the way */
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < copy.used; i++) {
        const struct px_past_entry *e = &copy.entries[i];
        uint64_t index = past_index(e), end = index + tree_span(past_level(e));

        ret = is_about(t, e);
        if (ret <= 0)
            continue;
        ret = 0;
        end = MIN(end, MAX(index + 1, t->size));
        if (t->w.count && t->w.number == e->number && t->w.index + t->w.count == index) {
            t->w.count = end - t->w.index;
            continue;
        }
        ret = tell_one(t);
        t->w = (struct pool_write){e->number, e->time, index, end - index, copy.owner};
    }
    return ret ?: tell_one(t); /* the owner's name is in the page */
}

int pool_past_writes(struct pool *pool, uint32_t disk, uint64_t from, uint64_t to,
                     int (*tell)(void *arg, const struct pool_write *w), void *arg,
                     struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_record *log = past_log(pool, r);
    struct telling t = {.pool = pool,
                        .disk = disk,
                        .from = from,
                        .to = to,
                        .size = r->size >> PX_BLOCK_SHIFT,
                        .tell = tell,
                        .arg = arg};
    int ret = 0;

    for (uint64_t at = log ? log->first : 0; log && at < log->next && ret == 0; at++) {
        const struct px_past *page = NULL;

        ret = past_page(pool, log, at, &page);
        ret = ret ?: tell_page(&t, page);
        node_trim(pool);
    }
    return ret < 0 ? dt_fail(err, ret, "%s: a history cannot be read", pool->store->name) : 0;
}

int pool_birth(struct pool *pool, uint32_t slot, uint64_t index, uint64_t *epoch,
               struct dt_error *err)
{
    struct tree t = catalog_tree(pool, slot);
    struct px_ptr ptr;
    int ret = tree_lookup(pool, &t, index, 1, &ptr);

    *epoch = ret ? 0 : ptr_birth(ptr);
    return ret < 0 ? dt_fail(err, ret, "%s: a map cannot be read", pool->store->name) : 0;
}
