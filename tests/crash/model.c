/* SPDX-License-Identifier: MIT */
/*
 * model.c - what each sector may hold, from what the guest asked for and was told.
 *
 * A sector has all versions ever sent for it. One that ended well rules out those that had
 * ended before it was asked for: for a reader, if it did so before the read was asked for, and the
 * same for the successor of a killed process, whose guest lives on; after a loss of power, if it was
 * flushed (or FUA) before that. Whatever overlapped in time may have gone either way.
 */
#include "tests/crash/crash.h"

#include <stdio.h>

static void add(struct crash_sector *s, struct crash_version v)
{
    if (s->count == s->room) {
        s->room = MAX(4u, s->room * 2);
        s->versions = realloc(s->versions, s->room * sizeof(v));
        CHECK(s->versions);
    }
    s->versions[s->count++] = v;
}

static void init(struct crash_model *m, uint32_t sectors)
{
    m->count = sectors;
    m->sectors = xcalloc(sectors, sizeof(*m->sectors));
}

void crash_model_init(struct crash_model *m, uint32_t sectors, uint64_t initial_id)
{
    init(m, sectors);
    for (uint32_t i = 0; i < sectors; i++)
        add(&m->sectors[i], (struct crash_version){.id = initial_id, .good = true});
}

void crash_model_free(struct crash_model *m)
{
    for (uint32_t i = 0; i < m->count; i++)
        free(m->sectors[i].versions);
    free(m->sectors);
    *m = (struct crash_model){0};
}

void crash_model_begin(struct crash_model *m, uint64_t sector, uint32_t n, uint64_t id,
                       uint64_t issued)
{
    for (uint64_t s = sector; s < sector + n; s++)
        add(&m->sectors[s],
            (struct crash_version){
                .id = id, .issued = issued, .ended = CRASH_NEVER, .stable = CRASH_NEVER});
}

void crash_model_ended(struct crash_model *m, uint64_t sector, uint32_t n, uint64_t issued,
                       bool good, bool fua)
{
    uint64_t now = crash_clock();

    for (uint64_t s = sector; s < sector + n; s++)
        for (unsigned i = 0; i < m->sectors[s].count; i++) {
            struct crash_version *v = &m->sectors[s].versions[i];

            if (v->issued != issued)
                continue;
            v->ended = now;
            v->good = good;
            if (good && fua)
                v->stable = now;
        }
}

void crash_model_flushed(struct crash_model *m, uint64_t issued)
{
    uint64_t now = crash_clock();

    for (uint32_t s = 0; s < m->count; s++)
        for (unsigned i = 0; i < m->sectors[s].count; i++) {
            struct crash_version *v = &m->sectors[s].versions[i];

            if (v->good && v->ended < issued && v->stable == CRASH_NEVER)
                v->stable = now;
        }
}

void crash_model_flush_failed(struct crash_model *m)
{
    for (uint32_t s = 0; s < m->count; s++)
        for (unsigned i = 0; i < m->sectors[s].count; i++)
            m->sectors[s].versions[i].doubted = true;
}

/* ---- Contents ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

void crash_fill(uint8_t *data, uint64_t sector, uint32_t n, uint64_t id)
{
    for (uint64_t s = sector; s < sector + n; s++, data += 512) {
        uint64_t words[64] = {id, s}, seed = mix(id * 0x10001 + s);

        if (id == 0)
            words[1] = 0;
        for (unsigned i = 2; id && i < ARRAY_SIZE(words); i++)
            words[i] = seed + i * 0x9e3779b97f4a7c15u;
        memcpy(data, words, sizeof(words));
    }
}

static bool read_id(const uint8_t *data, uint64_t sector, uint64_t *id)
{
    uint8_t expected[512];

    memcpy(id, data, sizeof(*id));
    crash_fill(expected, sector, 1, *id);
    return memcmp(data, expected, sizeof(expected)) == 0;
}

/* ---- Judgement ---- */

static bool counts(const struct crash_version *w, struct crash_moment at)
{
    switch (at.kind) {
    case CRASH_RUNNING:
        return w->good && w->ended < at.when;
    case CRASH_AFTER_KILL:
        return w->good && w->ended < at.when && (!w->doubted || w->stable <= at.when);
    default:
        return w->good && w->stable <= at.when;
    }
}

static bool possible(const struct crash_sector *s, const struct crash_version *v,
                     struct crash_moment at)
{
    if (at.kind != CRASH_RUNNING && v->issued >= at.when)
        return false;
    for (unsigned i = 0; i < s->count; i++)
        if (v->ended < s->versions[i].issued && counts(&s->versions[i], at))
            return false;
    return true;
}

static bool may_be(const struct crash_sector *s, uint64_t id, struct crash_moment at)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->versions[i].id == id && possible(s, &s->versions[i], at))
            return true;
    return false;
}

static void explain(const struct crash_sector *s, struct crash_moment moment, char *text,
                    size_t room)
{
    size_t at = strlen(text);

    for (unsigned i = 0; i < s->count && at < room; i++)
        if (possible(s, &s->versions[i], moment))
            at += (size_t)snprintf(text + at, room - at, " %llu",
                                   (unsigned long long)s->versions[i].id);
}

bool crash_model_check(const struct crash_model *m, uint64_t sector, uint32_t n,
                       const uint8_t *data, struct crash_moment moment, char why[256])
{
    for (uint32_t i = 0; i < n; i++) {
        const struct crash_sector *s = &m->sectors[sector + i];
        uint64_t id;
        bool whole = read_id(data + i * 512u, sector + i, &id);

        if (whole && may_be(s, id, moment))
            continue;
        if (whole)
            snprintf(why, 256,
                     "sector %llu holds version %llu; possible:", (unsigned long long)(sector + i),
                     (unsigned long long)id);
        else
            snprintf(why, 256, "sector %llu is no version of its own; possible:",
                     (unsigned long long)(sector + i));
        explain(s, moment, why, 256);
        return false;
    }
    return true;
}

void crash_model_seen(struct crash_model *m, uint64_t sector, uint32_t n, const uint8_t *data)
{
    uint64_t now = crash_clock();

    for (uint32_t i = 0; i < n; i++) {
        struct crash_version v = {.issued = now, .ended = now, .stable = CRASH_NEVER, .good = true};

        memcpy(&v.id, data + i * 512u, sizeof(v.id));
        add(&m->sectors[sector + i], v);
    }
}

/* A kill makes nothing durable: what could be lost before it still can. */
static struct crash_version after_kill(const struct crash_version *v, uint64_t when)
{
    struct crash_version after = *v;

    after.good = v->good && v->ended < when;
    after.ended = MIN(v->ended, when);
    after.stable = v->stable <= when ? v->stable : CRASH_NEVER;
    return after;
}

void crash_model_after(struct crash_model *m, const struct crash_model *before,
                       const struct crash_moment *crash)
{
    init(m, before->count);
    for (uint32_t s = 0; s < m->count; s++)
        for (unsigned i = 0; i < before->sectors[s].count; i++) {
            const struct crash_version *v = &before->sectors[s].versions[i];

            if (crash->kind == CRASH_AFTER_KILL && v->issued < crash->when)
                add(&m->sectors[s], after_kill(v, crash->when));
            else if (possible(&before->sectors[s], v, *crash))
                add(&m->sectors[s], (struct crash_version){.id = v->id, .stable = CRASH_NEVER});
        }
}
