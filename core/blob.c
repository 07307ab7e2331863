/* SPDX-License-Identifier: MIT */
/*
 * blob.c - the layers' state in memory that outlives the process: each has two slots, of which the
 * one with the higher number counts.
 *
 * A save writes the older slot: its number is withdrawn first and set last, so a process that dies
 * within leaves the other one. Whoever loads copies a slot out before it judges it; a checksum
 * over the number, the version, the layer's name and the bytes tells a slot that is torn, or
 * that a captured process made up carelessly, from one that a save has finished. (One that was made up
 * with care is for the layer's load() to judge, as any input.)
 *
 * What a layer changes all the time it does not save, but writes in place at the end of its room (blob_live()), without any
 * of this: stores of a killed process are there in their order, and that has to be enough.
 */
#include "core/internal.h"

#include "base/kill.h"
#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/** struct blob_head - of a slot; its bytes follow. */
struct blob_head {
    uint64_t number; /* 0 = nothing */
    uint32_t version, length;
    uint64_t hash;
    char name[BLOB_NAME]; /* the layer's */
};
struct blob_slot {
    struct blob_head head;
    uint8_t bytes[BLOB_BYTES_MAX];
};

/** struct blob_area - of a device; sparse. A layer's place is chosen by its name (state.c). */
struct blob_area {
    struct blob_slot slots[BLOB_SLOTS][2];
};

size_t blob_area_size(void)
{
    return sizeof(struct blob_area);
}

static uint64_t blob_hash(const struct blob_head *head, const void *bytes)
{
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, head->name, sizeof(head->name));
    XXH3_64bits_update(&state, &head->number, sizeof(head->number));
    XXH3_64bits_update(&state, &head->version, sizeof(head->version));
    XXH3_64bits_update(&state, &head->length, sizeof(head->length));
    XXH3_64bits_update(&state, bytes, head->length);
    return XXH3_64bits_digest(&state);
}

static struct blob_slot *slots_of(const struct blob_area *area, unsigned index)
{
    CHECK(index < BLOB_SLOTS);
    return ((struct blob_area *)(uintptr_t)area)->slots[index];
}

/* A private copy of a slot that is whole, or -ENOENT, or -EBADMSG. */
static int read_slot(const struct blob_slot *slot, struct blob_head *head, uint8_t **bytes)
{
    _cleanup_free_ uint8_t *copy = NULL;

    memcpy(head, &slot->head, sizeof(*head));
    __asm__ volatile("" ::: "memory"); /* judged is the copy, and nothing is read twice */
    if (head->number == 0)
        return -ENOENT;
    if (head->length > BLOB_BYTES_MAX || !memchr(head->name, '\0', sizeof(head->name)))
        return -EBADMSG;
    copy = xcalloc(1, head->length + 1u);
    memcpy(copy, slot->bytes, head->length);
    if (blob_hash(head, copy) != head->hash)
        return -EBADMSG;
    *bytes = TAKE_PTR(copy);
    return 0;
}

int blob_read(const struct blob_area *area, unsigned index, char name[BLOB_NAME], uint32_t *version,
              void **bytes, size_t *length)
{
    const struct blob_slot *slots = slots_of(area, index);
    struct blob_head head[2];
    uint8_t *copy[2] = {NULL, NULL};
    int ret[2], newer;

    for (int i = 0; i < 2; i++)
        ret[i] = read_slot(&slots[i], &head[i], &copy[i]);
    newer = ret[0] < 0 || (ret[1] == 0 && head[1].number > head[0].number);
    free(copy[!newer]);
    if (ret[newer] < 0)
        return ret[0] == -EBADMSG || ret[1] == -EBADMSG ? -EBADMSG : -ENOENT;
    memcpy(name, head[newer].name, BLOB_NAME);
    *version = head[newer].version;
    *bytes = copy[newer];
    *length = head[newer].length;
    return 0;
}

int64_t blob_write(struct blob_area *area, unsigned index, const char *name, uint32_t version,
                   int64_t (*fill)(void *arg, void *bytes, size_t room), void *arg)
{
    struct blob_slot *slots = slots_of(area, index);
    uint64_t last = MAX(READ_ONCE(slots[0].head.number), READ_ONCE(slots[1].head.number));
    struct blob_slot *slot = &slots[slots[0].head.number == last];
    struct blob_head head = {.number = last + 1, .version = version};
    int64_t n;

    snprintf(head.name, sizeof(head.name), "%s", name);
    WRITE_ONCE(slot->head.number, 0);
    __asm__ volatile("" ::: "memory");
    n = fill(arg, slot->bytes, BLOB_BYTES_MAX);
    if (n < 0)
        return n;
    CHECK(n <= BLOB_BYTES_MAX);
    KILL_POINT("state-filled");
    head.length = (uint32_t)n;
    head.hash = blob_hash(&head, slot->bytes);
    memcpy(slot->head.name, head.name, sizeof(head.name));
    slot->head.version = head.version;
    slot->head.length = head.length;
    slot->head.hash = head.hash;
    __asm__ volatile("" ::: "memory");
    WRITE_ONCE(slot->head.number, head.number);
    KILL_POINT("state-saved");
    return n;
}

void *blob_live(struct blob_area *area, unsigned index, size_t bytes)
{
    CHECK(bytes < BLOB_BYTES_MAX);
    return slots_of(area, index)[0].bytes + ALIGN_DOWN(BLOB_BYTES_MAX - bytes, (size_t)CACHE_LINE);
}

bool blob_empty(const struct blob_area *area, unsigned index)
{
    const struct blob_slot *slots = slots_of(area, index);

    return READ_ONCE(slots[0].head.number) == 0 && READ_ONCE(slots[1].head.number) == 0;
}

/* The name in a slot, from memory that others write; empty for an empty slot. */
static void name_of(const struct blob_slot *slot, char name[BLOB_NAME])
{
    name[0] = '\0';
    if (READ_ONCE(slot->head.number) == 0)
        return;
    memcpy(name, slot->head.name, BLOB_NAME);
    name[BLOB_NAME - 1] = '\0';
}

int blob_find(const struct blob_area *area, const char *name)
{
    char found[BLOB_NAME];

    for (unsigned i = 0; i < BLOB_FLOOR; i++)
        for (unsigned k = 0; k < 2; k++) {
            name_of(&slots_of(area, i)[k], found);
            if (strcmp(found, name) == 0)
                return (int)i;
        }
    return -1;
}

void blob_forget(struct blob_area *area, const char *const *names, unsigned n)
{
    char found[BLOB_NAME];

    for (unsigned i = 0; i < BLOB_FLOOR; i++) {
        bool keep = false;

        for (unsigned k = 0; k < 2; k++) {
            name_of(&slots_of(area, i)[k], found);
            for (unsigned j = 0; j < n; j++)
                keep |= strcmp(found, names[j]) == 0;
        }
        if (!keep && !blob_empty(area, i))
            blob_clear(area, i);
    }
}

void blob_clear(struct blob_area *area, unsigned index)
{
    struct blob_slot *slots = slots_of(area, index);

    WRITE_ONCE(slots[0].head.number, 0);
    WRITE_ONCE(slots[1].head.number, 0);
}
