/* SPDX-License-Identifier: MIT */
/* info.c - what a disk is, as JSON and back. */
#include "blk/channel/internal.h"

#define FIELD(name)                                                                            \
    {                                                                                          \
#name, offsetof(struct dt_block_info, name), sizeof(((struct dt_block_info *)0)->name) \
    }

/* A bool is a number of one byte here. */
static const struct field {
    const char *name;
    size_t offset, size;
} fields[] = {
    FIELD(sectors),     FIELD(logical_block),    FIELD(physical_block),
    FIELD(optimal_io),  FIELD(max_sectors),      FIELD(max_segments),
    FIELD(max_discard), FIELD(discard_align),    FIELD(max_write_zeroes),
    FIELD(read_only),   FIELD(rotational),       FIELD(can_flush),
    FIELD(can_discard), FIELD(can_write_zeroes), FIELD(write_zeroes_unmaps),
};

json_t *info_to_json(const struct dt_block_info *info)
{
    json_t *json = json_object();

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        uint64_t n = 0;

        memcpy(&n, (const char *)info + fields[i].offset, fields[i].size);
        json_object_set_new(json, fields[i].name, json_integer((json_int_t)n));
    }
    return json;
}

/* What is not named stays as it is; core judges the whole. */
int info_from_json(struct dt_block_info *info, const json_t *json)
{
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        const json_t *value = json_object_get(json, fields[i].name);
        size_t bits = 8 * fields[i].size;
        json_int_t n;

        if (!value)
            continue;
        n = json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
        if (!json_is_boolean(value) && !json_is_integer(value))
            return -EINVAL;
        if (n < 0 || (bits < 64 && n >> (bits == 8 ? 1 : bits)))
            return -EINVAL;
        memcpy((char *)info + fields[i].offset, &n, fields[i].size);
    }
    return 0;
}
