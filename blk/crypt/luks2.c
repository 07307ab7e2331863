/* SPDX-License-Identifier: MIT */
/* luks2.c - see luks2.h: what the text says. Numbers of 64 bits are strings there. */
#include "blk/crypt/luks2.h"

#include <stdio.h>

#define LIMIT (1ull << 60) /* no offset or size is beyond: no sum overflows */

/* ---- Reading it ------------------------------------------------------------------------------ */

static bool number(const json_t *object, const char *key, uint64_t *value)
{
    const char *text = json_string_value(json_object_get(object, key));
    unsigned long long n;
    char *end;

    if (!text || *text < '0' || *text > '9')
        return false;
    errno = 0;
    n = strtoull(text, &end, 10);
    *value = n;
    return *end == '\0' && errno == 0 && n < LIMIT;
}

static bool is_text(const json_t *object, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value && strcmp(value, text) == 0;
}

static bool lists(const json_t *array, const char *word)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *value = json_string_value(json_array_get(array, i));

        if (value && strcmp(value, word) == 0)
            return true;
    }
    return false;
}

/* Which digest names @id in its list @key. */
static const char *digest_of(json_t *json, const char *key, const char *id)
{
    json_t *digest;
    const char *name;

    json_object_foreach(json_object_get(json, "digests"), name,
                        digest) if (lists(json_object_get(digest, key), id)) return name;
    return NULL;
}

static const json_t *backup(json_t *json, const char *flag, const char **id)
{
    json_t *segment;
    const char *name;

    json_object_foreach(json_object_get(json, "segments"), name,
                        segment) if (lists(json_object_get(segment, "flags"), flag))
    {
        *id = name;
        return segment;
    }
    return NULL;
}

static const json_t *change_slot(json_t *json, const char **id)
{
    json_t *slot;
    const char *name;

    json_object_foreach(json_object_get(json, "keyslots"), name,
                        slot) if (is_text(slot, "type", "reencrypt"))
    {
        *id = name;
        return slot;
    }
    return NULL;
}

/* AES-XTS over the whole disk from @data on. */
static bool plain_segment(const json_t *segment, uint64_t *data, uint32_t *unit)
{
    json_int_t size = json_integer_value(json_object_get(segment, "sector_size"));
    uint64_t iv;

    *unit = (uint32_t)size;
    return is_text(segment, "type", "crypt") && is_text(segment, "encryption", "aes-xts-plain64") &&
           is_text(segment, "size", "dynamic") && number(segment, "offset", data) &&
           number(segment, "iv_tweak", &iv) && iv == 0 && !json_object_get(segment, "integrity") &&
           (size == 512 || size == 1024 || size == 2048 || size == 4096) && *data % 4096 == 0;
}

static const char *judge_backups(json_t *json, struct luks2_change *c)
{
    const char *old_id, *fresh_id, *old, *fresh;
    const json_t *before = backup(json, "backup-previous", &old_id);
    const json_t *after = backup(json, "backup-final", &fresh_id);
    uint64_t data;
    uint32_t unit;

    if (!before || !after || !plain_segment(before, &c->data, &c->unit) ||
        !plain_segment(after, &data, &unit) || data != c->data || unit != c->unit)
        return "more than the key changes";
    old = digest_of(json, "segments", old_id);
    fresh = digest_of(json, "segments", fresh_id);
    if (!old || !fresh || strcmp(old, fresh) == 0 || strlen(old) >= sizeof(c->old) ||
        strlen(fresh) >= sizeof(c->fresh))
        return "its digests make no sense";
    snprintf(c->old, sizeof(c->old), "%s", old);
    snprintf(c->fresh, sizeof(c->fresh), "%s", fresh);
    return NULL;
}

