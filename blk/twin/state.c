/* SPDX-License-Identifier: MIT */
/*
 * state.c - the map, from one worker to the next.
 *
 * Theory of operation: a worker that ends in good order saves the map. One that is killed cannot; so while it runs the map
 * also stands in memory that outlives it, changed in place, together with the range of each write under way. What was
 * under way at a kill may be in one chain and not in the other, and whether it is sent again is not for us to say: it is
 * dirty for the successor. All else is in both chains or in the map. Nothing there can be torn: what a thread of a
 * killed process had stored is there, in the order in which it was stored.
 *
 * That memory has no checksum. What was saved before names it by a number; only a successor of the process that wrote both
 * believes it, and after the fence, when nothing of that process can land any more.
 */
#include "blk/twin/twin.h"

#include <endian.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/**
 * struct twin_record - what is saved, little-endian.
 * @whole: the map follows, and nothing was on its way.
 * @id:    else: of the live memory; 0 = there is none, and nothing is known.
 */
struct twin_record {
    uint64_t sectors, to, copied, id;
    uint32_t shift;
    uint32_t whole;
};

static size_t words(const struct twin *t)
{
    return (t->regions + 63) / 64;
}

/* A map of what was to be compared says nothing to who copies. */
static uint64_t kind_of(const struct twin *t)
{
    return XXH3_64bits(t->to, strlen(t->to)) + t->judges;
}

int64_t twin_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct twin *t = dt_layer_data(layer);
    bool whole = !t->c && !t->absent[0];
    size_t map = whole ? words(t) * sizeof(uint64_t) : 0;
    struct twin_record r = {.sectors = htole64(t->sectors),
                            .to = htole64(kind_of(t)),
                            .copied = htole64(t->copied),
                            .id = htole64(whole ? 0 : t->id),
                            .shift = htole32(t->shift),
                            .whole = htole32(whole)};

    if (size < sizeof(r) + map)
        return -ENOSPC;
    memcpy(buf, &r, sizeof(r));
    for (size_t i = 0; i < map / sizeof(uint64_t); i++) {
        uint64_t word = htole64(t->map[i]);

        memcpy((uint8_t *)buf + sizeof(r) + i * sizeof(word), &word, sizeof(word));
    }
    return (int64_t)(sizeof(r) + map);
}

static void load_word(struct twin *t, size_t i, uint64_t word)
{
    if (i == words(t) - 1 && t->regions % 64)
        word &= (1ull << (t->regions % 64)) - 1;
    t->map[i] = word;
    t->dirty += (unsigned)__builtin_popcountll(word);
}

static void load_map(struct twin *t, const uint8_t *bytes)
{
    t->dirty = 0;
    for (size_t i = 0; i < words(t); i++) {
        uint64_t word;

        memcpy(&word, bytes + i * sizeof(word), sizeof(word));
        load_word(t, i, le64toh(word));
    }
}

int twin_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
              struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);
    struct twin_record r;

    if (version != 2 || size < sizeof(r)) {
        twin_mark_all(t); /* there was a process, and nobody knows what it did */
        return dt_fail(err, -EBADMSG, "it is of another version");
    }
    memcpy(&r, buf, sizeof(r));
    if (size != sizeof(r) + (r.whole ? words(t) * sizeof(uint64_t) : 0) ||
        le64toh(r.sectors) != t->sectors || le32toh(r.shift) != t->shift ||
        le64toh(r.to) != kind_of(t))
        return dt_fail(err, -EBADMSG, "it is of another disk");
    twin_mark_all(t);
    if (t->absent[0])
        return 0;
    t->copied = t->before = le64toh(r.copied);
    if (r.whole)
        load_map(t, (const uint8_t *)buf + sizeof(r));
    else
        t->resumes = le64toh(r.id);
    return 0;
}

/* ---- Live ------------------------------------------------------------------------------------ */

/* Whoever left it may have been captured: a range is judged before it is believed. */
static void mark_write(struct twin *t, uint64_t sector, uint64_t sectors)
{
    if (!sectors)
        return;
    if (sectors > UINT32_MAX || sector >= t->sectors || sectors > t->sectors - sector)
        twin_mark_all(t);
    else
        twin_mark(t, sector, (uint32_t)sectors);
}

/* Return: was it what the process before left? */
static bool resume(struct twin *t, const struct twin_live *live)
{
    if (!t->resumes || READ_ONCE(live->id) != t->resumes)
        return false;
    t->dirty = 0;
    for (size_t i = 0; i < words(t); i++)
        load_word(t, i, READ_ONCE(live->map[i]));
    for (unsigned i = 0; i < TWIN_JOBS; i++)
        mark_write(t, READ_ONCE(live->writes[i].sector), READ_ONCE(live->writes[i].sectors));
    t->copied = t->before = READ_ONCE(live->copied);
    return true;
}

static uint64_t new_id(void)
{
    uint64_t id = 0;

    while (id == 0)
        if (getrandom(&id, sizeof(id), 0) != sizeof(id))
            id = dt_clock_ns();
    return id;
}

/* A kill within leaves either what was there, with more of it dirty, or no id that anybody saved. */
void twin_live_begin(struct twin *t)
{
    struct twin_live *live =
        layer_live(t->layer, sizeof(struct twin_live) + words(t) * sizeof(uint64_t));

    t->id = 0;
    t->live = NULL;
    if (live && !t->absent[0]) {
        bool same = resume(t, live);

        t->id = same ? t->resumes : new_id();
        if (!same)
            WRITE_ONCE(live->id, 0);
        for (size_t i = 0; i < words(t); i++)
            WRITE_ONCE(live->map[i], t->map[i]);
        for (unsigned i = 0; i < TWIN_JOBS; i++)
            WRITE_ONCE(live->writes[i].sectors, 0);
        WRITE_ONCE(live->copied, t->copied);
        WRITE_ONCE(live->id, t->id);
        t->live = live;
        if (same)
            dt_layer_event(t->layer, "resumed", "the copying goes on: %llu of %llu MiB are left",
                           (unsigned long long)(twin_bytes_left(t) >> 20),
                           (unsigned long long)(t->sectors >> (20 - DT_SECTOR_SHIFT)));
    } else if (live) {
        WRITE_ONCE(live->id, 0);
    }
    t->resumes = 0;
    layer_state_save(t->layer);
}

void twin_live_end(struct twin *t)
{
    if (t->live)
        WRITE_ONCE(t->live->id, 0);
    t->live = NULL;
}

void twin_live_write(struct twin *t, const struct twin_job *job)
{
    size_t i = (size_t)(job - t->jobs);

    if (!t->live)
        return;
    WRITE_ONCE(t->live->writes[i].sector, job->sector);
    WRITE_ONCE(t->live->writes[i].sectors, job->sectors);
}

void twin_live_written(struct twin *t, const struct twin_job *job)
{
    if (t->live)
        WRITE_ONCE(t->live->writes[job - t->jobs].sectors, 0);
}
