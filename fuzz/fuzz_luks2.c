/* SPDX-License-Identifier: MIT */
/*
 * fuzz_luks2.c - the text of a LUKS2 header while keys change: what is accepted is taken through the steps of a change,
 * written, and read again.
 */
#include "blk/crypt/luks2.h"

#include <stdint.h>

#define SIZE 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_read(const struct luks2 *luks)
{
    static uint8_t bytes[2 * SIZE];
    struct luks2 again;
    struct dt_error err;

    for (unsigned copy = 0; copy < 2; copy++)
        if (luks2_write(luks, copy, bytes + copy * SIZE) < 0)
            return; /* does not fit */
    CHECK(luks2_read(&again, bytes, SIZE, &err) == 0);
    CHECK(json_equal(again.json, luks->json));
    luks2_free(&again);
}

static void take_steps(struct luks2 *luks, const struct luks2_change *change)
{
    uint64_t step = change->block, total = change->at + change->hot + 3 * step;
    struct luks2_area areas[LUKS2_SLOTS];
    struct luks2_change now;
    const char *why;

    luks2_set_progress(luks, change, change->at + step, step, total);
    CHECK(luks2_change(luks->json, &now, &why) == 1);
    CHECK(now.at == change->at + step && now.hot == step);
    write_and_read(luks);
    luks2_set_progress(luks, change, now.at + step, 0, total);
    CHECK(luks2_change(luks->json, &now, &why) == 1 && now.hot == 0);
    CHECK(luks2_finish(luks, change, areas) >= 0);
    write_and_read(luks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        char magic[6];
        uint8_t version[2], size[8];
        uint8_t sequence[8];
        char label[48], checksum[32];
    } start = {"LUKS\xba\xbe", {0, 2}, {0, 0, 0, 0, 0, 0, SIZE >> 8, 0}, {0}, "", "sha256"};
    struct luks2 luks = {.size = SIZE, .json = json_loadb((const char *)data, size, 0, NULL)};
    struct luks2_change change;
    struct dt_error err;
    const char *why;

    memcpy(luks.binary[0], &start, sizeof(start));
    memcpy(luks.binary[1], &start, sizeof(start));
    if (json_is_object(luks.json) && luks2_change(luks.json, &change, &why) == 1) {
        luks2_slots(luks.json, change.old);
        take_steps(&luks, &change);
    }
    luks2_free(&luks);
    /* As a disk has it, too. */
    if (size >= 2 * SIZE && luks2_read(&luks, data, SIZE, &err) == 0)
        luks2_free(&luks);
    return 0;
}