static const char *judge_slot(json_t *json, struct luks2_change *c)
{
    const char *id;
    const json_t *slot = change_slot(json, &id), *area = json_object_get(slot, "area");
    json_int_t block = json_integer_value(json_object_get(area, "sector_size"));

    if (!slot || !is_text(slot, "mode", "reencrypt") || !is_text(slot, "direction", "forward"))
        return "it is no forward re-encryption";
    c->journal = is_text(area, "type", "journal");
    if (c->journal)
        block = c->unit;
    else if (!is_text(area, "type", "checksum") || !is_text(area, "hash", "sha256"))
        return "its resilience is neither a journal nor checksums with SHA-256";
    if (block < c->unit || block > 4096 || block % c->unit || !number(area, "offset", &c->area) ||
        !number(area, "size", &c->area_size) || c->area % 4096 || c->area_size < 65536 ||
        c->area + c->area_size > c->data)
        return "its area makes no sense";
    c->block = (uint32_t)block;
    return NULL;
}

/* New, hot, old, in a row from the start of the data to its end; each may be missing. */
static const char *judge_row(json_t *json, struct luks2_change *c)
{
    const json_t *digests = json_object_get(json, "digests");
    const json_t *old = json_object_get(json_object_get(digests, c->old), "segments");
    const json_t *fresh = json_object_get(json_object_get(digests, c->fresh), "segments");
    const json_t *segments = json_object_get(json, "segments"), *s;
    uint64_t pos = 0, offset, size, iv;
    unsigned stage = 0; /* 0: new, 1: hot, 2: old */
    char id[12];

    for (unsigned i = 0;; i++) {
        bool hot, open;
        unsigned kind;

        snprintf(id, sizeof(id), "%u", i);
        s = json_object_get(segments, id);
        if (!s || lists(json_object_get(s, "flags"), "backup-previous") ||
            lists(json_object_get(s, "flags"), "backup-final"))
            break;
        hot = lists(json_object_get(s, "flags"), "in-reencryption");
        kind = hot ? 1 : lists(fresh, id) ? 0 : 2;
        open = is_text(s, "size", "dynamic");
        if (kind < stage || (kind == stage && i > 0) || (kind == 2 && !lists(old, id)) ||
            !number(s, "offset", &offset) || offset != c->data + pos ||
            !number(s, "iv_tweak", &iv) || iv != pos >> 9 || (open && kind != 2) ||
            (!open && (kind == 2 || !number(s, "size", &size) || size == 0 || size % c->block)))
            return "its segments make no sense";
        stage = kind;
        if (open)
            return NULL; /* the last */
        *(hot ? &c->hot : &c->at) = size;
        pos += size;
    }
    return c->hot ? NULL : "its segments make no sense"; /* hot up to the end */
}

int luks2_change(json_t *json, struct luks2_change *change, const char **why)
{
    const json_t *wanted = json_object_get(
        json_object_get(json_object_get(json, "config"), "requirements"), "mandatory");
    const char *id, *bad;

    *change = (struct luks2_change){0};
    if (json_array_size(wanted) == 0 && !change_slot(json, &id))
        return 0;
    if (json_array_size(wanted) != 1 || !lists(wanted, "online-reencrypt-v2")) {
        *why = "it wants what this version does not know";
        return -ENOTSUP;
    }
    bad = judge_backups(json, change);
    bad = bad ?: judge_slot(json, change);
    bad = bad ?: judge_row(json, change);
    if (!bad && (change->journal ? change->hot : change->hot / change->block * LUKS2_HASH) >
                    change->area_size)
        bad = "its area is too small";
    *why = bad;
    return bad ? -ENOTSUP : 1;
}

uint32_t luks2_slots(json_t *json, const char *digest)
{
    const json_t *slots =
        json_object_get(json_object_get(json_object_get(json, "digests"), digest), "keyslots");
    uint32_t bits = 0;

    for (size_t i = 0; i < json_array_size(slots); i++) {
        const char *slot = json_string_value(json_array_get(slots, i));
        unsigned long n = slot ? strtoul(slot, NULL, 10) : LUKS2_SLOTS;

        if (n < LUKS2_SLOTS)
            bits |= 1u << n;
    }
    return bits;
}

/* ---- Changing it ----------------------------------------------------------------------------- */

static json_t *text_of(uint64_t n)
{
    return json_sprintf("%llu", (unsigned long long)n);
}

/* A part of the disk as the backup @model describes the whole; @size 0 = up to the end. */
static json_t *part(const json_t *model, uint64_t data, uint64_t from, uint64_t size, bool hot)
{
    json_t *s = json_deep_copy(model);

    json_object_del(s, "flags");
    json_object_set_new(s, "offset", text_of(data + from));
    json_object_set_new(s, "iv_tweak", text_of(from >> 9));
    json_object_set_new(s, "size", size ? text_of(size) : json_string("dynamic"));
    if (hot)
        json_object_set_new(s, "flags", json_pack("[s]", "in-reencryption"));
    return s;
}

struct row {
    json_t *segments, *old, *fresh;
    unsigned n;
};

static void add(struct row *row, json_t *segment, bool old, bool fresh)
{
    char id[12];

    snprintf(id, sizeof(id), "%u", row->n++);
    json_object_set_new(row->segments, id, segment);
    if (old)
        json_array_append_new(row->old, json_string(id));
    if (fresh)
        json_array_append_new(row->fresh, json_string(id));
}

static void set_row(struct luks2 *l, const struct luks2_change *c, struct row *row)
{
    json_t *digests = json_object_get(l->json, "digests");

    json_object_set_new(l->json, "segments", row->segments);
    json_object_set_new(json_object_get(digests, c->old), "segments", row->old);
    json_object_set_new(json_object_get(digests, c->fresh), "segments", row->fresh);
    l->sequence++;
}

int luks2_set_progress(struct luks2 *l, const struct luks2_change *c, uint64_t at, uint64_t hot,
                       uint64_t total)
{
    struct row row = {json_object(), json_array(), json_array(), 0};
    const char *id;
    const json_t *before = backup(l->json, "backup-previous", &id);
    const json_t *after = backup(l->json, "backup-final", &id);

    CHECK(before && after && (hot || at < total));
    if (at)
        add(&row, part(after, c->data, 0, at, false), false, true);
    if (hot)
        add(&row, part(after, c->data, at, hot, true), true, true);
    if (at + hot < total)
        add(&row, part(before, c->data, at + hot, 0, false), true, false);
    add(&row, json_deep_copy(before), true, false);
    add(&row, json_deep_copy(after), false, true);
    set_row(l, c, &row);
    return 0;
}

/* A key slot and all that names it. */
static void drop_slot(json_t *json, const char *id)
{
    json_t *token;
    const char *name;

    json_object_foreach(json_object_get(json, "tokens"), name, token)
    {
        json_t *slots = json_object_get(token, "keyslots");

        for (size_t i = json_array_size(slots); i > 0; i--) {
            const char *slot = json_string_value(json_array_get(slots, i - 1));

            if (slot && strcmp(slot, id) == 0)
                json_array_remove(slots, i - 1);
        }
    }
    json_object_del(json_object_get(json, "keyslots"), id);
}

int luks2_finish(struct luks2 *l, const struct luks2_change *c, struct luks2_area *areas)
{
    struct row row = {json_object(), json_array(), json_array(), 0};
    uint32_t slots = luks2_slots(l->json, c->old);
    json_t *digests = json_object_get(l->json, "digests");
    const char *id, *digest;
    const json_t *after = backup(l->json, "backup-final", &id);
    int n = 0;

    CHECK(after);
    add(&row, part(after, c->data, 0, 0, false), false, true);
    set_row(l, c, &row);
    if (change_slot(l->json, &id)) {
        digest = digest_of(l->json, "keyslots", id);
        if (digest)
            json_object_del(digests, digest);
        drop_slot(l->json, id);
    }
    for (unsigned slot = 0; slot < LUKS2_SLOTS; slot++) {
        char name[12];
        const json_t *area;

        if (!(slots & 1u << slot))
            continue;
        snprintf(name, sizeof(name), "%u", slot);
        area = json_object_get(json_object_get(json_object_get(l->json, "keyslots"), name), "area");
        if (number(area, "offset", &areas[n].offset) && number(area, "size", &areas[n].size) &&
            areas[n].offset % 4096 == 0 && areas[n].size % 4096 == 0 &&
            areas[n].offset >= 2 * l->size && areas[n].offset + areas[n].size <= c->data)
            n++;
        drop_slot(l->json, name);
    }
    json_object_del(digests, c->old);
    json_object_del(json_object_get(l->json, "config"), "requirements");
    return n;
}
